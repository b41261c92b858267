"""What device and cloud say to each other over HTTPS, as JSON, within limits."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from edge_runtime.errors import WireError
from edge_runtime.sync.messages import Digest, Name

__all__ = [
    "AUTHORITY_PATH",
    "ENROLL_PATH",
    "MAX_BODY_BYTES",
    "RENEW_PATH",
    "Authority",
    "EnrollRequest",
    "Issued",
    "Refused",
    "RenewRequest",
    "decode_body",
]

AUTHORITY_PATH = "/v1/authority"
ENROLL_PATH = "/v1/enroll"
RENEW_PATH = "/v1/renew"

MAX_BODY_BYTES = 16 * 1024
"""Largest body in either direction."""

Pem = Annotated[str, Meta(max_length=8192)]
Serial = Annotated[str, Meta(min_length=1, max_length=128)]

T = TypeVar("T", bound=msgspec.Struct)


class Authority(msgspec.Struct, frozen=True):
    """Answer to ``GET /v1/authority``: the certificate that signs all others, PEM."""

    certificate: Pem


class EnrollRequest(msgspec.Struct, frozen=True):
    """``POST /v1/enroll``: a device's first certificate, please.

    Attributes:
        secret: Of the claim token, hex.
        device: Device id.
        serial: Number of the machine.
        request: Certificate signing request, PEM.
    """

    secret: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    device: Name
    serial: Serial
    request: Pem


class RenewRequest(msgspec.Struct, frozen=True):
    """``POST /v1/renew``, with the present certificate as proof: the next one, please."""

    request: Pem


class Issued(msgspec.Struct, frozen=True):
    """Answer to both: the certificate, PEM, and SHA-256 of the key that it is for."""

    certificate: Pem
    key_sha256: Digest


class Refused(msgspec.Struct, frozen=True):
    """Answer to what is not granted: why, for people."""

    why: Annotated[str, Meta(max_length=1024)]


def decode_body(body: bytes, type: type[T]) -> T:  # noqa: A002 - the word msgspec uses
    """Read one body, strictly and within bounds.

    Raises:
        WireError: It is too large or not as declared.
    """
    try:
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"{len(body)} bytes")
        message: T = msgspec.json.decode(body, type=type)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"body does not decode: {error}", where=type.__name__) from error
    return message
