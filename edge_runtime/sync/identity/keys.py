"""Elliptic-curve keys and signing requests, by the library ``cryptography``."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from edge_runtime.errors import ConfigError, MissingExtra, TrustError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

__all__ = [
    "certificate_of",
    "check_issued",
    "key_digest",
    "load_key",
    "new_key",
    "pem_of",
    "request_for",
]


def new_key() -> EllipticCurvePrivateKey:
    """Draw a key on the curve P-256.

    Raises:
        MissingExtra: ``cryptography`` is not installed.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise MissingExtra.of("an identity", "cryptography", "secure") from error
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: EllipticCurvePrivateKey) -> bytes:
    """Return the private key as PEM, not encrypted."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes, where: str) -> EllipticCurvePrivateKey:
    """Read a private key.

    Raises:
        ConfigError: It is none on a curve.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise _no_key(where) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise _no_key(where)
    return key


def request_for(key: EllipticCurvePrivateKey, device: str) -> str:
    """Return a certificate signing request for a device, PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def key_digest(key: PublicKeyTypes) -> bytes:
    """Return SHA-256 over a public key (SubjectPublicKeyInfo, DER), 32 bytes."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def certificate_of(pem: str, where: str) -> x509.Certificate:
    """Read a certificate.

    Raises:
        TrustError: It is none.
    """
    try:
        from cryptography import x509
    except ImportError as error:
        raise MissingExtra.of("an identity", "cryptography", "secure") from error
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise TrustError("no certificate came", where=where, expected="one, PEM") from error


def check_issued(
    certificate: x509.Certificate,
    authority: x509.Certificate,
    key: EllipticCurvePrivateKey,
    device: str,
    where: str,
) -> None:
    """Check that a certificate is this device's, for this key, and signed by the authority.

    Raises:
        TrustError: It is not.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509 import NameOID

    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise _foreign("signed by somebody else", where) from error
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [device]:
        raise _foreign("for another name", where)
    if certificate.public_key() != key.public_key():
        raise _foreign("for another key", where)


def _foreign(what: str, where: str) -> TrustError:
    return TrustError(
        f"the certificate is {what}",
        where=where,
        expected="one for this device's name and key, signed by the cloud's authority",
        remedy="Ask whoever runs the cloud; nothing was stored.",
    )


def _no_key(where: str) -> ConfigError:
    return ConfigError(
        "the file holds no private key on a curve",
        where=where,
        expected="a key that edge-runtime wrote, PEM",
        remedy="Move it away and enroll again with a new token.",
    )
