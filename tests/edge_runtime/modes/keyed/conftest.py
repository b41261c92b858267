"""A small model on a grid, and archives of rows of many devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Golden, load_bundle, save_bundle, write_arrays, write_golden
from edge_runtime.ports import Timing
from edge_runtime.sinks.rows import rows_of
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    GridSpec,
    Limit,
    ModelSpec,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Frame

PERIOD_NS = 10_000_000
TIMING = Timing(delay_s=0.02, allowed_lateness_s=0.3, confirm_rows=3, revise_s=0.1)
TIME_WORDS = "delay_s=0.02,allowed_lateness_s=0.3,confirm_rows=3,revise_s=0.1"


class Rows(msgspec.Struct):
    """Rows of many devices in the order in which they come."""

    device: np.ndarray
    time_ns: np.ndarray
    level: np.ndarray

    def save(self, path: Path) -> Path:
        columns: dict[str, Any] = msgspec.structs.asdict(self)
        np.savez(path, **columns)
        return path

    def of(self, device: str) -> Frame:
        mine = self.device == device
        return Frame("main", 0, self.time_ns[mine], self.level[mine, None])


def rows_of_devices(devices: int, *, wild: float = 0.01, seed: int = 0) -> Rows:
    """Draw 60 to 100 rows a device, interleaved: clocks a day off, wild, late and lost rows."""
    dice = np.random.default_rng(seed)
    parts = [_rows_of_one(dice, wild) for _ in range(devices)]
    names = np.repeat([f"m-{number}" for number in range(devices)], [len(p) for p, _ in parts])
    # When each comes: spread at random, in order for each device.
    when = np.concatenate([np.sort(dice.random(len(part))) for part, _ in parts])
    order = np.argsort(when, kind="stable")
    time_ns = np.concatenate([part for part, _ in parts])
    level = np.concatenate([values for _, values in parts])
    return Rows(names[order], time_ns[order], level[order])


def _rows_of_one(dice: np.random.Generator, wild: float) -> tuple[np.ndarray, np.ndarray]:
    count, day_ns = int(dice.integers(60, 100)), 86_400 * 10**9
    begins_ns = 1_750_000_000 * 10**9 + int(dice.integers(-day_ns, day_ns))
    order = np.argsort(np.arange(count) + dice.uniform(0, 12, count))
    time_ns = begins_ns + order[dice.random(count) > 0.05] * PERIOD_NS
    is_wild = dice.random(len(time_ns)) < wild
    time_ns = time_ns + np.where(is_wild, dice.integers(-(10**17), 10**17, len(time_ns)), 0)
    return time_ns, dice.normal(4.5, 2.0, len(time_ns)).astype(np.float32)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a bundle: the mean of eight slots, ``high`` from 5 on; gaps are filled."""
    spec = ModelSpec(
        name="level",
        version="1",
        kind="regressor",
        stream=StreamSpec(
            (ChannelSpec("level"),), 100.0, grid=GridSpec(gaps="fill", longest_gap_s=0.05)
        ),
        window=WindowSpec(8, 8, kind="tumbling"),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("high",),
        limits=(Limit("high", on=5.0, off=4.5),),
    )
    weights = {"w0": np.full((8, 1), 0.125, np.float32), "b0": np.zeros(1, np.float32)}
    inputs = np.arange(24, dtype=np.float32).reshape(3, 8, 1)
    golden = write_golden(Golden(inputs, inputs.mean(axis=1).astype(np.float64)))
    folder = tmp_path_factory.mktemp("level")
    save_bundle(folder, spec, {"model.npz": write_arrays(weights), "golden.npz": golden})
    return folder


Told = dict[str, list[Any]]


def told_of(rows: Iterable[dict[str, Any]]) -> Told:
    """Sort rows by what they are, each kind in its order; the epoch in a result may differ."""
    told: Told = {"estimate": [], "decision": [], "void": []}
    for row in rows:
        kind = "void" if row["kind"] == "estimate" and "is_retracted" in row else row["kind"]
        told[kind].append({k: v for k, v in row.items() if k not in ("result", "device")})
    return told


@pytest.fixture(scope="session")
def alone(bundle: Path) -> Callable[[Rows, str], Told]:
    """Tell what a device is told when it has a process of its own."""
    loaded = load_bundle(bundle)

    def told(rows: Rows, device: str) -> Told:
        output = open_pipeline(loaded, timing=TIMING).run_many([rows.of(device)])
        found = rows_of(device, 1, output, estimates=True)
        # As a file would have them.
        return told_of(msgspec.json.decode(msgspec.json.encode(list(found))))

    return told
