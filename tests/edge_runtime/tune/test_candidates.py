"""Which ways to run a bundle are tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.tune.candidates import Candidate, single_threaded, with_more_threads

ONE = Candidate("litert", "m.tflite", "int8")


def test_every_file_meets_every_backend_that_runs_it(keywords: Path) -> None:
    """tflite-runtime is tried only where it is named."""
    bundle = load_bundle(keywords)

    found = [(one.backend, one.artefact) for one in single_threaded(bundle)]
    named = single_threaded(bundle, backends=["tflite-runtime"])

    assert found == [
        ("litert", "kws_dscnn_int8.tflite"),
        ("onnx", "kws_dscnn_int8_qdq.onnx"),
    ]
    assert [one.artefact for one in named] == ["kws_dscnn_int8.tflite"]


def test_an_accelerator_meets_the_backends_that_know_it(keywords: Path) -> None:
    """A provider of ONNX Runtime is not tried with LiteRT."""
    found = single_threaded(load_bundle(keywords), accelerators=["cuda", "edgetpu"])

    assert [(one.backend, one.accelerator) for one in found if one.accelerator] == [
        ("onnx", "cuda"),
        ("litert", "edgetpu"),
    ]


@pytest.mark.parametrize(
    ("cores", "threads"), [(1, []), (2, [2]), (3, [2, 3]), (4, [2, 4]), (6, [2, 4, 6])]
)
def test_threads_double_up_to_the_cores(cores: int, threads: list[int]) -> None:
    """1, 2, 4 and so on, and all cores."""
    assert [one.threads for one in with_more_threads(ONE, 100.0, cores)] == threads


def test_threads_are_not_tried_where_they_cannot_help() -> None:
    """Waking a thread takes longer than a small model."""
    assert with_more_threads(ONE, 20.0, 4) == []
