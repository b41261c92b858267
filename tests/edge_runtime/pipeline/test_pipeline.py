"""The pipeline as a whole: what it computes, refuses and remembers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import BundleError, ConfigError, ModelError, ShapeError
from edge_runtime.pipeline import BATCH, Pipeline
from edge_runtime.quality import MASK
from edge_runtime.spec import (
    Clamps,
    FusionLayer,
    Layer,
    Limit,
    ModelSpec,
    Normalise,
    NormaliserLayer,
    OutputSpec,
    PriorLayer,
    Raw,
    Smoothing,
    Spectrum,
    Statistics,
    ThresholdsLayer,
    effective_id,
)
from edge_runtime.types import Frame, Output, TensorSpec, Windows

BASE = "ab" * 32
PERIOD_NS = 10_000_000


def joined(outputs: list[Output], field: str) -> np.ndarray:
    """Put one column of several answers together."""
    return np.concatenate([getattr(output.estimates, field) for output in outputs])


def suspect(frame: Frame, *masks: int) -> Frame:
    """Mark the first samples of a frame."""
    quality = np.zeros(len(frame), MASK)
    quality[: len(masks)] = masks
    return msgspec.structs.replace(frame, quality=quality if quality.any() else None)


def prior_of(value: float, *, made_ns: int = 0) -> Layer:
    """Make a prior for one label."""
    return Layer(PriorLayer((value,), (0.0,)), BASE, 1, made_ns)


@pytest.fixture(scope="session")
def summing(
    spec_of: Callable[..., ModelSpec], session_of: Callable[..., object]
) -> Callable[..., Pipeline]:
    """Make a pipeline whose score is the window's mean, over 4 samples every 2."""

    def make(*layers: Layer, **more: object) -> Pipeline:
        options = {key: more.pop(key) for key in ("upload", "stream", "base") if key in more}
        spec = spec_of(
            **({"features": (Statistics(("mean",)),), "clamps": Clamps(prior=10.0)} | more)
        )
        session = session_of((1,), is_identity=True)
        return Pipeline(spec, session, **({"base": BASE, "layers": layers} | options))

    return make


def test_a_window_is_answered_when_its_last_sample_comes(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """Index and times are those of its first and last sample."""
    pipeline = summing()

    early = pipeline.push(frame_of([1.0, 2.0, 3.0]))
    (late,) = [pipeline.push(frame_of([6.0], index=3))]

    assert len(early.estimates) == 0
    assert late.estimates.index.tolist() == [3]
    assert late.estimates.start_ns.tolist() == [0]
    assert late.estimates.end_ns.tolist() == [3 * PERIOD_NS]
    assert late.estimates.score.tolist() == [[3.0]]
    assert late.estimates.value.tolist() == [[3.0]]
    assert late.estimates.effective_id == effective_id(BASE)


def test_answers_stay_as_they_are_when_more_samples_come(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """Nothing that was given out is a view of the buffer."""
    for upload in ("features", "windows"):
        pipeline = summing(upload=upload, features=(Raw(),), length=1, hop=1)
        first = pipeline.push(frame_of([7.0]))

        pipeline.run_many([frame_of(np.arange(20_000.0), index=1)])

        assert first.estimates.inputs is not None
        assert first.estimates.inputs.ravel().tolist() == [7.0]
        assert first.estimates.score.tolist() == [[7.0]]


@pytest.mark.parametrize(
    ("upload", "shape", "dtype"),
    [
        ("none", None, None),
        ("decisions", None, None),
        ("features", (3, 1), "float32"),
        ("windows", (3, 4, 1), "int16"),
    ],
)
def test_inputs_are_kept_only_for_upload(
    summing: Callable[..., Pipeline],
    frame_of: Callable[..., Frame],
    upload: str,
    shape: tuple[int, ...] | None,
    dtype: str | None,
) -> None:
    """Features before normalising, or samples in the source's dtype, or nothing."""
    pipeline = summing(upload=upload, normalise=Normalise((100.0,), (1.0,)))

    inputs = pipeline.push(frame_of(np.arange(8, dtype=np.int16))).estimates.inputs

    if shape is None:
        assert inputs is None
    else:
        assert inputs is not None
        assert (inputs.shape, inputs.dtype) == (shape, np.dtype(dtype))
        assert inputs.ravel()[0] == (1.5 if upload == "features" else 0)


def test_integers_that_fit_the_tensor_go_in_as_they_are(
    spec_of: Callable[..., ModelSpec],
    session_of: Callable[..., object],
    frame_of: Callable[..., Frame],
) -> None:
    """An int8 stream into an int8 tensor is not taken for real values."""
    spec = spec_of(2, 2, labels=("a", "b"))
    samples = [100, -128]

    def score(dtype: str, **more: object) -> list[float]:
        session = session_of((2, 1), 2, quantised=True, is_identity=True)
        pipeline = Pipeline(msgspec.structs.replace(spec, **more), session, base=BASE)
        return pipeline.push(frame_of(np.array(samples, dtype))).estimates.score[0].tolist()

    assert score("int8") == [105 * 0.125, -123 * 0.125]
    assert score("float32") == [(127 + 5) * 0.125, -123 * 0.125]
    assert score("int8", normalise=Normalise((0.0,), (20.0,))) == [108 * 0.125, -120 * 0.125]


def test_a_session_is_asked_for_one_window_or_a_full_batch(
    spec_of: Callable[..., ModelSpec],
    session_of: Callable[..., object],
    frame_of: Callable[..., Frame],
) -> None:
    """No other batch shape ever reaches a model."""
    session = session_of((1, 1), is_identity=True)
    pipeline = Pipeline(spec_of(1, 1), session, base=BASE)

    found = pipeline.push(frame_of(np.arange(2.0 * BATCH + 3)))

    assert session.batches == [BATCH, BATCH, 1, 1, 1]
    assert found.estimates.score[:, 0].tolist() == list(range(2 * BATCH + 3))


def test_large_inputs_are_asked_one_by_one(
    spec_of: Callable[..., ModelSpec],
    session_of: Callable[..., object],
    frame_of: Callable[..., Frame],
) -> None:
    """A batch of images would need memory in proportion and gain nothing."""
    session = session_of((5000,))
    pipeline = Pipeline(spec_of(1, 1, channels=5000), session, base=BASE)

    pipeline.push(frame_of(np.zeros((BATCH, 5000), np.float32)))

    assert session.batches == [1] * BATCH


def test_an_autoencoder_is_scored_by_its_error(
    spec_of: Callable[..., ModelSpec],
    session_of: Callable[..., object],
    frame_of: Callable[..., Frame],
) -> None:
    """One label, many outputs: the mean squared error is the score."""
    spec = spec_of(2, 2, output=OutputSpec(activation="reconstruction", scale=10.0, offset=1.0))
    perfect = Pipeline(spec, session_of((2,), 2, is_identity=True), base=BASE)
    wrong = Pipeline(spec, session_of((2,), 2), base=BASE)
    frame = frame_of(np.array([1.0, -2.0], np.float32))

    assert perfect.push(frame).estimates.score.tolist() == [[1.0]]
    answer = session_of((2,), 2).run(frame.samples.reshape(1, 2))
    error = ((answer - [[1.0, -2.0]]) ** 2).mean()
    assert wrong.push(frame).estimates.score[0, 0] == pytest.approx(10 * error + 1)


def test_a_normaliser_layer_replaces_the_base_while_it_lives(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """The score is what the model says with the numbers that count for the window."""
    layer = Layer(
        NormaliserLayer((5.0,), (1.0,)), BASE, 1, made_ns=2 * PERIOD_NS, expires_ns=4 * PERIOD_NS
    )
    pipeline = summing(layer, length=1, hop=1, normalise=Normalise((1.0,), (1.0,)))

    found = pipeline.push(frame_of([10.0] * 6)).estimates

    assert found.score[:, 0].tolist() == [9.0, 9.0, 5.0, 5.0, 9.0, 9.0]
    assert found.value.tobytes() == found.score.tobytes()


def test_activating_layers_changes_the_next_window_and_the_identity(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """The window that is open goes on; its answer carries the new identity."""
    pipeline, layer = summing(), prior_of(2.0)
    pipeline.push(frame_of([1.0, 1.0, 1.0]))

    pipeline.activate([layer])
    found = pipeline.push(frame_of([1.0], index=3)).estimates

    assert (found.score[0, 0], found.value[0, 0]) == (1.0, 3.0)
    assert found.effective_id == pipeline.effective_id == effective_id(BASE, [layer])
    assert pipeline.layers == (layer,)


def test_layers_that_are_refused_leave_the_old_ones_active(
    summing: Callable[..., Pipeline],
) -> None:
    """A bad set changes nothing."""
    layer = prior_of(2.0)
    pipeline = summing(layer)

    with pytest.raises(BundleError):
        pipeline.activate([layer, layer])

    assert pipeline.layers == (layer,)
    assert pipeline.effective_id == effective_id(BASE, [layer])


def test_a_layer_change_between_windows_loses_no_open_label(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """What started under the old limits ends below the new ``off``."""
    pipeline = summing(length=1, hop=1, limits=(Limit("value", 5.0, 4.0),))
    stricter = Layer(ThresholdsLayer((Limit("value", 9.0, 8.0),)), BASE, 1, made_ns=0)

    first = pipeline.push(frame_of([6.0])).decisions
    pipeline.activate([stricter])
    second = pipeline.push(frame_of([8.5, 7.0, 8.5], index=1)).decisions

    assert [(d.index, d.edge, d.value) for d in first + second] == [
        (0, "start", 6.0),
        (2, "end", 7.0),
    ]
    assert second[0].effective_id == pipeline.effective_id


def test_windows_scored_apart_have_the_bytes_of_the_stream(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """Rescoring captured windows gives what the device gave, in any order."""
    layers = [prior_of(0.5, made_ns=200 * PERIOD_NS), Layer(FusionLayer(0, 2, 1), BASE, 1, 0)]
    pipeline = summing(*layers, upload="windows")
    live = pipeline.push(frame_of(np.random.default_rng(1).normal(size=500))).estimates
    order = np.random.default_rng(2).permutation(len(live))
    assert live.inputs is not None

    found = summing(*layers).score_windows(
        Windows(live.index[order], live.start_ns[order], live.end_ns[order], live.inputs[order])
    )

    assert found.score.tobytes() == live.score[order].tobytes()
    assert found.value.tobytes() == live.value[order].tobytes()


def test_no_windows_give_no_estimates(summing: Callable[..., Pipeline]) -> None:
    """Nothing in, nothing out, with the shapes of something."""
    none = np.empty(0, np.int64)

    found = summing().score_windows(Windows(none, none, none, np.empty((0, 4, 1))))

    assert found.score.shape == (0, 1)
    assert len(summing().run_many([]).estimates) == 0


def test_bad_rows_are_counted_and_the_rest_is_answered(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """Gaps, late rows and missing values each have their counter."""
    pipeline = summing(length=2, hop=2)
    time_ns = np.array([0, 1, 1, 0, 2, 50, 51, 52, 53]) * PERIOD_NS
    samples = [1.0, 2.0, 9.0, 9.0, 3.0, 5.0, np.nan, 7.0, 1e300]

    found = pipeline.push(frame_of(samples, time_ns=time_ns)).estimates

    assert found.index.tolist() == [1]
    assert pipeline.discarded == {"out_of_order": 2, "gap": 1, "not_finite": 2}


# --- suspect samples ----------------------------------------------------------------


def test_an_answer_says_what_is_suspect_about_its_window(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """The estimate has the bits of all samples of its window, and so has the decision."""
    pipeline = summing(limits=(Limit("value", 1.0, 0.5),))

    found = pipeline.push(suspect(frame_of([0, 0, 0, 0, 8, 8, 0, 0, 0, 0]), 0, 0, 0, 0, 1, 2))

    assert found.estimates.quality is not None
    assert found.estimates.quality.tolist() == [0, 3, 3, 0]
    assert [(one.edge, one.quality) for one in found.decisions] == [("start", 3), ("end", 0)]


def test_answers_have_no_quality_where_nothing_is_suspect(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """Neither before the first suspect sample nor once it is behind."""
    pipeline = summing()

    parts = [[0, 0, 0, 0], [1, 0, 0, 0], [0] * 8]
    found = [
        pipeline.push(suspect(frame_of(np.zeros(len(part)), index=4 * n), *part)).estimates
        for n, part in enumerate(parts)
    ]

    assert found[0].quality is None
    assert found[1].quality is not None
    assert found[1].quality.tolist() == [1, 1]
    assert found[2].quality is None


def test_windows_scored_apart_keep_what_is_suspect(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """In pieces for several layers as well as at once."""
    prior = prior_of(0.5, made_ns=50 * PERIOD_NS)
    pipeline = summing(prior, upload="windows")
    live = pipeline.push(suspect(frame_of(np.zeros(100)), *[0] * 40, 1, *[0] * 20, 2)).estimates
    assert live.inputs is not None
    assert live.quality is not None

    windows = Windows(live.index, live.start_ns, live.end_ns, live.inputs, quality=live.quality)
    found = summing(prior).score_windows(windows)

    assert found.quality is not None
    assert found.quality.tolist() == live.quality.tolist()
    assert set(live.quality.tolist()) == {0, 1, 2}


# --- what does not fit ------------------------------------------------------------


def test_features_that_do_not_fill_the_tensor_are_refused(
    spec_of: Callable[..., ModelSpec], session_of: Callable[..., object]
) -> None:
    """The message shows both shapes, before any sample has come."""
    spec = spec_of(50, 50, features=(Spectrum(last=9),))

    with pytest.raises(ShapeError, match=r"\(1, 10\), 10 numbers.*\(1, 49, 10, 1\), 490"):
        Pipeline(spec, session_of((49, 10, 1)), base=BASE)


@pytest.mark.parametrize("labels", [("a",), ("a", "b", "c")])
def test_outputs_without_a_label_each_are_refused(
    spec_of: Callable[..., ModelSpec], session_of: Callable[..., object], labels: tuple[str, ...]
) -> None:
    """Two numbers need two names."""
    with pytest.raises(ShapeError, match="answers 2 numbers"):
        Pipeline(spec_of(2, 2, labels=labels), session_of((2,), 2), base=BASE)


def test_a_model_with_two_inputs_is_refused(
    spec_of: Callable[..., ModelSpec], session_of: Callable[..., object]
) -> None:
    """The pipeline has one tensor to fill."""
    session = session_of((2,))
    session.inputs = session.inputs * 2

    with pytest.raises(ModelError, match="2 inputs"):
        Pipeline(spec_of(2, 2), session, base=BASE)


def test_an_axis_the_model_leaves_open_takes_what_is_left(
    spec_of: Callable[..., ModelSpec],
    session_of: Callable[..., object],
    frame_of: Callable[..., Frame],
) -> None:
    """A tensor of any length is filled with the features there are."""
    session = session_of((3, 2), is_identity=True, outputs=6)
    declared = session.inputs[0]
    session.inputs = (TensorSpec("x", (1, -1, 2), "float32"),)
    pipeline = Pipeline(spec_of(6, 6, labels="abcdef"), session, base=BASE)
    session.inputs = (declared,)

    found = pipeline.push(frame_of(np.arange(6.0))).estimates

    assert found.score.tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]


def test_a_model_that_answers_too_few_rows_is_an_error(
    spec_of: Callable[..., ModelSpec],
    session_of: Callable[..., object],
    frame_of: Callable[..., Frame],
) -> None:
    """One window, one answer."""
    session = session_of((2,))
    session.run = lambda batch: np.zeros((len(batch) + 1, 1), np.float32)
    pipeline = Pipeline(spec_of(2, 2), session, base=BASE)

    with pytest.raises(ModelError, match="one row per window"):
        pipeline.push(frame_of([1.0, 2.0]))


def test_frames_of_another_stream_are_refused(summing: Callable[..., Pipeline]) -> None:
    """Two streams may share a model, never a pipeline."""
    frame = Frame("other", 0, np.zeros(1, np.int64), np.zeros((1, 1)))

    with pytest.raises(ModelError, match="stream 'other'; expected 'main'"):
        summing().push(frame)


def test_a_stream_needs_a_name_that_fits_a_topic(summing: Callable[..., Pipeline]) -> None:
    """It is checked when the pipeline is built."""
    with pytest.raises(ConfigError, match="stream is 'a/b'"):
        summing(stream="a/b")


# --- snapshots ---------------------------------------------------------------------


def test_a_snapshot_carries_all_there_is_to_remember(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """Open window, last time, smoothing, started labels and counters."""
    options = {"limits": (Limit("value", 1.0, 0.5),), "smoothing": Smoothing(3)}
    first, second = summing(**options), summing(**options)
    first.run_many([frame_of([2.0] * 11), frame_of([0.0], index=20)])

    second.restore(first.snapshot())

    assert second.started == first.started == ("value",)
    assert second.discarded == first.discarded == {"out_of_order": 0, "gap": 1, "not_finite": 0}
    assert second.snapshot() == first.snapshot()


def test_a_snapshot_of_a_long_window_is_small(
    spec_of: Callable[..., ModelSpec],
    session_of: Callable[..., object],
    frame_of: Callable[..., Frame],
) -> None:
    """Regular times cost nothing: there are only the samples to store."""
    spec = spec_of(16_000, 16_000, features=(Statistics(("rms",)),))
    pipeline = Pipeline(spec, session_of((1,)), base=BASE)

    pipeline.push(frame_of(np.zeros(15_000, np.int16)))

    assert len(pipeline.snapshot()) < 30_500


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"base": "cd" * 32}, "cdcd"),
        ({"stream": "second"}, "second"),
        ({"length": 2, "hop": 1}, "does not fit"),
        ({"labels": ("other",)}, "labels"),
    ],
    ids=str,
)
def test_a_snapshot_of_another_pipeline_is_refused(
    summing: Callable[..., Pipeline],
    frame_of: Callable[..., Frame],
    other: dict[str, object],
    message: str,
) -> None:
    """Nothing is mixed up, and the pipeline stays as it was."""
    source = summing(limits=(Limit("value", 1.0, 0.5),))
    source.push(frame_of([5.0] * 5))
    pipeline = summing(**other)
    before = pipeline.snapshot()

    with pytest.raises(ModelError, match=message):
        pipeline.restore(source.snapshot())

    assert pipeline.snapshot() == before


@given(st.one_of(st.binary(max_size=200), st.tuples(st.integers(0, 10**4), st.integers(0, 255))))
def test_damaged_snapshots_are_refused_or_harmless(
    summing: Callable[..., Pipeline],
    frame_of: Callable[..., Frame],
    damage: bytes | tuple[int, int],
) -> None:
    """No bytes make anything but a `ModelError`, and the pipeline goes on after it."""
    source = summing()
    source.push(suspect(frame_of([1.0, 2.0, 3.0]), 0, 1, 2))
    snapshot = bytearray(source.snapshot())
    if isinstance(damage, bytes):
        snapshot = bytearray(damage)
    else:
        place, value = damage
        snapshot[place % len(snapshot)] = value
    pipeline = summing()

    with contextlib.suppress(ModelError):
        pipeline.restore(bytes(snapshot))

    pipeline.push(frame_of(np.zeros(9), index=2**36))
    pipeline.snapshot()


def test_an_oversized_snapshot_is_not_decoded(summing: Callable[..., Pipeline]) -> None:
    """The limit follows from the window, and is checked first."""
    with pytest.raises(ModelError, match="1000000 bytes; expected at most"):
        summing().restore(bytes(1_000_000))


# --- the next base -------------------------------------------------------------------


def test_the_next_base_takes_over_in_the_middle_of_a_window(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """Every window is answered once, by one base or the other."""
    old = summing(limits=(Limit("value", 1.0, 0.5),))
    new = summing(base="cd" * 32, limits=(Limit("value", 0.7, 0.6),))
    outputs = [old.push(frame_of([2.0] * 7))]

    new.take_over(old)
    outputs.append(new.push(frame_of([2.0, 0.0, 0.0, 0.0, 0.0], index=7)))

    assert joined(outputs, "index").tolist() == [3, 5, 7, 9, 11]
    assert [(d.index, d.edge) for output in outputs for d in output.decisions] == [
        (3, "start"),
        (11, "end"),
    ]


def test_a_snapshot_of_the_base_before_loses_no_window_either(
    summing: Callable[..., Pipeline], frame_of: Callable[..., Frame]
) -> None:
    """A process killed between a swap and its commit goes on in the middle of a window."""
    old = summing(limits=(Limit("value", 1.0, 0.5),))
    new = summing(base="cd" * 32, limits=(Limit("value", 0.7, 0.6),))
    outputs = [old.push(frame_of([2.0] * 7))]

    new.restore(old.snapshot(), base=old.base)
    outputs.append(new.push(frame_of([2.0, 0.0, 0.0, 0.0, 0.0], index=7)))

    assert joined(outputs, "index").tolist() == [3, 5, 7, 9, 11]
    assert outputs[1].decisions[-1].edge == "end"
