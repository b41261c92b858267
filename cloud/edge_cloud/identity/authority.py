"""A small certificate authority: elliptic-curve P-256, one level, one cloud.

Its key signs devices, the cloud's own roles and the servers they meet, and the list of
revoked certificates. Whoever has it can be anybody: the file has mode 0600, is checked at
every use, and belongs on the machine that enrolls, not on the broker's.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError, RequestError
from edge_runtime.ports import Clock
from edge_runtime.sync.identity.folder import check_private, write_private
from edge_runtime.sync.identity.keys import certificate_of, key_digest, load_key, new_key, pem_of

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )
    from cryptography.x509 import ExtensionType
    from cryptography.x509.oid import ObjectIdentifier

__all__ = ["Authority", "Credentials", "requested_key"]

_YEAR = datetime.timedelta(days=365)
_AUTHORITY_LIFE = 20 * _YEAR
_SERVER_LIFE = datetime.timedelta(days=397)
# A device's clock may be behind the cloud's by so much and still take what it is given.
_SKEW = datetime.timedelta(minutes=10)
_SECOND = datetime.timedelta(seconds=1)
_ENDLESS = datetime.timedelta(days=36500)


class Credentials(NamedTuple):
    """Files of one party.

    Attributes:
        certificate: PEM.
        key: PEM, mode 0600.
        authority: Whom it trusts, PEM.
    """

    certificate: Path
    key: Path
    authority: Path


class Authority:
    """Signs certificates.

    Args:
        folder: With ``ca.key`` and ``ca.pem``.
        clock: Says from when certificates are good.

    Raises:
        ConfigError: There is none, or it does not fit.
        TrustError: Others can read its key.
        MissingExtra: ``cryptography`` is not installed.
    """

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder
        self.path = folder / "ca.pem"
        self._list = folder / "revoked.pem"
        self._clock = clock or SystemClock()
        key = folder / "ca.key"
        if not (key.is_file() and self.path.is_file()):
            raise ConfigError(
                "there is no certificate authority",
                where=str(folder),
                expected="ca.key and ca.pem",
                remedy="Make one: edge-runtime cloud ca init CLOUD.yaml.",
            )
        check_private(key)
        self._key = load_key(key.read_bytes(), str(key))
        self.certificate = certificate_of(self.path.read_text(), str(self.path))

    @classmethod
    def create(cls, folder: Path, name: str, clock: Clock | None = None) -> Authority:
        """Make a new authority.

        Raises:
            ConfigError: There is one; it is never replaced.
        """
        if (folder / "ca.key").exists():
            raise ConfigError(
                "there is an authority, and it is never replaced",
                where=str(folder / "ca.key"),
                expected="an empty folder",
                remedy="Every device trusts it. Name another folder in identity.ca to begin anew.",
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = new_key()
        now = _time(clock or SystemClock())
        # The key last: without it there is no authority, and the next try begins anew.
        certificate = _self_signed(key, name, now)
        write_private(folder / "ca.pem", _pem(certificate), mode=0o644)
        write_private(folder / "ca.key", pem_of(key))
        return cls(folder, clock)

    @property
    def digest(self) -> bytes:
        """SHA-256 over its public key, as claim tokens name it."""
        return key_digest(self.certificate.public_key())

    def sign_client(
        self, key: EllipticCurvePublicKey, name: str, *, days: float
    ) -> x509.Certificate:
        """Sign a certificate for a device or a role, named by common name and URI."""
        from cryptography import x509

        uri = x509.UniformResourceIdentifier(f"urn:edge-runtime:{name}")
        return self._sign(
            key,
            name,
            datetime.timedelta(days=days),
            [(x509.SubjectAlternativeName([uri]), False)],
            usage=x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH,
        )

    def server(self, folder: Path, names: Sequence[str], stem: str = "server") -> Credentials:
        """Give a server its key and certificate; what is there and good for long is kept.

        Args:
            folder: Where the files go.
            names: Names and addresses by which clients reach it; at least one.
            stem: Name of the files, without suffix.
        """
        from cryptography import x509

        at = Credentials(folder / f"{stem}.pem", folder / f"{stem}.key", self.path)
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        if not self._is_good(at, alternatives):
            key = new_key()
            certificate = self._sign(
                key.public_key(),
                names[0],
                _SERVER_LIFE,
                [(alternatives, False)],
                usage=x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,
            )
            self._write(at, key, certificate)
        return at

    def role(self, client_id: str, *, days: float) -> Credentials:
        """Give a role of the cloud its key and certificate; what is good for long is kept."""
        folder = self.folder / "roles"
        at = Credentials(folder / f"{client_id}.pem", folder / f"{client_id}.key", self.path)
        if not self._is_good(at, None):
            key = new_key()
            self._write(at, key, self.sign_client(key.public_key(), client_id, days=days))
        return at

    def revocations(self, revoked: Iterable[tuple[int, int]]) -> bytes:
        """Sign the list of revoked certificates, PEM.

        It does not run out within the authority's life: a broker refuses everybody when
        its list has, and a new one is written with every revocation anyway. Each begins
        later than the one before, however soon it follows: of two that begin in the same
        second OpenSSL goes on using the first.

        Args:
            revoked: Serial number and time of revocation, ns since 1970, of each.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding

        now = _time(self._clock)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(max(now - _SKEW, self._last_list() + _SECOND))
            .next_update(now + _ENDLESS)
        )
        for serial, revoked_ns in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(
                entry.revocation_date(_instant(revoked_ns)).build()
            )
        pem = builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)
        write_private(self._list, pem, mode=0o644)
        return pem

    def _last_list(self) -> datetime.datetime:
        """Return from when the newest list is."""
        from cryptography import x509

        if not self._list.is_file():
            return datetime.datetime.min.replace(tzinfo=datetime.UTC)
        return x509.load_pem_x509_crl(self._list.read_bytes()).last_update_utc

    def _sign(
        self,
        key: EllipticCurvePublicKey,
        name: str,
        life: datetime.timedelta,
        extensions: Sequence[tuple[ExtensionType, bool]],
        *,
        usage: ObjectIdentifier,
    ) -> x509.Certificate:
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256

        now = _time(self._clock)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - min(_SKEW, life))
            .not_valid_after(min(now + life, self.certificate.not_valid_after_utc))
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        fixed: list[tuple[ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(signs_others=False), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (issuer, False),
            (x509.SubjectKeyIdentifier.from_public_key(key), False),
        ]
        for extension, is_critical in [*fixed, *extensions]:
            builder = builder.add_extension(extension, critical=is_critical)
        return builder.sign(self._key, SHA256())

    def _is_good(self, at: Credentials, names: x509.SubjectAlternativeName | None) -> bool:
        """Whether a certificate is this authority's, for these names, and less than 2/3 old."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        try:
            check_private(at.key)
            certificate = x509.load_pem_x509_certificate(at.certificate.read_bytes())
            certificate.verify_directly_issued_by(self.certificate)
        except (OSError, ValueError, InvalidSignature):
            return False
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        is_young = _time(self._clock) < begins + (ends - begins) * 2 / 3
        if names is None:
            return is_young
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return is_young and found.value == names

    def _write(
        self, at: Credentials, key: EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        at.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(at.key, pem_of(key))
        write_private(at.certificate, _pem(certificate), mode=0o644)


def requested_key(pem: str) -> EllipticCurvePublicKey:
    """Return the key that a certificate signing request is for.

    Raises:
        RequestError: It is none on P-256, or whoever made it does not have the private key.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        is_sound = isinstance(key, ec.EllipticCurvePublicKey) and request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        is_sound = False
    if is_sound and isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return key
    raise RequestError(
        "the signing request does not hold",
        where="request",
        expected="PEM, signed by a key on the curve P-256",
    )


def _self_signed(
    key: EllipticCurvePrivateKey, name: str, now: datetime.datetime
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    subject = _name(name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_others=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, SHA256())


def _key_usage(*, signs_others: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_others,
        key_cert_sign=signs_others,
        crl_sign=signs_others,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general_name(text: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _time(clock: Clock) -> datetime.datetime:
    return _instant(clock.now_ns())


def _instant(time_ns: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time_ns // 10**9, datetime.UTC)
