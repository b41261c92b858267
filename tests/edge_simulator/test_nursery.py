"""Forked children are ordinary processes: own session, own log, ended by their own id."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from edge_simulator.nursery import ForkedChild


def test_a_child_runs_a_module_and_keeps_its_words(tmp_path: Path) -> None:
    """Arguments reach ``main``, what it prints its log, and its exit code us."""
    child = ForkedChild(["-m", "edge_simulator.device", "--help"], tmp_path / "child.log")

    child.start()

    assert child.join() == 0
    assert "--control" in child.last_words(30)


def test_a_failure_is_the_exit_code(tmp_path: Path) -> None:
    """A device without a file ends as it does in a process of its own."""
    words = ["-m", "edge_simulator.device", str(tmp_path / "no.yaml"), "--control", "127.0.0.1:9"]
    child = ForkedChild(words, tmp_path / "child.log")

    child.start()

    assert child.join() == 2
    assert "no.yaml" in child.last_words()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_it_ends_by_its_own_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """SIGKILL and SIGTERM reach that child alone, in a session of its own, and it is gone."""
    patient = "import threading\ndef main(words): threading.Event().wait()\n"
    (tmp_path / "patient.py").write_text(patient)
    monkeypatch.syspath_prepend(tmp_path)
    child, other = (ForkedChild(["-m", "patient"], tmp_path / f"{i}.log") for i in range(2))
    for each in (child, other):
        each.start()
    assert child.pid is not None and child.is_alive

    getattr(child, how)()

    assert not child.is_alive and other.is_alive
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    other.kill()
    assert other.join() == -signal.SIGKILL
