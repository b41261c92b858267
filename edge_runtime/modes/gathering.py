"""Frames that wait are answered at once: a device that is behind catches up in blocks.

Nothing ever waits for company. What comes alone is answered alone; what has to wait
anyway, because others are before it, goes along with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from edge_runtime.pipeline.joining import follows
from edge_runtime.ports import Session
from edge_runtime.types import Frame

__all__ = ["Gatherer"]

# How long the first of the frames that are answered at once may have to wait for the last.
_AT_ONCE_NS = 2_000_000
# From so many on, fewer calls gain more than the snapshot costs that is taken before them.
_FEWEST = 8
_MOST = 64


class _Inbox(Protocol):
    """What waits, as an `Inbox` has it."""

    limit: int

    @property
    def is_empty(self) -> bool: ...
    def __len__(self) -> int: ...
    def get(self, timeout_s: float) -> object | None: ...
    def put_back(self, item: Any) -> None: ...


class Gatherer:
    """Takes frames that wait along with the one that is next.

    Thread: the pipeline thread only.

    Args:
        inbox: Where they wait. Its limit grows to what is answered at once, so that a
            source which is faster than its answers fills a block; never below what it was.
        session_of: Says which session a stream shares with others, if asking it about
            several streams at once was measured to pay.
        may_join: Says whether several frames of a stream may be answered at once.
    """

    def __init__(
        self,
        inbox: _Inbox,
        session_of: Callable[[str], Session | None],
        may_join: Callable[[str], bool],
    ) -> None:
        self._inbox = inbox
        self._session_of = session_of
        self._may_join = may_join
        self._least = inbox.limit
        # What a frame takes, nearly that of the dearest of late; unknown at first.
        self._frame_ns = _AT_ONCE_NS
        self._most = 1

    def take(self, first: Frame) -> list[list[Frame]]:
        """Return groups of frames that are answered at once, the first one among them.

        A group has one frame of each stream of a common session, or frames of one stream
        that follow each other. Nothing of a stream is overtaken, and nothing that is no
        frame: the first item that cannot go along is handled next.
        """
        if self._inbox.is_empty:
            return [[first]]
        groups: dict[Session | str, list[Frame]] = {}
        last: dict[str, Frame] = {}
        most, count = self._most if len(self._inbox) >= _FEWEST else 1, 0
        item: object | None = first
        while isinstance(item, Frame) and self._goes_along(
            item, last.get(item.stream), has_time=count < most
        ):
            groups.setdefault(self._session_of(item.stream) or item.stream, []).append(item)
            last[item.stream] = item
            count += 1
            item = self._inbox.get(0.0)
        if item is not None:
            self._inbox.put_back(item)
        return list(groups.values())

    def _goes_along(self, frame: Frame, before: Frame | None, *, has_time: bool) -> bool:
        """Tell whether a frame is answered now; ``before`` is the last one of its stream."""
        if self._session_of(frame.stream) is not None:
            return before is None
        if before is None:
            return has_time
        return has_time and self._may_join(frame.stream) and follows(frame, before)

    def note(self, count: int, taken_ns: int) -> None:
        """Learn how long so many frames took."""
        self._frame_ns = max(taken_ns // count, self._frame_ns * 7 // 8, 1)
        most = min(_AT_ONCE_NS // self._frame_ns, _MOST)
        self._most = most if most >= _FEWEST else 1
        self._inbox.limit = max(self._least, self._most)
