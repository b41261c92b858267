"""Encryption towards a server: TLS 1.2 or newer, its name checked, a certificate of our own.

A device without a battery clock starts in 1970, when no certificate is valid yet. Its own
certificate says when it was signed, and a clock that shows less is known to be wrong. Then
alone the times in the server's certificate are not judged by the clock; whose it is, and for
which name, always is, and it must not have ended before our own began.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from edge_runtime.config import SyncConfig
from edge_runtime.config.hosts import is_loopback
from edge_runtime.errors import ConfigError, TrustError
from edge_runtime.sync.identity.folder import check_private, validity_beside

__all__ = ["check_served", "client_context", "context_for", "link_context"]

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name.
_NO_CHECK_TIME = 0x200000


def link_context(sync: SyncConfig, *, now_s: float) -> ssl.SSLContext | None:
    """Return how the link to the broker is encrypted; None for a plain one.

    Args:
        sync: The link as configured, completed by the device's identity.
        now_s: What the clock shows, s since 1970.

    Raises:
        ConfigError: The link would be plain, leads to another machine, and nobody said that
            this is meant; or a file cannot be used.
        TrustError: Others can read the private key.
    """
    if sync.is_encrypted:
        return client_context(
            ca_file=sync.ca_file, cert_file=sync.cert_file, key_file=sync.key_file, now_s=now_s
        )
    if sync.tls is None and not is_loopback(sync.host):
        raise ConfigError(
            f"the link to {sync.host} would not be encrypted",
            where="sync",
            expected="an enrolled device, or ca_file, or tls: on",
            remedy="Enroll it: edge-runtime device enroll. For a broker with a certificate of a "
            "public authority say tls: on; to send everything in the clear say tls: off.",
        )
    return None


def client_context(
    *, ca_file: Path | None, cert_file: Path | None, key_file: Path | None, now_s: float
) -> ssl.SSLContext:
    """Return a context that trusts ``ca_file`` and shows our certificate.

    Args:
        ca_file: Authorities, PEM; None for the system's.
        cert_file: Our certificate, PEM; None for none.
        key_file: Its private key; None where it is in ``cert_file``.
        now_s: What the clock shows, s since 1970.

    Raises:
        ConfigError: A file cannot be used.
        TrustError: Others can read the private key.
    """
    try:
        context = context_for(cafile=None if ca_file is None else str(ca_file))
        if cert_file is not None:
            check_private(key_file or cert_file)
            context.load_cert_chain(cert_file, key_file)
    except TrustError:
        raise
    except (OSError, ValueError) as error:
        files = [str(path) for path in (ca_file, cert_file, key_file) if path is not None]
        raise ConfigError(
            f"{', '.join(files)} cannot be used: {error}",
            where="sync",
            expected="PEM files that belong together",
            remedy="Correct the paths, or enroll again: edge-runtime device enroll.",
        ) from error
    if now_s < floor_s(cert_file):
        context.verify_flags |= _NO_CHECK_TIME
    return context


def context_for(*, cafile: str | None = None, cadata: str | None = None) -> ssl.SSLContext:
    """Return a context of TLS 1.2 or newer that checks names; the system's authorities if none."""
    context = ssl.create_default_context(cafile=cafile, cadata=cadata)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def floor_s(cert_file: Path | None) -> int:
    """Return the earliest time that it can be, s since 1970: when our certificate was signed."""
    validity = None if cert_file is None else validity_beside(cert_file)
    return 0 if validity is None else validity.not_before_s


def check_served(sock: Any, cert_file: Path | None) -> None:
    """Check that the server's certificate had not ended when our own was signed.

    Raises:
        TrustError: It had; whoever shows it may have found an old key.
    """
    shown = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    if not shown or "notAfter" not in shown:
        return
    ended_s = ssl.cert_time_to_seconds(str(shown["notAfter"]))
    if ended_s < floor_s(cert_file):
        raise TrustError(
            f"the broker's certificate ended on {shown['notAfter']}",
            where="sync",
            expected="one that was good when this device's own was signed",
            remedy="Renew the broker's certificate.",
        )
