"""The file of results: rows by id, replaced one by one, and judged by their bars."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edge_runtime.distributions import installed_version
from edge_runtime.machine import processor, vectors

__all__ = ["Ratio", "Row", "Skipped", "load", "machine", "merge"]

Better = Literal["lower", "higher"]

_PACKAGES = ("edge-runtime", "numpy", "ai-edge-litert", "onnxruntime", "paho-mqtt", "msgspec")


class Skipped(Exception):
    """A row cannot be measured here, and why."""


class Ratio(msgspec.Struct, frozen=True):
    """Two figures of the same run, one over the other: a bar that holds on every machine.

    Attributes:
        name: What over what.
        value: The ratio.
        at_most: Most it may be; None where it has no such bar.
        at_least: Least it may be; None where it has no such bar.
    """

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def ok(self) -> bool:
        """Whether its bar is met; true where it has none."""
        is_low_enough = self.at_most is None or self.value <= self.at_most
        return is_low_enough and (self.at_least is None or self.value >= self.at_least)


class Row(msgspec.Struct, frozen=True):
    """One figure.

    Attributes:
        id: Stays the same from run to run.
        value: The figure.
        unit: Its unit; ``x`` for a ratio.
        bar: Most it may be, or least where more is better; None where no bar is set.
        ok: Whether the ratios hold; where there are none, whether the bar is met.
        peers: What it was measured against in the same run, by name and unit.
        ratios: Ratios with bars. An absolute figure belongs to one machine, a ratio to
            all: where a row has both, the ratio decides and both are shown.
        better: Whether less or more is better.
        note: What to know about this figure.
        measured: Day of the measurement.
    """

    id: str
    value: float
    unit: str
    bar: float | None
    ok: bool
    peers: dict[str, float]
    ratios: tuple[Ratio, ...] = ()
    better: Better = "lower"
    note: str = ""
    measured: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        value: float,
        unit: str,
        *,
        bar: float | None,
        peers: dict[str, float],
        ratios: Sequence[Ratio] = (),
        better: Better = "lower",
        note: str = "",
    ) -> Row:
        """Round a figure to three places and judge it."""
        is_met = bar is None or (value <= bar if better == "lower" else value >= bar)
        return cls(
            id=name,
            value=round(value, 3),
            unit=unit,
            bar=bar,
            ok=all(ratio.ok for ratio in ratios) if ratios else is_met,
            peers={peer: round(figure, 3) for peer, figure in peers.items()},
            ratios=tuple(
                msgspec.structs.replace(ratio, value=round(ratio.value, 3)) for ratio in ratios
            ),
            better=better,
            note=note,
        )

    @property
    def has_bar(self) -> bool:
        """Whether anything can be missed."""
        return self.bar is not None or bool(self.ratios)


def load(path: Path) -> list[Row]:
    """Read all rows of the file; none where there is no file."""
    return msgspec.json.decode(path.read_bytes(), type=list[Row]) if path.exists() else []


def merge(path: Path, rows: Sequence[Row], day: str = "") -> list[Row]:
    """Write ``rows`` into the file; rows with other ids stay as they are.

    Args:
        path: The file; made if missing.
        rows: What was measured now.
        day: When.

    Returns:
        All rows now in the file.
    """
    table = {row.id: row for row in load(path)}
    table.update({row.id: msgspec.structs.replace(row, measured=day) for row in rows})
    merged = list(table.values())
    text = msgspec.json.format(msgspec.json.encode(merged), indent=2)
    waiting = path.with_suffix(".tmp")
    waiting.write_bytes(text + b"\n")
    waiting.replace(path)
    return merged


def machine() -> str:
    """Describe what the figures were measured on, in three lines."""
    load_average = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = ", ".join(f"{name} {installed_version(name) or 'absent'}" for name in _PACKAGES)
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}, load {load_average}\n"
        f"vector instructions: {', '.join(vectors()) or 'unknown'}\n"
        f"Python {platform.python_version()}, {versions}"
    )
