"""What happens to single units of a stream, whatever pieces it comes in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_simulator.link.flow import Chances, Flow, Hits, Unit
from edge_simulator.link.packets import Splitter, is_publish, tail_of

CHANCES = Chances(drop=0.2, duplicate=0.2, reorder=0.2, truncate=0.2, corrupt=0.2)
PING = b"\xc0\x00"


def publish(number: int, payload: bytes) -> bytes:
    """Return an MQTT 3.1.1 PUBLISH of QoS 1 to ``a/b``."""
    body = b"\x00\x03a/b" + number.to_bytes(2, "big") + payload
    length = bytearray()
    left = len(body)
    while left >= 128:
        length.append(left % 128 | 0x80)
        left //= 128
    return bytes([0x32]) + bytes([*length, left]) + body


STREAM = b"".join(part for i in range(40) for part in (publish(i + 1, bytes([i]) * (i * 11)), PING))


def pushed(unit: Unit, pieces: Sequence[bytes], chances: Chances) -> tuple[bytes, Hits]:
    hits = Hits()
    flow = Flow(unit, "7", hits)
    return b"".join(out for piece in pieces for out in flow.push(piece, chances)), hits


def packets(stream: bytes) -> list[bytes]:
    return list(Splitter().push(stream))


@settings(max_examples=60)
@given(
    unit=st.sampled_from(["bytes", "packets"]),
    chances=st.builds(
        Chances,
        **dict.fromkeys(Chances.__struct_fields__, st.sampled_from([0.0, 0.1, 0.7, 1.0])),
    ),
    cuts=st.lists(st.integers(0, len(STREAM)), max_size=12),
)
def test_what_is_hit_does_not_depend_on_pieces(
    unit: Unit, chances: Chances, cuts: list[int]
) -> None:
    """However a stream is cut into pieces, the same units are hit in the same way."""
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]

    assert pushed(unit, pieces, chances) == pushed(unit, [STREAM], chances)


@pytest.mark.parametrize("unit", ["bytes", "packets"])
def test_without_chances_everything_passes(unit: Unit) -> None:
    """A sound link changes nothing, MQTT or not."""
    for stream in (STREAM, bytes(range(256)) * 9):
        out, hits = pushed(unit, [stream], Chances())

        assert (out, hits) == (stream, Hits())


def test_packets_stay_packets() -> None:
    """Whole PUBLISH packets are hit and nothing else: what arrives is packets again."""
    out, hits = pushed("packets", [STREAM], CHANCES)
    arrived = packets(out)

    assert b"".join(arrived) == out
    assert sum(packet == PING for packet in arrived) == 40
    assert all(packet == PING or packet.startswith(b"\x32") for packet in arrived)
    assert sum(map(is_publish, arrived)) == 40 - hits.dropped + hits.duplicated
    assert min(hits.dropped, hits.duplicated, hits.reordered, hits.truncated, hits.corrupted) > 0


@pytest.mark.parametrize("kind", ["drop", "duplicate", "reorder", "truncate", "corrupt"])
def test_each_kind_does_what_its_name_says(kind: str) -> None:
    """Every PUBLISH is lost, doubled, late, shorter, or one bit off behind its topic and id."""
    sent = [publish(1, b"first" * 60), publish(2, b"second")]

    out, _ = pushed("packets", [*sent, PING], Chances(**{kind: 1.0}))
    arrived = packets(out)[:-1]

    if kind == "drop":
        assert arrived == []
    elif kind == "duplicate":
        assert arrived == [sent[0], sent[0], sent[1], sent[1]]
    elif kind == "reorder":
        assert arrived == sent, "both wait for what comes next"
    elif kind == "truncate":
        assert all(len(a) < len(b) for a, b in zip(arrived, sent, strict=True))
        assert all(
            a[tail_of(a) :] == b[tail_of(b) :][: len(a) - tail_of(a)]
            for a, b in zip(arrived, sent, strict=True)
        )
    else:
        for a, b in zip(arrived, sent, strict=True):
            bits = [bin(x ^ y).count("1") for x, y in zip(a, b, strict=True)]
            assert sum(bits) == 1 and bits.index(1) >= tail_of(b) + 2


def test_a_late_packet_comes_after_its_successor() -> None:
    """Reordering swaps neighbours, it does not lose."""
    sent = [publish(i + 1, bytes(8)) for i in range(200)]

    out, hits = pushed("packets", sent, Chances(reorder=0.2))
    arrived = packets(out)

    assert hits.reordered > 10
    assert arrived != sent[: len(arrived)]
    assert set(sent[:-5]) <= set(arrived)


@given(st.binary(max_size=600))
def test_any_bytes_are_cut_without_loss(stream: bytes) -> None:
    """What is no MQTT is passed on, or held back until it is whole, never changed."""
    assert stream.startswith(b"".join(packets(stream)))
