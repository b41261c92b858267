"""The commands of the page about Mosquitto with TLS are typed as they stand there."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_simulator.broker import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/howto/mosquitto-with-tls.md").read_text()
PATIENCE_S = 60.0
DEVICE = f"""\
device: pump-1
state: state
streams:
  main:
    source:
      kind: csv
      path: {ROOT}/examples/gas_turbine/gas_turbine_2011_2015.csv
      time: {{start: 2011-01-01T00:00:00Z, step_s: 3600}}
      speed: 36000
    model: {{bundle: {ROOT}/examples/gas_turbine/bundles/turbine-nox-1.0.0}}
"""

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]


class Machine:
    """A folder that stands for the Pi: names, paths and ports of the page lead into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "etc/mosquitto").mkdir(parents=True)
        (folder / "etc/mosquitto/mosquitto.conf").write_text("# as the package brings it\n")
        (folder / "var").mkdir()
        self._words = {
            "broker.example": "localhost",
            "/etc/mosquitto": f"{folder}/etc/mosquitto",
            "/var/lib/mosquitto": f"{folder}/var",
            "8883": str(free_port()),
            "8443": str(free_port()),
            "sudo ": "",
            "0123456789abcdef0123456789abcdef": "s-1",
        }
        self._token = ""
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
        }
        if os.geteuid() == 0 and _is_there("mosquitto"):
            shutil.chown(folder / "var", "mosquitto")
        else:
            self._words["chown -R mosquitto:"] = "chown -R :"

    def here(self, text: str) -> str:
        """Return a text of the page as it is true on this machine."""
        for word, instead in self._words.items():
            text = text.replace(word, instead)
        return text.replace("er1.…", self._token)

    def cloud(self, text: str) -> str:
        """Return the cloud's YAML, with a port for enrolment that is free here."""
        return self.here(text).replace("{names", f"{{port: {self._words['8443']}, names")

    def type(self, line: str) -> str:
        """Run one line and return what it prints."""
        match self.here(line):
            case "apt install mosquitto" | "cat /etc/machine-id":
                return ""
            case "systemctl restart mosquitto":
                self._stop("mosquitto")
                config = self.folder / "etc/mosquitto/mosquitto.conf"
                self._start("mosquitto", "mosquitto", "-c", str(config))
                self._wait_for_port(self._words["8883"])
            case "systemctl reload mosquitto":
                self._running["mosquitto"].send_signal(signal.SIGHUP)
            case command if re.search("edge-runtime (cloud up|run) ", command):
                self._start(command, *shlex.split(command))
                if "cloud up" in command:
                    self._wait_for_port(self._words["8443"])
            case command:
                return self._printed(command)
        return ""

    def _printed(self, command: str) -> str:
        if "edge-runtime device enroll" in command:
            command += " --serial s-1"
        if "edge-runtime broker-config" in command:
            command += f" --port {self._words['8883']}"
        ended = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self._environment, capture_output=True,
            text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
        if token := re.search(r"er1\.\S+", ended.stdout):
            self._token = token[0]
        return ended.stdout

    def device(self) -> dict[str, object]:
        listed = json.loads(self._printed("edge-runtime cloud devices list cloud.yaml --json"))
        return listed[0] if listed else {}

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )

    def _wait_for_port(self, port: str) -> None:
        def answers() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", int(port)), 1).close()
                return True
            return False

        wait_until(answers)

    def _stop(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            process.terminate()
            process.wait(PATIENCE_S)

    def stop(self) -> None:
        for name in reversed(list(self._running)):
            self._stop(name)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def _is_there(user: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A folder that the broker's own user can reach, as it can /etc."""
    if shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("mosquitto is not installed")
    with tempfile.TemporaryDirectory(prefix="howto-") as folder:
        Path(folder).chmod(0o755)
        machine = Machine(Path(folder))
        try:
            yield machine
        finally:
            machine.stop()
            # Shown by pytest if the test fails.
            sys.stdout.write((machine.folder / "log").read_text())


def test_the_page_works_as_it_is_written(machine: Machine) -> None:
    """From the authority to a stolen device, each block of the page does what is said below it."""
    cloud, sync, *_ = blocks("yaml")
    (machine.folder / "cloud.yaml").write_text(machine.cloud(cloud))
    (machine.folder / "pump-1.yaml").write_text(DEVICE + machine.here(sync))
    typed = [line for block in blocks("sh") for line in block.splitlines()]
    joined = next(i for i, line in enumerate(typed) if "edge-runtime run" in line)

    for line in typed[: joined + 1]:
        machine.type(line)
    wait_until(lambda: machine.device().get("is_online") is True)
    assert machine.device()["state"] == "active"

    for line in typed[joined + 1 :]:
        machine.type(line)

    assert machine.device()["state"] == "revoked"
    served = machine.folder / "etc/mosquitto/edge-runtime"
    assert "user pump-1\ntopic deny #" in (served / "acl").read_text()
