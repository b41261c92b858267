"""Messages survive the wire, and nothing else gets through it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import WireError
from edge_runtime.sync import messages
from edge_runtime.sync.messages import (
    MAX_PAYLOAD_BYTES,
    Ack,
    BlobChunk,
    BlobRequest,
    BoardTimes,
    CloudState,
    Command,
    FileTime,
    Job,
    JobReport,
    Last,
    LastRow,
    Life,
    Signed,
    decode,
    encode,
)

SIGNED = Signed(b"\x00payload", "0123456789abcdef", b"s" * 64)
EXAMPLES = [
    Ack("pump", 2**63 - 1, 3, "main", 17, must_resume=True),
    Life(
        "pump", 3, 9, is_online=True, base={"main": "ab"}, effective={"main": "cd"}, runtime="0.1"
    ),
    Life(
        "pump",
        3,
        9,
        is_online=True,
        board_times={
            "main": BoardTimes(
                "ab", "raspberry-pi-4", "0" * 12, "A72", 5, (FileTime("cd", "litert", 8.5),)
            )
        },
    ),
    Last("pump", 5, {"main": LastRow(4, {"co": 1.5}, ("high",))}),
    Job("j-1", "pump", "main", "turbine", 5, SIGNED, (SIGNED,), "ab"),
    JobReport("j-1", "pump", "main", "refused", "clamp", measured={"seconds": 0.5}),
    BlobRequest("pump", "a" * 64, 3, 8),
    BlobChunk("a" * 64, 3, 8, b"\xff" * 65536),
    Command("c-1", "report", {"level": "all"}),
    CloudState(is_online=True),
]
TYPES = [type(example) for example in EXAMPLES]


class LifeOfBefore(msgspec.Struct, frozen=True):
    """`Life` as clouds read it that know of no times."""

    device: str
    epoch: int
    incarnation: int
    is_online: bool
    base: dict[str, str] = {}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: msgspec.Struct) -> None:
    """What was encoded is decoded, from MessagePack and from JSON."""
    payload = encode(message)

    assert decode(payload, type(message)) == message
    assert len(payload) <= MAX_PAYLOAD_BYTES
    if not isinstance(message, BlobChunk):
        assert decode(msgspec.json.encode(message), type(message)) == message


@given(payload=st.binary(max_size=400), message_type=st.sampled_from(TYPES))
def test_any_bytes_are_a_message_or_a_wire_error(
    payload: bytes, message_type: type[msgspec.Struct]
) -> None:
    """Bytes from outside never fail in any other way."""
    try:
        decode(payload, message_type)
    except WireError as error:
        assert message_type.__name__ in str(error)  # noqa: PT017 - both outcomes are fine


@given(st.data())
def test_a_damaged_message_is_a_message_or_a_wire_error(data: st.DataObject) -> None:
    """Flipped and missing bytes never fail in any other way."""
    message = data.draw(st.sampled_from(EXAMPLES))
    payload = bytearray(encode(message)[:300])
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))

    try:
        decode(bytes(payload[:cut]), type(message))
    except WireError as error:
        assert error.where  # noqa: PT017 - both outcomes are fine


@pytest.mark.parametrize("message_type", TYPES)
@pytest.mark.parametrize(
    "bomb",
    [
        b"\x91" * 90_000,
        b"\x81\xa1x" + b"\x91" * 90_000,
        b'{"x":' + b"[" * 90_000,
        b"\x81\xa6layers\xdd\xff\xff\xff\xff",
        b"\x81\xa7streams\xdf\xff\xff\xff\xff",
        b"\x81\xa1x\xc6\xff\xff\xff\xff",
        b"\x00" * (MAX_PAYLOAD_BYTES + 1),
    ],
    ids=["nested", "nested-field", "nested-json", "long-list", "long-map", "long-bytes", "large"],
)
def test_bombs_are_refused(bomb: bytes, message_type: type[msgspec.Struct]) -> None:
    """Deep nesting and huge declared lengths are refused at once."""
    with pytest.raises(WireError):
        decode(bomb, message_type)


def test_unknown_fields_are_ignored() -> None:
    """An older device understands a newer cloud."""
    payload = msgspec.msgpack.encode(msgspec.to_builtins(CloudState(is_online=True)) | {"new": [1]})

    assert decode(payload, CloudState) == CloudState(is_online=True)


def test_another_protocol_version_is_refused() -> None:
    """A message of version 2 is not taken for one of version 1."""
    payload = msgspec.msgpack.encode({"is_online": True, "v": 2})

    with pytest.raises(WireError, match="Invalid enum value 2"):
        decode(payload, CloudState)


def test_a_message_that_is_too_large_is_not_sent() -> None:
    """The sender learns of the limit before the broker does."""
    with pytest.raises(WireError, match="at most 98304"):
        encode(Signed(b"x" * MAX_PAYLOAD_BYTES, "k", b"s"))


@pytest.mark.parametrize(("field", "value"), [("device", "../x"), ("epoch", -1), ("upto", 2**63)])
def test_fields_keep_their_grammar(field: str, value: object) -> None:
    """Names and numbers from outside are checked while decoding."""
    fields = msgspec.to_builtins(EXAMPLES[0]) | {field: value}

    with pytest.raises(WireError, match=field):
        decode(msgspec.msgpack.encode(fields), Ack)


def test_every_message_is_public() -> None:
    """Each struct of the module is exported."""
    assert {each.__name__ for each in TYPES} <= set(messages.__all__)


@pytest.mark.parametrize("must_resume", [False, True])
def test_no_flipped_bit_makes_another_acknowledgement(must_resume: bool) -> None:
    """Whichever bit is hit on the way, it says what it said, or it is refused."""
    ack = Ack("pump-1", 2**62 + 5, 7, "main-decisions", 1234, must_resume=must_resume)
    payload = encode(ack)
    refused = 0

    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert decode(bytes(damaged), Ack) == ack
        except WireError:
            refused += 1

    assert refused > 4 * len(payload)


def test_an_acknowledgement_without_a_checksum_is_believed() -> None:
    """An older cloud has none."""
    fields = {"device": "pump-1", "incarnation": 1, "epoch": 2, "stream": "main", "upto": 3}

    assert decode(msgspec.msgpack.encode(fields), Ack) == Ack("pump-1", 1, 2, "main", 3)


def test_a_cloud_of_before_reads_a_life_with_times() -> None:
    """It passes over the field, and keeps it where it stores the message."""
    life = next(one for one in EXAMPLES if isinstance(one, Life) and one.board_times)

    read = decode(encode(life), LifeOfBefore)

    assert (read.device, read.is_online) == ("pump", True)
    beyond = messages.unknown_fields(encode(life), LifeOfBefore)
    assert beyond["board_times"]["main"]["board"] == "raspberry-pi-4"
