"""How far back late samples may reach: checkpoints, and what was answered since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edge_runtime.pipeline.timeline.behind import Stage
from edge_runtime.pipeline.timeline.ledger import Ledger, LedgerState
from edge_runtime.types import Output

__all__ = ["Checkpoint", "Past", "Rewound"]

# Checkpoints within the allowed lateness: more cost snapshots, fewer cost replays.
_CHECKPOINTS = 8


class Checkpoint(msgspec.Struct, frozen=True):
    """A stage, and the number of the first block of answers after it."""

    stage: Stage
    block: int


class Rewound(NamedTuple):
    """What a way back has taken away, to be compared or put back.

    Attributes:
        stage: Where to go on from.
        block: Number of the first answer after it.
        answers: All since.
        checkpoints: As they were.
    """

    stage: Stage
    block: int
    answers: list[Output]
    checkpoints: list[Checkpoint]


class Past:
    """Remembers the stream within the allowed lateness, and nothing where there is none.

    Args:
        nothing: An answer without windows.
        lateness_ns: The allowed lateness.
        period_ns: Of the grid.
        hop: Checkpoints lie at least so many slots apart.
    """

    def __init__(self, nothing: Output, lateness_ns: int, period_ns: int, hop: int) -> None:
        self._lateness_ns = lateness_ns
        self._spacing = max(hop, lateness_ns // (period_ns * _CHECKPOINTS))
        self.begin(nothing)

    def begin(self, nothing: Output) -> None:
        """Forget everything: what comes is answered otherwise, or elsewhere."""
        self._ledger = Ledger(nothing)
        self._checkpoints: list[Checkpoint] = []

    def remember(self, stage: Stage) -> None:
        """Take a checkpoint before the next slot, if one may be needed."""
        if self._lateness_ns:
            self._checkpoints.append(Checkpoint(stage, self._ledger.next))

    def say(self, output: Output, *, is_again: bool) -> Output:
        """Remember an answer and return it with its revision.

        Args:
            output: The answer.
            is_again: It was given before: `differences` compares and numbers it.
        """
        if not self._lateness_ns:
            return output
        self._ledger.say(output)
        return output if is_again else self._ledger.numbered(output)

    def cuts(self, number: np.ndarray) -> list[int]:
        """Return before which of these slots, by their position, a checkpoint is due."""
        if not self._lateness_ns:
            return []
        slot = self._checkpoints[-1].stage.slot
        before = -self._spacing - 1 if slot is None else slot
        laps = number // self._spacing
        return np.flatnonzero(np.diff(laps, prepend=before // self._spacing)).tolist()

    @property
    def oldest(self) -> int | None:
        """Slot of the oldest checkpoint; None for the begin of the stream."""
        return self._checkpoints[0].stage.slot

    def rewind(self, slot: int) -> Rewound:
        """Go back to the last checkpoint before a slot."""
        place = self._place_before(slot)
        checkpoint, checkpoints = self._checkpoints[place], list(self._checkpoints)
        del self._checkpoints[place + 1 :]
        answers = self._ledger.take_back(checkpoint.block)
        return Rewound(checkpoint.stage, checkpoint.block, answers, checkpoints)

    def undo(self, rewound: Rewound) -> None:
        """Take back a way back."""
        self._ledger.put_back(rewound.block, rewound.answers)
        self._checkpoints = rewound.checkpoints

    def differences(self, rewound: Rewound, after: Sequence[Output]) -> Output:
        """Return what was answered otherwise since; see `Ledger.differences`."""
        return self._ledger.differences(rewound.answers, after)

    def forget(self, slot: int) -> int | None:
        """Keep the last checkpoint before a slot, and later ones; return the oldest one's slot."""
        last = self._place_before(slot)
        if last:
            del self._checkpoints[:last]
            self._ledger.forget(self._checkpoints[0].block)
        return self.oldest

    def _place_before(self, slot: int) -> int:
        """Return which checkpoint is the last one before a slot."""
        slots = [one.stage.slot for one in self._checkpoints]
        return max((n for n, one in enumerate(slots) if one is None or one <= slot), default=0)

    def state(self) -> tuple[tuple[Checkpoint, ...], LedgerState]:
        """Return what must be kept to go on later as if nothing had happened."""
        return tuple(self._checkpoints), self._ledger.state()

    def go_on(self, checkpoints: Sequence[Checkpoint], ledger: Ledger) -> None:
        """Go on from what `state` gave, read again."""
        self._ledger, self._checkpoints = ledger, list(checkpoints)
