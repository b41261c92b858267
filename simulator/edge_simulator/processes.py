"""Child processes of a simulation, ended by their own process id and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.errors import SourceError
from edge_simulator.control import Channel, listen, reader

__all__ = ["ChildProcess", "DeviceProcess"]

_START_S = 30.0
_STOP_S = 20.0


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


class DeviceProcess:
    """A real device as a child, with its control channel.

    Everything it tells is kept as the latest facts per stream and handed to
    ``on_event`` on the channel's reader thread. All other methods belong to
    the driver's thread.

    Args:
        config: Device YAML.
        log_path: Takes its log.
        on_event: Called with every event; must be quick.
    """

    def __init__(
        self,
        config: Path,
        log_path: Path,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda _event, _facts: None,
    ) -> None:
        self._config = config
        self._log_path = log_path
        self._on_event = on_event
        self._released: dict[str, int] = {}
        self._channel: Channel | None = None
        self._child: ChildProcess | None = None
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

    def start(self) -> None:
        """Start it and take its call; what was released before is released again.

        Raises:
            SourceError: It ends, or does not call, within 30 s; its last words are shown.
        """
        with listen() as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            command = ["-m", "edge_simulator.device", str(self._config), "--control", address]
            self._child = ChildProcess(command, self._log_path)
            self._child.start()
            self._channel = Channel(self._accept(server, self._child))
        self.starts += 1
        self._is_calling = True
        reader(self._channel, self._take, self._end)
        self.release(self._released)

    def release(self, upto: Mapping[str, int]) -> None:
        """Let samples below ``upto`` of each stream pass."""
        self._released |= upto
        if self._channel is not None and self._released:
            self._channel.send({"release": dict(upto)})

    def ask(self, timeout_s: float = 2.0) -> Mapping[str, Any]:
        """Return its status as of now, or the latest it told if it does not answer."""
        before = self.latest("status")
        if self._channel is not None:
            self._channel.send({"status": True})
            self.wait_for(lambda: self._facts.get(("status", "")) is not before, timeout_s)
        return self.latest("status")

    def kill(self) -> None:
        """SIGKILL by its process id; nothing is flushed."""
        if self._child is not None and self._child.pid is not None:
            os.kill(self._child.pid, signal.SIGKILL)
            self._child.join()
        self._hang_up()

    def stop(self, timeout_s: float = _STOP_S) -> int | None:
        """End it cleanly and return its exit code."""
        if self._child is None:
            return None
        if self._channel is not None and self.is_alive:
            self._channel.send({"stop": True})
        code = self._child.join(timeout_s)
        self._hang_up()
        return code

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

    def _accept(self, server: socket.socket, child: ChildProcess) -> socket.socket:
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
            f"the device does not start:\n{child.last_words()}",
            where=str(self._config),
            expected=f"a call on the control channel within {_START_S:g} s",
            remedy=f"Its log is {self._log_path}.",
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
