"""Fetch one archive in verified chunks, resumable after a power cut at any instant.

The part file proves itself: at a resume every chunk in it is hashed again, so
nothing has to be believed that a power cut may have undone. Requests carry a
time-out with jitter and back-off, so that a slow or silent cloud sees no storm.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_runtime.errors import BundleError, StoreError, TrustError
from edge_runtime.sync.messages import BlobChunk, BlobRequest
from edge_runtime.update.trust import Statement

__all__ = ["Fetch"]

_WINDOW = 8
_TIMEOUT_S = 10.0
_LONGEST_TIMEOUT_S = 60.0
_MAX_SILENCES = 10
_MAX_BAD = 3


class Fetch:
    """The missing chunks of one archive: which to ask for, and when again.

    Args:
        statement: Verified; its hashes decide what is taken.
        path: Part file; it may hold chunks of an earlier attempt.
        device: Device id; it also seeds the jitter, so that a fleet spreads out.

    Raises:
        StoreError: The part file cannot be read.
    """

    def __init__(self, statement: Statement, path: Path, *, device: str) -> None:
        self.statement = statement
        self.path = path
        self._device = device
        self._missing = _missing(statement, path)
        self._asked: set[int] = set()
        self._deadline_ns: int | None = None
        self._silences = 0
        self._bad: dict[int, int] = {}
        seed = f"{device}/{statement.archive_sha256}"
        self._jitter = random.Random(seed)  # noqa: S311 - spreads requests, keeps no secret

    @property
    def is_complete(self) -> bool:
        """Whether every chunk lies in the part file."""
        return not self._missing

    def request(self, now_ns: int) -> list[BlobRequest]:
        """Return what to ask for now; nothing while enough is under way.

        Args:
            now_ns: Monotonic time.
        """
        if len(self._asked) > _WINDOW // 2 or self.is_complete:
            return []
        free = [index for index in sorted(self._missing) if index not in self._asked]
        wanted = free[: _WINDOW - len(self._asked)]
        if wanted:
            self._asked.update(wanted)
            self._restart_timeout(now_ns)
        return [
            BlobRequest(self._device, self.statement.archive_sha256, first, n)
            for first, n in _runs(wanted)
        ]

    def take(self, chunk: BlobChunk, now_ns: int) -> bool:
        """Keep a chunk if it is wanted and whole.

        Returns:
            Whether it was kept. Foreign and repeated chunks change nothing;
            a damaged one is asked for again.

        Raises:
            TrustError: The same chunk came damaged three times.
            StoreError: The disk did not take it.
        """
        if chunk.sha256 != self.statement.archive_sha256 or chunk.index not in self._missing:
            return False
        self._asked.discard(chunk.index)
        self._silences = 0
        self._restart_timeout(now_ns)
        if hashlib.sha256(chunk.data).hexdigest() != self.statement.chunks[chunk.index]:
            self._count_bad(chunk.index)
            return False
        _write(self.path, self.statement.span(chunk.index)[0], chunk.data)
        self._missing.discard(chunk.index)
        return True

    def tick(self, now_ns: int) -> None:
        """Give up on what has been asked for if nothing came for too long.

        Raises:
            BundleError: Ten requests in a row stayed unanswered.
        """
        if self._deadline_ns is None or now_ns < self._deadline_ns:
            return
        self.pause()
        self._silences += 1
        if self._silences >= _MAX_SILENCES:
            raise BundleError(
                f"fetch: {self._silences} requests without an answer",
                where=f"archive {self.statement.archive_sha256[:16]}",
                expected="chunks",
                remedy="Check that the cloud still has the archive, then offer it again.",
            )

    def pause(self) -> None:
        """Forget what is under way, because the link is down; no time-out runs meanwhile."""
        self._asked.clear()
        self._deadline_ns = None

    def _restart_timeout(self, now_ns: int) -> None:
        wait_s = min(_TIMEOUT_S * 2.0**self._silences, _LONGEST_TIMEOUT_S)
        self._deadline_ns = now_ns + round(wait_s * self._jitter.uniform(0.75, 1.25) * 1e9)

    def _count_bad(self, index: int) -> None:
        self._bad[index] = self._bad.get(index, 0) + 1
        if self._bad[index] >= _MAX_BAD:
            raise TrustError(
                f"digest: chunk {index} came {_MAX_BAD} times with another hash than signed",
                where=f"archive {self.statement.archive_sha256[:16]}",
                expected=f"SHA-256 {self.statement.chunks[index][:16]}…",
                remedy="The archive or the link is damaged; publish the signed archive again.",
            )


def _missing(statement: Statement, path: Path) -> set[int]:
    """Return the chunks that do not lie whole in the part file."""
    try:
        with path.open("rb") as part:
            return {
                index
                for index, digest in enumerate(statement.chunks)
                if hashlib.sha256(part.read(statement.span(index)[1])).hexdigest() != digest
            }
    except FileNotFoundError:
        return set(range(len(statement.chunks)))
    except OSError as error:
        raise _disk(path, error) from error


def _write(path: Path, offset: int, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            written = os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _disk(path, error) from error
    if written != len(data):
        raise _disk(path, OSError("short write"))


def _disk(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"disk: {error.strerror or error}",
        where=str(path),
        expected="room for the archive",
        remedy="Free some space, then offer the update again.",
    )


def _runs(indexes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield first and length of each run of consecutive numbers in a sorted list."""
    first, n = 0, 0
    for index in indexes:
        if n and index == first + n:
            n += 1
            continue
        if n:
            yield first, n
        first, n = index, 1
    if n:
        yield first, n
