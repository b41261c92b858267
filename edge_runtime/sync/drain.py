"""Moves rows from the outbox to the cloud: window, acknowledgements, rewinding."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from edge_runtime.errors import WireError
from edge_runtime.ports import Clock
from edge_runtime.sync.coalesce import Key, Parcel, parcels
from edge_runtime.sync.messages import MAX_PAYLOAD_BYTES, Ack
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.window import Window

__all__ = ["Budget", "Drain"]

log = logging.getLogger(__name__)

_READ_BYTES = 256 * 1024
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


class Drain:
    """Keeps up to ``limit`` frames on their way and rows safe until they are acknowledged.

    Delivery: at least once, in order per stream.

    Args:
        device: Device id.
        outbox: Rows to deliver.
        clock: For time-outs.
        limit: Most frames on their way.
        budget: Limits the rate.
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
        self._ready: deque[Parcel] = deque()
        self._acked: dict[Key, int] = {}
        self._cursor = _FROM_THE_START
        self._losses_seen = outbox.losses_total
        self._resumed: tuple[Key, int] | None = None
        self._resumed_ns = 0
        self.frames_sent_total = 0
        self.rows_acked_total = 0
        self.rewinds_total = 0

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
        while len(self._window) < self._limit and self._has_ready():
            parcel = self._ready[0]
            if parcel.upto <= self._acked.get(parcel.key, 0):
                self._ready.popleft()
                continue
            if self._budget.wait_ns(len(parcel.payload)):
                break
            if not self._publish(parcel.block.stream, parcel.payload):
                return False
            self._ready.popleft()
            self._budget.spend(len(parcel.payload))
            self._window.add(parcel.key, parcel.upto, self._clock.monotonic_ns())
            self.frames_sent_total += 1
        return True

    def due_in_ns(self) -> int | None:
        """Return how long until there is something to do without an event; None for never."""
        dues = [self._window.due_in_ns(self._clock.monotonic_ns())]
        if self._ready and len(self._window) < self._limit:
            dues.append(self._budget.wait_ns(len(self._ready[0].payload)))
        return min((due for due in dues if due is not None), default=None)

    def acknowledge(self, ack: Ack) -> None:
        """Delete what the cloud has; go back where it says so.

        Raises:
            WireError: It is for rows of this process that were never sent.
        """
        key = (ack.incarnation, ack.epoch, ack.stream)
        self._check(key, ack.upto)
        left = self._outbox.acknowledge(*key, ack.upto)
        self.rows_acked_total += left
        if ack.upto > self._acked.get(key, 0) and (left or self._window.has(key)):
            self._acked[key] = ack.upto
        self._window.acknowledge(key, ack.upto, self._clock.monotonic_ns())
        if ack.must_resume:
            self._resume(key, ack.upto)

    def rewind(self, reason: str) -> None:
        """Forget what is on its way and send again from the acknowledged mark."""
        self._ready.clear()
        self._cursor = _FROM_THE_START
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

    def _has_ready(self) -> bool:
        while not self._ready:
            blocks = self._outbox.pending(self._cursor, _READ_BYTES)
            if not blocks:
                return False
            self._cursor = blocks[-1].id
            for parcel in parcels(self._device, blocks, self._acked, json=self._is_json):
                if parcel.payload:
                    self._ready.append(parcel)
                else:
                    self._outbox.discard(parcel.block, "too_large")
            self._look_for_losses()
        return True
