"""What conversions need, and what of it is here."""

from __future__ import annotations

from importlib.util import find_spec

import msgspec

from edge_converters.contracts import Limits
from edge_converters.workers.ask import ask, here
from edge_converters.workers.borrowed import borrowed
from edge_converters.workers.environments import ENVIRONMENTS, cache_folder
from edge_runtime.errors import EdgeError

__all__ = ["Health", "examine"]

# Modules of the extra ``convert``, and what each is for.
_MODULES = {
    "onnx": "ONNX files",
    "onnxslim": "folding of ONNX files",
    "onnxruntime": "proving ONNX files",
    "ai_edge_litert": "proving TFLite files",
    "litert_quantizer": "quantising TFLite files",
}


class Health(msgspec.Struct, frozen=True):
    """One thing that conversions need.

    Attributes:
        name: Of a package or an environment.
        purpose: For people.
        is_ready: Whether it is here.
        found: What is here, or how to get it.
    """

    name: str
    purpose: str
    is_ready: bool
    found: str


def examine() -> tuple[Health, ...]:
    """Look at the packages, the environments of workers, and how workers are shut in."""
    return (*map(_module, _MODULES), *map(_environment, ENVIRONMENTS), _isolation())


def _module(name: str) -> Health:
    is_ready = find_spec(name) is not None
    found = "installed" if is_ready else 'pip install "edge-runtime[convert]"'
    return Health(name, _MODULES[name], is_ready, found)


def _environment(name: str) -> Health:
    one = ENVIRONMENTS[name]
    named = borrowed(name)
    if named is not None:
        return Health(f"worker {name}", one.purpose, named.python.exists(), str(named))
    found = str(one.folder) if one.is_ready else f"edge-runtime convert env sync {name}"
    return Health(f"worker {name}", one.purpose, one.is_ready, found)


def _isolation() -> Health:
    try:
        answer = ask(here(), "nothing.nothing", {}, Limits(seconds=30.0), where="doctor")
    except EdgeError as error:
        return Health("isolation", "limits and no network", False, error.what)
    is_ready = answer.network == "none"
    return Health(
        "isolation",
        "limits and no network",
        is_ready,
        f"network {answer.network}; environments in {cache_folder()}",
    )
