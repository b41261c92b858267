"""Private Ed25519 keys: release keys sign bases, the layer key signs layers.

Verification lives on the device, in ``edge_runtime.update.trust``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.bundle import Bundle, pack
from edge_runtime.errors import ConfigError, MissingExtra, TrustError
from edge_runtime.spec import Layer
from edge_runtime.sync.identity.folder import check_private
from edge_runtime.sync.messages import Signed
from edge_runtime.update.trust import CHUNK_BYTES, Statement, key_id

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["SigningKey", "sign_base", "sign_layer"]

_PRIVATE = 0o600


class SigningKey:
    """A private key; its text never stands in a message or a log.

    Raises:
        MissingExtra: ``cryptography`` is not installed.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SigningKey:
        """Draw a new key from the system's random source."""
        return cls(_private_class().generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key that `save` wrote.

        Raises:
            ConfigError: The file is missing or holds no such key.
            TrustError: Others than its owner may read it.
        """
        try:
            check_private(path)
            return cls(_private_class().from_private_bytes(bytes.fromhex(path.read_text().strip())))
        except TrustError:
            raise
        except OSError as error:
            raise _unusable(path, error.strerror or "cannot be read") from error
        except ValueError as error:
            raise _unusable(path, "holds no Ed25519 private key") from error

    def save(self, path: Path) -> None:
        """Write the key as 64 hex digits, mode 0600, and ``<path>.pub`` beside it.

        Raises:
            ConfigError: The file exists; a key is never overwritten.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
        except FileExistsError as error:
            raise _unusable(path, "exists, and a key is never overwritten") from error
        with os.fdopen(descriptor, "w") as file:
            file.write(self._key.private_bytes_raw().hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.with_name(path.name + ".pub").write_text(self.public.hex() + "\n")

    @property
    def public(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, payload: bytes) -> Signed:
        """Sign exactly these bytes."""
        return Signed(payload, key_id(self.public), self._key.sign(payload))


def sign_base(key: SigningKey, bundle: Bundle, layer_keys: Sequence[bytes], seq: int) -> Signed:
    """Sign the statement of one base.

    Args:
        key: A release key.
        bundle: The base; its packed bytes are what the statement names.
        layer_keys: Raw public keys that may sign layers for it.
        seq: Counts up per model line; devices never go back.
    """
    archive = pack(bundle)
    starts = range(0, len(archive), CHUNK_BYTES)
    statement = Statement(
        name=bundle.spec.name,
        version=bundle.spec.version,
        digest=bundle.digest,
        archive_sha256=hashlib.sha256(archive).hexdigest(),
        archive_bytes=len(archive),
        chunk_bytes=CHUNK_BYTES,
        chunks=tuple(
            hashlib.sha256(archive[first : first + CHUNK_BYTES]).hexdigest() for first in starts
        ),
        layer_keys=tuple(public.hex() for public in layer_keys),
        seq=seq,
    )
    return key.sign(statement.encode())


def sign_layer(key: SigningKey, layer: Layer) -> Signed:
    """Sign one layer with a layer key."""
    return key.sign(layer.encode())


def _private_class() -> type[Ed25519PrivateKey]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise MissingExtra.of("signing", "cryptography", "secure") from error
    return Ed25519PrivateKey


def _unusable(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"private key file {what}",
        where=str(path),
        expected="a file that edge-runtime cloud keys new wrote",
        remedy="Make a new key: edge-runtime cloud keys new PATH.",
    )
