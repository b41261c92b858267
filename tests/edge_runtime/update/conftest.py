"""Keys, specs and signatures shared by the update tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

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
from edge_runtime.update.trust import key_id

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


class Key:
    """A private key that signs anything it is asked to."""

    def __init__(self, seed: int) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, payload: bytes) -> Signed:
        return Signed(payload=payload, key=key_id(self.public), signature=self._key.sign(payload))


@pytest.fixture(scope="session")
def release_key() -> Key:
    return Key(1)


@pytest.fixture(scope="session")
def layer_key() -> Key:
    return Key(2)


@pytest.fixture(scope="session")
def stranger() -> Key:
    return Key(3)


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
