"""YAML is read strictly, within bounds, and remembers where everything stood."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.config import document
from edge_runtime.config.document import dump_yaml, key_text, parse_document, read_document
from edge_runtime.errors import ConfigError

TEXT = """\
streams:
  pump:
    source: {kind: csv, rate_hz: 1600}
sinks:
  - kind: terminal
"""


def test_positions_are_those_of_an_editor() -> None:
    """Lines and columns count from 1, of values and of keys."""
    document = parse_document(TEXT, "pump.yaml")

    assert document.where("streams", "pump", "source", "rate_hz") == "pump.yaml:3:34"
    assert document.where_key("streams", "pump", "source", "rate_hz") == "pump.yaml:3:25"
    assert document.where("sinks", 0, "kind") == "pump.yaml:5:11"


def test_missing_key_is_placed_at_what_should_hold_it() -> None:
    """A path that is not there falls back to its parent."""
    document = parse_document(TEXT, "pump.yaml")

    assert document.where("streams", "pump", "model", "bundle") == "pump.yaml:3:5"
    assert document.where_key("nothing") == "pump.yaml:1:1"


def test_key_paths_read_as_people_write_them() -> None:
    """Keys are joined by dots, places in lists stand in brackets."""
    assert key_text(("streams", "pump", "limits", 0, "on")) == "streams.pump.limits[0].on"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("2013-01-01", "2013-01-01"),
        ("true", True),
        ("~", None),
        ("", None),
        ("0x10", 16),
        ("010", 10),
        ("1e3", 1000.0),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        (".5", 0.5),
        (".nan", ".nan"),
        ("'5'", "5"),
        ("!!str 5", "5"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    """No word, date or colon turns into something else behind one's back."""
    result = parse_document(f"key: {text}\n", "x").value["key"]

    assert result == value
    assert type(result) is type(value)


def test_keys_are_text() -> None:
    """A limit's ``on`` and ``off`` are keys, not truth values."""
    assert parse_document("{on: 1, 5: 2, true: 3}", "x").value == {"on": 1, "5": 2, "true": 3}


def test_aliases_are_written_out() -> None:
    """An anchor may be used a few times."""
    assert parse_document("a: &x [1, 2]\nb: *x\n", "x").value == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"x:3:1: key 'a' stands here twice; the first is in line 1"),
        ("a: [1, 2\nb: 3\n", r"x:2:2: .*valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", r"x:1:4: tag .* is not allowed"),
        ("a: !!set {b}", "tag .* is not allowed"),
        ("a: !!binary aGk=", "tag .* is not allowed"),
        ("[a]: 1", "x:1:1: a key is a list"),
        ("a: &x [*x]", "too many values"),
        ("a: *nobody", "undefined alias"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("", "the file is empty"),
        ("# nothing but a comment\n", "the file is empty"),
        ("a: 99999999999999999999", "out of range"),
        ("a: " + "9" * 5000, "out of range"),
        ("a: 1e999", "out of range"),
        ("[" * 500, "nested deeper than 32"),
        ("a: \x00", "special characters are not allowed"),
        ("a: b\n\tc: d", "x:2:1: .*cannot start any token"),
    ],
)
def test_invalid_text_says_where(text: str, message: str) -> None:
    """Each is a ConfigError with all four parts."""
    with pytest.raises(ConfigError, match=message) as caught:
        parse_document(text, "x")

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_billion_laughs_end_early() -> None:
    """Nested aliases cannot exhaust memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    start = time.monotonic()

    with pytest.raises(ConfigError, match="too many values"):
        parse_document("\n".join(lines), "x")

    assert time.monotonic() - start < 30


def test_large_file_is_refused(tmp_path: Path) -> None:
    """A file above 1 MiB is no configuration."""
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * ((1 << 20) + 1))

    with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
        read_document(path)
    with pytest.raises(ConfigError, match="larger than"):
        parse_document("#" * ((1 << 20) + 1), "x")


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    """No file, a folder, and binary junk each get a sentence."""
    (tmp_path / "model.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3\xff\xfe")

    for name, message in [("no.yaml", "No such file"), (".", "directory"), ("model.tflite", "UTF")]:
        with pytest.raises(ConfigError, match=message) as caught:
            read_document(tmp_path / name)
        assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    """Files from other systems' editors are read."""
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")

    assert read_document(tmp_path / "x.yaml").value == {"a": 1}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Co"]), max_size=12)
    | st.sampled_from(["on", "1e3", "0o7", "null", "~", "1_0", "2013-01-01", "=", "<<", "- a", ""]),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(st.sampled_from(["on", "off", "a", "1"]), part, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
@settings(max_examples=150)
def test_what_is_dumped_is_read_back_equal(value: object) -> None:
    """Writing and reading keep every value and its type."""
    assert repr(parse_document(dump_yaml({"v": value}), "x").value) == repr({"v": value})


@given(st.text(max_size=60) | st.text("[]{}:,-&*!|>'\"% \n#ab1?", max_size=40))
@settings(max_examples=200)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever is typed, the answer is a document or a ConfigError."""
    try:
        parse_document(text, "x")
    except ConfigError as error:
        assert error.where.startswith("x")  # noqa: PT017


PIECES = [*"[]{}:,-&*'\"% \n#ab1°", "a: ", "- ", ": ", "\n  ", " #", "---\n", "&a ", "*a", '"b":1']


def _drawn(node: yaml.Node) -> object:
    """Return a node with everything that a `Document` takes from it."""
    value = node.value
    if isinstance(node, yaml.SequenceNode):
        value = [_drawn(item) for item in node.value]
    elif isinstance(node, yaml.MappingNode):
        value = [(_drawn(key), _drawn(item)) for key, item in node.value]
    return node.tag, node.start_mark.line, node.start_mark.column, value


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@settings(max_examples=2000)
def test_libyaml_gives_what_pyyaml_gives(text: str) -> None:
    """Where the fast parser has an answer, it is the slow one's, and everything stands there."""
    quick = document._quickly_composed(text)
    if quick is None:
        # Most of such texts are left to the slow parser.
        return

    try:
        drawn = _drawn(quick)
    except RecursionError:
        # A list that holds itself; it is refused later.
        return

    assert drawn == _drawn(document._composed(text, "text"))


def test_ordinary_files_take_the_fast_way() -> None:
    """A manifest and a device with their units, paths and notes are read by libyaml."""
    text = "# a pump\nunits: ['%', '°C', \"m/s²\"]\npath: ../x.csv  # here\nlist:\n- {a: -1.5e3}\n"

    assert document._quickly_composed(text) is not None


def test_a_part_of_a_document_keeps_its_positions() -> None:
    """What stands below a key is a document of its own, and its places are those of the file."""
    part = parse_document(TEXT, "pump.yaml").part("streams", "pump")

    assert part.value == {"source": {"kind": "csv", "rate_hz": 1600}}
    assert part.where("source", "rate_hz") == "pump.yaml:3:34"
    assert part.where_key("source", "rate_hz") == "pump.yaml:3:25"
    assert part.where("sinks") == "pump.yaml:3:5"
