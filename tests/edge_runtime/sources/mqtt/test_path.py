"""Paths find what they name, and nothing else."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.sources.mqtt.path import number_of, parse_path

STEPS = st.lists(
    st.one_of(
        st.integers(-5, 5), st.text(st.characters(exclude_characters="'"), min_size=1, max_size=6)
    ),
    max_size=6,
)


def _written(steps: list[str | int], *, is_absolute: bool) -> str:
    """Write a path in its shortest form."""
    text = "$" if is_absolute else ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif set(step) & set('.[]"\n$') or step[0] in "'$":
            text += f"['{step}']"
        else:
            text += f".{step}" if text else step
    return text


def _nested(steps: list[str | int], leaf: object) -> Any:
    """Build the smallest document in which the steps lead to the leaf."""
    document = leaf
    for step in reversed(steps):
        if isinstance(step, int):
            size = step + 1 if step >= 0 else -step
            document = [document if i == step % size else "other" for i in range(size)]
        else:
            document = {"other than any": 0, step: document}
    return document


@given(STEPS, st.booleans())
def test_a_path_leads_to_its_leaf_and_nowhere_in_other_documents(
    steps: list[str | int], is_absolute: bool
) -> None:
    """Whatever names and indices it has, written down and read again it finds the same leaf."""
    path = parse_path(_written(steps, is_absolute=is_absolute))

    assert path.steps == tuple(steps)
    assert path.is_absolute == is_absolute
    assert path.find(_nested(steps, 21.5)) == 21.5
    if steps:
        assert path.find(21.5) is None
        assert path.find({}) is None
        assert path.find([]) is None


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", ()),
        ("$", ()),
        ("$.data.temp", ("data", "temp")),
        ("values[0].v", ("values", 0, "v")),
        ("[-1]", (-1,)),
        ("$['a.b'][\"c'd\"]", ("a.b", "c'd")),
        ("Messwert °C", ("Messwert °C",)),
        ("['$x']", ("$x",)),
    ],
)
def test_forms_of_a_path(text: str, steps: tuple[str | int, ...]) -> None:
    """Both forms that people write are understood."""
    assert parse_path(text).steps == steps


@pytest.mark.parametrize(
    "text", ["$..a", "a[*]", "a[", "a[]", "a.", "a[1:2]", "a]", ".", "$a", "['']"]
)
def test_what_is_no_path_is_refused(text: str) -> None:
    """Wildcards, slices and typing errors are named when the configuration is read."""
    with pytest.raises(ConfigError, match="is no path") as caught:
        parse_path(text)

    assert caught.value.expected and caught.value.remedy


@given(st.text())
def test_any_text_is_a_path_or_refused(text: str) -> None:
    """Nothing else is ever raised."""
    with contextlib.suppress(ConfigError):
        parse_path(text).find({"a": [1]})


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (21, 21.0),
        (True, 1.0),
        ("21.5", 21.5),
        (None, None),
        ("ON", None),
        ({"v": 1}, None),
        ([1], None),
        (math.nan, None),
        ("inf", None),
        (10**400, None),
    ],
)
def test_numbers_are_numbers_and_everything_else_is_absent(
    value: object, number: float | None
) -> None:
    """Absence is None, never zero."""
    assert number_of(value) == number
