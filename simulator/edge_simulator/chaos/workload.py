"""What the devices of a run work on: a small model, recordings, and files that declare them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.bundle import Golden, save_bundle, write_arrays, write_golden
from edge_runtime.config import dump_yaml
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec

__all__ = ["LENGTH", "STREAM", "write_bundle", "write_cloud", "write_device", "write_recording"]

STREAM = "main"
"""The one stream of each device."""

LENGTH = 4
"""Samples in a window: the first row is that of sample ``LENGTH - 1``."""

_CHANNELS = ("a", "b")


def write_recording(path: Path, rows: int, seed: int) -> None:
    """Write samples of every channel."""
    samples = np.random.default_rng(seed).normal(0, 1, (rows, len(_CHANNELS))).round(3)
    np.savez(path, samples=samples)


def write_bundle(path: Path) -> None:
    """Write a model that answers the sum of a window's samples."""
    weights = np.ones((len(_CHANNELS) * LENGTH, 1), np.float32)
    inputs = np.random.default_rng(0).normal(0, 1, (4, LENGTH, len(_CHANNELS))).round(3)
    outputs = inputs.astype(np.float32).reshape(4, -1) @ weights
    spec = ModelSpec(
        name="sum",
        version="1",
        kind="regressor",
        stream=StreamSpec(tuple(map(ChannelSpec, _CHANNELS)), rate_hz=1.0),
        window=WindowSpec(length=LENGTH, hop=1),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("total",),
    )
    files = {
        "model.npz": write_arrays({"w0": weights, "b0": np.zeros(1, np.float32)}),
        "golden.npz": write_golden(Golden(inputs, outputs.astype(np.float64))),
    }
    save_bundle(path, spec, files)


def write_device(path: Path, sync: dict[str, object], max_age_s: float | None) -> None:
    """Write a device's YAML; its recording and the bundle ``sum-1`` lie beside it.

    Args:
        path: The file, called as the device is.
        sync: Its link.
        max_age_s: After how long it drops its rows; None for never.
    """
    source = {
        "kind": "npz",
        "path": str(path.with_suffix(".npz")),
        "array": "samples",
        "block": 8,
        "time": {"start": "2013-01-01T00:00:00Z", "step_s": 1.0},
    }
    stream = {
        "source": source,
        "model": {"bundle": str(path.with_name("sum-1"))},
        "upload": "windows",
    }
    document = {
        "schema": 1,
        "device": path.stem,
        "state": str(path.with_suffix("")),
        "outbox": {"commit_s": 0.05, "max_age_s": max_age_s},
        "streams": {STREAM: stream},
        "sync": sync,
    }
    path.write_text(dump_yaml(document))


def write_cloud(path: Path, store: Path, broker: dict[str, object]) -> None:
    """Write a cloud's YAML; it compacts nothing, so that every row stays where it was put."""
    document = {"schema": 1, "store": str(store), "broker": broker, "compact_s": None}
    path.write_text(dump_yaml(document))
