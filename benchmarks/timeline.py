"""What a grid costs over samples in order, and how many rows a second many devices give."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from results import Row

from edge_runtime.backends.reference import Reference
from edge_runtime.bundle import Bundle, Golden, assemble, write_arrays, write_golden
from edge_runtime.config import device_of, dump_yaml
from edge_runtime.config.document import parse_document
from edge_runtime.modes.keyed import KeyedLimits, KeyedStream
from edge_runtime.pipeline import AnyPipeline, Pipeline, TimedPipeline
from edge_runtime.ports import SessionOptions, Timing
from edge_runtime.quality import MASK
from edge_runtime.types import Frame

__all__ = ["PARTS"]

_SAMPLES = 32_768
_BLOCK = 256
_PERIOD_NS = 10_000_000
_DEVICES = 1000
_ROWS = 60_000
_LATENESS_S = 5.0

_MANIFEST = """\
name: tri
version: "1"
kind: scorer
stream: {{channels: [{{name: x}}, {{name: y}}, {{name: z}}], rate_hz: 100{grid}}}
window: {{length: {length}, hop: {hop}}}
features: [{{kind: statistics, which: [mean]}}]
artefacts: [{{backend: reference, file: model.npz, precision: float32}}]
labels: [a, b, c]
"""
_WEIGHTS = {"w0": np.eye(3, dtype=np.float32), "b0": np.zeros(3, np.float32)}


def grid(*, rounds: int) -> list[Row]:
    """Three channels, windows of 100 every 50, frames of 256; processor time."""
    plain, on_grid = _bundle("", 100, 50), _bundle("{}", 100, 50)
    lenient = Timing(allowed_lateness_s=_LATENESS_S, confirm_rows=1)
    sides: dict[str, tuple[Callable[[], AnyPipeline], list[Frame]]] = {
        "in order": (lambda: _pipeline(on_grid), _frames()),
        "no grid": (lambda: _pipeline(plain), _frames()),
        "in order, revisable": (lambda: _pipeline(on_grid, lenient), _frames()),
        "1 % late": (lambda: _pipeline(on_grid, lenient), _frames(late=0.01)),
        "1 % suspect": (lambda: _pipeline(on_grid), _frames(suspect=0.01)),
        "all suspect": (lambda: _pipeline(on_grid), _frames(suspect=1.0)),
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(max(3, rounds // 40)):
        for name, (make, frames) in sides.items():
            taken[name].append(_pushed(make(), frames))
    rates = {name: _SAMPLES / statistics.median(found) for name, found in taken.items()}
    peers = {f"{name} samples/s": rate for name, rate in rates.items() if name != "in order"}
    value = rates["in order"]
    return [
        Row.of("grid_samples_per_s", value, "samples/s", bar=None, better="higher", peers=peers)
    ]


def keyed(*, rounds: int) -> list[Row]:
    """From an archive into JSON lines, a thousand devices in turn; processor time."""
    sides = {"no grid": ("", 1000), "grid": ("{}", 1000), "no grid, 100 in memory": ("", 100)}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory(prefix="edge-runtime-bench-") as name:
        folder = Path(name)
        archive = _archive(folder / "rows.npz")
        for number in range(max(2, rounds // 100)):
            for side, (grid_words, live) in sides.items():
                place = folder / f"{number}-{side}"
                taken[side].append(_streamed(place, archive, grid_words, live))
    rates = {side: _ROWS / statistics.median(found) for side, found in taken.items()}
    peers = {f"{side} rows/s": rate for side, rate in rates.items() if side != "no grid"}
    return [
        Row.of(
            "keyed_rows_per_s", rates["no grid"], "rows/s", bar=None, better="higher", peers=peers
        )
    ]


PARTS = {"grid_samples_per_s": grid, "keyed_rows_per_s": keyed}


def _row(name: str, value: float, unit: str, peers: dict[str, float]) -> Row:
    return Row.of(name, value, unit, bar=None, better="higher", peers=peers)


def _bundle(grid_words: str, length: int, hop: int) -> Bundle:
    inputs = np.random.default_rng(1).normal(size=(2, length, 3)).astype(np.float32)
    words = f", grid: {grid_words}" if grid_words else ""
    files = {
        "bundle.yaml": _MANIFEST.format(grid=words, length=length, hop=hop).encode(),
        "model.npz": write_arrays(_WEIGHTS),
        "golden.npz": write_golden(Golden(inputs, inputs.mean(axis=1).astype(np.float64))),
    }
    return assemble(files, "bundle")


def _pipeline(bundle: Bundle, timing: Timing | None = None) -> AnyPipeline:
    session = Reference().load(bundle.files["model.npz"], SessionOptions())
    pipeline = Pipeline(bundle.spec, session, base=bundle.digest)
    return pipeline if bundle.spec.stream.grid is None else TimedPipeline(pipeline, timing)


def _frames(*, late: float = 0.0, suspect: float = 0.0) -> list[Frame]:
    dice = np.random.default_rng(3)
    is_late = dice.random(_SAMPLES) < late
    slots = np.arange(_SAMPLES) + np.where(is_late, dice.uniform(0, 300, _SAMPLES), 0)
    time_ns = np.argsort(slots, kind="stable") * _PERIOD_NS
    samples = dice.normal(size=(_SAMPLES, 3)).astype(np.float32)
    masks = (dice.random(_SAMPLES) < suspect).astype(MASK)
    return [
        Frame(
            "main",
            first,
            time_ns[first : first + _BLOCK],
            samples[first : first + _BLOCK],
            quality=masks[first : first + _BLOCK] if suspect else None,
        )
        for first in range(0, _SAMPLES, _BLOCK)
    ]


def _pushed(pipeline: AnyPipeline, frames: list[Frame]) -> float:
    begun = time.process_time()
    for frame in frames:
        pipeline.push(frame)
    return time.process_time() - begun


def _archive(path: Path) -> Path:
    device = np.arange(_ROWS) % _DEVICES
    arrays: dict[str, Any] = {
        "device": np.char.add("m-", device.astype(str)),
        "at": np.arange(_ROWS) // _DEVICES * _PERIOD_NS,
        "samples": np.random.default_rng(5).normal(size=(_ROWS, 3)).astype(np.float32),
    }
    np.savez(path, **arrays)
    return path


def _streamed(folder: Path, archive: Path, grid_words: str, live: int) -> float:
    bundle = _bundle(grid_words, 10, 10)
    (folder / "bundle").mkdir(parents=True)
    for name, content in bundle.files.items():
        (folder / "bundle" / name).write_bytes(content)
    source = {"kind": "npz", "path": str(archive), "array": "samples", "key": "device"}
    source["time"] = {"column": "at", "format": "unix_ns"}
    declared = {
        "device": "bench",
        "state": str(folder / "state"),
        "streams": {"main": {"source": source, "model": {"bundle": str(folder / "bundle")}}},
        "sinks": [{"kind": "jsonl", "path": str(folder / "out.jsonl")}],
        "outbox": {"commit_s": 1.0, "quota_mb": 1, "ballast_mb": 0},
    }
    config = device_of(parse_document(dump_yaml(declared), "benchmark"), folder)
    stream = KeyedStream(config, limits=KeyedLimits(live=live))
    begun = time.process_time()
    stream.run()
    taken = time.process_time() - begun
    status = stream.status()
    found = status.devices, status.position, status.estimates
    if found != (_DEVICES, _ROWS, _ROWS // 10):
        raise ValueError(f"devices, rows and windows are {found}")
    return taken
