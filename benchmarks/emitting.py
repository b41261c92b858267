"""An emitting window: estimate, group commit, outbox, frame, transport, acknowledgement.

`Serving`, `Writer`, `Outbox` and `Link` on their own threads, as a device wires
them, with a transport in memory. Frames come as fast as they are answered, so that
many wait and are answered at once; and, in a row of its own, one by one. Every
window leaves the device as an estimate, some also as a decision. What is measured
is the processor time of all threads until the last row is acknowledged, less that
of the transport's cloud side and of the bare runtime.
"""

from __future__ import annotations

import gc
import json
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import cases
import hand
import msgspec
import numpy as np
from backlog import Backlog
from bare import Answer, litert
from cases import AD, HOP, LENGTH
from measure import median_ratio
from results import Ratio, Row

from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig, SyncConfig, load_device
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.showing import Files
from edge_runtime.modes.writer import Writer
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Connected, Message, TransportEvent
from edge_runtime.spec import Limit
from edge_runtime.sync.frames import decode_frame
from edge_runtime.sync.link import Link
from edge_runtime.sync.mailbox import Mailbox
from edge_runtime.sync.messages import Ack, CloudState, encode
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.sync.topics import Topics

__all__ = ["PARTS"]

_WINDOWS = 5000
_BAR_US = 20.0
_HAND_RATIO = 1.5
_IDLE_S = 30.0
_GROUP = 100
_DEVICE = "bench"


def emitting(*, rounds: int) -> list[Row]:
    """Ours, with frames that wait and with each by itself, the hand-written loop, the bare runtime.

    In turn.
    """
    samples = cases.noise(LENGTH - HOP + _WINDOWS * HOP)
    waiting, live, hand_us, bare_us = [], [], [], []
    for _ in range(max(3, rounds // 25)):
        bare_us.append(_bare(samples))
        for found, is_live in ((waiting, False), (live, True)):
            with tempfile.TemporaryDirectory() as folder:
                found.append(_ours(Path(folder), samples, is_live=is_live))
        with tempfile.TemporaryDirectory() as folder:
            hand_us.append(_by_hand(Path(folder), samples))
    return [
        _row("overhead_emitting_us", waiting, hand_us, bare_us, bar=_BAR_US, at_most=_HAND_RATIO),
        _row("emitting_one_by_one_us", live, hand_us, bare_us),
    ]


def _row(
    name: str,
    ours: Sequence[_Taken],
    hand_us: Sequence[float],
    bare_us: Sequence[float],
    *,
    bar: float | None = None,
    at_most: float | None = None,
) -> Row:
    bare = statistics.median(bare_us)
    peers = {
        "hand loop us": statistics.median(hand_us) - bare,
        "bare us": bare,
        "windows": _WINDOWS,
        "decisions per window": ours[0].decisions / _WINDOWS,
    }
    for thread in ours[0].threads_us:
        peers[f"{thread} thread us"] = statistics.median(taken.threads_us[thread] for taken in ours)
    ratio = median_ratio([taken.us for taken in ours], hand_us, bare_us)
    return Row.of(
        name,
        statistics.median(taken.us for taken in ours) - bare,
        "us",
        bar=bar,
        ratios=[Ratio("ours over the hand loop", ratio, at_most=at_most)],
        peers=peers,
    )


def device(*, rounds: int) -> list[Row]:
    """A whole device on a quiet stream: source thread, queue, pipeline, commits, link."""
    taken_us = []
    for _ in range(max(3, rounds // 50)):
        with tempfile.TemporaryDirectory() as folder:
            taken_us.append(_on_device(Path(folder)))
    samples = cases.noise(LENGTH - HOP + _WINDOWS * HOP)
    bare_us = _bare(samples)
    beyond_us = statistics.median(taken_us) - bare_us
    peers = {"bare us": bare_us, "windows": _WINDOWS}
    return [Row.of("device_quiet_us", beyond_us, "us", bar=None, peers=peers)]


PARTS = {"overhead_emitting_us": emitting, "device_quiet_us": device}


# --- ours -------------------------------------------------------------------------


class _Cloud:
    """A transport whose other side acknowledges every frame at once; counts its own time."""

    def __init__(self) -> None:
        self.spent_ns = 0
        self.rows = 0
        self._topics = Topics()
        self._mailbox = Mailbox(10_000)

    def open(self, subscriptions: Sequence[str], will: Message | None) -> None:
        """Be connected, with a cloud that listens."""
        del subscriptions, will
        self._mailbox.put(Connected())
        state = encode(CloudState(is_online=True))
        self._mailbox.put(Message(self._topics.all_cloud, state, retain=True))

    def publish(self, message: Message) -> bool:
        """Take a message; acknowledge it if it is a frame of rows."""
        start_ns = time.thread_time_ns()
        if "/tel/" in message.topic:
            frame = decode_frame(message.payload)
            self.rows += frame.n
            upto = frame.seq0 + frame.n
            ack = Ack(frame.device, frame.incarnation, frame.epoch, frame.stream, upto)
            self._mailbox.put(Message(self._topics.dn(_DEVICE, "ack"), encode(ack)))
        self.spent_ns += time.thread_time_ns() - start_ns
        return True

    def receive(self, timeout_s: float) -> TransportEvent | None:
        """Return the next event."""
        entry = self._mailbox.get(timeout_s)
        return None if entry is None else entry[0]

    def wake(self) -> None:
        """Make a waiting receive return."""
        self._mailbox.wake()

    def close(self) -> None:
        """Nothing to close."""


def _pipeline(samples: np.ndarray) -> Pipeline:
    """Return a pipeline whose limit lies where the scores are, so that it also decides."""
    first = samples[: 100 * HOP]
    frame = next(cases.stream(first, len(first), AD.spec))
    scores = AD.pipeline().run_many([frame]).estimates.score
    on, off = np.quantile(scores, (0.7, 0.3)).tolist()
    spec = msgspec.structs.replace(AD.spec, limits=(Limit("anomaly", on=on, off=off),))
    return cases.Case(spec, AD.files).pipeline()


class _Taken(msgspec.Struct, frozen=True):
    """What one run has cost.

    Attributes:
        us: Processor time of all threads per window, without the cloud's side.
        threads_us: The same by thread; starting and stopping them included.
        decisions: Made in all.
    """

    us: float
    threads_us: dict[str, float]
    decisions: int


def _ours(folder: Path, samples: np.ndarray, *, is_live: bool) -> _Taken:
    cloud, spent_ns = _Cloud(), dict.fromkeys(("pipeline", "writer", "network"), 0)
    frames = list(cases.stream(samples, HOP, AD.spec))
    with ExitStack() as stack:
        serving, writer, is_drained = _wired(stack, folder, samples, cloud, spent_ns)
        gc.collect()
        start_ns, cpu_ns = time.process_time_ns(), time.thread_time_ns()
        windows, decisions = _serve(serving, writer, Backlog(serving, frames, is_live=is_live))
        spent_ns["pipeline"] = time.thread_time_ns() - cpu_ns
        _wait(lambda: writer.is_idle and cloud.rows >= windows + decisions and is_drained())
        taken_ns = time.process_time_ns() - start_ns - cloud.spent_ns
    if windows != _WINDOWS:
        raise ValueError(f"{windows} windows came out, {_WINDOWS} were expected")
    spent_ns["network"] -= cloud.spent_ns
    threads_us = {name: taken / windows / 1e3 for name, taken in spent_ns.items()}
    return _Taken(taken_ns / windows / 1e3, threads_us, decisions)


def _wired(
    stack: ExitStack, folder: Path, samples: np.ndarray, cloud: _Cloud, spent_ns: dict[str, int]
) -> tuple[Serving, Writer, Callable[[], bool]]:
    """Start writer and link on threads, as a device does; return when the cloud is there."""
    clock, config = SystemClock(), OutboxConfig()
    state = StateStore(folder / "state.db", clock)
    stack.callback(state.close)
    epoch, incarnation = state.start()
    outbox = Outbox.open(
        folder / "outbox.db", epoch=epoch, incarnation=incarnation, config=config, clock=clock
    )
    stack.callback(outbox.close)
    link = Link(_DEVICE, cloud, outbox, state, clock, lambda _: (), SyncConfig())
    # "features" lets estimates out; this pipeline keeps no inputs with them.
    writer = Writer(
        outbox,
        Files({}, is_durable=False),
        {"main": "features"},
        lambda _: link.note_commit(),
        lambda: False,
    )
    stop = threading.Event()
    network = _timed("network", lambda: link.run(stop), spent_ns)
    _start(stack, network, lambda: (stop.set(), link.wake()))
    _start(stack, _timed("writer", writer.run, spent_ns), writer.finish)
    pipeline = _pipeline(samples)
    serving = Serving(pipeline, position=0, commit_s=config.commit_s, clock=clock)
    _wait(lambda: link.stats().is_cloud_online)
    return serving, writer, lambda: not outbox.stats().rows


def _serve(serving: Serving, writer: Writer, backlog: Backlog) -> tuple[int, int]:
    """Do what the pipeline thread of a device does; return windows and decisions."""
    windows = decisions = 0
    while (outputs := backlog.answer()) is not None:
        windows += sum(len(output.estimates) for output in outputs)
        decisions += sum(len(output.decisions) for output in outputs)
        if serving.is_due:
            writer.put(serving.take(), lambda: None)
    if serving.due_ns is not None:
        writer.put(serving.take(), lambda: None)
    return windows, decisions


def _timed(name: str, run: Callable[[], None], spent_ns: dict[str, int]) -> Callable[[], None]:
    """Note a thread's processor time when it ends."""

    def timed() -> None:
        run()
        spent_ns[name] = time.thread_time_ns()

    return timed


def _start(stack: ExitStack, run: Callable[[], None], stop: Callable[[], object]) -> None:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(stop)


def _wait(is_done: Callable[[], bool]) -> None:
    """Look every few milliseconds, which costs next to nothing."""
    deadline = time.monotonic() + _IDLE_S
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError("the outbox did not drain")
        time.sleep(0.005)


def _on_device(folder: Path) -> float:
    """Return µs per window from the first answer to the end."""
    samples = cases.noise(LENGTH - HOP + _WINDOWS * HOP)
    AD.save(folder / "bundle", samples[:LENGTH].reshape(1, LENGTH, 1))
    np.savez(folder / "recording.npz", samples=samples)
    time_of = {"start": "2026-01-01T00:00:00Z", "step_s": 1 / AD.spec.stream.rate_hz}
    source = {"kind": "npz", "path": "recording.npz", "array": "samples", "time": time_of}
    stream = {"source": {**source, "block": HOP}, "model": {"bundle": "bundle"}}
    content = {"device": _DEVICE, "state": "state", "streams": {"main": stream}, "sync": {}}
    path = folder / "device.yaml"
    path.write_text(json.dumps(content))
    starts: list[int] = []

    def note(name: str, _: object) -> None:
        if name == "estimates.made" and not starts:
            starts.append(time.process_time_ns())

    runtime = EdgeDevice(load_device(path), connect=lambda *_: _Cloud(), on_event=note)
    gc.collect()
    runtime.run(drain_s=_IDLE_S)
    return (time.process_time_ns() - starts[0]) / _WINDOWS / 1e3


# --- the other two ------------------------------------------------------------------


def _bare(samples: np.ndarray) -> float:
    answer = litert(AD.model())
    cut = np.lib.stride_tricks.sliding_window_view(samples[:, 0], LENGTH)[::HOP, None]
    windows = [window.copy() for window in cut]
    gc.collect()
    start_ns = time.process_time_ns()
    for window in windows:
        answer(window)
    return (time.process_time_ns() - start_ns) / len(windows) / 1e3


class _Spooling(hand.Reconstruction):
    """The hand-written loop with a spool: a row per window, a hundred in a transaction.

    The rows are packed as one message, which is handed over and then deleted.
    """

    def __init__(self, answer: Answer, database: Path) -> None:
        super().__init__(answer, cases.AD_INPUT, cases.AD_OUTPUT)
        self._database = sqlite3.connect(database, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute("CREATE TABLE spool (seq INTEGER PRIMARY KEY, row BLOB)")
        self._encode = msgspec.msgpack.Encoder().encode
        self._rows: list[tuple[int, bytes]] = []
        self._seq = 0
        self.sent_bytes = 0

    def push(self, block: np.ndarray, time_ns: np.ndarray) -> None:
        """Take 64 samples and keep what came of them."""
        before = self.windows
        super().push(block, time_ns)
        if self.windows > before:
            self._seq += 1
            row = self._encode((self._seq, int(time_ns[-1]), self.value))
            self._rows.append((self._seq, row))
            if len(self._rows) == _GROUP:
                self.flush()

    def flush(self) -> None:
        """Write, send, and delete what was acknowledged."""
        run, rows = self._database.execute, self._rows
        run("BEGIN")
        self._database.executemany("INSERT INTO spool VALUES (?, ?)", rows)
        run("COMMIT")
        found = run("SELECT row FROM spool ORDER BY seq").fetchall()
        self.sent_bytes += len(self._encode([row for (row,) in found]))
        run("DELETE FROM spool WHERE seq <= ?", (self._seq,))
        self._rows = []


def _by_hand(folder: Path, samples: np.ndarray) -> float:
    loop = _Spooling(litert(AD.model()), folder / "spool.db")
    blocks = [(f.samples[:, 0], f.time_ns) for f in cases.stream(samples, HOP, AD.spec)]
    gc.collect()
    start_ns = time.process_time_ns()
    for block, time_ns in blocks:
        loop.push(block, time_ns)
    loop.flush()
    return (time.process_time_ns() - start_ns) / _WINDOWS / 1e3
