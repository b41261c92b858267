"""The keys of a fleet's YAML file, as they stand there; `load` gives them their meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge_cloud.refresh import RefreshConfig
from edge_runtime.sources.instants import Instant
from edge_simulator.broker import BrokerChoice

__all__ = [
    "ClockJump",
    "ClockOffset",
    "ClockUnset",
    "CloudGone",
    "Cut",
    "Delay",
    "DiskFull",
    "Drop",
    "Duplicate",
    "ExpectConfig",
    "FaultConfig",
    "FleetConfig",
    "GroupConfig",
    "HalfOpen",
    "Lasting",
    "Loss",
    "Mode",
    "PowerOff",
    "Sensor",
    "Span",
    "Throttle",
    "Update",
    "What",
]

Mode = Literal["fast", "processes"]
Positive = Annotated[float, Meta(gt=0)]
NotEmpty = Annotated[str, Meta(min_length=1)]
Shift = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""Seconds by which a clock is wrong: at most some thirty years."""
_Share = Annotated[float, Meta(gt=0, le=1)]
Span = str | float
"""Text such as ``1d 6h``; a bare number is read too, to be refused in words."""
What = Literal[
    "rows_made",
    "rows_arrived",
    "rows_lost",
    "windows_missing",
    "duplicates",
    "gap_rows",
    "backlog",
    "backlog_peak",
    "decisions",
    "decision",
    "starts",
    "updates_committed",
    "updates_refused",
]


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything in a fleet's file: unknown keys are errors."""


# --- faults ---------------------------------------------------------------------------


class _Fault(_Config, frozen=True, kw_only=True, tag_field="fault"):
    """Something goes wrong with some devices: at a time, or by chance.

    Attributes:
        devices: Names or patterns such as ``pump-*``; all devices by default.
        at: Span from the start of the simulation to the fault.
        per_day: How often it happens to a device by chance, a day, on average.
    """

    devices: Annotated[tuple[NotEmpty, ...], Meta(min_length=1)] = ("*",)
    at: Span | None = None
    per_day: Annotated[float, Meta(gt=0, le=86_400)] | None = None


class Lasting(_Fault, frozen=True, kw_only=True):
    """A fault that ends by itself.

    Attributes:
        lasts: How long it lasts; ``for`` in the file.
    """

    lasts: Span = msgspec.field(name="for")


class Cut(Lasting, frozen=True, kw_only=True, tag="cut"):
    """The link is down: every connection is reset, and none comes about."""


class HalfOpen(Lasting, frozen=True, kw_only=True, tag="half_open"):
    """The link is dead, and nobody is told: nothing fails, nothing arrives."""


class Drop(_Fault, frozen=True, kw_only=True, tag="drop"):
    """Every connection is reset once; it may be made again at once."""


class Delay(Lasting, frozen=True, kw_only=True, tag="delay"):
    """Everything arrives ``seconds`` late, in both directions."""

    seconds: Annotated[float, Meta(gt=0, le=3600)]


class Throttle(Lasting, frozen=True, kw_only=True, tag="throttle"):
    """The link carries so many bytes a second, in each direction."""

    bytes_per_s: Positive


class Loss(Lasting, frozen=True, kw_only=True, tag="loss"):
    """Messages vanish by chance, in both directions, and the connection stands.

    Attributes:
        share: How many of them, above 0 to 1.
    """

    share: _Share


class Duplicate(Lasting, frozen=True, kw_only=True, tag="duplicate"):
    """Messages arrive twice by chance, in both directions.

    Attributes:
        share: How many of them, above 0 to 1.
    """

    share: _Share


class CloudGone(Lasting, frozen=True, kw_only=True, tag="cloud_gone"):
    """The broker is there, and nobody behind it takes rows; concerns every device."""


class PowerOff(Lasting, frozen=True, kw_only=True, tag="power_off"):
    """The device loses power without warning, and starts again when it is back."""


class ClockOffset(Lasting, frozen=True, kw_only=True, tag="clock_offset"):
    """The wall clock is wrong by ``seconds`` until it is set right."""

    seconds: Shift


class ClockJump(_Fault, frozen=True, kw_only=True, tag="clock_jump"):
    """The wall clock jumps by ``seconds`` and stays there."""

    seconds: Shift


class ClockUnset(Lasting, frozen=True, kw_only=True, tag="clock_unset"):
    """The device restarts with its wall clock at 1970, until something sets it right."""


class DiskFull(Lasting, frozen=True, kw_only=True, tag="disk_full"):
    """Somebody else fills the disk, and nothing the outbox drops makes room."""


class Sensor(Lasting, frozen=True, kw_only=True, tag="sensor"):
    """A stream's source has other options meanwhile.

    Attributes:
        stream: Whose source.
        options: Replace those of the stream's ``source``.
    """

    stream: NotEmpty
    options: Annotated[dict[str, Any], Meta(min_length=1)]


class Update(_Fault, frozen=True, kw_only=True, tag="update"):
    """The cloud offers a new base.

    Attributes:
        stream: Which stream is to run it.
        bundle: The base, a folder or zip file.
        signed_by: ``fleet`` signs with the key the devices trust, ``stranger`` with another.
        golden: ``wrong`` offers a base that does not answer as its golden vectors say.
    """

    stream: NotEmpty
    bundle: Path
    signed_by: Literal["fleet", "stranger"] = "fleet"
    golden: Literal["right", "wrong"] = "right"


FaultConfig = (
    Cut
    | HalfOpen
    | Drop
    | Delay
    | Throttle
    | Loss
    | Duplicate
    | CloudGone
    | PowerOff
    | ClockOffset
    | ClockJump
    | ClockUnset
    | DiskFull
    | Sensor
    | Update
)


# --- the rest -------------------------------------------------------------------------


class GroupConfig(_Config, frozen=True, kw_only=True):
    """Devices that are alike.

    Attributes:
        name: They are called ``name-1``, ``name-2`` and so on.
        count: How many.
        device: As in a device's own file, without what the simulator gives:
            ``device``, ``state``, and where the broker is.
        spread: Per stream, source options that are numbers: what each device has
            more of than the one before it.
    """

    name: NotEmpty
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    device: dict[str, Any]
    spread: dict[str, dict[str, float]] = {}


class ExpectConfig(_Config, frozen=True, kw_only=True):
    """What must be true of a run.

    Attributes:
        what: A number of the run, or ``decision``.
        devices: Summed over these; a ``decision`` must be made by each of them.
        label: Of a decision.
        edge: Of a decision.
        equals: What the number must be.
        at_least: Its lower bound.
        at_most: Its upper bound.
        at: When the backlog is looked at; the end by default.
        after: From when on a decision counts.
        within: How long after ``after`` it must have come.
    """

    what: What
    devices: Annotated[tuple[NotEmpty, ...], Meta(min_length=1)] = ("*",)
    label: NotEmpty | None = None
    edge: Literal["start", "end"] = "start"
    equals: int | None = None
    at_least: int | None = None
    at_most: int | None = None
    at: Span | None = None
    after: Span | None = None
    within: Span | None = None


class FleetConfig(_Config, frozen=True, kw_only=True):
    """A simulated fleet, as its YAML file declares it.

    Attributes:
        name: Stands above the results.
        seed: Decides everything that happens by chance.
        start: What the clocks say at the beginning.
        duration: How long it lasts, in simulated time.
        mode: ``fast`` or ``processes``.
        speed: Simulated seconds a second; ``max`` waits for nothing, in ``fast`` alone.
        cloud: Who takes the rows: ``twin`` in memory, or ``ingest``, a real cloud process.
        refresh: Model lines whose layers a real cloud computes, from the labels that
            are put into its store's inbox.
        broker: Which broker, in ``processes``.
        port: Where anybody on this machine may listen to it; None for nowhere.
        devices: Groups of them.
        faults: What goes wrong.
        expect: What ``--check`` checks.
        schema: Version of the file's format.
    """

    name: NotEmpty = "fleet"
    seed: int = 0
    start: Instant = msgspec.convert("2013-01-01T00:00:00Z", Instant)
    duration: Span
    mode: Mode = "fast"
    speed: Annotated[float, Meta(gt=0, le=1_000_000)] | Literal["max"] | None = None
    cloud: Literal["twin", "ingest"] = "twin"
    refresh: tuple[RefreshConfig, ...] = ()
    broker: BrokerChoice = "auto"
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    devices: Annotated[tuple[GroupConfig, ...], Meta(min_length=1)]
    faults: tuple[FaultConfig, ...] = ()
    expect: tuple[ExpectConfig, ...] = ()
    schema: Literal[1] = 1
