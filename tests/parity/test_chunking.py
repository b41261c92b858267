"""The same base over the same rows gives the same bytes, however the rows come in."""

from __future__ import annotations

import functools
import itertools
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.backends import load_session
from edge_runtime.backends.reference import ReferenceSession
from edge_runtime.backends.staged import FeatureSession, StagedSession
from edge_runtime.errors import ModelError
from edge_runtime.pipeline import Pipeline, answer_together, shape_of
from edge_runtime.ports import Session, SessionOptions
from edge_runtime.quality import MASK, Quality, joined_masks
from edge_runtime.spec import (
    ArtefactSpec,
    AskNext,
    BandPower,
    Butterworth,
    CalibrationLayer,
    ChannelSpec,
    Clamps,
    Envelope,
    EnvelopeSpectrum,
    FeatureSpec,
    FilterSpec,
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
    Rectify,
    Reject,
    ResidualLayer,
    Smoothing,
    Spectrum,
    StageSpec,
    StateSpec,
    StateTensor,
    Statistics,
    StreamSpec,
    ThresholdsLayer,
    WindowSpec,
)
from edge_runtime.types import Decision, Frame, Output, Windows

MODELS = Path(__file__).parents[1] / "data" / "models"
BASE = "ab" * 32
PERIOD_NS = 10_000_000
LABELS = ("a", "b")

Answer = tuple[dict[str, bytes], tuple[Decision, ...], dict[str, int]]


def answer_of(pipeline: Pipeline, outputs: Sequence[Output]) -> Answer:
    """Put all that came out into bytes."""
    columns = {}
    for name in ("index", "start_ns", "end_ns", "score", "value", "inputs", "uncertain", "stage"):
        parts = [getattr(output.estimates, name) for output in outputs]
        columns[name] = b"".join(part.tobytes() for part in parts if part is not None)
    masks = joined_masks((each.estimates.quality, len(each.estimates)) for each in outputs)
    columns["quality"] = b"" if masks is None else masks.tobytes()
    decisions = tuple(decision for output in outputs for decision in output.decisions)
    return columns, decisions, pipeline.discarded


def rows_of(frame: Frame, first: int, last: int) -> Frame:
    """Return a part of a frame."""
    rows = slice(first, last)
    quality = None if frame.quality is None else frame.quality[rows]
    return msgspec.structs.replace(
        frame,
        index=frame.index + first,
        time_ns=frame.time_ns[rows],
        samples=frame.samples[rows],
        quality=quality if quality is not None and quality.any() else None,
    )


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
    """Draw a stream with gaps, late, repeated and suspect rows, and missing values."""
    random = np.random.default_rng(seed)
    steps = np.full(count, PERIOD_NS) + random.integers(-1000, 1000, count)
    samples = (random.normal(size=(count, channels)) * 40).astype(dtype)
    quality = None
    if not is_clean:
        kind = random.uniform(size=count)
        steps[kind < 0.01] = PERIOD_NS * 3
        steps[(kind > 0.01) & (kind < 0.03)] = 0
        steps[(kind > 0.03) & (kind < 0.04)] = -PERIOD_NS // 2
        if samples.dtype.kind == "f":
            samples[random.uniform(size=samples.shape) < 0.001] = np.nan
            samples[random.uniform(size=samples.shape) < 0.0005] = np.inf
        quality = np.where(random.uniform(size=count) < 0.02, 1 + np.arange(count) % 15, 0)
        quality = quality.astype(MASK)
    first = int(random.integers(0, 10**9))
    return Frame("main", first, np.cumsum(steps), samples, quality=quality)


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


def dense(inputs: int, *, seed: int) -> ReferenceSession:
    """Make a network in numpy with one answer for each label."""
    random = np.random.default_rng(seed)
    return ReferenceSession(
        [
            (random.normal(size=pair).astype("f4"), random.normal(size=pair[1]).astype("f4"))
            for pair in ((inputs, 8), (8, len(LABELS)))
        ]
    )


def with_stages(spec: ModelSpec, main: Session) -> Session:
    """Put networks of the stages' sizes before a model, and none where a stage has none."""
    window, stages = (spec.window.length, len(spec.stream.channels)), []
    for number, stage in enumerate(spec.cascade):
        size = int(np.prod(shape_of(stage.features, window)))
        session = dense(size, seed=number) if stage.artefacts else FeatureSession(size)
        stages.append(session)
    return StagedSession(main, stages) if stages else main


def reference_pipeline(
    features: tuple[FeatureSpec, ...], *, has_layers: bool, upload: str, **more: object
) -> Pipeline:
    """Make a pipeline over a dense network in numpy."""
    plain = spec_of(features, **more)
    shape = shape_of(features, (16, len(plain.stream.channels)))
    size = int(np.prod(shape))
    spec = spec_of(features, normalise=Normalise((0.5,) * size, (20.0,) * size), **more)
    return Pipeline(
        spec,
        with_stages(spec, dense(size, seed=11)),
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
    (LogMel(8, 3, 16, 4, 1.0, 50.0),),
    (Mfcc(LogMel(8, 4, 16, 4, 1.0, 50.0, peak=True), 3),),
    (Mfcc(LogMel(8, 3, 8, 4, 0.0, 50.0, 0.0, pre_emphasis=0.9, log="db", clip=(-9, 40)), 3),),
    (BandPower(((1.0, 20.0), (20.0, 50.0)), 8), Envelope(low_hz=5.0)),
    (EnvelopeSpectrum(last=6),),
]
WINDOWS = [WindowSpec(16, 3), WindowSpec(16, 4, pad=5), WindowSpec(16, 20, pad=15)]
FILTERS: list[tuple[FilterSpec, ...]] = [
    (),
    (Butterworth("lowpass", (10.0,), order=3),),
    (Butterworth("highpass", (2.0,)), Rectify()),
]


HELD = (
    Limit("a", 0.55, 0.45, k_of_n=(2, 3), reject=Reject(0.4, 0.6)),
    Limit("b", 0.5, 0.5, refractory_s=0.2),
)
DECIDING: list[dict[str, object]] = [
    {},
    {"smoothing": Smoothing(4, "median"), "limits": HELD},
    {"smoothing": Smoothing(kind="exponential", alpha=0.3), "limits": HELD},
    {"smoothing": Smoothing(kind="exponential", half_life_s=0.1), "limits": HELD},
    {"output": OutputSpec(activation="sigmoid", temperature=2.5), "limits": HELD},
]


def gate(at_least: float, **more: object) -> StageSpec:
    """Make a gate without a model: the level of the first channel."""
    fields: dict[str, object] = {
        "name": "gate",
        "ask_next": AskNext(at_least, label="level0"),
        "labels": ("level0", "level1", "level2"),
        "features": (Statistics(("rms",)),),
        "idle": (0.5, 0.25),
    }
    return StageSpec(**(fields | more))


def small(ask_next: AskNext, features: FeatureSpec, **more: object) -> StageSpec:
    """Make a small model that answers what it is sure of."""
    fields: dict[str, object] = {
        "name": "small",
        "ask_next": ask_next,
        "artefacts": (ArtefactSpec("reference", "small.npz", "float32"),),
        "features": (features,),
        "output": OutputSpec(activation="softmax", temperature=30.0),
    }
    return StageSpec(**(fields | more))


MONO = gate(40.0, labels=("level0",))
CASCADES: list[tuple[StageSpec, ...]] = [
    (),
    (gate(40.0),),
    (small(AskNext(0.2, 0.9, "a"), Statistics(("mean", "std"))),),
    (
        gate(35.0),
        small(AskNext(below=0.8), Raw()),
        small(AskNext(below=0.5, label="b"), Raw(peak=True), name="mid"),
    ),
]


def fitted(
    cascade: tuple[StageSpec, ...], features: tuple[FeatureSpec, ...]
) -> tuple[StageSpec, ...]:
    """Return a cascade for streams of one channel where the features hear sound."""
    is_mono = any(isinstance(feature, LogMel | Mfcc) for feature in features)
    return tuple(MONO if is_mono and one.name == "gate" else one for one in cascade)


@settings(max_examples=150)
@given(
    features=st.sampled_from(FEATURES),
    cascade=st.sampled_from(CASCADES),
    deciding=st.sampled_from(DECIDING),
    window=st.sampled_from(WINDOWS),
    filters=st.sampled_from(FILTERS),
    has_layers=st.booleans(),
    upload=st.sampled_from(["none", "features", "windows"]),
    count=st.integers(1, 600),
    dtype=st.sampled_from(["float64", "float32", "int16"]),
    seams=st.lists(st.integers(0, 600), max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_way_of_running_changes_a_byte(
    features: tuple[FeatureSpec, ...],
    cascade: tuple[StageSpec, ...],
    deciding: dict[str, object],
    window: WindowSpec,
    filters: tuple[FilterSpec, ...],
    has_layers: bool,
    upload: str,
    count: int,
    dtype: str,
    seams: list[int],
    seed: int,
) -> None:
    """Sample by sample, in chunks, vectorised and across restarts: one answer."""
    make = functools.partial(
        reference_pipeline,
        features,
        has_layers=has_layers,
        upload=upload,
        window=window,
        filters=filters,
        cascade=fitted(cascade, features),
        **deciding,
    )
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
    assert {0, Quality.FROZEN} < set(np.frombuffer(columns["quality"], MASK).tolist())
    assert any(decision.quality for decision in decisions)
    assert {decision.edge for decision in decisions} == {"start", "end"}
    assert min(discarded.values()) > 0


@pytest.mark.parametrize("cascade", CASCADES[1:], ids=lambda one: "-".join(s.name for s in one))
def test_every_stage_has_something_to_answer(cascade: tuple[StageSpec, ...]) -> None:
    """Each model ends some windows, and leaves some to the next."""
    make = functools.partial(
        reference_pipeline, FEATURES[0], has_layers=True, upload="none", cascade=cascade
    )
    pipeline = make()

    estimates = pipeline.run_many([stream_of(3000, 3, 0, is_clean=True)]).estimates

    assert estimates.stage is not None
    counts = np.bincount(estimates.stage, minlength=len(cascade) + 1)
    assert counts.min() > 0
    assert list(pipeline.answered.values()) == counts.tolist()


@pytest.mark.parametrize("deciding", DECIDING[1:], ids=str)
def test_every_way_of_deciding_has_something_to_decide(deciding: dict[str, object]) -> None:
    """Labels start and end, some windows are uncertain, and some decisions are withheld."""
    make = functools.partial(
        reference_pipeline, FEATURES[0], has_layers=False, upload="none", **deciding
    )
    pipeline = make()

    output = pipeline.run_many([stream_of(3000, 3, 0, is_clean=True)])

    assert {decision.edge for decision in output.decisions} == {"start", "end"}
    assert output.estimates.uncertain is not None
    assert output.estimates.uncertain.any(axis=0).tolist() == [True, False]
    assert pipeline.withheld["a"] > 0


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
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


# --- models that remember ---------------------------------------------------------

AUDIO = Path(__file__).parents[1] / "data" / "audio"


def wake_word() -> tuple[ModelSpec, Session, Frame]:
    """Make the wake-word model, whose state nobody can read, and ready features of a phrase."""
    session = load_session("litert", "tflite", (MODELS / "okay_nabu.tflite").read_bytes())
    spec = real_spec(3, 1, window=WindowSpec(3, 3), state=StateSpec(warm_up=100))
    channels = tuple(ChannelSpec(f"c{i}") for i in range(40))
    spec = msgspec.structs.replace(spec, stream=StreamSpec(channels, 100))
    steps = np.load(MODELS / "okay_nabu_stream.npz")["input"].reshape(-1, 40)
    return spec, session, timed(np.concatenate([steps, steps[::-1], steps]))


def voice() -> tuple[ModelSpec, Session, Frame]:
    """Make the voice detector, whose state goes in and out, and a spoken sentence."""
    state = StateSpec(tensors=(StateTensor("state", "stateN"),), constants={"sr": 16000})
    options = SessionOptions(state=state, shape=(576, 1))
    session = load_session("onnx", "onnx", (MODELS / "silero_vad.onnx").read_bytes(), options)
    scale = Normalise((0.0,), (32768.0,))
    spec = real_spec(576, 1, window=WindowSpec(576, 512, pad=64), state=state, normalise=scale)
    with wave.open(str(AUDIO / "turn_on_the_kitchen_lights_please__en-us.wav")) as file:
        samples = np.frombuffer(file.readframes(20_000), np.int16)
    return spec, session, timed(samples[:, None])


def timed(samples: np.ndarray) -> Frame:
    """Give samples times, with two gaps and a late row."""
    steps = np.full(len(samples), PERIOD_NS)
    steps[[len(samples) // 3, len(samples) // 2]] *= 5
    steps[len(samples) // 5] = -PERIOD_NS
    return Frame("main", 0, np.cumsum(steps), samples)


def gated_wake_word(*, feeds: bool) -> tuple[ModelSpec, Session, Frame]:
    """Ask the wake-word model only where the lowest band of its features hears anything."""
    spec, session, frame = wake_word()
    loud = gate(
        -100.0,
        features=(Statistics(("max",)),),
        labels=tuple(f"level{i}" for i in range(40)),
        idle=(0.0,),
        feeds=feeds,
    )
    spec = msgspec.structs.replace(spec, cascade=(loud,))
    return spec, StagedSession(session, [FeatureSession(40)]), frame


def gated_voice(*, feeds: bool) -> tuple[ModelSpec, Session, Frame]:
    """Ask the voice detector only where it is not quiet."""
    spec, session, frame = voice()
    loud = gate(300.0, labels=("level0",), idle=(0.0,), feeds=feeds)
    spec = msgspec.structs.replace(spec, cascade=(loud,))
    return spec, StagedSession(session, [FeatureSession(1)]), frame


GATED = [
    pytest.param(functools.partial(case, feeds=feeds), id=f"{case.__name__}-{feeds}")
    for case in (gated_wake_word, gated_voice)
    for feeds in (False, True)
]


@pytest.mark.parametrize("case_of", [wake_word, voice, *GATED])
@settings(max_examples=6)
@given(seams=st.lists(st.integers(0, 20_000), max_size=12))
def test_models_that_remember_answer_alike_in_all_ways(
    case_of: Callable[[], tuple[ModelSpec, Session, Frame]], seams: list[int]
) -> None:
    """Chunks, one pass and restarts: the state is where it would be; a gap starts it anew."""
    spec, session, frame = case_of()

    def make() -> Pipeline:
        return Pipeline(spec, session.fork(), base=BASE)

    expected = by_sample(make, frame)

    assert len(set(expected[0]["score"])) > 2
    assert in_chunks(make, frame, seams) == expected
    assert vectorised(make, frame, seams) == expected
    assert with_restarts(make, frame, seams) == expected


@pytest.mark.parametrize("case_of", [wake_word, voice, *GATED])
def test_windows_of_a_model_that_remembers_are_one_stretch(
    case_of: Callable[[], tuple[ModelSpec, Session, Frame]],
) -> None:
    """Scoring cut windows starts from fresh state, and leaves that of the stream alone."""
    spec, session, frame = case_of()
    first = rows_of(frame, 0, len(frame) // 6)
    pipeline = Pipeline(spec, session.fork(), base=BASE, upload="windows")
    expected = Pipeline(spec, session.fork(), base=BASE).run_many([frame]).estimates.score

    begun = pipeline.push(first).estimates
    assert begun.inputs is not None
    windows = Windows(begun.index, begun.start_ns, begun.end_ns, begun.inputs)
    again = pipeline.score_windows(windows)
    ended = pipeline.push(rows_of(frame, len(first), len(frame))).estimates

    assert again.score.tobytes() == begun.score.tobytes()
    assert np.concatenate((begun.score, ended.score)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("case_of", [gated_wake_word, gated_voice])
def test_a_model_that_is_not_asked_starts_anew_or_hears_all_the_same(
    case_of: Callable[..., tuple[ModelSpec, Session, Frame]],
) -> None:
    """Fed, its answers are those of the model without a gate; else of one that wakes up."""
    spec, staged, frame = case_of(feeds=True)
    plain = msgspec.structs.replace(spec, cascade=())
    alone = Pipeline(plain, staged.fork(), base=BASE).run_many([frame]).estimates.score
    ended, session, _ = case_of(feeds=False)

    fed = Pipeline(spec, staged.fork(), base=BASE).run_many([frame]).estimates
    woken = Pipeline(ended, session.fork(), base=BASE).run_many([frame]).estimates

    assert fed.stage is not None
    asked = fed.stage == 1
    assert 0 < np.count_nonzero(asked) < len(asked)
    assert fed.score[asked].tobytes() == alone[asked].tobytes()
    assert not fed.score[~asked].any()
    assert woken.score[asked].tobytes() != alone[asked].tobytes()


def test_a_new_base_warms_up_on_what_the_old_one_saw() -> None:
    """After a swap in the middle of a phrase the answers are those of an uninterrupted stream."""
    spec, session, frame = wake_word()
    half = 3 * (len(frame) // 12)
    expected = Pipeline(spec, session.fork(), base=BASE).run_many([frame]).estimates.score
    old = Pipeline(spec, session.fork(), base=BASE)
    new = Pipeline(spec, session.fork(), base="cd" * 32)

    before = old.push(rows_of(frame, 0, half)).estimates.score
    new.take_over(old)
    after = new.push(rows_of(frame, half, len(frame))).estimates.score

    assert np.concatenate((before, after)).tobytes() == expected.tobytes()


# --- several streams, one model ----------------------------------------------------


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.lists(st.integers(1, 4000), min_size=5, max_size=5), min_size=1, max_size=4),
    micro_batch=st.sampled_from([None, 1, 2, 20]),
)
def test_streams_asked_together_answer_as_if_alone(
    seed: int, sizes: list[list[int]], micro_batch: int | None
) -> None:
    """Five streams with layers, uploads and gaps of their own: the bytes of pushing one by one."""
    spec = real_spec(640, 1, output=OutputSpec(activation="reconstruction"))
    session = load_session(None, "tflite", (MODELS / "ad_autoencoder_int8.tflite").read_bytes())
    layer = Layer(CalibrationLayer(1.5, 0.5), requires=BASE, seq=1, made_ns=0)
    kinds = [{}, {"upload": "windows"}, {"upload": "features"}, {"layers": [layer]}, {}]
    frames = [stream_of(4000 * len(sizes), 1, seed + i, dtype="int8") for i in range(5)]

    def make(**more: object) -> list[Pipeline]:
        return [Pipeline(spec, session, base=BASE, **kind, **more) for kind in kinds]

    alone, together = make(), make(micro_batch=micro_batch)
    expected: list[list[Output]] = [[] for _ in kinds]
    found: list[list[Output]] = [[] for _ in kinds]
    first = [0] * 5
    for turn in sizes:
        parts = [rows_of(frame, a, a + n) for frame, a, n in zip(frames, first, turn, strict=True)]
        for outputs, pipeline, part in zip(expected, alone, parts, strict=True):
            outputs.append(pipeline.push(part))
        asked = [(one, one.ask(part)) for one, part in zip(together, parts, strict=True)]
        for outputs, output in zip(found, answer_together(asked), strict=True):
            outputs.append(output)
        first = [a + n for a, n in zip(first, turn, strict=True)]

    for pipeline, other, outputs, others in zip(alone, together, expected, found, strict=True):
        assert answer_of(other, others) == answer_of(pipeline, outputs)


def test_streams_with_state_are_not_asked_together() -> None:
    """A model that remembers has a session for each stream, and says so."""
    spec, session, frame = wake_word()
    pipelines = [Pipeline(spec, session.fork(), base=BASE) for _ in range(2)]

    with pytest.raises(ModelError, match="different sessions, with state or"):
        answer_together([(pipeline, pipeline.ask(frame)) for pipeline in pipelines])
