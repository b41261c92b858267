"""Get a certificate from the cloud, and the next one when it grows old.

At first contact nothing is known of the cloud but what the claim token says. So
its authority is fetched first, over a connection that proves nothing and on which
nothing secret is said, and compared with the token; only then is the token shown,
over a connection that this authority vouches for.
"""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

import msgspec

from edge_runtime.errors import ConfigError, EdgeError, Transient, TrustError
from edge_runtime.sync.identity.folder import IdentityFolder, Validity, check_private
from edge_runtime.sync.identity.keys import (
    certificate_of,
    check_issued,
    key_digest,
    request_for,
)
from edge_runtime.sync.identity.messages import (
    AUTHORITY_PATH,
    ENROLL_PATH,
    MAX_BODY_BYTES,
    RENEW_PATH,
    Authority,
    EnrollRequest,
    Issued,
    Refused,
    RenewRequest,
    decode_body,
)
from edge_runtime.sync.identity.token import ClaimToken
from edge_runtime.sync.tls import client_context, context_for

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["enroll", "renew"]

_TIMEOUT_S = 20.0
# RFC 9110: the cloud is busy or broken, and the same request may work later.
_LATER = frozenset({429, 500, 502, 503, 504})


def enroll(
    folder: IdentityFolder, token: ClaimToken, *, url: str, device: str, serial: str
) -> Validity:
    """Make a key, have the cloud sign a certificate for it, and keep both.

    Interrupted anywhere, the same call with the same token goes on.

    Args:
        folder: Where the identity is kept; one that is there is replaced.
        token: From ``edge-runtime cloud enroll``.
        url: ``https://HOST[:PORT]`` of the cloud.
        device: Device id.
        serial: Number of this machine.

    Raises:
        TrustError: The cloud is not the token's, or refuses.
        Transient: It cannot be reached.
        ConfigError: The URL is none.
        MissingExtra: ``cryptography`` is not installed.
    """
    key = folder.pending_key()
    authority = _authority_of(token, url)
    request = EnrollRequest(
        secret=token.secret.hex(),
        device=device,
        serial=serial,
        request=request_for(key, device),
    )
    context = context_for(cadata=authority)
    issued = decode_body(_asked(url, ENROLL_PATH, context, request), Issued)
    return _kept(folder, issued, certificate_of(authority, url), url, device)


def renew(folder: IdentityFolder, validity: Validity, *, now_s: float) -> Validity:
    """Have the cloud sign a certificate for a new key, with the present one as proof.

    Args:
        folder: Where the identity is kept.
        validity: Of the present certificate.
        now_s: What the clock shows, s since 1970; one that was never set is not believed.

    Raises:
        TrustError: The cloud is not this device's, or refuses.
        Transient: It cannot be reached.
    """
    check_private(folder.certificate)
    key = folder.pending_key()
    authority = folder.authority.read_text()
    context = client_context(
        ca_file=folder.authority, cert_file=folder.certificate, key_file=None, now_s=now_s
    )
    request = RenewRequest(request_for(key, validity.device))
    issued = decode_body(_asked(validity.url, RENEW_PATH, context, request), Issued)
    known = certificate_of(authority, str(folder.authority))
    return _kept(folder, issued, known, validity.url, validity.device)


def _authority_of(token: ClaimToken, url: str) -> str:
    """Return the cloud's authority, PEM, once it is known to be the token's."""
    blind = context_for()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    pem = decode_body(_asked(url, AUTHORITY_PATH, blind), Authority).certificate
    if key_digest(certificate_of(pem, url).public_key()) != token.authority:
        raise TrustError(
            "the cloud has another authority than the claim token names",
            where=url,
            expected="the cloud that printed the token",
            remedy="Check the URL; the token was not sent, and stays good.",
        )
    return pem


def _kept(
    folder: IdentityFolder, issued: Issued, authority: x509.Certificate, url: str, device: str
) -> Validity:
    key = folder.pending_key()
    certificate = certificate_of(issued.certificate, url)
    check_issued(certificate, authority, key, device, url)
    return folder.keep(key, certificate, authority, url)


def _asked(
    url: str, path: str, context: ssl.SSLContext, request: msgspec.Struct | None = None
) -> bytes:
    parts = _parts(url)
    connection = http.client.HTTPSConnection(
        str(parts.hostname), parts.port, timeout=_TIMEOUT_S, context=context
    )
    try:
        if request is None:
            connection.request("GET", path)
        else:
            body = msgspec.json.encode(request)
            connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read(MAX_BODY_BYTES + 1)
    except ssl.SSLError as error:
        raise _not_secure(url, error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(url, str(error) or type(error).__name__) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise _refusal(url, response.status, answer)
    return answer


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
        if is_usable and parts.path in ("", "/") and not (parts.query or parts.username):
            return parts
    except ValueError:
        pass
    raise ConfigError(
        f"the cloud's URL is {url!r}",
        where="enrolment",
        expected="https://HOST[:PORT]",
        remedy="Use the URL that edge-runtime cloud enroll printed.",
    )


def _refusal(url: str, status: int, answer: bytes) -> EdgeError:
    try:
        why = decode_body(answer, Refused).why
    except ValueError:
        why = f"HTTP status {status}"
    if status in _LATER:
        return _unreachable(url, why)
    return TrustError(
        f"the cloud refuses: {why}",
        where=url,
        expected="a token, or a certificate, that is good for this device",
        remedy="Ask for a new token: edge-runtime cloud enroll CLOUD.yaml DEVICE.",
    )


def _not_secure(url: str, error: ssl.SSLError) -> EdgeError:
    why = getattr(error, "verify_message", None) or error.reason or error
    return TrustError(
        f"no secure connection: {why}",
        where=url,
        expected="a certificate of the cloud's authority for this name",
        remedy="Check the name in the URL, the cloud's identity.names, and this machine's clock.",
    )


def _unreachable(url: str, why: str) -> Transient:
    return Transient(
        f"the cloud does not answer: {why}",
        where=url,
        expected="its enrolment service",
        remedy="Check that edge-runtime cloud up runs there and that its port can be reached.",
    )
