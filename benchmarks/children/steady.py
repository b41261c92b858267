"""One model at 50 Hz: steady.py ours|engine litert|onnx OFFSET_MS SECONDS."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

from bare import BARE
from cases import RESNET
from rounds import serve

from edge_runtime.types import Frame

PERIOD_NS = 20_000_000
LINES = 32


def main() -> None:
    """Answer one image every 20 ms and tell the processor time per image."""
    side, backend, offset_ms, seconds = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:5])
    image = np.random.default_rng(7).uniform(0, 255, (LINES, 96)).astype(np.float32)
    answer = _ours(backend, image) if side == "ours" else _engine(backend, image)
    for _ in range(20):
        answer()
    start_ns = time.process_time_ns()
    for _ in range(200):
        answer()
    back_to_back_ms = (time.process_time_ns() - start_ns) / 200e6

    def measure() -> dict[str, float]:
        count = round(seconds * 1e9 / PERIOD_NS)
        due_ns = time.monotonic_ns() + round(offset_ms * 1e6)
        start_ns = time.process_time_ns()
        for _ in range(count):
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            answer()
            due_ns += PERIOD_NS
        return {"ms": (time.process_time_ns() - start_ns) / count / 1e6}

    serve(measure, back_to_back_ms=back_to_back_ms)


def _engine(backend: str, image: np.ndarray) -> Callable[[], object]:
    bare = BARE[backend](RESNET.model(backend))
    batch = image.reshape(1, 32, 32, 3)
    return lambda: bare(batch)


def _ours(backend: str, image: np.ndarray) -> Callable[[], object]:
    """Default settings, as a bundle without any gets them."""
    pipeline = RESNET.pipeline(backend)
    period_ns = RESNET.spec.stream.period_ns
    time_ns = np.arange(LINES, dtype=np.int64) * period_ns
    numbers = itertools.count(0, LINES)

    def answer() -> object:
        first = next(numbers)
        output = pipeline.push(Frame("main", first, time_ns + first * period_ns, image))
        assert len(output.estimates) == 1  # noqa: S101 - else nothing was measured
        return output

    return answer


if __name__ == "__main__":
    main()
