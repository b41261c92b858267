"""Every kind of state: golden streams alone, interleaved, reset, kept and put back."""

from __future__ import annotations

import itertools
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backends import load_session
from edge_runtime.errors import ModelError
from edge_runtime.ports import Session, SessionOptions
from edge_runtime.spec import StateSpec, StateTensor

DATA = Path(__file__).parents[2] / "data"
SILERO = StateSpec(tensors=(StateTensor("state", "stateN"),), constants={"sr": 16000})


class Case(NamedTuple):
    """A model with state, the steps of a stream, and what it must answer."""

    session: Session
    steps: np.ndarray
    answers: np.ndarray
    tolerance: float


def _silero(accelerator: str | None = None) -> Case:
    with wave.open(str(DATA / "audio" / "turn_on_the_kitchen_lights_please__en-us.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / np.float32(32768)
    golden = np.load(DATA / "models" / "silero_vad_stream.npz")["output"]
    padded = np.concatenate((np.zeros(64, np.float32), samples))
    steps = np.stack([padded[512 * i : 512 * i + 576] for i in range(len(golden))])
    model = (DATA / "models" / "silero_vad.onnx").read_bytes()
    options = SessionOptions(accelerator=accelerator, state=SILERO, shape=(576, 1))
    return Case(load_session("onnx", "onnx", model, options), steps, golden[:, None], 1e-3)


def _wake_word() -> Case:
    golden = np.load(DATA / "models" / "okay_nabu_stream.npz")
    session = load_session("litert", "tflite", (DATA / "models" / "okay_nabu.tflite").read_bytes())
    return Case(session, golden["input"], golden["output"][:, None], 1)


@pytest.fixture(scope="module")
def case_of(lstm: Callable[..., tuple[bytes, Any]]) -> Callable[[str], Case]:
    """Make a case by the kind of its state."""

    def _lstm() -> Case:
        random = np.random.default_rng(11)
        model, numbers = lstm(random, 5, 8)
        steps = random.normal(size=(60, 1, 5)).astype(np.float32)
        answers = np.stack([numbers.step(step[0])[None] for step in steps])
        return Case(load_session("litert", "tflite", model), steps, answers, 1e-5)

    makers = {
        "explicit": _silero,
        "explicit, fed by name": lambda: _silero("CPUExecutionProvider"),
        "resources": _wake_word,
        "variables": _lstm,
    }
    return lambda kind: makers[kind]()


# An accelerator is fed by name; every build of ONNX Runtime takes the processor for one.
FED = "explicit, fed by name"
KINDS = ("explicit", FED, "resources", "variables")
READABLE = ("explicit", FED, "variables")


def distance(answers: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, in the unit of the answers."""
    return float(np.abs(answers.astype(np.float64) - expected.astype(np.float64)).max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_stream_is_answered(case_of: Callable[[str], Case], kind: str) -> None:
    """Alone, from the first step on, every answer is the known one."""
    case = case_of(kind)

    answers = case.session.run(case.steps)

    assert case.session.state_kind == kind.partition(",")[0]
    assert distance(answers, case.answers) <= case.tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_thirty_two_streams_do_not_mix(case_of: Callable[[str], Case], kind: str) -> None:
    """One loaded model serves 32 streams in random order, each as if it were alone."""
    case = case_of(kind)
    alone = case.session.run(case.steps).tobytes()
    sessions = [case.session.fork() for _ in range(32)]
    turns = np.random.default_rng(3).permutation(np.repeat(np.arange(32), len(case.steps)))
    answers: list[list[bytes]] = [[] for _ in sessions]

    for stream in turns:
        step = case.steps[len(answers[stream])]
        answers[stream].append(sessions[stream].run(step[None]).tobytes())

    assert {b"".join(parts) for parts in answers} == {alone}


@pytest.mark.parametrize("kind", KINDS)
def test_reset_means_reset(case_of: Callable[[str], Case], kind: str) -> None:
    """After a reset in the middle of a stream the model answers like a new one."""
    case = case_of(kind)
    fresh = case.session.run(case.steps[:30]).tobytes()
    carried_on = case.session.run(case.steps[:30]).tobytes()

    case.session.reset()

    assert carried_on != fresh
    assert case.session.run(case.steps[:30]).tobytes() == fresh


@pytest.mark.parametrize("kind", READABLE)
@settings(max_examples=20)
@given(data=st.data())
def test_state_can_be_kept_and_put_back(
    case_of: Callable[[str], Case], kind: str, data: st.DataObject
) -> None:
    """At any step the state is bytes from which another session of the model goes on."""
    case = case_of(kind)
    expected = case.session.run(case.steps).tobytes()
    seams = sorted(data.draw(st.sets(st.integers(1, len(case.steps) - 1), max_size=3)))
    session, answers = case.session.fork(), []

    for first, last in itertools.pairwise([0, *seams, len(case.steps)]):
        answers.append(session.run(case.steps[first:last]).tobytes())
        kept = session.state()
        session = case.session.fork()
        assert kept is not None
        session.restore(kept)

    assert b"".join(answers) == expected


def test_resource_variables_cannot_be_read(case_of: Callable[[str], Case]) -> None:
    """The one kind that nobody can read says so."""
    assert case_of("resources").session.state() is None


@pytest.mark.parametrize("kind", READABLE)
def test_bytes_of_another_length_are_no_state(case_of: Callable[[str], Case], kind: str) -> None:
    """A foreign state is refused, and the session answers as before."""
    case = case_of(kind)
    expected = case.session.fork().run(case.steps[:5]).tobytes()
    session = case.session.fork()

    with pytest.raises(ModelError) as caught:
        session.restore(b"\0" * 7)

    assert "7 bytes" in str(caught.value)
    assert session.run(case.steps[:5]).tobytes() == expected


def test_an_input_that_nobody_fills_is_named() -> None:
    """A model with three inputs does not load without its state, and says what to do."""
    model = (DATA / "models" / "silero_vad.onnx").read_bytes()

    with pytest.raises(ModelError) as caught:
        load_session("onnx", "onnx", model, SessionOptions(shape=(576, 1)))

    assert "input, state, sr" in str(caught.value)
    assert "state.tensors" in caught.value.remedy


def test_state_that_the_model_does_not_have_is_named() -> None:
    """A name that is no input of the model is an error that shows it."""
    model = (DATA / "models" / "silero_vad.onnx").read_bytes()
    wrong = StateSpec(tensors=(StateTensor("hidden", "stateN"),), constants={"sr": 16000})

    with pytest.raises(ModelError, match="no input hidden"):
        load_session("onnx", "onnx", model, SessionOptions(state=wrong, shape=(576, 1)))
