"""One call opens a model with the backend of its kind, or says why not."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import registry
from edge_runtime.backends import ARTEFACT_KINDS, load_session
from edge_runtime.errors import ConfigError, ModelError
from edge_runtime.ports import SessionOptions

MODELS = Path(__file__).parents[2] / "data" / "models"


def reference() -> bytes:
    file = io.BytesIO()
    np.savez(file, w0=np.eye(2, dtype=np.float32), b0=np.zeros(2, np.float32))
    return file.getvalue()


def test_every_kind_has_a_default() -> None:
    """A file's kind alone is enough to run it."""
    keywords = (MODELS / "kws_dscnn_int8.tflite").read_bytes()
    twin = (MODELS / "kws_dscnn_int8_qdq.onnx").read_bytes()

    assert load_session(None, "tflite", keywords).outputs[0].shape == (1, 12)
    assert load_session(None, "onnx", twin).outputs[0].shape == (1, 12)
    assert load_session(None, "reference", reference()).outputs[0].shape == (1, 2)


def test_a_backend_can_be_named() -> None:
    """Naming the default is the same as leaving it out."""
    batch = np.ones((1, 2), np.float32)

    answer = load_session("reference", "reference", reference(), SessionOptions(2)).run(batch)

    assert answer.tolist() == [[1, 1]]


def test_the_kinds_are_those_of_the_registered_backends() -> None:
    """Every built-in backend is registered and says which files it runs."""
    assert set(ARTEFACT_KINDS) <= set(registry.names("backends"))
    assert all(registry.find("backends", name).name == name for name in ARTEFACT_KINDS)


def test_an_unknown_backend_gets_a_suggestion() -> None:
    """A misspelt backend names the nearest one."""
    with pytest.raises(ConfigError, match="litert"):
        load_session("lite-rt", "tflite", b"")


def test_an_unknown_kind_is_refused() -> None:
    """A kind of file without a backend lists the known ones."""
    with pytest.raises(ModelError, match="onnx, reference, tflite"):
        load_session(None, "savedmodel", b"")


def test_a_file_of_another_kind_is_refused() -> None:
    """A backend is not offered files it does not run."""
    with pytest.raises(ModelError, match="'onnx'"):
        load_session("litert", "onnx", b"")


@pytest.mark.parametrize("threads", [0, -1, 65])
def test_a_senseless_number_of_threads_is_refused(threads: int) -> None:
    """Threads go from 1 to 64."""
    with pytest.raises(ConfigError, match="1 to 64"):
        load_session(None, "reference", reference(), SessionOptions(threads))


def test_importing_the_package_imports_no_runtime() -> None:
    """A runtime is imported when it is chosen, not before."""
    program = (
        "import sys, edge_runtime.backends, edge_runtime.backends.litert, "
        "edge_runtime.backends.onnx; "
        "print(sorted({'ai_edge_litert', 'onnxruntime', 'tflite_runtime'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


_FUZZ = """
import sys
from pathlib import Path
import numpy as np
from edge_runtime.backends import load_session
from edge_runtime.errors import ModelError
path, kind = Path(sys.argv[1]), sys.argv[2]
whole = path.read_bytes()
random = np.random.default_rng(7)
refused = answered = 0
for number in range(80):
    model = bytearray(whole)
    for place in random.integers(0, len(model), random.integers(1, 6)):
        model[place] ^= 1 << int(random.integers(8))
    cut = len(model) if number % 4 else int(random.integers(len(model)))
    try:
        session = load_session(None, kind, bytes(model[:cut]))
        tensor = session.inputs[0]
        session.run(np.zeros(tensor.shape, tensor.dtype))
        answered += 1
    except ModelError as error:
        assert error.what and error.where and error.expected and error.remedy, error
        refused += 1
print(refused, answered)
"""


@pytest.mark.parametrize(
    ("name", "kind"), [("kws_dscnn_int8.tflite", "tflite"), ("kws_dscnn_int8_qdq.onnx", "onnx")]
)
def test_damaged_models_never_end_the_process(name: str, kind: str) -> None:
    """Of 80 flipped or truncated files each answers or is refused in four parts."""
    pytest.importorskip({"tflite": "ai_edge_litert", "onnx": "onnxruntime"}[kind])

    done = subprocess.run(
        [sys.executable, "-c", _FUZZ, str(MODELS / name), kind], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr[-2000:]
    refused, answered = map(int, done.stdout.split())
    assert refused + answered == 80
    assert refused >= 20
