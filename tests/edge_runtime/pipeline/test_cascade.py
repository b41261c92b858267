"""A cascade answers as its models alone would, each about the windows that reach it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.errors import ModelError
from edge_runtime.pipeline import Pipeline, answer_together, models_of
from edge_runtime.pipeline.cascade import Cascade
from edge_runtime.ports import Session
from edge_runtime.spec import AskNext, CalibrationLayer, Layer, ModelSpec, StageSpec
from edge_runtime.types import Frame, Windows
from edge_runtime.update.proof import golden_windows


@pytest.fixture
def bundle(cascade_bundle: Callable[..., Path]) -> Bundle:
    """A gate, a small model and a large one."""
    return load_bundle(cascade_bundle())


def pipeline_of(bundle: Bundle, **more: object) -> Pipeline:
    """Open a bundle anew."""
    spec = msgspec.structs.replace(bundle.spec, **more)
    return Pipeline(spec, open_session(bundle), base=bundle.digest)


def alone(bundle: Bundle, windows: Windows) -> list[np.ndarray]:
    """Ask every model about every window."""
    models = models_of(bundle.spec, open_session(bundle))
    return [Pipeline(*model, base=bundle.digest).score_windows(windows).score for model in models]


def frame_of(count: int, seed: int = 0) -> Frame:
    """Draw samples whose level changes slowly."""
    random = np.random.default_rng(seed)
    level = 1 + np.sin(np.arange(count) / 15)
    samples = random.normal(size=(count, 2)) * level[:, None]
    return Frame("main", 0, np.arange(count) * 10**9, samples)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
    gate=st.floats(0.0, 2.0),
    bounds=st.tuples(st.floats(0.4, 0.7), st.floats(0.71, 1.0)),
    label=st.sampled_from([None, "ok", "worn"]),
)
def test_windows_are_answered_by_the_first_model_that_keeps_them(
    bundle: Bundle,
    count: int,
    seed: int,
    gate: float,
    bounds: tuple[float, float],
    label: str | None,
) -> None:
    """Each model alone about all windows, and a choice in numpy, give the same bytes."""
    first, second = bundle.spec.cascade
    cascade = (
        msgspec.structs.replace(first, ask_next=AskNext(gate, label="level")),
        msgspec.structs.replace(second, ask_next=AskNext(*bounds, label)),
    )
    windows = golden_windows(np.random.default_rng(seed).normal(size=(count, 5, 2)))
    level, small, large = alone(bundle, windows)
    seen = small.max(axis=1) if label is None else small[:, bundle.spec.labels.index(label)]
    passes = level[:, 0] >= gate
    is_left = passes & (seen >= bounds[0]) & (seen < bounds[1])
    expected = np.where(is_left[:, None], large, np.where(passes[:, None], small, [[1.0, 0.0]]))

    found = pipeline_of(bundle, cascade=cascade).score_windows(windows)

    assert found.score.tobytes() == expected.tobytes()
    assert found.stage is not None
    assert found.stage.dtype == np.uint8
    assert found.stage.tolist() == (passes.astype(int) + is_left).tolist()


def test_a_model_is_asked_about_the_windows_alone_that_reach_it(bundle: Bundle) -> None:
    """No call of a later model for a window that ended before, one at a time or in blocks."""
    asked = [0, 0]
    session = open_session(bundle)
    pipeline = Pipeline(bundle.spec, counted(session, asked), base=bundle.digest)
    frame = frame_of(204)

    for row in range(100):
        pipeline.push(part_of(frame, row, row + 1))
    pipeline.push(part_of(frame, 100, 204))

    ended = pipeline.answered
    assert min(ended.values()) > 5
    assert sum(ended.values()) == 200
    # A rest that fills no block is asked for one by one.
    assert asked == [ended["small"] + ended["model"], ended["model"]]


def test_what_is_not_a_number_is_left_to_the_next(bundle: Bundle) -> None:
    """A stage that overflows silences nothing, one at a time and many."""
    first, second = bundle.spec.cascade
    broken = msgspec.structs.replace(second.output, offset=math.nan)
    cascade = (
        msgspec.structs.replace(first, ask_next=AskNext(-1.0)),
        msgspec.structs.replace(second, output=broken),
    )
    pipeline = pipeline_of(bundle, cascade=cascade)
    windows = golden_windows(np.random.default_rng(0).normal(size=(40, 5, 2)))

    many = pipeline.score_windows(windows)
    one = pipeline.score_windows(golden_windows(windows.samples[:1]))

    assert many.stage is not None
    assert one.stage is not None
    assert set(many.stage.tolist()) == {2}
    assert one.stage.tolist() == [2]
    assert many.score.tobytes() == alone(bundle, windows)[2].tobytes()


def test_layers_refine_the_answer_whoever_gave_it(bundle: Bundle) -> None:
    """A calibration moves idle, small and large answers alike; scores stay what they were."""
    layer = Layer(CalibrationLayer(2.0, 0.5), bundle.digest, 1, made_ns=0)
    clamps = msgspec.structs.replace(bundle.spec.clamps, kinds=("calibration",))
    plain, layered = pipeline_of(bundle), pipeline_of(bundle, clamps=clamps)
    layered.activate([layer])

    before, after = (one.push(frame_of(200)).estimates for one in (plain, layered))

    assert after.score.tobytes() == before.score.tobytes()
    assert after.stage is not None
    moved = (after.value != before.value).all(axis=1)
    assert all(moved[after.stage == stage].all() for stage in range(3))


def test_features_that_are_kept_are_those_of_the_main_model(bundle: Bundle) -> None:
    """Of every window, also of those that it was not asked about."""
    spec = msgspec.structs.replace(bundle.spec, features=bundle.spec.cascade[1].features)
    session = open_session(bundle)
    small = session.stages[1]  # type: ignore[attr-defined]
    staged = type(session)(small, session.stages)  # type: ignore[attr-defined,call-arg]
    pipeline = Pipeline(spec, staged, base=bundle.digest, upload="features")
    frame = frame_of(100)

    inputs = pipeline.push(frame).estimates.inputs

    assert inputs is not None
    samples = np.lib.stride_tricks.sliding_window_view(frame.samples.astype("f4"), 5, axis=0)
    assert inputs.shape == (96, 4)
    np.testing.assert_allclose(inputs[:, ::2], samples.mean(axis=2), rtol=1e-5, atol=1e-6)


def test_scoring_windows_leaves_the_stream_as_it_was(bundle: Bundle) -> None:
    """Between two pushes, other windows may be scored."""
    frame, pipeline = frame_of(120), pipeline_of(bundle)
    expected = pipeline_of(bundle).push(frame).estimates

    first = pipeline.push(part_of(frame, 0, 60)).estimates
    pipeline.score_windows(golden_windows(np.ones((7, 5, 2))))
    second = pipeline.push(part_of(frame, 60, 120)).estimates

    assert np.concatenate((first.score, second.score)).tobytes() == expected.score.tobytes()


def test_a_damaged_snapshot_changes_nothing(bundle: Bundle) -> None:
    """State of another cascade, or none, is refused; the pipeline goes on as it was."""
    frame, other = frame_of(120), pipeline_of(bundle)
    shorter = Pipeline(
        msgspec.structs.replace(bundle.spec, cascade=()), open_session(bundle), base=bundle.digest
    )
    other.push(part_of(frame, 0, 60))

    with pytest.raises(ModelError, match="cascade does not fit"):
        other.restore(shorter.snapshot())
    found = other.push(part_of(frame, 60, 120)).estimates.score

    assert found.tobytes() == pipeline_of(bundle).push(frame).estimates.score[56:].tobytes()


def test_a_new_base_takes_over_from_a_cascade_and_back(bundle: Bundle) -> None:
    """No window is lost at either swap."""
    frame, cascaded = frame_of(90), pipeline_of(bundle)
    plain = Pipeline(
        msgspec.structs.replace(bundle.spec, cascade=()), open_session(bundle), base="cd" * 32
    )

    first = cascaded.push(part_of(frame, 0, 30))
    plain.take_over(cascaded)
    second = plain.push(part_of(frame, 30, 60))
    again = pipeline_of(bundle)
    again.take_over(plain)
    third = again.push(part_of(frame, 60, 90))

    indices = [one.estimates.index for one in (first, second, third)]
    assert np.concatenate(indices).tolist() == list(range(4, 90))
    assert second.estimates.stage is None
    assert third.estimates.stage is not None


def test_streams_with_a_cascade_are_not_asked_together(bundle: Bundle) -> None:
    """They answer window by window, and say so."""
    pipelines = [pipeline_of(bundle) for _ in range(2)]

    assert pipelines[0].common_session is None
    with pytest.raises(ModelError, match="with a cascade"):
        answer_together([(pipeline, []) for pipeline in pipelines])


def test_a_session_without_the_stages_is_refused(bundle: Bundle) -> None:
    """The message says how many there are, how many are wanted, and what opens them."""
    main = open_session(bundle).fork()._main  # type: ignore[attr-defined]

    with pytest.raises(ModelError) as caught:
        Pipeline(bundle.spec, main, base=bundle.digest)

    assert str(caught.value) == (
        "pump@1: the session has 0 stages; expected 2, as the bundle declares.\n"
        "  Open the bundle with open_session or open_pipeline."
    )


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_model_can_be_interrupted(bundle: Bundle, number: int) -> None:
    """Whichever is at work: all that can be told to are told."""
    told: list[int] = []
    session = open_session(bundle)
    models = [*session.stages, session]  # type: ignore[attr-defined]
    models[number].interrupt = lambda: told.append(number)
    cascade = Cascade(bundle.spec, session)

    assert cascade.interrupt()
    assert told == [number]


def part_of(frame: Frame, first: int, last: int) -> Frame:
    """Return some rows of a frame."""
    return Frame("main", first, frame.time_ns[first:last], frame.samples[first:last])


def counted(session: Session, asked: list[int]) -> Session:
    """Count the rows that the small and the large model are asked for."""
    for number, one in enumerate((session.stages[1], session)):  # type: ignore[attr-defined]
        one.run = _counting(one.run, asked, number)
    return session


def _counting(
    run: Callable[[np.ndarray], np.ndarray], asked: list[int], number: int
) -> Callable[[np.ndarray], np.ndarray]:
    def counting(batch: np.ndarray) -> np.ndarray:
        asked[number] += len(batch)
        return run(batch)

    return counting


def test_a_stage_needs_no_model(bundle: Bundle) -> None:
    """Its features are its values: the gate's are levels."""
    spec: ModelSpec = bundle.spec
    gate: StageSpec = spec.cascade[0]
    windows = golden_windows(np.full((3, 5, 2), 2.0))

    assert gate.artefacts == ()
    assert alone(bundle, windows)[0].tolist() == [[2.0, 2.0]] * 3
