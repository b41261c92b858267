"""Run quantised models next to a sensor, offline for as long as it must be.

The names below are imported when they are first used, so that a small program
pays only for what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.backends import open_pipeline as open_pipeline
    from edge_runtime.bundle import Bundle as Bundle
    from edge_runtime.bundle import load_bundle as load_bundle
    from edge_runtime.config import DeviceConfig as DeviceConfig
    from edge_runtime.config import load_device as load_device
    from edge_runtime.errors import EdgeError as EdgeError
    from edge_runtime.modes.edge import EdgeDevice as EdgeDevice
    from edge_runtime.pipeline import Pipeline as Pipeline
    from edge_runtime.spec import Layer as Layer
    from edge_runtime.spec import ModelSpec as ModelSpec
    from edge_runtime.types import Decision as Decision
    from edge_runtime.types import Estimates as Estimates
    from edge_runtime.types import Frame as Frame
    from edge_runtime.types import Output as Output
    from edge_runtime.types import Windows as Windows
    from edge_runtime.version import __version__ as __version__

__all__ = [
    "Bundle",
    "Decision",
    "DeviceConfig",
    "EdgeDevice",
    "EdgeError",
    "Estimates",
    "Frame",
    "Layer",
    "ModelSpec",
    "Output",
    "Pipeline",
    "Windows",
    "__version__",
    "load_bundle",
    "load_device",
    "open_pipeline",
]

_HOMES = {
    "Bundle": "bundle",
    "Decision": "types",
    "DeviceConfig": "config",
    "EdgeDevice": "modes.edge",
    "EdgeError": "errors",
    "Estimates": "types",
    "Frame": "types",
    "Layer": "spec",
    "ModelSpec": "spec",
    "Output": "types",
    "Pipeline": "pipeline",
    "Windows": "types",
    "__version__": "version",
    "load_bundle": "bundle",
    "load_device": "config",
    "open_pipeline": "backends",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
