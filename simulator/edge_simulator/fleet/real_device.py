"""One device of a fleet as a process of its own, with everything that faults do to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.clock import SystemClock
from edge_runtime.config import DeviceConfig, SyncConfig, dump_yaml
from edge_runtime.errors import SourceError
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import StateStore
from edge_simulator.fleet.ledger import Heap, waiting_rows
from edge_simulator.fleet.load import Fault, Member
from edge_simulator.link import LinkProxy
from edge_simulator.processes import DeviceProcess

__all__ = ["RealDevice"]


class RealDevice:
    """A device process, its files and its line; a `Patient`.

    Args:
        member: What it is.
        folder: Of the fleet; its file and what it keeps are in ``devices``.
        line: To the broker; stays open when the device ends.
        protocol: What the broker speaks.
        hear: Called with its name and what it tells, on a thread of the process.
        offer: Called with an update fault and its name.

    Attributes:
        member: What it is.
        process: The process itself.
    """

    def __init__(
        self,
        member: Member,
        folder: Path,
        line: LinkProxy,
        protocol: str,
        hear: Callable[[str, str, Mapping[str, Any]], None],
        offer: Callable[[Fault, str], None],
    ) -> None:
        self.member = member
        self._line = line
        self._config = folder / "devices" / f"{member.name}.yaml"
        self._log = folder / "logs" / f"{member.name}.log"
        self._state = folder / "devices" / member.name
        self._protocol = protocol
        self._offer = offer
        self._sensor: int | None = None
        self._ahead_s = 0.0
        self._released: dict[str, int] = {}
        self.process = DeviceProcess(self._config, self._log, partial(hear, member.name))

    @property
    def line(self) -> LinkProxy:
        """Its way to the broker."""
        return self._line

    def start(self) -> None:
        """Write its file and start it."""
        sensors = self.member.sensors
        config = self.member.config if self._sensor is None else sensors[self._sensor]
        self._config.write_text(dump_yaml(self._document(config)))
        self.process.start()

    def stop(self) -> None:
        """End it cleanly."""
        self.process.stop()

    def _document(self, config: DeviceConfig) -> dict[str, Any]:
        sync = msgspec.structs.replace(
            config.sync or SyncConfig(), port=self._line.port, protocol=self._protocol
        )
        here = msgspec.structs.replace(config, state=self._state, sync=sync, origin=None)
        document: dict[str, Any] = msgspec.to_builtins(here, enc_hook=str)
        del document["origin"]
        return document

    def release_due(self, elapsed_ns: int) -> None:
        """Let the samples pass that have come so long after the start."""
        self.release({name: feed.due(elapsed_ns) for name, feed in self.member.feeds.items()})

    def release(self, upto: Mapping[str, int]) -> None:
        """Let the samples below ``upto`` of each stream pass."""
        fresh = {name: index for name, index in upto.items() if index != self._released.get(name)}
        if fresh:
            self._released |= fresh
            self.process.release(fresh)

    def check(self, troubles: tuple[str, ...]) -> None:
        """See that it has not died of anything but a power cut.

        Raises:
            SourceError: It has; its last words are shown.
        """
        if "power_off" not in troubles and not self.process.is_alive:
            raise SourceError(
                f"device {self.member.name} has ended:\n{self.process.last_words()}",
                where=str(self._log),
                expected="a device that runs until it is told to end",
                remedy="Its log has the whole story; --out keeps it.",
            )

    def is_behind(self) -> bool:
        """Whether it has read all that was released, and delivered all it made."""
        status = self.process.latest("status")
        streams = status.get("streams", {})
        has_read = all(
            streams.get(name, {}).get("position", 0) >= index
            for name, index in self._released.items()
        )
        return not has_read or bool(status.get("backlog_rows", 1))

    def waiting(self) -> dict[str, Heap]:
        """Return what is in its outbox, after it has ended."""
        clock = SystemClock()
        state = StateStore(self._state / "state.db", clock)
        outbox = Outbox.open(
            self._state / "outbox.db",
            epoch=state.epoch,
            incarnation=state.incarnation,
            config=self.member.config.outbox,
            clock=clock,
        )
        try:
            return waiting_rows(outbox)
        finally:
            outbox.close()
            state.close()

    def power_off(self) -> None:
        """Kill it."""
        self.process.kill()

    def power_on(self, *, is_clock_set: bool) -> None:
        """Start it again; with a clock that is not set it is 1970."""
        if not is_clock_set:
            self.set_clock(-time.time())
        self.start()

    def shift_clock(self, seconds: float) -> None:
        """Move its wall clock."""
        self.set_clock(self._ahead_s + seconds)

    def set_clock(self, offset_s: float) -> None:
        """Set its wall clock so far ahead of this machine's."""
        self._ahead_s = offset_s
        self.process.set_clock(offset_s)

    def use_sensor(self, fault: int | None) -> None:
        """Start it again with the sources of a fault, or its own."""
        self._sensor = fault
        if self.process.is_alive:
            self.process.stop()
            self.start()

    def fill_disk(self, *, is_full: bool) -> None:
        """Leave no room for its files, or give it back."""
        self.process.set_disk(is_full=is_full)

    def update(self, fault: Fault) -> None:
        """Have the cloud offer it a base."""
        self._offer(fault, self.member.name)
