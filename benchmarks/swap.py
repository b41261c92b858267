"""A new base goes live while samples keep coming."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator

import cases
from cases import KWS, Case
from results import Row

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle
from edge_runtime.clock import SystemClock
from edge_runtime.modes.serving import Serving
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Choice
from edge_runtime.types import Frame

__all__ = ["PARTS"]

_BAR_MS = 10.0
_BLOCK = 7  # no divisor of a window: every swap falls into an unfinished one
_AFTER = 200  # frames before a swap and after it


class _Swap:
    """Builds the new pipeline on a thread of its own, as `modes.updates` does."""

    def __init__(self, bundle: Bundle, backend: str) -> None:
        self._bundle = bundle
        self._backend = backend
        self.pipeline: Pipeline | None = None
        self.load_ms = 0.0
        self.thread = threading.Thread(target=self._load)

    def _load(self) -> None:
        start_ns = time.thread_time_ns()
        pipeline = open_pipeline(self._bundle, Choice(backend=self._backend))
        self.load_ms = (time.thread_time_ns() - start_ns) / 1e6
        self.pipeline = pipeline


def swap(*, rounds: int) -> list[Row]:
    """Several swaps with each runtime; the default one is judged."""
    times = max(3, rounds // 20)
    lost, spent, longest_ms = _swaps("litert", times)
    _, spent_onnx, _ = _swaps("onnx", times)
    return [
        Row.of(
            "swap_lost",
            lost,
            "windows",
            bar=0.0,
            peers={"swaps": times, "longest gap between frames ms": longest_ms},
        ),
        Row.of(
            "swap_cpu_ms",
            statistics.median(spent),
            "ms",
            bar=_BAR_MS,
            peers={"the same with onnxruntime ms": statistics.median(spent_onnx)},
        ),
    ]


PARTS = {"swap_lost swap_cpu_ms": swap}


def _swaps(backend: str, times: int) -> tuple[float, list[float], float]:
    """Return windows lost in all, CPU ms of each swap, and the longest pause."""
    serving = Serving(KWS.pipeline(backend), position=0, commit_s=1e6, clock=SystemClock())
    frames = _frames(KWS)
    ends: list[int] = []
    spent, longest_ms = [], 0.0
    for number in range(times):
        _push(serving, frames, ends, _AFTER)
        swap = _Swap(_other(backend, number), backend)
        swap.thread.start()
        while swap.pipeline is None:
            _push(serving, frames, ends, 1)
        swap.thread.join()
        cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
        serving.replace(swap.pipeline)
        spent.append(swap.load_ms + (time.thread_time_ns() - cpu_ns) / 1e6)
        _push(serving, frames, ends, 1)
        longest_ms = max(longest_ms, (time.perf_counter_ns() - wall_ns) / 1e6)
    _push(serving, frames, ends, _AFTER)
    length = KWS.spec.window.length
    due = set(range(length - 1, serving.position, length))
    return float(len(due - set(ends)) + len(ends) - len(set(ends))), spent, longest_ms


def _push(serving: Serving, frames: Iterator[Frame], ends: list[int], count: int) -> None:
    for _ in range(count):
        ends += serving.push(next(frames)).estimates.index.tolist()
    if serving.due_ns is not None:
        serving.take()


def _other(backend: str, number: int) -> Bundle:
    """Return the same model under another digest."""
    bundle = KWS.bundle(backend)
    return Bundle(bundle.spec, f"{number:064x}", bundle.files)


def _frames(case: Case) -> Iterator[Frame]:
    """Yield features in small frames without end."""
    real, _ = cases.keyword_features(64)
    samples = real.reshape(-1, real.shape[-1])
    index = 0
    while True:
        yield from cases.stream(samples, _BLOCK, case.spec, index=index)
        index += len(samples)
