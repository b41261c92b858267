"""Rows for people: a table in the terminal, and ``RESULTS.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from results import Ratio, Row

__all__ = ["markdown", "show"]

_HEADER = ("id", "value", "bar", "ratios", "ok", "measured against")


def show(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    lines = [_cells(row) for row in rows]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for line in (_HEADER, *lines):
            print("  ".join(line))
        return
    console = Console()
    table = Table()
    for title in _HEADER:
        table.add_column(title, no_wrap=title in ("id", "value", "bar", "ok"))
    for line in lines:
        table.add_row(*line)
    # Without a terminal nobody can widen it.
    console.width = max(console.width, 160)
    console.print(table)


def markdown(rows: Sequence[Row], notes: Mapping[str, str], *, machine: str, day: str) -> str:
    """Return ``RESULTS.md``: rows with bars first, met or not, then the others.

    Args:
        rows: All rows of the file.
        notes: What could not be measured this time, and why.
        machine: Description of the machine and of versions.
        day: Of this run.
    """
    judged = [row for row in rows if row.has_bar]
    met = sum(row.ok for row in judged)
    dropped = sum(int(row.peers.get("dropped samples", 0)) for row in rows)
    parts = [
        "# Results",
        "",
        "Made by `make bench PEERS=1`; "
        "[README.md](README.md) says what each row means and why it is fair.",
        "",
        *(f"- {line}" for line in machine.splitlines()),
        f"- last run on {day}; samples dropped because the scheduler interrupted them: {dropped}",
        "",
        f"## Against a bar: {met} of {len(judged)} met",
        "",
        *_table(judged),
        "",
        "## For information",
        "",
        *_table([row for row in rows if not row.has_bar]),
        "",
        *_remarks(rows, notes),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _remarks(rows: Sequence[Row], notes: Mapping[str, str]) -> list[str]:
    said = [f"- `{row.id}`: {row.note}" for row in rows if row.note]
    missing = [f"- `{name}`: {why}" for name, why in notes.items()]
    parts = ["## Remarks", "", *said, ""] if said else []
    if missing:
        parts += ["## Not measured in the last run", "", *missing]
    return parts


def _table(rows: Sequence[Row]) -> list[str]:
    header = [*_HEADER, "day"]
    lines = [
        " | ".join((f"`{cells[0]}`", *cells[1:], row.measured))
        for row, cells in ((row, _cells(row)) for row in rows)
    ]
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {x} |" for x in lines)]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.id,
        f"{_number(row.value)} {row.unit}",
        _bar(row),
        "; ".join(_ratio(ratio) for ratio in row.ratios),
        ("yes" if row.ok else "NO") if row.has_bar else "",
        ", ".join(f"{name} {_number(figure)}" for name, figure in row.peers.items()),
    )


def _bar(row: Row) -> str:
    if row.bar is None:
        return ""
    is_met = row.value <= row.bar if row.better == "lower" else row.value >= row.bar
    sign = "≤" if row.better == "lower" else "≥"
    return f"{sign} {_number(row.bar)}{'' if is_met else ' (missed)'}"


def _ratio(ratio: Ratio) -> str:
    bars = [("≤", ratio.at_most), ("≥", ratio.at_least)]
    wanted = " ".join(f"{sign} {_number(bar)}" for sign, bar in bars if bar is not None)
    return f"{ratio.name} {_number(ratio.value)} ({wanted}{'' if ratio.ok else ', missed'})"


def _number(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.1f}"
