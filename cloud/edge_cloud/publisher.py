"""The registry role: sends jobs until devices have answered, and serves archives in chunks.

Delivery: a job is sent when its device is online, and again on every return of
the device and after a time-out, until a report says how it ended. Devices do a
job once, however often it comes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from edge_cloud.boards.kept import Boards
from edge_cloud.jobs import JobRow, Jobs
from edge_cloud.registry import Registry
from edge_runtime.clock import SystemClock
from edge_runtime.errors import WireError
from edge_runtime.ports import Clock, Message
from edge_runtime.sync.messages import (
    BlobChunk,
    BlobRequest,
    JobReport,
    Life,
    decode,
    encode,
    unknown_fields,
)
from edge_runtime.sync.topics import Address, Topics
from edge_runtime.update.trust import CHUNK_BYTES

__all__ = ["Publisher", "PublisherConfig"]

log = logging.getLogger(__name__)

_LONGEST_RESEND_S = 300.0
_WAITING_CHUNKS = 128


class PublisherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How jobs and archives are sent.

    Attributes:
        resend_s: Time without an answer after which a job is sent again; doubles each time.
        tries: Sendings without any answer after which a job ends as ``silent``.
        blob_bytes_per_s: Limit on chunks for all devices together; None for no limit.
    """

    resend_s: float = 10.0
    tries: int = 50
    blob_bytes_per_s: int | None = None


class _Sent(msgspec.Struct):
    """When a job was last sent by this process, and how often."""

    at_ns: int
    times: int


class Publisher:
    """Send jobs and chunks; used by one thread.

    Args:
        publish: Hands a message to the link; False while it is down.
        jobs: What to send.
        registry: Archives.
        topics: The topic tree.
        config: Time-outs and limits.
        clock: For time-outs.
        on_changed: Told after a device said what it runs, or how a job ended.
        boards: Keeps what devices say their boards took; None where nobody asks.
    """

    def __init__(
        self,
        publish: Callable[[Message], bool],
        jobs: Jobs,
        registry: Registry,
        *,
        topics: Topics | None = None,
        config: PublisherConfig | None = None,
        clock: Clock | None = None,
        on_changed: Callable[[], None] | None = None,
        boards: Boards | None = None,
    ) -> None:
        self._publish = publish
        self._jobs = jobs
        self._registry = registry
        self._topics = topics or Topics()
        self._config = config or PublisherConfig()
        self._clock = clock or SystemClock()
        self._on_changed = on_changed or _ignore
        self._boards = boards
        self._sent: dict[str, _Sent] = {}
        self._chunks: dict[str, deque[tuple[str, Path, int, int]]] = {}
        self._budget = _Budget(self._config.blob_bytes_per_s, self._clock)
        self.blobs_refused_total = 0

    # --- what devices say ---------------------------------------------------------------

    def handle(self, address: Address, payload: bytes) -> None:
        """Take one ``life``, ``job`` or ``blob`` message of a device; others are passed over.

        Raises:
            WireError: It does not decode, or speaks for another device.
        """
        match address.leaf:
            case "life":
                life = decode(payload, Life)
                _check_sender(life.device, address)
                self._note_life(life, unknown_fields(payload, Life))
            case "job":
                report = decode(payload, JobReport)
                _check_sender(report.device, address)
                self._note_report(report, unknown_fields(payload, JobReport))
            case "blob":
                request = decode(payload, BlobRequest)
                _check_sender(request.device, address)
                self._note_request(request)

    def _note_life(self, life: Life, beyond: Mapping[str, object]) -> None:
        if not self._jobs.note_life(life, beyond):
            return
        if self._boards is not None:
            self._boards.note(life)
        if life.is_online:
            for row in self._jobs.open_jobs():
                if row.job.device == life.device:
                    self._sent.pop(row.job.id, None)
        self._on_changed()

    def _note_report(self, report: JobReport, beyond: Mapping[str, object]) -> None:
        row = self._jobs.note_report(report, beyond)
        if row is None:
            log.warning("jobs.report_unknown", extra={"job": report.id, "device": report.device})
            return
        sent = self._sent.get(report.id)
        if sent is not None:
            # It is being worked on: what was silent is not.
            sent.at_ns, sent.times = self._clock.monotonic_ns(), 1
        self._on_changed()

    def _note_request(self, request: BlobRequest) -> None:
        path = self._registry.by_archive(request.sha256)
        if path is None or not path.is_file():
            self.blobs_refused_total += 1
            log.warning("blobs.unknown", extra={"device": request.device, "sha": request.sha256})
            return
        total = -(-path.stat().st_size // CHUNK_BYTES)
        # Bounded: a device that asks for more than it takes loses the oldest (drop_oldest).
        waiting = self._chunks.setdefault(request.device, deque(maxlen=_WAITING_CHUNKS))
        for index in range(request.first, min(request.first + request.n, total)):
            if (request.sha256, path, index, total) not in waiting:
                waiting.append((request.sha256, path, index, total))

    # --- sending ------------------------------------------------------------------------

    def step(self) -> None:
        """Send every job and chunk that is due."""
        now_ns = self._clock.monotonic_ns()
        online = {life.device for life in self._jobs.lives() if life.is_online}
        rows = self._jobs.open_jobs()
        with_base = {(r.job.device, r.job.stream) for r in rows if r.kind == "base"}
        for row in rows:
            is_held = row.kind == "layers" and (row.job.device, row.job.stream) in with_base
            if row.state != "new" and not is_held and row.job.device in online:
                self._send_if_due(row, now_ns)
        self._forget({row.job.id for row in rows})
        self._send_chunks()

    @property
    def has_chunks(self) -> bool:
        """Whether chunks wait for the rate limit."""
        return any(self._chunks.values())

    def _send_if_due(self, row: JobRow, now_ns: int) -> None:
        sent = self._sent.get(row.job.id)
        if sent is not None:
            wait_s = min(_LONGEST_RESEND_S, self._config.resend_s * 2.0 ** (sent.times - 1))
            if now_ns - sent.at_ns < wait_s * 1e9:
                return
            if sent.times >= self._config.tries:
                self._jobs.give_up(row.job.id)
                self._on_changed()
                return
        message = Message(self._topics.dn(row.job.device, "job"), encode(row.job))
        if self._publish(message):
            self._sent[row.job.id] = _Sent(now_ns, 1 if sent is None else sent.times + 1)
            self._jobs.mark_sent(row.job.id)

    def _forget(self, still_open: set[str]) -> None:
        for identity in self._sent.keys() - still_open:
            del self._sent[identity]

    def _send_chunks(self) -> None:
        for device, waiting in self._chunks.items():
            while waiting and self._budget.allows(CHUNK_BYTES):
                sha256, path, index, total = waiting[0]
                chunk = BlobChunk(sha256, index, total, _read_chunk(path, index))
                if not self._publish(Message(self._topics.dn(device, "blob"), encode(chunk))):
                    return
                waiting.popleft()


class _Budget:
    """A limit on bytes a second, with one second's worth in hand."""

    def __init__(self, bytes_per_s: int | None, clock: Clock) -> None:
        self._rate = bytes_per_s
        self._clock = clock
        self._left = float(max(bytes_per_s or 0, CHUNK_BYTES))
        self._at_ns = clock.monotonic_ns()

    def allows(self, size: int) -> bool:
        """Whether ``size`` bytes may go now; if so they are counted."""
        if self._rate is None:
            return True
        now_ns = self._clock.monotonic_ns()
        earned = self._rate * (now_ns - self._at_ns) / 1e9
        self._left = min(float(max(self._rate, CHUNK_BYTES)), self._left + earned)
        self._at_ns = now_ns
        if self._left < size:
            return False
        self._left -= size
        return True


def _check_sender(device: str, address: Address) -> None:
    if device != address.device:
        raise WireError(
            f"it speaks for {device!r}",
            where=f"{address.device}/{address.leaf}",
            expected="the topic's own device",
        )


def _read_chunk(path: Path, index: int) -> bytes:
    with path.open("rb") as file:
        file.seek(index * CHUNK_BYTES)
        return file.read(CHUNK_BYTES)


def _ignore() -> None:
    pass
