"""Refitted weights become a quantised, proven bundle, in the scales that devices have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_converters import Outcome, Request, convert
from edge_converters.recipes import load_recipe, replayed
from edge_runtime.bundle import load_bundle
from edge_runtime.cli import main
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.update.admission import admit

FAN = Path(__file__).parents[2] / "examples/fan_vibration/bundles/fan-unbalance-1.0.0"

Converted = Callable[..., Outcome]


@pytest.fixture(scope="module")
def bench(
    fan: Any, tflite_quantiser: Any, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """Give a folder with data, and the int8 bundle that devices have."""
    pytest.importorskip("litert_quantizer")
    folder = tmp_path_factory.mktemp("refresh")
    np.savez(folder / "calib.npz", inputs=fan.calibration)
    windows, truth = (np.concatenate(pair) for pair in zip(fan.search, fan.confirm, strict=True))
    np.savez(folder / "eval.npz", inputs=windows, labels=truth)
    made = SimpleNamespace(folder=folder, task=fan, quantiser=tflite_quantiser)
    made.written = lambda task, name: _written(tflite_quantiser(task).model, folder / name)
    before = Request(
        model=str(made.written(fan, "before.tflite")),
        output=folder / "before",
        calib=folder / "calib.npz",
        precisions=("int8",),
        name="fan",
        version="1.4",
    )
    made.outcome = convert(before)
    return made


def _written(model: bytes, path: Path) -> Path:
    path.write_bytes(model)
    return path


def _with_middle(task: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Change the weights of the middle layer."""
    first, middle, last = task.network.layers
    middle = replace(middle, weights=change(middle.weights).astype(np.float32))
    return replace(task, network=replace(task.network, layers=(first, middle, last)))


def _nudged(weights: np.ndarray) -> np.ndarray:
    return weights * np.random.default_rng(5).normal(1, 0.02, weights.shape)


@pytest.fixture
def refreshed(bench: SimpleNamespace, tmp_path: Path) -> Converted:
    """Refresh the bundle with other weights, into ``after``."""

    def refresh(change: Callable[[np.ndarray], np.ndarray], **asked: Any) -> Outcome:
        model = bench.written(_with_middle(bench.task, change), "after.tflite")
        facts: dict[str, Any] = {"refresh": bench.folder / "before", "output": tmp_path / "after"}
        return convert(Request(model=str(model), **(facts | asked)))

    return refresh


def _scales(bench: SimpleNamespace, path: Path) -> Any:
    bundle = load_bundle(path)
    return bench.quantiser(bench.task).scales(bundle.files[bundle.spec.artefacts[0].file])


@pytest.mark.slow
def test_a_short_refit_keeps_scales_and_a_small_delta(
    bench: SimpleNamespace, refreshed: Converted, tmp_path: Path
) -> None:
    """Golden vectors are proven anew, parity is stated, and the delta is smaller than without."""
    outcome = refreshed(_nudged)

    told = outcome.refit
    assert told is not None
    assert told.keeps_scales
    assert told.clipped < 0.001
    assert told.kept_db is not None and told.kept_db > 20
    assert told.kept_delta_bytes < 0.9 * told.anew_delta_bytes
    after = load_bundle(tmp_path / "after")
    assert _scales(bench, bench.folder / "before") == _scales(bench, tmp_path / "after")
    assert (after.spec.name, after.spec.version) == ("fan", "1.5")
    assert admit(tmp_path / "after").is_admitted
    assert str(told) in outcome.notes


@pytest.mark.slow
def test_weights_that_outgrew_their_scales_are_quantised_anew(refreshed: Converted) -> None:
    """The share that would be clipped is stated, and the answers are as good as before."""
    outcome = refreshed(lambda weights: 4 * weights)

    told = outcome.refit
    assert told is not None
    assert not told.keeps_scales
    assert told.clipped > 0.001
    assert f"clip {told.clipped:.2%}" in told.why
    assert told.anew_db is not None and told.anew_db > 20


def test_labels_judge_a_refresh_like_a_conversion(
    bench: SimpleNamespace, refreshed: Converted
) -> None:
    """With evaluation data the new int8 file is proven against the new float one."""
    outcome = refreshed(
        _nudged, eval=bench.folder / "eval.npz", metric="accuracy", max_drop=0.05, version="2"
    )

    assert outcome.choice.verdict == "proven"
    assert outcome.bundle == "fan@2"


@pytest.mark.slow
def test_a_refreshed_bundle_can_be_refreshed(
    bench: SimpleNamespace, refreshed: Converted, tmp_path: Path
) -> None:
    """Scales live on from file to file."""
    refreshed(_nudged)

    outcome = refreshed(
        lambda weights: _nudged(_nudged(weights)),
        refresh=tmp_path / "after",
        output=tmp_path / "again",
    )

    assert outcome.refit is not None and outcome.refit.keeps_scales
    assert outcome.bundle == "fan@1.6"
    assert _scales(bench, tmp_path / "again") == _scales(bench, bench.folder / "before")


@pytest.mark.slow
def test_a_refresh_is_played_again_to_the_byte(
    bench: SimpleNamespace, refreshed: Converted, tmp_path: Path
) -> None:
    """With the same bundle before; with another one it is refused."""
    first = refreshed(_nudged)
    recipe = load_recipe(tmp_path / "after" / "recipe.json")
    here = Request(
        model=str(bench.folder / "after.tflite"),
        output=tmp_path / "again",
        refresh=bench.folder / "before",
    )

    assert convert(replayed(recipe, here)).digest == first.digest
    other = Request(model=here.model, output=here.output, refresh=tmp_path / "after")
    with pytest.raises(ConfigError, match="--refresh is"):
        replayed(recipe, other)


def test_another_network_is_refused(bench: SimpleNamespace, tmp_path: Path) -> None:
    """A layer of another size has no scales to keep."""
    first, middle, last = bench.task.network.layers
    wide = replace(
        middle,
        weights=np.concatenate([middle.weights, middle.weights], axis=1),
        bias=np.concatenate([middle.bias, middle.bias]),
    )
    after = replace(last, weights=np.concatenate([last.weights, last.weights]))
    network = replace(bench.task.network, layers=(first, wide, after))
    model = bench.written(replace(bench.task, network=network), "wide.tflite")

    with pytest.raises(BundleError, match="another network"):
        convert(Request(model=str(model), output=tmp_path / "x", refresh=bench.folder / "before"))
    assert not (tmp_path / "x").exists()


def test_a_bundle_that_tells_no_scales_cannot_be_refreshed(
    bench: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was not made by a conversion; the command says so and what to do."""
    model = str(bench.folder / "before.tflite")

    with pytest.raises(BundleError, match="how its integers were made"):
        convert(Request(model=model, output=tmp_path / "x", refresh=FAN))
    assert main(["convert", model, "-o", str(tmp_path / "x"), "--refresh", str(FAN)]) == 1
    assert "without --refresh" in capsys.readouterr().err
