"""A TFLite file is read whole, wherever its weights lie, and written as one piece."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from edge_converters.embed import embed, read_manifest
from edge_converters.quantise.answers import answer
from edge_converters.quantise.tflite import TFLiteQuantiser
from edge_converters.stamps import restamp
from edge_converters.tflite_file import read_file, write_file
from edge_runtime.errors import ModelError


@pytest.fixture(scope="module")
def large(networks: Any, tflite_quantiser: Any) -> tuple[bytes, np.ndarray]:
    """Give a quantised file whose weights lie behind the FlatBuffer, and windows for it."""
    dice = np.random.default_rng(0)
    sizes = (640, 512, 512, 640)
    layers = tuple(
        networks.Layer(dice.normal(0, 0.05, pair).astype(np.float32), np.zeros(pair[1], np.float32))
        for pair in itertools.pairwise(sizes)
    )
    windows = dice.normal(size=(64, 640)).astype(np.float32)
    task = networks.Task(networks.Network(layers), windows, (), ())
    quantiser: TFLiteQuantiser = tflite_quantiser(task)
    recipe = quantiser.recipe("int8", quantiser.calibrate(windows), {})
    return quantiser.quantise(recipe), windows


def test_weights_behind_the_flatbuffer_are_kept(large: tuple[bytes, np.ndarray]) -> None:
    """Written again, stamped and with a manifest, the file answers to the byte as before."""
    model, windows = large
    expected = answer("tflite", model, windows)
    assert any(one.offset > 1 for one in _buffers(model))

    for again in (write_file(read_file(model)), restamp(model)[0], embed(model, "tflite", b"{}")):
        assert answer("tflite", again, windows).tobytes() == expected.tobytes()
    assert read_manifest(embed(model, "tflite", b"{}"), "tflite") == b"{}"


def test_a_file_that_ends_before_its_weights_is_refused(large: tuple[bytes, np.ndarray]) -> None:
    """A cut file is told from a whole one although its FlatBuffer is there."""
    model, _ = large

    with pytest.raises(ModelError, match="beyond its end"):
        read_file(model[:-1000])


def _buffers(model: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(model, 0).buffers
