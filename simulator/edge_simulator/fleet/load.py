"""Reads a fleet's YAML file and checks everything that can be known before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import msgspec
import numpy as np

from edge_cloud.refresh import RefreshConfig
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.config import DeviceConfig, Document, device_of
from edge_runtime.config.check import check_device
from edge_runtime.config.convert import convert
from edge_runtime.config.document import KeyPath, key_text, read_document
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.registry import closest
from edge_runtime.sources.instants import instant_ns
from edge_runtime.spec import WindowSpec
from edge_simulator.broker import BrokerChoice
from edge_simulator.disk import can_fill
from edge_simulator.fleet.config import (
    DiskFull,
    ExpectConfig,
    FaultConfig,
    FleetConfig,
    GroupConfig,
    Lasting,
    Mode,
    Sensor,
    Span,
    Update,
)
from edge_simulator.fleet.spans import span_ns, span_text

__all__ = ["Expectation", "Fault", "Feed", "Fleet", "Member", "check_fleet", "load_fleet"]

T = TypeVar("T")

_GIVEN = ("device", "state", "metrics")
_GIVEN_SYNC = ("host", "port", "protocol", "username", "password_file", "ca_file")
_SPAN = "a span such as 90s, 10min or 1d 6h, at most ten years"


class Feed(msgspec.Struct, frozen=True):
    """When the samples of a stream come: number ``first`` at the start, then at its rate.

    Attributes:
        first: Index of the first sample.
        rate_hz: Samples a second, as the model needs them.
        window: How the model cuts windows.
        is_whole: Whether every window travels as a row of its own.
    """

    first: int
    rate_hz: float
    window: WindowSpec
    is_whole: bool

    def due(self, elapsed_ns: int) -> int:
        """Return the index to stop before, so long after the start."""
        # A hair more, so that what is due exactly now is not lost to rounding.
        return self.first + int(elapsed_ns * self.rate_hz / 1e9 + 1e-6) + 1

    def due_ns(self, index: int) -> int:
        """Return how long after the start the sample ``index`` comes, ns."""
        return max(0, -int(-(index - self.first) * 1e9 // self.rate_hz))

    def windows(self, position: int) -> np.ndarray:
        """Return the last samples of all windows of the samples before ``position``, int64."""
        first = self.first + max(0, self.window.length - 1 - self.window.pad)
        return np.arange(first, position, self.window.hop, dtype=np.int64)


class Member(msgspec.Struct, frozen=True, eq=False):
    """One device of the fleet.

    Attributes:
        name: Its id.
        config: What it runs; folder and broker are filled in when it starts.
        feeds: Per stream.
        sensors: What it runs during a sensor fault, by the fault's number.
    """

    name: str
    config: DeviceConfig
    feeds: dict[str, Feed]
    sensors: dict[int, DeviceConfig]


class Fault(msgspec.Struct, frozen=True, eq=False):
    """A fault and whom it concerns.

    Attributes:
        number: Its place in the file.
        config: What happens.
        at_ns: When, from the start; None for by chance.
        lasts_ns: How long.
        members: Names.
    """

    number: int
    config: FaultConfig
    at_ns: int | None
    lasts_ns: int
    members: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Its name in the file."""
        return str(self.config.__struct_config__.tag)


class Expectation(msgspec.Struct, frozen=True, eq=False):
    """What must be true, with its spans as numbers; see `ExpectConfig`."""

    config: ExpectConfig
    members: tuple[str, ...]
    at_ns: int | None
    after_ns: int
    within_ns: int | None


class Fleet(msgspec.Struct, frozen=True, eq=False):
    """A fleet that is ready to run; see `FleetConfig`.

    Attributes:
        refs: What the bases in the file are called, by digest.
    """

    name: str
    seed: int
    start_ns: int
    duration_ns: int
    mode: Mode
    speed: float | Literal["max"] | None
    cloud: Literal["twin", "ingest"]
    refresh: tuple[RefreshConfig, ...]
    broker: BrokerChoice
    port: int | None
    members: tuple[Member, ...]
    faults: tuple[Fault, ...]
    expect: tuple[Expectation, ...]
    refs: dict[str, str]
    document: Document


def load_fleet(path: Path, *, folder: Path | None = None) -> Fleet:
    """Read a fleet's file.

    Args:
        path: The file.
        folder: Relative paths in it are taken from here; None for the file's own folder.

    Raises:
        ConfigError: It does not fit; ``where`` is ``file:line:column``.
        BundleError: A bundle is damaged.
    """
    document = read_document(path)
    folder = folder or path.absolute().parent
    config = convert(document, FleetConfig, folder=folder)
    reader = _Reader(document, folder, config)
    fleet = Fleet(
        name=config.name,
        seed=config.seed,
        start_ns=instant_ns(config.start),
        duration_ns=reader.duration_ns,
        mode=config.mode,
        speed=config.speed,
        cloud=config.cloud,
        refresh=config.refresh,
        broker=config.broker,
        port=config.port,
        members=reader.members(),
        faults=reader.faults,
        expect=tuple(reader.expectations()),
        refs=reader.refs,
        document=document,
    )
    check_fleet(fleet)
    return fleet


def check_fleet(fleet: Fleet) -> None:
    """Check what depends on how the fleet runs; again after its mode or speed was changed.

    Raises:
        ConfigError: The mode cannot do what the file asks for.
    """
    if fleet.mode == "fast" and fleet.cloud == "ingest":
        _refuse(fleet, ("cloud",), "cloud is 'ingest' in mode fast", "cloud: twin")
    if fleet.mode == "processes" and fleet.speed == "max":
        _refuse(fleet, ("speed",), "speed is 'max' in mode processes", "a number such as 60")
    if fleet.refresh and fleet.cloud == "twin":
        _refuse(fleet, ("refresh",), "refresh is set with cloud 'twin'", "cloud: ingest")
    for fault in fleet.faults if fleet.mode == "processes" else ():
        if isinstance(fault.config, DiskFull) and not can_fill():
            _refuse(
                fleet,
                ("faults", fault.number, "fault"),
                "fault is 'disk_full', but this Python's SQLite cannot be told of a full disk",
                "mode: fast",
            )


def _refuse(fleet: Fleet, path: KeyPath, what: str, expected: str) -> NoReturn:
    raise ConfigError(
        what,
        where=fleet.document.where(*path),
        expected=expected,
        remedy="Change the value here, or choose the other mode with --mode.",
    )


class _Reader:
    """Gives one file its meaning."""

    def __init__(self, document: Document, folder: Path, config: FleetConfig) -> None:
        self._document = document
        self._folder = folder
        self._config = config
        self.refs: dict[str, str] = {}
        self.duration_ns = self._span(("duration",), config.duration)
        if not self.duration_ns:
            self._fail(("duration",), "duration is 0", "some time")
        self._groups = dict(self._named_groups())
        self._all = [name for names in self._groups.values() for name in names]
        self.faults = tuple(self._fault(i, fault) for i, fault in enumerate(config.faults))

    # --- devices ----------------------------------------------------------------------

    def _named_groups(self) -> Iterator[tuple[int, list[str]]]:
        known: set[str] = set()
        for i, group in enumerate(self._config.devices):
            if group.name in known:
                self._fail(("devices", i, "name"), f"two groups are named {group.name!r}", "one")
            known.add(group.name)
            yield i, [f"{group.name}-{n}" for n in range(1, group.count + 1)]

    def members(self) -> tuple[Member, ...]:
        return tuple(
            self._member(i, number, name)
            for i, names in self._groups.items()
            for number, name in enumerate(names)
        )

    def _member(self, i: int, number: int, name: str) -> Member:
        group = self._config.devices[i]
        part = self._document.part("devices", i, "device")
        self._check_given(i, group)
        document = msgspec.structs.replace(part, value=self._value(i, number, name))
        config = device_of(document, self._folder)
        if number == 0:
            check_device(config)
        self._check_streams(name, config)
        sensors = {
            fault.number: self._with_sensor(document, fault.number, fault.config)
            for fault in self.faults
            if isinstance(fault.config, Sensor) and name in fault.members
        }
        return Member(name, config, self._feeds(config), sensors)

    def _value(self, i: int, number: int, name: str) -> dict[str, Any]:
        """Return a device's document: what the group says, spread, and what is given."""
        group = self._config.devices[i]
        given = {"device": name, "state": "state", "sync": dict(group.device.get("sync") or {})}
        streams = dict(group.device.get("streams") or {})
        for stream, options in group.spread.items():
            path = ("devices", i, "spread", stream)
            self._known(path, "spread", stream, tuple(streams))
            source = streams[stream]["source"]
            moved = {
                key: self._moved((*path, key), source.get(key, 0), number * step)
                for key, step in options.items()
            }
            streams[stream] = {**streams[stream], "source": {**source, **moved}}
        return {**group.device, **given, "streams": streams}

    def _moved(self, path: KeyPath, value: Any, by: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(path, f"the source's {path[-1]} is {value!r}", "a number to add to")
        moved = value + by
        return int(moved) if isinstance(value, int) and float(moved).is_integer() else moved

    def _check_given(self, i: int, group: GroupConfig) -> None:
        for key in _GIVEN:
            if key in group.device:
                self._fail_given(i, key)
        sync = group.device.get("sync")
        for key in sync if isinstance(sync, dict) else ():
            if key in _GIVEN_SYNC:
                self._fail_given(i, "sync", key)

    def _fail_given(self, i: int, *keys: str) -> NoReturn:
        path: KeyPath = ("devices", i, "device", *keys)
        raise ConfigError(
            f"{key_text(path)} is given by the simulator",
            where=self._document.where_key(*path),
            expected="no such key",
            remedy="Leave it out.",
        )

    def _with_sensor(self, document: Document, number: int, fault: Sensor) -> DeviceConfig:
        """Return a device whose source has the options of a fault; messages point to those."""
        options = self._document.part("faults", number, "options")
        value = document.value
        stream = value["streams"][fault.stream]
        edited = {**stream, "source": {**stream["source"], **fault.options}}
        path = ("streams", fault.stream, "source")
        return device_of(
            Document(
                document.file,
                {**value, "streams": {**value["streams"], fault.stream: edited}},
                {**document.values, **_grafted(options.values, path)},
                {**document.keys, **_grafted(options.keys, path)},
            ),
            self._folder,
        )

    def _check_streams(self, name: str, config: DeviceConfig) -> None:
        for fault in self.faults:
            if isinstance(fault.config, Sensor | Update) and name in fault.members:
                path = ("faults", fault.number, "stream")
                self._known(path, f"a stream of {name}", fault.config.stream, tuple(config.streams))

    def _feeds(self, config: DeviceConfig) -> dict[str, Feed]:
        feeds = {}
        for name, stream in config.streams.items():
            spec = self._loaded(stream.model.bundle).spec
            first = int(stream.source.get("first_row") or 0)
            is_whole = stream.upload in ("features", "windows")
            feeds[name] = Feed(first, spec.stream.rate_hz, spec.window, is_whole)
        return feeds

    def _loaded(self, path: Path) -> Bundle:
        bundle = load_bundle(path)
        self.refs[bundle.digest] = bundle.ref
        return bundle

    # --- faults and expectations --------------------------------------------------------

    def _fault(self, i: int, config: FaultConfig) -> Fault:
        path = ("faults", i)
        if (config.at is None) == (config.per_day is None):
            self._fail(path, "a fault has at and per_day, or neither", "one of the two")
        at_ns = None if config.at is None else self._moment((*path, "at"), config.at)
        lasts_ns = 0
        if isinstance(config, Lasting):
            lasts_ns = self._span((*path, "for"), config.lasts)
        if isinstance(config, Update):
            self._check_bundle((*path, "bundle"), config.bundle)
        return Fault(i, config, at_ns, lasts_ns, self._matching((*path, "devices"), config.devices))

    def _check_bundle(self, path: KeyPath, bundle: Path) -> None:
        try:
            self._loaded(bundle)
        except BundleError as error:
            self._fail(path, f"{key_text(path)} is {str(bundle)!r}: {error.what}", "a bundle")

    def expectations(self) -> Iterator[Expectation]:
        for i, config in enumerate(self._config.expect):
            path = ("expect", i)
            self._check_bounds(path, config)
            yield Expectation(
                config,
                self._matching((*path, "devices"), config.devices),
                None if config.at is None else self._moment((*path, "at"), config.at),
                0 if config.after is None else self._moment((*path, "after"), config.after),
                None if config.within is None else self._span((*path, "within"), config.within),
            )

    def _check_bounds(self, path: KeyPath, config: ExpectConfig) -> None:
        bounds = (config.equals, config.at_least, config.at_most)
        has_bounds = any(bound is not None for bound in bounds)
        if config.what == "decision":
            if has_bounds or config.label is None:
                self._fail(path, "a decision is expected", "a label, and no bounds")
        elif not has_bounds:
            self._fail(path, f"{config.what} has no bound", "equals, at_least or at_most")
        if config.at is not None and config.what != "backlog":
            self._fail((*path, "at"), f"{config.what} has a time", "at with backlog alone")

    def _matching(self, path: KeyPath, patterns: Sequence[str]) -> tuple[str, ...]:
        for i, pattern in enumerate(patterns):
            if not any(fnmatchcase(name, pattern) for name in self._all):
                self._known((*path, i), "devices", pattern, tuple(self._all))
        return tuple(
            name for name in self._all if any(fnmatchcase(name, pattern) for pattern in patterns)
        )

    # --- small parts --------------------------------------------------------------------

    def _moment(self, path: KeyPath, text: Span) -> int:
        moment_ns = self._span(path, text)
        if moment_ns > self.duration_ns:
            what = f"{key_text(path)} is {text!r}, after the end"
            self._fail(path, what, f"at most {span_text(self.duration_ns)}")
        return moment_ns

    def _span(self, path: KeyPath, text: Span) -> int:
        length_ns = span_ns(str(text))
        if length_ns is None:
            self._fail(path, f"{key_text(path)} is {text!r}", _SPAN)
        return length_ns

    def _known(self, path: KeyPath, what: str, name: str, known: tuple[str, ...]) -> None:
        if name not in known:
            raise ConfigError(
                f"{key_text(path)} is {name!r}",
                where=self._document.where(*path),
                expected=f"{what}: one of {', '.join(known[:8]) or 'none'}",
                remedy=closest(name, known),
            )

    def _fail(self, path: KeyPath, what: str, expected: str) -> NoReturn:
        raise ConfigError(
            what,
            where=self._document.where(*path),
            expected=expected,
            remedy="Correct the value here.",
        )


def _grafted(places: Mapping[KeyPath, T], path: KeyPath) -> dict[KeyPath, T]:
    return {(*path, *below): place for below, place in places.items()}
