"""Every model of a cascade is opened once, with the backend that runs it, and let go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime import backends
from edge_runtime.backends import artefacts_of, open_session
from edge_runtime.backends.staged import FeatureSession, StagedSession
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.errors import ModelError
from edge_runtime.ports import Choice, Session
from edge_runtime.spec import ArtefactSpec

MODELS = Path(__file__).parents[2] / "data" / "models"


@pytest.fixture
def bundle(cascade_bundle: Callable[..., Path]) -> Bundle:
    """A gate without a model, a small model and a large one."""
    return load_bundle(cascade_bundle())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Keep what backends load."""
    sessions: list[Session] = []
    load = backends.load_session

    def keeping(*args: object) -> Session:
        sessions.append(load(*args))  # type: ignore[arg-type]
        return sessions[-1]

    monkeypatch.setattr(backends, "load_session", keeping)
    return sessions


def is_open(session: Session) -> bool:
    """Tell whether a model still answers."""
    try:
        session.run(np.zeros(session.inputs[0].shape, np.float32))
    except ModelError:
        return False
    return True


def test_each_file_is_loaded_once_for_all_forks(bundle: Bundle, opened: list[Session]) -> None:
    """Models without state are one for all streams, and end together."""
    session = open_session(bundle)

    assert session.fork() is session
    assert len(opened) == 2
    session.close()
    assert [is_open(one) for one in opened] == [False, False]


def test_a_stage_that_does_not_open_lets_go_of_the_others(
    bundle: Bundle, opened: list[Session]
) -> None:
    """The error names the stage's file; nothing stays in memory."""
    bundle.files["small.npz"] = b"nonsense"

    with pytest.raises(ModelError, match=r"pump@1, small\.npz"):
        open_session(bundle)

    assert [is_open(one) for one in opened] == [False]


def test_a_stage_runs_on_what_is_chosen_if_it_can() -> None:
    """Else on the backend of its first file; accelerators are for the main model alone."""
    kinds = {"both": ("tflite", "onnx"), "other": ("onnx",), "none": ()}
    names = {
        name: tuple(ArtefactSpec(kind, f"{name}.{kind}", "int8") for kind in of)
        for name, of in kinds.items()
    }
    bundle = _bundle_of(names)
    choice = Choice(backend="litert", artefact="main.tflite", accelerator="xnnpack")

    found = [(one.file, how.backend, how.accelerator) for one, how in artefacts_of(bundle, choice)]

    assert found == [
        ("main.tflite", "litert", "xnnpack"),
        ("both.tflite", "litert", None),
        ("other.onnx", None, None),
    ]


def _bundle_of(stages: dict[str, tuple[ArtefactSpec, ...]]) -> Bundle:
    spec = msgspec.convert(
        {
            "name": "pump",
            "version": "1",
            "kind": "scorer",
            "stream": {"channels": [{"name": "a"}], "rate_hz": 1},
            "window": {"length": 1, "hop": 1},
            "artefacts": [{"backend": "tflite", "file": "main.tflite", "precision": "int8"}],
            "labels": ["a"],
            "cascade": [
                {
                    "name": name,
                    "ask_next": {"at_least": 0.5},
                    "artefacts": msgspec.to_builtins(artefacts),
                }
                for name, artefacts in stages.items()
            ],
        },
        backends.ModelSpec,
    )
    return Bundle(spec, "ab" * 32, {"main.tflite": b""})


def test_state_is_that_of_every_model(accumulator: bytes) -> None:
    """A fork has its own, and goes on where the state was taken."""
    load = backends.load_session
    session = StagedSession(
        load(None, "tflite", accumulator), [FeatureSession(2), load(None, "tflite", accumulator)]
    )
    row = np.ones((1, 2), np.float32)
    session.run(row)
    session.stages[1].run(row)
    state = session.state()
    assert state is not None

    fork = session.fork()
    fork.restore(state)

    assert session.state_kind == fork.state_kind == "variables"
    assert fork.run(row).tobytes() == session.run(row).tobytes()
    assert fork.stages[1].run(row).tobytes() == session.stages[1].run(row).tobytes()
    fork.reset()
    assert fork.state() == StagedSession.fork(session).state()


@pytest.mark.parametrize("state", [b"", b"\x91\xc4\x00", b"nonsense"])
def test_another_state_is_refused(bundle: Bundle, state: bytes) -> None:
    """Of fewer models, or of none."""
    with pytest.raises(ModelError, match="state of a cascade"):
        open_session(bundle).restore(state)


def test_a_stage_without_a_model_keeps_no_state() -> None:
    """It takes nothing back either."""
    session = FeatureSession(3)

    assert session.state() == b""
    with pytest.raises(ModelError, match="3 bytes of state; expected none"):
        session.restore(b"abc")
