"""The claim token: what a person carries from the cloud to a new device, once.

``er1.<secret>.<authority>``, both parts base64 without padding. The secret is good
for one enrolment. The authority is the SHA-256 of the cloud's public key, so that
the device knows the cloud at first contact, and sends the secret to nobody else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets

import msgspec

from edge_runtime.errors import ConfigError

__all__ = ["ClaimToken"]

_PREFIX = "er1"
_SECRET_BYTES = 16
_DIGEST_BYTES = 32


class ClaimToken(msgspec.Struct, frozen=True):
    """A secret, and whom it may be shown to.

    Attributes:
        secret: 16 random bytes.
        authority: SHA-256 over the public key of the cloud's authority (DER, 32 bytes).
    """

    secret: bytes
    authority: bytes

    @classmethod
    def draw(cls, authority: bytes) -> ClaimToken:
        """Draw a new secret from the system's random source."""
        return cls(secrets.token_bytes(_SECRET_BYTES), authority)

    @classmethod
    def parse(cls, text: str) -> ClaimToken:
        """Read a token as it was printed.

        Raises:
            ConfigError: It is none; its text is not repeated in the message.
        """
        parts = text.strip().split(".")
        if len(parts) == 3 and parts[0] == _PREFIX:
            secret, authority = _decoded(parts[1]), _decoded(parts[2])
            if len(secret) == _SECRET_BYTES and len(authority) == _DIGEST_BYTES:
                return cls(secret, authority)
        raise ConfigError(
            f"a text of {len(text)} characters is no claim token",
            where="claim token",
            expected=f"{_PREFIX}.SECRET.AUTHORITY",
            remedy="Copy the whole line that edge-runtime cloud enroll printed.",
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the secret: what the cloud keeps of it."""
        return hashlib.sha256(self.secret).hexdigest()

    @property
    def text(self) -> str:
        """The token as a person carries it."""
        return ".".join((_PREFIX, _encoded(self.secret), _encoded(self.authority)))

    def __repr__(self) -> str:
        """Show nothing that could be used."""
        return f"ClaimToken(authority={self.authority.hex()[:16]})"


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
