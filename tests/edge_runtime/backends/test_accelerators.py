"""Accelerators: passed through by name, verified, and never left out in silence."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.backends.accelerators import (
    DELEGATES,
    PROVIDERS,
    check_accelerator,
    delegates_here,
    open_interpreter,
    open_onnx,
    providers_here,
)
from edge_runtime.errors import ConfigError, EdgeError, MissingExtra, ModelError
from edge_runtime.ports import SessionOptions

MODELS = Path(__file__).parents[2] / "data" / "models"


# --- names ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PROVIDERS, "SomeNewExecutionProvider", "openvino:a=b,c=d"])
def test_onnx_knows_providers_by_short_and_full_name(name: str) -> None:
    """A provider that is not in the list goes by its full name."""
    check_accelerator("onnx", name)


@pytest.mark.parametrize(
    "name", [*DELEGATES, "/opt/lib/mine.so", "mine.dylib", "edgetpu:device=usb"]
)
def test_litert_knows_delegates_by_name_and_path(name: str) -> None:
    """A delegate that is not in the list goes by the path of its library."""
    check_accelerator("litert", name)


@pytest.mark.parametrize(
    ("backend", "name", "remedy"),
    [
        ("onnx", "cudda", "Did you mean 'cuda'?"),
        ("onnx", "edgetpu", "choose backend litert"),
        ("litert", "cuda", "choose backend onnx"),
        ("litert", "edgtpu", "Did you mean 'edgetpu'?"),
        ("reference", "cuda", "choose backend onnx"),
        ("onnx", "cuda:fast", "openvino:device_type=GPU"),
        ("onnx", "", "cuda"),
    ],
)
def test_other_names_are_refused_with_a_suggestion(backend: str, name: str, remedy: str) -> None:
    """A misspelt name, or one of another runtime, says what was meant."""
    with pytest.raises(ConfigError) as caught:
        check_accelerator(backend, name)

    assert remedy in caught.value.remedy


# --- ONNX Runtime ---------------------------------------------------------------------


class FakeOnnx:
    """A build of onnxruntime with CUDA, on a machine that may lack what CUDA needs."""

    __version__ = "9.9"
    __file__ = "/nowhere/onnxruntime/__init__.py"

    def __init__(self, *, starts: bool = True, takes: int = 3, fails: str = "") -> None:
        self._starts, self._takes, self._fails = starts, takes, fails
        self.asked: list[Any] = []
        self.has_loaded_libraries = False

    def preload_dlls(self) -> None:
        self.has_loaded_libraries = True
        sys.stdout.write("Failed to load libcufft.so.12\n")

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "NewExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, _model: bytes, _settings: Any, **options: Any) -> Any:  # noqa: N802
        self.asked = options["providers"]
        if self._fails:
            raise RuntimeError(self._fails)
        used = ["CUDAExecutionProvider"] if self._starts else []
        parts = ["CUDAExecutionProvider"] * self._takes + ["CPUExecutionProvider"]
        return SimpleNamespace(
            get_providers=lambda: [*used, "CPUExecutionProvider"],
            get_provider_graph_assignment_info=lambda: [
                SimpleNamespace(ep_name=part) for part in parts
            ],
        )


class Settings:
    """Takes any setting."""

    def add_session_config_entry(self, _name: str, _value: str) -> None:
        """Do nothing."""


def _open(runtime: FakeOnnx, name: str) -> Any:
    return open_onnx(runtime, b"model", Settings(), SessionOptions(accelerator=name))


def test_a_provider_is_asked_for_with_its_options_and_the_cpu_behind() -> None:
    """Options after the name reach the provider."""
    runtime = FakeOnnx()

    session = _open(runtime, "cuda:device_id=1")

    assert runtime.asked == [("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"]
    assert "CUDAExecutionProvider" in session.get_providers()


def test_libraries_that_come_as_wheels_are_loaded_for_nvidia(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And what ONNX Runtime prints about it does not end up among the answers."""
    nvidia, other = FakeOnnx(), FakeOnnx()

    _open(nvidia, "cuda")
    with contextlib.suppress(ModelError):
        _open(other, "NewExecutionProvider")

    assert nvidia.has_loaded_libraries
    assert not other.has_loaded_libraries
    assert capsys.readouterr().out == ""


def test_a_provider_that_was_not_built_in_names_what_is_here() -> None:
    """The message lists this machine's accelerators and what to install."""
    with pytest.raises(MissingExtra) as caught:
        _open(FakeOnnx(), "openvino")

    assert "OpenVINOExecutionProvider" in caught.value.what
    assert "cuda, NewExecutionProvider" in caught.value.expected
    assert "pip install onnxruntime-openvino" in caught.value.remedy


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (FakeOnnx(starts=False), "could not start"),
        (FakeOnnx(takes=0), "takes none of the model's 1 operators"),
        (FakeOnnx(fails="out of memory\non the device"), "out of memory on the device"),
    ],
)
def test_a_provider_that_does_not_take_the_model_is_an_error(runtime: FakeOnnx, words: str) -> None:
    """ONNX Runtime would go on with the processor alone; we do not."""
    with pytest.raises(ModelError, match=words) as caught:
        _open(runtime, "cuda")

    assert "edge-runtime doctor" in caught.value.remedy


def test_the_installed_runtime_is_verified_by_what_it_assigned() -> None:
    """A model opened through the same door, on a provider every build has, answers as always."""
    pytest.importorskip("onnxruntime")
    model = (MODELS / "kws_dscnn_int8_qdq.onnx").read_bytes()
    golden = np.load(MODELS / "kws_dscnn_int8_qdq.onnx.npz")["input"]

    session = load_session(
        "onnx", "onnx", model, SessionOptions(accelerator="CPUExecutionProvider")
    )

    plain = load_session("onnx", "onnx", model)
    assert session.run(golden).tobytes() == plain.run(golden).tobytes()


def test_an_absent_provider_of_the_installed_runtime_is_a_missing_extra() -> None:
    """From the public door too: not a fault of the model."""
    runtime = pytest.importorskip("onnxruntime")
    absent = next(name for name in PROVIDERS if name not in providers_here(runtime))
    model = (MODELS / "kws_dscnn_int8_qdq.onnx").read_bytes()

    with pytest.raises(MissingExtra) as caught:
        load_session("onnx", "onnx", model, SessionOptions(accelerator=absent))

    error = caught.value
    assert all([error.what, error.where, error.expected, error.remedy])


# --- TFLite ---------------------------------------------------------------------------


class FakeDelegate:
    """What `load_delegate` gives; takes as many parts of a model as it is told."""

    def __init__(self, takes: int) -> None:
        self.takes = takes


class FakeInterpreter:
    """An interpreter of a model with four operators."""

    def __init__(self, experimental_delegates: Any = (), **_: Any) -> None:
        self._operators = 4 + sum(one.takes for one in experimental_delegates)

    def _get_ops_details(self) -> list[dict[str, str]]:
        return [{}] * self._operators


@pytest.fixture
def fake_tflite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A TFLite runtime whose delegate library lies on this machine."""
    facts = SimpleNamespace(takes=2, error=None, loaded=[], library=tmp_path / "mine.so")
    facts.library.touch()

    def load_delegate(library: str, options: dict[str, str]) -> FakeDelegate:
        if facts.error:
            raise ValueError(facts.error)
        facts.loaded.append((library, options))
        return FakeDelegate(facts.takes)

    module = ModuleType("fake_tflite")
    module.load_delegate = load_delegate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_tflite", module)
    monkeypatch.setattr(FakeInterpreter, "__module__", "fake_tflite")
    return facts


def _interpreter(name: str) -> Any:
    return open_interpreter("litert", FakeInterpreter, b"model", SessionOptions(accelerator=name))


def test_a_delegate_is_loaded_with_its_options(fake_tflite: SimpleNamespace) -> None:
    """The library and its options reach `load_delegate`; the interpreter has its part."""
    interpreter = _interpreter(f"{fake_tflite.library}:device=usb")

    assert fake_tflite.loaded == [(str(fake_tflite.library), {"device": "usb"})]
    assert len(interpreter._get_ops_details()) == 6


def test_a_delegate_that_takes_nothing_is_an_error(fake_tflite: SimpleNamespace) -> None:
    """TFLite would go on with the processor alone; we do not."""
    fake_tflite.takes = 0

    with pytest.raises(ModelError, match="takes none of the model's 4 operators"):
        _interpreter(str(fake_tflite.library))


def test_a_delegate_that_cannot_start_is_an_error(fake_tflite: SimpleNamespace) -> None:
    """What the library says is passed on."""
    fake_tflite.error = "no device plugged in"

    with pytest.raises(ModelError, match="no device plugged in"):
        _interpreter(str(fake_tflite.library))


def test_an_absent_delegate_is_a_missing_extra() -> None:
    """The message lists this machine's delegates, through the public door and the real runtime."""
    pytest.importorskip("ai_edge_litert")
    absent = next(name for name in DELEGATES if name not in delegates_here())
    model = (MODELS / "kws_dscnn_int8.tflite").read_bytes()

    with pytest.raises(MissingExtra) as caught:
        load_session("litert", "tflite", model, SessionOptions(accelerator=absent))

    error = caught.value
    assert DELEGATES[absent].linux in error.what
    assert all([error.where, error.expected, error.remedy])


def test_a_library_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A wrong path is no delegate."""
    pytest.importorskip("ai_edge_litert")
    model = (MODELS / "kws_dscnn_int8.tflite").read_bytes()
    options = SessionOptions(accelerator=str(tmp_path / "none.so"))

    with pytest.raises(EdgeError, match=r"none\.so, which is not on this machine"):
        load_session("litert", "tflite", model, options)


def test_delegates_are_found_where_the_linker_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library in LD_LIBRARY_PATH is found by its name."""
    name = DELEGATES["armnn"].file or ""
    (tmp_path / name).touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    assert "armnn" in delegates_here()
