"""tflite-runtime is chosen by name only, and says what it lacks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_runtime.backends import ARTEFACT_KINDS, load_session
from edge_runtime.backends.tflite import Runtime, TFLiteSession, probe
from edge_runtime.backends.tflite_runtime import TFLiteRuntime
from edge_runtime.errors import MissingExtra, ModelError
from edge_runtime.ports import SessionOptions

MODELS = Path(__file__).parents[2] / "data" / "models"
is_installed = importlib.util.find_spec("tflite_runtime") is not None


@pytest.mark.skipif(is_installed, reason="tflite-runtime is installed")
def test_a_missing_package_names_its_extra() -> None:
    """Choosing it where it is not installed gives the line that installs it."""
    model = (MODELS / "hello_world_int8.tflite").read_bytes()

    with pytest.raises(MissingExtra, match=r"edge-runtime\[tflite-legacy\]"):
        load_session("tflite-runtime", "tflite", model)


@pytest.mark.skipif(not is_installed, reason="tflite-runtime is not installed")
def test_an_installed_package_answers_the_golden_inputs() -> None:
    """Where it works its older kernels give the golden answers within three integer steps."""
    golden = np.load(MODELS / "kws_dscnn_int8.tflite.npz")
    model = (MODELS / "kws_dscnn_int8.tflite").read_bytes()

    answers = TFLiteRuntime().load(model, SessionOptions()).run(golden["input"])

    assert np.abs(answers.astype(int) - golden["output"].astype(int)).max() <= 3


def test_an_import_that_works_and_an_interpreter_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under NumPy 2 the first interpreter fails: the probe turns that into a remedy."""

    class Interpreter:
        def __init__(self, **_: object) -> None:
            raise SystemError("initialization of _pywrap raised unreported exception")

    module = ModuleType("broken_runtime")
    module.Interpreter = Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_runtime", module)
    runtime = Runtime("broken", "broken_runtime", "broken-runtime", "x", "Install NumPy 1.")

    with pytest.raises(ModelError) as caught:
        probe(runtime)

    error = caught.value
    assert "unreported exception" in error.what
    assert error.remedy == "Install NumPy 1."
    assert error.where == "backend 'broken'"


def test_a_package_that_cannot_be_imported_is_not_called_missing(tmp_path: Path) -> None:
    """A shared object that does not load is reported as such, not as a missing extra."""
    (tmp_path / "half_installed.py").write_text("raise ImportError('GLIBC_2.34 not found')")
    sys.path.insert(0, str(tmp_path))
    runtime = Runtime("half", "half_installed", "half-installed", "x", "Reinstall.")

    try:
        with pytest.raises(ModelError, match=r"GLIBC_2\.34 not found") as caught:
            probe(runtime)
    finally:
        sys.path.remove(str(tmp_path))

    assert not isinstance(caught.value, MissingExtra)


@pytest.mark.skipif(is_installed, reason="tflite-runtime is installed")
def test_it_is_never_the_default() -> None:
    """Its files are LiteRT's, and nothing but its name chooses it."""
    pytest.importorskip("ai_edge_litert")
    model = (MODELS / "hello_world_int8.tflite").read_bytes()

    session = load_session(None, "tflite", model)

    assert ARTEFACT_KINDS["tflite-runtime"] == "tflite"
    assert isinstance(session, TFLiteSession)
