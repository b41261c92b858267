"""A value that does not fit is named by file, line, column and key path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from edge_runtime.config import Tombstones, load_yaml, parse_yaml
from edge_runtime.config.convert import convert
from edge_runtime.config.document import parse_document
from edge_runtime.errors import ConfigError


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Refuses unknown keys."""


class Circle(_Strict, frozen=True, tag_field="kind", tag="circle"):
    """A shape."""

    radius: Annotated[float, Meta(gt=0)]


class Square(_Strict, frozen=True, tag_field="kind", tag="square"):
    """A shape."""

    side: float
    colour: Literal["red", "green"] = "red"


class Range(_Strict, frozen=True):
    """A value that checks itself."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigError(
                f"low is {self.low} and high {self.high}",
                expected="low at most high",
                remedy="Swap them.",
            )


class Open(msgspec.Struct, frozen=True):
    """Keeps unknown keys out without refusing them."""

    a: int = 0


class Drawing(_Strict, frozen=True):
    """Every kind of type that a configuration uses."""

    name: str
    shapes: Annotated[tuple[Circle | Square, ...], Meta(max_length=3)] = ()
    ranges: dict[str, Range] = {}
    range: Range | None = None
    scale: float | None = None
    is_final: bool = False
    file: Path | None = None
    when: Annotated[str | int, Meta()] = 0
    open: Open | None = None
    size: int | Literal["max"] = "max"
    numbers: list[int] | None = None
    schema: Literal[1] = 1


def test_fitting_text_becomes_a_struct() -> None:
    """Everything that fits converts in one step."""
    text = "name: x\nshapes: [{kind: circle, radius: 2}]\nranges: {a: {low: 1, high: 2}}\nsize: 3\n"

    drawing = parse_yaml(text, Drawing, "d.yaml")

    assert drawing == Drawing("x", (Circle(2.0),), {"a": Range(1, 2)}, size=3)


def test_unknown_keys_pass_where_a_struct_lets_them() -> None:
    """Only structs that forbid unknown keys refuse them."""
    assert parse_yaml("{name: x, open: {a: 1, b: 2}}", Drawing, "d").open == Open(1)


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A configuration can be moved together with its files."""
    (tmp_path / "d.yaml").write_text("{name: x, file: parts/a.bin}")

    assert load_yaml(tmp_path / "d.yaml", Drawing).file == tmp_path / "parts" / "a.bin"


def test_absolute_paths_stay(tmp_path: Path) -> None:
    """An absolute path is taken as it is."""
    (tmp_path / "d.yaml").write_text("{name: x, file: /etc/a.bin}")

    assert load_yaml(tmp_path / "d.yaml", Drawing).file == Path("/etc/a.bin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: x", r"d:1:1: unknown key 'nam'.*\n  Did you mean 'name'\?"),
        ("{name: x, zzzzzz: 1}", r"unknown key 'zzzzzz'.*\n  Known are: name, shapes"),
        ("shapes: []", r"d:1:1: key 'name' is missing; expected name: text"),
        ("name: 5", r"d:1:7: name is 5; expected text\."),
        ("name:", r"d:1:6: name is empty; expected text\."),
        ("{name: x, is_final: 'no'}", r"d:1:21: is_final is 'no'; expected true or false"),
        ("{name: x, scale: true}", r"scale is true; expected a number or nothing"),
        ("{name: x, range: 5}", r"range is 5; expected a mapping of keys or nothing"),
        ("{name: x, range: {low: 1.5, high: 2}}", r"d:1:24: range.low is 1.5; .*whole number"),
        ("{name: x, range: {low: 3, high: 2}}", r"d:1:18: low is 3 .*low at most high.\n  Swap"),
        ("{name: x, ranges: {a: {low: 1}}}", r"d:1:23: key 'ranges.a.high' is missing"),
        ("{name: x, ranges: {a: {low: 1, high: x}}}", r"d:1:38: ranges.a.high is 'x'"),
        ("{name: x, ranges: []}", r"ranges is a list of 0; expected a mapping"),
        ("{name: x, shapes: [{kind: circel}]}", r"d:1:27: shapes\[0\].kind is 'circel'.*'circle'"),
        ("{name: x, shapes: [{radius: 2}]}", r"shapes\[0\].kind is empty; .*circle, square"),
        ("{name: x, shapes: [{kind: circle, radius: -1}]}", r"shapes\[0\].radius is -1; .*> 0"),
        ("{name: x, shapes: [{kind: circle, radius: a}]}", r"expected a number"),
        (
            "{name: x, shapes: [{kind: square, side: 1, r: 2}]}",
            r"d:1:44: unknown key 'shapes\[0\].r'",
        ),
        (
            "{name: x, shapes: [{kind: square, side: 1, colour: gren}]}",
            r"colour is 'gren'; expected one of red, green.\n  Did you mean 'green'\?",
        ),
        ("{name: x, shapes: [1]}", r"d:1:20: shapes\[0\] is 1; expected a mapping of keys"),
        (
            "{name: x, shapes: [" + "{kind: circle, radius: 1}," * 4 + "]}",
            r"d:1:19: shapes is a list of 4; expected a list of length <= 3",
        ),
        ("{name: x, numbers: [1, b]}", r"d:1:24: numbers\[1\] is 'b'"),
        ("{name: x, file: 5}", r"file is 5"),
        ("{name: x, size: min}", r"size is 'min'"),
        ("{name: x, open: {a: b}}", r"open.a is 'b'"),
        ("[1, 2]", r"d:1:1: the document is a list of 2; expected a mapping of keys"),
        ("{name: x, schema: 2}", r"d:1:19: schema is 2; expected at most 1.\n.*newer"),
        ("{name: x, schema: '1'}", r"schema is '1'"),
        ("{name: x, schema: 0}", r"schema is 0; expected one of 1"),
        ("name: " + "[" * 20 + "]" * 20, r"name is a list of 1"),
        ("{name: x, scale: " + "z" * 500 + "}", r"scale is 'z{50,60}…"),
    ],
)
def test_what_does_not_fit_is_named(text: str, message: str) -> None:
    """Each message has a place, what is there, what was expected and what to do."""
    with pytest.raises(ConfigError, match=f"(?s){message}") as caught:
        parse_yaml(text, Drawing, "d")

    assert caught.value.where.count(":") == 2
    assert caught.value.remedy
    assert caught.value.exit_code == 2


def test_renamed_key_says_where_it_went() -> None:
    """A tombstone beats a guess."""
    table: Tombstones = {(Drawing, "title"): "Write 'name' instead; it means the same."}

    with pytest.raises(ConfigError, match=r"d:1:2: key 'title' was renamed.\n  Write 'name'"):
        convert(parse_document("{title: x}", "d"), Drawing, tombstones=table)
