"""A small bundle without a real model: what reading and packing need."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.bundle import Bundle, Golden, assemble, write_golden

MANIFEST = """\
name: pump-bearing
version: "2.1"
kind: classifier
stream: {channels: [{name: x, unit: g}, {name: y, unit: g}], rate_hz: 3200}
window: {length: 4, hop: 2}
features: [{kind: statistics, which: [rms, ptp]}]
artefacts:
  - {backend: tflite, file: model.tflite, precision: int8}
  - {backend: onnx, file: model.onnx, precision: int8}
labels: [ok, worn]
limits: [{label: worn, on: 0.8, off: 0.6}]
"""


@pytest.fixture
def golden() -> Golden:
    return Golden(np.arange(24, dtype=np.int16).reshape(3, 4, 2), np.eye(3, 2))


@pytest.fixture
def files(golden: Golden) -> dict[str, bytes]:
    return {
        "bundle.yaml": MANIFEST.encode(),
        "model.tflite": b"tflite bytes",
        "model.onnx": b"onnx bytes",
        "golden.npz": write_golden(golden),
        "notes/card.md": b"# A pump\n",
    }


@pytest.fixture
def bundle(files: dict[str, bytes]) -> Bundle:
    return assemble(files, "bundle")
