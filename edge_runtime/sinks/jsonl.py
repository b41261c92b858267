"""Results as JSON lines in a file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec

from edge_runtime.errors import Rejected, SinkError, Transient
from edge_runtime.sinks.rows import rows_of
from edge_runtime.types import Output

__all__ = ["JsonLinesConfig", "JsonLinesSink"]

# What a person, a rotation or an eviction can clear up while the device runs.
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN}


class JsonLinesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a JSON-lines file.

    Attributes:
        path: The file; it is appended to, its folder is made if missing.
        estimates: Whether estimates are written, or decisions alone.
        aside: Whether samples that came too late, or with wild stamps, are written.
    """

    path: Path
    estimates: bool = True
    aside: bool = False


class _Mark(msgspec.Struct, frozen=True):
    """A length of one file, which its numbers on its disk tell from any other."""

    device: int
    inode: int
    length: int


class JsonLinesSink:
    """Appends one JSON object a line for every estimate and every decision.

    Numbers are written so that reading them gives the same bits; NaN is null.
    Delivery: exactly once into a regular file; a block is written whole or, after an
    error, not at all; flushed to the system after every block and to the disk at
    close. Into a pipe or a device: at least once. Thread: one.
    """

    Config = JsonLinesConfig

    def __init__(self, config: JsonLinesConfig) -> None:
        self._config = config
        self._device, self._epoch = "", 0
        self._file: int | None = None
        self._length: int | None = None

    def open(self, device: str, *, epoch: int = 0) -> None:
        """Open the file for appending; a line that a power cut tore is ended first.

        Raises:
            Transient: There is no space.
            Rejected: The file cannot be written.
        """
        self._device, self._epoch = device, epoch
        path = self._config.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            status = os.fstat(self._file)
            # Only a regular file has an end to go back to.
            self._length = status.st_size if stat.S_ISREG(status.st_mode) else None
            self._end_torn_line(self._file)
        except OSError as error:
            self.close()
            raise self._failed(error) from error

    def write(self, output: Output) -> None:
        """Append one block.

        Raises:
            Transient: The disk is full; the file is as it was before.
            Rejected: The file cannot be written, or is not open.
        """
        if self._file is None:
            raise self._not_open()
        wanted = self._config
        rows = rows_of(
            self._device, self._epoch, output, estimates=wanted.estimates, aside=wanted.aside
        )
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        try:
            self._append(self._file, lines)
        except OSError as error:
            raise self._failed(error) from error

    def mark(self, *, is_durable: bool) -> bytes:
        """Return the file and its length; empty where there is no end to go back to.

        Raises:
            Transient: What was written may not be on the disk.
            Rejected: The file is not open.
        """
        if self._file is None:
            raise self._not_open()
        if self._length is None:
            return b""
        try:
            if is_durable:
                os.fsync(self._file)
            status = os.fstat(self._file)
        except OSError as error:
            raise self._failed(error) from error
        return msgspec.msgpack.encode(_Mark(status.st_dev, status.st_ino, self._length))

    def resume(self, mark: bytes) -> None:
        """Cut off what came after ``mark``; a file that was replaced since is left alone.

        Raises:
            Transient: The file cannot be cut.
            Rejected: The file is not open.
        """
        if self._file is None:
            raise self._not_open()
        if not mark or self._length is None:
            return
        then = msgspec.msgpack.decode(mark, type=_Mark)
        status = os.fstat(self._file)
        is_same = (status.st_dev, status.st_ino) == (then.device, then.inode)
        if not is_same or self._length <= then.length:
            return
        try:
            os.ftruncate(self._file, then.length)
        except OSError as error:
            raise self._failed(error) from error
        self._length = then.length

    def close(self) -> None:
        """Sync to the disk and close; safe to call twice.

        Raises:
            Transient: What was written may not be on the disk.
        """
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if self._length is not None:
                os.fsync(file)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(file)

    def _append(self, file: int, lines: bytes) -> None:
        view = memoryview(lines)
        try:
            while view:
                view = view[os.write(file, view) :]
        except OSError:
            if self._length is not None:
                os.ftruncate(file, self._length)
            raise
        if self._length is not None:
            self._length += len(lines)

    def _end_torn_line(self, file: int) -> None:
        if self._length and os.pread(file, 1, self._length - 1) != b"\n":
            self._append(file, b"\n")

    def _not_open(self) -> SinkError:
        return Rejected(
            "is not open",
            where=str(self._config.path),
            expected="open before write",
            remedy="Open the sink first.",
        )

    def _failed(self, error: OSError) -> SinkError:
        kind = Transient if error.errno in _PASSING else Rejected
        return kind(
            f"cannot be written ({error.strerror})",
            where=str(self._config.path),
            expected="a file that can be appended to",
            remedy="Free space on the disk, or correct the path and its permissions.",
        )
