"""Segment files of one stream: appended to, and bounded in bytes and age.

::

    <folder>/000000000001.tape      numbers only grow; the highest is being written

The least important file on the device: when the disk runs full it gives its oldest
segments back, and then stops, long before anything else has to.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_runtime.ports import Clock
from edge_runtime.tape.entries import MAGIC

__all__ = ["SUFFIX", "Limits", "Ring", "segment_paths"]

log = logging.getLogger(__name__)

SUFFIX = ".tape"
_SEGMENTS = 16
_SMALLEST_BYTES, _LARGEST_BYTES = 1 << 16, 1 << 24
# How long and for how much the room on the disk is believed.
_LOOK_NS, _LOOK_BYTES = 1_000_000_000, 1 << 20
# Each start of the device begins a segment; a device that keeps starting begins many.
_MOST_SEGMENTS = 1000


class Limits(msgspec.Struct, frozen=True):
    """How much a stream's tape may hold.

    Attributes:
        quota_bytes: Largest size of all segments together.
        max_age_s: A segment goes when its newest frames are older; None for no limit.
        keep_free_bytes: Room on the disk that is left to everybody else.
    """

    quota_bytes: int
    max_age_s: float | None = None
    keep_free_bytes: int = 0


class _Closed(msgspec.Struct, frozen=True):
    """A segment that is not written any more."""

    path: Path
    size_bytes: int
    last_ns: int


class Ring:
    """Appends to the newest segment and removes the oldest.

    Files can be read by their owner alone. Thread: one appends; the counts may be
    read by any. Nothing here raises for want of a disk: what is not kept is told.

    Args:
        folder: Of the stream; made if missing.
        limits: How much it may hold.
        clock: Tells the age of segments.
    """

    def __init__(self, folder: Path, limits: Limits, clock: Clock) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        share = max(limits.quota_bytes // _SEGMENTS, _SMALLEST_BYTES)
        # At most half, so that the one being written can be ended and go like any other.
        self._largest_bytes = min(share, _LARGEST_BYTES, limits.quota_bytes // 2)
        self._closed = [_closed(path) for path in segment_paths(folder)]
        last = self._closed[-1].path.stem if self._closed else "0"
        self._next = int(last) + 1
        self._file: int | None = None
        self._used_bytes = 0
        self._begun_ns = self._last_ns = 0
        # What may be written before the disk is looked at again, and when it was.
        self._spare_bytes = 0
        self._looked_ns = 0
        self.trouble: str | None = None

    @property
    def size_bytes(self) -> int:
        """Size of all segments."""
        return self._used_bytes + sum(one.size_bytes for one in self._closed)

    def append(self, content: bytes, begin: Callable[[], bytes]) -> str | None:
        """Add whole entries.

        Args:
            content: The entries.
            begin: Returns those that a new segment has to begin with.

        Returns:
            None, or the reason why they are not kept: ``too_large``, ``disk_full`` or
            ``failed``.
        """
        now_ns = self._clock.now_ns()
        try:
            trouble = self._appended(content, begin, now_ns)
        except OSError as error:
            self._end_segment()
            trouble = "failed"
            self._tell(trouble, error.strerror or str(error))
        else:
            self._tell(trouble, "")
        return trouble

    def close(self) -> None:
        """Sync the newest segment to the disk and end it; safe to call twice."""
        if self._file is None:
            return
        try:
            os.fsync(self._file)
        except OSError as error:
            log.warning("tape.not_synced", extra={"why": str(error)})
        self._end_segment()

    def give_back(self) -> None:
        """Remove the oldest segment, or end and remove the newest: somebody needs the room."""
        if not self._closed:
            self._end_segment()
        if self._closed:
            self._remove_oldest()

    # --- writing ------------------------------------------------------------------

    def _appended(self, content: bytes, begin: Callable[[], bytes], now_ns: int) -> str | None:
        self._expire(now_ns)
        if self._is_over(len(content), now_ns):
            self._end_segment()
        if self._file is None:
            content = MAGIC + begin() + content
        if not self._has_room(len(content)):
            return "too_large"
        if not self._has_disk(len(content)):
            self._end_segment()
            return "disk_full"
        self._write(content, now_ns)
        return None

    def _is_over(self, count: int, now_ns: int) -> bool:
        """Whether the newest segment is long enough, or spans an eighth of the age."""
        if self._file is None:
            return False
        max_age_s = self._limits.max_age_s
        is_old = max_age_s is not None and now_ns - self._begun_ns > max_age_s * 1e9 / 8
        return is_old or self._used_bytes + count > self._largest_bytes

    def _has_room(self, count: int) -> bool:
        """Remove the oldest segments until so much more fits the quota."""
        while self._closed and (
            self.size_bytes + count > self._limits.quota_bytes
            or len(self._closed) >= _MOST_SEGMENTS
        ):
            self._remove_oldest()
        if self.size_bytes + count > self._limits.quota_bytes:
            self._end_segment()
            return False
        return True

    def _has_disk(self, count: int) -> bool:
        """Leave the disk's last room to others; what this ring holds of it goes first."""
        if self._file is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        now_ns = self._clock.monotonic_ns()
        if count > self._spare_bytes or now_ns - self._looked_ns > _LOOK_NS:
            self._looked_ns = now_ns
            while (spare := self._free_bytes() - self._limits.keep_free_bytes) < count:
                if not self._closed:
                    return False
                self._remove_oldest()
            self._spare_bytes = min(spare, _LOOK_BYTES)
        self._spare_bytes -= count
        return True

    def _free_bytes(self) -> int:
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    def _write(self, content: bytes, now_ns: int) -> None:
        if self._file is None:
            self._file = self._opened()
            self._begun_ns = now_ns
        view = memoryview(content)
        while view:
            view = view[os.write(self._file, view) :]
        self._used_bytes += len(content)
        self._last_ns = now_ns

    def _opened(self) -> int:
        path = self._folder / f"{self._next:012}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        self._path = path
        self._next += 1
        return file

    # --- removing -----------------------------------------------------------------

    def _end_segment(self) -> None:
        """Let go of the newest segment; a write that failed half-way is cut off there."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            os.ftruncate(file, self._used_bytes)
            os.close(file)
        except OSError as error:
            log.warning("tape.not_closed", extra={"path": str(self._path), "why": str(error)})
        if self._used_bytes:
            self._closed.append(_Closed(self._path, self._used_bytes, self._last_ns))
        else:
            self._path.unlink(missing_ok=True)
        self._used_bytes = 0

    def _expire(self, now_ns: int) -> None:
        if self._limits.max_age_s is None:
            return
        oldest_ns = now_ns - self._limits.max_age_s * 1e9
        while self._closed and self._closed[0].last_ns < oldest_ns:
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        self._closed.pop(0).path.unlink(missing_ok=True)

    def _tell(self, trouble: str | None, why: str) -> None:
        """Say so once when something is not kept, and once when it is again."""
        if trouble == self.trouble:
            return
        if trouble is not None:
            facts = {"folder": str(self._folder), "reason": trouble, "why": why}
            log.warning("tape.stopped", extra=facts)
        else:
            log.info("tape.goes_on", extra={"folder": str(self._folder)})
        self.trouble = trouble


def segment_paths(folder: Path) -> list[Path]:
    """Return the segment files of a stream's folder, oldest first; none if it is not there."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


def _closed(path: Path) -> _Closed:
    found = path.stat()
    return _Closed(path, found.st_size, found.st_mtime_ns)
