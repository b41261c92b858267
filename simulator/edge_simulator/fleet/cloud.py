"""The cloud's twin: takes rows as the real ingest does, in memory, and offers updates.

What the protocol promises is the same: rows count once by (device, incarnation,
epoch, stream, seq), acknowledgements are cumulative, and whoever sends beyond
the mark is told where to go on. Only the store is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from edge_cloud.ingest import drain, parsed
from edge_runtime.bundle import Bundle
from edge_runtime.ports import Message, Transport
from edge_runtime.sync.frames import RowFrame, decode_frame
from edge_runtime.sync.messages import (
    Ack,
    BlobChunk,
    BlobRequest,
    CloudState,
    Job,
    JobReport,
    Life,
    decode,
    encode,
)
from edge_runtime.sync.topics import Address, Topics
from edge_runtime.update.trust import CHUNK_BYTES
from edge_simulator.fleet.ledger import Ledger

__all__ = ["CloudTwin", "Offer"]

_Key = tuple[str, int, int, str]
_ENDS = ("committed", "refused", "rolled_back")

OnTold = Callable[[str, str, Mapping[str, object]], None]
"""Called with an event, a device and facts."""


class Offer(msgspec.Struct, frozen=True, eq=False):
    """A job, and the base it brings, packed."""

    job: Job
    bundle: Bundle
    archive: bytes
    sha256: str


class CloudTwin:
    """Take frames and answer them; used by the thread that calls `step`.

    Args:
        connect: Makes a transport, for this object alone, each time it comes up.
        ledger: Told what arrived.
        tell: Told about gaps and ended jobs.

    Attributes:
        touched: Devices that were sent something since this was emptied last.
    """

    def __init__(self, connect: Callable[[], Transport], ledger: Ledger, tell: OnTold) -> None:
        self.touched: set[str] = set()
        self._connect = connect
        self._transport = connect()
        self._ledger = ledger
        self._tell = tell
        self._topics = Topics()
        self._marks: dict[_Key, int] = {}
        self._online: set[str] = set()
        self._offers: dict[str, Offer] = {}
        self._comings = 0

    def open(self) -> None:
        """Come up, and say so once connected."""
        self._comings += 1
        self._transport = self._connect()
        self._transport.open([self._topics.every_up("#")], self._presence(is_online=False))

    def close(self) -> None:
        """Say good-bye; devices keep their rows from now on."""
        self._transport.publish(self._presence(is_online=False))
        self._transport.close()

    def finish(self) -> None:
        """Nothing is left to do: the books were kept as rows came."""

    def offer(self, offer: Offer) -> None:
        """Have a device do a job; sent at once and again whenever it comes online."""
        self._offers[offer.job.id] = offer
        if offer.job.device in self._online:
            self._send_job(offer)

    def step(self, timeout_s: float) -> int:
        """Wait for messages, handle all that are there; return their number."""
        messages = drain(self._transport, timeout_s, self._greet)
        keys: dict[_Key, bool] = {}
        for message in messages:
            address = parsed(self._topics, message)
            if address is None or not message.payload:
                continue
            if address.leaf == "tel":
                frame = decode_frame(message.payload)
                key = (frame.device, frame.incarnation, frame.epoch, frame.stream)
                keys[key] = self._take(key, frame) or keys.get(key, False)
            else:
                self._listen(address, message.payload)
        for key, is_early in keys.items():
            self._acknowledge(key, is_early)
        return len(messages)

    # --- rows -----------------------------------------------------------------------------

    def _take(self, key: _Key, frame: RowFrame) -> bool:
        """Take what is new in a frame; True if it begins beyond the mark and was not kept."""
        mark, last = self._marks.get(key, 0), frame.seq0 + frame.n
        if frame.seq0 > mark:
            return True
        if last <= mark:
            return False
        if frame.kind == "gap":
            self._ledger.dropped(frame.device, last - mark)
            facts = {"stream": frame.stream, "rows": last - mark, "reason": frame.reason}
            self._tell("gap", frame.device, facts)
        else:
            rows = frame.table.rows(mark - frame.seq0, frame.n)
            self._ledger.arrived(frame.device, frame.stream, rows)
        self._marks[key] = last
        return False

    def _acknowledge(self, key: _Key, is_early: bool) -> None:
        device, incarnation, epoch, stream = key
        upto = self._marks.get(key, 0)
        ack = Ack(device, incarnation, epoch, stream, upto, must_resume=is_early)
        self._send(device, "ack", ack)

    # --- everything else --------------------------------------------------------------------

    def _listen(self, address: Address, payload: bytes) -> None:
        match address.leaf:
            case "life":
                self._note_life(decode(payload, Life))
            case "job":
                self._note_report(decode(payload, JobReport))
            case "blob":
                self._send_chunks(decode(payload, BlobRequest))

    def _note_life(self, life: Life) -> None:
        if not life.is_online:
            self._online.discard(life.device)
            return
        self._online.add(life.device)
        for offer in self._offers.values():
            if offer.job.device == life.device:
                self._send_job(offer)

    def _note_report(self, report: JobReport) -> None:
        if report.state in _ENDS and self._offers.pop(report.id, None) is not None:
            self._ledger.updates[report.device, report.state] += 1
            # What follows the first words may hold measured numbers.
            reason = report.reason.split(":")[0]
            facts = {"stream": report.stream, "state": report.state, "reason": reason}
            self._tell("update", report.device, facts)

    def _send_job(self, offer: Offer) -> None:
        self._send(offer.job.device, "job", offer.job)

    def _send_chunks(self, request: BlobRequest) -> None:
        archive = next(
            (o.archive for o in self._offers.values() if o.sha256 == request.sha256), b""
        )
        total = -(-len(archive) // CHUNK_BYTES)
        for index in range(request.first, min(request.first + request.n, total)):
            piece = archive[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            self._send(request.device, "blob", BlobChunk(request.sha256, index, total, piece))

    def _send(self, device: str, leaf: str, message: msgspec.Struct) -> None:
        self.touched.add(device)
        self._transport.publish(Message(self._topics.dn(device, leaf), encode(message)))

    def _greet(self) -> None:
        self._transport.publish(self._presence(is_online=True))

    def _presence(self, *, is_online: bool) -> Message:
        state = CloudState(is_online=is_online, made_ns=self._comings)
        return Message(self._topics.all_cloud, encode(state), retain=True)
