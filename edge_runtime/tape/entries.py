"""What a segment file holds: entries, each with its length and checksum.

::

    segment   MAGIC entry…          the first is an Origin, the second a Standing
    entry     length u32, CRC-32 of the body u32, body        little endian
    body      MessagePack, a map that says its kind

A crash or a power cut may leave the last entries cut off or as zeros. What comes
before the first entry that is not whole is used; nothing behind it is.
Unknown keys of a body are passed over, so that an older reader reads a newer tape.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from edge_runtime.errors import StoreError
from edge_runtime.ports import Choice, Timing
from edge_runtime.types import Decision

__all__ = [
    "MAGIC",
    "VERSION",
    "Answers",
    "Change",
    "Column",
    "Entry",
    "Origin",
    "Silence",
    "Standing",
    "Stretch",
    "decode",
    "encode",
    "scan",
]

MAGIC = b"edge-runtime tape\n"
VERSION = 1

_HEAD = struct.Struct("<II")
_LARGEST_BYTES = 1 << 28


class Origin(msgspec.Struct, frozen=True, tag="origin"):
    """Whose frames a segment holds.

    Attributes:
        version: Of this format.
        device: Device id.
        stream: Name of the stream.
        epoch: Which start of the device's process.
        incarnation: Of the device's state, see `StateStore`.
        places: Files and folders in which the bundles lay, absolute.
        made_ns: When the segment was begun, by the device's clock.
    """

    version: int
    device: str
    stream: str
    epoch: int
    incarnation: int
    places: tuple[str, ...]
    made_ns: int


Change = Literal["none", "layers", "pipeline"]


class Standing(msgspec.Struct, frozen=True, tag="standing"):
    """How the stream stood before the frames that follow.

    Attributes:
        position: Index of the next sample.
        next_index: Windows that end here or later are still to be answered; None where
            no slot of a grid has been made yet.
        base: Digest of the base.
        ref: The base's name and version, for people.
        choice: How its model is run.
        layers: Its active layers, each as `Layer.encode` gives it.
        snapshot: Of the pipeline.
        timing: How long the stream waits for samples; None where it has no grid.
        change: What was done right before: other layers were made live, or another
            pipeline took over. Else it is only a place to begin from.
    """

    position: int
    next_index: int | None
    base: str
    ref: str
    choice: Choice
    layers: tuple[bytes, ...]
    snapshot: bytes
    timing: Timing | None = None
    change: Change = "none"


class Column(msgspec.Struct, frozen=True, array_like=True):
    """An array with a row for each sample.

    Attributes:
        dtype: NumPy's name of it.
        shape: Of a row.
        content: The rows, C order.
    """

    dtype: str
    shape: tuple[int, ...]
    content: bytes


class Stretch(msgspec.Struct, frozen=True, tag="stretch"):
    """Frames that follow each other and differ in nothing but their samples and times.

    Attributes:
        index: Of the first sample.
        counts: Samples in each frame.
        first_ns: Time of the first sample.
        step_ns: Time from each sample to the next.
        jitter: What the steps differ by, where they do.
        columns: Everything else that a frame has for each sample, by field.
        facts: Every other field of the frames.
        is_passed: Whether nobody answered them: the model was away or refused them.
    """

    index: int
    counts: tuple[int, ...]
    first_ns: int
    step_ns: int
    jitter: Column | None
    columns: dict[str, Column]
    facts: dict[str, Any]
    is_passed: bool = False


class Silence(msgspec.Struct, frozen=True, tag="silence"):
    """No frame came, and the stream was told so.

    Attributes:
        passed_s: Time since the last sample came; None where the stream had ended.
    """

    passed_s: float | None


class Answers(msgspec.Struct, frozen=True, tag="answers"):
    """What the device made of the entries before this one; see `windows_of`.

    Attributes:
        effective_id: Of base and layers.
        index: Of the windows' last samples, int64.
        value: float64, a row for each window.
        score: The same before the layers; empty where no layer has changed it.
        decisions: As they were made.
        marks: Columns that only some windows have, by field of `Estimates`.
        is_retracted: Whether the windows are taken back.
        is_last: Whether nothing more was made of these entries.
    """

    effective_id: str
    index: bytes
    value: bytes
    score: bytes
    decisions: tuple[Decision, ...]
    marks: dict[str, bytes] = {}
    is_retracted: bool = False
    is_last: bool = True


Entry = Origin | Standing | Stretch | Silence | Answers

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """Return an entry as it stands in a file."""
    body = _encoder.encode(entry)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def scan(content: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield where each whole entry begins, and its body, up to the first that is not whole."""
    view = memoryview(content)
    if bytes(view[: len(MAGIC)]) != MAGIC:
        return
    place = len(MAGIC)
    while place + _HEAD.size <= len(view):
        length, checksum = _HEAD.unpack_from(view, place)
        body = view[place + _HEAD.size : place + _HEAD.size + length]
        # Zeros, which a power cut leaves, have the checksum of nothing.
        if not 0 < length <= _LARGEST_BYTES or len(body) < length or zlib.crc32(body) != checksum:
            return
        yield place, body
        place += _HEAD.size + length


def decode(body: bytes | memoryview, where: str) -> Entry:
    """Read the body of a whole entry.

    Raises:
        StoreError: Another program or a newer version wrote it.
    """
    try:
        entry: Entry = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(
            f"an entry with a right checksum does not decode: {error}",
            where=where,
            expected=f"entries of version {VERSION}",
            remedy="A newer edge-runtime wrote it; read it with that version.",
        ) from error
    return entry
