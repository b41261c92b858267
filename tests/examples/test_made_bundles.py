"""The shipped bundles are what their scripts make, and what the library has judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edge_converters.recipes import decode_recipe
from edge_converters.stages.before import load_before
from edge_runtime.bundle import load_bundle
from edge_runtime.spec import ModelSpec
from examples import make_bundles
from examples.make_bundles import CARDS, TURBINE

Made = Callable[[], tuple[ModelSpec, dict[str, bytes], np.ndarray]]
MADE = {
    TURBINE / "bundles/turbine-nox-1.0.0": partial(make_bundles.turbine, "1.0.0", (2011, 2012)),
    TURBINE / "bundles/turbine-nox-2.0.0": partial(
        make_bundles.turbine, "2.0.0", (2011, 2012, 2013)
    ),
    CARDS / "bundles/card-fraud-1.0.0": partial(make_bundles.cards, "1.0.0"),
}


@pytest.fixture(params=MADE, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param  # type: ignore[no-any-return]


def test_a_bundle_is_what_its_script_makes(folder: Path, tmp_path: Path) -> None:
    """Every file is the same to the byte, the golden windows to the last place of a logarithm.

    NumPy's logarithms and sines differ there between processors with and without AVX-512.
    """
    shipped = load_bundle(folder)

    made = make_bundles.write(tmp_path / "made", *MADE[folder]())

    golden = shipped.spec.golden
    assert {name: made.files[name] for name in made.files if name != golden} == {
        name: shipped.files[name] for name in shipped.files if name != golden
    }
    np.testing.assert_array_max_ulp(made.golden().inputs, shipped.golden().inputs, maxulp=4)


def test_the_library_made_both_files_and_proved_them(folder: Path) -> None:
    """The recipes are of int8 files, and the verdict's interval lies within the budget."""
    files = load_bundle(folder).files
    recipes = [decode_recipe(files[name], name) for name in ("recipe.json", "recipe_onnx.json")]
    version = folder.name.rpartition("-")[2]
    metrics = json.loads((folder.parents[1] / "artefacts" / version / "metrics.json").read_text())

    assert [(one.format, one.precision) for one in recipes] == [
        ("tflite", "int8"),
        ("onnx", "int8"),
    ]
    for recipe, name in zip(recipes, ("int8_tflite", "int8_onnx"), strict=True):
        verdict = metrics["verdict"][name]
        assert (recipe.claim, verdict["claim"]) == ("proven", "proven")
        assert verdict["loss_95"][1] <= recipe.request["max_drop"]


def test_new_weights_can_start_from_a_bundle(folder: Path) -> None:
    """Its recipe tells the scales, which a refresh keeps."""
    before = load_before(folder)

    assert before.recipe.ranges
    assert before.model == load_bundle(folder).files["model_int8.tflite"]
