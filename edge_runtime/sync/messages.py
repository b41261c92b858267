"""Everything that is not a frame of rows: small MessagePack maps, one struct each.

Unknown fields change nothing, so that an older device survives a newer cloud, and
whoever stores a message or sends it on keeps them (`unknown_fields`); a message of
another protocol version is refused. A payload that starts with ``{`` is read as
JSON, for people with a command-line client.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from edge_runtime.errors import WireError

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "MOST_SHOWN",
    "Ack",
    "Answer",
    "Answers",
    "BlobChunk",
    "BlobRequest",
    "BoardTimes",
    "CloudState",
    "Command",
    "FileTime",
    "Job",
    "JobReport",
    "Last",
    "LastRow",
    "Life",
    "Signed",
    "decode",
    "encode",
    "unknown_fields",
]

MAX_PAYLOAD_BYTES = 96 * 1024
"""Largest payload on the wire: fits every hosted broker."""

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9_-]{0,62}\Z")]
Text = Annotated[str, Meta(max_length=1024)]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
PerStream = Annotated[dict[Name, Annotated[str, Meta(max_length=128)]], Meta(max_length=256)]
# Outputs of one stream that messages about what is live name.
MOST_SHOWN = 256
Values = Annotated[dict[Annotated[str, Meta(max_length=128)], float], Meta(max_length=MOST_SHOWN)]

T = TypeVar("T")


class Signed(msgspec.Struct, frozen=True):
    """Bytes and who signed them.

    Attributes:
        payload: What is signed, byte for byte.
        key: First 16 hex digits of SHA-256 over the public key.
        signature: Ed25519 over ``payload``.
    """

    payload: Annotated[bytes, Meta(max_length=MAX_PAYLOAD_BYTES)]
    key: Annotated[str, Meta(max_length=64)]
    signature: Annotated[bytes, Meta(max_length=128)]


class Ack(msgspec.Struct, frozen=True):
    """``dn/ack``: rows below ``upto`` of one stream and epoch are durable in the cloud.

    Attributes:
        device: Whose rows.
        incarnation: Of which ``state.db``; an ack for another one means nothing.
        epoch: Of which process start.
        stream: Outbox stream.
        upto: First sequence number that is *not* stored yet.
        must_resume: Something beyond ``upto`` came and was not kept: send again from ``upto``.
        v: Protocol version.
        crc32: On the wire, of the rest: a flipped bit would delete rows that the cloud has
            not. None once it was checked; without one there is nothing to check.

    Raises:
        ValueError: The checksum does not match.
    """

    device: Name
    incarnation: Number
    epoch: Number
    stream: Name
    upto: Number
    must_resume: bool = False
    v: Literal[1] = 1
    crc32: Number | None = None

    def __post_init__(self) -> None:
        if self.crc32 not in (None, self._checksum()):
            raise ValueError("checksum does not match")
        msgspec.structs.force_setattr(self, "crc32", None)

    def sealed(self) -> dict[str, object]:
        """Return its fields with their checksum, for the wire."""
        return {**msgspec.structs.asdict(self), "crc32": self._checksum()}

    def _checksum(self) -> int:
        named = (self.device, self.incarnation, self.epoch, self.stream, self.upto)
        return zlib.crc32("/".join(map(str, (*named, int(self.must_resume)))).encode())


class Answers(msgspec.Struct, frozen=True):
    """What one stream answers, for whoever shows it.

    Attributes:
        model: ``name@version`` of the base.
        labels: Its outputs, in their order; of more than `MOST_SHOWN` those that decide and
            the first.
        decides: Those that start and end.
        unit: Of a regressor's value.
    """

    model: Text
    labels: Annotated[tuple[Text, ...], Meta(max_length=MOST_SHOWN)] = ()
    decides: Annotated[tuple[Text, ...], Meta(max_length=MOST_SHOWN)] = ()
    unit: Annotated[str, Meta(max_length=64)] = ""


class FileTime(msgspec.Struct, frozen=True):
    """What one model file took on a board.

    Attributes:
        sha256: Of the file.
        backend: Runtime that ran it.
        engine_us: Median time of the model's call for one window on one thread, µs.
    """

    sha256: Annotated[str, Meta(max_length=64)]
    backend: Annotated[str, Meta(max_length=64)]
    engine_us: float


class BoardTimes(msgspec.Struct, frozen=True):
    """What a board took for the files of one base, as ``edge-runtime tune`` measured it there.

    Only sizes are bounded here, so that odd figures never cost a device its `Life`; the
    cloud judges what they say.

    Attributes:
        base: Digest of the base.
        board: Kind of machine, as in ``device init --board``.
        machine: Key of the machine: processor and versions of the runtimes.
        processor: Its name, for people.
        made_ns: When it was measured, by the device's clock.
        files: Files that answered within the base's tolerance.
    """

    base: Annotated[str, Meta(max_length=64)]
    board: Annotated[str, Meta(max_length=64)]
    machine: Annotated[str, Meta(max_length=64)]
    processor: Annotated[str, Meta(max_length=128)]
    made_ns: int
    files: Annotated[tuple[FileTime, ...], Meta(max_length=16)]


class Life(msgspec.Struct, frozen=True):
    """``up/life``, retained: birth of a device's session, and its will.

    Attributes:
        device: Device id.
        epoch: Process start; a will of an older epoch than the last birth is stale.
        incarnation: Of its ``state.db``.
        is_online: False in the will and in a clean good-bye.
        base: Digest of the active base per pipeline stream.
        effective: Effective id per pipeline stream.
        runtime: Version of edge-runtime.
        streams: What each pipeline stream answers; empty where that does not fit a message.
        board_times: What this board took for the base of a stream, where it was measured;
            empty where that does not fit a message.
        v: Protocol version.
    """

    device: Name
    epoch: Number
    incarnation: Number
    is_online: bool
    base: PerStream = msgspec.field(default_factory=dict)
    effective: PerStream = msgspec.field(default_factory=dict)
    runtime: Annotated[str, Meta(max_length=64)] = ""
    streams: Annotated[dict[Name, Answers], Meta(max_length=256)] = msgspec.field(
        default_factory=dict
    )
    board_times: Annotated[dict[Name, BoardTimes], Meta(max_length=256)] = msgspec.field(
        default_factory=dict
    )
    v: Literal[1] = 1


class LastRow(msgspec.Struct, frozen=True):
    """The newest answer of one stream.

    Attributes:
        time_ns: Event time.
        values: Value per label that is shown, or sensor values by name; empty where they do
            not fit a message.
        active: Labels that have started and not ended.
        quality: What is suspect about the samples behind it, by name.
    """

    time_ns: int
    values: Values
    active: Annotated[tuple[Text, ...], Meta(max_length=256)] = ()
    quality: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()


class Last(msgspec.Struct, frozen=True):
    """``up/last``, retained, QoS 0: newest answers, never behind the backlog."""

    device: Name
    made_ns: int
    streams: Annotated[dict[Name, LastRow], Meta(max_length=256)]
    v: Literal[1] = 1


class Job(msgspec.Struct, frozen=True):
    """``dn/job``: run this on that stream. Only a pointer; trust comes from signatures.

    Attributes:
        id: Unique; the device reports under it and does it once.
        device: For whom.
        stream: Pipeline stream.
        model: Model line.
        made_ns: When the cloud made it.
        base: Signed statement of a new base; None keeps the present one.
        layers: Signed layers for that base, replacing all earlier ones.
        requires: Digest of the base the layers need.
        v: Protocol version.
    """

    id: Name
    device: Name
    stream: Name
    model: Name
    made_ns: int
    base: Signed | None = None
    layers: Annotated[tuple[Signed, ...], Meta(max_length=16)] = ()
    requires: Annotated[str, Meta(max_length=64)] = ""
    v: Literal[1] = 1


class JobReport(msgspec.Struct, frozen=True):
    """``up/job/<id>``: how far a job is.

    Attributes:
        id: The job.
        device: Who reports.
        stream: Pipeline stream.
        state: Such as ``fetching``, ``committed`` or ``refused``.
        reason: Why it was refused or rolled back; empty otherwise.
        effective: Effective id that is live after it; empty when unchanged.
        measured: Numbers taken at the gates.
        v: Protocol version.
    """

    id: Name
    device: Name
    stream: Name
    state: Annotated[str, Meta(max_length=32)]
    reason: Text = ""
    effective: Annotated[str, Meta(max_length=64)] = ""
    measured: Values = msgspec.field(default_factory=dict)
    v: Literal[1] = 1


class BlobRequest(msgspec.Struct, frozen=True):
    """``up/blob``: chunks ``first`` to ``first + n`` (exclusive) of an archive, please."""

    device: Name
    sha256: Digest
    first: Number
    n: Annotated[int, Meta(ge=1, le=64)]
    v: Literal[1] = 1


class BlobChunk(msgspec.Struct, frozen=True):
    """``dn/blob``: one chunk of an archive; its hash stands in the signed statement."""

    sha256: Digest
    index: Number
    total: Annotated[int, Meta(ge=1, le=65536)]
    data: Annotated[bytes, Meta(max_length=64 * 1024)]
    v: Literal[1] = 1


class Command(msgspec.Struct, frozen=True):
    """``dn/cmd``: something a person asked a device to do; `Answer` answers it.

    Attributes:
        id: Unique; the device does it once, and answers under it.
        name: What to do, such as ``status``.
        options: How; what they mean is the command's.
        deadline_ns: After this instant, UTC, it is not done any more; 0 for never.
        v: Protocol version.
    """

    id: Name
    name: Name
    options: Annotated[dict[Name, Text], Meta(max_length=32)] = msgspec.field(default_factory=dict)
    deadline_ns: int = 0
    v: Literal[1] = 1


class Answer(msgspec.Struct, frozen=True):
    """``up/evt``: how a command ended.

    Attributes:
        id: The command.
        device: Who answers.
        state: ``done``, ``refused`` (unknown, or options that do not fit), ``expired``
            (it came after its deadline) or ``failed``.
        result: What a command that was done found out.
        reason: Why it was not done; empty otherwise.
        made_ns: When it was done or refused, by the device's clock.
        v: Protocol version.
    """

    id: Name
    device: Name
    state: Literal["done", "refused", "expired", "failed"]
    result: Annotated[dict[str, Any], Meta(max_length=256)] = msgspec.field(default_factory=dict)
    reason: Text = ""
    made_ns: int = 0
    v: Literal[1] = 1


class CloudState(msgspec.Struct, frozen=True):
    """``all/cloud``, retained, and the ingest's will: whether rows can be taken now.

    Attributes:
        is_online: Whether an ingest is there; devices keep their rows while none is.
        made_ns: When that ingest came up; another value means another ingest, which
            has not seen what was on its way to the one before.
        v: Protocol version.
    """

    is_online: bool
    made_ns: int = 0
    v: Literal[1] = 1


_NOTHING: Mapping[str, object] = {}


def encode(message: msgspec.Struct, *, beyond: Mapping[str, object] = _NOTHING) -> bytes:
    """Return the MessagePack payload of one message.

    Args:
        message: What to say.
        beyond: Fields of a newer version that came with it, from `unknown_fields`.

    Raises:
        WireError: It is larger than `MAX_PAYLOAD_BYTES` or holds text that is no UTF-8.
    """
    where = type(message).__name__
    try:
        whole = message.sealed() if isinstance(message, Ack) else message
        if beyond:
            whole = {**beyond, **msgspec.structs.asdict(message)}
        payload = msgspec.msgpack.encode(whole)
    except ValueError as error:
        raise WireError(f"it does not encode: {error}", where=where) from error
    return check_size(payload, where)


def decode(payload: bytes, type: type[T]) -> T:  # noqa: A002 - the word msgspec uses
    """Read one message, strictly and within bounds.

    Args:
        payload: MessagePack, or JSON when it starts with ``{``.
        type: Struct to read.

    Raises:
        WireError: Anything is not as declared, whatever the bytes are.
    """
    check_size(payload, type.__name__)
    return read(payload, type)


def read(payload: bytes, type: type[T]) -> T:  # noqa: A002 - as above
    """Decode without the size limit; every failure is a `WireError`."""
    codec = msgspec.json if payload[:1] == b"{" else msgspec.msgpack
    try:
        message: T = codec.decode(payload, type=type)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        where = type.__name__.lstrip("_")
        raise WireError(f"it does not decode: {error}", where=where) from error
    return message


def unknown_fields(payload: bytes, type: type[msgspec.Struct]) -> dict[str, Any]:  # noqa: A002
    """Return the fields of a message that this version does not know, to keep them.

    Raises:
        WireError: It is no map with text as keys.
    """
    known = type.__struct_encode_fields__
    return {
        name: value for name, value in read(payload, dict[str, Any]).items() if name not in known
    }


def check_size(payload: bytes, where: str) -> bytes:
    """Return ``payload`` if it fits on the wire.

    Raises:
        WireError: It does not.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError(
            f"payload has {len(payload)} bytes",
            where=where,
            expected=f"at most {MAX_PAYLOAD_BYTES}",
        )
    return payload
