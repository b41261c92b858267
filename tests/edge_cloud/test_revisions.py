"""What stands after revisions, retractions, restarts and the cloud's own answers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_cloud.revisions import current_rows
from edge_cloud.store import Store
from edge_runtime.pipeline import decisions_table
from edge_runtime.sync.frames import RowFrame
from edge_runtime.types import Decision, Table

from .conftest import T0_NS  # isort: skip


def decision(index: int, revision: int = 0, **more: object) -> Decision:
    """Make a decision about one slot."""
    told = {"label": "hot", "edge": "start", "value": float(revision), **more}
    time_ns = T0_NS + index * 10**9
    return Decision("main", index, time_ns, "toy", effective_id="0" * 16, revision=revision, **told)


def take(store: Store, decisions: list[Decision], *, epoch: int = 1, seq0: int = 0) -> None:
    """Ingest decisions as one frame of a device."""
    table = decisions_table(decisions)
    frame = RowFrame(
        device="d1",
        incarnation=1,
        epoch=epoch,
        stream="main-decisions",
        kind="decision",
        seq0=seq0,
        n=len(table),
        table=table,
    )
    store.ingest([frame])


def standing(store: Store) -> list[tuple[int, float]]:
    """Index and value of what stands."""
    columns = store.rows("main-decisions", kind="decision", is_current=True).columns
    return list(zip(columns["index"].tolist(), columns["value"].tolist(), strict=True))


def test_the_last_revision_stands_and_the_retracted_is_gone(store: Store) -> None:
    """Rows with and without the column of retractions are read together."""
    take(store, [decision(1), decision(2), decision(3)])
    take(store, [decision(2, 1), decision(3, 1, is_retracted=True)], seq0=3)

    assert standing(store) == [(1, 0.0), (2, 1.0)]
    assert len(store.rows("main-decisions", kind="decision")) == 5


def test_a_revision_after_a_restart_is_of_the_same_answer(store: Store) -> None:
    """The slot says which answer it is; the epoch does not."""
    take(store, [decision(1), decision(2)])
    take(store, [decision(2, 1, is_retracted=True)], epoch=2)

    assert standing(store) == [(1, 0.0)]


def test_it_survives_a_compaction(store: Store) -> None:
    """Merged segments give the same."""
    take(store, [decision(1), decision(2)])
    take(store, [decision(2, 1, is_retracted=True)], seq0=2)
    take(store, [decision(3)], seq0=3)

    store.compact()

    assert standing(store) == [(1, 0.0), (3, 0.0)]


def test_the_cloud_ranks_above_the_edge(store: Store) -> None:
    """Whatever revision the edge has come to."""
    take(store, [decision(1, 7), decision(1, 0, tier="cloud", value=99.0)])

    assert standing(store) == [(1, 99.0)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=20))
def test_order_of_arrival_does_not_matter(rows: list[tuple[int, int, bool]]) -> None:
    """What stands depends on revisions alone."""
    distinct = list({(index, revision): gone for index, revision, gone in rows}.items())

    def result(some: list[tuple[tuple[int, int], bool]]) -> set[tuple[int, int]]:
        count = len(some)
        numbers = np.array([key for key, _ in some], np.int64).reshape(count, 2)
        table = Table(
            {
                "device": np.full(count, "d1"),
                "incarnation": np.ones(count, np.int64),
                "epoch": np.ones(count, np.int64),
                "seq": np.arange(count),
                "index": numbers[:, 0],
                "end_ns": numbers[:, 0],
                "revision": numbers[:, 1],
                "is_retracted": np.array([gone for _, gone in some], np.bool_),
            }
        )
        columns = current_rows(table).columns
        return set(zip(columns["index"].tolist(), columns["revision"].tolist(), strict=True))

    assert result(distinct) == result(distinct[::-1])


def test_a_table_without_revisions_is_itself() -> None:
    """Streams that are never revised lose nothing."""
    count = 5
    numbers = np.arange(count)
    names = ("incarnation", "epoch", "seq", "index", "end_ns")
    table = Table({"device": np.full(count, "d1"), **dict.fromkeys(names, numbers)})

    assert current_rows(table).columns["index"].tolist() == numbers.tolist()
