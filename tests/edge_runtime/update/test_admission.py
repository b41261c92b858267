"""A child process judges a bundle: whatever the bundle does, the answer is a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.bundle import Golden, load_bundle, pack, save_bundle, write_golden
from edge_runtime.ports import Choice
from edge_runtime.spec import ArtefactSpec, AskNext, ModelSpec, StageSpec
from edge_runtime.update.admission import Admission, admit


@pytest.fixture
def make_archive(
    tmp_path: Path, make_spec: Callable[..., ModelSpec], golden: Golden
) -> Callable[..., Path]:
    """Write a bundle whose model misbehaves as told, as one zip."""

    def make(do: str = "ok", *, model: bytes | None = None, vectors: Golden = golden) -> Path:
        spec = make_spec(artefacts=(ArtefactSpec("misbehaving", "model.json", "float32"),))
        contents = {
            "model.json": json.dumps({"do": do}).encode() if model is None else model,
            "golden.npz": write_golden(vectors),
        }
        path = tmp_path / f"{do}.zip"
        path.write_bytes(pack(save_bundle(tmp_path / do, spec, contents)))
        return path

    return make


def test_a_sound_bundle_is_admitted_within_a_second_or_two(make_archive, misbehaving) -> None:
    """A model that reproduces its golden vectors passes, and its memory is measured."""
    verdict = admit(make_archive(), Choice(backend=misbehaving))

    assert verdict == Admission(
        True,
        seconds=verdict.seconds,
        peak_rss_mb=verdict.peak_rss_mb,
        worst_difference=verdict.worst_difference,
    )
    assert verdict.worst_difference < 1e-6
    assert 10 < verdict.peak_rss_mb < 400
    assert verdict.seconds < 10


def test_a_model_with_state_answers_its_golden_windows_as_one_sequence(
    make_archive, misbehaving, golden
) -> None:
    """A model that declares state repeats the sequence from fresh state, and so is admitted."""
    summed = Golden(golden.inputs, golden.outputs.cumsum(axis=0))

    verdict = admit(make_archive("count", vectors=summed), Choice(backend=misbehaving))

    assert verdict.reason == ""
    assert verdict.is_admitted


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("crash", "crash: killed by SIG"),
        ("abort", "crash: killed by SIGABRT"),
        ("corrupt", "crash: killed by SIG"),
        ("die_late", "crash: killed by SIG"),
        ("exit", "crash: exit code 7"),
        ("nan", "nan: "),
        ("stateful", "repeat: "),
        ("batchy", "batch: "),
        ("memory", "memory: more than 256 MiB"),
        ("files", "crash: exit code 1: OSError: "),
        ("flood", "crash: "),
    ],
)
def test_misbehaviour_is_a_refusal_with_a_reason(
    make_archive, misbehaving, do: str, reason: str
) -> None:
    """Crashes, state, NaN and greed end the child, never this process."""
    verdict = admit(make_archive(do), Choice(backend=misbehaving), limit_mb=256)

    assert not verdict.is_admitted
    assert verdict.reason.startswith(reason)


def test_a_hanging_model_is_ended_in_time(make_archive, misbehaving) -> None:
    """A model that never answers is killed at the limit."""
    verdict = admit(make_archive("hang"), Choice(backend=misbehaving), limit_s=3)

    assert not verdict.is_admitted
    assert verdict.reason.startswith("time: ")
    assert verdict.seconds < 8


def test_a_model_for_a_child_is_proven_in_the_child_that_proves(make_archive, misbehaving) -> None:
    """``isolation: process`` starts no second child inside the first."""
    verdict = admit(make_archive(), Choice(backend=misbehaving, isolation="process"))

    assert verdict.is_admitted


def test_other_answers_than_golden_are_refused(make_archive, misbehaving, golden) -> None:
    """An answer beyond the tolerance is refused with the difference and the bound."""
    wrong = Golden(golden.inputs, golden.outputs + 0.5)

    verdict = admit(make_archive(vectors=wrong), Choice(backend=misbehaving))

    assert not verdict.is_admitted
    assert verdict.reason == "golden: an answer differs by 0.5 > 0.001"


def test_golden_outputs_of_another_shape_are_refused(make_archive, misbehaving, golden) -> None:
    """Golden outputs for two labels do not admit a model of one."""
    wide = Golden(golden.inputs, np.repeat(golden.outputs, 2, axis=1))

    assert admit(make_archive(vectors=wide), Choice(backend=misbehaving)).reason.startswith(
        "golden: "
    )


@pytest.mark.parametrize("model", [b"", b"{", b"\x00" * 1000], ids=["empty", "truncated", "zeros"])
def test_files_that_are_no_model_are_refused(make_archive, misbehaving, model: bytes) -> None:
    """An empty, truncated or foreign model file is refused as one that does not load."""
    verdict = admit(make_archive(model=model), Choice(backend=misbehaving))

    assert not verdict.is_admitted
    assert verdict.reason.startswith("load: ")


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_real_runtimes_refuse_files_that_are_no_model(
    tmp_path: Path, make_spec, golden: Golden, kind: str, damage: str
) -> None:
    """LiteRT and ONNX Runtime get bad files in a child process, and say no there."""
    whole = (files("edge_runtime.backends") / f"probe.{kind}").read_bytes()
    model = whole[: len(whole) // 2] if damage == "truncated" else b"not a model\n" * 100
    spec = make_spec(artefacts=(ArtefactSpec(kind, "model", "float32"),))
    save_bundle(tmp_path / kind, spec, {"model": model, "golden.npz": write_golden(golden)})

    verdict = admit(tmp_path / kind)

    assert not verdict.is_admitted
    assert verdict.reason.startswith(("load: ", "crash: "))


def test_bundles_that_are_none_are_refused(tmp_path: Path, make_archive) -> None:
    """Missing, empty, garbage and truncated archives each give a reason."""
    whole = make_archive().read_bytes()
    contents = {"empty": b"", "garbage": b"x" * 5000, "truncated": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)

    verdicts = [admit(tmp_path / name) for name in (*contents, "missing")]

    assert all(not one.is_admitted and one.reason.startswith("bundle: ") for one in verdicts)


def test_a_backend_that_is_not_there_is_said(make_archive) -> None:
    """A backend that nobody registered is a reason, not a crash."""
    verdict = admit(make_archive(), Choice(backend="misbehaving"))

    assert not verdict.is_admitted
    assert "misbehaving" in verdict.reason


def test_golden_vectors_that_are_none_are_refused(tmp_path: Path, make_spec, misbehaving) -> None:
    """A bundle whose golden file holds no arrays cannot prove itself."""
    spec = make_spec(artefacts=(ArtefactSpec("misbehaving", "model.json", "float32"),))
    contents = {"model.json": b'{"do": "ok"}', "golden.npz": b"no arrays"}
    save_bundle(tmp_path / "odd", spec, contents)

    assert admit(tmp_path / "odd", Choice(backend=misbehaving)).reason.startswith("bundle: ")


def test_a_missing_interpreter_is_a_verdict(make_archive, monkeypatch) -> None:
    """Even a child that cannot be started is a refusal with a reason."""
    monkeypatch.setattr("sys.executable", "/nonexistent/python")

    assert admit(make_archive()).reason.startswith("spawn: ")


def test_nothing_of_the_parent_reaches_the_child(make_archive, misbehaving, monkeypatch) -> None:
    """Secrets in the environment do not reach the process that opens foreign files."""
    monkeypatch.setenv("BROKER_PASSWORD", "secret")

    told = admit(make_archive("tell"), Choice(backend=misbehaving)).reason

    assert "OPENBLAS_NUM_THREADS" in told
    assert "BROKER_PASSWORD" not in told


def test_a_verdict_reads_as_json() -> None:
    """What the child prints is what the parent reads."""
    verdict = Admission(False, "golden: x", 1.0, 2.0, 3.0)

    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Admission) == verdict


def test_a_cascade_is_proven_model_by_model(cascade_bundle) -> None:
    """Every model repeats its answers, alone and in blocks, and every way is tried."""
    verdict = admit(cascade_bundle(), Choice())

    assert verdict.reason == ""
    assert verdict.is_admitted
    assert verdict.worst_difference == 0.0


def test_golden_windows_that_miss_a_way_through_a_cascade_are_refused(cascade_bundle) -> None:
    """A model that nobody asked is not proven."""
    bundle = load_bundle(cascade_bundle())
    small = msgspec.structs.replace(bundle.spec.cascade[1], ask_next=AskNext(below=1.1))
    never = msgspec.structs.replace(small, ask_next=AskNext(at_least=1.1))

    open_end, closed = (
        admit(cascade_bundle(name, cascade=(bundle.spec.cascade[0], stage)), Choice())
        for name, stage in (("open", small), ("closed", never))
    )

    assert open_end.reason == "path: no golden window is answered by small"
    assert closed.reason == "path: no golden window is answered by model"


@pytest.mark.parametrize(
    ("do", "reason"), [("ok", ""), ("batchy", "batch: "), ("crash", "crash: killed")]
)
def test_a_stage_that_misbehaves_is_refused(
    make_spec, golden, misbehaving, tmp_path: Path, do: str, reason: str
) -> None:
    """A cascade is as sound as each of its models; here a gate before one that is."""
    gate = StageSpec(
        "gate",
        AskNext(0.0),
        artefacts=(ArtefactSpec("misbehaving", "odd.json", "float32"),),
        labels=("sum",),
        idle=(0.0,),
    )
    own = (ArtefactSpec("misbehaving", "model.json", "float32"),)
    files = {
        "model.json": b'{"do": "ok"}',
        "odd.json": json.dumps({"do": do}).encode(),
        "golden.npz": write_golden(golden),
    }
    save_bundle(tmp_path / "odd", make_spec(artefacts=own, cascade=(gate,)), files)

    verdict = admit(tmp_path / "odd", Choice(backend=misbehaving))

    assert verdict.is_admitted == (do == "ok")
    assert verdict.reason.startswith(reason)
