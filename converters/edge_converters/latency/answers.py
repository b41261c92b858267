"""What devices measured themselves: the results of ``edge-runtime tune --json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.tune.choose import Tuning

__all__ = ["Answer", "load_answers"]

_LARGEST_BYTES = 1 << 20


class Answer(msgspec.Struct, frozen=True):
    """One file on one runtime, as a board ran it on one thread.

    Attributes:
        sha256: Of the model file.
        backend: Runtime.
        engine_us: Median time of the model's call for one window, µs.
    """

    sha256: str
    backend: str
    engine_us: float


def load_answers(places: Sequence[Path], board: str) -> tuple[Answer, ...]:
    """Read what a board has answered; a row that failed or disagreed does not count.

    Args:
        places: Files that ``edge-runtime tune --json`` printed, or folders of them.
        board: Name of the board that they must be of.

    Raises:
        ConfigError: One cannot be read, or was measured on another board.
    """
    return tuple(answer for file in _files(places) for answer in _answers(_checked(file, board)))


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(place.glob("*.json"))
        else:
            yield place


def _checked(file: Path, board: str) -> Tuning:
    from edge_runtime.tune.choose import Tuning

    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise ValueError(f"more than {_LARGEST_BYTES} bytes")
        tuning = msgspec.json.decode(file.read_bytes(), type=Tuning)
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(file),
            expected="what edge-runtime tune BUNDLE --json printed on the board",
            remedy="Check the path and its permissions.",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"is no result of a board: {error}",
            where=str(file),
            expected="what edge-runtime tune BUNDLE --json printed there",
            remedy="Run it on the board again, and leave out what is not its output.",
        ) from error
    if tuning.board != board:
        raise ConfigError(
            f"was measured on {tuning.board} ({tuning.machine.processor})",
            where=str(file),
            expected=f"a result of {board}, which --target names",
            remedy=f"Say --target {tuning.board}, or leave the file out.",
        )
    return tuning


def _answers(tuning: Tuning) -> Iterator[Answer]:
    for row in tuning.rows:
        one = row.candidate
        if row.agrees and one.threads == 1 and one.accelerator is None and row.engine_us > 0:
            yield Answer(tuning.files[one.artefact], one.backend, row.engine_us)
