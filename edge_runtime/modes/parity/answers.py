"""What a mode answered, in a form that can be compared byte by byte."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edge_runtime.pipeline.records import decisions_table, estimates_table
from edge_runtime.types import Output, Table

__all__ = ["Answers", "Difference"]

_DecisionKey = tuple[int, int, str, str, float]
_DECISION_NAMES = ("index", "time_ns", "label", "edge", "value")
_MARKS = ("revision", "is_retracted")
_NO_INDEX = np.empty(0, np.int64)

_Columns = Mapping[str, np.ndarray]


class Difference(msgspec.Struct, frozen=True):
    """The first place where two modes differ.

    Attributes:
        what: ``windows``, ``values`` or ``decisions``.
        index: Stream index of the window or decision.
        is_: What this mode says there; None where it says nothing.
        expected: What the first mode says there.
    """

    what: str
    index: int
    is_: str | None
    expected: str | None


class Answers(msgspec.Struct, frozen=True, eq=False):
    """Every value and every decision of a run, in stream order, as it stands at last.

    Attributes:
        index: Of each window's last sample, shape (n,), int64.
        value: Shape (n, k), float64.
        decisions: Index, time, label, edge and value of each.
    """

    index: np.ndarray
    value: np.ndarray
    decisions: tuple[_DecisionKey, ...]

    @classmethod
    def of_outputs(cls, outputs: Iterable[Output], labels: int) -> Answers:
        """Collect what a pipeline gave."""
        estimates, decisions = [], []
        for output in outputs:
            estimates.append(estimates_table(output.estimates).columns)
            if output.retracted is not None:
                estimates.append(estimates_table(output.retracted, is_retracted=True).columns)
            decisions.append(decisions_table(output.decisions).columns)
        return cls._standing(estimates, decisions, labels)

    @classmethod
    def of_tables(
        cls, estimates: Sequence[Table], decisions: Sequence[Table], labels: int
    ) -> Answers:
        """Collect rows of an outbox."""
        rows, decided = ([table.columns for table in kind] for kind in (estimates, decisions))
        return cls._standing(rows, decided, labels)

    @classmethod
    def of_lines(cls, lines: Iterable[bytes], labels: int) -> Answers:
        """Collect lines of a ``jsonl`` sink, where a value that is not a number is null."""
        rows = [msgspec.json.decode(line) for line in lines]
        estimates = [row for row in rows if row["kind"] == "estimate"]
        decisions = [row for row in rows if row["kind"] == "decision"]
        values = [[np.nan if x is None else x for x in row["value"]] for row in estimates]
        columns = {
            "index": np.array([row["index"] for row in estimates], np.int64),
            "value": np.array(values, np.float64).reshape(-1, labels),
            **_marks_of(estimates),
        }
        decided = {name: np.array([row[name] for row in decisions]) for name in _DECISION_NAMES}
        return cls._standing([columns], [decided | _marks_of(decisions)], labels)

    @classmethod
    def of_tensors(cls, answers: Sequence[Mapping[str, np.ndarray]], labels: int) -> Answers:
        """Collect the outputs of a server's answers."""
        decisions = [
            {
                name: answer[f"decision_{name}"]
                for name in (*_DECISION_NAMES, *_MARKS)
                if f"decision_{name}" in answer
            }
            for answer in answers
        ]
        return cls._standing(answers, decisions, labels)

    @classmethod
    def _standing(
        cls, estimates: Sequence[_Columns], decisions: Sequence[_Columns], labels: int
    ) -> Answers:
        """Collect what stands at last: of each answer the last revision, and no void one."""
        index = np.concatenate([_NO_INDEX, *(one["index"] for one in estimates)])
        value = np.concatenate([np.empty((0, labels)), *(one["value"] for one in estimates)])
        keys = [key for columns in decisions for key in _keys_of(columns)]
        if any("revision" in one for one in estimates):
            rows = _rows_that_stand(index.tolist(), estimates)
            index, value = index[rows], value[rows]
            names = [(at, label, edge) for at, _, label, edge, _ in keys]
            # Late samples change decisions in another order than they were made in.
            keys = sorted(keys[row] for row in _rows_that_stand(names, decisions))
        return cls(index, value, tuple(keys))

    @property
    def digest(self) -> str:
        """SHA-256 over every byte of indices, values and decisions, hex."""
        digest = hashlib.sha256(self.index.astype("<i8").tobytes())
        digest.update(self.value.astype("<f8").tobytes())
        digest.update(msgspec.json.encode(self.decisions))
        return digest.hexdigest()

    def difference(self, expected: Answers) -> Difference | None:
        """Return the first place where these are not the bytes of ``expected``."""
        return (
            _differing_window(self, expected)
            or _differing_value(self, expected)
            or _differing_decision(self, expected)
        )


def _marks_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return which revision each row is, and whether it is taken back, where that is told."""
    if not any("revision" in row for row in rows):
        return {}
    told = [(row.get("revision", 0), row.get("is_retracted", False)) for row in rows]
    return dict(zip(_MARKS, map(np.array, zip(*told, strict=True)), strict=True))


def _rows_that_stand(names: Sequence[Hashable], told: Sequence[_Columns]) -> list[int]:
    """Return the rows that are the last word on what they name, in the order of the names."""
    revision, is_void = (
        np.concatenate([_NO_INDEX, *(_mark(columns, mark) for columns in told)]).tolist()
        for mark in _MARKS
    )
    last: dict[Any, int] = {}
    for row, name in enumerate(names):
        if name not in last or revision[row] > revision[last[name]]:
            last[name] = row
    return [row for _, row in sorted(last.items()) if not is_void[row]]


def _mark(columns: _Columns, name: str) -> np.ndarray:
    return columns.get(name, np.zeros(len(columns["index"]), np.int64))


def _keys_of(columns: _Columns) -> list[_DecisionKey]:
    return list(zip(*(columns[name].tolist() for name in _DECISION_NAMES), strict=True))


def _differing_window(one: Answers, other: Answers) -> Difference | None:
    if np.array_equal(one.index, other.index):
        return None
    count = min(len(one.index), len(other.index))
    places = np.flatnonzero(one.index[:count] != other.index[:count])
    at = int(places[0]) if len(places) else count
    mine, its = (_text_at(answers.index.tolist(), at) for answers in (one, other))
    return Difference("windows", int(its or mine or 0), mine, its)


def _differing_value(one: Answers, other: Answers) -> Difference | None:
    bits = one.value.view(np.uint64) != other.value.view(np.uint64)
    rows = np.flatnonzero(bits.any(axis=1))
    if not len(rows):
        return None
    row = int(rows[0])
    mine, its = (str(answers.value[row].tolist()) for answers in (one, other))
    return Difference("values", int(one.index[row]), mine, its)


def _differing_decision(one: Answers, other: Answers) -> Difference | None:
    for at in range(max(len(one.decisions), len(other.decisions))):
        mine, its = (_text_at(answers.decisions, at) for answers in (one, other))
        if mine != its:
            found = (one if at < len(one.decisions) else other).decisions[at]
            return Difference("decisions", found[0], mine, its)
    return None


def _text_at(items: Sequence[object], at: int) -> str | None:
    return repr(items[at]) if at < len(items) else None
