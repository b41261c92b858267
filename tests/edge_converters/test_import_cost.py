"""Importing the converters costs what numpy and msgspec cost."""

from __future__ import annotations

import json
import subprocess
import sys

_COUNT = "import json, sys; {}; print(json.dumps(sorted(sys.modules)))"


def modules(statement: str) -> set[str]:
    """Return what a fresh interpreter has imported after a statement."""
    command = [sys.executable, "-c", _COUNT.format(statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_stays_cheap() -> None:
    """At most 1.3 times the modules of numpy and msgspec, and no framework among them."""
    base = modules("import numpy, msgspec")

    found = modules("import edge_converters, numpy, msgspec")

    assert len(found) <= 1.3 * len(base)


def test_asking_for_paths_brings_no_framework() -> None:
    """Heavy packages come with the conversion that needs them."""
    found = modules("from edge_converters import PATHS, Request, convert")

    heavy = {"onnx", "onnxruntime", "ai_edge_litert", "litert_quantizer", "tensorflow", "torch"}
    assert not heavy & found
