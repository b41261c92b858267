"""What was recorded is answered again with the same bytes, from wherever one begins."""

from __future__ import annotations

import functools
import itertools
import tempfile
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle, Golden, load_bundle, save_bundle, write_golden
from edge_runtime.clock import SystemClock
from edge_runtime.identity import ResultId
from edge_runtime.modes.explain import explain
from edge_runtime.modes.replay import Bundles, Comparison, Replay, entries_of
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.taping import standing_of
from edge_runtime.modes.writer import taken_of
from edge_runtime.ports import Choice
from edge_runtime.spec import (
    ArtefactSpec,
    CalibrationLayer,
    ChannelSpec,
    Layer,
    Limit,
    ModelSpec,
    Normalise,
    OutputSpec,
    Smoothing,
    StateSpec,
    StateTensor,
    StreamSpec,
    ThresholdsLayer,
    WindowSpec,
)
from edge_runtime.tape import Limits, Origin, Recorder, Ring, Standing, open_tapes
from edge_runtime.types import Frame, Output

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


class Case(NamedTuple):
    """A bundle and a stream of samples for it."""

    folder: Path
    samples: np.ndarray


def made(name: str, file: str, length: int, hop: int, labels: int, **more: object) -> Path:
    """Save a bundle around a model of the tests."""
    spec = ModelSpec(
        **{
            "name": name,
            "version": "1",
            "kind": "classifier",
            "stream": StreamSpec((ChannelSpec("c0"),), 100.0),
            "window": WindowSpec(length, hop),
            "artefacts": (ArtefactSpec(file.rpartition(".")[2], file, "int8"),),
            "labels": tuple(f"l{i}" for i in range(labels)),
            "limits": (Limit("l0", 0.2, 0.1),),
            "smoothing": Smoothing(2),
            **more,
        }
    )
    folder = Path(tempfile.mkdtemp()) / name
    golden = Golden(np.zeros((1, length, len(spec.stream.channels))), np.zeros((1, labels)))
    model = (DATA / "models" / file).read_bytes()
    save_bundle(folder, spec, {file: model, spec.golden: write_golden(golden)})
    return folder


@functools.cache
def turbine() -> Case:
    """A regressor on sensor rows, as shipped."""
    folder = ROOT / "examples/gas_turbine"
    rows = np.loadtxt(folder / "gas_turbine_2011_2015.csv", delimiter=",", skiprows=1)
    return Case(folder / "bundles/turbine-nox-1.0.0", rows[15039:17039, 1:10])


@functools.cache
def fan() -> Case:
    """A classifier of vibration with its own features, as shipped."""
    folder = ROOT / "examples/fan_vibration"
    rows = np.loadtxt(folder / "fan_vibration_part.csv", delimiter=",", skiprows=1, max_rows=7000)
    return Case(folder / "bundles/fan-unbalance-1.0.0", rows[:, -3:])


@functools.cache
def keywords() -> Case:
    """A classifier of spoken words on ready features."""
    with np.load(DATA / "keywords/mfcc_int8_49x10.npz") as arrays:
        features = arrays[arrays.files[0]].reshape(-1)[: 490 * 24]
    return Case(made("words", "kws_dscnn_int8.tflite", 490, 245, 12), features[:, None])


@functools.cache
def wake_word() -> Case:
    """A wake word model whose state nobody can read: it is warmed up again."""
    channels = tuple(ChannelSpec(f"c{i}") for i in range(40))
    folder = made(
        "nabu",
        "okay_nabu.tflite",
        3,
        3,
        1,
        stream=StreamSpec(channels, 100.0),
        state=StateSpec(warm_up=100),
    )
    steps = np.load(DATA / "models/okay_nabu_stream.npz")["input"].reshape(-1, 40)
    return Case(folder, np.concatenate([steps, steps[::-1], steps]))


@functools.cache
def voice() -> Case:
    """A voice detector whose state goes in and out."""
    state = StateSpec(tensors=(StateTensor("state", "stateN"),), constants={"sr": 16000})
    folder = made(
        "voice",
        "silero_vad.onnx",
        576,
        512,
        1,
        window=WindowSpec(576, 512, pad=64),
        state=state,
        normalise=Normalise((0.0,), (32768.0,)),
        output=OutputSpec(),
    )
    with wave.open(str(DATA / "audio/turn_on_the_kitchen_lights_please__en-us.wav")) as file:
        samples = np.frombuffer(file.readframes(20_000), np.int16)
    return Case(folder, samples[:, None])


CASES = [turbine, fan, keywords, wake_word, voice]


def frame_of(case: Case, bundle: Bundle) -> Frame:
    """Give the samples times, with two gaps and a late row."""
    period_ns = bundle.spec.stream.period_ns
    steps = np.full(len(case.samples), period_ns)
    steps[[len(steps) // 3, len(steps) // 2]] *= 5
    steps[len(steps) // 5] = -period_ns
    return Frame("main", 1000, np.cumsum(steps), case.samples)


def layers_of(bundle: Bundle) -> list[list[Layer]]:
    """Make sets of layers that change what comes out."""
    limit = bundle.spec.limits[0]
    bodies = [
        CalibrationLayer(1.3, 0.1),
        ThresholdsLayer((Limit(limit.label, limit.on * 0.9, limit.off * 0.8),)),
    ]
    layers = [Layer(body, bundle.digest, n, made_ns=0) for n, body in enumerate(bodies)]
    return [layers[:1], layers, []]


def record(
    folder: Path, case: Case, seams: Sequence[int], commits: set[int], changes: Sequence[int]
) -> list[Output]:
    """Do what a device does with a stream that is recorded; return what came of it."""
    bundle = load_bundle(case.folder)
    pipeline = open_pipeline(bundle)
    stand = lambda *how: standing_of(*how, Choice())  # noqa: E731
    clock = SystemClock()
    serving = Serving(pipeline, position=1000, commit_s=3600, clock=clock, stand=stand)
    standing = serving.standing()
    assert standing is not None
    origin = Origin(1, "bench-1", "main", 1, 7, (str(case.folder),), 0)
    recorder = Recorder(Ring(folder / "main", Limits(1 << 30), clock), origin, standing)
    frame, outputs = frame_of(case, bundle), []
    bounds = sorted({0, len(frame), *(seam % len(frame) for seam in seams)})
    sets = iter(layers_of(bundle))
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        if number in changes:
            serving.activate(next(sets, []))
        rows = slice(first, last)
        part = Frame("main", 1000 + first, frame.time_ns[rows], frame.samples[rows])
        outputs.append(serving.push(part))
        if number in commits:
            recorder.write(taken_of(serving.take()))
    recorder.write(taken_of(serving.take()))
    recorder.close()
    return outputs


def replayed(folder: Path, skip: int = 0) -> tuple[list[Output], Comparison]:
    """Replay a tape from the ``skip``-th standing on."""
    entries = list(entries_of(open_tapes(folder)["main"].segments))
    standings = [i for i, (_, entry) in enumerate(entries) if isinstance(entry, Standing)]
    replay = Replay("main", Bundles())
    steps = list(replay.run(entries[standings[skip % len(standings)] :]))
    replay.close()
    return [step.output for step in steps if step.output], replay.comparison


def rows_of(outputs: Sequence[Output]) -> dict[int, tuple[bytes, bytes, str]]:
    """Return every window's bytes by its index."""
    return {
        index: (score.tobytes(), value.tobytes(), output.estimates.effective_id)
        for output in outputs
        for index, score, value in zip(
            output.estimates.index.tolist(),
            output.estimates.score,
            output.estimates.value,
            strict=True,
        )
    }


@pytest.mark.parametrize("case_of", CASES)
@settings(max_examples=5)
@given(
    seams=st.lists(st.integers(0, 20_000), max_size=24),
    commits=st.sets(st.integers(0, 24), max_size=12),
    changes=st.lists(st.integers(0, 20), min_size=1, max_size=3, unique=True),
    skip=st.integers(0, 8),
)
def test_a_replay_is_byte_equal_also_where_layers_change(
    case_of: Callable[[], Case],
    seams: list[int],
    commits: set[int],
    changes: list[int],
    skip: int,
) -> None:
    """Any chunking, any commits, layers that come and go: the device's own bytes again."""
    with tempfile.TemporaryDirectory() as name:
        made_live = record(Path(name), case_of(), seams, commits, changes)

        again, whole = replayed(Path(name))
        later, part = replayed(Path(name), skip)

    live = rows_of(made_live)
    assert rows_of(again) == live
    assert [d for one in again for d in one.decisions] == [
        d for one in made_live for d in one.decisions
    ]
    assert whole.is_equal and whole.windows == len(live) > 0
    assert part.is_equal
    assert rows_of(later).items() <= live.items()


@pytest.mark.parametrize("case_of", CASES)
def test_every_window_can_be_explained(case_of: Callable[[], Case], tmp_path: Path) -> None:
    """First, last and any decided window: answered again to the byte, with every stage."""
    outputs = record(tmp_path, case_of(), range(0, 20_000, 97), set(range(0, 400, 3)), [40, 90])
    indexes = [index for one in outputs for index in one.estimates.index.tolist()]
    decided = [decision.index for one in outputs for decision in one.decisions]

    for index in {indexes[0], indexes[len(indexes) // 2], indexes[-1], *decided[-2:]}:
        told, found = explain(ResultId("bench-1", 1, "main", index), tmp_path, Bundles())

        assert told.is_equal is True
        assert told.history[-1].index == index
        assert found.trace.value.tolist() == told.history[-1].value
