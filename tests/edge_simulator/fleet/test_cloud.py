"""The cloud's twin answers as the real store does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_cloud.store import Store
from edge_runtime.ports import Message
from edge_runtime.sync.frames import RowFrame, encode_frame
from edge_runtime.sync.messages import Ack, CloudState, decode
from edge_runtime.sync.topics import Topics
from edge_runtime.sync.transport import MemoryBroker
from edge_runtime.types import Table
from edge_simulator.fleet.cloud import CloudTwin
from edge_simulator.fleet.ledger import Ledger

TOPICS = Topics()
Frames = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 5), st.integers(1, 2), st.booleans()),
    min_size=1,
    max_size=6,
)


def _frame(first: int, count: int, epoch: int, is_gap: bool) -> RowFrame:
    index = np.arange(first, first + count, dtype=np.int64)
    table = Table({"index": index, "end_ns": index, "value": index[:, None] / 7})
    return RowFrame(
        device="a",
        stream="s",
        epoch=epoch,
        incarnation=1,
        seq0=first,
        n=count,
        kind="gap" if is_gap else "estimate",
        table=Table({}) if is_gap else table,
        reason="age" if is_gap else "",
    )


class _Twin:
    """A twin, and a device that hears its answers."""

    def __init__(self) -> None:
        broker = MemoryBroker()
        self.ledger = Ledger()
        self.cloud = CloudTwin(lambda: broker.transport("cloud"), self.ledger, lambda *_: None)
        self.cloud.open()
        self.device = broker.transport("a")
        self.device.open([TOPICS.dn("a", "ack"), TOPICS.all_cloud], None)
        self.cloud.step(0.0)

    def ingest(self, frame: RowFrame) -> list[Ack]:
        self.device.publish(Message(TOPICS.tel("a", "s"), encode_frame(frame)))
        self.cloud.step(0.0)
        return [decode(m.payload, Ack) for m in self.heard() if m.topic.endswith("ack")]

    def heard(self) -> list[Message]:
        events = iter(lambda: self.device.receive(0.0), None)
        return [event for event in events if isinstance(event, Message)]


@given(Frames)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_twin_acknowledges_what_the_store_does(
    tmp_path: Path, drawn: list[tuple[int, int, int, bool]]
) -> None:
    """Frames repeated, out of order, overlapping, of two epochs, with gaps: the same answers."""
    store = Store(tmp_path / f"store-{len(list(tmp_path.iterdir()))}")
    twin = _Twin()

    for each in drawn:
        frame = _frame(*each)
        assert twin.ingest(frame) == store.ingest([frame])

    stored = len(store.rows("s", device="a"))
    gaps = sum(gap.n for gap in store.gaps())
    counts = twin.ledger.counts("a", waiting={}, positions={})
    assert counts.rows_arrived + counts.duplicates == stored
    assert counts.gap_rows == gaps
    store.close()


@pytest.mark.parametrize("is_online", [True, False])
def test_whoever_listens_knows_whether_the_cloud_is_there(is_online: bool) -> None:
    """Its presence is retained: devices keep their rows while it is gone."""
    twin = _Twin()
    if not is_online:
        twin.cloud.close()

    states = [decode(m.payload, CloudState) for m in twin.heard() if m.topic == TOPICS.all_cloud]

    assert states[-1].is_online == is_online
