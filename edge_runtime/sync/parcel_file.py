"""Frames in one file, so that a memory stick carries what a network does not.

The file begins with a line that says what it is; each frame is its length, four bytes
big-endian, and the payload that would have been published.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from edge_runtime.errors import WireError
from edge_runtime.sync.messages import MAX_PAYLOAD_BYTES

__all__ = ["read_payloads", "write_payloads"]

_MAGIC = b"edge-runtime frames 1\n"
_LENGTH = struct.Struct(">I")


def write_payloads(file: BinaryIO, payloads: Iterable[bytes]) -> int:
    """Write frames; return how many."""
    file.write(_MAGIC)
    count = 0
    for payload in payloads:
        file.write(_LENGTH.pack(len(payload)) + payload)
        count += 1
    return count


def read_payloads(path: Path) -> Iterator[bytes]:
    """Read frames one by one.

    Raises:
        WireError: It is no such file, or ends in the midst of a frame.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise WireError("no file of frames", where=str(path), expected=_MAGIC.decode().strip())
        while header := file.read(_LENGTH.size):
            size = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else -1
            payload = file.read(size) if 0 < size <= MAX_PAYLOAD_BYTES else b""
            if len(payload) != size:
                raise WireError(
                    f"the frame before byte {file.tell()} is cut off or too large",
                    where=str(path),
                    expected=f"whole frames of at most {MAX_PAYLOAD_BYTES} bytes",
                )
            yield payload
