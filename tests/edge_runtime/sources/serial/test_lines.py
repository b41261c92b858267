"""Lines of text, whole and broken."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.sources.live import Health
from edge_runtime.sources.serial.config import Delimited, KeyValue
from edge_runtime.sources.serial.lines import (
    DelimitedParser,
    JsonParser,
    KeyValueParser,
    LineDecoder,
    LineParser,
)

NUMBERS = st.floats(-1e6, 1e6).map(lambda number: round(number, 6))
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20)
PARSERS: dict[str, LineParser] = {
    "delimited": DelimitedParser(Delimited(fields=("y", "", "x")), ("x", "y")),
    "blanks": DelimitedParser(Delimited(fields=("y", "", "x"), delimiter=" "), ("x", "y")),
    "key_value": KeyValueParser(KeyValue(), ("x", "y")),
    "json": JsonParser(("x", "y")),
}
TEXTS = {
    "delimited": "{1!r},17,{0!r}\r\n",
    "blanks": " {1!r}  17\t{0!r}\n",
    "key_value": "t=4, y={1!r} ,x={0!r}\n",
    "json": '{{"name": "é", "y": {1!r}, "x": {0!r}}}\r\n',
}


def _decoder(parser: LineParser, health: Health | None = None) -> LineDecoder:
    """Return a decoder that has just heard a line end."""
    decoder = LineDecoder(parser, 2, most_bytes=64, health=health or Health())
    decoder.push(b"\n")
    return decoder


def _pushed(decoder: LineDecoder, sent: bytes, cuts: Sequence[int]) -> np.ndarray:
    """Push bytes in pieces of these lengths, again and again."""
    found, first = [], 0
    while first < len(sent):
        for cut in cuts:
            found.append(decoder.push(sent[first : first + cut]))
            first += cut
    return np.concatenate(found)


@pytest.mark.parametrize("kind", sorted(PARSERS))
@settings(max_examples=25)
@given(rows=ROWS, cuts=st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_any_chunking_gives_the_same_numbers(
    kind: str, rows: list[tuple[float, float]], cuts: list[int]
) -> None:
    """However bytes come in, every number comes out to its last bit."""
    sent = "".join(TEXTS[kind].format(*row) for row in rows).encode()
    health = Health()

    found = _pushed(_decoder(PARSERS[kind], health), sent, cuts)

    assert found.tolist() == [list(row) for row in rows]
    assert health.report().faults == {"framing": 1}


@pytest.mark.parametrize("kind", sorted(PARSERS))
@settings(max_examples=25)
@given(noise=st.lists(st.binary(max_size=100), min_size=1, max_size=10))
def test_noise_never_stops_the_stream(kind: str, noise: list[bytes]) -> None:
    """Whatever the bytes, nothing is raised, and a clean line afterwards is read."""
    decoder = _decoder(PARSERS[kind])
    for piece in noise:
        decoder.push(piece)
    decoder.push(b"\n")

    found = decoder.push(TEXTS[kind].format(1.5, -2.0).encode())

    assert found.tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize(
    ("kind", "line", "reason"),
    [
        ("delimited", b"1,2", "unparsable"),
        ("delimited", b"1,2,3,4", "unparsable"),
        ("delimited", b"1,2,three", "unparsable"),
        ("delimited", b"1,2,1_000", "unparsable"),
        ("delimited", b"1,\xff\x00,3", "framing"),
        ("blanks", b"1 2", "unparsable"),
        ("key_value", b"booting, please wait", "unparsable"),
        ("key_value", b"x=1,y=2V", "unparsable"),
        ("json", b'{"log": "booting"}', "unparsable"),
        ("json", b'{"x": "1"}', "unparsable"),
        ("json", b'{"x": 1, "y": tr', "unparsable"),
        ("json", b"[1, 2]", "unparsable"),
        ("json", b'{"x": 1\x80', "framing"),
        ("delimited", b"1" * 65, "framing"),
    ],
)
def test_a_line_that_cannot_be_read_is_counted(kind: str, line: bytes, reason: str) -> None:
    """Text that is no message is unparsable; what is no text shows a fault of the line."""
    health = Health()
    decoder = _decoder(PARSERS[kind], health)
    before = health.report().faults.get(reason, 0)
    good = TEXTS[kind].format(1.0, 2.0).encode()

    found = decoder.push(good + line + b"\n" + good)

    assert found.tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert health.report().faults[reason] == before + 1


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("delimited", b",17,1.5"),
        ("delimited", b"nan,17,1.5"),
        ("key_value", b"x=1.5"),
        ("key_value", b"y=,x=1.5"),
        ("json", b'{"x": 1.5}'),
        ("json", b'{"x": 1.5, "y": null}'),
    ],
)
def test_a_number_that_is_left_out_is_missing_not_zero(kind: str, line: bytes) -> None:
    """It becomes NaN, and the line counts."""
    found = _decoder(PARSERS[kind]).push(line + b"\n")

    assert found[0, 0] == 1.5
    assert math.isnan(found[0, 1])


def test_a_line_that_was_under_way_is_not_believed() -> None:
    """The end of 12.5,0,3 looks like 2.5,0,3."""
    health = Health()
    decoder = LineDecoder(PARSERS["delimited"], 2, most_bytes=64, health=health)

    found = decoder.push(b"2.5,0,3\n1,0,2\n")

    assert found.tolist() == [[2.0, 1.0]]
    assert health.report().faults == {"framing": 1}


def test_a_line_without_end_takes_no_memory() -> None:
    """Noise without a line end is let go, and counted once it ends."""
    health = Health()
    decoder = _decoder(PARSERS["delimited"], health)

    for _ in range(100):
        decoder.push(b"7" * 60)
    kept = len(decoder._rest)
    decoder.push(b"\n")

    assert kept <= 64
    assert health.report().faults == {"framing": 2}


def test_deep_json_is_refused_like_any_other_junk() -> None:
    """A thousand open brackets are no message, and no crash."""
    health = Health()
    decoder = LineDecoder(JsonParser(("x", "y")), 2, most_bytes=65536, health=health)

    found = decoder.push(b'\n{"a": ' + b"[" * 30_000 + b"\n")

    assert len(found) == 0
    assert health.report().faults["unparsable"] == 1
