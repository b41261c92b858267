"""Every registered source keeps the contract of its port."""

from __future__ import annotations

import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime import registry
from edge_runtime.ports import Source
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import check_source

ROWS = 700
NEED = StreamSpec((ChannelSpec("x"), ChannelSpec("y")), 100.0)
GRID = MappingProxyType({"start": "2013-01-01T00:00:00Z", "step_s": 0.01})


def _samples() -> np.ndarray:
    samples: np.ndarray = np.random.default_rng(1).integers(-9999, 9999, (ROWS, 2), np.int16)
    return samples


def _csv(path: Path) -> Mapping[str, Any]:
    header = "x,y"
    np.savetxt(path, _samples(), "%d", ",", header=header, comments="")
    return {"time": dict(GRID)}


def _npz(path: Path) -> Mapping[str, Any]:
    with path.open("wb") as file:
        np.savez(file, x=_samples()[:, 0], y=_samples()[:, 1])
    return {"time": dict(GRID)}


def _parquet(path: Path) -> Mapping[str, Any]:
    pq.write_table(pa.table({"x": _samples()[:, 0], "y": _samples()[:, 1]}), path)
    return {"time": dict(GRID)}


def _wav(path: Path) -> Mapping[str, Any]:
    with wave.open(str(path), "wb") as file:
        file.setsampwidth(2)
        file.setnchannels(2)
        file.setframerate(100)
        file.writeframes(_samples().astype("<i2").tobytes())
    return {}


RECORDINGS: Mapping[str, Callable[[Path], Mapping[str, Any]]] = {
    "csv": _csv,
    "npz": _npz,
    "parquet": _parquet,
    "wav": _wav,
}


def test_every_source_is_checked() -> None:
    """A new source needs a recording here."""
    assert set(RECORDINGS) == set(registry.names("sources"))


@pytest.mark.parametrize("kind", sorted(RECORDINGS))
@given(st.data())
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_source_keeps_its_contract(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """Opened at any index, with any block, a source delivers exactly the rows from there on."""
    path = tmp_path / f"recording.{kind}"
    options = {"path": str(path), **RECORDINGS[kind](path)}
    options["block"] = data.draw(st.integers(1, ROWS + 1))
    options["first_row"] = data.draw(st.sampled_from([0, 0, 13]))
    resume_at = data.draw(st.lists(st.integers(0, ROWS), min_size=1, max_size=3))

    def make() -> Source:
        source: Source = registry.create("sources", kind, options)
        return source

    check_source(make, NEED, resume_at=resume_at)
