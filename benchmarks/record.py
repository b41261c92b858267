"""What recording costs: the same stream with and without a tape, all threads together.

`Serving` and `Writer` on their own threads, as a device wires them. A frame for each
window, every window an estimate; they come as fast as they are answered, or, in a row of
its own, one by one. Two devices share one loaded model and take turns, a group commit
each; what is measured is the processor time until that commit is durable.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import cases
import msgspec
from backlog import Backlog
from cases import AD, HOP, LENGTH
from results import Row

from edge_runtime.backends import open_session
from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.showing import Files
from edge_runtime.modes.taping import standing_of
from edge_runtime.modes.writer import Writer
from edge_runtime.pipeline import AnyPipeline, Pipeline
from edge_runtime.ports import Choice, Session
from edge_runtime.sync.outbox import Outbox
from edge_runtime.tape import Change, Limits, Origin, Recorder, Ring, Standing, open_tapes
from edge_runtime.types import Frame, Upload

__all__ = ["PARTS"]

_WINDOWS = 10_000
# In each commit, of both devices, at least: a live stream's come by time.
_COMMIT = 200
# Frames that are answered at once go into one commit.
_MOST_IN_COMMIT = _COMMIT + 64
_BAR_US = 2.0


class _Taken(msgspec.Struct, frozen=True):
    """Processor time per window of one commit.

    Attributes:
        us: All threads.
        pipeline_us: The pipeline's.
    """

    us: float
    pipeline_us: float


def record(*, rounds: int) -> list[Row]:
    """Frames that come as fast as they are answered: many wait, and are taken at once."""
    return [_row("record_us", rounds, bar=_BAR_US, is_live=False)]


def record_live(*, rounds: int) -> list[Row]:
    """Frames of which each comes when the one before is answered."""
    return [_row("record_one_by_one_us", rounds, bar=None, is_live=True)]


def _row(name: str, rounds: int, *, bar: float | None, is_live: bool) -> Row:
    """With and without, in turn."""
    frames = list(cases.stream(cases.noise(LENGTH - HOP + _WINDOWS * HOP), HOP, AD.spec))
    pairs: list[tuple[_Taken, _Taken]] = []
    for _ in range(max(5, rounds // 10)):
        found, tape_bytes = _round(frames, is_live=is_live)
        pairs += found
    beyond_us = statistics.median(two.us - one.us for one, two in pairs)
    pipeline_us = statistics.median(two.pipeline_us - one.pipeline_us for one, two in pairs)
    peers = {
        "pipeline thread us": pipeline_us,
        "without us": statistics.median(one.us for one, _ in pairs),
        "tape bytes per window": tape_bytes,
        "sample bytes per window": HOP,
        "commits": len(pairs),
    }
    return Row.of(name, beyond_us, "us", bar=bar, peers=peers)


PARTS = {"record_us": record, "record_one_by_one_us": record_live}


def _round(frames: Sequence[Frame], *, is_live: bool) -> tuple[list[tuple[_Taken, _Taken]], float]:
    """Return what the commits without and with a tape took, and the tape's bytes a window."""
    bundle = AD.bundle()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        session = open_session(bundle, Choice())
        stack.callback(session.close)
        folders = [Path(name) / one for one in ("plain", "taped")]
        plain, taped = (
            stack.enter_context(
                _Device(folder, session, frames, is_recorded=is_recorded, is_live=is_live)
            )
            for folder, is_recorded in zip(folders, (False, True), strict=True)
        )
        gc.collect()
        pairs = []
        for number in range(_WINDOWS // _MOST_IN_COMMIT):
            turns = (plain, taped) if number % 2 else (taped, plain)
            taken = {device: device.commit() for device in turns}
            pairs.append((taken[plain], taken[taped]))
        return pairs, taped.tape_bytes_per_window()


class _Device:
    """One stream, its writer and, where it is recorded, its tape."""

    def __init__(
        self,
        folder: Path,
        session: Session,
        frames: Sequence[Frame],
        *,
        is_recorded: bool,
        is_live: bool,
    ) -> None:
        folder.mkdir()
        self._folder = folder
        clock = SystemClock()
        self._outbox = Outbox.open(
            folder / "outbox.db", epoch=1, incarnation=1, config=OutboxConfig(), clock=clock
        )
        self._serving = Serving(
            Pipeline(AD.spec, session, base="0" * 64),
            position=0,
            commit_s=3600.0,
            clock=clock,
            stand=_stand if is_recorded else None,
        )
        self._tapes = {"main": _recorder(folder / "rec", self._serving)} if is_recorded else {}
        self._durable = threading.Semaphore(0)
        files, uploads = Files({}, is_durable=False), dict[str, Upload](main="none")
        self._writer = Writer(
            self._outbox, files, uploads, self._committed, lambda: False, self._tapes
        )
        self._thread = threading.Thread(target=self._writer.run, daemon=True)
        self._windows = 0
        self._backlog = Backlog(self._serving, frames, is_live=is_live)

    def __enter__(self) -> _Device:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._writer.finish()
        self._thread.join()
        self._outbox.close()

    def commit(self) -> _Taken:
        """Push the windows of a commit, and wait until it is durable."""
        start_ns, cpu_ns = time.process_time_ns(), time.thread_time_ns()
        windows = 0
        while windows < _COMMIT and (outputs := self._backlog.answer()) is not None:
            windows += sum(len(output.estimates) for output in outputs)
        self._writer.put(self._serving.take(), lambda: None)
        pipeline_ns = time.thread_time_ns() - cpu_ns
        self._durable.acquire()
        taken_ns = time.process_time_ns() - start_ns
        if windows < _COMMIT:
            raise ValueError(f"{windows} windows came out, {_COMMIT} were expected")
        self._windows += windows
        return _Taken(taken_ns / windows / 1e3, pipeline_ns / windows / 1e3)

    def tape_bytes_per_window(self) -> float:
        """Return what the tape takes, after a look at whether everything is on it."""
        recorder = self._tapes["main"]
        recorder.close()
        if recorder.discarded or open_tapes(self._folder / "rec")["main"].segments[0].lost_bytes:
            raise ValueError(f"the tape is not whole: {recorder.discarded}")
        return recorder.size_bytes / self._windows

    def _committed(self, _: object) -> None:
        self._durable.release()


def _stand(pipeline: AnyPipeline, position: int, change: Change) -> Standing:
    return standing_of(pipeline, position, change, Choice())


def _recorder(folder: Path, serving: Serving) -> Recorder:
    standing = serving.standing()
    assert standing is not None  # noqa: S101 - a serving that is recorded stands somewhere
    origin = Origin(1, "bench", "main", 1, 1, (), 0)
    return Recorder(Ring(folder / "main", Limits(1 << 28), SystemClock()), origin, standing)
