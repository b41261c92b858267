"""Bare model files meet admission: described if they behave, refused with a reason if not."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.bundle import Golden, save_bundle, write_golden
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.update.admission import admit
from edge_runtime.update.bare import ModelAdmission, ModelQuestion, admit_model, admit_models
from edge_runtime.update.proof import golden_windows

MODELS = Path(__file__).parents[2] / "data" / "models"
KEYWORDS = {"tflite": "kws_dscnn_int8.tflite", "onnx": "kws_dscnn_int8_qdq.onnx"}
SHORT = ModelQuestion(limit_mb=512, limit_s=4.0)
REASONS = {"bundle", "load", "nan", "repeat", "memory", "time", "crash"}
MUTANTS = 100

Write = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file into the test's folder."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def _word(verdict: ModelAdmission) -> str:
    return verdict.reason.partition(":")[0]


# --- what behaves ------------------------------------------------------------------


def test_a_quantised_model_is_described(tmp_path: Path) -> None:
    """Tensors with their scales, no state, int8 throughout, and equal batches."""
    found = admit_model(MODELS / KEYWORDS["tflite"]).findings

    assert found is not None
    assert (found.inputs[0].shape, found.inputs[0].dtype) == ((1, 49, 10, 1), "int8")
    assert found.inputs[0].scale == pytest.approx(0.584703, abs=1e-6)
    assert (found.state_kind, found.precision, found.batch) == ("stateless", "int8", "equal")
    assert found.latency_us > 0
    assert 20 < found.peak_rss_mb < 400


def test_hidden_state_that_the_file_declares_is_told(accumulator: bytes, write) -> None:
    """Resource variables and variable tensors are named, and do not count as a second answer."""
    paths = [MODELS / "okay_nabu.tflite", write("svdf.tflite", accumulator)]

    found = [verdict.findings for verdict in admit_models(paths)]

    assert [one and one.state_kind for one in found] == ["resources", "variables"]
    assert [one and one.batch for one in found] == ["not asked", "not asked"]


def _running_sum(onnx: Any) -> bytes:
    """Y = state + gain x, given out as the next state too; gain is a scalar input."""
    return onnx.model(
        [
            onnx.node("Mul", ["x", "gain"], ["scaled"]),
            onnx.node("Add", ["scaled", "state"], ["y"]),
            onnx.node("Identity", ["y"], ["stateN"]),
        ],
        [onnx.value("x", [1, "n"]), onnx.value("state", [1, 2]), onnx.value("gain", [])],
        [onnx.value("y", [1, "n"]), onnx.value("stateN", [1, 2])],
    )


def test_explicit_state_is_guessed_and_constants_are_asked_for(onnx, write) -> None:
    """Without its constant the model is refused by the input's name; with it, state is paired."""
    path = write("sum.onnx", _running_sum(onnx))

    refused = admit_model(path)
    found = admit_model(path, ModelQuestion(constants={"gain": 0.5}, shape=(2,))).findings

    assert "'gain'" in refused.reason
    assert "--constant gain=VALUE" in refused.remedy
    assert found is not None
    assert found.state_kind == "explicit"
    assert [(one.input, one.output) for one in found.state.tensors] == [("state", "stateN")]


def test_batches_are_compared_with_single_rows(write, misbehaving) -> None:
    """A model that answers a batch otherwise is admitted, and told to be safe one by one only."""
    path = write("model.json", b'{"do": "batchy"}')

    found = admit_model(path, ModelQuestion(backend=misbehaving)).findings

    assert found is not None
    assert found.batch == "different"


# --- what does not -------------------------------------------------------------------


def _noise(onnx: Any) -> bytes:
    shape = onnx.attribute("shape", ints=[1, 2])
    return onnx.model(
        [
            onnx.node("RandomNormal", [], ["noise"], attributes=[shape]),
            onnx.node("Add", ["x", "noise"], ["y"]),
        ],
        [onnx.value("x", [1, 2])],
        [onnx.value("y", [1, 2])],
    )


def _endless_loop(onnx: Any) -> bytes:
    body = onnx.graph(
        [onnx.node("Identity", ["go"], ["go_on"]), onnx.node("Identity", ["v"], ["v_out"])],
        [onnx.value("i", [], 7), onnx.value("go", [], 9), onnx.value("v", [1, 2])],
        [onnx.value("go_on", [], 9), onnx.value("v_out", [1, 2])],
    )
    return onnx.model(
        [
            onnx.node(
                "Loop", ["", "yes", "x"], ["y"], attributes=[onnx.attribute("body", graph=body)]
            )
        ],
        [onnx.value("x", [1, 2])],
        [onnx.value("y", [1, 2])],
        [onnx.constant("yes", np.array(True), 9)],
    )


def _bomb(onnx: Any, count: int) -> bytes:
    """Add the mean of ``count`` floats that are made while it runs."""
    return onnx.model(
        [
            onnx.node("ReduceSum", ["x"], ["none"], attributes=[onnx.attribute("keepdims", i=0)]),
            onnx.node("Cast", ["none"], ["zero"], attributes=[onnx.attribute("to", i=7)]),
            onnx.node("Mul", ["zero", "nought"], ["nothing"]),
            onnx.node("Add", ["nothing", "count"], ["shape"]),
            onnx.node("ConstantOfShape", ["shape"], ["much"]),
            onnx.node("ReduceMean", ["much"], ["mean"]),
            onnx.node("Add", ["x", "mean"], ["y"]),
        ],
        [onnx.value("x", [1, 2])],
        [onnx.value("y", [1, 2])],
        [
            onnx.constant("nought", np.array([0], np.int64), 7),
            onnx.constant("count", np.array([count], np.int64), 7),
        ],
    )


def _affine(onnx: Any, weight: float = 2.0, **options: Any) -> bytes:
    return onnx.model(
        [onnx.node("Mul", ["x", "w"], ["y"])],
        [onnx.value("x", [1, 2])],
        [onnx.value("y", [1, 2])],
        [onnx.constant("w", np.full((1, 2), weight, np.float32))],
        **options,
    )


def _outside(onnx: Any) -> bytes:
    """Keep its weights in a file far away from it."""
    place = onnx.field(1, "location") + onnx.field(2, "../../../../../../etc/passwd")
    weights = (
        onnx.field(1, 2) + onnx.field(2, 1) + onnx.field(8, "w")
        + onnx.field(13, place) + onnx.field(14, 1)
    )  # fmt: skip
    return onnx.model(
        [onnx.node("Mul", ["x", "w"], ["y"])],
        [onnx.value("x", [1, 2])],
        [onnx.value("y", [1, 2])],
        [weights],
    )


def _custom(onnx: Any) -> bytes:
    node = onnx.node("SignalWindow", ["x"], ["y"]) + onnx.field(7, "acme.signal")
    return onnx.model([node], [onnx.value("x", [1, 2])], [onnx.value("y", [1, 2])])


HOSTILE_ONNX: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "second answer differs": (_noise, "repeat: "),
    "endless loop": (_endless_loop, "time: "),
    "160 GB": (lambda onnx: _bomb(onnx, 40_000_000_000), "memory: "),
    "memory that is touched": (lambda onnx: _bomb(onnx, 400_000_000), "memory: "),
    "nan": (lambda onnx: _affine(onnx, np.nan), "nan: "),
    "future opset": (lambda onnx: _affine(onnx, opset=99), "load: "),
    "custom operator": (_custom, "load: "),
    "weights elsewhere": (_outside, "load: "),
}


@pytest.mark.parametrize("name", HOSTILE_ONNX)
def test_a_hostile_onnx_file_is_refused_with_its_reason(onnx, write, name: str) -> None:
    """Each way to go wrong has its word, and ends a child process at most."""
    make, reason = HOSTILE_ONNX[name]

    verdict = admit_model(write("model.onnx", make(onnx)), SHORT)

    assert not verdict.is_admitted
    assert verdict.reason.startswith(reason), verdict.reason


def test_the_affine_model_itself_is_sound(onnx, write) -> None:
    """What the hostile files share is no reason to refuse them."""
    assert admit_model(write("model.onnx", _affine(onnx))).is_admitted
    assert admit_model(write("small.onnx", _bomb(onnx, 1000))).is_admitted


def test_hostile_tflite_files_are_refused(tflite_builder, write) -> None:
    """A custom operator does not load, and random numbers are no second answer."""
    custom, noise = tflite_builder(), tflite_builder()
    x, y = custom.tensor("x", [1, 2]), custom.tensor("y", [1, 2])
    custom.operator("CUSTOM", [x], [y], custom_code="SignalWindow")
    x, y = noise.tensor("x", [1, 2]), noise.tensor("y", [1, 2])
    shape = noise.tensor("shape", [2], np.array([1, 2], np.int32), type_name="INT32")
    random_values = noise.tensor("noise", [1, 2])
    options = noise.schema.RandomOptionsT()
    noise.operator("RANDOM_STANDARD_NORMAL", [shape], [random_values], options)
    noise.operator("ADD", [x, random_values], [y], noise.schema.AddOptionsT())
    paths = [
        write("custom.tflite", custom.pack([0], [1])),
        write("noise.tflite", noise.pack([x], [y])),
    ]

    verdicts = admit_models(paths, SHORT)

    assert [_word(verdict) for verdict in verdicts] == ["load", "repeat"]


@pytest.mark.parametrize("do", ["corrupt", "abort", "crash", "die_late"])
def test_native_damage_ends_the_child_alone(write, misbehaving, do: str) -> None:
    """A scribbled heap, abort() and a bad pointer are refusals, also after the last answer."""
    path = write("model.json", f'{{"do": "{do}"}}'.encode())

    verdict = admit_model(path, ModelQuestion(backend=misbehaving))

    assert verdict.reason.startswith("crash: killed by SIG")


def test_a_crash_is_blamed_on_the_file_that_crashes(write, misbehaving) -> None:
    """Among many files judged together, the sound ones are admitted all the same."""
    does = ["ok", "ok", "crash", "ok", "nan", "ok", "abort"]
    paths = [write(f"{i}.json", f'{{"do": "{do}"}}'.encode()) for i, do in enumerate(does)]

    verdicts = admit_models(paths, ModelQuestion(backend=misbehaving))

    assert [_word(one) for one in verdicts] == ["", "", "crash", "", "nan", "", "crash"]


def test_files_that_are_no_model_are_refused(write) -> None:
    """Empty, random, text, truncated anywhere, of an unknown name, a folder, or not there."""
    dice = np.random.default_rng(5)
    contents = {"empty": b"", "text": b"not a model\n" * 50, "random": dice.bytes(5000)}
    for kind, file in KEYWORDS.items():
        whole = (MODELS / file).read_bytes()
        cuts = (4, 8, 100, len(whole) // 2, len(whole) - 1)
        contents |= {f"{kind}-{cut}": whole[:cut] for cut in cuts}
    paths = [
        write(f"{name}.{kind}", content) for name, content in contents.items() for kind in KEYWORDS
    ]
    others = [write("model.bin", b"x"), paths[0].parent, paths[0].with_name("missing.onnx")]

    verdicts = admit_models(paths, SHORT) + admit_models(others, SHORT)

    assert {_word(one) for one in verdicts[: len(paths)]} <= REASONS
    assert [_word(one) for one in verdicts[len(paths) :]] == ["bundle"] * 3


# --- silent damage -------------------------------------------------------------------


def _mutants(model: bytes, seed: int) -> list[bytes]:
    """Flip one to three bits anywhere."""
    dice = random.Random(seed)
    made = []
    for _ in range(MUTANTS):
        damaged = bytearray(model)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        made.append(bytes(damaged))
    return made


SPEC = ModelSpec(
    name="keywords",
    version="1",
    kind="classifier",
    stream=StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(10)), rate_hz=50.0),
    window=WindowSpec(length=49, hop=49),
    artefacts=(ArtefactSpec("tflite", "model", "int8"),),
    labels=tuple(f"word{i}" for i in range(12)),
    tolerance=0.004,
)


def _golden(kind: str, model: bytes) -> Golden:
    arrays = np.load(MODELS / f"{KEYWORDS[kind]}.npz")
    inputs = (arrays["input"].astype(np.float64) - 83) * 0.5847029
    inputs = inputs.reshape(-1, 49, 10)
    session = load_session(None, kind, model)
    return Golden(
        inputs, Pipeline(SPEC, session, base="").score_windows(golden_windows(inputs)).score
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KEYWORDS)
def test_bit_flips_never_harm_this_process_and_wrong_numbers_are_refused(
    tmp_path: Path, write, kind: str
) -> None:
    """Each of 100 mutants gets a verdict; what loads has another digest, and golden windows tell.

    Bare admission cannot see that a weight changed. In a bundle, a mutant is
    admitted only if it answers the golden windows within the tolerance.
    """
    whole = (MODELS / KEYWORDS[kind]).read_bytes()
    mutants = _mutants(whole, seed=11)
    paths = [write(f"{i}.{kind}", mutant) for i, mutant in enumerate(mutants)]

    verdicts = admit_models(paths, SHORT)

    assert len(verdicts) == MUTANTS
    assert {_word(one) for one in verdicts if not one.is_admitted} <= REASONS
    admitted = [one.findings for one in verdicts if one.findings is not None]
    assert 0 < len(admitted) < MUTANTS
    assert hashlib.sha256(whole).hexdigest() not in {one.digest for one in admitted}
    spec = msgspec.structs.replace(SPEC, artefacts=(ArtefactSpec(kind, "model", "int8"),))
    golden = _golden(kind, whole)
    outcomes = set()
    for number in [i for i, one in enumerate(verdicts) if one.is_admitted][:12]:
        contents = {"model": mutants[number], "golden.npz": write_golden(golden)}
        save_bundle(tmp_path / f"bundle-{number}", spec, contents)
        verdict = admit(tmp_path / f"bundle-{number}", limit_s=20)
        assert verdict.is_admitted == (verdict.reason == "")
        assert verdict.worst_difference <= spec.tolerance
        outcomes.add(verdict.reason.partition(":")[0])
    assert "golden" in outcomes
