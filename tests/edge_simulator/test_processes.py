import signal
from pathlib import Path

import pytest

from edge_runtime.errors import SourceError
from edge_simulator.processes import ChildProcess, DeviceProcess

_FOREVER = ["-c", "import sys, threading; print('up', flush=True); threading.Event().wait()"]


def test_stop_ends_a_child_by_its_own_id(tmp_path: Path) -> None:
    """SIGTERM goes to the child that was started, and its end is waited for."""
    child = ChildProcess(_FOREVER, tmp_path / "child.log")
    child.start()

    code = child.stop()

    assert code == -signal.SIGTERM
    assert not child.is_alive


def test_kill_leaves_no_time(tmp_path: Path) -> None:
    """A kill is SIGKILL: nothing is flushed."""
    child = ChildProcess(_FOREVER, tmp_path / "child.log")
    child.start()

    child.kill()

    assert child.join() == -signal.SIGKILL


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """No child outlives its simulation."""
    stubborn = "import signal, threading; signal.signal(15, signal.SIG_IGN); "
    child = ChildProcess(
        ["-c", stubborn + "print('deaf', flush=True); threading.Event().wait()"],
        tmp_path / "child.log",
    )
    child.start()
    _wait_for_text(tmp_path / "child.log", "deaf", child)

    assert child.stop(timeout_s=0.2) == -signal.SIGKILL


def test_what_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    """Clean-up may run before the start."""
    child = ChildProcess(_FOREVER, tmp_path / "child.log")
    device = DeviceProcess(tmp_path / "device.yaml", tmp_path / "device.log")

    assert child.stop() is None
    assert device.stop() is None
    device.kill()


def test_a_device_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    """A wrong configuration is reported with the message the device printed."""
    device = DeviceProcess(tmp_path / "missing.yaml", tmp_path / "device.log")

    with pytest.raises(SourceError, match=r"missing\.yaml"):
        device.start()


def _wait_for_text(path: Path, text: str, child: ChildProcess) -> None:
    while child.is_alive and text not in path.read_text():
        pass
