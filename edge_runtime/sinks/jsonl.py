"""Results as JSON lines in a file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_runtime.errors import Rejected, SinkError, Transient
from edge_runtime.types import Estimates, Output

__all__ = ["JsonLinesConfig", "JsonLinesSink"]

# What a person, a rotation or an eviction can clear up while the device runs.
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN}


class JsonLinesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a JSON-lines file.

    Attributes:
        path: The file; it is appended to, its folder is made if missing.
        estimates: Whether estimates are written, or decisions alone.
    """

    path: Path
    estimates: bool = True


class JsonLinesSink:
    """Appends one JSON object a line for every estimate and every decision.

    Numbers are written so that reading them gives the same bits; NaN is null.
    Delivery: a block is written whole or, after an error, not at all; flushed
    to the system after every block and to the disk at close. Thread: one.
    """

    Config = JsonLinesConfig

    def __init__(self, config: JsonLinesConfig) -> None:
        self._config = config
        self._device = ""
        self._file: int | None = None
        self._length: int | None = None

    def open(self, device: str) -> None:
        """Open the file for appending; a line that a power cut tore is ended first.

        Raises:
            Transient: There is no space.
            Rejected: The file cannot be written.
        """
        self._device = device
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
            raise Rejected(
                "is not open",
                where=str(self._config.path),
                expected="open before write",
                remedy="Open the sink first.",
            )
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in self._rows(output))
        try:
            self._append(self._file, lines)
        except OSError as error:
            raise self._failed(error) from error

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

    def _rows(self, output: Output) -> Iterator[dict[str, object]]:
        head = {"device": self._device, "stream": output.stream}
        if self._config.estimates:
            for row in _estimates(output.estimates):
                yield {"kind": "estimate", **head, **row}
        for decision in output.decisions:
            yield {"kind": "decision", **head, **msgspec.structs.asdict(decision)}

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

    def _failed(self, error: OSError) -> SinkError:
        kind = Transient if error.errno in _PASSING else Rejected
        return kind(
            f"cannot be written ({error.strerror})",
            where=str(self._config.path),
            expected="a file that can be appended to",
            remedy="Free space on the disk, or correct the path and its permissions.",
        )


def _estimates(estimates: Estimates) -> Iterator[dict[str, object]]:
    columns = (
        estimates.index.tolist(),
        estimates.start_ns.tolist(),
        estimates.end_ns.tolist(),
        estimates.score.tolist(),
        estimates.value.tolist(),
    )
    for index, start_ns, end_ns, score, value in zip(*columns, strict=True):
        yield {
            "index": index,
            "start_ns": start_ns,
            "end_ns": end_ns,
            "score": score,
            "value": value,
            "effective_id": estimates.effective_id,
        }
