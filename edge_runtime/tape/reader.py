"""Reading tapes: which segments there are, and what is whole in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edge_runtime.errors import SourceError
from edge_runtime.tape.entries import MAGIC, Entry, Origin, Standing, Stretch, decode, scan
from edge_runtime.tape.ring import SUFFIX, segment_paths

__all__ = ["Segment", "Tape", "open_tapes", "place_before"]

# Enough for a segment's first two entries, unless the snapshot is very large.
_BEGINNING_BYTES = 1 << 16


class Segment(msgspec.Struct, frozen=True):
    """One segment file.

    Attributes:
        path: The file.
        origin: Whose frames it holds.
        position: Index of its first sample.
        next_index: Windows that end here or later are answered in it or after it; None
            where that is not known yet, see `Standing`.
        has_grid: Whether its samples may have come in any order.
    """

    path: Path
    origin: Origin
    position: int
    next_index: int | None
    has_grid: bool

    def entries(self) -> Iterator[Entry]:
        """Yield every whole entry in order.

        Raises:
            SourceError: The file cannot be read.
            StoreError: A newer version wrote it.
        """
        for _, body in scan(_content(self.path)):
            yield decode(body, str(self.path))

    @property
    def first_ns(self) -> int | None:
        """Time of its first sample; None where there is none."""
        stretches = (entry for entry in self.entries() if isinstance(entry, Stretch))
        return next((one.first_ns for one in stretches), None)

    @property
    def lost_bytes(self) -> int:
        """Bytes at its end that are not whole: a crash or a power cut left them, or a write."""
        content = _content(self.path)
        whole = len(MAGIC)
        for place, body in scan(content):
            whole = place + 8 + len(body)
        return len(content) - whole


class Tape(msgspec.Struct, frozen=True):
    """One stream's tape.

    Attributes:
        stream: Name of the stream.
        device: Id of the device.
        segments: Oldest first; there is at least one.
    """

    stream: str
    device: str
    segments: tuple[Segment, ...]

    def before(self, epoch: int, index: int) -> tuple[Segment, ...]:
        """Return one epoch's segments from the last on in which a window may be answered first."""
        ours = [one for one in self.segments if one.origin.epoch == epoch]
        place = place_before([one.next_index for one in ours], index)
        return () if place is None else tuple(ours[place:])


def place_before(next_indexes: Sequence[int | None], index: int) -> int | None:
    """Return the last place before which a window has not been answered.

    Args:
        next_indexes: Of places in the order of a tape, see `Standing`.
        index: Of the window's last sample.
    """
    if next_indexes and next_indexes[0] is None:
        # Nothing had been answered when the tape began.
        next_indexes = [-1, *next_indexes[1:]]
    known = [(n, one) for n, one in enumerate(next_indexes) if one is not None]
    return max((n for n, one in known if one <= index), default=None)


def open_tapes(path: Path, stream: str | None = None) -> dict[str, Tape]:
    """Find what was recorded in a folder, a stream's folder, or one segment file.

    Args:
        path: Where.
        stream: Only this one; None for all.

    Raises:
        SourceError: There is no tape, or it cannot be read.
    """
    paths = _segment_files(path)
    segments = [found for one in paths if (found := _segment(one)) is not None]
    tapes: dict[str, Tape] = {}
    for name in sorted({one.origin.stream for one in segments}):
        ours = tuple(one for one in segments if one.origin.stream == name)
        tapes[name] = Tape(name, ours[-1].origin.device, ours)
    if not tapes or (stream is not None and stream not in tapes):
        raise _nothing(path, stream, tapes)
    return tapes if stream is None else {stream: tapes[stream]}


def _segment_files(path: Path) -> Sequence[Path]:
    if path.is_file():
        return [path]
    own = segment_paths(path)
    if own or not path.is_dir():
        return own
    return [one for folder in sorted(path.iterdir()) for one in segment_paths(folder)]


def _segment(path: Path) -> Segment | None:
    """Read a segment's beginning; None where not even that is whole."""
    found = _beginning(path, _BEGINNING_BYTES) or _beginning(path, None)
    if found is None:
        return None
    origin, standing = found
    has_grid = standing.timing is not None
    return Segment(path, origin, standing.position, standing.next_index, has_grid)


def _beginning(path: Path, limit: int | None) -> tuple[Origin, Standing] | None:
    bodies = [body for _, body in zip(range(2), _bodies(path, limit), strict=False)]
    entries = [decode(body, str(path)) for body in bodies]
    match entries:
        case [Origin() as origin, Standing() as standing]:
            return origin, standing
    return None


def _bodies(path: Path, limit: int | None) -> Iterator[memoryview]:
    return (body for _, body in scan(_content(path, limit)))


def _content(path: Path, limit: int | None = None) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(-1 if limit is None else limit)
    except OSError as error:
        raise SourceError(
            f"cannot be read: {error.strerror or error}",
            where=str(path),
            expected="a segment of a tape that you may read",
            remedy="Tapes belong to the user that the device runs as: read them as that user.",
        ) from error


def _nothing(path: Path, stream: str | None, tapes: dict[str, Tape]) -> SourceError:
    if tapes:
        return SourceError(
            f"there is no stream {stream!r}",
            where=str(path),
            expected=f"one of {', '.join(tapes)}",
            remedy="Choose a stream that was recorded.",
        )
    what = "there is no tape" if path.exists() else "it does not exist"
    return SourceError(
        what,
        where=str(path),
        expected=f"a folder that `edge-runtime run --record FOLDER` wrote, or a {SUFFIX} file",
        remedy="Record first, or name the folder that the device's YAML has under record.",
    )
