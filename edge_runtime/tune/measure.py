"""Runs all candidates side by side, a child process each, and takes their times in turn.

In turn, so that a busy machine hits all of them alike; in children, so that a
native crash, a hang or a leak of one is a row in the table and nothing more.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import selectors
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self, cast

import msgspec
import numpy as np

from edge_runtime.boards import board_here
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.child import child_command, child_environment
from edge_runtime.machine import Machine, cores
from edge_runtime.profiles import Goal
from edge_runtime.timing import Sample, steady
from edge_runtime.tune.candidates import Candidate, single_threaded, with_more_threads
from edge_runtime.tune.choose import Block, Row, Tuning, compared, ranked
from edge_runtime.tune.wire import Ask, Failed, Opened, Reply, Took

__all__ = ["BLOCKS", "OnProgress", "tune"]

OnProgress = Callable[[str, str, float], None]
"""Told what is being done, to which candidate, and the share of the time that has gone."""

BLOCKS = (8, 32, 128, 512, 2048)
"""Sizes of block that are tried, beside a single window."""

_MICRO_BATCH = 32
_LEAST_BLOCK_GAIN = 1.3
_WINDOW_S, _ENGINE_S, _BLOCK_S = 0.01, 0.005, 0.005
# The rest of the time is for the last round to end, and for the children.
_SHARE = 0.9
_WINDOWS_SHARE = 0.6
_LEAST_ROUNDS = 3
# However slow the start was, a candidate is measured for this long.
_LEAST_S = 0.3
# A larger block than this would take all the time for itself.
_LONGEST_CALL_S = 0.02
_LIMIT_S = 20.0


def tune(
    path: Path,
    *,
    goal: Goal = "latency",
    backends: Sequence[str] = (),
    accelerators: Sequence[str] = (),
    seconds: float = 2.0,
    limit_s: float = _LIMIT_S,
    on_progress: OnProgress = lambda _step, _of, _share: None,
) -> Tuning:
    """Measure every way to run a bundle on this machine.

    Args:
        path: The bundle, a folder or a zip file.
        goal: What the choice should be best for.
        backends: Only these; none for all that are installed, but ``tflite-runtime``.
        accelerators: To try beside the processor.
        seconds: Time to spend for each candidate.
        limit_s: A candidate that says nothing for so long has failed.
        on_progress: Told what is being done.

    Raises:
        BundleError: The bundle does not load.
        ConfigError: A backend or accelerator has a name that nothing knows.
    """
    start_s = time.monotonic()
    bundle = load_bundle(path)
    first = single_threaded(bundle, backends=backends, accelerators=accelerators)
    with ExitStack() as stack:
        crew = _Crew(path, stack, limit_s, on_progress)
        crew.start(first)
        crew.start([more for one in crew.live() for more in one.threaded()])
        left_s = _SHARE * seconds * len(crew.runners) - (time.monotonic() - start_s)
        crew.measure(max(left_s, _LEAST_S * len(crew.live())))
        rows = tuple(one.row() for one in crew.runners if one.absence() is None)
        absent = [text for one in crew.runners if (text := one.absence()) is not None]
    best = ranked(rows, goal)
    return Tuning(
        bundle=bundle.digest,
        ref=bundle.ref,
        machine=Machine.here(),
        board=board_here().name,
        files=_digests(bundle, rows),
        goal=goal,
        rows=rows,
        chosen=rows.index(best[0]) if best else None,
        sentences=(*compared(rows), *(f"Stage {stage}." for stage in bundle.spec.cascade)),
        absent=tuple(dict.fromkeys(absent)),
        seconds=time.monotonic() - start_s,
    )


def _digests(bundle: Bundle, rows: Sequence[Row]) -> dict[str, str]:
    names = sorted({row.candidate.artefact for row in rows})
    return {name: hashlib.sha256(bundle.files[name]).hexdigest() for name in names}


class _Crew:
    """All candidates of one run."""

    def __init__(
        self, path: Path, stack: ExitStack, limit_s: float, on_progress: OnProgress
    ) -> None:
        self._path, self._stack, self._limit_s = path, stack, limit_s
        self._on_progress = on_progress
        self._deadline_s = self._seconds = 0.0
        self.runners: list[_Runner] = []

    def live(self) -> list[_Runner]:
        return [one for one in self.runners if one.is_live]

    def start(self, candidates: Sequence[Candidate]) -> None:
        """Start children together; wait until each has opened its model or failed."""
        new = []
        for candidate in candidates:
            runner = _Runner(self._path, candidate, self._limit_s)
            new.append(self._stack.enter_context(runner))
        for runner in new:
            self._on_progress("opening", str(runner.candidate), 0.0)
            runner.wait_open()
        self.runners += new

    def measure(self, seconds: float) -> None:
        """Time single windows, then blocks of each size, all candidates in turn."""
        self._seconds = seconds
        self._deadline_s = time.monotonic() + seconds
        for crew in self._rounds((1 - _WINDOWS_SHARE) * seconds):
            for one in crew:
                self._tell("one window", one)
                one.take(Ask("window", 1, _WINDOW_S))
                one.take(Ask("engine", 1, _ENGINE_S))
        for crew in self._rounds(0.0):
            for one in crew:
                self._tell("blocks", one)
                for ask in one.block_asks():
                    one.take(ask)

    def _rounds(self, left_s: float) -> Iterator[list[_Runner]]:
        """Go on until only ``left_s`` of the time is left; three rounds at least.

        Every other round goes backwards, so that nobody always follows the same one.
        """
        for number in itertools.count():
            live = self.live()
            is_late = self._deadline_s - time.monotonic() <= left_s
            if not live or (number >= _LEAST_ROUNDS and is_late):
                return
            yield live[:: -1 if number % 2 else 1]

    def _tell(self, step: str, one: _Runner) -> None:
        left = max(0.0, self._deadline_s - time.monotonic()) / max(self._seconds, 1e-9)
        self._on_progress(step, str(one.candidate), 1.0 - left)


class _Runner:
    """One candidate's child process, and what it has said so far."""

    def __init__(self, path: Path, candidate: Candidate, limit_s: float) -> None:
        self.candidate = candidate
        self._limit_s = limit_s
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        self._child = _spawn(path, candidate, self._errors.fileno())
        self._asks = cast(IO[bytes], self._child.stdin)
        self._replies = cast(IO[bytes], self._child.stdout)
        self._opened: Opened | None = None
        self._failed: Failed | None = None
        self._samples: dict[tuple[str, int], list[Sample]] = {}
        self._cpu_us: list[float] = []
        self._unequal: set[int] = set()
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._asks, self._replies, self._errors):
            pipe.close()

    @property
    def is_live(self) -> bool:
        return self._opened is not None and self._failed is None

    def absence(self) -> str | None:
        """Say that the runtime is not installed; an absent accelerator is a failure."""
        failed = self._failed
        if failed is None or not failed.is_absent or self.candidate.accelerator is not None:
            return None
        return f"{failed.reason}: {failed.remedy}"

    def wait_open(self) -> None:
        match self._heard():
            case Opened() as opened:
                self._opened = opened
            case Failed() as failed:
                self._failed = failed

    def threaded(self) -> list[Candidate]:
        engine_us = self._opened.engine_us if self._opened else 0.0
        return with_more_threads(self.candidate, engine_us, cores())

    def take(self, ask: Ask) -> None:
        """Ask for samples and keep them; a failure is kept too."""
        if not self.is_live:
            return
        try:
            self._asks.write(msgspec.json.encode(ask) + b"\n")
            reply = self._heard()
        except BrokenPipeError:
            reply = self._crashed()
        match reply:
            case Took(is_equal=False):
                self._unequal.add(ask.rows)
            case Took() as took:
                self._samples.setdefault((ask.what, ask.rows), []).extend(took.samples)
                if ask.what == "window":
                    self._cpu_us.append(took.cpu_us)
            case Failed() as failed:
                self._failed = failed

    def block_asks(self) -> list[Ask]:
        """Return the blocks to time in one round; a model with state has none."""
        if self._opened is None or not self._opened.is_stateless:
            return []
        quickest_us = min(block.us for block in self._blocks() if block.is_equal)
        longest = _LONGEST_CALL_S * 1e6 / max(quickest_us, 1e-3)
        sizes = [rows for rows in BLOCKS if rows <= longest and rows not in self._unequal]
        engine = [Ask("engine", rows, _BLOCK_S) for rows in (1, _MICRO_BATCH) if rows <= longest]
        return [*(Ask("block", rows, _BLOCK_S) for rows in sizes), *engine]

    def row(self) -> Row:
        if self._failed is not None or self._opened is None:
            failed = self._failed or Failed("it was not measured")
            return Row(self.candidate, failure=failed.reason, remedy=failed.remedy)
        windows = steady(self._samples["window", 1])
        return Row(
            self.candidate,
            median_us=statistics.median(windows),
            engine_us=self._median_us("engine", 1),
            p99_us=float(np.percentile(windows, 99)),
            cpu_us=statistics.median(self._cpu_us),
            rss_mb=self._opened.rss_mb,
            golden=self._opened.golden,
            agreeing=self._opened.agreeing,
            worst=self._opened.worst,
            blocks=self._blocks(),
            micro_batch=self._micro_batch(),
        )

    def _blocks(self) -> tuple[Block, ...]:
        sizes = sorted(rows for what, rows in self._samples if what == "block")
        timed = [Block(rows, self._median_us("block", rows) / rows) for rows in sizes]
        unequal = [Block(rows, 0.0, is_equal=False) for rows in sorted(self._unequal)]
        return (Block(1, self._window_us()), *timed, *unequal)

    def _micro_batch(self) -> int | None:
        """Return from how many ready windows on a block of 32 beats single calls."""
        keys = [("engine", 1), ("engine", _MICRO_BATCH), ("block", _MICRO_BATCH)]
        if not all(key in self._samples for key in keys):
            return None
        single_us, block_us = (self._median_us("engine", rows) for rows in (1, _MICRO_BATCH))
        if _LEAST_BLOCK_GAIN * block_us > _MICRO_BATCH * single_us:
            return None  # convolutions gain a few percent at most: not worth the waiting
        return max(2, math.floor(block_us / single_us) + 1)

    def _window_us(self) -> float:
        return self._median_us("window", 1)

    def _median_us(self, what: str, rows: int) -> float:
        return statistics.median(steady(self._samples[what, rows]))

    def _heard(self) -> Reply:
        """Wait for one line; a child that is silent for too long, or gone, has failed."""
        deadline_s = time.monotonic() + self._limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline_s - time.monotonic())):
                    self._child.kill()
                    return Failed(f"it said nothing for {self._limit_s:g} s")
                part = os.read(self._replies.fileno(), 1 << 16)
                if not part:
                    return self._crashed()
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply: Reply = msgspec.json.decode(line, type=Reply)
        except msgspec.DecodeError as error:
            return Failed(f"its reply cannot be read: {error}")
        return reply

    def _crashed(self) -> Failed:
        code = self._child.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Failed(f"its process died of {how}" + (f": {lines[-1][:200]}" if lines else ""))


def _spawn(path: Path, candidate: Candidate, errors: int) -> subprocess.Popen[bytes]:
    arguments = [str(path), msgspec.json.encode(candidate).decode()]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        child_command("edge_runtime.tune.child", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        bufsize=0,
        env=child_environment(),
    )
