"""Every mode gives the same bytes, and a mode that does not is found out."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.bundle import Golden, load_bundle, write_arrays, write_golden
from edge_runtime.cli import main
from edge_runtime.modes.batch import BatchJob
from edge_runtime.modes.parity import Answers, golden_rows, legs, prove_parity, read_rows
from edge_runtime.modes.parity import prove as proving
from edge_runtime.ports import Choice

ROOT = Path(__file__).parents[4]
TURBINE = ROOT / "examples" / "gas_turbine"
BUNDLES = sorted((ROOT / "examples").glob("*/bundles/*"))
MODELS = ROOT / "tests" / "data" / "models"


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.name)
def test_every_bundle_we_ship_answers_alike_in_every_mode(path: Path) -> None:
    """Over its golden windows, processes killed and snapshots restored."""
    bundle = load_bundle(path)

    report = prove_parity(bundle, path, golden_rows(bundle, 2000), choice=Choice(), kills=1)

    assert [leg.difference for leg in report.legs] == [None] * len(proving.MODES)
    assert len({leg.digest for leg in report.legs}) == 1
    assert report.is_proven


GRID = """\
name: level
version: "1"
kind: scorer
stream:
  channels: [{name: a}, {name: b}]
  rate_hz: 10
  grid: {resample: mean, gaps: fill, longest_gap_s: 0.5}
window: {length: 4, hop: 2, kind: hopping}
features: [{kind: statistics, which: [mean]}]
artefacts: [{backend: reference, file: model.npz, precision: float32}]
labels: [left, right]
smoothing: {windows: 2}
limits: [{label: left, on: 0.55, off: 0.45}, {label: right, on: 0.5, off: 0.5}]
"""


@pytest.fixture
def grid_bundle(tmp_path: Path) -> Path:
    """Write a bundle on a grid: two weighted means, squashed."""
    dice = np.random.default_rng(2)
    weights = {"w0": dice.normal(size=(2, 2)).astype("f4"), "b0": np.zeros(2, "f4")}
    inputs = dice.normal(size=(3, 4, 2)).astype("f4")
    files = {
        "bundle.yaml": GRID.encode(),
        "model.npz": write_arrays(weights),
        "golden.npz": write_golden(Golden(inputs, inputs.mean(axis=1) @ weights["w0"])),
    }
    for name, content in files.items():
        (tmp_path / "level").mkdir(exist_ok=True)
        (tmp_path / "level" / name).write_bytes(content)
    return tmp_path / "level"


def _disordered(path: Path, rows: int = 1500) -> Path:
    """Write rows with gaps, one in ten up to 3 s late, one in thirty twice."""
    dice = np.random.default_rng(7)
    time_ms = np.cumsum(np.where(dice.random(rows) < 0.03, 400, 100) + dice.integers(-20, 21, rows))
    late = np.where(dice.random(rows) < 0.1, dice.uniform(0, 3000, rows), 0.0)
    order = np.argsort(time_ms + late, kind="stable").repeat(1 + (dice.random(rows) < 1 / 30))
    values = dice.normal(0, 2, (rows, 2))
    lines = [f"{time_ms[i]},{values[i, 0]:.6f},{values[i, 1]:.6f}\n" for i in order]
    path.write_text("t,a,b\n" + "".join(lines))
    return path


@pytest.mark.parametrize("timing", [None, "delay_s=0.3,allowed_lateness_s=4,revise_s=0.5"])
def test_on_a_grid_what_stands_at_last_is_the_same(
    timing: str | None, grid_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Late rows revise answers where modes answer at once, and are waited for in a batch."""
    rows = _disordered(tmp_path / "rows.csv")
    words = [] if timing is None else ["--timing", timing]
    words += ["--time", "t", "--time-format", "unix_ms", "--kills", "2", "--json"]

    code = main(["parity", str(grid_bundle), str(rows), *words])

    report = json.loads(capsys.readouterr().out)
    assert [leg["difference"] for leg in report["legs"]] == [None] * 5
    assert code == 0
    assert report["legs"][0]["windows"] > (500 if timing else 100)
    assert report["legs"][0]["decisions"] > 10


def test_waiting_on_a_bundle_without_a_grid_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It would do nothing."""
    code = main(["parity", str(BUNDLES[0]), "--timing", "delay_s=1"])

    assert code == 2
    assert "has no grid" in capsys.readouterr().err


def test_real_rows_with_decisions_answer_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """Half a year of the gas turbine: thousands of windows, and decisions among them."""
    rows = str(TURBINE / "gas_turbine_2011_2015.csv")
    bundle = str(TURBINE / "bundles" / "turbine-nox-1.0.0")

    code = main(["parity", bundle, rows, "--limit", "4000", "--json"])

    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {leg["windows"] for leg in report["legs"]} == {4000}
    assert {leg["decisions"] for leg in report["legs"]} == {report["legs"][0]["decisions"]}
    assert report["legs"][0]["decisions"] > 50


@pytest.mark.parametrize("name", ["kws_dscnn_int8.tflite", "ad_autoencoder_int8_qdq.onnx"])
def test_a_bare_model_is_proven_too(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What had to be assumed is said."""
    code = main(["parity", "--model", str(MODELS / name), "--kills", "1"])

    told = capsys.readouterr()
    assert code == 0
    assert "proven" in told.out
    assert "assumed: samples come at 1 Hz" in told.err


def test_a_bare_model_answers_rows_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wake word hears a real stream, and is played its last windows after a restart."""
    with np.load(MODELS / "okay_nabu_stream.npz") as golden:
        np.savez(tmp_path / "rows.npz", samples=golden["features"])
    model = ["--model", str(MODELS / "okay_nabu.tflite"), "--warm-up", "60"]

    code = main(
        ["parity", str(tmp_path / "rows.npz"), "--array", "samples", *model, "--kills=1", "--json"]
    )

    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {leg["windows"] for leg in report["legs"]} == {90}


@pytest.mark.slow
def test_a_model_may_have_more_outputs_than_a_message_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A detector has thousands: the device runs, and is proven like any other."""
    outputs = 14_000
    weights = np.random.default_rng(0).normal(size=(4, outputs)).astype(np.float32)
    np.savez(tmp_path / "wide.npz", w0=weights, b0=np.zeros(outputs, np.float32))

    code = main(["parity", "--model", str(tmp_path / "wide.npz"), "--kills", "1", "--json"])

    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [leg["difference"] for leg in report["legs"]] == [None] * 5


def test_a_mode_that_lies_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last bit of one value in one mode: exit code 1, and the place."""

    def lying(setting: legs.Setting) -> tuple[Answers, str]:
        answers, how = legs.hybrid(setting)
        values = answers.value.copy()
        values.view(np.uint64)[17, 0] ^= np.uint64(1)
        return msgspec.structs.replace(answers, value=values), how

    monkeypatch.setattr(proving, "MODES", {"batch": legs.batch, "hybrid": lying})
    rows = str(TURBINE / "gas_turbine_2011_2015.csv")
    bundle = str(TURBINE / "bundles" / "turbine-nox-1.0.0")

    code = main(["parity", bundle, rows, "--limit", "100"])

    out = capsys.readouterr().out
    assert code == 1
    assert "DIFFERS" in out
    assert "hybrid: values differ first at sample 17" in out


def test_nothing_to_compare_is_no_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that complete no window prove nothing."""
    monkeypatch.setattr(proving, "MODES", {"batch": legs.batch, "hybrid": legs.hybrid})
    fan = next(path for path in BUNDLES if load_bundle(path).spec.window.length > 1)
    names = load_bundle(fan).spec.stream.names
    (tmp_path / "x.csv").write_text(f"{','.join(names)}\n{','.join('0' for _ in names)}\n")

    code = main(["parity", str(fan), str(tmp_path / "x.csv")])

    assert code == 1
    assert "nothing was compared" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["b", "rows.csv", "--model", "m.tflite"]])
def test_a_bundle_or_a_model(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One of the two, else a usage error."""
    assert main(["parity", *words]) == 2
    assert "--model FILE" in capsys.readouterr().err


def test_an_empty_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to show to anybody."""
    bundle = load_bundle(TURBINE / "bundles" / "turbine-nox-1.0.0")
    (tmp_path / "x.csv").write_text(",".join(bundle.spec.stream.names) + "\n")

    code = main(["parity", str(TURBINE / "bundles/turbine-nox-1.0.0"), str(tmp_path / "x.csv")])

    assert code == 1
    assert "holds no row" in capsys.readouterr().err


def test_rows_are_read_up_to_the_limit() -> None:
    """As batch mode reads them: floats as float32, times by the model's rate."""
    bundle = load_bundle(TURBINE / "bundles" / "turbine-nox-1.0.0")
    path = TURBINE / "gas_turbine_2011_2015.csv"

    rows = read_rows(BatchJob(input=path, output=Path()), bundle, 10_000)

    assert len(rows) == 10_000
    assert rows.samples.dtype == np.float32
    assert set(np.diff(rows.time_ns).tolist()) == {bundle.spec.stream.period_ns}
