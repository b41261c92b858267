"""Answers of a device window by window, from its tape or made again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from edge_runtime.pipeline.records import EstimateRows
from edge_runtime.quality import MASK
from edge_runtime.tape.entries import Answers
from edge_runtime.types import Decision, Output

__all__ = ["Answer", "answers_of", "answers_of_output", "windows_of"]

# Where the column is missing, it is 0 for all windows.
_NUMBERS: dict[str, np.dtype] = {"quality": MASK, "revision": np.dtype(np.int64)}


class Answer(msgspec.Struct, frozen=True):
    """What was said of one window.

    Attributes:
        index: Stream index of its last sample.
        effective_id: Of base and layers.
        score: As bytes of float64, a number for each label.
        value: The same.
        marks: What else only some windows have, as bytes, by field of `Estimates`.
        quality: What is suspect about its samples, bits of `Quality`.
        revision: How often it was answered before.
        is_retracted: Whether it is taken back.
    """

    index: int
    effective_id: str
    score: bytes
    value: bytes
    marks: dict[str, bytes] = {}
    quality: int = 0
    revision: int = 0
    is_retracted: bool = False


def answers_of(parts: Sequence[EstimateRows], decisions: Sequence[Decision]) -> list[Answers]:
    """Return the entries that tell estimates and decisions; none if there is nothing to tell."""
    found = [
        Answers(
            rows.kind[0],
            *rows.answers(),
            decisions=(),
            marks=rows.marks(),
            is_retracted=rows.kind[1],
            is_last=False,
        )
        for rows in parts
    ]
    if not found and decisions:
        found = [Answers(decisions[-1].effective_id, b"", b"", b"", ())]
    if found:
        # They carry their own effective id.
        found[-1] = msgspec.structs.replace(found[-1], decisions=tuple(decisions), is_last=True)
    return found


def answers_of_output(output: Output) -> list[Answers]:
    """Return the entries that tell one output."""
    told = (output.estimates, False), (output.retracted, True)
    parts = []
    for estimates, is_retracted in told:
        if estimates is not None and len(estimates):
            parts.append(EstimateRows(estimates, is_retracted=is_retracted))
            parts[-1].add(estimates)
    return answers_of(parts, output.decisions)


def windows_of(answers: Answers) -> Iterator[Answer]:
    """Yield what was said of each window, in order.

    Raises:
        ValueError: The columns do not fit each other.
    """
    index = np.frombuffer(answers.index, np.int64).tolist()
    count = len(index)
    marks = {name: column for name, column in answers.marks.items() if name not in _NUMBERS}
    columns = (
        index,
        _rows(answers.score or answers.value, count),
        _rows(answers.value, count),
        _maps({name: _rows(column, count) for name, column in marks.items()}, count),
        *(_numbers(answers.marks.get(name), dtype, count) for name, dtype in _NUMBERS.items()),
    )
    for one, score, value, others, quality, revision in zip(*columns, strict=True):
        yield Answer(
            one,
            answers.effective_id,
            score,
            value,
            others,
            quality,
            revision,
            answers.is_retracted,
        )


def _rows(content: bytes, count: int) -> list[bytes]:
    """Split a column into equal rows."""
    size = len(content) // count if count else 0
    return [content[row * size : (row + 1) * size] for row in range(count)]


def _maps(columns: dict[str, list[bytes]], count: int) -> list[dict[str, bytes]]:
    """Return the columns row by row."""
    return [{name: rows[row] for name, rows in columns.items()} for row in range(count)]


def _numbers(content: bytes | None, dtype: np.dtype, count: int) -> list[int]:
    """Return a number for each window; 0 where the column is missing."""
    if content is None:
        return [0] * count
    found: list[int] = np.frombuffer(content, dtype).tolist()
    return found
