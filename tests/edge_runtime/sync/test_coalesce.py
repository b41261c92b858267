"""Blocks become frames without changing order, number or content of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.quality import MASK
from edge_runtime.sync.blocks import Block
from edge_runtime.sync.coalesce import parcels
from edge_runtime.sync.frames import RowFrame, decode_frame, encode_table
from edge_runtime.sync.messages import MAX_PAYLOAD_BYTES
from edge_runtime.types import Table

KEY = (7, 1, "main")


def block(position: int, seq0: int, table: Table, **fields: object) -> Block:
    defaults = {
        "stream": "main", "kind": "estimate", "incarnation": 7, "epoch": 1, "made_ns": position,
        "clock": "ntp", "reason": "", "n": len(table), "every": 1, "body": encode_table(table),
    }  # fmt: skip
    return Block(id=position, seq0=seq0, **defaults | fields)


def numbers(first: int, n: int) -> Table:
    return Table({"x": np.arange(first, first + n)})


def frames(*blocks: Block, acked: int = 0) -> list[RowFrame]:
    made = parcels("pump", blocks, {KEY: acked})
    return [decode_frame(parcel.payload) for parcel in made]


def shape(found: list[RowFrame]) -> list[tuple[str, int, int]]:
    return [(frame.stream, frame.seq0, frame.n) for frame in found]


def test_small_blocks_share_a_frame() -> None:
    """Consecutive blocks of one stream become one frame, dated by the newest."""
    (frame,) = frames(*(block(i, 10 * i, numbers(10 * i, 10)) for i in range(5)))

    assert frame.table.columns["x"].tolist() == list(range(50))
    assert (frame.seq0, frame.n, frame.made_ns, frame.clock) == (0, 50, 4, "ntp")


def test_streams_do_not_keep_each_other_from_sharing() -> None:
    """Blocks of two streams in turn become one frame each."""
    mixed = [
        block(2 * i + j, i, numbers(i, 1), stream=stream)
        for i in range(3)
        for j, stream in enumerate(("main", "other"))
    ]

    assert shape(frames(*mixed)) == [("main", 0, 3), ("other", 0, 3)]


@pytest.mark.parametrize(
    "second",
    [
        block(1, 3, numbers(0, 2)),
        block(1, 2, numbers(0, 2), kind="decision"),
        block(1, 2, numbers(0, 2), clock="unsynced"),
        block(1, 2, Table({"y": np.arange(2)})),
        block(1, 2, Table({"x": np.zeros(2, np.float32)})),
        block(1, 2, Table({"x": np.zeros((2, 2), int)})),
        block(1, 0, numbers(0, 2), epoch=2),
        block(1, 2, Table({}), kind="gap", n=5, body=b"", reason="quota"),
    ],
    ids=["hole", "kind", "clock", "name", "dtype", "shape", "epoch", "gap"],
)
def test_blocks_that_differ_do_not_share_a_frame(second: Block) -> None:
    """What does not look alike, or does not follow, is a frame of its own."""
    assert len(frames(block(0, 0, numbers(0, 2)), second)) == 2


def test_texts_of_any_length_share_a_frame() -> None:
    """The widest text decides the width of the column."""
    tables = [Table({"x": np.array(texts)}) for texts in (["a"], ["abc"], ["ab"])]

    (frame,) = frames(*(block(i, i, table) for i, table in enumerate(tables)))

    assert frame.table.columns["x"].tolist() == ["a", "abc", "ab"]


def test_blocks_with_and_without_something_suspect_share_a_frame() -> None:
    """A sensor that goes bad and well again costs no frames; a frame of good rows no column."""
    suspect = Table({"x": np.arange(2), "quality": np.array([0, 2], MASK)})

    (mixed,) = frames(*(block(i, 2 * i, t) for i, t in enumerate([numbers(0, 2), suspect] * 2)))
    (good,) = frames(block(0, 0, numbers(0, 2)), block(1, 2, numbers(2, 2)))

    assert mixed.table.columns["quality"].tolist() == [0, 0, 0, 2] * 2
    assert mixed.table.columns["quality"].dtype == MASK
    assert "quality" not in good.table.columns


def test_a_column_of_that_name_with_another_meaning_is_left_alone() -> None:
    """Only masks are filled up: other numbers make a frame of their own."""
    other = Table({"x": np.arange(2), "quality": np.array([0.5, 1.0])})

    assert len(frames(block(0, 0, numbers(0, 2)), block(1, 2, other))) == 2


@pytest.mark.parametrize(("acked", "left"), [(0, 10), (4, 6), (9, 1), (10, 0), (99, 0)])
def test_acknowledged_rows_are_left_out(acked: int, left: int) -> None:
    """A block acknowledged in part is sent from where the cloud stands."""
    found = frames(block(0, 0, numbers(0, 5)), block(1, 5, numbers(5, 5)), acked=acked)

    rows = [x for frame in found for x in frame.table.columns["x"].tolist()]
    assert rows == list(range(10))[10 - left :]


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 8192), min_size=1, max_size=6),
    width=st.integers(1, 12),
    noise=st.booleans(),
)
def test_any_blocks_fit_the_wire_and_keep_every_row(
    sizes: list[int], width: int, *, noise: bool
) -> None:
    """However large and incompressible: frames fit, rows are all there, once, in order."""
    rng = np.random.default_rng(3)
    blocks, seq0 = [], 0
    for position, n in enumerate(sizes):
        values = rng.random((n, width)) if noise else np.zeros((n, width))
        table = Table({"x": np.arange(seq0, seq0 + n), "y": values})
        blocks.append(block(position, seq0, table))
        seq0 += n

    made = list(parcels("pump", blocks, {}))

    assert all(len(parcel.payload) <= MAX_PAYLOAD_BYTES for parcel in made)
    rows = [x for p in made for x in decode_frame(p.payload).table.columns["x"].tolist()]
    assert rows == list(range(seq0))


def test_a_row_too_large_for_any_frame_is_reported_with_its_block() -> None:
    """Only the block that cannot be sent is pointed at."""
    rng = np.random.default_rng(3)
    blocks = [
        block(0, 0, Table({"x": np.zeros((2, 16_000))})),
        block(1, 2, Table({"x": rng.random((1, 16_000))})),
    ]

    made = list(parcels("pump", blocks, {}))

    assert [(p.block.id, bool(p.payload)) for p in made] == [(0, True), (1, False)]
