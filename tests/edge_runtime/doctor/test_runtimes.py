"""The doctor proves what works, and survives what does not."""

from __future__ import annotations

import signal

import pytest

from edge_runtime.distributions import installed_version
from edge_runtime.doctor import Health, Report, examine
from edge_runtime.doctor.runtimes import _ask

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def report() -> Report:
    """One examination of this machine."""
    return examine()


def _of(report: Report, backend: str) -> Health:
    return next(one for one in report.backends if one.backend == backend)


def test_runtimes_that_are_installed_work(report: Report) -> None:
    """Each ran the tiny model, and says its version and how long it took."""
    for name in ("litert", "onnx", "reference"):
        health = _of(report, name)
        assert (health.state, health.why) == ("works", "")
        assert health.version
        assert health.ms > 0
    assert report.is_able


def test_a_runtime_that_is_absent_has_its_remedy(report: Report) -> None:
    """tflite-runtime is an extra of its own."""
    health = _of(report, "tflite-runtime")

    if installed_version("tflite-runtime") is None:
        assert health.state == "absent"
        assert "edge-runtime[tflite-legacy]" in health.remedy


def test_every_accelerator_that_is_built_in_was_asked(report: Report) -> None:
    """What a runtime lists is proved, one by one."""
    listed = [(one.backend, name) for one in report.backends for name in one.accelerators]

    assert [(one.backend, one.accelerator) for one in report.accelerators] == listed


def test_the_machine_and_the_extras_are_listed(report: Report) -> None:
    """Nothing is empty, and an extra names its packages with their versions."""
    assert report.processor
    assert report.cores >= 1
    assert report.memory_mb > 0
    extras = {extra.name: extra.packages for extra in report.extras}
    assert list(extras["onnx"]) == ["onnxruntime"]
    assert extras["onnx"]["onnxruntime"] is not None


def test_a_runtime_that_dies_is_a_line(faulty_backends: tuple[str, ...]) -> None:
    """A native crash ends the child, not the doctor."""
    health = _ask("aborts", None, 20.0)

    assert health.state == "broken"
    assert f"signal {signal.SIGABRT}" in health.why


def test_a_runtime_that_hangs_is_a_line(faulty_backends: tuple[str, ...]) -> None:
    """The time limit ends it."""
    health = _ask("hangs", None, 0.5)

    assert health.state == "broken"
    assert health.why == "it did not answer within 0.5 s"


def test_an_absent_accelerator_is_a_line() -> None:
    """A provider that this build does not have is absent, with what to install."""
    health = _ask("onnx", "rknpu", 20.0)

    assert health.state == "absent"
    assert "RknpuExecutionProvider" in health.why
    assert health.remedy


def test_numpy_alone_runs_no_model_file(report: Report) -> None:
    """The reference backend does not make a machine able."""
    only = tuple(one for one in report.backends if one.backend == "reference")
    bare = Report(
        **{name: getattr(report, name) for name in Report.__struct_fields__} | {"backends": only}
    )

    assert not bare.is_able
