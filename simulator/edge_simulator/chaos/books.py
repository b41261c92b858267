"""The books of a run: every row of the sources, joined to what the store has.

A row is known by its place in the source, the index of its window's last sample, never
by its number on the wire. Inside an epoch rows are committed in the order of the source,
so that a gap's numbers say which rows it covers, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from edge_cloud.store import Gap, Store
from edge_runtime.clock import SystemClock
from edge_runtime.config import DeviceConfig, load_device
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import StateStore
from edge_simulator.chaos.workload import LENGTH
from edge_simulator.fleet.ledger import Heap, waiting_rows

__all__ = ["Kept", "Tally", "joined", "kept_by", "tally"]

_Epoch = tuple[int, int]


class Kept(msgspec.Struct, frozen=True, eq=False):
    """What a device that has ended knows of its rows.

    Attributes:
        made: Index of every row it has committed.
        waiting: Index of the rows in its outbox, int64.
        dropped: How many rows it had to drop.
    """

    made: range
    waiting: np.ndarray
    dropped: int


class Tally(msgspec.Struct, frozen=True):
    """What became of one device's rows.

    Attributes:
        device: Its name.
        made: Rows committed to its outbox.
        stored: Rows in the store, each counted once.
        duplicated: Times a row is there again.
        dropped: Rows that the device had to drop, as it counts itself.
        in_gaps: Rows that it told the cloud it had to drop.
        waiting: Rows that are still on the device's disk alone.
        lost: Rows that are nowhere.
        foreign: Rows that were stored, or dropped, and never made.
    """

    device: str
    made: int
    stored: int
    duplicated: int
    dropped: int
    in_gaps: int
    waiting: int
    lost: tuple[int, ...]
    foreign: int

    @property
    def is_balanced(self) -> bool:
        """Whether each row made is stored once or in a gap, and only what was dropped is.

        A device may drop rows that the cloud has already, when an ack was lost.
        """
        is_whole = not (self.lost or self.duplicated or self.foreign)
        is_told = self.dropped >= self.in_gaps
        return is_whole and is_told and self.made == self.stored + self.in_gaps


def tally(store: Store, config: Path, stream: str) -> Tally:
    """Join the rows that a device made to those in a store.

    Args:
        store: Not being written to.
        config: Device YAML; the device has ended.
        stream: Pipeline and outbox stream.
    """
    device = load_device(config)
    return joined(store, device.device, stream, kept_by(device, stream))


def kept_by(config: DeviceConfig, stream: str) -> Kept:
    """Read what a device that has ended knows of its rows."""
    clock, folder = SystemClock(), Path(config.state)
    with closing(StateStore(folder / "state.db", clock)) as state:
        outbox = Outbox.open(
            folder / "outbox.db",
            epoch=state.epoch,
            incarnation=state.incarnation,
            config=config.outbox,
            clock=clock,
        )
    with closing(outbox):
        resume = outbox.resume(stream)
        position = resume.position if resume else 0
        return Kept(
            made=range(LENGTH - 1, max(position, LENGTH - 1)),
            waiting=waiting_rows(outbox).get(stream, Heap()).index(),
            dropped=sum(outbox.stats().discarded.values()),
        )


def joined(store: Store, device: str, stream: str, kept: Kept) -> Tally:
    """Join what a device knows of its rows to what a store has."""
    rows = _stored(store, device, stream)
    index = np.unique(rows["index"])
    expected = np.arange(kept.made.start, kept.made.stop)
    gaps = [gap for gap in store.gaps() if (gap.device, gap.stream) == (device, stream)]
    in_gaps = sum(gap.n for gap in gaps)
    covered, floating = _covered(gaps, rows)
    delivered = np.union1d(index, covered)
    missing = np.setdiff1d(np.setdiff1d(expected, delivered), kept.waiting)
    return Tally(
        device=device,
        made=len(expected),
        stored=len(np.intersect1d(index, expected)),
        duplicated=len(rows["index"]) - len(index),
        dropped=kept.dropped,
        in_gaps=in_gaps,
        waiting=len(np.setdiff1d(kept.waiting, delivered)),
        # An epoch of which nothing was stored leaves no place to count from.
        lost=tuple(missing[: max(0, len(missing) - floating)].tolist()),
        foreign=len(np.setdiff1d(index, expected)) + len(np.intersect1d(covered, index)),
    )


def _stored(store: Store, device: str, stream: str) -> dict[str, np.ndarray]:
    """Return every row as often as it lies in a live segment."""
    names = ("incarnation", "epoch", "seq", "index")
    tables = [store.read(segment) for segment in store.segments(device, stream)]
    return {
        name: np.concatenate(
            [np.empty(0, np.int64), *(table.columns[name].astype(np.int64) for table in tables)]
        )
        for name in names
    }


def _covered(gaps: Iterable[Gap], rows: dict[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """Return the index of every row in a gap, and how many cannot be told."""
    starts = _starts(rows)
    known: list[np.ndarray] = [np.empty(0, np.int64)]
    floating = 0
    for gap in gaps:
        start = starts.get((gap.incarnation, gap.epoch))
        if start is None:
            floating += gap.n
        else:
            known.append(start + np.arange(gap.seq0, gap.seq0 + gap.n))
    return np.concatenate(known), floating


def _starts(rows: dict[str, np.ndarray]) -> dict[_Epoch, int]:
    """Return the index of each epoch's row 0, as far as rows of it are stored."""
    keys: Sequence[_Epoch] = list(
        zip(rows["incarnation"].tolist(), rows["epoch"].tolist(), strict=True)
    )
    starts = (rows["index"] - rows["seq"]).tolist()
    return dict(zip(keys, starts, strict=True))
