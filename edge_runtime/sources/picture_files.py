"""Picture files: which there are, when they were taken, and their lines."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from edge_runtime.errors import SourceError
from edge_runtime.sources.columns import unreadable
from edge_runtime.sources.instants import TimeFormat, parser_of
from edge_runtime.sources.pictures import FORMATS, Shaper

__all__ = ["LATEST_PERIODS", "READABLE", "decode_file", "named_ns", "picture_files", "written_ns"]

READABLE = f"a picture in one of {', '.join(FORMATS)}"
LATEST_PERIODS = 1.25
"""An image that comes later than this many periods after the one before is no neighbour."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm"})


def picture_files(path: Path) -> list[Path]:
    """Return the pictures of a folder or pattern, numbers in their names in order.

    Raises:
        SourceError: The folder cannot be read.
    """
    is_pattern = any(sign in path.name for sign in "*?[")
    folder = path.parent if is_pattern else path
    try:
        found = [file for file in folder.iterdir() if not file.name.startswith(".")]
    except OSError as error:
        raise unreadable(path, error, "a folder of pictures, or a pattern") from error
    if is_pattern:
        files = [file for file in found if fnmatchcase(file.name, path.name)]
    else:
        files = [file for file in found if file.suffix.lower() in _SUFFIXES]
    return sorted(files, key=lambda file: _natural(file.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts ``2.jpg`` before ``10.jpg``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def decode_file(shaper: Shaper, path: Path) -> np.ndarray:
    """Return the lines of a picture.

    Raises:
        SourceError: It is none, or damaged.
    """
    try:
        with path.open("rb") as file:
            return shaper.decode(file)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, READABLE) from error


def named_ns(path: Path, format: TimeFormat) -> int:  # noqa: A002
    """Return the time that a file's name tells, ns.

    Raises:
        SourceError: It tells none.
    """
    try:
        return parser_of(format)(path.stem)
    except (ValueError, OverflowError) as error:
        raise SourceError(
            f"its name tells no time ({error})",
            where=str(path),
            expected=f"a time in format {format}, before the suffix",
            remedy="Correct the format, or narrow the path to files with such names.",
        ) from error


def written_ns(path: Path) -> int:
    """Return when a file was last written, ns.

    Raises:
        SourceError: It is not there any more.
    """
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise unreadable(path, error, READABLE) from error
