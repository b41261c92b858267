"""Models are told by their bytes."""

from __future__ import annotations

import gzip
import pickle
import zipfile
from pathlib import Path

import pytest

from edge_converters.formats import recognise
from edge_runtime.errors import BundleError, ConfigError

MODELS = Path(__file__).parents[1] / "data" / "models"


def archive(path: Path, *names: str) -> str:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "{}")
    return str(path)


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_what_every_kind_of_model_is(tmp_path: Path) -> None:
    """A name decides nothing that the bytes say."""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    found = {
        "onnx": recognise(str(MODELS / "ic_resnet8_float.onnx")),
        "tflite": recognise(str(MODELS / "hello_world_float.tflite")),
        "keras": recognise(archive(tmp_path / "a.bin", "config.json", "metadata.json")),
        "hdf5": recognise(written(tmp_path / "b.h5", b"\x89HDF\r\n\x1a\n" + bytes(8))),
        "savedmodel": recognise(str(tmp_path / "saved")),
        "export": recognise(archive(tmp_path / "c.pt2", "m/models/model.json")),
        "torch": recognise(archive(tmp_path / "d.pt", "m/data.pkl")),
        "pickle": recognise(written(tmp_path / "e.bin", pickle.dumps([1]))),
        "joblib": recognise(written(tmp_path / "f.joblib", gzip.compress(b"x" * 100))),
        "xgboost": recognise(written(tmp_path / "g.ubj", b"{L\x00")),
        "lightgbm": recognise(written(tmp_path / "h.txt", b"tree\nversion=v4\n")),
        "module": recognise("package.module:net"),
    }

    assert found == {
        "onnx": "onnx",
        "tflite": "tflite",
        "keras": "keras",
        "hdf5": "keras",
        "savedmodel": "savedmodel",
        "export": "torch-export",
        "torch": "torch-pickle",
        "pickle": "sklearn",
        "joblib": "sklearn",
        "xgboost": "xgboost",
        "lightgbm": "lightgbm",
        "module": "torch-module",
    }


def test_files_of_torch_save_are_told_apart_without_opening_them(tmp_path: Path) -> None:
    """Weights by name, a whole module, and TorchScript need other things done."""
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n"
    weights = b"\x80\x02ccollections\nOrderedDict\n" + rebuilt + b"ctorch\nFloatStorage\n."
    module = b"\x80\x02cmine.networks\nNet\n" + rebuilt + b"."
    found = {}
    for name, pickled in (("weights", weights), ("module", module)):
        with zipfile.ZipFile(tmp_path / f"{name}.pt", "w") as file:
            file.writestr(f"{name}/data.pkl", pickled)
        found[name] = recognise(str(tmp_path / f"{name}.pt"))
    found["script"] = recognise(archive(tmp_path / "s.pt", "s/data.pkl", "s/code/net.py"))
    older = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    found["older"] = recognise(written(tmp_path / "o.pt", older))

    assert found == {
        "weights": "torch-weights",
        "module": "torch-pickle",
        "script": "torch-script",
        "older": "torch-pickle",
    }


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut off", bytes(64)])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    """With its first bytes, and what would be one."""
    with pytest.raises(BundleError, match=r"is no model.*expected .*\.onnx"):
        recognise(written(tmp_path / "thing.onnx", content))


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    """A SavedModel is known by its graph."""
    with pytest.raises(BundleError, match=r"saved_model\.pb"):
        recognise(str(tmp_path))


def test_a_path_that_leads_nowhere_is_a_mistake_of_the_caller() -> None:
    """Exit code 2."""
    with pytest.raises(ConfigError, match="no such model"):
        recognise("nowhere/model.onnx")
