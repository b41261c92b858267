"""One model at 50 Hz: steady.py ours|engine litert|onnx OFFSET_MS SECONDS."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
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
    answer, images = _ours(backend) if side == "ours" else _engine(backend)
    for image in itertools.islice(images, 20):
        answer(image)
    ready = list(itertools.islice(images, 200))
    start_ns = time.process_time_ns()
    for image in ready:
        answer(image)
    back_to_back_ms = (time.process_time_ns() - start_ns) / 200e6

    def measure() -> dict[str, float]:
        ready = list(itertools.islice(images, round(seconds * 1e9 / PERIOD_NS)))
        due_ns = time.monotonic_ns() + round(offset_ms * 1e6)
        start_ns = time.process_time_ns()
        for image in ready:
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            answer(image)
            due_ns += PERIOD_NS
        return {"ms": (time.process_time_ns() - start_ns) / len(ready) / 1e6}

    serve(measure, back_to_back_ms=back_to_back_ms)


def _image() -> np.ndarray:
    return np.random.default_rng(7).uniform(0, 255, (LINES, 96)).astype(np.float32)


def _engine(backend: str) -> tuple[Callable[[np.ndarray], object], Iterator[np.ndarray]]:
    return BARE[backend](RESNET.model(backend)), itertools.repeat(_image().reshape(1, 32, 32, 3))


def _ours(backend: str) -> tuple[Callable[[Frame], object], Iterator[Frame]]:
    """Default settings, as a bundle without any gets them; a source of images has them ready."""
    pipeline, image = RESNET.pipeline(backend), _image()
    step_ns = RESNET.spec.stream.period_ns
    time_ns = np.arange(LINES, dtype=np.int64) * step_ns
    frames = (
        Frame("main", first, time_ns + first * step_ns, image, step_ns=step_ns)
        for first in itertools.count(0, LINES)
    )

    def answer(frame: Frame) -> object:
        output = pipeline.push(frame)
        assert len(output.estimates) == 1  # noqa: S101 - else nothing was measured
        return output

    return answer, frames


if __name__ == "__main__":
    main()
