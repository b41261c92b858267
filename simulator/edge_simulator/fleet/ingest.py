"""A real cloud for a simulated fleet: `edge-runtime cloud up`, in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_cloud.jobs import ENDED, Jobs
from edge_cloud.refresh import RefreshConfig
from edge_cloud.registry import Registry
from edge_cloud.store import Store
from edge_runtime.config import SyncConfig, dump_yaml
from edge_runtime.errors import SourceError
from edge_simulator.fleet.cloud import Offer, OnTold
from edge_simulator.fleet.ledger import Ledger
from edge_simulator.fleet.load import Member
from edge_simulator.processes import ChildProcess

__all__ = ["RealCloud"]

_STOP_S = 15.0


class RealCloud:
    """Takes the place of `CloudTwin`; what arrived is read from its store at the end.

    Args:
        members: Whose rows it takes.
        folder: For its configuration, store and log.
        sync: The broker.
        ledger: Told what arrived.
        tell: Told about ended offers.
        refresh: Model lines whose layers it computes.
        layer_key: File of the key that signs them; None without any.

    Attributes:
        jobs: What devices are asked to run; the process finds what is added here.
        registry: Its bases.
        folder: Of the store.
    """

    def __init__(
        self,
        members: Sequence[Member],
        folder: Path,
        sync: SyncConfig,
        ledger: Ledger,
        tell: OnTold,
        *,
        refresh: Sequence[RefreshConfig] = (),
        layer_key: Path | None = None,
    ) -> None:
        self.folder = folder / "store"
        self._members = members
        self._ledger = ledger
        self._tell = tell
        self._refreshed = {each.line for each in refresh}
        self._open_offers: set[str] = set()
        config = folder / "cloud.yaml"
        document = _document(members, self.folder, sync)
        if layer_key is not None:
            document |= {
                "keys": {"layer": str(layer_key)},
                "refresh": msgspec.to_builtins(list(refresh)),
            }
        config.write_text(dump_yaml(document))
        self._store = Store(self.folder)
        self.jobs, self.registry = Jobs(self._store), Registry(self._store)
        command = ["-m", "edge_runtime.cli", "cloud", "up", str(config)]
        self._child = ChildProcess(command, folder / "logs" / "cloud.log")

    def open(self) -> None:
        """Start the process."""
        self._child.start()

    def close(self) -> None:
        """End it cleanly; safe to call twice."""
        self._child.stop(_STOP_S)

    def offer(self, offer: Offer) -> None:
        """Have a device do a job, as ``edge-runtime cloud publish`` does, whoever signed it.

        A base whose line is refreshed travels with its first layers.
        """
        job = offer.job
        # A statement by a stranger never becomes the registry's.
        self.registry.add(offer.bundle)
        identity = self.jobs.offer(
            device=job.device,
            stream=job.stream,
            model=job.model,
            base=job.base,
            requires=job.requires,
            state="new" if job.model in self._refreshed else "ready",
        )
        self._open_offers.add(identity)

    def step(self, timeout_s: float) -> int:  # noqa: ARG002
        """See that it runs, and how far offers are; it does its work without us.

        Raises:
            SourceError: It has died; its last words are shown.
        """
        if not self._child.is_alive:
            raise SourceError(
                f"the cloud process has ended:\n{self._child.last_words()}",
                where=str(self._child.log_path),
                expected="a cloud that runs until it is told to end",
                remedy="Its log has the whole story; --out keeps it.",
            )
        self._note_ended()
        return 0

    def finish(self) -> None:
        """End it, and enter what its store holds into the books."""
        self.close()
        self._note_ended()
        for row in self.jobs.all():
            self._ledger.updates[row.job.device, row.state] += 1
        for member in self._members:
            for stream in member.config.streams:
                self._enter(member.name, stream)
        for gap in self._store.gaps():
            self._ledger.dropped(gap.device, gap.n)

    def close_store(self) -> None:
        """Close our end of the store, after everything else."""
        self._store.close()

    def _enter(self, device: str, stream: str) -> None:
        self._ledger.arrived(device, stream, self._store.rows(stream, device=device))
        name = f"{stream}-decisions"
        rows = self._store.rows(name, kind="decision", device=device)
        self._ledger.arrived(device, name, rows)

    def _note_ended(self) -> None:
        for identity in sorted(self._open_offers):
            row = self.jobs.get(identity)
            if row is not None and row.state in ENDED:
                self._open_offers.discard(identity)
                # What follows the first words may hold measured numbers.
                reason = row.reason.split(":")[0]
                facts = {"stream": row.job.stream, "state": row.state, "reason": reason}
                self._tell("update", row.job.device, facts)


def _document(members: Sequence[Member], store: Path, sync: SyncConfig) -> dict[str, object]:
    bundles = {
        str(stream.model.bundle) for member in members for stream in member.config.streams.values()
    }
    broker = {
        key: value
        for key, value in msgspec.to_builtins(sync).items()
        if key in ("port", "protocol")
    }
    return {"schema": 1, "store": str(store), "broker": broker, "bundles": sorted(bundles)}
