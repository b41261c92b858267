"""The new version of a bundle: its number, its files, and its proof."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.bundle import Golden, load_bundle, save_bundle, write_golden
from edge_runtime.errors import BundleError
from edge_runtime.spec import Limit, Smoothing
from edge_runtime.thresholds.write import REPORT, write_operating_point

pytest.importorskip("ai_edge_litert")

FAN = Path(__file__).parents[3] / "examples/fan_vibration/bundles/fan-unbalance-1.0.0"


def test_the_new_version_has_the_operating_point_and_the_report(tmp_path: Path) -> None:
    """Model and golden vectors are the same bytes; only the manifest and the report are new."""
    fan = load_bundle(FAN)
    limits = (Limit("unbalance-1", 0.8, 0.7, k_of_n=(2, 3), refractory_s=4.0),)
    spec = msgspec.structs.replace(
        fan.spec, version="1.0.1", limits=limits, smoothing=Smoothing(3, "median")
    )

    made = write_operating_point(tmp_path / "new", fan, spec, b"{}")

    loaded = load_bundle(tmp_path / "new")
    assert loaded.spec == spec
    assert loaded.digest == made.digest != fan.digest
    changed = {name for name in loaded.files if loaded.files[name] != fan.files.get(name)}
    assert changed == {"bundle.yaml", REPORT}
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_temperature_asks_for_new_golden_answers(tmp_path: Path) -> None:
    """They are the model's own at that temperature, and proven again."""
    fan = load_bundle(FAN)
    output = msgspec.structs.replace(fan.spec.output, temperature=2.0)
    spec = msgspec.structs.replace(fan.spec, version="1.0.1", output=output)

    write_operating_point(tmp_path / "new", fan, spec, b"{}")

    before, after = fan.golden(), load_bundle(tmp_path / "new").golden()
    softer = np.sqrt(before.outputs)
    np.testing.assert_array_equal(after.inputs, before.inputs)
    np.testing.assert_allclose(after.outputs, softer / softer.sum(axis=1, keepdims=True), atol=0.03)


def test_an_interrupted_proof_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the child process is at work."""

    def interrupted(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edge_runtime.thresholds.write.admit", interrupted)
    fan = load_bundle(FAN)

    with pytest.raises(KeyboardInterrupt):
        write_operating_point(tmp_path / "new", fan, fan.spec, b"{}")

    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_does_not_prove_itself_is_not_written(tmp_path: Path) -> None:
    """Nothing is left behind, and the reason is told."""
    fan = load_bundle(FAN)
    golden = fan.golden()
    wrong = write_golden(Golden(golden.inputs, golden.outputs + 0.5))
    files = {**fan.files, fan.spec.golden: wrong}
    broken = save_bundle(tmp_path / "broken", fan.spec, files)

    with pytest.raises(BundleError, match="not admitted: golden"):
        write_operating_point(tmp_path / "new", broken, fan.spec, b"{}")

    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
