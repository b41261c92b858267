"""What the service manager is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.modes.notify import Notifier

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "fan_vibration"


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    """A service manager that listens."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.settimeout(30)
    return listening


def test_ready_is_said_once(manager: socket.socket) -> None:
    """A device that starts again after a crash is the same service."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready()
    notifier.ready()
    notifier.stopping()

    assert manager.recv(200).startswith(b"READY=1")
    assert manager.recv(200) == b"STOPPING=1"


def test_the_watchdog_is_fed_where_there_is_one(manager: socket.socket) -> None:
    """Twice per period at most, and never unasked."""
    without = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    without.alive()
    fed = Notifier({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "600000000"})
    fed.alive()
    fed.alive()
    fed.status("two\nlines")

    assert manager.recv(200) == b"WATCHDOG=1"
    assert manager.recv(200) == b"STATUS=two lines"


@pytest.mark.parametrize("address", ["", "/nonexistent/notify", "@nobody-listens"])
def test_a_manager_that_does_not_listen_holds_nothing_up(address: str) -> None:
    """The device matters more."""
    Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}).alive()
    Notifier({"NOTIFY_SOCKET": address}).ready()


def test_a_supervised_device_tells_the_service_manager(
    tmp_path: Path, manager: socket.socket
) -> None:
    """Ready once it runs, alive as long as it does, and stopping when it is asked to end."""
    config = tmp_path / "fan-1.yaml"
    config.write_text(
        f"""\
device: fan-1
state: state
streams:
  main:
    source:
      kind: csv
      path: {EXAMPLE}/fan_vibration_part.csv
      time: {{start: "2019-01-01T00:00:00Z", step_s: 0.02}}
      speed: 1
    model: {{bundle: {EXAMPLE}/bundles/fan-unbalance-1.0.0}}
"""
    )
    told = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "1000000"}
    command = [sys.executable, "-m", "edge_runtime.cli", "run", "--stay", str(config)]
    with subprocess.Popen(command, env={**os.environ, **told}) as device:
        said = []
        while not (b"WATCHDOG=1" in said and any(one.startswith(b"READY") for one in said)):
            said.append(manager.recv(200))
        device.send_signal(signal.SIGTERM)
        while said[-1] != b"STOPPING=1":
            said.append(manager.recv(200))

    assert device.returncode == 0
    assert sum(one.startswith(b"READY") for one in said) == 1
