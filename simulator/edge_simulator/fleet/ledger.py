"""Who has which row: what a device committed, against what arrived in the cloud.

A row is known by its place in the source, never by its number on the wire: the
index of its window's last sample, and for a decision its label and edge. So a
row that is made again after a power cut, or stored twice, shows.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.outbox import Outbox
from edge_runtime.types import Decision, Table
from edge_simulator.fleet.load import Feed

__all__ = ["Counts", "Heap", "Ledger", "Sighting", "runs_text", "waiting_rows"]

_WIDE = np.int64
_RECENT = 48


class Counts(msgspec.Struct, frozen=True):
    """What became of one device's rows.

    Attributes:
        rows_made: Rows committed to the outbox, each counted once.
        rows_arrived: Rows in the cloud, each counted once.
        rows_waiting: Rows in the outbox at the end.
        gap_rows: Rows that the device said it had to drop.
        rows_lost: Rows made that neither arrived nor wait, beyond those.
        duplicates: Times a row arrived again as a row of its own.
        windows_missing: Windows of the samples read that were never answered.
        decisions: Decisions made.
        starts: Times it was started.
        backlog: Rows in the outbox, at the end.
        backlog_peak: The most rows that ever waited.
        updates_committed: Updates that went live for good.
        updates_refused: Updates it did not take, or took back.
        arrived_sha256: Over the rows in the cloud, in the order of the source.
    """

    rows_made: int
    rows_arrived: int
    rows_waiting: int
    gap_rows: int
    rows_lost: int
    duplicates: int
    windows_missing: int
    decisions: int
    starts: int
    backlog: int
    backlog_peak: int
    updates_committed: int
    updates_refused: int
    arrived_sha256: str


class Sighting(msgspec.Struct, frozen=True):
    """A decision that was made.

    Attributes:
        device: By whom.
        at_ns: When, from the start of the simulation.
        decision: What.
    """

    device: str
    at_ns: int
    decision: Decision


class Heap:
    """Rows of one outbox stream, known by their place in the source."""

    def __init__(self) -> None:
        self._index: list[np.ndarray] = []
        self._value: list[np.ndarray] = []
        self._texts: list[str] = []
        self._count = 0

    def add(self, table: Table) -> None:
        """Take rows of estimates or of decisions."""
        columns = table.columns
        if not len(table):
            return
        self._count += len(table)
        if "label" in columns:
            self._texts += _decision_rows(columns)
        else:
            self._index.append(columns["index"].astype(_WIDE))
            self._value.append(columns["value"].astype(np.float64).reshape(len(table), -1))

    def __len__(self) -> int:
        return self._count

    def index(self) -> np.ndarray:
        """Return the windows among the rows, each once, sorted, int64."""
        return np.unique(np.concatenate([np.empty(0, _WIDE), *self._index]))

    def texts(self) -> set[str]:
        """Return the decisions among the rows."""
        return set(self._texts)

    def distinct(self) -> int:
        """Return how many different rows there are."""
        return len(self.index()) + len(self.texts())

    def without(self, *others: Heap) -> int:
        """Return how many different rows are here and in none of the others."""
        index, texts = self.index(), self.texts()
        for other in others:
            index = np.setdiff1d(index, other.index(), assume_unique=True)
            texts -= other.texts()
        return len(index) + len(texts)

    def digest(self) -> bytes:
        """Return SHA-256 over the different rows in the order of the source."""
        digest = hashlib.sha256()
        if self._index:
            index, first = np.unique(np.concatenate(self._index), return_index=True)
            digest.update(index.astype("<i8").tobytes())
            digest.update(np.concatenate(self._value)[first].astype("<f8").tobytes())
        for text in sorted(self.texts()):
            digest.update(text.encode())
        return digest.digest()


class Ledger:
    """The books of one fleet; used by one thread.

    Attributes:
        sightings: Decisions, in the order they were committed.
        starts: Per device.
        backlog: Rows waiting, per device, as last seen.
        updates: Per device, how many jobs ended how.
        recent: Per device, the newest answers, for whoever watches.
        last_decision: Per device, in words.
        is_linked: Whether a device has its broker.
        runs: Per device, its bases and layers, in words.
    """

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []
        self.starts: dict[str, int] = defaultdict(int)
        self.backlog: dict[str, int] = defaultdict(int)
        self.updates: dict[tuple[str, str], int] = defaultdict(int)
        self.recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self.last_decision: dict[str, str] = {}
        self.is_linked: dict[str, bool] = defaultdict(bool)
        self.runs: dict[str, str] = {}
        self._peak: dict[str, int] = defaultdict(int)
        self._gaps: dict[str, int] = defaultdict(int)
        self._decided: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._made: dict[tuple[str, str], Heap] = defaultdict(Heap)
        self._windows: dict[tuple[str, str], Heap] = defaultdict(Heap)
        self._arrived: dict[tuple[str, str], Heap] = defaultdict(Heap)

    # --- the device's side --------------------------------------------------------------

    def made(self, device: str, outbox_stream: str, table: Table) -> None:
        """Note rows that were committed to the outbox."""
        self._made[device, outbox_stream].add(table)

    def answered(self, device: str, stream: str, table: Table) -> None:
        """Note windows that were answered, whether they travel or not."""
        self._windows[device, stream].add(table)
        for values in table.columns["value"][-_RECENT:]:
            self.glimpsed(device, values)

    def glimpsed(self, device: str, values: Iterable[float]) -> None:
        """Note the newest answer for whoever watches: the largest of its values."""
        self.recent[device].append(float(max(values)))

    def decided(self, device: str, at_ns: int, decisions: Iterable[Decision]) -> list[Decision]:
        """Note decisions that were committed; return those not known before."""
        fresh = []
        for decision in decisions:
            key = _decision_text(decision.index, decision.label, decision.edge)
            if key not in self._decided[device, decision.stream]:
                self._decided[device, decision.stream].add(key)
                fresh.append(decision)
                self.sightings.append(Sighting(device, at_ns, decision))
                self.last_decision[device] = _decision_words(decision)
        return fresh

    def waits(self, device: str, rows: int) -> None:
        """Note how many rows are in a device's outbox."""
        self.backlog[device] = rows
        self._peak[device] = max(self._peak[device], rows)

    # --- the cloud's side -----------------------------------------------------------------

    def arrived(self, device: str, outbox_stream: str, table: Table) -> None:
        """Note rows that the cloud has, and had not before by their numbers."""
        self._arrived[device, outbox_stream].add(table)

    def dropped(self, device: str, rows: int) -> None:
        """Note rows that the device said it had to drop."""
        self._gaps[device] += rows

    # --- the sum ---------------------------------------------------------------------------

    def counts(
        self,
        device: str,
        *,
        waiting: Mapping[str, Heap],
        positions: Mapping[str, tuple[Feed, int]],
    ) -> Counts:
        """Return what became of a device's rows.

        Args:
            device: Its name.
            waiting: What is in its outbox, by outbox stream.
            positions: Per stream, how samples come and the index of the next one to read.
        """
        made = self._of(self._made, device)
        arrived = self._of(self._arrived, device)
        nothing = Heap()
        missing = sum(
            heap.without(arrived.get(stream, nothing), waiting.get(stream, nothing))
            for stream, heap in made.items()
        )
        rows = sum(len(heap) for heap in arrived.values())
        distinct = sum(heap.distinct() for heap in arrived.values())
        return Counts(
            rows_made=sum(heap.distinct() for heap in made.values()),
            rows_arrived=distinct,
            rows_waiting=sum(heap.distinct() for heap in waiting.values()),
            gap_rows=self._gaps[device],
            rows_lost=max(0, missing - self._gaps[device]),
            duplicates=rows - distinct,
            windows_missing=sum(
                _missing(feed, position, self._windows[device, stream])
                for stream, (feed, position) in positions.items()
            ),
            decisions=sum(sighting.device == device for sighting in self.sightings),
            starts=self.starts[device],
            backlog=self.backlog[device],
            backlog_peak=self._peak[device],
            updates_committed=self.updates[device, "committed"],
            updates_refused=self.updates[device, "refused"] + self.updates[device, "rolled_back"],
            arrived_sha256=_digest(arrived),
        )

    def _of(self, heaps: Mapping[tuple[str, str], Heap], device: str) -> dict[str, Heap]:
        return {stream: heap for (name, stream), heap in heaps.items() if name == device}


def runs_text(refs: Mapping[str, str], running: Iterable[tuple[str, str | None]]) -> str:
    """Say which bases run, and with which layers.

    Args:
        refs: What bases are called, by digest.
        running: Digest of a base, and effective id if there are layers on it.
    """
    return ", ".join(
        f"{refs.get(base, base[:12])} {f'with layers {layers}' if layers else 'without layers'}"
        for base, layers in running
        if base
    )


def waiting_rows(outbox: Outbox) -> dict[str, Heap]:
    """Return what is in an outbox, by outbox stream, without gaps."""
    waiting: dict[str, Heap] = {}
    after = -(2**62)
    while blocks := outbox.pending(after):
        after = blocks[-1].id
        for block in blocks:
            if block.kind != "gap":
                waiting.setdefault(block.stream, Heap()).add(decode_table(block.body))
    return waiting


def _missing(feed: Feed, position: int, answered: Heap) -> int:
    """Count the windows of samples ``feed.first`` to ``position`` without an answer."""
    expected = feed.windows(position)
    return len(np.setdiff1d(expected, answered.index(), assume_unique=True))


def _digest(heaps: Mapping[str, Heap]) -> str:
    digest = hashlib.sha256()
    for stream in sorted(stream for stream, heap in heaps.items() if len(heap)):
        digest.update(stream.encode() + b"\0" + heaps[stream].digest())
    return digest.hexdigest()


def _decision_rows(columns: Mapping[str, np.ndarray]) -> Sequence[str]:
    cells = zip(*(columns[name].tolist() for name in ("index", "label", "edge")), strict=True)
    return [_decision_text(*cell) for cell in cells]


def _decision_words(decision: Decision) -> str:
    return f"{decision.label} {decision.edge}s at {decision.value:.3g}, row {decision.index}"


def _decision_text(index: int, label: str, edge: str) -> str:
    return f"{index} {label} {edge}"
