"""How good ``edge-runtime tune`` chooses, and how long it takes.

Each bundle is tuned; then every candidate that may be chosen is measured again,
independently: in one process, in turn. The regret is the time of the pick over
that of the best.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import interleaved
from results import Row

from edge_runtime.backends import load_session, open_pipeline
from edge_runtime.bundle import Bundle, Golden, load_bundle, save_bundle, write_golden
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Choice
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    ModelSpec,
    OutputSpec,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.tune import Candidate, Tuning, ranked, tune
from edge_runtime.update.proof import golden_windows

__all__ = ["rows"]

DATA = Path(__file__).parents[1] / "tests" / "data"

REGRET_BAR = 1.05
SECONDS_BAR = 2.0
_CALLS = 5


def rows(*, rounds: int) -> list[Row]:
    """Measure every row.

    Args:
        rounds: Samples of each candidate; 200 give steady medians.
    """
    regrets: dict[str, float] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in _BUNDLES.items():
            path = Path(folder) / name
            make(path)
            tuning = tune(path)
            seconds[name] = tuning.seconds / len(tuning.rows)
            regrets[name] = _regret(load_bundle(path), tuning, rounds)
    return [
        Row.of("tune_regret", max(regrets.values()), "x", bar=REGRET_BAR, peers=regrets),
        Row.of(
            "tune_seconds_per_candidate",
            max(seconds.values()),
            "s",
            bar=SECONDS_BAR,
            peers=seconds,
        ),
    ]


def _regret(bundle: Bundle, tuning: Tuning, rounds: int) -> float:
    """Return the time of the pick over that of the best, both measured again."""
    order = ranked(tuning.rows, "latency")
    variants = {str(row.candidate): _window(bundle, row.candidate) for row in order}
    timing = interleaved(variants, rounds=rounds, calls=_CALLS)
    best_us = min(entry.median_us for entry in timing.values())
    return timing[str(order[0].candidate)].median_us / best_us


def _window(bundle: Bundle, candidate: Candidate) -> Callable[[], object]:
    choice = Choice(candidate.backend, candidate.artefact, candidate.threads)
    pipeline = open_pipeline(bundle, choice)
    windows = itertools.cycle([golden_windows(one[None]) for one in bundle.golden().inputs])
    return lambda: pipeline.score_windows(next(windows))


def _keywords(folder: Path) -> None:
    """The keyword spotter on the official features of real clips."""
    integers = np.load(DATA / "keywords" / "mfcc_int8_49x10.npz")["features"][:32, :, :, 0]
    windows = (integers.astype(np.float32) - 83) * np.float32(0.5847029)
    spec = _spec(
        "kws",
        windows,
        {"kws_dscnn_int8.tflite": "int8", "kws_dscnn_int8_qdq.onnx": "int8"},
        labels=tuple(f"word{number}" for number in range(12)),
        tolerance=0.02,
    )
    _save(folder, spec, windows)


def _machine_sound(folder: Path) -> None:
    """The autoencoder on its golden inputs."""
    integers = np.load(DATA / "models" / "ad_autoencoder_int8.tflite.npz")["input"]
    windows = (integers.astype(np.float32) - 89) * np.float32(0.391015)
    windows = windows.reshape(-1, 5, 128)
    spec = _spec(
        "ad",
        windows,
        {"ad_autoencoder_int8.tflite": "int8", "ad_autoencoder_int8_qdq.onnx": "int8"},
        labels=("anomaly",),
        tolerance=1.0,
        kind="scorer",
        output=OutputSpec(activation="reconstruction"),
    )
    _save(folder, spec, windows)


def _sine(folder: Path) -> None:
    """The sine regressor, float32 and int8."""
    windows = np.linspace(0, 6, 32, dtype=np.float32).reshape(32, 1, 1)
    spec = _spec(
        "sine",
        windows,
        {"hello_world_float.tflite": "float32", "hello_world_int8.tflite": "int8"},
        labels=("sine",),
        tolerance=0.1,
        kind="regressor",
    )
    _save(folder, spec, windows)


_BUNDLES = {"kws": _keywords, "ad": _machine_sound, "sine": _sine}


def _spec(
    name: str,
    windows: np.ndarray,
    files: dict[str, str],
    *,
    kind: str = "classifier",
    **more: object,
) -> ModelSpec:
    _, length, channels = windows.shape
    return ModelSpec(
        name=name,
        version="1",
        kind=kind,  # type: ignore[arg-type]
        stream=StreamSpec(tuple(ChannelSpec(f"c{number}") for number in range(channels)), 50),
        window=WindowSpec(length=length, hop=length),
        artefacts=tuple(
            ArtefactSpec(file.rpartition(".")[2], file, precision)  # type: ignore[arg-type]
            for file, precision in files.items()
        ),
        **more,  # type: ignore[arg-type]
    )


def _save(folder: Path, spec: ModelSpec, windows: np.ndarray) -> None:
    """Write a bundle whose golden answers are those of its first file."""
    files = {one.file: (DATA / "models" / one.file).read_bytes() for one in spec.artefacts}
    first = spec.artefacts[0]
    session = load_session(None, first.backend, files[first.file])
    answers = Pipeline(spec, session, base="0" * 64).score_windows(golden_windows(windows)).score
    golden = write_golden(Golden(windows, answers))
    save_bundle(folder, spec, {**files, spec.golden: golden})
