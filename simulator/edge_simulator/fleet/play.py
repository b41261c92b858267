"""Plays a fleet at a speed, in either way of running, while somebody may watch and interfere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge_simulator.fleet.engine import Engine
from edge_simulator.fleet.faults import Troubles
from edge_simulator.fleet.ledger import Ledger
from edge_simulator.fleet.load import Fault, Fleet
from edge_simulator.fleet.pace import Pacer
from edge_simulator.fleet.processes import Processes
from edge_simulator.fleet.result import Journal, Result

__all__ = ["Running", "pacer_of", "play", "running_of"]

_TICK_S = 0.02


class Running(Protocol):
    """A fleet that runs; `Engine` or `Processes`."""

    fleet: Fleet
    ledger: Ledger
    journal: Journal
    troubles: dict[str, Troubles]

    @property
    def elapsed_ns(self) -> int:
        """Simulated time so far."""
        ...

    def start(self) -> None:
        """Switch everything on."""
        ...

    def advance(self, upto_ns: int) -> bool:
        """Let something happen that is due by ``upto_ns``; False if nothing more is."""
        ...

    def pid_of(self, device: str) -> int | None:
        """Return the id of a device's process; None if it has none of its own."""
        ...

    def toggle(self, device: str, fault: Fault) -> None:
        """Let a fault begin or end by hand."""
        ...

    def finish(self) -> Result:
        """Take stock."""
        ...

    def close(self) -> None:
        """End everything."""
        ...


def running_of(fleet: Fleet, folder: Path) -> Running:
    """Return the way of running that the fleet asks for; nothing is started yet."""
    return Engine(fleet, folder) if fleet.mode == "fast" else Processes(fleet, folder)


def pacer_of(fleet: Fleet) -> Pacer:
    """Return the fleet's speed; by default nothing waits, or processes run in real time."""
    if fleet.speed is None:
        return Pacer(None if fleet.mode == "fast" else 1.0)
    return Pacer(None if fleet.speed == "max" else fleet.speed)


def play(
    running: Running, pacer: Pacer, on_step: Callable[[int], object] = lambda _elapsed_ns: None
) -> Result:
    """Run a fleet to its end, and close it whatever happens.

    Args:
        running: Not started yet.
        pacer: How fast; may be changed meanwhile.
        on_step: Called again and again with the simulated time so far, ns; may stop by raising.

    Raises:
        EdgeError: Something does not start, or ends by itself.
    """
    try:
        running.start()
        pacer.set(pacer.speed, 0)
        while _advance(running, pacer):
            on_step(running.elapsed_ns)
        return running.finish()
    finally:
        running.close()


def _advance(running: Running, pacer: Pacer) -> bool:
    """Go on to where simulated time is now; False at the end."""
    end_ns = running.fleet.duration_ns
    upto_ns = pacer.reached_ns(end_ns)
    if running.advance(upto_ns):
        return True
    if upto_ns >= end_ns and not pacer.is_paused:
        return False
    time.sleep(_TICK_S)
    return True
