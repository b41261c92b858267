"""Everything that is set before a buffer is enabled."""

from __future__ import annotations

from typing import NamedTuple

from edge_runtime.errors import ConfigError
from edge_runtime.sources.iio.config import IioConfig
from edge_runtime.sources.iio.find import elements_of, find_trigger, number_of
from edge_runtime.sources.iio.kernel import Attributes
from edge_runtime.sources.iio.layout import Element, Layout, ScanType, parse_type
from edge_runtime.sources.iio.rate import check_not_slower, rate_attributes, set_rate
from edge_runtime.spec import StreamSpec

__all__ = ["TIMESTAMP", "Setup", "check_has_buffer", "configure"]

TIMESTAMP = "timestamp"
_TIMESTAMP_CLOCK = "current_timestamp_clock"
_CURRENT_TRIGGER = "trigger/current_trigger"


class Setup(NamedTuple):
    """How a buffer was enabled.

    Attributes:
        layout: Of its scans.
        enable: Attribute that says whether it runs.
        length: Scans it holds.
        is_stamped: Whether scans carry monotonic time.
    """

    layout: Layout
    enable: str
    length: int
    is_stamped: bool


def configure(attributes: Attributes, config: IioConfig, need: StreamSpec) -> Setup:
    """Set up a device's buffer and enable it; `Attributes.restore` undoes it all.

    Raises:
        ConfigError: Elements, rate, trigger or an attribute do not fit the device.
        SourceError: It is busy, gone, or nobody may set it up.
    """
    folder, scans = _folders(attributes)
    _stop(attributes, folder)
    # Before scales are read: they depend on the range that is set here.
    for name, value in config.settings.items():
        attributes.set(name, value)
    layout, is_stamped = _choose(attributes, config, need, scans)
    _pace(attributes, config, need, layout.names, folder)
    length = _size(attributes, config, need, folder)
    enable = f"{folder}/enable"
    _enable(attributes, config, enable)
    return Setup(layout, enable, length, is_stamped)


def check_has_buffer(attributes: Attributes) -> None:
    """Check that a device has a buffer at all.

    Raises:
        ConfigError: It can only be polled.
    """
    folder, _ = _folders(attributes)
    if not attributes.has(f"{folder}/enable"):
        raise ConfigError(
            "the device has no buffer",
            where=attributes.device,
            expected="a driver that collects samples",
            remedy="Set capture: poll, to ask for every reading.",
        )


def _folders(attributes: Attributes) -> tuple[str, str]:
    """Return where the buffer and its elements are set up.

    Since Linux 5.11 a device may have several buffers, and all of one is in its folder.
    """
    if attributes.has("buffer0/enable"):
        return "buffer0", "buffer0"
    return "buffer", "scan_elements"


def _stop(attributes: Attributes, folder: str) -> None:
    """Disable what a program that was killed has left enabled; it would be busy for ever."""
    if attributes.get(f"{folder}/enable") != "0":
        attributes.force(f"{folder}/enable", "0")


def _elements(attributes: Attributes, scans: str) -> list[str]:
    """Return the elements that can be captured, in the order of their index."""
    ending = "_en"
    names = [name[3 : -len(ending)] for name in attributes.names(scans) if name.endswith(ending)]
    return sorted(names, key=lambda name: attributes.numbers(f"{scans}/in_{name}_index"))


def _choose(
    attributes: Attributes, config: IioConfig, need: StreamSpec, scans: str
) -> tuple[Layout, bool]:
    """Enable what the model needs, and stamps; return its layout and whether it is stamped."""
    known = _elements(attributes, scans)
    measured = [name for name in known if name != TIMESTAMP]
    chosen = elements_of(need.names, config.channels, measured, attributes.device)
    is_stamped = config.timestamps and _use_monotonic_stamps(attributes, known)
    enabled = {name for name, _ in chosen} | ({TIMESTAMP} if is_stamped else set())
    types = _enable_elements(attributes, scans, known, enabled)
    kinds = dict(types)
    elements = [_element(attributes, name, which, kinds[name]) for name, which in chosen]
    return Layout(elements, types), is_stamped


def _use_monotonic_stamps(attributes: Attributes, known: list[str]) -> bool:
    """Ask for stamps of a clock that nobody sets, where the device can stamp at all."""
    if TIMESTAMP not in known or not attributes.has(_TIMESTAMP_CLOCK):
        return False
    attributes.set(_TIMESTAMP_CLOCK, "monotonic")
    return True


def _enable_elements(
    attributes: Attributes, scans: str, known: list[str], enabled: set[str]
) -> list[tuple[str, ScanType]]:
    """Enable exactly these elements; what others have left enabled would shift the scan."""
    for name in known:
        attributes.set(f"{scans}/in_{name}_en", str(int(name in enabled)))
    return [
        (name, parse_type(attributes.get(path), str(attributes.path(path))))
        for name in known
        if name in enabled
        for path in [f"{scans}/in_{name}_type"]
    ]


def _element(attributes: Attributes, name: str, which: int, kind: ScanType) -> Element:
    if which >= kind.repeat:
        raise ConfigError(
            f"channels asks for number {which} of {name!r}",
            where=attributes.device,
            expected=f"0 to {kind.repeat - 1}",
            remedy="Numbers of a repeated element count from 0.",
        )
    scale, offset = (
        number_of(attributes, name, "scale", 1),
        number_of(attributes, name, "offset", 0),
    )
    return Element(name, which, kind, scale, offset)


def _pace(
    attributes: Attributes, config: IioConfig, need: StreamSpec, elements: list[str], folder: str
) -> None:
    """Let the part sample at the model's rate, or a trigger ask it so often."""
    own = rate_attributes(attributes, elements, folder)
    if config.trigger is None:
        for name in own:
            set_rate(attributes, name, need.rate_hz)
        return
    trigger = f"/{_assign(attributes, config.trigger)}/sampling_frequency"
    # A trigger that people or programs fire has no rate of its own.
    if attributes.has(trigger):
        set_rate(attributes, trigger, need.rate_hz)
    for name in own:
        check_not_slower(attributes, name, need.rate_hz)


def _assign(attributes: Attributes, wanted: str) -> str:
    """Let a trigger pace the buffer, and return its folder."""
    folder = find_trigger(attributes, wanted)
    name = attributes.get(f"/{folder}/name")
    attributes.set(_CURRENT_TRIGGER, name)
    # The kernel takes a name that it does not like for none at all.
    if attributes.get(_CURRENT_TRIGGER) != name:
        raise ConfigError(
            f"trigger {name!r} is not accepted",
            where=str(attributes.path(_CURRENT_TRIGGER)),
            expected="a trigger that suits this device",
            remedy="Use an hrtimer trigger, or leave trigger out where the part paces itself.",
        )
    return folder


def _size(attributes: Attributes, config: IioConfig, need: StreamSpec, folder: str) -> int:
    """Set how much the buffer holds and when it wakes us; some drivers fix one or both."""
    watermark = max(1, round(config.block_s * need.rate_hz))
    length = max(4 * watermark, round(config.buffer_s * need.rate_hz))
    for name, value in (("length", length), ("watermark", watermark)):
        if attributes.is_writable(f"{folder}/{name}"):
            attributes.set(f"{folder}/{name}", str(value))
    return length


def _enable(attributes: Attributes, config: IioConfig, enable: str) -> None:
    try:
        attributes.set(enable, "1")
    except ConfigError as error:
        if config.trigger or not attributes.has(_CURRENT_TRIGGER):
            raise
        raise ConfigError(
            f"the buffer cannot be enabled ({error.what})",
            where=attributes.device,
            expected="a trigger that paces it" if not attributes.get(_CURRENT_TRIGGER) else "",
            remedy="Name a trigger: trigger in the options of this source.",
        ) from error
