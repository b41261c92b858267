"""Models that crash and hang under a real device: the supervisor, the child, and what is kept."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 60.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(odd_device: Any) -> Iterator[Start]:
    """Start ``edge-runtime run`` as a program, which is supervised; ended with the test."""
    started: list[subprocess.Popen[str]] = []
    # The backend that misbehaves is found where this process finds it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "edge_runtime.cli", "run", str(odd_device.yaml)]
        process = subprocess.Popen(
            [*command, "--drain-s", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """Wait for the end, which must be a good one; return status and messages."""
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    return json.loads(out), err


def _device_of(process: subprocess.Popen[str]) -> int:
    """Return the process id of the device under a supervisor."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _wait_for("the supervisor's device", lambda: bool(children.read_text()))
    return int(children.read_text().split()[0])


def _wait_for_rows(odd_device: Any) -> None:
    """Wait until the device has opened its outbox."""
    _wait_for("the outbox", (odd_device.folder / "state/outbox.db").exists)


def _wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        select.select([], [], [], 0.02)


@pytest.mark.parametrize("do", ["crash", "abort", "corrupt"])
def test_a_base_that_crashes_twice_gives_way_and_no_row_is_lost(
    odd_device: Any, start: Start, do: str
) -> None:
    """The process is started again, goes on where it was, and falls back to the base before."""
    factory = odd_device.base("1", do="ok")
    bad = odd_device.base("2", do=do, after=12)
    odd_device.declare()
    odd_device.commit(bad)

    status, said = _ended(start())

    record = odd_device.record()
    assert said.count("it starts again in") == 2
    assert f"crash 2 of base {bad.digest[:12]} in stream odd" in said
    assert record.active == factory.digest
    assert record.quarantine[bad.digest].startswith("crash: the device was killed by SIG")
    assert odd_device.kept("odd") == odd_device.all_windows
    assert odd_device.kept("calm") == odd_device.all_windows
    assert status["streams"]["odd"]["base"] == factory.digest


def test_a_factory_base_that_crashes_once_goes_on(odd_device: Any, start: Start) -> None:
    """One crash is no verdict: the same base answers the rest, each window once."""
    factory = odd_device.base("1", do="crash", after=9, once=str(odd_device.folder / "happened"))
    odd_device.declare()

    _, said = _ended(start())

    assert said.count("it starts again in") == 1
    assert odd_device.record().active == factory.digest
    assert odd_device.kept("odd") == odd_device.all_windows


def test_a_call_that_hangs_is_ended_and_counts(odd_device: Any, start: Start) -> None:
    """A runtime that nobody can interrupt is killed with its process, and its base given up."""
    factory = odd_device.base("1", do="ok")
    bad = odd_device.base("2", do="hang", after=5)
    odd_device.declare(extra="watchdog_s: 1")
    odd_device.commit(bad)

    _, said = _ended(start())

    assert said.count("supervisor: the device hung in a call") == 2
    assert odd_device.record().active == factory.digest
    assert odd_device.kept("odd") == odd_device.all_windows
    assert odd_device.kept("calm") == odd_device.all_windows


@pytest.mark.parametrize("do", ["crash", "corrupt", "count_crash"])
def test_in_a_process_of_its_own_a_crash_costs_nothing(
    odd_device: Any, start: Start, do: str
) -> None:
    """The device process stays up, the window is asked again, and no restart is said."""
    odd_device.base("1", do=do, after=9, once=str(odd_device.folder / "happened"))
    odd_device.declare(", isolation: process")

    status, said = _ended(start())

    assert (odd_device.folder / "happened").exists()
    assert "it starts again in" not in said
    assert odd_device.kept("odd") == odd_device.all_windows, said
    assert odd_device.kept("calm") == odd_device.all_windows
    assert "model_failed" not in status["streams"]["odd"]["discarded"]


def test_in_a_process_of_its_own_a_model_may_crash_for_ever(odd_device: Any, start: Start) -> None:
    """What it did not answer is counted; the device and the other stream go on to the end."""
    odd_device.base("1", do="crash", after=5)
    odd_device.declare(", isolation: process")

    status, said = _ended(start())

    odd = status["streams"]["odd"]
    assert "it starts again in" not in said
    assert odd["estimates"] + odd["discarded"].get("model_failed", 0) == odd_device.windows
    assert odd_device.kept("calm") == odd_device.all_windows


def test_ctrl_c_ends_device_and_supervisor_cleanly(odd_device: Any, start: Start) -> None:
    """SIGINT to the program flushes what was read, ends with 0, and leaves no process."""
    odd_device.base("1", do="ok")
    odd_device.declare(source=", speed: 100")
    process = start()
    device = os.pidfd_open(_device_of(process))
    _wait_for_rows(odd_device)

    process.send_signal(signal.SIGINT)

    status, _ = _ended(process)
    assert status["streams"]["odd"]["position"] < odd_device.rows
    assert select.select([device], [], [], LIMIT_S)[0]
    os.close(device)


def test_a_device_does_not_outlive_its_supervisor(odd_device: Any, start: Start) -> None:
    """When the supervisor is killed, its device ends cleanly, so that the next one is alone."""
    odd_device.base("1", do="ok")
    odd_device.declare(source=", speed: 100")
    process = start()
    device = os.pidfd_open(_device_of(process))
    _wait_for_rows(odd_device)

    process.kill()

    assert select.select([device], [], [], LIMIT_S)[0]
    os.close(device)


def test_without_a_supervisor_there_is_one_process(odd_device: Any, start: Start) -> None:
    """``--no-supervisor`` leaves restarts to a service manager: a crash ends the program."""
    odd_device.base("1", do="abort", after=9)
    odd_device.declare()

    process = start("--no-supervisor")
    process.communicate(timeout=LIMIT_S)

    assert process.returncode == -signal.SIGABRT
