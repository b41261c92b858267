"""Where a device keeps its identity: a folder of four files, each whole or not there.

============  ===================================================================
file          holds
============  ===================================================================
device.pem    private key and certificate, mode 0600; replaced in one stroke
device.json   from when until when the certificate is good, and who renews it
ca.pem        the cloud's authority: what brokers of this cloud are checked against
pending.pem   a key whose certificate has not come yet, mode 0600
============  ===================================================================
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.config import SyncConfig
from edge_runtime.errors import TrustError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["IdentityFolder", "Validity", "check_private", "validity_beside", "write_private"]


class Validity(msgspec.Struct, frozen=True):
    """From when until when a certificate is good, and who renews it.

    Attributes:
        device: Device id in it.
        not_before_s: Seconds since 1970, UTC. A clock that shows less is wrong: the cloud
            has signed that it was later.
        not_after_s: Seconds since 1970, UTC.
        url: Where it is renewed.
    """

    device: str
    not_before_s: int
    not_after_s: int
    url: str

    @property
    def renew_at_s(self) -> int:
        """Two thirds of its life."""
        return self.not_before_s + (self.not_after_s - self.not_before_s) * 2 // 3


class IdentityFolder:
    """The files of one identity; callable from any thread.

    Args:
        path: The folder, such as ``identity`` in the state folder; made when something is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.certificate = path / "device.pem"
        self.authority = path / "ca.pem"
        self._pending = path / "pending.pem"

    @property
    def is_enrolled(self) -> bool:
        """Whether there is a certificate."""
        return self.certificate.is_file()

    def validity(self) -> Validity | None:
        """Return how long the certificate is good; None without one."""
        return validity_beside(self.certificate)

    def completed(self, sync: SyncConfig) -> SyncConfig:
        """Return a link with this identity, where it names no certificate of its own."""
        if sync.tls == "off" or sync.cert_file is not None or not self.is_enrolled:
            return sync
        return msgspec.structs.replace(
            sync, cert_file=self.certificate, ca_file=sync.ca_file or self.authority
        )

    def pending_key(self) -> EllipticCurvePrivateKey:
        """Return the key that waits for its certificate, a new one if none does.

        It is on the disk before anybody hears of it, so that a crash between the cloud's
        answer and its storing does not spend a claim token for nothing.

        Raises:
            TrustError: Others can read it.
            MissingExtra: ``cryptography`` is not installed.
        """
        from edge_runtime.sync.identity.keys import load_key, new_key, pem_of

        if self._pending.is_file():
            check_private(self._pending)
            return load_key(self._pending.read_bytes(), str(self._pending))
        key = new_key()
        self._make()
        write_private(self._pending, pem_of(key))
        return key

    def _make(self) -> None:
        if not self.path.is_dir():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            _give_to_owner(self.path, of=self.path.parent)

    def keep(
        self,
        key: EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        authority: x509.Certificate,
        url: str,
    ) -> Validity:
        """Store an identity; at every instant the old one or the new one is complete."""
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509 import NameOID

        from edge_runtime.sync.identity.keys import pem_of

        (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        validity = Validity(
            device=str(name.value),
            not_before_s=int(certificate.not_valid_before_utc.timestamp()),
            not_after_s=int(certificate.not_valid_after_utc.timestamp()),
            url=url,
        )
        write_private(self.authority, authority.public_bytes(Encoding.PEM), mode=0o644)
        write_private(self.certificate, pem_of(key) + certificate.public_bytes(Encoding.PEM))
        # A crash before this leaves older facts, by which it is renewed too early at worst.
        facts = self.certificate.with_suffix(".json")
        write_private(facts, msgspec.json.encode(validity), mode=0o644)
        self._pending.unlink(missing_ok=True)
        return validity


def validity_beside(certificate: Path) -> Validity | None:
    """Return what stands beside a certificate file about its validity; None if nothing does."""
    try:
        return msgspec.json.decode(certificate.with_suffix(".json").read_bytes(), type=Validity)
    except (OSError, msgspec.MsgspecError):
        return None


def write_private(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file, whole or not at all, durably, and never readable by others meanwhile."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        _give_to_owner(fresh, of=path.parent)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _give_to_owner(path: Path, *, of: Path) -> None:
    """Let a service that is not root read what root made for it in its folder."""
    if os.geteuid() == 0:
        owner = of.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def check_private(path: Path) -> None:
    """Check that nobody but its owner may read a private key.

    Raises:
        TrustError: Others may.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise TrustError(
            f"private key file has mode {mode:04o}",
            where=str(path),
            expected="mode 0600, readable by its owner alone",
            remedy=f"chmod 600 {path}, and consider the key known to whoever could read it.",
        )
