"""Results in columns, as outbox, wire and store keep them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edge_runtime.quality import MASK
from edge_runtime.types import Decision, Estimates, Table

__all__ = [
    "EstimateRows",
    "decisions_table",
    "estimates_table",
    "is_quality",
    "with_quality",
]

_QUALITY = "quality"

# Columns of estimates that only some streams have, in the order of a table.
_FURTHER = ("inputs", "revision", "uncertain", "stage")


class EstimateRows:
    """Estimates of one base and its layers, gathered window by window.

    They are kept as the bytes of their columns: the small arrays of a window take several
    times what is in them, push the model's weights out of the cache, and whoever writes
    them down would have to fetch each of them.

    Args:
        like: Has the ``effective_id`` and the shapes of all that will be added.
        is_retracted: Whether they are taken back.

    Attributes:
        kind: The ``effective_id`` of all of them, and whether they are taken back.
        row_bytes: What each of them takes at most.
    """

    def __init__(self, like: Estimates, *, is_retracted: bool = False) -> None:
        self.kind = like.effective_id, is_retracted
        self._like = like
        self._index, self._start_ns, self._end_ns = bytearray(), bytearray(), bytearray()
        self._score = bytearray()
        # None where no layer has refined a score yet.
        self._value: bytearray | None = None
        self._further = {name: bytearray() for name in _FURTHER if getattr(like, name) is not None}
        columns = (like.index, like.start_ns, like.end_ns, like.score, like.value)
        further = (getattr(like, name) for name in self._further)
        self.row_bytes = sum(map(_row_bytes, (*columns, *further)))
        # Masks of those windows that have any, by the first row.
        self._masks: dict[int, np.ndarray] = {}

    def add(self, estimates: Estimates) -> None:
        """Append a row for each window."""
        if estimates.value is not estimates.score:
            if self._value is None:
                self._value = bytearray(self._score)
            self._value += estimates.value.tobytes()
        elif self._value is not None:
            self._value += estimates.score.tobytes()
        if estimates.quality is not None:
            self._masks[len(self)] = estimates.quality
        self._index += estimates.index.tobytes()
        self._start_ns += estimates.start_ns.tobytes()
        self._end_ns += estimates.end_ns.tobytes()
        self._score += estimates.score.tobytes()
        for name, column in self._further.items():
            column += getattr(estimates, name).tobytes()

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self._index) // self._like.index.itemsize

    def answers(self) -> tuple[bytes, bytes, bytes]:
        """Return index, value and score of all rows, each as bytes of its column.

        The score is empty where it is the value: no layer has refined it.
        """
        if self._value is None:
            return bytes(self._index), bytes(self._score), b""
        return bytes(self._index), bytes(self._value), bytes(self._score)

    def marks(self) -> dict[str, bytes]:
        """Return what else was said of all rows, as far as there is anything; no inputs."""
        marks = {name: bytes(rows) for name, rows in self._further.items() if name != "inputs"}
        quality = self._quality()
        return marks if quality is None else {**marks, _QUALITY: quality.tobytes()}

    def table(self) -> Table:
        """Return all rows in order, see `estimates_table`; there is at least one."""
        like, (effective_id, is_retracted) = self._like, self.kind
        scores = _array(self._score, like.score)
        columns = {name: _array(rows, getattr(like, name)) for name, rows in self._further.items()}
        return estimates_table(
            Estimates(
                index=_array(self._index, like.index),
                start_ns=_array(self._start_ns, like.start_ns),
                end_ns=_array(self._end_ns, like.end_ns),
                score=scores,
                value=scores if self._value is None else _array(self._value, like.value),
                effective_id=effective_id,
                quality=self._quality(),
                **({"inputs": None} | columns),
            ),
            is_retracted=is_retracted,
        )

    def _quality(self) -> np.ndarray | None:
        if not self._masks:
            return None
        quality = np.zeros(len(self), MASK)
        for first, masks in self._masks.items():
            quality[first : first + len(masks)] = masks
        return quality


def _row_bytes(column: np.ndarray) -> int:
    return column.itemsize * math.prod(column.shape[1:])


def _array(rows: bytearray, like: np.ndarray) -> np.ndarray:
    return np.frombuffer(bytes(rows), like.dtype).reshape(-1, *like.shape[1:])


def estimates_table(estimates: Estimates, *, is_retracted: bool = False) -> Table:
    """Return one row per window.

    Columns: ``index``, ``start_ns``, ``end_ns`` int64; ``score``, ``value``
    float64 (n, k); ``inputs`` (n, …) if they were kept; ``uncertain`` bool (n, k) if a
    label has a reject band; ``stage`` uint8 of a cascade; ``quality`` uint16 where
    something is suspect;
    ``effective_id`` text; of a stream that can be revised also ``revision`` int64 and
    ``is_retracted`` bool.

    Args:
        estimates: The windows.
        is_retracted: Whether they are taken back.
    """
    columns = {
        "index": estimates.index,
        "start_ns": estimates.start_ns,
        "end_ns": estimates.end_ns,
        "score": estimates.score,
        "value": estimates.value,
    }
    if estimates.inputs is not None:
        columns["inputs"] = estimates.inputs
    if estimates.uncertain is not None:
        columns["uncertain"] = estimates.uncertain
    if estimates.stage is not None:
        columns["stage"] = estimates.stage
    if estimates.quality is not None:
        columns[_QUALITY] = estimates.quality
    columns["effective_id"] = np.full(len(estimates), estimates.effective_id, dtype="<U16")
    if estimates.revision is not None:
        columns["revision"] = estimates.revision
        columns["is_retracted"] = np.full(len(estimates), is_retracted)
    return Table(columns)


def decisions_table(decisions: Sequence[Decision]) -> Table:
    """Return one row per decision.

    Columns: ``index``, ``time_ns``, ``revision`` int64; ``value`` float64;
    ``model``, ``label``, ``edge``, ``effective_id``, ``tier`` text; ``is_retracted``
    bool where one of them is; ``quality`` uint16 where something is suspect.
    """
    is_retracted = np.array([d.is_retracted for d in decisions], np.bool_)
    quality = np.array([d.quality for d in decisions], MASK)
    return Table(
        {
            "index": np.array([d.index for d in decisions], np.int64),
            "time_ns": np.array([d.time_ns for d in decisions], np.int64),
            "model": np.array([d.model for d in decisions], np.str_),
            "label": np.array([d.label for d in decisions], np.str_),
            "edge": np.array([d.edge for d in decisions], np.str_),
            "value": np.array([d.value for d in decisions], np.float64),
            "effective_id": np.array([d.effective_id for d in decisions], "<U16"),
            "tier": np.array([d.tier for d in decisions], np.str_),
            "revision": np.array([d.revision for d in decisions], np.int64),
            **({"is_retracted": is_retracted} if is_retracted.any() else {}),
            **({_QUALITY: quality} if quality.any() else {}),
        }
    )


def is_quality(name: str, column: np.ndarray) -> bool:
    """Whether a column is the one that stands only where something is suspect."""
    return name == _QUALITY and column.dtype == MASK and column.ndim == 1


def with_quality(tables: Sequence[Table], *, is_wanted: bool = False) -> list[Table]:
    """Return the tables, all of them with a column ``quality`` if one has it.

    Rows without it are those about which nothing is suspect: 0.

    Args:
        tables: To be joined.
        is_wanted: Give it to them even if none has it.
    """
    if not is_wanted and all(_QUALITY not in table.columns for table in tables):
        return list(tables)
    return [
        table
        if _QUALITY in table.columns
        else Table({**table.columns, _QUALITY: np.zeros(len(table), MASK)})
        for table in tables
    ]
