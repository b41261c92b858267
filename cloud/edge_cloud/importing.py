"""Rows that came as a file instead of over the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from edge_cloud.store import Store, check_frame
from edge_runtime.errors import StoreError
from edge_runtime.sync.frames import RowFrame, decode_frame
from edge_runtime.sync.parcel_file import read_payloads

__all__ = ["Taken", "import_frames"]

_GROUP_FRAMES = 256


class Taken(msgspec.Struct, frozen=True):
    """What a file brought.

    Attributes:
        frames: Frames in it.
        rows: Rows that the store did not have.
        gap_rows: Rows that the device had to drop, of which the store did not know.
        missing_before: Streams whose rows were not taken, because rows before them are
            still to come.
    """

    frames: int
    rows: int
    gap_rows: int
    missing_before: tuple[str, ...]


def import_frames(store: Store, path: Path, tell: Callable[[str, str, float], None]) -> Taken:
    """Take the frames of a file as an ingest takes them from a broker.

    Nothing is acknowledged to the device: it sends the same rows once it has a link,
    and is then told that they are here.

    Args:
        store: Where rows go.
        path: Written by ``edge-runtime outbox export --format frames``.
        tell: Told the step, what is in work, and the share that lies behind.

    Raises:
        StoreError: The file cannot be read, or the store refuses; what was taken stays.
        WireError: A frame is damaged; what came before it stays.
    """
    before, total = store.status(), max(1, _size(path))
    frames = read = 0
    missing: set[str] = set()
    payloads = read_payloads(path)
    while group := list(_decoded(islice(payloads, _GROUP_FRAMES))):
        frames += len(group)
        read += sum(size for _, size in group)
        for ack in store.ingest([frame for frame, _ in group]):
            if ack.must_resume:
                missing.add(f"{ack.device}/{ack.stream}")
        tell("import", f"{frames} frames", read / total)
    after = store.status()
    return Taken(
        frames,
        after.rows - before.rows,
        after.gap_rows - before.gap_rows,
        tuple(sorted(missing)),
    )


def _decoded(payloads: Iterator[bytes]) -> Iterator[tuple[RowFrame, int]]:
    for payload in payloads:
        yield check_frame(decode_frame(payload)), len(payload)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise StoreError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            expected="a file of frames",
            remedy="Write one: edge-runtime outbox export DEVICE --format frames -o FILE.",
        ) from error
