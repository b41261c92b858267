"""Children that start at once: forked from a process that has imported everything before.

A device process spends most of its start on imports. Where hundreds are killed and
started, a server process that has them already is forked instead
(https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods).
From the fork on a child is an ordinary process: own memory, own session, own log.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

__all__ = ["ForkedChild"]

_STOP_S = 20.0
_PRELOADED = [
    "edge_simulator.device",
    "edge_simulator.ingest",
    "edge_runtime.backends.reference",
    "edge_runtime.sources.npz",
    "edge_runtime.modes.updates",
    "paho.mqtt.client",
    "paho.mqtt.properties",
    "pyarrow.parquet",
]


class ForkedChild:
    """The twin of `ChildProcess` for modules with a ``main(arguments)``.

    Args:
        command: ``-m``, the module, and its arguments.
        log_path: Takes standard output and error, appended.
    """

    def __init__(self, command: Sequence[str], log_path: Path) -> None:
        self.log_path = log_path
        _, self._module, *self._arguments = command
        self._process: ForkServerProcess | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the present or last child."""
        return self._process.pid if self._process else None

    @property
    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        """Fork it."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        process = context.Process(
            target=_run, args=(self._module, self._arguments, str(self.log_path))
        )
        process.start()
        self._process = process

    def kill(self) -> None:
        """Send SIGKILL, as a power cut would; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def stop(self, timeout_s: float = _STOP_S) -> int | None:
        """Send SIGTERM and wait; SIGKILL after ``timeout_s``. Returns the exit code."""
        if self.is_alive and self._process is not None:
            self._process.terminate()
        return self.join(timeout_s)

    def join(self, timeout_s: float = _STOP_S) -> int | None:
        """Wait for its end; SIGKILL after ``timeout_s``. Returns the exit code."""
        if self._process is None:
            return None
        self._process.join(timeout_s)
        if self._process.is_alive():
            self.kill()
        return self._process.exitcode

    def last_words(self, lines: int = 8) -> str:
        """Return the end of its log, for a message."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def _run(module: str, arguments: Sequence[str], log_path: str) -> None:
    """Be that program."""
    # Ctrl-C reaches the driver alone.
    os.setsid()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    sys.exit(importlib.import_module(module).main(arguments))
