"""A clock to hand and the two databases, for every test of the sync package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.config import OutboxConfig
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Table


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def state(tmp_path: Path, clock: FakeClock) -> Iterator[StateStore]:
    store = StateStore(tmp_path / "state.db", clock)
    store.start()
    yield store
    store.close()


@pytest.fixture
def open_outbox(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[..., Outbox]]:
    """Open the same file as often as one likes; incarnation 7, epoch 1 unless told."""
    opened = []

    def open_it(epoch: int = 1, incarnation: int = 7, **config: object) -> Outbox:
        options = OutboxConfig(**({"quota_mb": 8, "ballast_mb": 0} | config))
        opened.append(
            Outbox.open(
                tmp_path / "outbox.db",
                epoch=epoch,
                incarnation=incarnation,
                config=options,
                clock=clock,
            )
        )
        return opened[-1]

    yield open_it
    for outbox in opened:
        outbox.close()


@pytest.fixture
def outbox(open_outbox: Callable[..., Outbox]) -> Outbox:
    return open_outbox()


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """Make a batch of ``n`` rows that can be told apart by their column ``x``."""

    def make(n: int = 1, first: int = 0, stream: str = "main", kind: str = "estimate") -> Batch:
        return Batch(stream, kind, Table({"x": np.arange(first, first + n, dtype=np.int64)}))

    return make


@pytest.fixture
def commit() -> Callable[..., None]:
    """Commit batches as the source ``main`` at a position."""

    def do(outbox: Outbox, *batches: Batch, position: int = 0) -> None:
        outbox.commit(source="main", position=position, snapshot=b"s", base="base", batches=batches)

    return do
