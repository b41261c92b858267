"""Plain tables for people: aligned columns, no colour, no dependency."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> str:
    """Return rows under a header in aligned columns.

    Args:
        header: Name of each column.
        rows: As many cells each.
        right: Names of the columns that are aligned to the right, parted by spaces.
    """
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    to_right = [name in right.split() for name in header]
    return "\n".join(_line(line, widths, to_right) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], to_right: Sequence[bool]) -> str:
    parts = [
        cell.rjust(width) if is_right else cell.ljust(width)
        for cell, width, is_right in zip(cells, widths, to_right, strict=True)
    ]
    return "  ".join(parts).rstrip()
