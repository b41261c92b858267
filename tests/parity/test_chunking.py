"""The same base over the same rows gives the same bytes, however the rows come in."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.backends import load_session
from edge_runtime.backends.reference import ReferenceSession
from edge_runtime.pipeline import Pipeline, shape_of
from edge_runtime.spec import (
    ArtefactSpec,
    BandPower,
    CalibrationLayer,
    ChannelSpec,
    Clamps,
    Envelope,
    EnvelopeSpectrum,
    FeatureSpec,
    FusionLayer,
    Layer,
    Limit,
    LogMel,
    Mfcc,
    ModelSpec,
    Normalise,
    NormaliserLayer,
    OutputSpec,
    PriorLayer,
    Raw,
    ResidualLayer,
    Smoothing,
    Spectrum,
    Statistics,
    StreamSpec,
    ThresholdsLayer,
    WindowSpec,
)
from edge_runtime.types import Decision, Frame, Output

MODELS = Path(__file__).parents[1] / "data" / "models"
BASE = "ab" * 32
PERIOD_NS = 10_000_000
LABELS = ("a", "b")

Answer = tuple[dict[str, bytes], tuple[Decision, ...], dict[str, int]]


def answer_of(pipeline: Pipeline, outputs: Sequence[Output]) -> Answer:
    """Put all that came out into bytes."""
    columns = {}
    for name in ("index", "start_ns", "end_ns", "score", "value", "inputs"):
        parts = [getattr(output.estimates, name) for output in outputs]
        columns[name] = b"".join(part.tobytes() for part in parts if part is not None)
    decisions = tuple(decision for output in outputs for decision in output.decisions)
    return columns, decisions, pipeline.discarded


def rows_of(frame: Frame, first: int, last: int) -> Frame:
    """Return a part of a frame."""
    rows = slice(first, last)
    return Frame(frame.stream, frame.index + first, frame.time_ns[rows], frame.samples[rows])


def chunks_of(frame: Frame, seams: Sequence[int]) -> list[Frame]:
    """Split a frame at these rows."""
    bounds = itertools.pairwise(sorted({0, len(frame), *(seam % len(frame) for seam in seams)}))
    return [rows_of(frame, first, last) for first, last in bounds]


def by_sample(make: Callable[[], Pipeline], frame: Frame) -> Answer:
    """Push one sample at a time: the slow way that all others must equal."""
    pipeline = make()
    singles = [rows_of(frame, row, row + 1) for row in range(len(frame))]
    return answer_of(pipeline, list(pipeline.run(singles)))


def in_chunks(make: Callable[[], Pipeline], frame: Frame, seams: Sequence[int]) -> Answer:
    """Push frames of any size."""
    pipeline = make()
    return answer_of(pipeline, list(pipeline.run(chunks_of(frame, seams))))


def vectorised(make: Callable[[], Pipeline], frame: Frame, seams: Sequence[int]) -> Answer:
    """Answer everything in one pass."""
    pipeline = make()
    return answer_of(pipeline, [pipeline.run_many(chunks_of(frame, seams))])


def with_restarts(make: Callable[[], Pipeline], frame: Frame, seams: Sequence[int]) -> Answer:
    """Snapshot after every chunk and go on in a new pipeline."""
    pipeline, outputs = make(), []
    for chunk in chunks_of(frame, seams):
        outputs.append(pipeline.push(chunk))
        snapshot = pipeline.snapshot()
        pipeline = make()
        pipeline.restore(snapshot)
    return answer_of(pipeline, outputs)


def stream_of(
    count: int, channels: int, seed: int, *, dtype: str = "float64", is_clean: bool = False
) -> Frame:
    """Draw a stream with gaps, late and repeated rows, and missing values."""
    random = np.random.default_rng(seed)
    steps = np.full(count, PERIOD_NS) + random.integers(-1000, 1000, count)
    samples = (random.normal(size=(count, channels)) * 40).astype(dtype)
    if not is_clean:
        kind = random.uniform(size=count)
        steps[kind < 0.01] = PERIOD_NS * 3
        steps[(kind > 0.01) & (kind < 0.03)] = 0
        steps[(kind > 0.03) & (kind < 0.04)] = -PERIOD_NS // 2
        if samples.dtype.kind == "f":
            samples[random.uniform(size=samples.shape) < 0.001] = np.nan
            samples[random.uniform(size=samples.shape) < 0.0005] = np.inf
    return Frame("main", int(random.integers(0, 10**9)), np.cumsum(steps), samples)


def spec_of(features: tuple[FeatureSpec, ...], **more: object) -> ModelSpec:
    """Make the spec of a classifier with everything switched on."""
    mel = any(isinstance(feature, LogMel | Mfcc) for feature in features)
    channels = 1 if mel else 3
    fields: dict[str, object] = {
        "name": "toy",
        "version": "1",
        "kind": "classifier",
        "stream": StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(channels)), 100.0),
        "window": WindowSpec(16, 3),
        "artefacts": (ArtefactSpec("reference", "model.npz", "float32"),),
        "labels": LABELS,
        "features": features,
        "output": OutputSpec(activation="softmax", scale=0.9, offset=0.01),
        "link": "log_odds",
        "smoothing": Smoothing(3),
        "limits": (Limit("a", 0.55, 0.45), Limit("b", 0.5, 0.5)),
        "clamps": Clamps(residual=0.5, prior=0.5, age_s=2.0),
    }
    return ModelSpec(**(fields | more))


def layers_of(features: int) -> list[Layer]:
    """Make one layer of each kind; they come and go while the stream runs."""
    numbers = np.random.default_rng(5).normal(size=features)
    bodies = [
        NormaliserLayer(tuple(numbers.tolist()), (2.0,) * features),
        CalibrationLayer(1.1, 0.05),
        ResidualLayer(0.01, tuple((numbers / 10).tolist())),
        FusionLayer(0.02, 0.9, 0.8),
        PriorLayer((0.3, -0.3), (0.1, 0.0)),
        ThresholdsLayer((Limit("a", 0.52, 0.51),)),
    ]
    return [
        Layer(
            body,
            BASE,
            number,
            made_ns=number * 20 * PERIOD_NS,
            half_life_s=0.7,
            expires_ns=None if number % 2 else 150 * PERIOD_NS,
        )
        for number, body in enumerate(bodies)
    ]


def reference_pipeline(
    features: tuple[FeatureSpec, ...], *, has_layers: bool, upload: str
) -> Pipeline:
    """Make a pipeline over a dense network in numpy."""
    plain = spec_of(features)
    shape = shape_of(features, (16, len(plain.stream.channels)))
    size = int(np.prod(shape))
    spec = spec_of(features, normalise=Normalise((0.5,) * size, (20.0,) * size))
    random = np.random.default_rng(11)
    layers = [(size, 8), (8, len(LABELS))]
    session = ReferenceSession(
        [
            (random.normal(size=pair).astype("f4"), random.normal(size=pair[1]).astype("f4"))
            for pair in layers
        ]
    )
    return Pipeline(
        spec,
        session,
        base=BASE,
        layers=layers_of(size) if has_layers else (),
        upload=upload,
    )


FEATURES: list[tuple[FeatureSpec, ...]] = [
    (Raw(),),
    (Raw(peak=True),),
    (Statistics(("mean", "std", "rms", "skewness", "kurtosis", "crest", "ptp")),),
    (Spectrum(log=True),),
    (Statistics(("rms", "min")), Spectrum(first=1, last=4), Raw()),
    (LogMel(8, 4, 16, 4, 1.0, 50.0),),
    (Mfcc(LogMel(8, 4, 16, 4, 1.0, 50.0, peak=True), 3),),
    (Mfcc(LogMel(8, 3, 8, 4, 0.0, 50.0, 0.0, pre_emphasis=0.9, log="db", clip=(-9, 40)), 3),),
    (BandPower(((1.0, 20.0), (20.0, 50.0)), 8), Envelope(low_hz=5.0)),
    (EnvelopeSpectrum(last=6),),
]


@settings(max_examples=60, deadline=None)
@given(
    features=st.sampled_from(FEATURES),
    has_layers=st.booleans(),
    upload=st.sampled_from(["none", "features", "windows"]),
    count=st.integers(1, 600),
    dtype=st.sampled_from(["float64", "float32", "int16"]),
    seams=st.lists(st.integers(0, 600), max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_way_of_running_changes_a_byte(
    features: tuple[FeatureSpec, ...],
    has_layers: bool,
    upload: str,
    count: int,
    dtype: str,
    seams: list[int],
    seed: int,
) -> None:
    """Sample by sample, in chunks, vectorised and across restarts: one answer."""
    make = functools.partial(reference_pipeline, features, has_layers=has_layers, upload=upload)
    frame = stream_of(count, len(make().spec.stream.channels), seed, dtype=dtype)

    expected = by_sample(make, frame)

    assert in_chunks(make, frame, seams) == expected
    assert vectorised(make, frame, seams) == expected
    assert with_restarts(make, frame, seams) == expected


def test_the_streams_of_these_tests_try_everything() -> None:
    """There are decisions, discards of every kind and layers at work to agree about."""
    make = functools.partial(reference_pipeline, FEATURES[0], has_layers=True, upload="none")

    columns, decisions, discarded = by_sample(make, stream_of(600, 3, 0))

    assert columns["score"] != columns["value"]
    assert {decision.edge for decision in decisions} == {"start", "end"}
    assert min(discarded.values()) > 0


def test_a_long_stream_is_the_same_vectorised() -> None:
    """Where blocks, batches and the buffer have their seams, nothing shows."""
    make = functools.partial(reference_pipeline, FEATURES[4], has_layers=True, upload="none")
    frame = stream_of(20_000, 3, 3, is_clean=True)
    seams = list(range(0, 20_000, 64))

    expected = in_chunks(make, frame, seams)

    assert vectorised(make, frame, []) == expected
    assert vectorised(make, frame, seams) == expected


# --- the models people run ------------------------------------------------------------


def real_spec(inputs: int, outputs: int, **more: object) -> ModelSpec:
    """Make a spec for a model that takes ``inputs`` raw samples."""
    return spec_of(
        (Raw(),),
        **{
            "stream": StreamSpec((ChannelSpec("c0"),), 100.0),
            "window": WindowSpec(inputs, max(1, inputs // 8)),
            "labels": tuple(f"l{i}" for i in range(outputs)),
            "limits": (Limit("l0", 0.2, 0.1),),
            "output": OutputSpec(),
            "link": "identity",
        }
        | more,
    )


REAL = [
    pytest.param("kws_dscnn_int8.tflite", real_spec(490, 12), id="keywords-tflite"),
    pytest.param("kws_dscnn_int8_qdq.onnx", real_spec(490, 12), id="keywords-onnx"),
    pytest.param(
        "ad_autoencoder_int8.tflite",
        real_spec(640, 1, output=OutputSpec(activation="reconstruction")),
        id="autoencoder-tflite",
    ),
    pytest.param(
        "ad_autoencoder_int8_qdq.onnx",
        real_spec(640, 1, output=OutputSpec(activation="reconstruction")),
        id="autoencoder-onnx",
    ),
    pytest.param("hello_world_float.tflite", real_spec(1, 1), id="float-tflite"),
]


@pytest.mark.parametrize(("file", "spec"), REAL)
@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seams=st.lists(st.integers(0, 6000), max_size=12),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "int8"]),
)
def test_real_models_answer_alike_in_all_ways(
    file: str, spec: ModelSpec, seams: list[int], seed: int, dtype: str
) -> None:
    """LiteRT and ONNX Runtime keep the promise that the numpy network keeps."""
    kind = "tflite" if file.endswith("tflite") else "onnx"
    session = load_session(None, kind, (MODELS / file).read_bytes())

    def make() -> Pipeline:
        return Pipeline(spec, session, base=BASE)

    is_long = spec.window.length > 1
    frame = stream_of(6000 if is_long else 300, 1, seed, dtype=dtype, is_clean=is_long)

    expected = by_sample(make, frame)

    assert in_chunks(make, frame, seams) == expected
    assert vectorised(make, frame, seams) == expected
    assert with_restarts(make, frame, seams) == expected
