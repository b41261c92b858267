"""Keys sign what devices verify, and stay private."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_cloud.signing import SigningKey, sign_base, sign_layer
from edge_runtime.bundle import Bundle, pack
from edge_runtime.errors import ConfigError, TrustError
from edge_runtime.spec import Layer, ResidualLayer
from edge_runtime.update.trust import Trust, public_key_of


def test_a_signed_base_is_what_a_device_verifies(
    bundle: Bundle, release_key: SigningKey, layer_key: SigningKey
) -> None:
    """A device that trusts the release key gets the statement, and with it the layer keys."""
    trust = Trust([release_key.public])

    statement = trust.verify_base(sign_base(release_key, bundle, [layer_key.public], 3))

    assert (statement.digest, statement.seq) == (bundle.digest, 3)
    assert statement.archive_bytes == len(pack(bundle))
    assert statement.layer_keys == (layer_key.public.hex(),)


def test_a_signed_layer_is_what_a_device_verifies(
    bundle: Bundle, release_key: SigningKey, layer_key: SigningKey
) -> None:
    """A layer comes out of verification bit for bit as it was signed."""
    trust = Trust([release_key.public])
    statement = trust.verify_base(sign_base(release_key, bundle, [layer_key.public], 1))
    layer = Layer(ResidualLayer(0.1, (0.2, 1 / 3)), bundle.digest, seq=1, made_ns=5)

    assert trust.verify_layer(sign_layer(layer_key, layer), statement) == layer
    with pytest.raises(TrustError, match="key"):
        trust.verify_layer(sign_layer(release_key, layer), statement)


def test_a_saved_key_signs_the_same_and_is_private(tmp_path: Path) -> None:
    """A key file has mode 0600, its public half stands beside it, and loading gives the key."""
    key, path = SigningKey.generate(), tmp_path / "release.key"

    key.save(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).sign(b"x") == key.sign(b"x")
    assert public_key_of(tmp_path / "release.key.pub") == key.public


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A private key with a looser mode is not used, and the message says how to mend it."""
    path = tmp_path / "release.key"
    SigningKey.generate().save(path)
    path.chmod(0o644)

    with pytest.raises(TrustError, match="chmod 600"):
        SigningKey.load(path)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """Saving over an existing file is refused."""
    path = tmp_path / "release.key"
    SigningKey.generate().save(path)

    with pytest.raises(ConfigError, match="exists"):
        SigningKey.generate().save(path)


@pytest.mark.parametrize("content", ["", "xyz", "00" * 31, "00" * 33])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    """Anything but 64 hex digits is refused by name, without showing the content."""
    path = tmp_path / "release.key"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(ConfigError, match="no Ed25519 private key"):
        SigningKey.load(path)
