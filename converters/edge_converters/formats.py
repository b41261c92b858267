"""What a model was made with, told by its bytes; a name only breaks ties."""

from __future__ import annotations

import pickletools
import re
import zipfile
import zlib
from pathlib import Path

from edge_converters.contracts import Kind
from edge_runtime.errors import BundleError, ConfigError

__all__ = ["recognise"]

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_HEAD_BYTES = 64
# Of the part of a torch.save file that names its tensors and classes.
_PICKLE_BYTES = 16 << 20
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
# Protocol 2 and newer; joblib files begin like this too, some after compression.
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"x\x9c", b"x\x01", b"x^")
# torch.save before it wrote archives; what is inside shows when it is opened.
_TORCH_SAVE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Classes and functions that a pickle of tensors by name needs.
_OF_TENSORS = re.compile(
    r"collections OrderedDict|torch\._utils |torch\.nn\.parameter |torch\.storage |torch \w+$"
)
_PICKLE_NAMES = (".pkl", ".pickle", ".joblib", ".p")


def recognise(model: str) -> Kind:
    """Tell what a model is.

    Args:
        model: A file or folder, or ``package.module:name``.

    Raises:
        ConfigError: There is nothing of that name.
        BundleError: It is no model that is known here.
    """
    path = Path(model)
    if not path.exists():
        return _of_import_path(model)
    if path.is_dir():
        return _of_folder(path)
    return _of_file(path)


def _of_import_path(model: str) -> Kind:
    if _IMPORT_PATH.fullmatch(model):
        return "torch-module"
    raise ConfigError(
        "there is no such model",
        where=model,
        expected="a file, a SavedModel folder, or package.module:name of a torch module",
        remedy="Correct the path.",
    )


def _of_folder(path: Path) -> Kind:
    if (path / "saved_model.pb").is_file():
        return "savedmodel"
    raise _unknown(path, "the folder holds no saved_model.pb")


def _of_file(path: Path) -> Kind:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise _unknown(path, "the file is empty")
    for found in (_by_magic(head), _by_zip(path, head), _by_name(path, head)):
        if found is not None:
            return found
    raise _unknown(path, f"the file begins with {head[:8].hex(' ')}")


def _by_magic(head: bytes) -> Kind | None:
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(_HDF5):
        return "keras"
    if head.startswith(b"{L") or head.startswith(b"binf"):
        return "xgboost"
    if head.startswith(b"tree\nversion="):
        return "lightgbm"
    if head.startswith(_TORCH_SAVE):
        return "torch-pickle"
    return "sklearn" if _PICKLE.match(head) else None


def _by_zip(path: Path, head: bytes) -> Kind | None:
    if not head.startswith(_ZIP):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = next((name for name in names if name.endswith("/data.pkl")), None)
            if pickled is not None:
                return _of_torch_save(names, archive.open(pickled).read(_PICKLE_BYTES))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _unknown(path, f"the archive is damaged ({error})") from error
    if "config.json" in names and "metadata.json" in names:
        return "keras"
    if any(re.search(r"models/\w+\.json$|serialized_exported_program", name) for name in names):
        return "torch-export"
    return None


def _of_torch_save(names: list[str], pickled: bytes) -> Kind:
    """Tell code, weights and whole modules apart without opening the pickle."""
    if any("/code/" in name for name in names):
        return "torch-script"
    try:
        opcodes = [(one.name, str(value)) for one, value, _ in pickletools.genops(pickled)]
    except ValueError:
        return "torch-pickle"
    called = [value for name, value in opcodes if name == "GLOBAL"]
    is_plain = all(_OF_TENSORS.match(one) for one in called)
    return "torch-weights" if is_plain and "STACK_GLOBAL" not in dict(opcodes) else "torch-pickle"


def _by_name(path: Path, head: bytes) -> Kind | None:
    suffix = path.suffix.lower()
    # An ONNX file is a bare Protocol Buffers message: it begins with its first field.
    if suffix == ".onnx" and head[0] in (0x08, 0x12, 0x1A, 0x22, 0x3A):
        return "onnx"
    if suffix in _PICKLE_NAMES and head.startswith(_COMPRESSED):
        return "sklearn"
    return None


def _unknown(path: Path, what: str) -> BundleError:
    return BundleError(
        f"is no model: {what}",
        where=str(path),
        expected=".keras, SavedModel, .pt2, .onnx, .tflite or a scikit-learn pickle",
        remedy="Check that the file is complete; see edge-runtime convert paths.",
    )
