"""``edge-runtime serve`` as a program: it starts, withstands a crowd, and ends when asked."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.cli import main

BUNDLE = Path(__file__).resolve().parents[3] / "examples/gas_turbine/bundles/turbine-nox-1.0.0"
PATIENCE_S = 60.0
CROWD = 10_000
ROOM_MB = 96


class Program:
    """The command as a process of its own, from its first line on."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "edge_runtime.cli", "serve", *arguments, "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        self.hello = json.loads(self.process.stdout.readline())
        self.port = int(self.hello["url"].rpartition(":")[2])

    def get(self, path: str) -> tuple[int, bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(link):
            link.request("GET", path)
            response = link.getresponse()
            return response.status, response.read()

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    def end(self, number: int = signal.SIGTERM) -> tuple[int, dict[str, Any]]:
        """Ask it to end; return its exit code and its last line."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, json.loads(out.splitlines()[-1])


@pytest.fixture
def program() -> Iterator[Program]:
    """Serve the gas turbine on a free port."""
    pytest.importorskip("httptools")
    pytest.importorskip("ai_edge_litert")
    running = Program(str(BUNDLE), "--port", "0")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_asked_to_end(program: Program, number: int) -> None:
    """The first line says where it listens; both signals end it with code 0."""
    status, body = program.get("/v2/models/turbine-nox")

    code, last = program.end(number)

    assert program.hello["models"] == ["turbine-nox@1.0.0"]
    assert (status, json.loads(body)["versions"]) == (200, ["1.0.0"])
    assert (code, last) == (0, {"event": "ended", "answered": 0})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_crowd_that_connects_and_leaves_it_there_keeps_nobody_out(program: Program) -> None:
    """10,000 open connections: others are served, memory is bounded, the end is quick."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    crowd = CROWD if hard == resource.RLIM_INFINITY else min(CROWD, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, crowd + 200), hard))
    before_mb = program.rss_mb()
    with contextlib.ExitStack() as stack:
        for _ in range(crowd):
            address = "127.0.0.1", program.port
            stack.enter_context(socket.create_connection(address, PATIENCE_S))

        status, metrics = program.get("/metrics")
        grown_mb = program.rss_mb() - before_mb
        code, _ = program.end()

    opened, left = (
        int(re.search(rf"^{name} (\d+)", metrics.decode(), re.M)[1])  # type: ignore[index]
        for name in ("connections_opened_total", "connections_open")
    )
    assert (status, code) == (200, 0)
    assert opened > crowd
    assert left <= 4096
    assert grown_mb < ROOM_MB


def test_help_and_wrong_use_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to serve, half of a certificate, an address for everybody: code 2 and a remedy."""
    bundle = str(BUNDLE)
    wrong = {
        "there is no model": [],
        "--tls-cert and --tls-key": [bundle, "--tls-cert", "c.pem"],
        "everybody who reaches": [bundle, "--host", "0.0.0.0"],  # noqa: S104
        "--port is 70000": [bundle, "--port", "70000"],
        "which is no file": [bundle, "--token-file", str(tmp_path / "none")],
    }

    codes = {words: main(["serve", *arguments]) for words, arguments in wrong.items()}

    told = capsys.readouterr().err
    assert set(codes.values()) == {2}
    assert all(words in told for words in wrong)


def test_a_bundle_that_is_none_ends_the_start(tmp_path: Path) -> None:
    """Code 1, as everywhere."""
    pytest.importorskip("httptools")

    assert main(["serve", str(tmp_path), "--port", "0"]) == 1


def test_nothing_of_the_server_is_imported_by_other_verbs() -> None:
    """A device pays for a server only when it serves."""
    script = (
        "import sys\n"
        "from edge_runtime.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print([one for one in ('httptools', 'asyncio', 'ssl') if one in sys.modules])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"
