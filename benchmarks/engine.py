"""What the pipeline adds to the bare runtime, from ready features.

The bare runtime gets integers that are quantised already and does set, invoke
and get; the pipeline gets the features as float32 frames and returns
estimates.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import interleaved
from results import Row

from edge_runtime.backends import load_session
from edge_runtime.pipeline import Pipeline
from edge_runtime.pipeline.quantise import quantise
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    ModelSpec,
    OutputSpec,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Frame

__all__ = ["rows"]

MODELS = Path(__file__).parents[1] / "tests" / "data" / "models"
KINDS = {"litert": "tflite", "onnx": "onnx"}
BLOCK = 64
MANY = 4 * BLOCK
VARIETY = 64  # different windows that are used in turn

# Over the bare runtime: where we want to be, met or not.
KEYWORD_RATIO_BAR = 1.35
OVERHEAD_BAR_US = 12.0
MANY_RATIO_BAR = 1.11
RSS_BARS_MB = {"litert": 56.0, "onnx": 74.0}


class Case:
    """One model and one runtime, with windows to feed to both sides.

    Args:
        name: Short name of the model.
        backend: ``litert`` or ``onnx``.
    """

    def __init__(self, name: str, backend: str) -> None:
        self.name = name
        self.backend = backend
        self.spec, stem, scale = _SPECS[name]
        suffix = ".tflite" if backend == "litert" else "_qdq.onnx"
        self.model = (MODELS / f"{stem}{suffix}").read_bytes()
        tensor = self.pipeline()[1].inputs[0]
        shape = (MANY, self.spec.window.length, len(self.spec.stream.channels))
        self.features = np.random.default_rng(7).normal(0, scale, shape).astype(np.float32)
        self.integers = quantise(self.features.reshape(MANY, *tensor.shape[1:]), tensor)

    def pipeline(self) -> tuple[Pipeline, Any]:
        """Return a fresh pipeline and its session."""
        session = load_session(self.backend, KINDS[self.backend], self.model)
        return Pipeline(self.spec, session, base="0" * 64), session

    def frames(self) -> Iterator[Frame]:
        """Yield one-window frames without end, each later than the one before."""
        length = self.spec.window.length
        time_ns = np.arange(length, dtype=np.int64) * self.spec.stream.period_ns
        for number in itertools.count():
            shift = number * length * self.spec.stream.period_ns
            samples = self.features[number % VARIETY]
            yield Frame("main", number * length, time_ns + shift, samples)


def rows(*, rounds: int) -> list[Row]:
    """Measure every row.

    Args:
        rounds: Samples of each variant; 200 give steady medians.
    """
    found = []
    for name, backend in itertools.product(_SPECS, KINDS):
        case = Case(name, backend)
        found += [*_single(case, rounds), _many(case, max(5, rounds // 4))]
    return found + [_memory(backend) for backend in KINDS]


def _single(case: Case, rounds: int) -> list[Row]:
    calls = 10
    pipeline, _ = case.pipeline()
    # Frames are built in advance: a source would have them ready.
    frames = iter(list(itertools.islice(case.frames(), (rounds + 1) * calls)))
    inputs = itertools.cycle([row[None] for row in case.integers[:VARIETY]])
    bare = _BARE[case.backend](case.model, 1)
    timing = interleaved(
        {"bare": lambda: bare(next(inputs)), "ours": lambda: pipeline.push(next(frames))},
        rounds=rounds,
        calls=calls,
    )
    bare_us, ours_us = timing["bare"].median_us, timing["ours"].median_us
    peers = {
        "bare us": bare_us,
        "ours us": ours_us,
        "dropped samples": float(sum(entry.dropped for entry in timing.values())),
    }
    label = f"{case.name}_{case.backend}"
    over, beyond_us = ours_us / bare_us, ours_us - bare_us
    # What bounds a tiny model is our own time, what bounds a larger one is the ratio.
    is_tiny = case.name == "ad"
    ratio_bar, time_bar = (None, OVERHEAD_BAR_US) if is_tiny else (KEYWORD_RATIO_BAR, None)
    return [
        Row.of(f"pipeline_over_invoke_{label}", over, "x", bar=ratio_bar, peers=peers),
        Row.of(f"pipeline_beyond_invoke_{label}", beyond_us, "us", bar=time_bar, peers=peers),
    ]


def _many(case: Case, rounds: int) -> Row:
    samples = case.features.reshape(-1, case.features.shape[-1])
    time_ns = np.arange(len(samples), dtype=np.int64) * case.spec.stream.period_ns
    frame = Frame("main", 0, time_ns, samples)
    pipeline, _ = case.pipeline()
    fresh = pipeline.snapshot()

    def ours() -> None:
        pipeline.restore(fresh)
        pipeline.run_many([frame])

    bare = _BARE[case.backend](case.model, BLOCK)
    blocks = [case.integers[first : first + BLOCK] for first in range(0, MANY, BLOCK)]
    timing = interleaved(
        {"bare": lambda: [bare(block) for block in blocks], "ours": ours}, rounds=rounds, calls=1
    )
    bare_us, ours_us = (timing[name].median_us / MANY for name in ("bare", "ours"))
    peers = {f"bare us a row, blocks of {BLOCK}": bare_us, "ours us a row": ours_us}
    name = f"run_many_over_block_{case.name}_{case.backend}"
    return Row.of(name, ours_us / bare_us, "x", bar=MANY_RATIO_BAR, peers=peers)


def _memory(backend: str) -> Row:
    done = subprocess.run(
        [sys.executable, "-c", _START, backend],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    rss_mb, before_mb = map(float, done.stdout.split())
    peers = {"numpy alone mb": before_mb}
    bar = RSS_BARS_MB[backend]
    return Row.of(f"rss_pipeline_{backend}_mb", rss_mb, "MB", bar=bar, peers=peers)


_START = """
import re, sys
from pathlib import Path
def rss_mb():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\\s+(\\d+)", status)[1]) / 1024
import numpy
before_mb = rss_mb()
from lean import first_answer
first_answer(sys.argv[1])
print(rss_mb(), before_mb)
"""


def _bare_litert(model: bytes, count: int) -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    source = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(source["index"], (count, *source["shape"][1:]))
    interpreter.allocate_tensors()
    target = interpreter.get_output_details()[0]["index"]

    def answer(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], batch)
        interpreter.invoke()
        result: np.ndarray = interpreter.get_tensor(target)
        return result

    return answer


def _bare_onnx(model: bytes, _: int) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    source, names = session.get_inputs()[0].name, [session.get_outputs()[0].name]

    def answer(batch: np.ndarray) -> np.ndarray:
        result: np.ndarray = session.run(names, {source: batch})[0]
        return result

    return answer


_BARE: dict[str, Callable[[bytes, int], Callable[[np.ndarray], np.ndarray]]] = {
    "litert": _bare_litert,
    "onnx": _bare_onnx,
}


def _spec(length: int, channels: int, labels: tuple[str, ...], **more: Any) -> ModelSpec:
    return ModelSpec(
        name="benchmark",
        version="1",
        stream=StreamSpec(
            channels=tuple(ChannelSpec(f"c{number}") for number in range(channels)), rate_hz=50
        ),
        window=WindowSpec(length=length, hop=length),
        artefacts=(ArtefactSpec(backend="tflite", file="model.tflite", precision="int8"),),
        labels=labels,
        **more,
    )


# Spec, file name, and the spread of features that fills the input tensor's range.
_SPECS: dict[str, tuple[ModelSpec, str, float]] = {
    "kws": (
        _spec(49, 10, tuple(f"word{number}" for number in range(12)), kind="classifier"),
        "kws_dscnn_int8",
        25.0,
    ),
    "ad": (
        _spec(5, 128, ("anomaly",), kind="scorer", output=OutputSpec(activation="reconstruction")),
        "ad_autoencoder_int8",
        15.0,
    ),
}
