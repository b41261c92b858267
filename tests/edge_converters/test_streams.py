"""Cells with integers: calibrated, searched, judged and compared along streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_converters import Outcome, Request, convert
from edge_converters.contracts import Candidate
from edge_converters.datasets import Dataset
from edge_converters.metrics import value_of
from edge_converters.quantise.contracts import Budget, Samples
from edge_converters.recipes import load_recipe, replayed
from edge_converters.report import decode_report, encode_report, markdown_of, page_of
from edge_converters.reporting import report_of
from edge_converters.stages.float_file import FloatFile
from edge_converters.stages.stream import drifted
from edge_converters.stages.windows import features_of, golden_windows_of, sequences_of
from edge_converters.verdict import judge
from edge_converters.workers.jobs.cells import cut
from edge_converters.workers.jobs.quantised import make
from edge_converters.workers.jobs.streams import compare
from edge_runtime.bundle import load_bundle
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    ModelSpec,
    StateSpec,
    StateTensor,
    StreamSpec,
    WindowSpec,
)
from examples.fan_stream.train import HIDDEN, MODEL, STEPS, unseen_runs, windows_of

MODELS = Path(__file__).parents[1] / "data" / "models"


def spec(length: int = 1, *, has_state: bool = True) -> ModelSpec:
    state = StateSpec(tensors=(StateTensor("h_in", "h_out"),)) if has_state else StateSpec()
    return ModelSpec(
        name="cell",
        version="1",
        kind="regressor",
        stream=StreamSpec(tuple(ChannelSpec(name) for name in "xyz"), rate_hz=50.0),
        window=WindowSpec(length, length),
        artefacts=(ArtefactSpec("onnx", "model.onnx", "float32"),),
        state=state,
        labels=("value",),
    )


def integrator(kept: float) -> bytes:
    """Write h' = kept h + x, which answers h'."""
    nodes = [
        helper.make_node("Mul", ["h_in", "kept"], ["left"], "mul"),
        helper.make_node("Add", ["left", "x"], ["h_out"], "add"),
        helper.make_node("Identity", ["h_out"], ["y"], "answer"),
    ]
    ports = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2])
        for name in ("x", "h_in", "y", "h_out")
    }
    graph = helper.make_graph(
        nodes,
        "integrator",
        [ports["x"], ports["h_in"]],
        [ports["y"], ports["h_out"]],
        [numpy_helper.from_array(np.array([kept], np.float32), "kept")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def integrators(folder: Path, *kept: float) -> list[Path]:
    files = [folder / f"kept-{number}.onnx" for number in range(len(kept))]
    for file, value in zip(files, kept, strict=True):
        file.write_bytes(integrator(value))
    return files


# --- data -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 8, 3), (5, 8, 1, 3), (5, 24)])
def test_sequences_are_cut_into_steps(shape: tuple[int, ...]) -> None:
    """Whatever shape a recording has: samples follow each other."""
    values = np.arange(120, dtype=np.float32).reshape(shape)

    found = sequences_of(Dataset(values, None, "calib.npz"), spec(2))

    assert found.shape == (5, 4, 2, 3)
    np.testing.assert_array_equal(found.ravel(), values.ravel())


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 2, 3), (5, 6)])
def test_what_is_no_sequence_is_refused(shape: tuple[int, ...]) -> None:
    """Half a step, or one step alone, which never sees a state."""
    dataset = Dataset(np.zeros(shape, np.float32), None, "calib.npz")

    with pytest.raises(ConfigError, match=r"calib\.npz: sequences have shape") as raised:
        sequences_of(dataset, spec(2))

    assert "(n, samples, channels)" in raised.value.remedy


def test_models_without_state_see_windows() -> None:
    """One axis for windows, and none for steps."""
    dataset = Dataset(np.zeros((5, 8, 3), np.float32), None, "calib.npz")

    assert features_of(dataset, spec(8, has_state=False)).shape == (5, 8, 3)
    assert features_of(dataset, spec(2)).shape == (5, 4, 2, 3)
    assert len(golden_windows_of(np.zeros((90, 4, 2, 3)))) == 16


# --- what counts ------------------------------------------------------------------------


def stream(count: int = 60) -> tuple[Samples, np.ndarray]:
    """Give sequences of three steps, and answers that are right at their end alone."""
    truth = np.arange(count) % 2
    outputs = np.stack([np.eye(2)[1 - truth], np.eye(2)[1 - truth], np.eye(2)[truth]], 1)
    return Samples(np.zeros((count, 3, 1), np.float32), truth, is_stream=True), outputs


def test_labels_are_about_the_last_step() -> None:
    """What a cell says before is not held against it."""
    samples, outputs = stream()
    budget = Budget("accuracy", 0.1)

    assert value_of(budget, samples, outputs, outputs) == 1.0
    assert value_of(budget, samples, outputs, outputs[:, ::-1]) == 0.0
    assert judge(budget, samples, outputs, outputs).windows == 60
    assert judge(budget, samples, outputs, outputs).outcome == "pass"
    assert judge(budget, samples, outputs, outputs[:, ::-1]).outcome == "fail"


def test_a_ratio_is_over_every_step() -> None:
    """An error at the beginning of a stream is one."""
    samples, outputs = stream()
    off = outputs.copy()
    off[:, 0] = 0

    assert value_of(Budget("snr", 20.0), samples, outputs, off) == pytest.approx(10 * np.log10(3))


# --- drift ------------------------------------------------------------------------------


def test_equal_cells_do_not_drift(tmp_path: Path) -> None:
    """Steps are told in tens, hundreds and thousands, every one of them once."""
    files = integrators(tmp_path, 0.9, 0.9)
    np.save(tmp_path / "stream.npy", np.random.default_rng(0).normal(0, 1, (1234, 2)).astype("f4"))

    told = compare([str(one) for one in files], "onnx", str(tmp_path / "stream.npy"), {})

    drift: Any = told["drift"]
    spans = [(one["first"], one["last"]) for one in drift]
    assert spans == [(1, 10), (11, 100), (101, 1000), (1001, 1234)]
    assert {one["output_db"] for one in drift} == {one["state_db"] for one in drift} == {None}
    assert {one["largest"] for one in drift} == {0.0}


def test_errors_that_add_up_are_seen(tmp_path: Path) -> None:
    """State that is kept a thousandth too long is far off after a thousand steps."""
    files = integrators(tmp_path, 1.0, 1.001)
    np.save(tmp_path / "stream.npy", np.full((1000, 2), 0.01, np.float32))

    told = compare([str(one) for one in files], "onnx", str(tmp_path / "stream.npy"), {})

    drift: Any = told["drift"]
    first, middle, last = (one["state_db"] for one in drift)
    assert first > middle > last
    assert first > 40
    assert last < 10


@pytest.mark.parametrize(("kept", "is_sound"), [(0.9001, True), (1.01, False)])
def test_a_cell_that_drifts_into_garbage_is_not_sound(
    tmp_path: Path, kept: float, is_sound: bool
) -> None:
    """However near it is at the beginning; sequences are repeated until there are 1,000 steps."""
    original, other = integrators(tmp_path, 0.9, kept)
    float_ = FloatFile(
        origin=None,  # type: ignore[arg-type]
        form="onnx",
        file=original,
        precision="float32",
        steps=(),
        described=None,  # type: ignore[arg-type]
        inputs=original,
        answers=np.zeros((0, 2)),
        others={},
        shape=(2,),
    )
    candidates = [
        Candidate(format="onnx", precision=precision, file=file, size_bytes=1)
        for precision, file in (("float32", original), ("int8", other))
    ]
    sequences = np.random.default_rng(0).normal(0.2, 1, (7, 50, 2)).astype(np.float32)
    request = Request(model="m", output=tmp_path)

    same, found = drifted(candidates, float_, sequences, request)

    assert same is candidates[0]
    assert found.drift[-1].last >= 1000
    assert found.is_sound == is_sound
    assert ("dB expected" in found.verified[-1].reason) == (not is_sound)


# --- what cannot be made ----------------------------------------------------------------


def test_a_file_that_no_tool_quantises_says_so_for_every_precision(tmp_path: Path) -> None:
    """With what to do; the float file is left."""
    told = make(
        str(MODELS / "okay_nabu.tflite"),
        "tflite",
        {},
        str(tmp_path),
        ("dynamic", "int8"),
        None,
        None,
        {"metric": "snr", "max_drop": 20.0, "scoring": "output"},
    )

    failed: Any = told["failed"]
    assert told["made"] == []
    assert [one["precision"] for one in failed] == ["dynamic", "int8"]
    assert all("graphs and" in one["why"] and "Cut" in one["why"] for one in failed)


# --- from the one command ---------------------------------------------------------------


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write sequences of the fan's vibration that training never saw: ranges, and labels."""
    folder = tmp_path_factory.mktemp("recordings")
    windows, labels = windows_of(unseen_runs(), slice(None), 30)
    np.savez(folder / "calib.npz", inputs=windows[::11])
    np.savez(folder / "eval.npz", inputs=windows[1::4], labels=labels[1::4])
    return folder


def asked(recordings: Path, output: Path, **more: Any) -> Request:
    facts: dict[str, Any] = {"model": str(MODEL), "hop": 1, "metric": "accuracy", "max_drop": 0.05}
    facts |= {"calib": recordings / "calib.npz", "eval": recordings / "eval.npz"}
    return Request(output=output, **(facts | more))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Outcome:
    """Convert the example's network into a cell, whatever it becomes."""
    output = tmp_path_factory.mktemp("converted") / "bundle"
    return convert(asked(recordings, output))


@pytest.mark.slow
def test_a_cell_is_quantised_and_proven(outcome: Outcome) -> None:
    """Half the size of float, judged on sequences, with its drift over 1,000 steps and more."""
    made = {one.precision: one for one in outcome.candidates}

    assert {"float32", "float16", "dynamic", "int8"} <= made.keys()
    assert outcome.choice.verdict == "proven"
    assert outcome.choice.precision == "dynamic"
    assert made["dynamic"].size_bytes < 0.6 * made["float32"].size_bytes
    for one in (made["float16"], made["dynamic"], made["int8"]):
        assert one.is_sound
        assert one.verdict is not None
        assert one.verdict.float_value > 0.95
        assert one.drift[-1].last >= 1000
    for one in (made["float16"], made["dynamic"]):
        assert (one.drift[-1].output_db or 0.0) > 20
        assert (one.drift[-1].state_db or 0.0) > 20


@pytest.mark.slow
def test_the_report_tells_the_drift(outcome: Outcome) -> None:
    """As JSON, in the text and on the page."""
    report = report_of(outcome)

    assert decode_report(encode_report(report)) == report
    assert {one.candidate for one in report.drift} >= {"onnx dynamic", "onnx int8"}
    for text in (markdown_of(report), page_of(report)):
        assert "Drift along one stream" in text
        assert "101 to 1000" in text


@pytest.mark.slow
def test_an_integer_cell_is_a_bundle_of_every_mode(tmp_path: Path, recordings: Path) -> None:
    """The same bytes on the device, over HTTP, in files, in batches, beside a prior."""
    convert(asked(recordings, tmp_path / "bundle", precisions=("int8",)))
    rows, _ = windows_of(unseen_runs(), slice(None), STEPS)
    np.savez(tmp_path / "rows.npz", samples=rows[:20].reshape(-1, 3))

    words = ["parity", str(tmp_path / "bundle"), str(tmp_path / "rows.npz")]

    assert load_bundle(tmp_path / "bundle").spec.artefacts[0].precision == "int8"
    assert main([*words, "--array", "samples", "--kills", "1"]) == 0


@pytest.mark.slow
def test_a_file_that_is_a_cell_already_is_quantised_too(tmp_path: Path, recordings: Path) -> None:
    """Its state is found by the names of its inputs and outputs."""
    cut(str(MODEL), str(tmp_path / "cell.onnx"), 1, [STEPS, 3])

    told = convert(
        asked(
            recordings,
            tmp_path / "bundle",
            model=str(tmp_path / "cell.onnx"),
            hop=None,
            precisions=("dynamic",),
        )
    )

    spec = load_bundle(tmp_path / "bundle").spec
    assert told.choice.precision == "dynamic"
    assert [one.input for one in spec.state.tensors] == ["state_0_h_in"]
    assert load_bundle(tmp_path / "bundle").golden().inputs.shape == (STEPS, 1, 3)


@pytest.mark.slow
def test_a_quantised_cell_is_made_again_to_the_byte(tmp_path: Path, recordings: Path) -> None:
    """From its recipe."""
    first = convert(asked(recordings, tmp_path / "bundle", precisions=("int8",)))
    here = asked(recordings, tmp_path / "again")

    again = convert(replayed(load_recipe(tmp_path / "bundle" / "recipe.json"), here))

    assert again.digest == first.digest


@pytest.mark.slow
def test_refitted_weights_keep_the_scales_of_a_cell(tmp_path: Path, recordings: Path) -> None:
    """The delta that devices fetch is what changed."""
    convert(asked(recordings, tmp_path / "before", precisions=("int8",)))
    refitted = onnx.load(MODEL)
    bias = next(one for one in refitted.graph.initializer if one.name == "2_bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.01, "2_bias"))
    onnx.save(refitted, tmp_path / "refitted.onnx")

    told = convert(
        Request(
            model=str(tmp_path / "refitted.onnx"),
            output=tmp_path / "after",
            calib=recordings / "calib.npz",
            refresh=tmp_path / "before",
            hop=1,
        )
    )

    assert told.refit is not None
    assert told.refit.keeps_scales
    assert told.refit.kept_delta_bytes is not None
    assert told.refit.kept_delta_bytes < 0.5 * told.candidates[-1].size_bytes


@pytest.mark.slow
def test_integers_that_ruin_a_cell_leave_it_float(tmp_path: Path, recordings: Path) -> None:
    """A channel in other units takes all integers of the input; the search leaves it float."""
    model = onnx.load(MODEL)
    gain = next(one for one in model.graph.initializer if one.name == "0_gain")
    values = numpy_helper.to_array(gain).copy()
    values[0] /= 3000
    gain.CopyFrom(numpy_helper.from_array(values, "0_gain"))
    onnx.save(model, tmp_path / "mixed.onnx")
    for name in ("calib", "eval"):
        with np.load(recordings / f"{name}.npz") as file:
            arrays = dict(file)
        arrays["inputs"] = arrays["inputs"] * np.array([3000, 1, 1], np.float32)
        np.savez(tmp_path / f"{name}.npz", **arrays)

    told = convert(
        asked(
            tmp_path,
            tmp_path / "bundle",
            model=str(tmp_path / "mixed.onnx"),
            precisions=("float32", "int8", "mixed"),
        )
    )

    made = {one.precision: one for one in told.candidates}
    assert not made["int8"].is_sound
    assert made["mixed"].verdict is not None
    assert made["mixed"].verdict.outcome == "pass"
    assert made["mixed"].quantised is not None
    assert 0 < len(made["mixed"].quantised.cures) < len(told.operators)


@pytest.mark.slow
def test_a_recurrent_network_is_quantised_window_by_window_too(
    tmp_path: Path, recordings: Path
) -> None:
    """Its weights are integers, and its answers those of float."""
    told = convert(asked(recordings, tmp_path / "bundle", hop=None, precisions=("dynamic", "int8")))

    assert {one.precision for one in told.candidates} == {"float32", "dynamic", "int8"}
    for one in told.candidates[1:]:
        assert one.is_sound
        assert one.drift == ()
        assert "GRU" in {each.kind for each in one.operations}


def test_the_example_is_a_network_over_the_state_it_names() -> None:
    """Its file holds what training wrote, in the sizes that its source says."""
    shapes = {one.name: tuple(one.dims) for one in onnx.load(MODEL).graph.initializer}

    assert shapes["1_r"] == (1, 3 * HIDDEN, HIDDEN)


def test_one_step_alone_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """A cell over the whole sequence in one call has no stream to be calibrated on."""
    rows = np.cumsum(np.random.default_rng(0).normal(0, 0.1, (40, STEPS, 3)), 1)
    np.savez(tmp_path / "calib.npz", inputs=rows.astype(np.float32))

    with pytest.raises(ConfigError, match="sequences have shape"):
        convert(
            Request(
                model=str(MODEL),
                output=tmp_path / "bundle",
                calib=tmp_path / "calib.npz",
                hop=STEPS,
            )
        )

    assert not (tmp_path / "bundle").exists()
