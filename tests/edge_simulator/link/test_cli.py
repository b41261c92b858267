"""`edge-runtime simulate link`: forwards, breaks, counts, and ends cleanly."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.cli import main

LIMIT_S = 90.0


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A port that listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LIMIT_S)
        yield listening


def started(server: socket.socket, *words: str) -> tuple[subprocess.Popen[str], int]:
    """Start the command; return it and the port it listens on."""
    to = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-m", "edge_runtime.cli", "simulate", "link", "--to", to, *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    port = child.stderr.readline().split()[0].rpartition(":")[2]
    return child, int(port)


def test_ctrl_c_ends_it_with_a_summary(server: socket.socket) -> None:
    """What went through is counted, and SIGINT is a clean end."""
    child, port = started(server, "--json", "--delay", "10ms")
    with socket.create_connection(("127.0.0.1", port), LIMIT_S) as client:
        client.sendall(b"hello")
        far, _ = server.accept()
        with far:
            far.settimeout(LIMIT_S)
            assert far.recv(16) == b"hello"
            far.sendall(b"hi")
            assert client.recv(16) == b"hi"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=LIMIT_S)

    counts = json.loads(out)
    assert (child.returncode, "Traceback" in err) == (0, False)
    assert (counts["connections"], counts["bytes_up"], counts["bytes_down"]) == (1, 5, 2)


def test_faults_of_file_and_flags_happen(server: socket.socket, tmp_path: Path) -> None:
    """A script and flags together; it ends by itself after --seconds."""
    script = tmp_path / "faults.yaml"
    script.write_text("faults: [at 0s cut for 100ms]\n")

    child, port = started(
        server, "--script", str(script), "--cut", "at 0 for 30", "--seconds", "1", "--json"
    )
    with (
        socket.create_connection(("127.0.0.1", port), LIMIT_S) as client,
        contextlib.suppress(ConnectionResetError),
    ):
        assert client.recv(1) == b""
    out, _ = child.communicate(timeout=LIMIT_S)

    assert child.returncode == 0
    assert json.loads(out)["connections"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--to", "10.0.0.7:1883"], "loopback"),
        (["--to", "nowhere"], "HOST:PORT"),
        (["--drop", "7"], "a share from 0 to 1"),
        (["--cut", "sometimes"], "begins with at, every or by chance"),
        (["--truncate", "0.1"], "--packets"),
        (["--script", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_usage_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and a message with what was expected."""
    code = main(["simulate", "link", *words])

    assert (code, says in capsys.readouterr().err) == (2, True)
