"""The kind of state is read from the file, within the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backends.tflite_state import read_state

MODELS = Path(__file__).parents[2] / "data" / "models"
STREAMING = (MODELS / "okay_nabu.tflite").read_bytes()


@pytest.mark.parametrize(
    "name", ["kws_dscnn_int8", "ad_autoencoder_int8", "hello_world_float", "hello_world_int8"]
)
def test_plain_networks_are_stateless(name: str) -> None:
    """Convolutions and dense layers keep nothing between calls."""
    assert read_state((MODELS / f"{name}.tflite").read_bytes()).kind == "stateless"


def test_resource_variables_are_seen() -> None:
    """A microWakeWord model keeps its state in resource variables."""
    assert read_state(STREAMING).kind == "resources"


def test_variable_tensors_are_seen(accumulator: bytes) -> None:
    """A filter with a variable tensor is told from one with resources."""
    assert read_state(accumulator).kind == "variables"


@settings(max_examples=150)
@given(st.integers(4, len(STREAMING) - 1), st.binary(min_size=1, max_size=8))
def test_damage_gives_an_answer_or_a_value_error(place: int, damage: bytes) -> None:
    """Overwritten bytes never raise anything but ValueError."""
    model = STREAMING[:place] + damage + STREAMING[place + len(damage) :]

    try:
        kind = read_state(model).kind
    except ValueError:
        return

    assert kind in ("stateless", "variables", "resources")


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_random_bytes_behind_the_mark_are_read_within_bounds(tail: bytes) -> None:
    """Whatever follows a valid mark is answered or refused, never read past its end."""
    try:
        kind = read_state(b"\x08\0\0\0TFL3" + tail).kind
    except ValueError:
        return

    assert kind in ("stateless", "variables", "resources")


@pytest.mark.parametrize("model", [b"", b"TFL3", STREAMING[4:]])
def test_a_file_without_the_mark_is_refused(model: bytes) -> None:
    """The mark of a TFLite file stands at its fifth byte, or it is none."""
    with pytest.raises(ValueError, match="mark of a TFLite file"):
        read_state(model)
