"""What was answered so far back as late samples may reach, and how answers differ.

An answer keeps its identity: a window the index of its last sample, a decision that,
its label and its edge. What changes gets the next revision, what vanishes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.quality import MASK, masks_or_none
from edge_runtime.types import Decision, Estimates, Output

__all__ = ["Ledger", "LedgerState", "joined_estimates"]

_Key = tuple[int, str, str]
# Columns that only some answers have, and that may change without the value; without
# one of them all of it is 0.
_MARKS = {
    "uncertain": np.dtype(np.bool_),
    "quality": MASK,
    "stage": np.dtype(np.uint8),
}


class _BlockState(msgspec.Struct, frozen=True):
    """Answers as bytes."""

    columns: tuple[bytes, ...]
    decisions: tuple[Decision, ...]
    marks: dict[str, bytes] = {}


class LedgerState(msgspec.Struct, frozen=True):
    """What a `Ledger` remembers.

    Attributes:
        first: Number of the oldest block.
        blocks: In order.
        void: Index and revision of windows that were retracted.
        void_decisions: Index, label, edge and revision of such decisions.
    """

    first: int = 0
    blocks: tuple[_BlockState, ...] = ()
    void: dict[int, int] = {}
    void_decisions: tuple[tuple[int, str, str, int], ...] = ()


class Ledger:
    """Remembers answers in blocks that are numbered from the start of the stream.

    Args:
        nothing: An answer without windows.
    """

    def __init__(self, nothing: Output) -> None:
        self._nothing = nothing
        self._first = 0
        self._blocks: list[Output] = []
        self._void: dict[int, int] = {}
        self._void_decisions: dict[_Key, int] = {}

    @property
    def next(self) -> int:
        """Number of the next block."""
        return self._first + len(self._blocks)

    def say(self, output: Output) -> None:
        """Remember answers; `differences` or `numbered` say which revision they are."""
        self._blocks.append(_without_inputs(output))

    def numbered(self, output: Output) -> Output:
        """Number the answers said last, which none of those before can be compared with.

        A session may end where one was taken back long before.
        """
        if not (self._void or self._void_decisions):
            return output
        none = self._nothing.estimates
        revision, _ = self._revisions(none, output.estimates)
        decisions = self._numbered(output.decisions, ())
        self._number_blocks(1, revision, decisions)
        estimates = msgspec.structs.replace(output.estimates, revision=revision)
        return msgspec.structs.replace(output, estimates=estimates, decisions=tuple(decisions))

    def take_back(self, number: int) -> list[Output]:
        """Forget the blocks from ``number`` on, and return them."""
        place = number - self._first
        taken = self._blocks[place:]
        del self._blocks[place:]
        return taken

    def put_back(self, number: int, blocks: Sequence[Output]) -> None:
        """Undo `take_back`, and forget what was said since."""
        self._blocks[number - self._first :] = blocks

    def forget(self, number: int) -> None:
        """Forget the blocks before ``number``: they can not change any more."""
        gone = self._blocks[: number - self._first]
        del self._blocks[: number - self._first]
        self._first = number
        final = max((int(one.estimates.index[-1]) for one in gone if len(one.estimates)), default=0)
        if self._void:
            self._void = {index: n for index, n in self._void.items() if index > final}
        if self._void_decisions:
            self._void_decisions = {k: n for k, n in self._void_decisions.items() if k[0] > final}

    def differences(self, before: Sequence[Output], after: Sequence[Output]) -> Output:
        """Return what differs, and number what was said again.

        Args:
            before: What `take_back` gave.
            after: All that was said since.
        """
        none = self._nothing.estimates
        old = joined_estimates([one.estimates for one in before], none)
        new = joined_estimates([one.estimates for one in after], none)
        revision, is_told = self._revisions(old, new)
        gone = self._vanished(old, new)
        was = [decision for one in before for decision in one.decisions]
        now = self._numbered([decision for one in after for decision in one.decisions], was)
        self._number_blocks(len(after), revision, now)
        told = msgspec.structs.replace(new, revision=revision)
        known = {_key(one): one for one in was}
        changed = [one for one in now if known.get(_key(one)) != one]
        return msgspec.structs.replace(
            self._nothing,
            estimates=_rows_of(told, is_told),
            decisions=(*self._retracted(was, now), *changed),
            retracted=gone if len(gone) else None,
        )

    # --- windows ---------------------------------------------------------------------

    def _revisions(self, old: Estimates, new: Estimates) -> tuple[np.ndarray, np.ndarray]:
        """Return the revision of each new window, and whether it is to be told."""
        revision = np.zeros(len(new), np.int64)
        is_told = np.ones(len(new), np.bool_)
        if self._void:
            revision[:] = [self._void.pop(index, -1) + 1 for index in new.index.tolist()]
        _, mine, its = np.intersect1d(new.index, old.index, assume_unique=True, return_indices=True)
        differs = _differ(new, mine, old, its)
        revision[mine] = _revision_of(old)[its] + differs
        is_told[mine] = differs
        return revision, is_told

    def _vanished(self, old: Estimates, new: Estimates) -> Estimates:
        """Return windows that are no more, with the revision that says so."""
        gone = _rows_of(old, ~np.isin(old.index, new.index, assume_unique=True))
        revision = _revision_of(gone) + 1
        self._void.update(zip(gone.index.tolist(), revision.tolist(), strict=True))
        return msgspec.structs.replace(gone, revision=revision, inputs=self._no_inputs(len(gone)))

    def _no_inputs(self, count: int) -> np.ndarray | None:
        """Return a place for inputs that are not kept so long: rows of one stream are alike."""
        like = self._nothing.estimates.inputs
        if like is None:
            return None
        empty = np.nan if like.dtype.kind == "f" else 0
        return np.full((count, *like.shape[1:]), empty, like.dtype)

    # --- decisions -------------------------------------------------------------------

    def _numbered(self, now: Sequence[Decision], was: Sequence[Decision]) -> list[Decision]:
        """Return decisions with the revision that each has among those before."""
        known = {_key(one): one for one in was}
        return [self._numbered_one(one, known.get(_key(one))) for one in now]

    def _numbered_one(self, decision: Decision, before: Decision | None) -> Decision:
        if before is None:
            revision = self._void_decisions.pop(_key(decision), -1) + 1
            return msgspec.structs.replace(decision, revision=revision)
        same = msgspec.structs.replace(decision, revision=before.revision)
        if same == before:
            return before
        return msgspec.structs.replace(decision, revision=before.revision + 1)

    def _retracted(self, was: Sequence[Decision], now: Sequence[Decision]) -> list[Decision]:
        kept = {_key(one) for one in now}
        gone = [
            msgspec.structs.replace(one, revision=one.revision + 1, is_retracted=True)
            for one in was
            if _key(one) not in kept
        ]
        self._void_decisions.update({_key(one): one.revision for one in gone})
        return gone

    def _number_blocks(
        self, count: int, revision: np.ndarray, decisions: Sequence[Decision]
    ) -> None:
        """Give the last blocks the revisions that were found for all of them."""
        row = place = 0
        for number in range(len(self._blocks) - count, len(self._blocks)):
            block = self._blocks[number]
            rows, some = len(block.estimates), len(block.decisions)
            self._blocks[number] = msgspec.structs.replace(
                block,
                estimates=msgspec.structs.replace(
                    block.estimates, revision=revision[row : row + rows]
                ),
                decisions=tuple(decisions[place : place + some]),
            )
            row, place = row + rows, place + some

    # --- state -----------------------------------------------------------------------

    def state(self) -> LedgerState:
        """Return what must be kept to go on later as if nothing had happened."""
        return LedgerState(
            self._first,
            tuple(
                _BlockState(
                    _columns(one.estimates),
                    one.decisions,
                    {name: column.tobytes() for name, column in _marks(one.estimates).items()},
                )
                for one in self._blocks
            ),
            dict(self._void),
            tuple((*key, n) for key, n in self._void_decisions.items()),
        )

    def restore(self, state: LedgerState) -> None:
        """Go on from ``state``.

        Raises:
            ModelError: It does not fit these labels.
        """
        try:
            self._blocks = [self._block(one) for one in state.blocks]
        except (ValueError, KeyError) as error:
            raise ModelError(
                f"the answers of a snapshot do not fit: {error}",
                expected=f"{self._nothing.estimates.score.shape[1]} labels",
            ) from error
        self._first = state.first
        self._void = dict(state.void)
        self._void_decisions = {(i, label, edge): n for i, label, edge, n in state.void_decisions}

    def _block(self, state: _BlockState) -> Output:
        index, start_ns, end_ns, revision = (
            np.frombuffer(column, np.int64) for column in state.columns[:4]
        )
        score, value = (
            np.frombuffer(column).reshape(len(index), self._nothing.estimates.score.shape[1])
            for column in state.columns[4:]
        )
        marks = {
            name: np.frombuffer(column, _MARKS[name]).reshape(self._shape(name, len(index)))
            for name, column in state.marks.items()
        }
        estimates = msgspec.structs.replace(
            self._nothing.estimates,
            **marks,
            index=index,
            start_ns=start_ns,
            end_ns=end_ns,
            revision=revision,
            score=score,
            value=value,
            inputs=None,
        )
        return msgspec.structs.replace(
            self._nothing, estimates=estimates, decisions=state.decisions
        )

    def _shape(self, name: str, count: int) -> tuple[int, ...]:
        """Return the shape of a column of marks for so many windows."""
        if name == "quality":
            return (count,)
        like = getattr(self._nothing.estimates, name)
        if like is None:
            raise ValueError(f"a column {name!r}")
        return (count, *like.shape[1:])


def joined_estimates(parts: Sequence[Estimates], nothing: Estimates) -> Estimates:
    """Return the rows of all parts in order; ``nothing`` if there are none."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return parts[0] if parts else nothing
    score = np.concatenate([part.score for part in parts])
    is_refined = any(part.value is not part.score for part in parts)
    inputs = [part.inputs for part in parts if part.inputs is not None]
    return msgspec.structs.replace(
        parts[0],
        index=np.concatenate([part.index for part in parts]),
        start_ns=np.concatenate([part.start_ns for part in parts]),
        end_ns=np.concatenate([part.end_ns for part in parts]),
        score=score,
        value=np.concatenate([part.value for part in parts]) if is_refined else score,
        inputs=np.concatenate(inputs) if len(inputs) == len(parts) else None,
        revision=np.concatenate([_revision_of(part) for part in parts]),
        **{name: _joined_marks(name, parts) for name in _MARKS},
    )


def _joined_marks(name: str, parts: Sequence[Estimates]) -> np.ndarray | None:
    there = [column for part in parts if (column := getattr(part, name)) is not None]
    if not there:
        return None
    return np.concatenate([_mark_of(part, name, there[0]) for part in parts])


def _mark_of(estimates: Estimates, name: str, like: np.ndarray) -> np.ndarray:
    column: np.ndarray | None = getattr(estimates, name)
    if column is None:
        return np.zeros((len(estimates), *like.shape[1:]), like.dtype)
    return column


def _revision_of(estimates: Estimates) -> np.ndarray:
    if estimates.revision is None:
        return np.zeros(len(estimates), np.int64)
    return estimates.revision


def _rows_of(estimates: Estimates, rows: np.ndarray) -> Estimates:
    score = estimates.score[rows]
    marks = {name: column[rows] for name, column in _marks(estimates).items()}
    if "quality" in marks:
        marks["quality"] = masks_or_none(marks["quality"])
    return msgspec.structs.replace(
        estimates,
        index=estimates.index[rows],
        start_ns=estimates.start_ns[rows],
        end_ns=estimates.end_ns[rows],
        score=score,
        value=score if estimates.value is estimates.score else estimates.value[rows],
        inputs=None if estimates.inputs is None else estimates.inputs[rows],
        revision=_revision_of(estimates)[rows],
        **marks,
    )


def _differ(new: Estimates, mine: np.ndarray, old: Estimates, its: np.ndarray) -> np.ndarray:
    """Tell which of the same windows have other bytes."""
    differs: np.ndarray = new.start_ns[mine] != old.start_ns[its]
    for name in ("score", "value"):
        ours, theirs = (
            np.ascontiguousarray(getattr(one, name)[rows]).view(np.int64)
            for one, rows in ((new, mine), (old, its))
        )
        differs |= (ours != theirs).any(axis=1)
    for name, like in (_marks(old) | _marks(new)).items():
        is_other = _mark_of(new, name, like)[mine] != _mark_of(old, name, like)[its]
        differs |= is_other.any(axis=tuple(range(1, is_other.ndim)))
    return differs


def _columns(estimates: Estimates) -> tuple[bytes, ...]:
    columns = (estimates.index, estimates.start_ns, estimates.end_ns, _revision_of(estimates))
    return tuple(one.tobytes() for one in (*columns, estimates.score, estimates.value))


def _marks(estimates: Estimates) -> dict[str, Any]:
    columns = {name: getattr(estimates, name) for name in _MARKS}
    return {name: column for name, column in columns.items() if column is not None}


def _without_inputs(output: Output) -> Output:
    estimates = msgspec.structs.replace(output.estimates, inputs=None)
    return msgspec.structs.replace(output, estimates=estimates)


def _key(decision: Decision) -> _Key:
    return decision.index, decision.label, decision.edge
