"""Operator versions say what kernels a file really needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_converters.quantise.tflite import TFLiteQuantiser
from edge_converters.stamps import restamp
from edge_runtime.backends import load_session
from edge_runtime.errors import ModelError

MODELS = Path(__file__).parents[1] / "data" / "models"


@pytest.fixture(scope="module")
def dynamic() -> bytes:
    """Return integer weights behind float activations, stamped as the float file was."""
    quantiser = TFLiteQuantiser((MODELS / "hello_world_float.tflite").read_bytes())
    return quantiser.quantise(quantiser.recipe("dynamic", None, {}))


def test_hybrid_kernels_are_stamped_with_their_version(dynamic: bytes) -> None:
    """An older runtime would answer garbage, and now refuses."""
    _, stamps = restamp(dynamic)

    assert [(one.operator, one.needed) for one in stamps] == [("FULLY_CONNECTED", 12)]
    assert "stamped version" in str(stamps[0])


def test_stamping_changes_no_answer(dynamic: bytes) -> None:
    """And happens once: an honest file is left alone to the byte."""
    stamped, _ = restamp(dynamic)
    window = np.array([[1.5]], np.float32)

    before, after = (load_session(None, "tflite", one).run(window) for one in (dynamic, stamped))

    assert before.tobytes() == after.tobytes()
    assert restamp(stamped) == (stamped, ())


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.tflite")), ids=lambda path: path.name)
def test_honest_files_are_left_alone(path: Path) -> None:
    """The converter of TensorFlow stamps what it writes."""
    content = path.read_bytes()

    assert restamp(content) == (content, ())


def test_junk_is_refused() -> None:
    """In words."""
    with pytest.raises(ModelError, match="cannot be read"):
        restamp(b"\x10\x00\x00\x00TFL3" + b"\xff" * 32)
