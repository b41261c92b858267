"""Keys, specs and signatures shared by the update tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_cloud.signing import SigningKey, sign_base
from edge_runtime.bundle import Bundle, Golden, pack, save_bundle, write_arrays, write_golden
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Clamps,
    Limit,
    ModelSpec,
    Normalise,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.sync.messages import Signed
from edge_runtime.update.trust import Statement

CLAMPS = Clamps(
    kinds=("normaliser", "calibration", "residual", "fusion", "prior", "thresholds"),
    normaliser_shift=0.5,
    normaliser_ratio=2.0,
    calibration_scale=1.5,
    calibration_offset=3.0,
    residual_weight=50.0,
    residual=10.0,
    fusion_weight=2.0,
    prior=5.0,
    threshold=4.0,
    age_s=7 * 86400.0,
)


def _key(seed: int) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


@pytest.fixture(scope="session")
def release_key() -> SigningKey:
    return _key(1)


@pytest.fixture(scope="session")
def layer_key() -> SigningKey:
    return _key(2)


@pytest.fixture(scope="session")
def stranger() -> SigningKey:
    return _key(3)


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., ModelSpec]:
    """Build a regressor on two channels, one window per sample, with open clamps."""

    def make(**changes: object) -> ModelSpec:
        fields: dict[str, object] = {
            "name": "turbine",
            "version": "1",
            "kind": "regressor",
            "stream": StreamSpec((ChannelSpec("a"), ChannelSpec("b")), rate_hz=1.0),
            "window": WindowSpec(length=1, hop=1),
            "artefacts": (ArtefactSpec("reference", "model.npz", "float32"),),
            "labels": ("nox",),
            "normalise": Normalise(mean=(1.0, -2.0), std=(2.0, 4.0)),
            "limits": (Limit("nox", on=70.0, off=65.0),),
            "clamps": CLAMPS,
        }
        return ModelSpec(**(fields | changes))  # type: ignore[arg-type]

    return make


GOLDEN_INPUTS = np.array([[[1.0, -2.0]], [[3.0, 2.0]], [[0.0, 0.0]]])


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Three windows; the answer is the sum of their normalised samples."""
    features = (GOLDEN_INPUTS.astype(np.float32) - [1.0, -2.0]) / [2.0, 4.0]
    return Golden(GOLDEN_INPUTS, features.sum(axis=2).astype(np.float64))


@pytest.fixture(scope="session")
def make_bundle(make_spec) -> Callable[..., Bundle]:
    """Save a bundle of one dense layer: the sum of two normalised samples plus ``bias``."""

    def make(folder: Path, *, bias: float = 0.0, **changes: object) -> Bundle:
        spec = make_spec(**changes)
        model = write_arrays(
            {"w0": np.ones((2, 1), np.float32), "b0": np.full(1, bias, np.float32)}
        )
        features = (GOLDEN_INPUTS.astype(np.float32) - [1.0, -2.0]) / [2.0, 4.0]
        vectors = Golden(GOLDEN_INPUTS, features.sum(axis=2) + bias)
        return save_bundle(folder, spec, {"model.npz": model, "golden.npz": write_golden(vectors)})

    return make


@pytest.fixture(scope="session")
def sign(release_key: SigningKey, layer_key: SigningKey) -> Callable[..., Signed]:
    """Sign a base in small chunks, so that a small bundle has many."""

    def sign(bundle: Bundle, *, seq: int, chunk_bytes: int = 128, **changes: object) -> Signed:
        whole = msgspec.json.decode(
            sign_base(release_key, bundle, [layer_key.public], seq).payload, type=Statement
        )
        archive = pack(bundle)
        chunks = tuple(
            hashlib.sha256(archive[first : first + chunk_bytes]).hexdigest()
            for first in range(0, len(archive), chunk_bytes)
        )
        fields = {"chunk_bytes": chunk_bytes, "chunks": chunks} | changes
        return release_key.sign(msgspec.structs.replace(whole, **fields).encode())

    return sign
