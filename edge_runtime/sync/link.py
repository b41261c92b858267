"""The device's side of the sync protocol: outbox up, jobs and acknowledgements down."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.errors import WireError
from edge_runtime.ports import Clock, Connected, Disconnected, Message, Transport, TransportEvent
from edge_runtime.sync.drain import Budget, Drain
from edge_runtime.sync.messages import (
    Ack,
    Answers,
    BlobChunk,
    BoardTimes,
    CloudState,
    Command,
    Job,
    Last,
    LastRow,
    Life,
    decode,
    encode,
)
from edge_runtime.sync.metered import DayBudget, packet_bytes
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.sync.topics import Topics

if TYPE_CHECKING:
    from edge_runtime.config import SyncConfig

__all__ = ["Downlink", "Handler", "Link", "LinkStats"]

log = logging.getLogger(__name__)

Downlink = Job | BlobChunk | Command
"""What the cloud may ask of a device."""

Handler = Callable[[Downlink], Sequence[Message]]
"""Answers a downlink message; called on the link's thread."""

_RANDOM = secrets.SystemRandom()
_DOWNLINK: dict[str, type[Job] | type[BlobChunk] | type[Command]] = {
    "job": Job,
    "blob": BlobChunk,
    "cmd": Command,
}
_EVENTS_PER_STEP = 64
_SEND_LIMIT = 256
_LAST_EVERY_NS = 10**9
_CONGESTED_S = 0.02
_LONGEST_WAIT_S = 1.0
# After all rows were sent, those that are committed within this time go together.
_REST_NS = 50_000_000
_NEVER_S = float("inf")
_NO_ANSWERS: Mapping[str, Answers] = {}
_NO_TIMES: Mapping[str, BoardTimes] = {}


class LinkStats(msgspec.Struct, frozen=True):
    """What went over the link since the process started.

    Attributes:
        is_connected: Whether the broker is there.
        is_cloud_online: Whether an ingest is there.
        backlog_rows: Rows in the outbox.
        inflight_frames: Frames on their way.
        connections_total: Times the broker was reached.
        frames_sent_total: Frames published, repeated ones included.
        rows_acked_total: Rows that left the outbox by acknowledgement.
        rewinds_total: Times sending went back to the acknowledged mark.
        bytes_up: Payload bytes published.
        bytes_down: Payload bytes received.
        refused_total: Messages from the broker that did not decode or are not ours.
        handler_errors_total: Exceptions of the handler, all logged.
        discarded_total: Messages given to `send` that had to make room for newer ones.
        day_left_bytes: Of a metered day; None where the link is not metered.
    """

    is_connected: bool
    is_cloud_online: bool
    backlog_rows: int
    inflight_frames: int
    connections_total: int
    frames_sent_total: int
    rows_acked_total: int
    rewinds_total: int
    bytes_up: int
    bytes_down: int
    refused_total: int
    handler_errors_total: int
    discarded_total: int
    day_left_bytes: int | None


class Link:
    """Drains the outbox into the cloud and hands the cloud's messages to a handler.

    Delivery: rows at least once, in order per stream, deleted only on the
    cloud's acknowledgement; the cloud drops repeats by their identity.
    Messages given to `send` and answers of the handler at most once.

    Thread: one, which calls `run` or `step`; `send`, `show`, `announce`,
    `wake`, `note_commit` and `stats` are callable from any thread.

    Args:
        device: Device id, also the client id.
        transport: Not open yet.
        outbox: Rows to deliver.
        state: Its epoch and incarnation, after `StateStore.start`.
        clock: For time-outs and rates.
        handle: Answers jobs, chunks and commands.
        config: Window, rate limit and bytes a day.
        topics: The topic tree.
        json: Send frames in the readable form.
        jitter: Returns a number from 0 to 1 that stretches time-outs.
    """

    def __init__(
        self,
        device: str,
        transport: Transport,
        outbox: Outbox,
        state: StateStore,
        clock: Clock,
        handle: Handler,
        config: SyncConfig,
        *,
        topics: Topics | None = None,
        json: bool = False,
        jitter: Callable[[], float] = _RANDOM.random,
    ) -> None:
        self._device = device
        self._transport = transport
        self._outbox = outbox
        self._clock = clock
        self._handle = handle
        self._topics = topics or Topics()
        self._guard = threading.Lock()
        self._life = Life(device, state.epoch, state.incarnation, is_online=True)
        self._is_life_due = True
        self._shown: dict[str, Callable[[], LastRow]] = {}
        self._is_last_due = False
        self._next_last_ns = clock.monotonic_ns()
        self._to_send: deque[Message] = deque()
        self._day = DayBudget(config.bytes_per_day, state, clock)
        self._drain = Drain(
            device,
            outbox,
            clock,
            limit=config.inflight_frames,
            budget=Budget(config.bytes_per_s, clock),
            day=self._day,
            publish=self._publish_frame,
            jitter=jitter,
            json=json,
        )
        self._rest_ends_ns: int | None = None
        self._is_connected = False
        self._is_cloud_online = False
        self._cloud = CloudState(is_online=False)
        self._connections_total = 0
        self._bytes_up = 0
        self._bytes_down = 0
        self._refused_total = 0
        self._handler_errors_total = 0
        self._discarded_total = 0

    # --- any thread -------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Publish a message as soon as the link is up; older ones give way (``drop_oldest``)."""
        with self._guard:
            if len(self._to_send) == _SEND_LIMIT:
                self._to_send.popleft()
                self._discarded_total += 1
            self._to_send.append(message)
        self._transport.wake()

    def show(self, stream: str, row: Callable[[], LastRow]) -> None:
        """Show the newest answer of a stream in ``up/last``, at most once a second.

        Args:
            stream: Its name.
            row: Makes the answer when it is sent, on the network thread.
        """
        with self._guard:
            self._shown[stream] = row
            self._is_last_due = True

    def announce(
        self,
        *,
        base: Mapping[str, str],
        effective: Mapping[str, str],
        runtime: str,
        streams: Mapping[str, Answers] = _NO_ANSWERS,
        board_times: Mapping[str, BoardTimes] = _NO_TIMES,
    ) -> None:
        """Say in ``up/life`` what runs, now and on every connection.

        Args:
            base: Digest of the active base per pipeline stream.
            effective: Effective id per pipeline stream.
            runtime: Version of edge-runtime.
            streams: What each pipeline stream answers.
            board_times: What this board took for the base of a stream, where it is known.
        """
        with self._guard:
            self._life = msgspec.structs.replace(
                self._life,
                base=dict(base),
                effective=dict(effective),
                runtime=runtime,
                streams=dict(streams),
                board_times=dict(board_times),
            )
            self._is_life_due = True
        self._transport.wake()

    def wake(self) -> None:
        """End the wait of `step` now; for whoever has set the ``stop`` of `run`."""
        self._transport.wake()

    def note_commit(self) -> None:
        """Look at the outbox, at the latest when a rest ends; for the writer after a commit."""
        if self._rest_ends_ns is None:
            self._transport.wake()

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""
        return self._is_connected

    @property
    def is_day_spent(self) -> bool:
        """Whether a metered day is spent but for what decisions may still take.

        Then life and acknowledgements flow, and decisions as long as their share lasts.
        """
        return not self._day.allows(0, is_urgent=False)

    def stats(self) -> LinkStats:
        """Return the counters."""
        return LinkStats(
            is_connected=self._is_connected,
            is_cloud_online=self._is_cloud_online,
            backlog_rows=self._outbox.rows,
            inflight_frames=self._drain.inflight_frames,
            connections_total=self._connections_total,
            frames_sent_total=self._drain.frames_sent_total,
            rows_acked_total=self._drain.rows_acked_total,
            rewinds_total=self._drain.rewinds_total,
            bytes_up=self._bytes_up,
            bytes_down=self._bytes_down,
            refused_total=self._refused_total,
            handler_errors_total=self._handler_errors_total,
            discarded_total=self._discarded_total,
            day_left_bytes=self._day.left_bytes,
        )

    # --- the link's thread --------------------------------------------------------------

    def open(self) -> None:
        """Start connecting; the will says that the device is gone."""
        with self._guard:
            will = msgspec.structs.replace(self._life, is_online=False)
        filters = [self._topics.dn(self._device, "#"), self._topics.all_cloud]
        self._transport.open(filters, self._life_message(will))

    def run(self, stop: threading.Event) -> None:
        """Open, work until ``stop`` is set, close. Wake the link after setting it."""
        self.open()
        try:
            while not stop.is_set():
                self.step(_LONGEST_WAIT_S)
        finally:
            self.close()

    def step(self, timeout_s: float) -> None:
        """Send what may be sent, wait at most ``timeout_s`` for events, handle them, send again.

        Raises:
            StoreError: The outbox failed.
        """
        event = self._transport.receive(self._send_all(timeout_s))
        if event is None:
            self._rest_ends_ns = None
        for _ in range(_EVENTS_PER_STEP):
            if event is None:
                break
            self._on_event(event)
            event = self._transport.receive(0.0)
        self._drain.settle()
        self._send_all(timeout_s)

    def close(self) -> None:
        """Say good-bye and disconnect; safe to call twice."""
        with self._guard:
            goodbye = msgspec.structs.replace(self._life, is_online=False)
        self._publish(self._life_message(goodbye))
        self._transport.close()
        self._day.close()
        self._is_connected = False

    # --- up -------------------------------------------------------------------------------

    def _send_all(self, timeout_s: float) -> float:
        """Send what may be sent; return how long to wait for events after that."""
        if not self._is_connected:
            return timeout_s
        self._publish_life()
        waits_s = [timeout_s]
        if self.is_day_spent:
            waits_s.append(self._day.renews_in_ns() / 1e9)
        else:
            self._publish_messages()
            waits_s.append(self._publish_last())
        if self._is_cloud_online:
            waits_s.append(self._rest_s() or self._send_rows())
        return min(waits_s)

    def _rest_s(self) -> float:
        """Return how long not to look at the outbox; 0 for now."""
        if self._rest_ends_ns is None:
            return 0.0
        left_ns = self._rest_ends_ns - self._clock.monotonic_ns()
        if left_ns <= 0:
            self._rest_ends_ns = None
        return max(left_ns, 0) / 1e9

    def _send_rows(self) -> float:
        """Send rows; return in how many seconds there is more to do."""
        sent = self._drain.frames_sent_total
        if not self._drain.fill():
            return _CONGESTED_S
        if self._drain.has_sent_all and self._drain.frames_sent_total > sent:
            self._rest_ends_ns = self._clock.monotonic_ns() + _REST_NS
            return _REST_NS / 1e9
        due_ns = self._drain.due_in_ns()
        return _NEVER_S if due_ns is None else max(due_ns, 0) / 1e9

    def _publish(self, message: Message) -> bool:
        if not self._transport.publish(message):
            return False
        self._bytes_up += len(message.payload)
        self._day.spend(packet_bytes(message.topic, message.payload))
        return True

    def _publish_frame(self, stream: str, payload: bytes) -> bool:
        return self._publish(Message(self._topics.tel(self._device, stream), payload))

    def _publish_life(self) -> None:
        with self._guard:
            life, is_due, self._is_life_due = self._life, self._is_life_due, False
        if is_due and not self._publish(self._life_message(life)):
            self._is_life_due = True

    def _life_message(self, life: Life) -> Message:
        try:
            payload = encode(life)
        except WireError:
            # Many streams with many labels: what runs is said all the same.
            payload = encode(msgspec.structs.replace(life, streams={}, board_times={}))
        return Message(self._topics.up(self._device, "life"), payload, retain=True)

    def _publish_messages(self) -> None:
        while self._to_send:
            with self._guard:
                message = self._to_send.popleft()
            if not self._publish(message):
                with self._guard:
                    self._to_send.appendleft(message)
                return

    def _publish_last(self) -> float:
        """Publish the newest answers if it is time; return in how many seconds it will be."""
        if not self._is_last_due:
            return _NEVER_S
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._next_last_ns:
            return (self._next_last_ns - now_ns) / 1e9
        with self._guard:
            self._is_last_due = False
            shown = dict(self._shown)
        rows = {stream: row() for stream, row in shown.items()}
        self._next_last_ns = now_ns + _LAST_EVERY_NS
        topic = self._topics.up(self._device, "last")
        if not self._publish(Message(topic, self._last_payload(rows), qos=0, retain=True)):
            self._is_last_due = True
        return _NEVER_S

    def _last_payload(self, rows: dict[str, LastRow]) -> bytes:
        last = Last(self._device, self._clock.now_ns(), rows)
        try:
            return encode(last)
        except WireError:
            # Many streams with many values: what has started counts most.
            bare = {name: msgspec.structs.replace(row, values={}) for name, row in rows.items()}
            return encode(msgspec.structs.replace(last, streams=bare))

    # --- down -----------------------------------------------------------------------------

    def _on_event(self, event: TransportEvent) -> None:
        match event:
            case Message():
                self._on_message(event)
            case Connected():
                self._on_connected()
            case Disconnected():
                self._is_connected = self._is_cloud_online = False
                log.info("link.lost", extra={"device": self._device, "reason": event.reason})

    def _on_connected(self) -> None:
        self._is_connected = True
        # Until the retained presence arrives nobody is known to listen.
        self._is_cloud_online = False
        self._is_life_due = True
        self._is_last_due = bool(self._shown)
        self._connections_total += 1
        self._drain.rewind("connected again")
        log.info("link.connected", extra={"device": self._device})

    def _on_message(self, message: Message) -> None:
        self._bytes_down += len(message.payload)
        self._day.spend(packet_bytes(message.topic, message.payload))
        try:
            self._dispatch(message)
        except WireError as error:
            self._refused_total += 1
            log.warning("link.message_refused", extra={"topic": message.topic, "why": str(error)})

    def _dispatch(self, message: Message) -> None:
        address = self._topics.parse(message.topic)
        if (address.way, address.leaf) == ("all", "cloud"):
            self._on_presence(decode(message.payload, CloudState))
        elif (address.way, address.device) != ("dn", self._device):
            raise WireError("topic of somebody else", where=message.topic)
        elif address.leaf == "ack":
            self._on_ack(decode(message.payload, Ack))
        elif address.leaf in _DOWNLINK:
            self._ask_handler(decode(message.payload, _DOWNLINK[address.leaf]))
        else:
            raise WireError("unknown topic", where=message.topic, expected="ack, job, blob or cmd")

    def _on_presence(self, state: CloudState) -> None:
        was_online, self._is_cloud_online = self._is_cloud_online, state.is_online
        if state.is_online != was_online:
            log.info("link.cloud_changed", extra={"is_online": state.is_online})
        if state.is_online and state != self._cloud:
            # Whoever came up has not seen what was on its way to the one before.
            self._drain.rewind("the cloud came up")
        self._cloud = state

    def _on_ack(self, ack: Ack) -> None:
        if ack.device != self._device:
            raise WireError(f"acknowledgement for {ack.device!r}", where="ack")
        self._drain.acknowledge(ack)

    def _ask_handler(self, asked: Downlink) -> None:
        """Answer a job, chunk or command; a failing handler never ends the link."""
        try:
            answers = self._handle(asked)
        except Exception:
            self._handler_errors_total += 1
            log.exception("link.handler_failed", extra={"asked": type(asked).__name__})
            return
        for answer in answers:
            self.send(answer)
