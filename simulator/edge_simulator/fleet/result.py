"""What a run leaves behind: JSON lines of what happened, and one line that sums up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge_simulator.fleet.ledger import Counts, Sighting
from edge_simulator.fleet.load import Fleet

__all__ = ["Journal", "Result", "result_of"]

_ENCODER = msgspec.json.Encoder()


class Journal:
    """What happened, in order, as JSON lines."""

    def __init__(self) -> None:
        self.entries: list[dict[str, object]] = []

    def add(self, at_ns: int, event: str, device: str, facts: Mapping[str, object]) -> None:
        """Note one event.

        Args:
            at_ns: From the start of the simulation.
            event: Its name.
            device: Whom it concerns.
            facts: Nothing but what is the same in every run of the same file.
        """
        self.entries.append({"at_ns": at_ns, "event": event, "device": device, **facts})


class Result(msgspec.Struct, frozen=True, eq=False):
    """A run that has ended.

    Attributes:
        fleet: What ran.
        lines: One JSON object each, in order.
        counts: By device.
        sightings: Decisions in the order they were made.
        probes: Backlogs that were looked at, by number of the expectation.
    """

    fleet: Fleet
    lines: tuple[bytes, ...]
    counts: dict[str, Counts]
    sightings: tuple[Sighting, ...]
    probes: dict[int, int]

    def total(self, what: str, devices: Sequence[str]) -> int:
        """Return a number of `Counts`, summed over devices."""
        return sum(int(getattr(self.counts[name], what)) for name in devices)

    def summary(self) -> dict[str, object]:
        """Return what the last line says."""
        return {
            "event": "summary",
            "fleet": self.fleet.name,
            "mode": self.fleet.mode,
            "seed": self.fleet.seed,
            "duration_ns": self.fleet.duration_ns,
            "events": len(self.lines),
            "events_sha256": hashlib.sha256(b"\n".join(self.lines)).hexdigest(),
            "devices": {name: msgspec.to_builtins(counts) for name, counts in self.counts.items()},
        }

    def write(self, path: Path) -> None:
        """Write everything; two runs of one file with one seed give the same bytes."""
        lines = [*self.lines, _ENCODER.encode(self.summary())]
        path.write_bytes(b"\n".join(lines) + b"\n")


def result_of(
    fleet: Fleet,
    journal: Journal,
    counts: Mapping[str, Counts],
    sightings: Sequence[Sighting],
    probes: Mapping[int, int],
) -> Result:
    """Put a result together."""
    lines = tuple(_ENCODER.encode(entry) for entry in journal.entries)
    return Result(fleet, lines, dict(counts), tuple(sightings), dict(probes))
