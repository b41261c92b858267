"""A ring keeps its bounds, and gives way to everybody else on the disk."""

from __future__ import annotations

import stat
import subprocess
import sys
import textwrap
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.tape import Limits, Ring, open_tapes
from edge_runtime.testing import FakeClock

from .conftest import Record, taken  # isort: skip


def _on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.tape"))


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 90_000), min_size=1, max_size=60),
    quota_bytes=st.integers(1, 400_000),
    restarts=st.sets(st.integers(0, 60)),
)
def test_the_bytes_never_exceed_the_quota(
    tmp_path_factory: object, sizes: list[int], quota_bytes: int, restarts: set[int]
) -> None:
    """Whatever is appended, and however often the device starts anew."""
    folder = tmp_path_factory.mktemp("ring")  # type: ignore[attr-defined]
    limits, clock = Limits(quota_bytes), FakeClock()
    ring = Ring(folder, limits, clock)

    for number, size in enumerate(sizes):
        if number in restarts:
            ring.close()
            ring = Ring(folder, limits, clock)
        reason = ring.append(bytes(size), lambda: b"head")

        assert _on_disk(folder) == ring.size_bytes <= quota_bytes
        assert (reason is None) or (reason == "too_large" and size + 22 > quota_bytes)
    ring.close()


def test_the_newest_is_what_is_kept(record: Record, tmp_path: Path) -> None:
    """The oldest frames go first, and what is left can be read from a standing on."""
    recorder = record(quota_bytes=200_000)

    for commit in range(1000):
        recorder.write(taken(20 * commit))
    recorder.close()

    tape = open_tapes(tmp_path / "rec")["main"]
    assert 0 < tape.segments[0].position < tape.segments[-1].position < 20_000
    assert recorder.frames == 2000
    assert not recorder.discarded


def test_old_segments_go(record: Record, tmp_path: Path) -> None:
    """Nothing is older than the age by more than an eighth of it."""
    clock = FakeClock()
    recorder = record(clock, max_age_s=80.0)

    for second in range(200):
        recorder.write(taken(20 * second))
        clock.advance(1.0)
    recorder.close()

    tape = open_tapes(tmp_path / "rec")["main"]
    assert 20 * (200 - 80 - 12) <= tape.segments[0].position <= 20 * (200 - 80 + 12)


def test_only_the_owner_can_read(record: Record, tmp_path: Path) -> None:
    """Raw data of a sensor stays between the device and its user."""
    recorder = record()

    recorder.write(taken(0))
    recorder.close()

    folder = tmp_path / "rec" / "main"
    (path,) = folder.glob("*.tape")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_last_room_on_the_disk_is_left_to_others(record: Record, tmp_path: Path) -> None:
    """Short of room nothing is written, what was recorded is given back, and it is counted."""
    before = record()
    before.write(taken(0))
    before.close()
    recorder = record(keep_free_bytes=1 << 62, position=20)

    recorder.write(taken(20))

    assert recorder.discarded == {"disk_full": 2}
    assert recorder.size_bytes == 0
    assert not list((tmp_path / "rec" / "main").glob("*.tape"))


def test_somebody_who_needs_the_room_gets_it(record: Record, tmp_path: Path) -> None:
    """The outbox may ask for what the tape takes, down to the last segment; then it goes on."""
    recorder = record(quota_bytes=1 << 18)
    for commit in range(400):
        recorder.write(taken(20 * commit))
    sizes = []

    while recorder.size_bytes:
        sizes.append(recorder.size_bytes)
        recorder.give_back()
    recorder.write(taken(8000))
    recorder.close()

    assert len(sizes) > 1 and sizes == sorted(sizes, reverse=True)
    assert open_tapes(tmp_path / "rec")["main"].segments[0].position == 8000


def test_a_write_that_fails_half_way_leaves_whole_entries(tmp_path: Path) -> None:
    """A file that cannot grow any more is cut back to what was whole; the next one goes on."""
    script = textwrap.dedent(
        """\
        import resource, sys
        from pathlib import Path
        from edge_runtime.tape import Limits, Ring
        from edge_runtime.tape.entries import MAGIC
        from edge_runtime.testing import FakeClock
        ring = Ring(Path(sys.argv[1]), Limits(1 << 24), FakeClock())
        kept = [ring.append(bytes(1000), lambda: b"") for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (3500, resource.RLIM_INFINITY))
        failed = ring.append(bytes(1000), lambda: b"")
        again = ring.append(bytes(1000), lambda: b"")
        sizes = [path.stat().st_size - len(MAGIC) for path in sorted(Path(sys.argv[1]).iterdir())]
        print(kept, failed, again, sizes)
        """
    )

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "ring")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert done.stdout.strip() == "[None, None, None] failed None [3000, 1000]"
