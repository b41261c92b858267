"""Certificates for those who may have one: with a claim token, or with the one before."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, NamedTuple

from edge_cloud.identity.authority import Authority, requested_key
from edge_cloud.identity.devices import Devices
from edge_runtime.errors import RequestError
from edge_runtime.sync.identity.keys import key_digest
from edge_runtime.sync.identity.messages import EnrollRequest, Issued, RenewRequest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

__all__ = ["Enrolment", "Peer"]

log = logging.getLogger(__name__)


class Peer(NamedTuple):
    """Who showed a certificate that the authority has signed.

    Attributes:
        name: Common name in it.
        number: Its serial number.
    """

    name: str
    number: int


class Enrolment:
    """Decide and sign; callable from any thread.

    Args:
        authority: Signs.
        devices: Says who may.
        days: Life of a device's certificate.
    """

    def __init__(self, authority: Authority, devices: Devices, *, days: float) -> None:
        self.authority = authority
        self._devices = devices
        self._days = days

    def enroll(self, request: EnrollRequest) -> Issued:
        """Take a device in.

        Raises:
            RequestError: Token, name, machine or signing request do not hold.
        """
        key = requested_key(request.request)
        digest = hashlib.sha256(bytes.fromhex(request.secret)).hexdigest()
        self._devices.claim(
            digest, device=request.device, serial=request.serial, key=key_digest(key).hex()
        )
        return self._issued("identity.enrolled", key, request.device)

    def admit(self, key: EllipticCurvePublicKey, name: str) -> Issued:
        """Sign for a link of the cloud that a person sets up on another machine."""
        self._devices.admit(name)
        return self._issued("identity.admitted", key, name)

    def renew(self, request: RenewRequest, peer: Peer | None) -> Issued:
        """Give a device that shows its present certificate the next one.

        Raises:
            RequestError: It shows none, or one that is revoked; or the request does not hold.
        """
        if peer is None or not self._devices.is_good(peer.name, peer.number):
            raise RequestError(
                "no certificate of an active device was shown",
                kind="forbidden",
                where="renewal",
                expected="the present one, not revoked",
            )
        return self._issued("identity.renewed", requested_key(request.request), peer.name)

    def _issued(self, event: str, key: EllipticCurvePublicKey, device: str) -> Issued:
        certificate = self.authority.sign_client(key, device, days=self._days)
        ends_ns = round(certificate.not_valid_after_utc.timestamp()) * 10**9
        self._devices.note_certificate(device, certificate.serial_number, not_after_ns=ends_ns)
        log.info(event, extra={"device": device, "not_after_ns": ends_ns})
        from cryptography.hazmat.primitives.serialization import Encoding

        pem = certificate.public_bytes(Encoding.PEM).decode()
        return Issued(pem, key_digest(key).hex())
