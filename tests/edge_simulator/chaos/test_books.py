"""The books of a run close only if every row is where it should be, once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.store import Store
from edge_runtime.sync.frames import RowFrame
from edge_runtime.types import Table
from edge_simulator.chaos.books import Kept, Tally, joined

DEVICE, STREAM = "device-1", "main"
DROPPED = 2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    store = Store(tmp_path / "store")
    yield store
    store.close()


def rows(seq0: int, index: Sequence[int], epoch: int = 1) -> RowFrame:
    """Return rows of a device with their places in the source."""
    places = np.array(index, np.int64)
    table = Table({"index": places, "end_ns": places * 10**9, "value": places[:, None] / 2})
    return frame(seq0, len(index), epoch, table)


def gap(seq0: int, n: int, epoch: int = 1) -> RowFrame:
    """Return rows that a device says it has dropped."""
    return frame(seq0, n, epoch, None)


def frame(seq0: int, n: int, epoch: int, table: Table | None) -> RowFrame:
    return RowFrame(
        device=DEVICE,
        stream=STREAM,
        epoch=epoch,
        incarnation=7,
        seq0=seq0,
        n=n,
        kind="gap" if table is None else "estimate",
        table=Table({}) if table is None else table,
        reason="age" if table is None else "",
        clock="ntp",
        made_ns=0,
    )


def books(store: Store, made: range, waiting: Sequence[int] = ()) -> Tally:
    return joined(store, DEVICE, STREAM, Kept(made, np.array(waiting, np.int64), DROPPED))


def test_rows_that_are_there_once_are_balanced(store: Store) -> None:
    """Also over two epochs, and with a gap that says what it covers."""
    store.ingest([rows(0, range(3, 10)), gap(7, 2), rows(9, [12]), rows(0, [13, 14], epoch=2)])

    found = books(store, range(3, 15))

    assert found.is_balanced
    assert (found.made, found.stored, found.in_gaps) == (12, 10, 2)


def test_a_row_that_is_nowhere_is_named(store: Store) -> None:
    """It is lost, and the books do not close."""
    store.ingest([rows(0, range(3, 10)), rows(0, [11], epoch=2)])

    found = books(store, range(3, 12))

    assert (found.lost, found.is_balanced) == ((10,), False)


def test_a_gap_covers_its_own_rows_and_no_others(store: Store) -> None:
    """A gap of one epoch does not make up for a row that another has lost."""
    store.ingest([rows(0, range(3, 8)), gap(5, 1), rows(0, [10, 11], epoch=2)])

    found = books(store, range(3, 12))

    assert (found.in_gaps, found.lost, found.is_balanced) == (1, (9,), False)


def test_a_row_made_twice_is_counted_twice(store: Store) -> None:
    """Another number for the same place in the source is a duplicate."""
    store.ingest([rows(0, range(3, 8)), rows(0, [7, 8], epoch=2)])

    found = books(store, range(3, 9))

    assert (found.duplicated, found.is_balanced) == (1, False)


def test_a_gap_over_a_row_that_is_stored_is_not_believed(store: Store) -> None:
    """What was dropped cannot be there."""
    store.ingest([rows(0, range(3, 8)), gap(5, 1), rows(0, [8], epoch=2)])

    found = books(store, range(3, 9))

    assert (found.foreign, found.is_balanced) == (1, False)


def test_rows_that_wait_are_not_lost_and_not_delivered(store: Store) -> None:
    """They are counted apart; books with them do not close."""
    store.ingest([rows(0, range(3, 8))])

    found = books(store, range(3, 11), waiting=[8, 9, 10])

    assert (found.waiting, found.lost, found.is_balanced) == (3, (), False)


def test_a_gap_that_no_device_made_does_not_count(store: Store) -> None:
    """The cloud may not have more gaps than the device has dropped."""
    store.ingest([rows(0, range(3, 8)), gap(5, DROPPED + 1), rows(8, [11])])

    found = books(store, range(3, 12))

    assert (found.in_gaps, found.lost, found.is_balanced) == (DROPPED + 1, (), False)


def test_an_epoch_that_was_dropped_whole_is_counted(store: Store) -> None:
    """Without a stored row of it nobody can say which rows they were, only how many."""
    store.ingest([rows(0, range(3, 8)), gap(0, 2, epoch=2), rows(0, [10], epoch=3)])

    assert books(store, range(3, 11)).is_balanced
    assert len(books(store, range(3, 12)).lost) == 1
