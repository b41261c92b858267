"""What recording costs: the same stream with and without a tape, all threads together.

`Serving` and `Writer` on their own threads, as a device wires them. A frame for each
window, every window an estimate; what is measured is the processor time until the
last commit is durable.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import cases
import msgspec
from cases import AD, HOP, LENGTH
from results import Row

from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.showing import Files
from edge_runtime.modes.taping import standing_of
from edge_runtime.modes.writer import Writer
from edge_runtime.pipeline import AnyPipeline
from edge_runtime.ports import Choice
from edge_runtime.sync.outbox import Outbox
from edge_runtime.tape import Change, Limits, Origin, Recorder, Ring, Standing, open_tapes
from edge_runtime.types import Frame

__all__ = ["PARTS"]

_WINDOWS = 5000
_BAR_US = 2.0


class _Taken(msgspec.Struct, frozen=True):
    """Processor time per window of one run, and what it left on the disk.

    Attributes:
        us: All threads.
        pipeline_us: The pipeline's.
        tape_bytes: Of the tape, for each window; 0 without one.
    """

    us: float
    pipeline_us: float
    tape_bytes: float


def record(*, rounds: int) -> list[Row]:
    """With and without, in turn."""
    frames = list(cases.stream(cases.noise(LENGTH - HOP + _WINDOWS * HOP), HOP, AD.spec))
    plain, taped = [], []
    for _ in range(max(5, rounds // 10)):
        plain.append(_run(frames, is_recorded=False))
        taped.append(_run(frames, is_recorded=True))
    pairs = list(zip(taped, plain, strict=True))
    beyond_us = statistics.median(one.us - other.us for one, other in pairs)
    pipeline_us = statistics.median(one.pipeline_us - other.pipeline_us for one, other in pairs)
    peers = {
        "pipeline thread us": pipeline_us,
        "without us": statistics.median(one.us for one in plain),
        "tape bytes per window": statistics.median(one.tape_bytes for one in taped),
        "sample bytes per window": HOP,
        "windows": _WINDOWS,
    }
    return [Row.of("record_us", beyond_us, "us", bar=_BAR_US, peers=peers)]


PARTS = {"record_us": record}


def _run(frames: list[Frame], *, is_recorded: bool) -> _Taken:
    clock, config = SystemClock(), OutboxConfig()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        outbox = Outbox.open(
            folder / "outbox.db", epoch=1, incarnation=1, config=config, clock=clock
        )
        stack.callback(outbox.close)
        serving = Serving(
            AD.pipeline(),
            position=0,
            commit_s=config.commit_s,
            clock=clock,
            stand=_stand if is_recorded else None,
        )
        tapes = {"main": _recorder(folder / "rec", serving)} if is_recorded else {}
        files, uploads = Files({}, is_durable=False), {"main": "none"}
        writer = Writer(outbox, files, uploads, lambda _: None, lambda: False, tapes)
        gc.collect()
        start_ns, cpu_ns = time.process_time_ns(), time.thread_time_ns()
        thread = threading.Thread(target=writer.run, daemon=True)
        thread.start()
        windows = _serve(serving, writer, frames)
        pipeline_ns = time.thread_time_ns() - cpu_ns
        writer.finish()
        thread.join()
        taken_ns = time.process_time_ns() - start_ns
        used = _tape_bytes(folder / "rec", tapes)
    return _Taken(taken_ns / windows / 1e3, pipeline_ns / windows / 1e3, used / windows)


def _serve(serving: Serving, writer: Writer, frames: list[Frame]) -> int:
    windows = 0
    for frame in frames:
        windows += len(serving.push(frame).estimates)
        if serving.is_due:
            writer.put(serving.take(), lambda: None)
    writer.put(serving.take(), lambda: None)
    if windows != _WINDOWS:
        raise ValueError(f"{windows} windows came out, {_WINDOWS} were expected")
    return windows


def _stand(pipeline: AnyPipeline, position: int, change: Change) -> Standing:
    return standing_of(pipeline, position, change, Choice())


def _recorder(folder: Path, serving: Serving) -> Recorder:
    standing = serving.standing()
    assert standing is not None  # noqa: S101 - a serving that is recorded stands somewhere
    origin = Origin(1, "bench", "main", 1, 1, (), 0)
    return Recorder(Ring(folder / "main", Limits(1 << 28), SystemClock()), origin, standing)


def _tape_bytes(folder: Path, tapes: dict[str, Recorder]) -> int:
    """Return what the tape takes, after a look at whether everything is on it."""
    if not tapes:
        return 0
    recorder = tapes["main"]
    recorder.close()
    if recorder.discarded or open_tapes(folder)["main"].segments[0].lost_bytes:
        raise ValueError(f"the tape is not whole: {recorder.discarded}")
    return recorder.size_bytes
