"""What a run happens to: real devices, ingests and a real broker, on links that break."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from edge_cloud.store import Store
from edge_simulator.broker import Broker, BrokerChoice, choose_broker
from edge_simulator.chaos.books import Tally, tally
from edge_simulator.chaos.plan import BROKER, ingests_of, unit_of
from edge_simulator.chaos.victim import BrokerProcess, IngestProcess, Victim
from edge_simulator.chaos.workload import (
    STREAM,
    write_bundle,
    write_cloud,
    write_device,
    write_recording,
)
from edge_simulator.link import LinkProxy
from edge_simulator.link.flow import Unit
from edge_simulator.nursery import ForkedChild
from edge_simulator.processes import DeviceProcess

__all__ = ["Stage"]

_DRAIN_STEP_S = 0.1
# Links that fall silent are noticed soon.
_KEEPALIVE_S = 5


class Stage:
    """Everything that runs; used by one thread, as a context.

    Every device reads a recording of its own, and makes one row of each sample once a
    window is full. Each link to the broker has a proxy.

    Args:
        folder: Empty; takes everything.
        devices: Names.
        rows: Samples in each recording.
        ingests: How many; several share the rows.
        broker: Which broker.
        is_persistent: Whether the broker keeps its state on disk.
        seed: Decides the samples, and what is hit on the links.
        unit: What is hit on the links; bytes and packets by turns if not given.
        max_age_s: After how long a device drops its rows, by name; never if not given.

    Attributes:
        links: By the name of whose link it is.
        victims: By name: the devices, the ingests and ``broker``.
        devices: By name.
        broker: Between them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        devices: Sequence[str],
        rows: int,
        ingests: int = 1,
        broker: BrokerChoice = "auto",
        is_persistent: bool = False,
        seed: int = 0,
        unit: Unit | None = None,
        max_age_s: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._names = tuple(devices)
        self._rows = rows
        self._ingest_names = ingests_of(ingests)
        self._ingests: list[IngestProcess] = []
        self._seed = seed
        self._unit = unit
        self._max_age_s = max_age_s
        self._stack = ExitStack()
        self._released = 0
        # What a device told first after everything was delivered.
        self._quiet: dict[str, Mapping[str, Any]] = {}
        self.broker = Broker(choose_broker(broker), folder / BROKER, is_persistent=is_persistent)
        self.links: dict[str, LinkProxy] = {}
        self.victims: dict[str, Victim] = {}
        self.devices: dict[str, DeviceProcess] = {}

    def __enter__(self) -> Self:
        """Start everything.

        Raises:
            EdgeError: Something does not start.
        """
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything that still runs."""
        self._stack.close()

    def path_of(self, device: str) -> Path:
        """Return the YAML file of a device."""
        return self._folder / f"{device}.yaml"

    def release(self, rows: int) -> None:
        """Let the first samples of every recording pass."""
        rows = min(rows, self._rows)
        if rows != self._released:
            self._released = rows
            for device in self.devices.values():
                device.release({STREAM: rows})

    def drain(self, limit_s: float, on_wait: Callable[[], None] = lambda: None) -> bool:
        """Wait until every device has read and delivered everything; False after ``limit_s``.

        Args:
            limit_s: How long at most.
            on_wait: Called again and again meanwhile.
        """
        deadline_s = time.monotonic() + limit_s
        while not all(map(self._is_drained, self._names)):
            if time.monotonic() > deadline_s:
                return False
            for victim in self.victims.values():
                if not victim.look():
                    victim.start()
            on_wait()
            time.sleep(_DRAIN_STEP_S)
        return True

    def stop(self) -> None:
        """End devices and ingests cleanly."""
        for device in self.devices.values():
            device.stop()
        for ingest in self._ingests:
            ingest.stop()

    def tallies(self) -> list[Tally]:
        """Return what became of every device's rows, after `stop`."""
        store = Store(self._folder / "store")
        try:
            return [tally(store, self.path_of(name), STREAM) for name in self._names]
        finally:
            store.close()

    def _is_drained(self, name: str) -> bool:
        """Whether a device has committed and delivered everything that was released.

        It must have said so twice: between reading and committing nothing waits either.
        """
        device = self.devices[name]
        status = device.status() if device.is_alive else {}
        if not (status and self._is_quiet(status)):
            self._quiet.pop(name, None)
            return False
        return self._quiet.setdefault(name, status) is not status

    def _is_quiet(self, status: Mapping[str, Any]) -> bool:
        position = status["streams"][STREAM]["position"]
        return bool(position >= self._released and status["backlog_rows"] == 0)

    # --- start ---------------------------------------------------------------------------

    def _open(self) -> None:
        write_bundle(self._folder / "sum-1")
        self._stack.callback(self.broker.stop)
        self.broker.start()
        for number, name in enumerate((*self._names, *self._ingest_names)):
            self._add_link(number, name)
        self._add_victims()
        self._stack.callback(self.stop)
        for victim in self.victims.values():
            victim.start()

    def _add_link(self, number: int, name: str) -> None:
        unit = self._unit or unit_of(number)
        target = (self.broker.host, self.broker.port)
        link = LinkProxy(target=target, unit=unit, seed=self._seed)
        self.links[name] = self._stack.enter_context(link)

    def _add_victims(self) -> None:
        for number, name in enumerate(self._names):
            self.devices[name] = device = self._device(number, name)
            self.victims[name] = Victim(name, device, device.has_full_disk)
        for number, name in enumerate(self._ingest_names):
            self._ingests.append(self._ingest(number, name))
            self.victims[name] = Victim(name, self._ingests[-1])
        self.victims[BROKER] = Victim(BROKER, BrokerProcess(self.broker))

    def _device(self, number: int, name: str) -> DeviceProcess:
        path = self.path_of(name)
        write_recording(path.with_suffix(".npz"), self._rows, self._seed + number)
        write_device(path, self._sync(name), self._max_age_s.get(name))
        return DeviceProcess(path, path.with_suffix(".log"), spawn=ForkedChild)

    def _ingest(self, number: int, name: str) -> IngestProcess:
        cloud = self._folder / f"{name}.yaml"
        write_cloud(cloud, self._folder / "store", self._sync(name))
        member = number if len(self._ingest_names) > 1 else None
        return IngestProcess(cloud, self._folder / f"{name}.log", ForkedChild, member)

    def _sync(self, name: str) -> dict[str, object]:
        port = self.links[name].port
        return {"port": port, "protocol": self.broker.protocol, "keepalive_s": _KEEPALIVE_S}
