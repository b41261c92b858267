"""A real device process to look at from outside: `edge-runtime run`, a broker, a recording."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cases
import msgspec
import numpy as np
from cases import KWS
from results import Skipped

import edge_runtime
from edge_runtime.errors import MissingExtra
from edge_simulator.broker import Broker, choose_broker

__all__ = [
    "Broker",
    "Device",
    "Usage",
    "broker",
    "device_yaml",
    "installed",
    "usage_of",
    "wait_for",
]

_WAIT_S = 60.0
_LOOK_S = 0.05


class Usage(msgspec.Struct, frozen=True):
    """What a device's processes have used so far.

    Attributes:
        cpu_ns: Processor time of all threads.
        switches: Voluntary context switches: how often a thread went to sleep.
        at_ns: When this was read.
    """

    cpu_ns: int
    switches: int
    at_ns: int


@functools.cache
def installed() -> dict[str, str]:
    """Return an environment in which our modules are byte code, as pip leaves them.

    Whoever develops may have told Python to write none, and then every start of ours
    would compile our modules and none of a library's.
    """
    told = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    package = Path(edge_runtime.__file__).parent
    command = [sys.executable, "-m", "compileall", "-q", str(package)]
    subprocess.run(command, env=told, check=True)
    return told


class Device:
    """`edge-runtime run CONFIG --stay` as a child, ended by its own process id.

    Args:
        config: Device YAML.
        link: The broker that it names.
    """

    def __init__(self, config: Path, link: Broker) -> None:
        self._port = link.port
        self._state = config.parent / "state"
        self._log = config.parent / "device.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.cli", "run", str(config), "--stay"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=installed(),
            )

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_for(self, position: int, streams: Sequence[str] = ("main",)) -> None:
        """Wait until it is connected and every stream has committed the samples below."""
        wait_for(lambda: self._has_reached(position, streams), self._last_words)
        wait_for(self._is_connected, self._last_words)

    def rss_mb(self) -> float:
        """Return the resident memory of the process that serves, MB."""
        return _kilobytes(self._serving_pid(), "VmRSS") / 1024

    def usage(self) -> Usage:
        """Return what the process and its children have used."""
        return usage_of(self._process.pid)

    def _serving_pid(self) -> int:
        """Return whoever has the outbox open: under a supervisor it is a child."""
        for pid in _tree(self._process.pid):
            files = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
            if any(name.endswith("outbox.db") for name in files):
                return pid
        raise RuntimeError(f"no process has the outbox open: {self._last_words()}")

    def _has_reached(self, position: int, streams: Sequence[str]) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"the device ended: {self._last_words()}")
        try:
            address = f"file:{self._state / 'outbox.db'}?mode=ro"
            with sqlite3.connect(address, uri=True) as database:
                found = dict(database.execute("SELECT source, position FROM resume").fetchall())
        except sqlite3.Error:
            return False
        return all(found.get(stream, -1) >= position for stream in streams)

    def _is_connected(self) -> bool:
        """Whether the kernel has an established connection (state 01) to the broker's port."""
        lines = Path(f"/proc/{self._serving_pid()}/net/tcp").read_text().splitlines()[1:]
        links = [(fields[2], fields[3]) for fields in map(str.split, lines)]
        return any(
            remote.endswith(f":{self._port:04X}") and state == "01" for remote, state in links
        )

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "it said nothing"


def broker(folder: Path) -> Broker:
    """Return a broker on loopback, not started yet.

    Raises:
        Skipped: None is installed.
    """
    try:
        return Broker(choose_broker(), folder / "broker")
    except MissingExtra as error:
        raise Skipped(str(error)) from error


def device_yaml(
    folder: Path,
    link: Broker,
    *,
    backend: str = "litert",
    windows: int = 500,
    streams: Sequence[str] = ("main",),
    pause_s: float = 0.0,
) -> Path:
    """Write a device on the keyword model, its bundle and its recording.

    Args:
        folder: Where to.
        link: The broker, running.
        backend: Model runtime.
        windows: Length of the recording.
        streams: Names of the streams; all have the same model and recording.
        pause_s: Seconds of silence before one more sample at the end, in real time.
    """
    real, _ = cases.keyword_features(windows)
    KWS.save(folder / "bundle", real[:4], backend)
    samples = real.reshape(-1, real.shape[-1])
    time_ns = np.arange(len(samples), dtype=np.int64) * KWS.spec.stream.period_ns
    if pause_s:
        samples = np.concatenate((samples, samples[:1]))
        time_ns = np.append(time_ns, time_ns[-1] + round(pause_s * 1e9))
    np.savez(folder / "recording.npz", samples=samples, time_ns=time_ns)
    source = {
        "kind": "npz",
        "path": "recording.npz",
        "array": "samples",
        "time": {"column": "time_ns", "format": "unix_ns"},
        "block": 49,
        "speed": 1 if pause_s else "max",
    }
    stream = {"source": source, "model": {"bundle": "bundle", "backend": backend}}
    content: dict[str, Any] = {
        "schema": 1,
        "device": "bench-1",
        "state": "state",
        "streams": dict.fromkeys(streams, stream),
        "sync": {"host": link.host, "port": link.port, "protocol": link.protocol},
    }
    path = folder / "device.yaml"
    # JSON is YAML, and no quoting can go wrong.
    path.write_text(json.dumps(content, indent=2))
    return path


def usage_of(pid: int) -> Usage:
    """Return what a process and everything it has started have used."""
    cpu_ns = switches = 0
    for one in _tree(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            cpu_ns += int((task / "schedstat").read_text().split()[0])
            found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", _status(task), re.M)
            switches += int(found[1]) if found else 0
    return Usage(cpu_ns, switches, time.monotonic_ns())


def wait_for(is_done: Callable[[], bool], last_words: Callable[[], str]) -> None:
    """Look every 50 ms; complain after a minute."""
    deadline = time.monotonic() + _WAIT_S
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing after {_WAIT_S:g} s: {last_words()}")
        time.sleep(_LOOK_S)


def _tree(pid: int) -> list[int]:
    """Return a process and everything it has started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _kilobytes(pid: int, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+)", _status(Path(f"/proc/{pid}")), re.M)
    return int(found[1]) if found else 0


def _status(folder: Path) -> str:
    return (folder / "status").read_text()
