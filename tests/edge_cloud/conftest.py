"""A small regressor, its keys, and frames of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.signing import SigningKey
from edge_cloud.store import Store
from edge_runtime.backends import load_session
from edge_runtime.bundle import Bundle, Golden, save_bundle, write_arrays, write_golden
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Clamps,
    ModelSpec,
    Normalise,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.sync.frames import RowFrame
from edge_runtime.types import Table, Windows

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
T0_NS = 1_356_998_400 * 10**9  # 2013-01-01

MakeFrame = Callable[..., RowFrame]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


def frame_of(
    seq0: int,
    n: int,
    *,
    device: str = "pump-1",
    stream: str = "main",
    epoch: int = 1,
    incarnation: int = 7,
    gap: bool = False,
) -> RowFrame:
    """Build rows whose value says which identity they have."""
    seq = np.arange(seq0, seq0 + n)
    columns = {
        "index": seq + 1000 * epoch,
        "start_ns": T0_NS + seq * HOUR_NS,
        "end_ns": T0_NS + seq * HOUR_NS,
        "score": (seq + epoch / 8.0)[:, None],
        "effective_id": np.full(n, "0123456789abcdef"),
    }
    return RowFrame(
        device=device,
        stream=stream,
        epoch=epoch,
        incarnation=incarnation,
        seq0=seq0,
        n=n,
        kind="gap" if gap else "estimate",
        table=Table({} if gap else columns),
        reason="quota" if gap else "",
    )


@pytest.fixture(scope="session")
def make_frame() -> MakeFrame:
    return frame_of


def make_bundle(folder: Path, *, version: str = "1", bias: float = 10.0) -> Bundle:
    """Save a linear regressor on two channels: 2 a + b + bias after normalising."""
    spec = ModelSpec(
        name="turbine",
        version=version,
        kind="regressor",
        stream=StreamSpec((ChannelSpec("a"), ChannelSpec("b")), rate_hz=1 / 3600),
        window=WindowSpec(length=1, hop=1),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("nox",),
        normalise=Normalise(mean=(1.0, -2.0), std=(2.0, 4.0)),
        clamps=Clamps(
            kinds=("normaliser", "residual", "prior"),
            normaliser_shift=1.0,
            normaliser_ratio=1.5,
            residual_weight=40.0,
            residual=50.0,
            prior=15.0,
        ),
    )
    model = write_arrays(
        {"w0": np.array([[2.0], [1.0]], np.float32), "b0": np.array([bias], np.float32)}
    )
    windows = np.arange(12, dtype=np.float32).reshape(6, 1, 2)
    session = load_session(None, "reference", model)
    estimates = Pipeline(spec, session, base="0" * 64).score_windows(windows_of(windows))
    golden = write_golden(Golden(windows, estimates.score))
    return save_bundle(folder, spec, {"model.npz": model, "golden.npz": golden})


def windows_of(samples: np.ndarray, first: int = 0) -> Windows:
    """Number windows by the hour."""
    index = np.arange(first, first + len(samples))
    times = T0_NS + index * HOUR_NS
    return Windows(index, times, times, samples)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "turbine-1")


@pytest.fixture
def newer_bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "turbine-2", version="2", bias=12.0)


@pytest.fixture(scope="session")
def release_key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture(scope="session")
def layer_key() -> SigningKey:
    return SigningKey.generate()
