"""One small recording in every format."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_runtime import registry
from edge_runtime.sources import Recording
from edge_runtime.spec import ChannelSpec, StreamSpec

START = "2013-01-01T00:00:00Z"
START_NS = 1_356_998_400_000_000_000


@pytest.fixture
def need() -> StreamSpec:
    return StreamSpec((ChannelSpec("x"), ChannelSpec("y")), 10.0)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Recording]:
    """Build a recording of a file in the test's folder; the grid is 10 Hz by default."""

    def make(kind: str, name: str, /, **options: Any) -> Recording:
        if kind != "wav":
            options.setdefault("time", {"start": START, "step_s": 0.1})
        source = registry.create("sources", kind, {"path": str(tmp_path / name), **options})
        assert isinstance(source, Recording)
        return source

    return make


def write_csv(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def write_parquet(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


def write_wav(path: Path, samples: bytes, *, width: int, channels: int, rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setsampwidth(width)
        file.setnchannels(channels)
        file.setframerate(rate_hz)
        file.writeframes(samples)
