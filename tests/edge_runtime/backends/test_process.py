"""A model in a child process answers as in this one, and takes nothing down with it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends import load_session, open_pipeline, process
from edge_runtime.backends.process import ProcessSession, open_in_process
from edge_runtime.backends.shared import Setting
from edge_runtime.bundle import load_bundle
from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.ports import Choice, SessionOptions
from edge_runtime.types import Frame

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "tests" / "data" / "models"
LIMIT_MS = 20_000

Open = Callable[..., ProcessSession]


@pytest.fixture
def open_session() -> Iterator[Open]:
    """Open models in children, which end with the test."""
    opened: list[ProcessSession] = []

    def open_one(
        model: bytes, kind: str, *, backend: str | None = None, limit_s: float = 20.0, mb: int = 512
    ) -> ProcessSession:
        setting = Setting(backend, kind, SessionOptions(), limit_s, mb)
        opened.append(open_in_process(model, setting))
        return opened[-1]

    yield open_one
    for session in reversed(opened):
        session.close()


@pytest.fixture
def open_odd(open_session: Open, misbehaving: str) -> Open:
    """Open a model that sums and goes wrong as told."""

    def open_odd(do: str, *, limit_s: float = 20.0, mb: int = 512, **how: Any) -> ProcessSession:
        model = json.dumps({"do": do, **how}).encode()
        return open_session(model, misbehaving, backend=misbehaving, limit_s=limit_s, mb=mb)

    return open_odd


def _row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def _wait_for_end(pid: int) -> bool:
    """Wait until a process has ended, whoever is its parent."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], LIMIT_MS / 1e3)[0])
    finally:
        os.close(watched)


# --- as in this process --------------------------------------------------------------


@pytest.mark.parametrize("file", ["kws_dscnn_int8.tflite", "kws_dscnn_int8_qdq.onnx"])
def test_answers_are_the_same_bytes(open_session: Open, file: str) -> None:
    """Real models answer none, one and many rows as they do in this process."""
    model, kind = (MODELS / file).read_bytes(), file.rpartition(".")[2]
    here, there = load_session(None, kind, model), open_session(model, kind)
    inputs = np.load(MODELS / f"{file}.npz")["input"]

    assert (there.inputs, there.outputs) == (here.inputs, here.outputs)
    assert there.state_kind == here.state_kind
    for rows in (0, 1, 2, 16, 80):
        batch = np.resize(inputs, (rows, *inputs.shape[1:]))
        assert there.run(batch).tobytes() == here.run(batch).tobytes()
        assert there.run(batch).dtype == here.run(batch).dtype


@pytest.mark.parametrize("backend", ["litert", "onnx"])
def test_a_bundle_runs_in_a_child_byte_for_byte(backend: str) -> None:
    """``isolation: process`` changes where a bundle's model runs, and nothing of its answers."""
    bundle = load_bundle(ROOT / "examples/gas_turbine/bundles/turbine-nox-1.0.0")
    rows = np.random.default_rng(5).normal(40, 20, (500, len(bundle.spec.stream.channels)))
    frame = Frame("main", 0, np.arange(500, dtype=np.int64) * bundle.spec.stream.period_ns, rows)

    here, there = (
        open_pipeline(bundle, Choice(backend=backend, isolation=isolation)).push(frame)
        for isolation in ("thread", "process")
    )

    assert len(here.estimates) > 0
    assert there.estimates.score.tobytes() == here.estimates.score.tobytes()
    assert there.decisions == here.decisions


def test_the_answer_belongs_to_the_caller(open_odd: Open) -> None:
    """A later call does not change an earlier answer."""
    session = open_odd("ok")

    first = session.run(_row(1, 2))
    session.run(_row(5, 6))

    assert first.tolist() == [[3.0]]


def test_what_does_not_fit_is_refused_here(open_odd: Open) -> None:
    """Wrong shapes and dtypes never reach the child, and it goes on."""
    session = open_odd("ok")

    for batch in (np.zeros((1, 3), np.float32), np.zeros((1, 2)), np.float32(1)):
        with pytest.raises(ShapeError):
            session.run(np.asarray(batch))

    assert session.run(_row(1, 2)).tolist() == [[3.0]]


def test_not_finite_inputs_pass_through(open_odd: Open) -> None:
    """NaN and infinity are answered with what the model makes of them."""
    answers = open_odd("ok").run(np.array([[np.nan, 1], [np.inf, 1]], np.float32))

    assert np.isnan(answers[0, 0]) and np.isinf(answers[1, 0])


def test_streams_of_one_child_keep_their_state_apart(open_odd: Open) -> None:
    """Forks start afresh in the same process; reset, state and restore are each stream's own."""
    first = open_odd("count")
    second = first.fork()

    first.run(_row(1, 1))
    second.run(_row(10, 0))
    kept = first.state()
    assert first.pid == second.pid
    assert (first.run(_row(1, 0)).tolist(), second.run(_row(1, 0)).tolist()) == ([[3]], [[11]])
    second.reset()
    first.restore(kept or b"")

    assert (first.run(_row(0, 0)).tolist(), second.run(_row(0, 0)).tolist()) == ([[2]], [[0]])
    second.close()
    assert first.run(_row(1, 0)).tolist() == [[3]]


def test_a_number_of_a_closed_stream_is_used_again(open_odd: Open) -> None:
    """Streams come and go without mixing up or using up memory."""
    root = open_odd("count")

    for value in range(1, 6):
        fork = root.fork()
        assert fork.run(_row(value, 0)).tolist() == [[value]]
        fork.close()

    assert root.run(_row(0, 0)).tolist() == [[0]]


def test_a_state_of_another_length_is_refused(open_odd: Open) -> None:
    """Bytes that are no state of this model change nothing."""
    session = open_odd("count")
    session.run(_row(4, 0))

    with pytest.raises(ModelError):
        session.restore(b"short")

    assert session.run(_row(1, 0)).tolist() == [[5]]


def test_a_wake_word_streams_from_a_child(open_session: Open) -> None:
    """Resource variables live in the child; their state cannot be read, and that is said."""
    model = (MODELS / "okay_nabu.tflite").read_bytes()
    here, there = load_session(None, "tflite", model), open_session(model, "tflite")
    steps = np.random.default_rng(3).integers(-128, 128, (40, *here.inputs[0].shape[1:]))
    steps = steps.astype(np.int8)

    assert there.run(steps).tobytes() == here.run(steps).tobytes()
    assert there.state() is None


def test_a_closed_session_says_so(open_odd: Open) -> None:
    """A call after close() is an error, close() may come twice, and the child is gone."""
    session = open_odd("ok")
    pid = session.pid
    session.close()
    session.close()

    assert pid is not None and _wait_for_end(pid)
    with pytest.raises(ModelError, match="closed"):
        session.run(_row(1, 2))


# --- what goes wrong -----------------------------------------------------------------


@pytest.mark.parametrize("do", ["crash", "abort", "corrupt"])
def test_a_crash_loses_no_row(open_odd: Open, tmp_path: Path, do: str) -> None:
    """The row that ended a child is answered by the next one."""
    session = open_odd(do, after=2, once=str(tmp_path / "happened"))
    before = session.pid

    answers = [session.run(_row(value, 1)).tolist() for value in range(5)]

    assert answers == [[[1]], [[2]], [[3]], [[4]], [[5]]]
    assert (tmp_path / "happened").exists()
    assert session.pid != before


@pytest.mark.parametrize("do", ["count_crash", "count_scribble"])
def test_state_goes_on_exactly_after_a_crash(open_odd: Open, tmp_path: Path, do: str) -> None:
    """Each row counts once, for each stream, also where the child wrote over all it shares."""
    first = open_odd(do, after=3, once=str(tmp_path / "happened"))
    second = first.fork()

    sums = [(first.run(_row(1, 0))[0, 0], second.run(_row(2, 0))[0, 0]) for _ in range(8)]

    assert sums == [(count, 2 * count) for count in range(1, 9)]
    assert (tmp_path / "happened").exists()


def test_a_child_killed_between_two_calls_is_replaced(open_odd: Open) -> None:
    """SIGKILL from outside costs a restart, no row and no state."""
    session = open_odd("count")

    sums = []
    for value in range(1, 9):
        if value % 3 == 0 and session.pid is not None:
            os.kill(session.pid, signal.SIGKILL)
        sums.append(session.run(_row(1, 0))[0, 0])

    assert sums == list(range(1, 9))


def test_a_row_that_ends_every_child_is_given_up(open_odd: Open) -> None:
    """After three children the call fails; then none is started for a while."""
    session = open_odd("crash")

    with pytest.raises(ModelError, match="the model failed: it hung up"):
        session.run(_row(1, 1))
    with pytest.raises(ModelError, match="rests for a while"):
        session.run(_row(1, 1))


def test_after_its_rest_a_model_is_tried_again(
    open_odd: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that hangs is ended in time and given up; the next one is answered."""
    monkeypatch.setattr(process, "_BACK_OFF_S", (0.0, 0.0))
    session = open_odd("hang", limit_s=1.0, after=1, once=str(tmp_path / "happened"))
    session.run(_row(1, 1))
    hung = session.pid

    with pytest.raises(ModelError, match="no answer within 1 s"):
        session.run(_row(1, 1))

    assert hung is not None and _wait_for_end(hung)
    assert session.run(_row(2, 1)).tolist() == [[3]]


def test_a_model_error_in_the_child_is_raised_here(open_odd: Open) -> None:
    """What the child says of its model arrives with its words, and the child goes on."""
    session = open_odd("fail", after=1)
    session.run(_row(1, 1))
    before = session.pid

    with pytest.raises(ModelError, match="it was told to"):
        session.run(_row(1, 1))

    assert session.pid == before


def test_greed_is_bounded(open_odd: Open) -> None:
    """A model that takes more memory than it may fails alone."""
    session = open_odd("memory", mb=256)

    with pytest.raises(ModelError, match="more memory than it may"):
        session.run(_row(1, 1))


@pytest.mark.parametrize(
    ("model", "says"),
    [(b"{", "cannot be loaded"), (b'{"do": "exit"}', "its process died")],
    ids=["no model", "ends while loading"],
)
def test_a_model_that_does_not_load_is_said(
    open_session: Open, misbehaving: str, model: bytes, says: str
) -> None:
    """A file the runtime refuses, and one that ends its process, are errors of the model."""
    with pytest.raises(ModelError, match=says):
        open_session(model, misbehaving, backend=misbehaving)


def test_no_child_outlives_its_parent(misbehaving: str, tmp_path: Path) -> None:
    """A child in the middle of an endless call ends when its parent is killed."""
    script = textwrap.dedent(
        f"""
        import sys, threading
        import numpy as np
        sys.path[:0] = {sys.path!r}
        from edge_runtime.backends.process import open_in_process
        from edge_runtime.backends.shared import Setting
        from edge_runtime.ports import SessionOptions
        setting = Setting("misbehaving", "misbehaving", SessionOptions(), 60.0, 512)
        session = open_in_process(b'{{"do": "hang"}}', setting)
        call = threading.Thread(target=session.run, args=(np.ones((1, 2), np.float32),))
        call.start()
        print(session.pid, flush=True)
        call.join()
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()

    assert _wait_for_end(pid)
