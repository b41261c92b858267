"""Samples in any order, recorded as they came, are answered again with the same revisions."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backends import open_session
from edge_runtime.bundle import Golden, load_bundle, save_bundle, write_arrays, write_golden
from edge_runtime.clock import SystemClock
from edge_runtime.identity import ResultId
from edge_runtime.modes.explain import explain, page_of
from edge_runtime.modes.replay import Bundles, Comparison, Replay, entries_of
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.taping import standing_of
from edge_runtime.modes.writer import taken_of
from edge_runtime.pipeline import Pipeline, TimedPipeline
from edge_runtime.ports import Choice, Timing
from edge_runtime.quality import MASK, Quality
from edge_runtime.spec import (
    ArtefactSpec,
    CalibrationLayer,
    ChannelSpec,
    GridSpec,
    Layer,
    Limit,
    ModelSpec,
    OutputSpec,
    Reject,
    Smoothing,
    Statistics,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.tape import (
    Answer,
    Limits,
    Origin,
    Recorder,
    Ring,
    Silence,
    Standing,
    answers_of_output,
    open_tapes,
    windows_of,
)
from edge_runtime.types import Decision, Frame, Output

PERIOD_NS = 10_000_000
WINDOWS = (
    WindowSpec(4, 2),
    WindowSpec(3, 3, kind="tumbling"),
    WindowSpec(6, 6, kind="session", silence_s=0.03),
)
GRIDS = (GridSpec(), GridSpec("linear", "hold", 0.05))


class Happening(NamedTuple):
    """Something that happens to a stream.

    Attributes:
        kind: ``frame``, ``silence``, ``commit``, ``layers``, or ``again``: the model is
            opened again.
        amount: Samples of a frame, hundredths of a second of a silence, a scale of a layer.
    """

    kind: str
    amount: int


happenings = st.lists(
    st.builds(
        Happening,
        st.sampled_from(["frame"] * 6 + ["silence", "commit", "commit", "layers", "again"]),
        st.integers(0, 12),
    ),
    min_size=5,
    max_size=60,
)
timings = st.builds(
    Timing,
    delay_s=st.sampled_from([0.0, 0.02]),
    allowed_lateness_s=st.sampled_from([0.0, 0.1, 2.0]),
    future_skew_s=st.just(0.5),
    confirm_rows=st.sampled_from([1, 2]),
    clock_back_s=st.sampled_from([0.2, None]),
    revise_s=st.sampled_from([0.001, 0.05]),
    idle_s=st.just(1.0),
)


def spec_of(window: WindowSpec, grid: GridSpec) -> ModelSpec:
    """Declare a model whose score is a window's mean, with everything before a decision."""
    limit = Limit("high", 5.0, 4.0, k_of_n=(1, 2), refractory_s=0.05, reject=Reject(4.4, 4.6))
    return ModelSpec(
        name="toy",
        version="1",
        kind="scorer",
        stream=StreamSpec((ChannelSpec("level", "m"),), 100.0, grid=grid),
        window=window,
        features=(Statistics(("mean",)),),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("high",),
        output=OutputSpec(),
        smoothing=Smoothing(kind="median", windows=3),
        limits=(limit,),
    )


def saved(folder: Path, spec: ModelSpec) -> Path:
    """Save that model."""
    weights = {"w0": np.eye(1, dtype=np.float32), "b0": np.zeros(1, np.float32)}
    golden = Golden(np.zeros((1, spec.window.length, 1)), np.zeros((1, 1)))
    files = {"model.npz": write_arrays(weights), spec.golden: write_golden(golden)}
    save_bundle(folder / "bundle", spec, files)
    return folder / "bundle"


class Recorded:
    """A device's stream that is recorded, whatever happens to it.

    Attributes:
        outputs: What came of it.
    """

    def __init__(self, folder: Path, spec: ModelSpec, timing: Timing, seed: int) -> None:
        self._bundle = load_bundle(saved(folder, spec))
        self._session = open_session(self._bundle)
        self._timing = timing
        self._dice = np.random.default_rng(seed)
        self._now_ns = 10**15
        self._index = 0
        self._seq = 0
        self.outputs: list[Output] = []
        clock = SystemClock()
        stand = lambda *how: standing_of(*how, Choice())  # noqa: E731
        self._serving = Serving(
            self._pipeline(), position=0, commit_s=3600, clock=clock, stand=stand
        )
        standing = self._serving.standing()
        assert standing is not None
        origin = Origin(1, "bench-1", "main", 1, 7, (str(folder / "bundle"),), 0)
        self._recorder = Recorder(
            Ring(folder / "rec" / "main", Limits(1 << 30), clock), origin, standing
        )

    def _pipeline(self) -> TimedPipeline:
        spec, base = self._bundle.spec, self._bundle.digest
        return TimedPipeline(Pipeline(spec, self._session, base=base), self._timing)

    def run(self, given_happenings: Sequence[Happening]) -> None:
        """Let all of it happen, then the end of the stream."""
        do = {
            "frame": self._frame,
            "silence": self._silence,
            "commit": self._commit,
            "layers": self._layers,
            "again": self._again,
        }
        for kind, amount in given_happenings:
            do[kind](amount)
        self._keep(self._serving.finish())
        self._commit(0)
        self._recorder.close()

    def _frame(self, count: int) -> None:
        self._keep(self._serving.push(self._next(count)))

    def _next(self, count: int) -> Frame:
        """Make samples: late ones, some twice, gaps, wild stamps, and clocks set back."""
        dice = self._dice
        steps = np.where(dice.random(count) < 0.05, 6, 1) * PERIOD_NS
        if self._timing.clock_back_s is not None and dice.random() < 0.05:
            self._now_ns -= 10**9
        time_ns = self._now_ns + np.cumsum(steps) + dice.integers(-(10**6), 10**6, count)
        self._now_ns += int(steps.sum())
        late = dice.random(count)
        time_ns -= np.where(late < 0.25, dice.integers(0, 30 * PERIOD_NS, count), 0)
        if self._timing.confirm_rows > 1:
            time_ns += np.where(late > 0.98, 10**11, 0)
        samples = dice.normal(4.5, 1.5, (count, 1))
        masks = np.where(dice.random(count) < 0.1, MASK.type(Quality.SATURATED), MASK.type(0))
        quality = masks if masks.any() else None
        self._index += count
        return Frame("main", self._index - count, time_ns, samples, quality=quality)

    def _silence(self, hundredths: int) -> None:
        self._keep(self._serving.pass_time(hundredths / 100))

    def _commit(self, _: int) -> None:
        self._recorder.write(taken_of(self._serving.take()))

    def _layers(self, amount: int) -> None:
        self._seq += 1
        layer = Layer(CalibrationLayer(1.0 + amount / 40, 0.0), self._bundle.digest, self._seq, 0)
        # The same layers again are a change as well.
        self._serving.activate([layer] if amount % 3 else self._serving.pipeline.layers)

    def _again(self, _: int) -> None:
        layers = self._serving.pipeline.layers
        fresh = self._pipeline()
        fresh.activate(layers)
        self._serving.replace(fresh)

    def _keep(self, output: Output | None) -> None:
        assert output is not None
        self.outputs.append(output)


def told(outputs: Iterable[Output]) -> tuple[list[Answer], list[Decision], list[bytes]]:
    """Everything that was said, in order: windows, decisions, samples that were set aside."""
    parts = list(outputs)
    entries = [answers for output in parts for answers in answers_of_output(output)]
    windows = [one for answers in entries for one in windows_of(answers)]
    sides = [side for output in parts for side in output.aside]
    aside = [side.time_ns.tobytes() + side.samples.tobytes() for side in sides]
    return windows, [one for output in parts for one in output.decisions], aside


def replayed(
    folder: Path, skip: int = 0, without: type | None = None
) -> tuple[list[Output], Comparison]:
    """Replay a tape from the ``skip``-th standing on."""
    entries = list(entries_of(open_tapes(folder)["main"].segments))
    standings = [i for i, (_, entry) in enumerate(entries) if isinstance(entry, Standing)]
    wanted = entries[standings[skip % len(standings)] :]
    replay = Replay("main", Bundles())
    steps = list(replay.run(one for one in wanted if type(one[1]) is not without))
    replay.close()
    return [step.output for step in steps if step.output], replay.comparison


@settings(max_examples=60)
@given(
    given_happenings=happenings,
    timing=timings,
    window=st.sampled_from(WINDOWS),
    grid=st.sampled_from(GRIDS),
    seed=st.integers(0, 2**32 - 1),
    skip=st.integers(0, 8),
)
def test_a_replay_gives_the_same_revisions(
    given_happenings: list[Happening],
    timing: Timing,
    window: WindowSpec,
    grid: GridSpec,
    seed: int,
    skip: int,
) -> None:
    """Late, twice, wild, silent, set back, revised, taken back: byte for byte the same again."""
    with tempfile.TemporaryDirectory() as name:
        device = Recorded(Path(name), spec_of(window, grid), timing, seed)
        device.run(given_happenings)

        again, whole = replayed(Path(name) / "rec")
        _, part = replayed(Path(name) / "rec", skip)

    windows, decisions, aside = told(device.outputs)
    assert told(again)[:2] == (windows, decisions)
    # What a pipeline sets aside when it takes over is told with the next frame, and is no
    # part of its snapshot.
    has_break = any(one.kind == "again" for one in given_happenings)
    assert has_break or told(again)[2] == aside
    assert whole.is_equal and part.is_equal
    assert (whole.windows, whole.decisions) == (len(windows), len(decisions))
    assert whole.unrecorded == part.unrecorded == 0


@settings(max_examples=40)
@given(
    given_happenings=happenings,
    timing=timings,
    window=st.sampled_from(WINDOWS),
    seed=st.integers(0, 2**32 - 1),
    which=st.integers(0, 1000),
)
def test_every_window_is_explained_with_its_revisions(
    given_happenings: list[Happening], timing: Timing, window: WindowSpec, seed: int, which: int
) -> None:
    """Whenever it was answered, and however often: everything that was said of it, again."""
    with tempfile.TemporaryDirectory() as name:
        device = Recorded(Path(name), spec_of(window, GridSpec()), timing, seed)
        device.run(given_happenings)
        windows, decisions, _ = told(device.outputs)
        often = Counter(one.index for one in windows).most_common()

        for index in {one for one, _ in (*often[:2], *often[which % max(1, len(often)) :][:1])}:
            found = ResultId("bench-1", 1, "main", index)
            explanation, _ = explain(found, Path(name) / "rec", Bundles())

            said = [one for one in windows if one.index == index]
            assert explanation.is_equal is True
            assert [one.revision for one in explanation.revisions] == [one.revision for one in said]
            assert explanation.decisions == tuple(d for d in decisions if d.index == index)
            assert explanation.history[-1].index == index


@pytest.fixture
def revised(tmp_path: Path) -> Recorded:
    """A stream with late samples, silences and commits, on a tape in ``tmp_path``."""
    timing = Timing(allowed_lateness_s=2.0, clock_back_s=None, confirm_rows=1, revise_s=0.05)
    kinds = ["frame", "frame", "silence", "frame", "commit"] * 40
    device = Recorded(tmp_path, spec_of(WINDOWS[0], GRIDS[0]), timing, 7)
    device.run([Happening(kind, 6) for kind in kinds])
    return device


def test_a_replay_without_the_silences_is_found_out(revised: Recorded, tmp_path: Path) -> None:
    """Time that went on without a frame is part of the tape: what misses it is not equal."""
    assert len(told(revised.outputs)[0]) > 100

    _, whole = replayed(tmp_path / "rec")
    _, lacking = replayed(tmp_path / "rec", without=Silence)

    assert whole.is_equal
    assert not lacking.is_equal
    assert lacking.absent > 0


def test_a_revised_window_is_drawn_as_it_was_answered_last(
    revised: Recorded, tmp_path: Path
) -> None:
    """Its page says that late samples have changed it, and shows them at their own times."""
    windows, _, _ = told(revised.outputs)
    last = max((one for one in windows if not one.is_retracted), key=lambda one: one.revision)
    name = ResultId("bench-1", 1, "main", last.index)

    explanation, found = explain(name, tmp_path / "rec", Bundles())

    assert last.revision > 0
    assert found.trace.value.tobytes() == last.value
    assert explanation.stages[-1].name == "revisions"
    assert "late samples have changed it" in page_of(explanation, found)
    inside = (found.signal.places >= found.signal.box[0] - 0.5) & (
        found.signal.places <= found.signal.box[1] + 0.5
    )
    assert np.count_nonzero(inside) >= 4


def test_a_silence_that_lasts_does_not_fill_the_memory(tmp_path: Path) -> None:
    """However often a silent stream is told the time, what waits for the next commit is bounded."""
    timing = Timing(confirm_rows=1, idle_s=1.0)
    device = Recorded(tmp_path, spec_of(WINDOWS[0], GRIDS[0]), timing, 7)

    device.run([Happening("frame", 12), *[Happening("silence", n) for n in range(500)]])

    entries = [entry for _, entry in entries_of(open_tapes(tmp_path / "rec")["main"].segments)]
    silences = [one.passed_s for one in entries if isinstance(one, Silence)]
    assert len(silences) < 10
    assert silences[-2:] == [4.99, None]
    assert replayed(tmp_path / "rec")[1].is_equal
