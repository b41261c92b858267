"""Every path works, and a test shows it; or it is refused with a reason and a way out."""

from __future__ import annotations

import typing

import pytest

from edge_converters.contracts import Format, Kind
from edge_converters.paths import PATHS, Route, formats_of, route
from edge_converters.workers.environments import ENVIRONMENTS
from edge_runtime.errors import BundleError

REFUSED = [one for one in PATHS if one.state == "refused"]
# Where each is proven: light ones in test_conversion, heavy ones in test_heavy_workers.
SHOWN = {
    ("onnx", "onnx"),
    ("tflite", "tflite"),
    ("sklearn", "onnx"),
    ("keras", "tflite"),
    ("savedmodel", "tflite"),
    ("keras", "onnx"),
    ("savedmodel", "onnx"),
    ("tflite", "onnx"),
}


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
