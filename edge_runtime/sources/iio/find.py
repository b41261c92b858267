"""Finds devices, triggers and elements by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.registry import closest
from edge_runtime.sources.iio.kernel import Attributes, Kernel

__all__ = ["elements_of", "find_device", "find_trigger", "number_of", "relatives", "shared"]

_REPEATED = re.compile(r"(.+):(\d+)")


def find_device(kernel: Kernel, root: Path, wanted: str) -> str:
    """Return the folder of the device with this name, label or folder.

    Raises:
        ConfigError: Several devices have this name.
        SourceError: No device has.
    """
    names = {folder: _names(kernel, root / folder) for folder in _devices(root)}
    found = [folder for folder, called in names.items() if wanted in called]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"device {wanted!r} stands for {', '.join(found)}",
            where=str(root),
            expected="one device",
            remedy="Name it by its label or its folder.",
        )
    raise _no_device(wanted, root, names)


def find_trigger(attributes: Attributes, wanted: str) -> str:
    """Return the folder of the trigger with this name.

    Raises:
        ConfigError: No trigger has.
    """
    folders = [name for name in attributes.names("/") if name.startswith("trigger")]
    known = {attributes.get(f"/{folder}/name"): folder for folder in folders}
    if wanted in known:
        return known[wanted]
    raise ConfigError(
        f"there is no trigger {wanted!r}",
        where=str(attributes.path("/")),
        expected=f"one of {', '.join(known) or 'no triggers at all'}",
        remedy=f"Make one: mkdir /sys/kernel/config/iio/triggers/hrtimer/{wanted}.",
    )


def elements_of(
    channels: Sequence[str], mapping: dict[str, str] | None, known: Sequence[str], where: str
) -> list[tuple[str, int]]:
    """Return the element of each channel, and which of its repetitions.

    Args:
        channels: What the model needs, in order.
        mapping: ``channels`` of the configuration.
        known: Elements that the device has.
        where: The device, for messages.

    Raises:
        ConfigError: A channel has no element, or the device has no such element.
    """
    found = []
    for channel in channels:
        if mapping is not None and channel not in mapping:
            raise ConfigError(
                f"channels leaves out {channel}",
                where=where,
                expected=f"an element for each of {', '.join(channels)}",
                remedy="Add it to channels.",
            )
        text = channel if mapping is None else mapping[channel]
        found.append(_element(text.removeprefix("in_"), known, where))
    return found


def relatives(element: str) -> list[str]:
    """Return the names under which an element's attributes may be shared, closest first.

    ``in_accel_x_scale`` may stand as ``in_accel_scale``, and ``in_voltage0_scale``
    as ``in_voltage_scale``.
    """
    plain = re.sub(r"(?<=[a-z])\d+", "", element)
    names = [element, plain, element.rsplit("_", 1)[0], plain.rsplit("_", 1)[0]]
    return list(dict.fromkeys(names))


def shared(attributes: Attributes, element: str, what: str) -> str | None:
    """Return the attribute that tells ``what`` of an element; None if none does."""
    for name in relatives(element):
        if attributes.has(f"in_{name}_{what}"):
            return f"in_{name}_{what}"
    return None


def number_of(attributes: Attributes, element: str, what: str, default: float) -> float:
    """Return the scale or offset of an element; ``default`` where the device has none."""
    name = shared(attributes, element, what)
    return default if name is None else attributes.numbers(name)[0]


def _element(text: str, known: Sequence[str], where: str) -> tuple[str, int]:
    repeated = _REPEATED.fullmatch(text)
    name, which = (repeated[1], int(repeated[2])) if repeated else (text, 0)
    if name in known:
        return name, which
    raise ConfigError(
        f"there is no element {name!r}",
        where=where,
        expected=f"one of {', '.join(known) or 'no elements at all'}",
        remedy=f"{closest(name, tuple(known))} Say which one it is in channels.",
    )


def _devices(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in root.iterdir() if path.name.startswith("iio:device"))
    except OSError:
        # No driver has registered with the subsystem yet.
        return []


def _names(kernel: Kernel, folder: Path) -> list[str]:
    """Return what a device is called; a label is optional, and it may go away meanwhile."""
    names = [folder.name]
    for attribute in ("name", "label"):
        try:
            names.append(kernel.read(folder / attribute))
        except OSError:
            continue
    return names


def _no_device(wanted: str, root: Path, names: dict[str, list[str]]) -> SourceError:
    seen = ", ".join(f"{' '.join(called[1:])} ({folder})" for folder, called in names.items())
    return SourceError(
        f"there is no device {wanted!r}",
        where=str(root),
        expected=f"one of {seen}" if seen else "a sensor whose driver is loaded",
        remedy="Load the part's driver: a device-tree overlay or modprobe; see dmesg.",
    )
