"""The models and the inputs that the benchmarks run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from results import Skipped

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle, Golden, digest_of, save_bundle, write_golden
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Choice
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    ModelSpec,
    Normalise,
    OutputSpec,
    Smoothing,
    StateSpec,
    StateTensor,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Frame

__all__ = [
    "AD",
    "AD_INPUT",
    "AD_OUTPUT",
    "DATA",
    "HOP",
    "IMAGE",
    "KINDS",
    "KWS",
    "LENGTH",
    "MODELS",
    "RESNET",
    "VWW",
    "Case",
    "audio",
    "images",
    "keyword_features",
    "noise",
    "okay_nabu",
    "silero",
    "stream",
    "without_overlap",
]

DATA = Path(__file__).parents[1] / "tests" / "data"
MODELS = DATA / "models"
KINDS = {"litert": "tflite", "onnx": "onnx", "reference": "reference"}

LENGTH, HOP = 640, 64
IMAGE = (96, 96, 3)
_WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
_CLASSES = (*_WORDS, "silence", "unknown")


class Case(msgspec.Struct, frozen=True, eq=False):
    """A model with its description.

    Attributes:
        spec: What ``bundle.yaml`` would say.
        files: Model file per backend.
    """

    spec: ModelSpec
    files: Mapping[str, Path]

    def model(self, backend: str = "litert") -> bytes:
        """Return the bytes of the model file."""
        return self.files[backend].read_bytes()

    def bundle(self, backend: str = "litert") -> Bundle:
        """Return a bundle in memory, without golden vectors."""
        artefact = ArtefactSpec(KINDS[backend], "model", "int8")
        spec = msgspec.structs.replace(self.spec, artefacts=(artefact,))
        files = {"model": self.model(backend)}
        return Bundle(spec, digest_of(files), files)

    def pipeline(self, backend: str = "litert", **options: Any) -> Pipeline:
        """Return a fresh pipeline with default settings."""
        return open_pipeline(self.bundle(backend), Choice(backend=backend), **options)

    def save(self, folder: Path, windows: np.ndarray, backend: str = "litert") -> Path:
        """Write a complete bundle; its golden vectors are the answers to ``windows``."""
        bundle = self.bundle(backend)
        pipeline = open_pipeline(bundle, Choice(backend=backend))
        samples = windows.reshape(-1, windows.shape[-1])
        frame = next(stream(samples, len(samples), bundle.spec))
        outputs = pipeline.run_many([frame]).estimates.score
        golden = write_golden(Golden(windows, outputs))
        save_bundle(folder, bundle.spec, {**bundle.files, bundle.spec.golden: golden})
        return folder


def _spec(name: str, channels: int, length: int, hop: int, **more: Any) -> ModelSpec:
    rate_hz = more.pop("rate_hz", 50.0)
    more.setdefault("artefacts", (ArtefactSpec("tflite", "model", "int8"),))
    return ModelSpec(
        name=name,
        version="1",
        stream=StreamSpec(
            tuple(ChannelSpec(f"c{number}") for number in range(channels)), rate_hz=rate_hz
        ),
        window=WindowSpec(length=length, hop=hop, pad=more.pop("pad", 0)),
        **more,
    )


AD = Case(
    _spec(
        "machine-sound",
        1,
        LENGTH,
        HOP,
        rate_hz=16000.0,
        kind="scorer",
        labels=("anomaly",),
        output=OutputSpec(activation="reconstruction"),
        # Far above what the inputs give: nothing is decided, but the decider looks.
        limits=(Limit("anomaly", on=1e6, off=1e5),),
    ),
    {
        "litert": MODELS / "ad_autoencoder_int8.tflite",
        "onnx": MODELS / "ad_autoencoder_int8_qdq.onnx",
    },
)
"""640 values; a window for every 64 new ones."""

AD_INPUT = (0.3910152316093445, 89)
"""Scale and zero point of its input tensor."""

AD_OUTPUT = (0.36449846625328064, 96)
"""Scale and zero point of its output tensor."""

KWS = Case(
    _spec(
        "keywords",
        10,
        49,
        49,
        kind="classifier",
        labels=_CLASSES,
        limits=tuple(Limit(word, on=0.8, off=0.5) for word in _WORDS),
    ),
    {
        "litert": MODELS / "kws_dscnn_int8.tflite",
        "onnx": MODELS / "kws_dscnn_int8_qdq.onnx",
    },
)
"""Ready features, 49 frames of 10 coefficients; ten words may start and end."""

VWW = Case(
    _spec(
        "person",
        IMAGE[1] * IMAGE[2],
        IMAGE[0],
        IMAGE[0],
        rate_hz=960.0,
        kind="classifier",
        labels=("nobody", "person"),
        normalise=Normalise((0.0,) * 288, (255.0,) * 288),
        limits=(Limit("person", on=0.98, off=0.9),),
    ),
    {"litert": MODELS / "vww_mobilenet_int8.tflite"},
)
"""An image is a frame of 96 lines; a line is one sample of 96 x 3 channels, uint8."""

RESNET = Case(
    _spec("objects", 96, 32, 32, rate_hz=1600.0, kind="classifier", labels=tuple("0123456789")),
    {
        "litert": MODELS / "ic_resnet8_float.tflite",
        "onnx": MODELS / "ic_resnet8_float.onnx",
    },
)
"""About 0.23 ms in both runtimes; 50 images of 32 lines a second."""


def okay_nabu() -> Case:
    """Return the wake word from raw audio: 30 ms steps of three 10 ms features.

    Raises:
        Skipped: This edge-runtime has no audio front end.
    """
    try:
        from edge_runtime.spec import MicroFrontend
    except ImportError as error:
        raise Skipped("this edge-runtime has no feature micro_frontend") from error
    spec = _spec(
        "okay-nabu",
        1,
        800,
        480,
        rate_hz=16000.0,
        kind="classifier",
        labels=("okay_nabu",),
        features=(MicroFrontend(),),
        smoothing=Smoothing(windows=5),
        limits=(Limit("okay_nabu", on=0.97, off=0.5),),
    )
    return Case(spec, {"litert": MODELS / "okay_nabu.tflite"})


def silero(model: Path) -> Case:
    """Return the voice detector: 512 new samples after the last 64 of the ones before."""
    spec = _spec(
        "voice",
        1,
        576,
        512,
        rate_hz=16000.0,
        pad=64,
        kind="classifier",
        labels=("voice",),
        state=StateSpec((StateTensor("state", "stateN"),), {"sr": 16000}),
        limits=(Limit("voice", on=0.5, off=0.35),),
    )
    return Case(spec, {"onnx": model})


# --- inputs ---------------------------------------------------------------------


def stream(
    samples: np.ndarray, block: int, spec: ModelSpec, *, index: int = 0, name: str = "main"
) -> Iterator[Frame]:
    """Yield ``samples`` in frames of ``block``, as a source with a steady clock does."""
    step_ns = spec.stream.period_ns
    time_ns = (np.arange(len(samples), dtype=np.int64) + index) * step_ns
    for first in range(0, len(samples), block):
        rows = slice(first, first + block)
        yield Frame(name, index + first, time_ns[rows], samples[rows], step_ns=step_ns)


def noise(count: int, dtype: type = np.int8, seed: int = 7) -> np.ndarray:
    """Return (count, 1) values that fill the autoencoder's range, as int8 or float32."""
    values = np.random.default_rng(seed).normal(0, 15, (count, 1))
    if dtype is np.float32:
        return values.astype(np.float32)
    return np.clip(np.rint(values / AD_INPUT[0] + AD_INPUT[1]), -128, 127).astype(dtype)


def keyword_features(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return official features of clips that hold no keyword.

    Returns:
        Real values (count, 49, 10) float32, and the same as the model's integers.
    """
    with np.load(DATA / "keywords" / "mfcc_int8_49x10.npz") as file:
        features, label = file["features"], file["label"]
    chosen = features[label >= len(_WORDS)]
    integers = chosen[np.arange(count) % len(chosen)]
    real = (integers[..., 0].astype(np.float32) - 83) * np.float32(0.58470290899276733)
    return real, integers


def images(count: int) -> np.ndarray:
    """Return (count, 96, 96, 3) uint8 pixels."""
    return np.random.default_rng(7).integers(0, 256, (count, *IMAGE), np.uint8)


def audio(seconds: int = 20) -> np.ndarray:
    """Return speech and pauses, (seconds x 16000,) int16."""
    with np.load(DATA / "keywords" / "clips_int16_16k.npz") as file:
        return np.ascontiguousarray(file["audio"][:seconds].reshape(-1))


def without_overlap(case: Case) -> Case:
    """Return the same model with every sample in one window alone."""
    spec = case.spec
    window = msgspec.structs.replace(spec.window, hop=spec.window.length)
    return Case(msgspec.structs.replace(spec, window=window), case.files)
