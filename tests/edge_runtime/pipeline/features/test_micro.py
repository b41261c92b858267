"""The audio front end of microWakeWord: golden features, streams, and a phrase that is heard."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.backends import load_session
from edge_runtime.errors import MissingExtra, ShapeError
from edge_runtime.pipeline import Pipeline, compute, dequantise, quantise, shape_of
from edge_runtime.pipeline.features import Extractor
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    MicroFrontend,
    ModelSpec,
    Smoothing,
    StateSpec,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Frame

MODELS = Path(__file__).parents[3] / "data" / "models"
RATE_HZ = 16_000.0
LENGTH, HOP = 800, 480  # three frames of 10 ms a window
CUT_OFF, SMOOTHED = 0.97, 5  # okay_nabu.json


def extractor() -> Extractor:
    return Extractor([MicroFrontend()], (LENGTH, 1), rate_hz=RATE_HZ, hop=HOP)


def heard(windows: np.ndarray) -> float:
    """Return the highest smoothed probability of "okay nabu" over a stream's windows."""
    session = load_session(None, "tflite", (MODELS / "okay_nabu.tflite").read_bytes())
    features = extractor()(windows)
    scores = [
        dequantise(session.run(quantise(step[None], session.inputs[0])), session.outputs[0])[0, 0]
        for step in features
    ]
    return float(np.convolve(scores, np.full(SMOOTHED, 1 / SMOOTHED), "valid").max())


def test_raw_audio_gives_the_golden_features(
    audio: Callable[[str], np.ndarray], cut: Callable[..., np.ndarray]
) -> None:
    """Windows of three frames are the golden stream's features, to the bit."""
    golden = np.load(MODELS / "okay_nabu_stream.npz")
    windows = cut(audio("okay_nabu__en-us"), LENGTH, HOP)

    found = extractor()(windows)

    assert found.shape == (90, 3, 40)
    assert found.tobytes() == golden["features"][:270].tobytes()
    session = load_session(None, "tflite", (MODELS / "okay_nabu.tflite").read_bytes())
    integers = quantise(found, session.inputs[0])
    assert (integers == golden["input"]).all()


def test_the_phrase_is_heard_and_a_neutral_sentence_is_not(
    audio: Callable[[str], np.ndarray], cut: Callable[..., np.ndarray]
) -> None:
    """From raw audio through front end and model, with the model's own cut-off."""
    phrase = cut(audio("okay_nabu__en-us"), LENGTH, HOP)
    sentence = cut(audio("turn_on_the_kitchen_lights_please__en-us"), LENGTH, HOP)

    assert heard(phrase) >= CUT_OFF
    assert heard(sentence) < 0.1


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seams=st.lists(st.integers(1, 89), max_size=8), are_copies=st.booleans())
def test_calls_do_not_show_in_the_frames(
    audio: Callable[[str], np.ndarray],
    cut: Callable[..., np.ndarray],
    seams: Sequence[int],
    are_copies: bool,
) -> None:
    """However windows are spread over calls, the front end hears one stream."""
    windows = cut(audio("okay_nabu__en-us"), LENGTH, HOP)
    if are_copies:
        windows = windows.copy()
    stream = extractor()

    bounds = [0, *sorted(set(seams)), len(windows)]
    parts = [
        stream(windows[first:last], is_fresh=first == 0)
        for first, last in itertools.pairwise(bounds)
    ]

    assert np.concatenate(parts).tobytes() == extractor()(windows).tobytes()


def test_overlapping_windows_share_their_frames(
    audio: Callable[[str], np.ndarray], cut: Callable[..., np.ndarray]
) -> None:
    """Windows of five frames, two new ones each, show every frame of the stream as it is."""
    length, hop = 480 + 4 * 160 + 7, 320
    windows = cut(audio("okay_nabu__en-us")[:16_000], length, hop)
    stream = Extractor([MicroFrontend()], (length, 1), rate_hz=RATE_HZ, hop=hop)

    found = stream(windows)

    golden = np.load(MODELS / "okay_nabu_stream.npz")["features"]
    expected = np.stack([golden[2 * i : 2 * i + 5] for i in range(len(windows))])
    assert found.tobytes() == expected.tobytes()


def test_a_fresh_window_starts_a_new_front_end(
    audio: Callable[[str], np.ndarray], cut: Callable[..., np.ndarray]
) -> None:
    """After a gap nothing of the old stretch is left, in a fork nothing of the other stream."""
    windows = cut(audio("okay_nabu__en-us"), LENGTH, HOP)
    used = extractor()
    expected = used(windows)

    again, fork = used(windows), used.fork()(windows, is_fresh=False)

    assert used.is_stateful
    assert again.tobytes() == fork.tobytes() == expected.tobytes()


def test_unrelated_windows_each_start_anew(
    audio: Callable[[str], np.ndarray], cut: Callable[..., np.ndarray]
) -> None:
    """Without a hop, windows have nothing to do with each other."""
    windows = cut(audio("okay_nabu__en-us"), LENGTH, HOP)[40:44]

    found = compute([MicroFrontend()], windows, rate_hz=RATE_HZ)

    alone = [compute([MicroFrontend()], windows[i : i + 1], rate_hz=RATE_HZ) for i in range(4)]
    assert found.tobytes() == np.concatenate(alone).tobytes()
    assert found.tobytes() != extractor()(windows).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_other_types_are_taken_as_int16(audio: Callable[[str], np.ndarray], dtype: str) -> None:
    """Values are rounded and saturated to what the front end takes."""
    window = audio("okay_nabu__en-us")[None, 20_000:20_800]

    found = extractor()(window.astype(dtype))

    assert found.tobytes() == extractor()(window).tobytes()


@pytest.mark.parametrize(
    ("window", "rate_hz", "hop", "message"),
    [
        ((800, 2), RATE_HZ, None, "one channel"),
        ((479, 1), RATE_HZ, None, "at least 480 samples"),
        ((800, 1), 8000.0, None, "a stream of 8000 Hz; expected 16000 Hz"),
        ((800, 1), RATE_HZ, 500, "hop 500; expected a multiple of 160"),
        ((800, 1), RATE_HZ, 960, "at most the window's 800"),
    ],
)
def test_streams_that_do_not_fit_are_refused(
    window: tuple[int, int], rate_hz: float, hop: int | None, message: str
) -> None:
    """The front end is made for 16 kHz in steps of 10 ms."""
    with pytest.raises(ShapeError, match=message):
        Extractor([MicroFrontend()], window, rate_hz=rate_hz, hop=hop)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, shapes are known and the error says what to install."""
    monkeypatch.setitem(sys.modules, "pymicro_features", None)

    assert shape_of([MicroFrontend()], (LENGTH, 1)) == (3, 40)
    with pytest.raises(MissingExtra, match=r'pip install "edge-runtime\[audio\]"'):
        extractor()


def listener() -> Pipeline:
    """Make the pipeline of "okay nabu" from raw audio."""
    spec = ModelSpec(
        name="okay-nabu",
        version="2",
        kind="classifier",
        stream=StreamSpec((ChannelSpec("audio"),), RATE_HZ),
        window=WindowSpec(LENGTH, HOP),
        features=(MicroFrontend(),),
        artefacts=(ArtefactSpec("tflite", "okay_nabu.tflite", "int8"),),
        state=StateSpec(warm_up=100),
        labels=("okay nabu",),
        smoothing=Smoothing(SMOOTHED),
        limits=(Limit("okay nabu", on=CUT_OFF, off=0.5),),
    )
    session = load_session(None, "tflite", (MODELS / "okay_nabu.tflite").read_bytes())
    return Pipeline(spec, session, base="0" * 64)


def listened(samples: np.ndarray, sizes: Sequence[int]) -> tuple[bytes, list[tuple[str, int]]]:
    """Push audio in frames of these sizes; return all scores, and every start and end."""
    pipeline = listener()
    time_ns = np.arange(len(samples), dtype=np.int64) * 62_500
    ends = np.minimum(np.cumsum(sizes * (len(samples) // sum(sizes) + 1)), len(samples))
    outputs = [
        pipeline.push(Frame("main", first, time_ns[first:last], samples[first:last]))
        for first, last in itertools.pairwise([0, *ends.tolist()])
    ]
    scores = b"".join(output.estimates.score.tobytes() for output in outputs)
    return scores, [(d.edge, d.index) for output in outputs for d in output.decisions]


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=5))
def test_the_pipeline_hears_the_phrase_however_the_audio_is_cut(
    audio: Callable[[str], np.ndarray], sizes: list[int]
) -> None:
    """From raw samples to one start: front end, model and smoothing keep their state."""
    samples = audio("okay_nabu__en-us")

    scores, decisions = listened(samples, sizes)

    assert (scores, decisions) == listened(samples, [480])
    assert [edge for edge, _ in decisions][:1] == ["start"]
    assert 1.5 < decisions[0][1] / RATE_HZ < 2.5


def test_the_pipeline_stays_silent_on_another_sentence(
    audio: Callable[[str], np.ndarray],
) -> None:
    """A neutral sentence starts nothing."""
    assert listened(audio("turn_on_the_kitchen_lights_please__en-us"), [480])[1] == []
