"""What boards measured themselves: results of ``edge-runtime tune --json``, or a cloud's store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.sync.board_times import DeviceTimes
    from edge_runtime.tune.choose import Tuning

__all__ = ["Answer", "load_answers"]

_LARGEST_BYTES = 16 << 20
_CATALOGUE = "catalogue.db"


class Answer(msgspec.Struct, frozen=True):
    """One file on one runtime, as a board ran it on one thread.

    Attributes:
        sha256: Of the model file.
        backend: Runtime.
        engine_us: Median time of the model's call for one window, µs.
        device: Which board; empty where a person carried the result, who knows.
    """

    sha256: str
    backend: str
    engine_us: float
    device: str = ""


def load_answers(places: Sequence[Path], board: str) -> tuple[Answer, ...]:
    """Read what boards have answered; a row that failed or disagreed does not count.

    Args:
        places: Files that ``edge-runtime tune --json`` printed, or folders of them; what
            ``edge-runtime cloud boards --json`` printed; or the folder of a cloud's store.
        board: Kind of board. Of a cloud its boards alone are taken; a result of ``tune``
            must be of one.

    Raises:
        ConfigError: One cannot be read, or is a result of ``tune`` on another board.
        StoreError: A file of the store is damaged.
    """
    return tuple(answer for place in places for answer in _of_place(place, board))


def _of_place(place: Path, board: str) -> Iterator[Answer]:
    if not place.is_dir():
        yield from _of_file(place, board)
    elif (place / _CATALOGUE).is_file():
        from edge_runtime.sync.board_times import read_times

        yield from _of_devices(read_times(place), board)
    else:
        for file in sorted(place.glob("*.json")):
            yield from _of_file(file, board)


def _of_file(file: Path, board: str) -> Iterator[Answer]:
    content = _content(file)
    if content.lstrip()[:1] == b"[":
        yield from _of_devices(_exported(file, content), board)
    else:
        yield from _of_tuning(_checked(file, content, board))


def _content(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= _LARGEST_BYTES else b""
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(file),
            expected="what edge-runtime tune BUNDLE --json printed on the board",
            remedy="Check the path and its permissions.",
        ) from error
    if size > _LARGEST_BYTES:
        raise _no_result(file, f"more than {_LARGEST_BYTES} bytes")
    return content


def _exported(file: Path, content: bytes) -> list[DeviceTimes]:
    from edge_runtime.sync.board_times import DeviceTimes

    try:
        return msgspec.json.decode(content, type=list[DeviceTimes])
    except ValueError as error:
        raise _no_result(file, str(error)) from error


def _checked(file: Path, content: bytes, board: str) -> Tuning:
    from edge_runtime.tune.choose import Tuning

    try:
        tuning = msgspec.json.decode(content, type=Tuning)
    except ValueError as error:
        raise _no_result(file, str(error)) from error
    if tuning.board != board:
        raise ConfigError(
            f"was measured on {tuning.board} ({tuning.machine.processor})",
            where=str(file),
            expected=f"a result of {board}, which --target names",
            remedy=f"Say --target {tuning.board}, or leave the file out.",
        )
    return tuning


def _no_result(file: Path, why: str) -> ConfigError:
    return ConfigError(
        f"is no result of a board: {why}",
        where=str(file),
        expected="what edge-runtime tune BUNDLE --json, or cloud boards --json, printed",
        remedy="Run it again, and leave out what is not its output.",
    )


def _of_devices(
    told: Iterator[DeviceTimes] | Sequence[DeviceTimes], board: str
) -> Iterator[Answer]:
    from edge_runtime.sync.board_times import is_time

    for one in told:
        if one.refused or one.times.board != board:
            continue
        for file in one.times.files:
            if is_time(file.engine_us):
                yield Answer(file.sha256, file.backend, file.engine_us, one.device)


def _of_tuning(tuning: Tuning) -> Iterator[Answer]:
    for row in tuning.rows:
        one = row.candidate
        if row.agrees and one.threads == 1 and one.accelerator is None and row.engine_us > 0:
            yield Answer(tuning.files[one.artefact], one.backend, row.engine_us)
