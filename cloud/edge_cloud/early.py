"""Frames whose predecessors are with another ingester: they wait a moment.

A shared subscription deals a device's frames out to its members, so that the second one
may be read before the first one is stored. To send a device back each time would make it
send everything again, which is dealt out again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from edge_runtime.ports import Clock
from edge_runtime.sync.frames import RowFrame
from edge_runtime.sync.messages import Ack

__all__ = ["Arrived", "Early", "Key", "key_of", "key_of_ack"]

Key = tuple[str, int, int, str]
"""Device, incarnation, epoch and stream."""

_RETRY_S = 0.005
_MOST_BYTES = 64 << 20


class Arrived(msgspec.Struct, frozen=True):
    """A frame and when it came.

    Attributes:
        frame: Decoded.
        size: Bytes of its payload.
        at_ns: Monotonic time.
    """

    frame: RowFrame
    size: int
    at_ns: int


class Early:
    """Keeps early frames for so long, 64 MiB of them at most; then their device resumes.

    Args:
        wait_s: How long; 0 for not at all, as for an ingester that gets every frame.
        clock: Monotonic time.
    """

    def __init__(self, wait_s: float, clock: Clock) -> None:
        self._wait_ns = round(wait_s * 1e9)
        self._clock = clock
        self._kept: list[Arrived] = []

    def retry_in_s(self) -> float:
        """Return how long to wait before what is kept is tried again."""
        return _RETRY_S if self._kept else float("inf")

    def take(self) -> list[Arrived]:
        """Return what is kept, to be tried again; nothing is kept any more."""
        kept, self._kept = self._kept, []
        return kept

    def keep(self, arrived: Sequence[Arrived], acks: Sequence[Ack]) -> Iterator[Ack]:
        """Keep the early ones among frames that were tried.

        Args:
            arrived: What was tried.
            acks: What the store answered.

        Yields:
            What to tell the devices: nothing about frames that wait and brought nothing yet.
        """
        upto = {key_of_ack(ack): ack.upto for ack in acks}
        early, reached = [], set()
        for each in arrived:
            if each.frame.seq0 > upto[key_of(each.frame)]:
                early.append(each)
            else:
                reached.add(key_of(each.frame))
        late_ns = self._clock.monotonic_ns() - self._wait_ns
        over = {key_of(each.frame) for each in early if each.at_ns <= late_ns}
        self._kept = self._bounded([each for each in early if key_of(each.frame) not in over], over)
        waiting = {key_of(each.frame) for each in self._kept}
        for ack in acks:
            if key_of_ack(ack) in over or key_of_ack(ack) not in waiting:
                yield ack
            elif key_of_ack(ack) in reached:
                yield msgspec.structs.replace(ack, must_resume=False)

    def _bounded(self, early: Sequence[Arrived], over: set[Key]) -> list[Arrived]:
        """Return what there is room for; the devices of the rest resume."""
        kept, size = [], 0
        for each in sorted(early, key=lambda one: one.at_ns):
            size += sum(column.nbytes for column in each.frame.table.columns.values())
            if size <= _MOST_BYTES:
                kept.append(each)
            else:
                over.add(key_of(each.frame))
        return kept


def key_of(frame: RowFrame) -> Key:
    """Return whose rows a frame brings."""
    return frame.device, frame.incarnation, frame.epoch, frame.stream


def key_of_ack(ack: Ack) -> Key:
    """Return whose rows an ack is about."""
    return ack.device, ack.incarnation, ack.epoch, ack.stream
