"""Fetching chunks: windows, time-outs, damage, and what a part file is worth."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest

from edge_runtime.errors import BundleError, TrustError
from edge_runtime.sync.messages import BlobChunk
from edge_runtime.update.fetch import Fetch
from edge_runtime.update.trust import Statement

SECOND_NS = 10**9
ARCHIVE = bytes(range(256)) * 10
CHUNK_BYTES = 100
TOTAL = -(-len(ARCHIVE) // CHUNK_BYTES)


def chunk_bytes_of(index: int) -> bytes:
    return ARCHIVE[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


STATEMENT = Statement(
    name="turbine",
    version="2",
    digest="d" * 64,
    archive_sha256=hashlib.sha256(ARCHIVE).hexdigest(),
    archive_bytes=len(ARCHIVE),
    chunk_bytes=CHUNK_BYTES,
    chunks=tuple(hashlib.sha256(chunk_bytes_of(i)).hexdigest() for i in range(TOTAL)),
    layer_keys=(),
    seq=2,
)


def chunk(index: int, content: bytes | None = None) -> BlobChunk:
    whole = chunk_bytes_of(index) if content is None else content
    return BlobChunk(STATEMENT.archive_sha256, index, TOTAL, whole)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "stream" / "archive.part"


def fetch_at(part: Path) -> Fetch:
    return Fetch(STATEMENT, part, device="pump-7")


def test_chunks_in_any_order_make_the_archive(part: Path) -> None:
    """Every chunk lands at its place, the short last one too."""
    fetch = fetch_at(part)

    kept = [fetch.take(chunk(index), 0) for index in reversed(range(TOTAL))]

    assert all(kept)
    assert fetch.is_complete
    assert part.read_bytes() == ARCHIVE


def test_requests_are_runs_within_the_window(part: Path) -> None:
    """Consecutive chunks are asked for together; eight at most are on their way."""
    fetch = fetch_at(part)
    for index in (2, 5):
        fetch.take(chunk(index), 0)

    requests = fetch.request(0)

    assert [(one.first, one.n) for one in requests] == [(0, 2), (3, 2), (6, 4)]
    assert fetch.request(0) == []


def test_the_window_is_filled_again_when_half_has_come(part: Path) -> None:
    """Requests go out in batches, not one per chunk."""
    fetch = fetch_at(part)
    fetch.request(0)

    asked = [len(fetch.request(0)) for index in range(4) if fetch.take(chunk(index), 0)]

    assert asked == [0, 0, 0, 1]


def test_a_part_file_is_believed_only_where_its_hashes_are_right(part: Path) -> None:
    """What a power cut undid or damaged is fetched again, the rest is not."""
    fetch = fetch_at(part)
    for index in range(6):
        fetch.take(chunk(index), 0)
    content = bytearray(part.read_bytes())
    content[150] ^= 1
    part.write_bytes(content[:520])

    resumed = fetch_at(part)

    first = resumed.request(0)
    assert [(one.first, one.n) for one in first] == [(1, 1), (5, 7)]


def test_silence_is_met_with_longer_waits(part: Path) -> None:
    """Each unanswered round waits longer, up to a minute or so; then the fetch gives up."""
    fetch = fetch_at(part)
    waits: list[int] = []

    def run() -> None:
        for now_s in range(3600):
            fetch.tick(now_s * SECOND_NS)
            if fetch.request(now_s * SECOND_NS):
                waits.append(now_s)

    with pytest.raises(BundleError, match="fetch: 10 requests without an answer"):
        run()
    gaps = [later - earlier for earlier, later in itertools.pairwise(waits)]
    assert 7 <= gaps[0] <= 13
    assert gaps[1] > gaps[0]
    assert all(44 <= gap <= 76 for gap in gaps[4:])


def test_any_answer_ends_the_silence(part: Path) -> None:
    """A slow cloud is not a silent one."""
    fetch = fetch_at(part)
    now = 0
    for index in range(TOTAL):
        fetch.request(now)
        for _ in range(2):
            now += 100 * SECOND_NS
            fetch.tick(now)
            fetch.request(now)
        fetch.take(chunk(index), now)

    assert fetch.is_complete


def test_no_time_out_runs_while_paused(part: Path) -> None:
    """While the link is down nothing is counted; afterwards everything is asked for anew."""
    fetch = fetch_at(part)
    fetch.request(0)
    fetch.pause()

    fetch.tick(10**18)

    assert [(one.first, one.n) for one in fetch.request(10**18)] == [(0, 8)]


def test_damaged_chunks_are_asked_for_again_but_not_for_ever(part: Path) -> None:
    """Two damaged copies are bad luck, a third is a damaged archive."""
    fetch = fetch_at(part)
    for _ in range(2):
        fetch.request(0)
        assert not fetch.take(chunk(0, b"wrong"), 0)

    with pytest.raises(TrustError, match="digest: chunk 0 came 3 times"):
        fetch.take(chunk(0, b""), 0)


@pytest.mark.parametrize(
    "odd",
    [
        BlobChunk("f" * 64, 0, TOTAL, chunk_bytes_of(0)),
        BlobChunk(STATEMENT.archive_sha256, TOTAL, TOTAL, b"x"),
        BlobChunk(STATEMENT.archive_sha256, 2**40, TOTAL, b"x"),
    ],
)
def test_foreign_chunks_change_nothing(part: Path, odd: BlobChunk) -> None:
    """Chunks of other archives or beyond the end are not even written."""
    assert not fetch_at(part).take(odd, 0)
    assert not part.exists()


def test_devices_spread_their_requests(tmp_path: Path) -> None:
    """The jitter differs from device to device."""
    firsts = set()
    for number in range(8):
        fetch = Fetch(STATEMENT, tmp_path / str(number), device=f"pump-{number}")
        fetch.request(0)
        firsts.add(fetch._deadline_ns)

    assert len(firsts) == 8
