"""The house keeps its floors, its public names and its weight."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_runtime

ROOT = Path(__file__).resolve().parents[2]
# Optional dependencies: a device module must import without them.
OPTIONAL = (
    "ai_edge_litert",
    "cryptography",
    "duckdb",
    "edge_cloud",
    "edge_converters",
    "edge_simulator",
    "gpiozero",
    "httptools",
    "iotcore",
    "lgpio",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "pymicro_features",
    "rich",
    "scipy",
    "serial",
    "smbus2",
    "tensorflow",
    "tflite_runtime",
    "torch",
)
PURE = ("errors", "types", "spec", "ports", "pipeline")
# numpy itself brings threading and time; what matters is what the core asks for.
IMPURE = ("asyncio", "paho", "sqlite3", "yaml")


def _modules() -> list[str]:
    found = pkgutil.walk_packages(edge_runtime.__path__, "edge_runtime.")
    return sorted(module.name for module in found if not module.name.endswith("__main__"))


def _as_ruff(name: str) -> tuple[int, str]:
    rank = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return rank, name


def test_floors_hold() -> None:
    """The import linter's contracts hold."""
    linter = Path(sys.executable).with_name("lint-imports")

    result = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout


def test_device_modules_import_without_any_extra() -> None:
    """Every device module imports while every optional dependency is blocked."""
    script = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"
        f"for name in {_modules()!r}: importlib.import_module(name)\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


def test_the_pure_core_does_no_input_or_output() -> None:
    """Importing the core brings in no network, database or event loop."""
    script = (
        "import importlib, sys\n"
        f"for name in {PURE!r}: importlib.import_module('edge_runtime.' + name)\n"
        f"print([name for name in {IMPURE!r} if name in sys.modules])\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["edge_runtime", *_modules()])
def test_public_names_exist_and_are_sorted(name: str) -> None:
    """Each name in ``__all__`` exists; constants come first, then classes, then functions."""
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])

    assert list(public) == sorted(public, key=_as_ruff)
    assert [item for item in public if not hasattr(module, item)] == []
