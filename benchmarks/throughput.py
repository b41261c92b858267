"""Samples a second on one core, and how that depends on hop, channels, block and streams."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import cases
import hand
import msgspec
import numpy as np
from bare import litert
from cases import AD, HOP, LENGTH, Case
from measure import median_ratio
from results import Ratio, Row

from edge_runtime.backends import open_pipeline
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.types import Frame, StateKind, TensorSpec

__all__ = ["PARTS"]

_SAMPLES = 4096 * 8
_BLOCKS = (64, 256, 1024, 4096)
_BAR = 3.5e6
# 3.5 of the 4.3 M samples/s that a loop like ours gave where the bar was set.
_HAND_RATIO = 0.81
_LENGTH = 128

Side = tuple[Callable[[], None], int]
"""Something to run once, and how many samples it takes."""


def autoencoder(*, rounds: int) -> list[Row]:
    """Frames of each size, hop 64; the best one counts, the others are shown."""
    samples = cases.noise(_SAMPLES)
    sides = {f"block {block}": _stream_side(AD.pipeline(), samples, block) for block in _BLOCKS}
    taken = _rates({**sides, "hand loop": _hand_side(samples)}, max(5, rounds // 20))
    rates = {name: statistics.median(found) for name, found in taken.items()}
    best = max(sides, key=lambda name: rates[name])
    over = median_ratio(taken[best], taken["hand loop"])
    ratio = Ratio("ours over the hand loop", over, at_least=_HAND_RATIO)
    return [
        Row.of(
            "samples_per_s_ad",
            rates[best],
            "samples/s",
            bar=_BAR,
            better="higher",
            ratios=[ratio],
            peers=rates,
        )
    ]


def hops(*, rounds: int) -> list[Row]:
    """The autoencoder, frames of 256; a window for every 1, 16, 64, 640 samples."""
    found = {}
    for hop, count in ((1, 2_000), (16, 8_000), (64, _SAMPLES), (640, _SAMPLES)):
        window = WindowSpec(length=LENGTH, hop=hop)
        case = Case(msgspec.structs.replace(AD.spec, window=window), AD.files)
        found[f"scaling_hop_{hop}"] = _stream_side(case.pipeline(), cases.noise(count), 256)
    return _plain(found, rounds)


def channels(*, rounds: int) -> list[Row]:
    """Windows of 128 samples of 1, 3, 16 float channels, hop 64, and no model at all."""
    found = {}
    for count in (1, 3, 16):
        samples = np.random.default_rng(7).normal(size=(_SAMPLES, count)).astype(np.float32)
        found[f"scaling_channels_{count}"] = _stream_side(_without_model(count), samples, 256)
    return _plain(found, rounds)


def blocks(*, rounds: int) -> list[Row]:
    """The autoencoder, hop 64, frames of 1, 16, 64, 1024 samples."""
    found = {
        f"scaling_block_{block}": _stream_side(AD.pipeline(), cases.noise(count), block)
        for block, count in ((1, 4_096), (16, 8_192), (64, _SAMPLES), (1024, _SAMPLES))
    }
    return _plain(found, rounds)


def streams(*, rounds: int) -> list[Row]:
    """The autoencoder, frames of 64 of 1, 50, 200 streams in turn."""
    found = {
        f"scaling_streams_{count}": _many_streams_side(count, frames)
        for count, frames in ((1, 512), (50, 10), (200, 4))
    }
    return _plain(found, rounds)


PARTS = {
    "samples_per_s_ad": autoencoder,
    "scaling_hop": hops,
    "scaling_channels": channels,
    "scaling_block": blocks,
    "scaling_streams": streams,
}


def _plain(sides: Mapping[str, Side], rounds: int) -> list[Row]:
    taken = _rates(sides, max(3, rounds // 40))
    return [
        Row.of(name, statistics.median(rates), "samples/s", bar=None, better="higher", peers={})
        for name, rates in taken.items()
    ]


def _rates(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """Return samples a second of processor time of interleaved rounds."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for run, _ in sides.values():
        run()
    gc.collect()
    for _ in range(rounds):
        for name, (run, count) in sides.items():
            start_ns = time.thread_time_ns()
            run()
            taken[name].append(count / (time.thread_time_ns() - start_ns) * 1e9)
    return taken


def _stream_side(pipeline: Pipeline, samples: np.ndarray, block: int) -> Side:
    """Push all samples, again and again from a fresh start."""
    fresh = pipeline.snapshot()
    frames = list(cases.stream(samples, block, pipeline.spec))

    def run() -> None:
        pipeline.restore(fresh)
        for frame in frames:
            pipeline.push(frame)

    return run, len(samples)


def _hand_side(samples: np.ndarray) -> Side:
    loop = hand.Reconstruction(litert(AD.model()), cases.AD_INPUT, cases.AD_OUTPUT)
    blocks = [(f.samples[:, 0], f.time_ns) for f in cases.stream(samples, HOP, AD.spec)]

    def run() -> None:
        for block, time_ns in blocks:
            loop.push(block, time_ns)

    return run, len(samples)


def _many_streams_side(count: int, frames: int) -> Side:
    """Frames of all streams in turn, as they come in when all sensors have one rate."""
    bundle = AD.bundle()
    names = [f"s{number}" for number in range(count)]
    pipelines = [open_pipeline(bundle, stream=name) for name in names]
    samples = cases.noise(frames * HOP)
    columns = [list(cases.stream(samples, HOP, AD.spec, name=name)) for name in names]
    for pipeline, column in zip(pipelines, columns, strict=True):
        _fill(pipeline, column)
    fresh = [pipeline.snapshot() for pipeline in pipelines]
    rounds: Sequence[tuple[Frame, ...]] = list(zip(*columns, strict=True))

    def run() -> None:
        for pipeline, snapshot in zip(pipelines, fresh, strict=True):
            pipeline.restore(snapshot)
        for frames_of_all in rounds:
            for pipeline, frame in zip(pipelines, frames_of_all, strict=True):
                pipeline.push(frame)

    return run, count * frames * HOP


def _fill(pipeline: Pipeline, frames: Sequence[Frame]) -> None:
    """Bring a pipeline so far that every further frame completes a window."""
    spec = pipeline.spec
    before_ns = int(frames[0].time_ns[0]) - LENGTH * spec.stream.period_ns
    time_ns = np.arange(LENGTH, dtype=np.int64) * spec.stream.period_ns + before_ns
    pipeline.push(Frame(pipeline.stream, 0, time_ns, cases.noise(LENGTH)))


class _NoModel:
    """A session that answers 0 at once, so that only the pipeline's own work is left."""

    state_kind: StateKind = "stateless"

    def __init__(self, size: int) -> None:
        self.inputs = (TensorSpec("values", (1, size), "float32"),)
        self.outputs = (TensorSpec("answer", (1, 1), "float32"),)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Return one 0 per row."""
        return np.zeros((len(batch), 1), np.float32)

    def reset(self) -> None:
        """Nothing to forget."""

    def fork(self) -> Self:
        """Return itself: there is no state."""
        return self

    def state(self) -> bytes | None:
        """Return none."""
        return None

    def restore(self, state: bytes) -> None:
        """Take none."""

    def close(self) -> None:
        """Nothing to free."""


def _without_model(count: int) -> Pipeline:
    spec = ModelSpec(
        name="nothing",
        version="1",
        kind="regressor",
        stream=StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(count)), rate_hz=100.0),
        window=WindowSpec(length=_LENGTH, hop=HOP),
        artefacts=(ArtefactSpec("reference", "model", "float32"),),
        labels=("value",),
    )
    return Pipeline(spec, _NoModel(_LENGTH * count), base="0" * 64)
