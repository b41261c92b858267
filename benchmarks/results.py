"""The file of results: rows by id, replaced one by one, and the table for people."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

__all__ = ["Row", "machine", "merge", "show"]

_PACKAGES = ("edge-runtime", "numpy", "ai-edge-litert", "onnxruntime")


class Row(msgspec.Struct, frozen=True):
    """One figure.

    Attributes:
        id: Stays the same from run to run.
        value: The figure; lower is better.
        unit: Its unit; ``x`` for a ratio.
        bar: Most it may be; None where no bar is set.
        ok: Whether the bar is met; true where none is set.
        peers: What it was measured against in the same run, by name and unit.
    """

    id: str
    value: float
    unit: str
    bar: float | None
    ok: bool
    peers: dict[str, float]

    @classmethod
    def of(
        cls, name: str, value: float, unit: str, *, bar: float | None, peers: dict[str, float]
    ) -> Row:
        """Round a figure to three places and judge it."""
        rounded = {peer: round(figure, 3) for peer, figure in peers.items()}
        return cls(name, round(value, 3), unit, bar, bar is None or value <= bar, rounded)


def merge(path: Path, rows: Sequence[Row]) -> list[dict[str, object]]:
    """Write ``rows`` into the file; rows with other ids stay as they are.

    Returns:
        All rows now in the file.
    """
    found = msgspec.json.decode(path.read_bytes()) if path.exists() else []
    table = {row["id"]: row for row in found}
    table.update({row.id: msgspec.to_builtins(row) for row in rows})
    merged = list(table.values())
    text = msgspec.json.format(msgspec.json.encode(merged), indent=2)
    waiting = path.with_suffix(".tmp")
    waiting.write_bytes(text + b"\n")
    waiting.replace(path)
    return merged


def machine() -> str:
    """Describe what the figures were measured on."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return (
        f"{_processor()}, {os.cpu_count()} cores, load {load}\n"
        f"Python {platform.python_version()}, {versions}"
    )


def show(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    header = ("id", "value", "unit", "bar", "ok", "measured against")
    lines = [_cells(row) for row in rows]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for line in (header, *lines):
            print("  ".join(line))
        return
    table = Table()
    for title in header:
        table.add_column(title, no_wrap=title != header[-1])
    for line in lines:
        table.add_row(*line)
    Console().print(table)


def _cells(row: Row) -> tuple[str, ...]:
    bar = "" if row.bar is None else f"{row.bar:g}"
    peers = ", ".join(f"{name} {value:g}" for name, value in row.peers.items())
    return (row.id, f"{row.value:g}", row.unit, bar, "yes" if row.ok else "NO", peers)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
