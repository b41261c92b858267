"""Tuning measures real engines, and survives those that crash, hang, fail or lie."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.distributions import installed_version
from edge_runtime.errors import ConfigError
from edge_runtime.machine import Machine
from edge_runtime.tune import Candidate, Row, Tuning, tune
from edge_runtime.tune.child import Subject
from edge_runtime.tune.wire import Ask

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnxruntime")


def _of(tuning: Tuning, backend: str) -> Row:
    return next(row for row in tuning.rows if row.candidate.backend == backend)


def test_both_engines_are_measured_and_agree(keywords: Path) -> None:
    """Each engine answers every golden window; the chosen row is the quickest, to 3 %."""
    tuning = tune(keywords, seconds=0.4)

    measured = [row for row in tuning.rows if row.agrees]
    assert {row.candidate.backend for row in measured} == {"litert", "onnx"}
    assert all(0 < row.median_us <= row.p99_us and row.cpu_us > 0 for row in measured)
    assert all(row.rss_mb > 0 for row in measured)
    assert tuning.chosen is not None
    chosen = tuning.rows[tuning.chosen]
    assert chosen.median_us <= 1.03 * min(row.median_us for row in measured)
    assert tuning.machine == Machine.here()


def test_blocks_are_measured_and_proven_equal(sine: Path) -> None:
    """A dense network gains from blocks, whose answers have the bytes of single ones."""
    tuning = tune(sine, seconds=0.5)

    row = tuning.rows[0]
    assert [block.rows for block in row.blocks][:3] == [1, 8, 32]
    assert all(block.is_equal for block in row.blocks)
    assert row.best_block.rows > 1
    assert row.micro_batch is not None
    assert 2 <= row.micro_batch <= 32


def test_int8_is_compared_with_float_in_words(sine: Path) -> None:
    """A bundle with two precisions gets one sentence for the engine that runs both."""
    tuning = tune(sine, seconds=0.3)

    assert len(tuning.sentences) == 1
    assert tuning.sentences[0].startswith("litert: int8 is ")
    assert "float32" in tuning.sentences[0]


def test_a_crash_and_a_failure_are_rows(
    faulty_backends: tuple[str, ...], doubled: Callable[..., Path]
) -> None:
    """Whatever one candidate does, the others are measured and one is chosen."""
    tuning = tune(doubled("aborts", "dies", "fails", "doubles"), seconds=0.2)

    failures = {row.candidate.backend: row.failure for row in tuning.rows}
    assert f"signal {signal.SIGABRT}" in failures["aborts"]
    assert f"signal {signal.SIGABRT}" in failures["dies"]
    assert failures["fails"] == "the model failed: out of luck"
    assert tuning.chosen is not None
    assert tuning.rows[tuning.chosen].candidate.backend == "doubles"


def test_a_hang_is_a_row(faulty_backends: tuple[str, ...], doubled: Callable[..., Path]) -> None:
    """A candidate that never answers is ended; the others are measured."""
    tuning = tune(doubled("hangs", "doubles"), seconds=0.2, limit_s=6.0)

    assert _of(tuning, "hangs").failure == "it said nothing for 6 s"
    assert _of(tuning, "doubles").agrees


def test_wrong_answers_are_never_chosen(
    faulty_backends: tuple[str, ...], doubled: Callable[..., Path]
) -> None:
    """Neither a wrong answer nor one that changes from call to call is eligible."""
    tuning = tune(doubled("lies", "drifts"), seconds=0.2)

    assert _of(tuning, "lies").agreeing == 0
    assert _of(tuning, "lies").worst == pytest.approx(1.0)
    assert _of(tuning, "drifts").agreeing == 0
    assert tuning.chosen is None


def test_a_block_with_other_bytes_is_never_used(
    faulty_backends: tuple[str, ...], doubled: Callable[..., Path]
) -> None:
    """A block that changes one bit is marked, and neither chosen nor used across streams."""
    tuning = tune(doubled("rounds"), seconds=0.4)

    blocks = {block.rows: block.is_equal for block in tuning.rows[0].blocks}
    assert blocks[32] is False
    assert blocks[8] is True
    assert tuning.rows[0].best_block.rows != 32
    assert tuning.rows[0].micro_batch is None


def test_a_slow_call_counts_although_it_is_the_first(keywords: Path) -> None:
    """Where one call takes all the time there is, it is the sample."""
    bundle = load_bundle(keywords)
    subject = Subject(bundle, Candidate("litert", "kws_dscnn_int8.tflite", "int8"))

    assert len(subject.take(Ask("window", 1, 0.0)).samples) == 1
    assert len(subject.take(Ask("window", 1, 0.05)).samples) > 1


def test_output_of_a_runtime_does_not_disturb(
    faulty_backends: tuple[str, ...], doubled: Callable[..., Path]
) -> None:
    """What native code prints to standard output is not taken for a reply."""
    tuning = tune(doubled("prints"), seconds=0.2)

    assert tuning.rows[0].agrees


def test_what_is_not_installed_is_left_out_in_words(keywords: Path) -> None:
    """A backend without its package is no row, but a line with the remedy."""
    tuning = tune(keywords, backends=["tflite-runtime", "litert"], seconds=0.2)

    if installed_version("tflite-runtime") is None:
        assert [row.candidate.backend for row in tuning.rows] == ["litert"] * len(tuning.rows)
        assert "edge-runtime[tflite-legacy]" in tuning.absent[0]
    else:
        assert tuning.absent == ()


def test_an_absent_accelerator_is_a_row_with_its_remedy(keywords: Path) -> None:
    """An accelerator that was asked for and is absent says so; the processor is measured."""
    tuning = tune(keywords, accelerators=["rknpu"], seconds=0.2)

    failed = [row for row in tuning.rows if row.failure]
    assert [str(row.candidate) for row in failed] == [
        "onnx on rknpu, kws_dscnn_int8_qdq.onnx, 1 thread"
    ]
    assert "RknpuExecutionProvider" in failed[0].failure
    assert failed[0].remedy
    assert tuning.chosen is not None


@pytest.mark.parametrize(
    "options", [{"backends": ["lite-rt"]}, {"backends": ["reference"]}, {"accelerators": ["gpuu"]}]
)
def test_names_that_nothing_knows_are_refused(
    keywords: Path, options: dict[str, list[str]]
) -> None:
    """An unknown backend or accelerator, or one that runs nothing here, is a usage error."""
    with pytest.raises(ConfigError) as caught:
        tune(keywords, seconds=0.2, **options)  # type: ignore[arg-type]

    assert caught.value.remedy


def test_ctrl_c_stores_nothing_and_leaves_no_child(keywords: Path, tmp_path: Path) -> None:
    """Interrupted in the middle: code 130, no profile, and every child has ended."""
    folder = tmp_path / "stored"
    command = [sys.executable, "-m", "edge_runtime.cli", "tune", str(keywords)]
    with subprocess.Popen(
        [*command, "--seconds", "30", "--profiles", str(folder)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        while "one window" not in process.stderr.readline():
            assert process.poll() is None

        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=90)

    assert process.returncode == 130
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
