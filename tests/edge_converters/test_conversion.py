"""A model becomes a bundle that has proven itself, or a reason; never half a bundle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_converters import Outcome, Request, convert
from edge_converters.contracts import Limits
from edge_converters.embed import read_manifest
from edge_converters.recipes import load_recipe, replayed
from edge_runtime.backends import open_session
from edge_runtime.bundle import load_bundle
from edge_runtime.errors import BundleError, ConfigError, EdgeError, ModelError
from edge_runtime.update.admission import admit

DATA = Path(__file__).parents[1] / "data"
MODELS = DATA / "models"
SENSOR_GAIN = 3.0

Made = Callable[..., Outcome]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Convert into ``bundle``."""

    def convert_into(model: Path | str, **asked: Any) -> Outcome:
        return convert(Request(model=str(model), output=tmp_path / "bundle", **asked))

    return convert_into


def network(
    *, opset: int = 17, ir: int = 8, length: int | str = 12, op: str = "Tanh", domain: str = ""
) -> Any:
    """Make a small network, y = op(x W + b)."""
    dice = np.random.default_rng(0)
    weights = dice.normal(size=(12, 5)).astype(np.float32)
    bias = dice.normal(size=5).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="/home/somebody/net.py:7"),
        helper.make_node(op, ["h"], ["y"], domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", length])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def saved(proto: Any, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def sensor_data(path: Path, count: int = 300) -> Path:
    """Write windows of a slow drift with a ripple, which no generator of noise makes."""
    dice = np.random.default_rng(3)
    time = np.arange(12) / 12
    drift = np.cumsum(dice.normal(size=(count, 1)), axis=0) / 10
    windows = drift + SENSOR_GAIN * np.sin(2 * np.pi * (time + dice.uniform(size=(count, 1))))
    np.savez(path, inputs=windows.astype(np.float32), allow_pickle=False)
    return path


# --- what works -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ic_resnet8_float.onnx", "kws_dscnn_int8_qdq.onnx", "hello_world_int8.tflite"]
)
def test_a_model_alone_becomes_a_bundle(tmp_path: Path, made: Made, name: str) -> None:
    """It is loudly said that nobody gave data, and a device admits it."""
    outcome = made(MODELS / name)

    assert outcome.choice.verdict == "uncalibrated"
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.digest == outcome.digest
    assert admit(tmp_path / "bundle").is_admitted
    assert all(one.is_sound for one in outcome.candidates)


def test_the_file_in_the_bundle_tells_what_it_is(tmp_path: Path, made: Made) -> None:
    """Its manifest is the bundle's own."""
    made(MODELS / "hello_world_float.tflite", name="sine", labels=("height",), rate_hz=20.0)

    bundle = load_bundle(tmp_path / "bundle")
    manifest = read_manifest(bundle.files["model.tflite"], "tflite")
    assert manifest is not None
    assert b'"name":"sine"' in manifest
    assert (bundle.spec.labels, bundle.spec.stream.rate_hz) == (("height",), 20.0)


def test_a_file_can_be_taken_over_to_the_byte(tmp_path: Path, made: Made) -> None:
    """Where somebody else signs or compares it."""
    made(MODELS / "hello_world_int8.tflite", precisions=("as-is",))

    taken = load_bundle(tmp_path / "bundle").files["model.tflite"]
    assert taken == (MODELS / "hello_world_int8.tflite").read_bytes()


def test_a_wake_word_is_described_by_its_sidecar(tmp_path: Path, made: Made) -> None:
    """From raw audio to its operating point, without a conversion."""
    pytest.importorskip("pymicro_features")

    outcome = made(MODELS / "okay_nabu.tflite")

    spec = load_bundle(tmp_path / "bundle").spec
    assert (spec.labels, spec.limits[0].on, spec.smoothing.windows) == (("okay_nabu",), 0.97, 5)
    assert any("microWakeWord" in note for note in outcome.notes)


def test_a_file_newer_than_every_runtime_is_brought_back(tmp_path: Path, made: Made) -> None:
    """IR 14 is pinned to 10, and onnx's own evaluator is the gate's witness."""
    proto = network(opset=20, ir=14)
    proto.graph.node[0].doc_string = 'File "/home/somebody/net.py", line 7'

    outcome = made(saved(proto, tmp_path / "net.onnx"))

    content = load_bundle(tmp_path / "bundle").files["model.onnx"]
    assert onnx.load_from_string(content).ir_version == 10
    assert b"line 7" not in content
    steps = {step.name: step for step in outcome.steps}
    assert {"strip", "pin"} <= steps.keys()
    assert all(step.parity is not None for step in outcome.steps)


def test_a_free_axis_takes_the_shape_it_is_told(tmp_path: Path, made: Made) -> None:
    """Without it the file is refused, and with it converted."""
    path = saved(network(length="length"), tmp_path / "net.onnx")

    with pytest.raises(BundleError, match=r"free axes.*--shape|free axes(.|\n)*--shape"):
        made(path)
    assert made(path, shape=(12,)).choice.format == "onnx"


def test_sensor_data_make_integers_of_a_float_model(tmp_path: Path, made: Made) -> None:
    """Smaller, as good by signal-to-noise, and said to be judged by no labels."""
    pytest.importorskip("litert_quantizer")
    path = saved(network(), tmp_path / "net.onnx")

    outcome = made(path, calib=sensor_data(tmp_path / "calib.npz"), precisions=("int8",))

    assert (outcome.choice.precision, outcome.choice.verdict) == ("int8", "unlabelled")
    assert load_bundle(tmp_path / "bundle").spec.artefacts[0].precision == "int8"
    _, int8 = outcome.candidates
    assert int8.verdict is not None
    assert int8.verdict.outcome == "pass"


@pytest.mark.slow
def test_a_recipe_played_again_gives_the_same_bytes(tmp_path: Path, made: Made) -> None:
    """Every choice stands in it; places on this machine do not."""
    path = saved(network(), tmp_path / "net.onnx")
    calib = sensor_data(tmp_path / "calib.npz")
    first = made(path, calib=calib, precisions=("int8",), name="pump", rate_hz=5.0)
    recipe = load_recipe(tmp_path / "bundle" / "recipe.json")
    moved = Path(shutil.copy(path, tmp_path / "elsewhere.onnx"))

    request = Request(model=str(moved), output=tmp_path / "again", calib=calib)
    second = convert(replayed(recipe, request))

    assert second.digest == first.digest
    assert "NOT JUDGED BY LABELS: int8 onnx" in (tmp_path / "again" / "card.md").read_text()
    assert str(tmp_path) not in (tmp_path / "bundle" / "recipe.json").read_text()


def test_a_recipe_is_not_played_with_other_files(tmp_path: Path, made: Made) -> None:
    """The same recipe on another model is another conversion."""
    made(saved(network(), tmp_path / "net.onnx"))
    recipe = load_recipe(tmp_path / "bundle" / "recipe.json")
    other = saved(network(op="Sigmoid"), tmp_path / "other.onnx")

    with pytest.raises(ConfigError, match="SHA-256"):
        replayed(recipe, Request(model=str(other), output=tmp_path / "again"))
    with pytest.raises(ConfigError, match="--calib is"):
        replayed(
            recipe,
            Request(
                model=str(tmp_path / "net.onnx"),
                output=tmp_path / "again",
                calib=sensor_data(tmp_path / "calib.npz"),
            ),
        )


def test_a_spec_decides_what_the_file_cannot_tell(tmp_path: Path, made: Made) -> None:
    """Units, window and limits come from it, the artefacts from the conversion."""
    spec = tmp_path / "bundle.yaml"
    spec.write_text(
        "name: pump\nversion: '4'\nkind: classifier\n"
        "stream: {channels: [{name: x, unit: g}, {name: y, unit: g}], rate_hz: 50}\n"
        "window: {length: 6, hop: 3}\n"
        "normalise: {mean: [1, 2], std: [2, 4]}\n"
        "artefacts: [{backend: onnx, file: other.onnx, precision: float32}]\n"
        "labels: [a, b, c, d, e]\n"
        "limits: [{label: a, on: 0.5, off: 0.2}]\n"
    )

    made(saved(network(), tmp_path / "net.onnx"), spec=spec)

    made_spec = load_bundle(tmp_path / "bundle").spec
    assert (made_spec.name, made_spec.version, made_spec.window.hop) == ("pump", "4", 3)
    assert [one.file for one in made_spec.artefacts] == ["model.onnx"]
    assert open_session(load_bundle(tmp_path / "bundle")).inputs[0].shape == (1, 12)


# --- what is refused ------------------------------------------------------------------


def refused(tmp_path: Path, convert_it: Callable[[], object]) -> EdgeError:
    """Return the error of a conversion, after seeing that nothing was left behind."""
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(EdgeError) as raised:
        convert_it()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert raised.value.what
    assert raised.value.expected
    assert raised.value.remedy
    return raised.value


@pytest.mark.parametrize("name", ["ic_resnet8_float.onnx", "hello_world_float.tflite"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, made: Made, name: str, share: float) -> None:
    """Wherever it ends, and by the name it was given."""
    content = (MODELS / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(share * len(content))])

    error = refused(tmp_path, lambda: made(path))

    assert error.exit_code == 1
    assert error.where.startswith(str(path))


def test_an_operator_of_somebody_else_is_refused_by_name(tmp_path: Path, made: Made) -> None:
    """No runtime on a device has it."""
    path = saved(network(op="Wobble", domain="acme"), tmp_path / "net.onnx")

    error = refused(tmp_path, lambda: made(path))

    assert "Wobble" in error.what
    assert "acme" in error.what


def test_an_operator_that_its_opset_does_not_know_is_refused(tmp_path: Path, made: Made) -> None:
    """By the checker, before any runtime sees it."""
    path = saved(network(op="Wobble"), tmp_path / "net.onnx")

    assert "Wobble" in refused(tmp_path, lambda: made(path)).what


def test_weights_in_another_file_are_refused(tmp_path: Path, made: Made) -> None:
    """A bundle holds one file a runtime, and paths lead nowhere on a device."""
    proto = network()
    onnx.save(
        proto,
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )

    assert "another file" in refused(tmp_path, lambda: made(tmp_path / "net.onnx")).what


@pytest.mark.parametrize(
    ("asked", "match", "code"),
    [
        ({"target": "raspberry-pi-44"}, "no target", 2),
        ({"formats": ("tflite",)}, "onnx to tflite is refused", 1),
        ({"precisions": ("int8",)}, "without --calib", 2),
        ({"labels": ("a",)}, "1 labels", 2),
        ({"calib": Path("nothing.npz")}, "cannot be read", 2),
        ({"eval": Path("nothing.npz")}, "without --metric", 2),
        ({"spec": Path("nothing.yaml")}, "", 2),
        ({"sidecar": Path("nothing.json")}, "no microWakeWord", 2),
        ({"name": "No Such Name!"}, "model name", 2),
    ],
)
def test_a_request_that_cannot_be_met_says_so(
    tmp_path: Path, made: Made, asked: dict[str, Any], match: str, code: int
) -> None:
    """With the exit code of who has to change something."""
    path = saved(network(), tmp_path / "net.onnx")

    error = refused(tmp_path, lambda: made(path, **asked))

    assert match in error.what
    assert error.exit_code == code


def test_windows_of_another_shape_are_refused(tmp_path: Path, made: Made) -> None:
    """Before anything is calibrated with them."""
    path = saved(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "calib.npz", inputs=np.zeros((80, 7), np.float32), allow_pickle=False)

    error = refused(tmp_path, lambda: made(path, calib=tmp_path / "calib.npz"))

    assert "(7,)" in error.what


@pytest.mark.slow
def test_random_numbers_are_no_calibration_data(tmp_path: Path, made: Made) -> None:
    """Unless somebody insists."""
    path = saved(network(), tmp_path / "net.onnx")
    dice = np.random.default_rng(0)
    windows = dice.normal(size=(300, 12)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", inputs=windows, allow_pickle=False)

    error = refused(tmp_path, lambda: made(path, calib=tmp_path / "calib.npz"))

    assert "random generator" in error.what
    assert made(path, calib=tmp_path / "calib.npz", is_forced=True).digest


def test_a_model_that_computes_with_integers_is_not_quantised_again(
    tmp_path: Path, made: Made
) -> None:
    """The float model it was made of is what is needed."""
    model = MODELS / "hello_world_int8.tflite"

    error = refused(tmp_path, lambda: made(model, precisions=("float16",)))

    assert "int8 already" in error.what


def test_what_is_no_bundle_is_never_overwritten(tmp_path: Path, made: Made) -> None:
    """Somebody's folder stays somebody's folder."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("years of work")

    error = refused(tmp_path, lambda: made(MODELS / "hello_world_float.tflite"))

    assert "no bundle" in error.what
    assert (tmp_path / "bundle" / "thesis.tex").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Also where it is found out at the very end."""
    (tmp_path / "file").touch()
    request = Request(
        model=str(MODELS / "hello_world_float.tflite"), output=tmp_path / "file" / "bundle"
    )

    error = refused(tmp_path, lambda: convert(request))

    assert "cannot be written" in error.what


def test_no_room_for_temporary_files_is_said(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a worker would fail without knowing why."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))

    error = refused(tmp_path, lambda: made(MODELS / "hello_world_float.tflite"))

    assert "TMPDIR" in error.remedy


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """Write a Loop that never returns."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["v", "v"], ["w"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, ["n", 3]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array(True), "yes")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return saved(proto, tmp_path / "endless.onnx")


def test_an_endless_model_is_ended(tmp_path: Path, made: Made, endless: Path) -> None:
    """It costs its time limit, not the tool."""
    error = refused(tmp_path, lambda: made(endless, limits=Limits(seconds=3.0)))

    assert isinstance(error, BundleError | ModelError)
    assert "time" in str(error)


def test_an_interrupt_ends_workers_and_leaves_nothing(tmp_path: Path, endless: Path) -> None:
    """Ctrl-C at any moment: exit code 130, no process and no bundle left behind."""
    command = ["convert", str(endless), "-o", str(tmp_path / "bundle"), "--quiet"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.cli", *command],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        workers = _wait_for(lambda: _children(process.pid))
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
    finally:
        process.kill()

    assert code == 130
    _wait_for(lambda: not any(Path(f"/proc/{one}").exists() for one in workers))
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "bundle").exists()


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _wait_for(condition: Callable[[], Any], limit_s: float = 90.0) -> Any:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError


def test_a_state_that_cannot_be_read_is_played_again_after_a_restart(
    tmp_path: Path, made: Made
) -> None:
    """A hundred windows where nobody says how many; the report lists it as assumed."""
    path = Path(shutil.copy(MODELS / "okay_nabu.tflite", tmp_path / "wake.tflite"))

    outcome = made(path)

    assert load_bundle(tmp_path / "bundle").spec.state.warm_up == 100
    assert any("the last 100 windows" in one for one in outcome.assumed)


def convolution(*, is_transposed: bool) -> Any:
    """Make a convolution over 16 samples of 3 channels, with channels or samples first."""
    nodes = [helper.make_node("Transpose", ["x"], ["c"], perm=[0, 2, 1])] if is_transposed else []
    entry = "c" if is_transposed else "x"
    nodes += [
        helper.make_node("Conv", [entry, "w"], ["h"]),
        helper.make_node("ReduceMax", ["h"], ["y"], axes=[2], keepdims=0),
    ]
    shape = [1, 16, 3] if is_transposed else [1, 3, 16]
    weights = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("is_transposed", [True, False])
def test_a_model_that_takes_samples_for_channels_is_told(
    tmp_path: Path, made: Made, is_transposed: bool
) -> None:
    """It would run, and answer nonsense."""
    outcome = made(saved(convolution(is_transposed=is_transposed), tmp_path / "net.onnx"))

    assert any("channels first" in one for one in outcome.notes) == (not is_transposed)
