"""Every registered backend that is installed keeps the contract of its port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import registry
from edge_runtime.backends import ARTEFACT_KINDS
from edge_runtime.backends.process import open_in_process
from edge_runtime.backends.shared import Setting
from edge_runtime.bundle import write_arrays
from edge_runtime.errors import MissingExtra
from edge_runtime.ports import Backend, Session, SessionOptions
from edge_runtime.testing import check_backend

DATA = Path(__file__).parents[1] / "data" / "models"


def _reference() -> bytes:
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 8), (8, 2))]
    bias = [np.zeros(size, np.float32) for size in (8, 2)]
    return write_arrays({"w0": weights[0], "b0": bias[0], "w1": weights[1], "b1": bias[1]})


MODELS: Mapping[str, Callable[[], bytes]] = {
    "litert": (DATA / "hello_world_int8.tflite").read_bytes,
    "onnx": (DATA / "kws_dscnn_int8_qdq.onnx").read_bytes,
    "reference": _reference,
    "tflite-runtime": (DATA / "hello_world_int8.tflite").read_bytes,
}


def test_every_backend_is_checked() -> None:
    """A new backend needs a model here."""
    assert set(MODELS) == set(registry.names("backends"))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_backend_keeps_its_contract(name: str) -> None:
    """A backend proves itself, refuses junk, and answers the same question the same."""

    def make() -> Backend:
        backend: Backend = registry.create("backends", name, {})
        return backend

    try:
        make().probe()
    except MissingExtra as error:
        pytest.skip(str(error))
    check_backend(make, MODELS[name]())


class _InChildren:
    """A backend whose models run in processes of their own."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.probe = backend.probe

    def load(self, model: bytes, options: SessionOptions) -> Session:
        kind = ARTEFACT_KINDS[self.name]
        return open_in_process(model, Setting(self.name, kind, options, 30.0, 512))


@pytest.mark.parametrize("name", ["litert", "onnx", "reference"])
def test_a_backend_keeps_its_contract_in_a_child(name: str) -> None:
    """What holds for a model in this process holds for one in a process of its own."""
    check_backend(lambda: _InChildren(registry.create("backends", name, {})), MODELS[name]())
