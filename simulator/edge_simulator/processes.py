"""Child processes of a simulation, ended by their own process id and nothing else."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from edge_runtime.errors import SourceError
from edge_simulator.control import Channel, listen, reader

__all__ = ["Child", "ChildProcess", "DeviceProcess", "DrivenProcess", "Mortal", "Spawn"]

_START_S = 30.0
_STOP_S = 20.0


class Mortal(Protocol):
    """A process that is started, and may be killed."""

    @property
    def pid(self) -> int | None:
        """Process id of the present or last one."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        ...

    def start(self) -> None:
        """Start it."""
        ...

    def kill(self) -> None:
        """Send SIGKILL; returns when it is gone."""
        ...


class Child(Mortal, Protocol):
    """A process that was started here: a `ChildProcess`, or a `ForkedChild`."""

    def join(self, timeout_s: float = ...) -> int | None:
        """Wait for its end; SIGKILL after ``timeout_s``. Returns the exit code."""
        ...

    def last_words(self, lines: int = ...) -> str:
        """Return the end of its log, for a message."""
        ...


Spawn = Callable[[Sequence[str], Path], Child]
"""Makes a child of arguments and a log file; nothing is started yet."""


class ChildProcess:
    """One child with a log file.

    Args:
        command: Arguments after the Python executable.
        log_path: Takes standard output and error, appended.
    """

    def __init__(self, command: Sequence[str], log_path: Path) -> None:
        self.log_path = log_path
        self._command = [sys.executable, *command]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the present or last child."""
        return self._process.pid if self._process else None

    @property
    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it in a session of its own: Ctrl-C reaches the driver alone."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Send SIGKILL, as a power cut would; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_s: float = _STOP_S) -> int | None:
        """Send SIGTERM and wait; SIGKILL after ``timeout_s``. Returns the exit code."""
        if self._process is None:
            return None
        if self.is_alive:
            self._process.terminate()
        return self.join(timeout_s)

    def join(self, timeout_s: float = _STOP_S) -> int | None:
        """Wait for its end; SIGKILL after ``timeout_s``. Returns the exit code."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def last_words(self, lines: int = 8) -> str:
        """Return the end of its log, for a message."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


class DrivenProcess:
    """A child with a control channel to it.

    Everything it tells is kept as the latest facts per stream and handed to
    ``on_event`` on the channel's reader thread. All other methods belong to
    the driver's thread.

    Args:
        log_path: Takes its log.
        on_event: Called with every event; must be quick.
        spawn: Makes the child.
    """

    def __init__(
        self,
        log_path: Path,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda _event, _facts: None,
        spawn: Spawn = ChildProcess,
    ) -> None:
        self._log_path = log_path
        self._on_event = on_event
        self._spawn = spawn
        self._channel: Channel | None = None
        self._child: Child | None = None
        self._changed = threading.Condition()
        self._facts: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._is_calling = False
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Process id of the present or last child."""
        return self._child.pid if self._child else None

    @property
    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self._child is not None and self._child.is_alive

    def start(self, command: Sequence[str]) -> None:
        """Start it with ``--control`` and take its call.

        Args:
            command: Arguments after the Python executable.

        Raises:
            SourceError: It ends, or does not call, within 30 s; its last words are shown.
        """
        with listen() as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            self._child = self._spawn([*command, "--control", address], self._log_path)
            self._child.start()
            self._channel = Channel(self._accept(server, self._child))
        self.starts += 1
        self._is_calling = True
        reader(self._channel, self._take, self._end)

    def send(self, message: Mapping[str, object]) -> None:
        """Tell it something; nothing while it is down."""
        if self._channel is not None:
            self._channel.send(message)

    def kill(self) -> None:
        """SIGKILL by its process id; nothing is flushed."""
        if self._child is not None:
            self._child.kill()
        self._hang_up()

    def stop(self, timeout_s: float = _STOP_S) -> int | None:
        """End it cleanly and return its exit code."""
        if self._child is None:
            return None
        if self.is_alive:
            self.send({"stop": True})
        code = self._child.join(timeout_s)
        self._hang_up()
        return code

    def join(self, timeout_s: float = _STOP_S) -> int | None:
        """Wait for its end and return its exit code; negative for a signal."""
        return self._child.join(timeout_s) if self._child else None

    def latest(self, event: str, stream: str = "") -> Mapping[str, Any]:
        """Return the newest facts of one event (and stream); empty when there are none."""
        with self._changed:
            return self._facts.get((event, stream), {})

    def wait_for(self, is_true: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something it told makes ``is_true``; False after ``timeout_s`` or its end."""
        with self._changed:
            self._changed.wait_for(lambda: is_true() or not self._is_calling, timeout_s)
            return is_true()

    def last_words(self) -> str:
        """Return the end of its log."""
        return self._child.last_words() if self._child else ""

    def _accept(self, server: socket.socket, child: Child) -> socket.socket:
        server.settimeout(0.2)
        for _attempt in range(round(_START_S / 0.2)):
            try:
                connection, _address = server.accept()
            except TimeoutError:
                if not child.is_alive:
                    break
                continue
            connection.settimeout(None)
            return connection
        child.kill()
        raise SourceError(
            f"the process does not start:\n{child.last_words()}",
            where=str(self._log_path),
            expected=f"a call on the control channel within {_START_S:g} s",
            remedy="Its log has the whole story.",
        )

    def _take(self, line: dict[str, Any]) -> None:
        event = str(line.pop("event", ""))
        with self._changed:
            self._facts[event, str(line.get("stream", ""))] = line
            self._changed.notify_all()
        self._on_event(event, line)

    def _end(self) -> None:
        with self._changed:
            self._is_calling = False
            self._changed.notify_all()

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class DeviceProcess:
    """A real device as a child, with its control channel, see `DrivenProcess`.

    What it was told about samples, clock and disk it is told again at every start.

    Args:
        config: Device YAML.
        log_path: Takes its log.
        on_event: Called with every event; must be quick.
        spawn: Makes the child.
    """

    def __init__(
        self,
        config: Path,
        log_path: Path,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda _event, _facts: None,
        spawn: Spawn = ChildProcess,
    ) -> None:
        self._config = config
        self._process = DrivenProcess(log_path, on_event, spawn)
        self._released: dict[str, int] = {}
        self._clock_s = 0.0
        self._is_disk_full = False
        # What it told in an earlier life.
        self._before: Mapping[str, Any] = {}
        self.send, self.kill = self._process.send, self._process.kill
        self.stop, self.join = self._process.stop, self._process.join
        self.latest = self._process.latest
        self.wait_for, self.last_words = self._process.wait_for, self._process.last_words

    @property
    def pid(self) -> int | None:
        """Process id of the present or last child."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self._process.is_alive

    @property
    def starts(self) -> int:
        """Times it was started."""
        return self._process.starts

    def start(self) -> None:
        """Start it and take its call; what was released before is released again.

        A disk that is full is full again once the device has come up: its own files
        leave it the little room that opening them takes.

        Raises:
            SourceError: It ends, or does not call, within 30 s; its last words are shown.
        """
        self._before = self.latest("status")
        command = ["-m", "edge_simulator.device", str(self._config)]
        self._process.start([*command, "--clock-s", repr(self._clock_s)])
        if self._is_disk_full:
            self.wait_for(self._is_up, _START_S)
            self.send({"disk_full": True})
        self.release(self._released)

    def release(self, upto: Mapping[str, int]) -> None:
        """Let samples below ``upto`` of each stream pass."""
        self._released |= upto
        if self._released:
            self.send({"release": dict(upto)})

    def set_clock(self, ahead_s: float) -> None:
        """Set its wall clock so far ahead of this machine's, now and at every start."""
        self._clock_s = ahead_s
        self.send({"clock_s": ahead_s})

    def set_disk(self, *, is_full: bool) -> None:
        """Leave no room on its disk, or give it back, now and after every start."""
        self._is_disk_full = is_full
        self.send({"disk_full": is_full})

    def ask(self, timeout_s: float = 2.0) -> Mapping[str, Any]:
        """Return its status as of now, or the latest it told if it does not answer."""
        before = self.latest("status")
        if self.is_alive:
            self.send({"status": True})
            self.wait_for(lambda: self.latest("status") is not before, timeout_s)
        return self.latest("status")

    def status(self) -> Mapping[str, Any]:
        """Return the latest status of its present life; empty before the first."""
        status = self.latest("status")
        return {} if status is self._before else status

    def has_full_disk(self) -> bool:
        """Whether it has no room at present."""
        return self._is_disk_full

    def _is_up(self) -> bool:
        """Whether it has a base in every stream."""
        status = self.status()
        return bool(status) and all(each["base"] for each in status["streams"].values())
