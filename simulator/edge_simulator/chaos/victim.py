"""Processes that are killed and started again."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from edge_runtime.errors import SourceError
from edge_simulator.broker import Broker
from edge_simulator.chaos.plan import Kill
from edge_simulator.processes import DrivenProcess, Mortal, Spawn

__all__ = ["BrokerProcess", "IngestProcess", "Killable", "Victim"]

_NO_FUSE = Kill(0.0, "")


class Killable(Mortal, Protocol):
    """A process that may end at any instant: a `DeviceProcess` and its like."""

    def join(self) -> int | None:
        """Wait for its end and return its exit code; negative for a signal."""
        ...

    def send(self, message: Mapping[str, object]) -> None:
        """Tell it something over its control channel, if it has one."""
        ...


class IngestProcess:
    """A real ingest as a child; a `Killable`.

    Args:
        config: Cloud YAML.
        log_path: Takes its log.
        spawn: Makes the child.
        member: Which of several that share the rows; None for the only one.
    """

    def __init__(
        self, config: Path, log_path: Path, spawn: Spawn, member: int | None = None
    ) -> None:
        self._config = config
        self._member = [] if member is None else ["--member", str(member)]
        self._process = DrivenProcess(log_path, spawn=spawn)
        self.send, self.kill = self._process.send, self._process.kill
        self.stop, self.join = self._process.stop, self._process.join

    @property
    def pid(self) -> int | None:
        """Process id of the present or last child."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self._process.is_alive

    def start(self) -> None:
        """Start it and take its call."""
        self._process.start(["-m", "edge_simulator.ingest", str(self._config), *self._member])


class BrokerProcess:
    """A broker that keeps its port; a `Killable`.

    Args:
        broker: Has been started once.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.kill = broker.kill

    @property
    def pid(self) -> int | None:
        """Process id of the present or last one."""
        return self._broker.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._broker.is_alive

    def start(self) -> None:
        """Start it again on its port; nothing if it runs."""
        if not self._broker.is_alive:
            self._broker.restart()

    def join(self) -> int | None:
        """Return nothing: it passes no step that it could end at."""
        return None

    def send(self, message: Mapping[str, object]) -> None:
        """Tell it nothing."""


class Victim:
    """One process and its kills; used by one thread.

    Args:
        name: Its name.
        process: What is killed.
        may_end: Whether it may end by itself at present, as one that starts on a full disk.

    Attributes:
        name: Its name.
        process: What is killed.
        starts: Times it was started.
        ends: Times it has ended by itself when it might.
        fuses: Kills at steps that have not happened yet, in their order.
        doused: Kills at steps that were called off.
        kills: Kills that have happened, in their order.
    """

    def __init__(
        self, name: str, process: Killable, may_end: Callable[[], bool] = lambda: False
    ) -> None:
        self.name = name
        self.process = process
        self.starts = self.ends = 0
        self.fuses: deque[Kill] = deque()
        self.doused: deque[Kill] = deque()
        self.kills: list[Kill] = []
        self._may_end = may_end
        self._is_down = True

    def start(self) -> None:
        """Start it, with the fuse that is due."""
        self.process.start()
        self.starts += 1
        self._is_down = False
        self._light()

    def kill(self, kill: Kill) -> None:
        """Kill it now; nothing if it is down already."""
        if self.process.is_alive:
            self._end(kill)

    def light(self, kill: Kill) -> None:
        """Have it end at a step, after all fuses before."""
        self.fuses.append(kill)
        if len(self.fuses) == 1:
            self._light()

    def douse(self) -> None:
        """Put out every fuse that is left."""
        self.doused += self.fuses
        self.fuses.clear()
        self._set_fuse(_NO_FUSE)

    def look(self) -> bool:
        """Whether it runs; an end by its fuse is noted.

        Raises:
            SourceError: It has ended, and not by a fuse.
        """
        if self.process.is_alive:
            return True
        if not self._is_down:
            self._note_end()
        return False

    def _note_end(self) -> None:
        code = self.process.join()
        # One that was put out may have been faster.
        fuses = self.fuses or self.doused
        if code == -signal.SIGKILL and fuses:
            self._end(fuses.popleft())
        elif code == 1 and self._may_end():
            self._is_down = True
            self.ends += 1
        else:
            raise self._surprise(code)

    def _end(self, kill: Kill) -> None:
        self.process.kill()
        self._is_down = True
        self.kills.append(kill)

    def _light(self) -> None:
        if self.fuses:
            self._set_fuse(self.fuses[0])

    def _set_fuse(self, kill: Kill) -> None:
        if self.process.is_alive:
            self.process.send({"fuse": [kill.step, kill.passings]})

    def _surprise(self, code: int | None) -> SourceError:
        return SourceError(
            f"{self.name} has ended by itself, with code {code}",
            where="chaos",
            expected="processes that only end when they are killed",
            remedy="Its log has the whole story; --out keeps it.",
        )
