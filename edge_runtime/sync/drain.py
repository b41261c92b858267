"""Moves rows from the outbox to the cloud: window, acknowledgements, rewinding."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from edge_runtime.errors import WireError
from edge_runtime.ports import Clock
from edge_runtime.sync.blocks import Key
from edge_runtime.sync.coalesce import Parcel, parcels
from edge_runtime.sync.messages import MAX_PAYLOAD_BYTES, Ack
from edge_runtime.sync.metered import DayBudget
from edge_runtime.sync.outbox import Outbox, OutboxFullError, Which
from edge_runtime.sync.window import Window

__all__ = ["Budget", "Drain"]

log = logging.getLogger(__name__)

_READ_BYTES = 256 * 1024
_SETTLE_AGAIN_NS = 1_000_000_000
_FROM_THE_START = -(2**62)


class Budget:
    """How many bytes may be sent now, at a steady rate with short bursts.

    Args:
        bytes_per_s: The rate; None for no limit.
        clock: Monotonic time.
    """

    def __init__(self, bytes_per_s: int | None, clock: Clock) -> None:
        self._rate = bytes_per_s
        self._clock = clock
        self._most = float(max(bytes_per_s or 0, MAX_PAYLOAD_BYTES))
        self._left = self._most
        self._filled_ns = clock.monotonic_ns()

    def wait_ns(self, size: int) -> int:
        """Return how long until ``size`` bytes may be sent; 0 for now."""
        if self._rate is None:
            return 0
        now_ns = self._clock.monotonic_ns()
        self._left += (now_ns - self._filled_ns) * self._rate / 1e9
        self._left = min(self._left, self._most)
        self._filled_ns = now_ns
        return max(0, int((size - self._left) / self._rate * 1e9) + (size > self._left))

    def spend(self, size: int) -> None:
        """Note that ``size`` bytes were sent."""
        self._left -= size


class _Feed:
    """Where sending has come to in some of the outbox's streams.

    Attributes:
        which: Those streams.
        is_urgent: Whether they may spend all of a metered day.
        cursor: Id of the last block that was read.
        ready: Its frames that were not sent yet.
        blocks_seen: How many blocks were written when nothing was left; None if some was.
    """

    def __init__(self, which: Which) -> None:
        self.which: Which = which
        self.is_urgent = which == "decisions"
        self.ready: deque[Parcel] = deque()
        self.rewind()

    def rewind(self) -> None:
        """Begin at the oldest block."""
        self.ready.clear()
        self.cursor = _FROM_THE_START
        self.blocks_seen: int | None = None


class Drain:
    """Keeps up to ``limit`` frames on their way and rows safe until they are acknowledged.

    Delivery: at least once, in order per stream. On a metered link decisions go first.

    Args:
        device: Device id.
        outbox: Rows to deliver.
        clock: For time-outs.
        limit: Most frames on their way.
        budget: Limits the rate.
        day: Limits what a day may cost.
        publish: Hands a stream's payload to the transport; False when it takes none.
        jitter: Returns a number from 0 to 1.
        json: Write frames in the readable form.
    """

    def __init__(
        self,
        device: str,
        outbox: Outbox,
        clock: Clock,
        *,
        limit: int,
        budget: Budget,
        day: DayBudget,
        publish: Callable[[str, bytes], bool],
        jitter: Callable[[], float],
        json: bool = False,
    ) -> None:
        self._device = device
        self._outbox = outbox
        self._clock = clock
        self._limit = limit
        self._budget = budget
        self._publish = publish
        self._jitter = jitter
        self._is_json = json
        self._window = Window()
        self._day = day
        order: tuple[Which, ...] = ("decisions", "others") if day.is_metered else ("all",)
        self._feeds = tuple(map(_Feed, order))
        self._acked: dict[Key, int] = {}
        self._unsettled: dict[Key, int] = {}
        self._losses_seen = outbox.losses_total
        self._resumed: tuple[Key, int] | None = None
        self._resumed_ns = 0
        self.frames_sent_total = 0
        self.rows_acked_total = 0
        self.rewinds_total = 0

    @property
    def has_sent_all(self) -> bool:
        """Whether the last look at the outbox found nothing that was not sent."""
        return all(feed.blocks_seen is not None for feed in self._feeds)

    @property
    def inflight_frames(self) -> int:
        """Frames sent and not acknowledged."""
        return len(self._window)

    def fill(self) -> bool:
        """Send frames until the window, the budget or the outbox says stop.

        Returns:
            False when the transport took no more.
        """
        self._look_for_losses()
        self._look_at_the_clock()
        return all(map(self._fill_from, self._feeds))

    def _fill_from(self, feed: _Feed) -> bool:
        while self._window.room(self._limit) and self._has_ready(feed):
            parcel = feed.ready[0]
            if parcel.upto <= self._acked.get(parcel.key, 0):
                feed.ready.popleft()
                continue
            if self._wait_ns(feed):
                break
            if not self._publish(parcel.block.stream, parcel.payload):
                return False
            feed.ready.popleft()
            self._budget.spend(len(parcel.payload))
            self._window.add(parcel.key, parcel.upto, self._clock.monotonic_ns())
            self.frames_sent_total += 1
        return True

    def _wait_ns(self, feed: _Feed) -> int:
        """Return how long until the next frame of a feed may be sent; 0 for now."""
        size = len(feed.ready[0].payload)
        if not self._day.allows(size, is_urgent=feed.is_urgent):
            return self._day.renews_in_ns()
        return self._budget.wait_ns(size)

    def due_in_ns(self) -> int | None:
        """Return how long until there is something to do without an event; None for never."""
        dues = [self._window.due_in_ns(self._clock.monotonic_ns())]
        dues.append(_SETTLE_AGAIN_NS if self._unsettled else None)
        if self._window.room(self._limit):
            dues += [self._wait_ns(feed) for feed in self._feeds if feed.ready]
        return min((due for due in dues if due is not None), default=None)

    def acknowledge(self, ack: Ack) -> None:
        """Note what the cloud has, for `settle`; go back where it says so.

        Raises:
            WireError: It is for rows of this process that were never sent.
        """
        key = (ack.incarnation, ack.epoch, ack.stream)
        self._check(key, ack.upto)
        self._unsettled[key] = max(ack.upto, self._unsettled.get(key, 0))
        if self._window.has(key):
            self._note(key, ack.upto)
        self._window.acknowledge(key, ack.upto, self._clock.monotonic_ns())
        if ack.must_resume:
            self.settle()
            self._resume(key, ack.upto)

    def settle(self) -> None:
        """Delete what was acknowledged since the last time, in one transaction.

        On a full disk not even that may work: it is tried again, and rows that the cloud
        has already wait a little longer.
        """
        if not self._unsettled:
            return
        marks = self._unsettled
        try:
            gone = self._outbox.acknowledge(marks)
        except OutboxFullError:
            return
        self._unsettled = {}
        for key, left in gone.items():
            self.rows_acked_total += left
            if left:
                self._note(key, marks[key])

    def _note(self, key: Key, upto: int) -> None:
        self._acked[key] = max(upto, self._acked.get(key, 0))

    def rewind(self, reason: str) -> None:
        """Forget what is on its way and send again from the acknowledged mark."""
        for feed in self._feeds:
            feed.rewind()
        if len(self._window):
            self.rewinds_total += 1
            log.debug("drain.rewound", extra={"reason": reason, "frames": len(self._window)})
        self._window.clear()

    def _check(self, key: Key, upto: int) -> None:
        is_own = key[:2] == (self._outbox.incarnation, self._outbox.epoch)
        if is_own and upto > self._window.highest(key):
            raise WireError(
                f"acknowledgement of {key[2]} up to {upto}",
                where="ack",
                expected=f"at most {self._window.highest(key)}, which is what was sent",
            )

    def _resume(self, key: Key, upto: int) -> None:
        """Send again from ``upto``, once: each frame in flight may ask for it."""
        now_ns = self._clock.monotonic_ns()
        if self._resumed == (key, upto) and now_ns - self._resumed_ns < self._window.timeout_ns():
            return
        self._resumed, self._resumed_ns = (key, upto), now_ns
        self._acked[key] = upto
        missing = self._outbox.fill(*key, upto)
        if missing:
            log.error("drain.acknowledged_rows_missing", extra={"stream": key[2], "rows": missing})
        self.rewind("the cloud asked for it")

    def _look_for_losses(self) -> None:
        """Blocks that became gaps behind the cursor must be sent as such."""
        if self._losses_seen != self._outbox.losses_total:
            self._losses_seen = self._outbox.losses_total
            self.rewind("rows were discarded")

    def _look_at_the_clock(self) -> None:
        due_ns = self._window.due_in_ns(self._clock.monotonic_ns())
        if due_ns is not None and due_ns <= 0:
            self._window.strike(self._jitter())
            self.rewind("no acknowledgement in time")

    def _has_ready(self, feed: _Feed) -> bool:
        while not feed.ready:
            written = self._outbox.blocks_total
            if written == feed.blocks_seen:
                return False
            newest = _FROM_THE_START if feed.which == "all" else self._outbox.newest_id()
            blocks = self._outbox.pending(feed.cursor, _READ_BYTES, which=feed.which)
            if not blocks:
                feed.blocks_seen = written
                # Other streams' backlog need not be looked through again.
                feed.cursor = max(feed.cursor, newest)
                return False
            feed.blocks_seen = None
            feed.cursor = blocks[-1].id
            for parcel in parcels(self._device, blocks, self._acked, json=self._is_json):
                if parcel.payload:
                    feed.ready.append(parcel)
                else:
                    self._outbox.discard(parcel.block, "too_large")
            self._look_for_losses()
        return True
