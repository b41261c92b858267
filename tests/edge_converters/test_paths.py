"""Every path works, and a test shows it; or it is refused with a reason and a way out."""

from __future__ import annotations

import typing

import pytest

from edge_converters.contracts import Format, Kind
from edge_converters.paths import NETWORKS, PATHS, Route, formats_of, route, usual_formats_of
from edge_converters.workers.environments import ENVIRONMENTS
from edge_runtime.errors import BundleError

REFUSED = [one for one in PATHS if one.state == "refused"]
# Where each is proven: light ones in test_conversion, heavy ones in test_heavy_workers and
# test_torch_worker.
SHOWN = {
    ("onnx", "onnx"),
    ("tflite", "tflite"),
    ("sklearn", "onnx"),
    ("keras", "tflite"),
    ("keras", "onnx"),
    ("savedmodel", "tflite"),
    ("savedmodel", "onnx"),
    ("tflite", "onnx"),
    ("torch-export", "onnx"),
    ("torch-module", "onnx"),
    ("torch-pickle", "onnx"),
}


# Where integers of each are proven, or refused.
SHOWN_NETWORKS = {
    ("without state, one output or several", "onnx"): "test_outputs",
    ("without state, one output or several", "tflite"): "test_outputs",
    ("recurrent, window by window", "onnx"): "test_streams",
    ("recurrent, window by window", "tflite"): "test_heavy_workers",
    ("cell with explicit state", "onnx"): "test_streams",
    ("cell with explicit state", "tflite"): "test_cells",
    ("cell with state in resource variables", "tflite"): "test_streams",
    ("with branches or loops (If, Loop, Scan)", "onnx"): "quantise/test_real_models",
}


def test_every_kind_of_network_is_shown_by_a_test() -> None:
    """Each once, and what has no integers says what to do instead."""
    named = [(one.network, one.format) for one in NETWORKS]

    assert len(set(named)) == len(named)
    assert set(named) == SHOWN_NETWORKS.keys()
    for one in NETWORKS:
        assert ("int8" in one.precisions) == (one.state == "works")
        assert bool(one.remedy) == (one.state == "refused")


def test_the_table_names_every_pair_once() -> None:
    """Whatever is asked, there is an answer."""
    pairs = [(one.source, one.format) for one in PATHS]

    assert sorted(pairs) == sorted(
        (kind, form) for kind in typing.get_args(Kind) for form in typing.get_args(Format)
    )


def test_every_path_that_works_is_shown_by_a_test() -> None:
    """A path that nobody has tried is no path."""
    assert {(one.source, one.format) for one in PATHS if one.state == "works"} == SHOWN


def test_workers_of_paths_that_work_can_be_made() -> None:
    """Each has a lock file."""
    workers = {one.worker for one in PATHS if one.state == "works" and one.worker}

    assert workers <= ENVIRONMENTS.keys()


def test_a_model_becomes_what_it_usually_does_where_nobody_says() -> None:
    """A path of its own purpose is gone by those alone who ask for it."""
    assert usual_formats_of("keras") == ("tflite",)
    assert set(formats_of("keras")) == {"tflite", "onnx"}


@pytest.mark.parametrize("one", REFUSED, ids=lambda one: f"{one.source}-{one.format}")
def test_a_refusal_says_why_and_what_to_do(one: Route) -> None:
    """In four parts: where, what, expected, remedy."""
    with pytest.raises(BundleError) as raised:
        route(one.source, one.format, "model.bin")

    error = raised.value
    assert error.where == "model.bin"
    assert one.how in error.what
    assert all(form in error.expected for form in formats_of(one.source) or ["nothing yet"])
    assert error.remedy
