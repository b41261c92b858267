from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cloud.store import Store
from edge_runtime.errors import StoreError
from edge_runtime.sync.frames import RowFrame
from edge_runtime.types import Table
from edge_simulator.demo.judge import count_rows, read_stored, segment_paths


def _frame(first: int, last: int, *, seq0: int, epoch: int = 1) -> RowFrame:
    index = np.arange(first, last)
    value = index[:, None].astype(float)
    return RowFrame(
        device="turbine-1",
        stream="turbine",
        epoch=epoch,
        incarnation=7,
        seq0=seq0,
        n=len(index),
        kind="estimate",
        table=Table(
            {
                "index": index,
                "start_ns": index * 1000,
                "end_ns": index * 1000,
                "score": value,
                "value": value + 0.5,
                "effective_id": np.full(len(index), "a" * 16),
            }
        ),
        made_ns=0,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with rows 100 to 148, as two epochs of a device sent them."""
    store = Store(tmp_path / "store")
    store.ingest([_frame(100, 124, seq0=0)])
    store.ingest([_frame(124, 148, seq0=0, epoch=2)])
    store.close()
    return tmp_path / "store"


def test_a_whole_store_is_whole(folder: Path) -> None:
    """Rows of several epochs, each once, are neither lost nor duplicated."""
    counts = count_rows(np.arange(100, 148), read_stored(folder, "turbine-1", "turbine").index)

    assert (counts.stored, counts.lost, counts.duplicated, counts.unexpected) == (48, 0, 0, 0)


def test_a_planted_loss_is_found(folder: Path) -> None:
    """A row that no segment holds is lost, whatever any counter says."""
    counts = count_rows(np.arange(99, 149), read_stored(folder, "turbine-1", "turbine").index)

    assert (counts.lost, counts.lost_first) == (2, [99, 148])


def test_a_planted_duplicate_is_found(folder: Path) -> None:
    """A row that a device numbered twice is one row too many."""
    store = Store(folder)
    store.ingest([_frame(130, 133, seq0=0, epoch=3)])
    store.close()

    counts = count_rows(np.arange(100, 148), read_stored(folder, "turbine-1", "turbine").index)

    assert (counts.stored, counts.lost, counts.duplicated) == (48, 0, 3)


def test_a_deleted_segment_file_is_no_silence(folder: Path) -> None:
    """A file that the catalogue names and nobody has makes reading fail, not the count good."""
    Path(segment_paths(folder, "turbine-1", "turbine")[0]).unlink()

    with pytest.raises(Exception, match=r"No files found|No such file"):
        read_stored(folder, "turbine-1", "turbine")


def test_columns_come_back_as_they_were_sent(folder: Path) -> None:
    """Score, value, time and effective id belong to their index."""
    stored = read_stored(folder, "turbine-1", "turbine")

    assert stored.index.tolist() == list(range(100, 148))
    assert stored.score.tolist() == stored.index.tolist()
    assert (stored.value - stored.score == 0.5).all()
    assert set(stored.effective_id) == {"a" * 16}
    assert stored.epoch.tolist() == [1] * 24 + [2] * 24


def test_an_unknown_stream_has_lost_everything(folder: Path) -> None:
    """Nothing stored is everything lost."""
    stored = read_stored(folder, "fan-1", "fan")

    assert len(stored) == 0
    assert count_rows(np.arange(5), stored.index).lost == 5


def test_no_catalogue_is_an_error(tmp_path: Path) -> None:
    """A folder that is no store is said to be none."""
    with pytest.raises(StoreError, match="catalogue"):
        read_stored(tmp_path, "turbine-1", "turbine")


@settings(max_examples=20)
@given(st.sets(st.integers(0, 60)), st.lists(st.integers(0, 60)))
def test_the_join_agrees_with_sets(expected: set[int], stored: list[int]) -> None:
    """For any rows the join counts what plain sets count."""
    counts = count_rows(np.array(sorted(expected), np.int64), np.array(stored, np.int64))

    assert counts.expected == len(expected)
    assert counts.stored == len(expected & set(stored))
    assert counts.lost == len(expected - set(stored))
    assert counts.unexpected == len(set(stored) - expected)
    assert counts.duplicated == len(stored) - len(set(stored))
