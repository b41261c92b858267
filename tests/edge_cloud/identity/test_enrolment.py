"""Enrolment and renewal over HTTPS: who gets a certificate, and who does not."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from edge_cloud.identity import server
from edge_runtime.errors import ConfigError, Transient, TrustError
from edge_runtime.sync.identity import enrolment
from edge_runtime.sync.identity.enrolment import enroll, renew
from edge_runtime.sync.identity.folder import IdentityFolder, Validity
from edge_runtime.sync.identity.token import ClaimToken
from edge_runtime.sync.tls import context_for
from edge_runtime.testing import FakeClock
from edge_simulator.secured import SecuredCloud

DAY_S = 86_400


def certificate_in(folder: IdentityFolder) -> x509.Certificate:
    return x509.load_pem_x509_certificate(folder.certificate.read_bytes())


def validity_of(folder: IdentityFolder) -> Validity:
    validity = folder.validity()
    assert validity is not None
    return validity


def post(cloud: SecuredCloud, path: str, body: bytes, length: str | None = None) -> int:
    context = context_for(cafile=str(cloud.authority.path))
    port = int(cloud.url.rpartition(":")[2])
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=90)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", length or str(len(body)))
    connection.endheaders(body)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_device_gets_a_certificate_for_a_key_that_only_it_has(cloud: SecuredCloud) -> None:
    """After enrolment the folder holds key and certificate, for its owner alone."""
    folder = cloud.enroll("pump-1")

    certificate = certificate_in(folder)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert certificate.subject.rfc4514_string() == "CN=pump-1"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:edge-runtime:pump-1"]
    assert stat.S_IMODE(folder.certificate.stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "ca.pem",
        "device.json",
        "device.pem",
    ]
    stored = b"".join(path.read_bytes() for path in (cloud.folder / "store").glob("*.db*"))
    assert b"PRIVATE KEY" not in stored


def test_certificates_last_90_days_and_are_renewed_at_two_thirds(cloud: SecuredCloud) -> None:
    """The facts beside the certificate say when to renew."""
    validity = validity_of(cloud.enroll("pump-1"))

    life_s = validity.not_after_s - validity.not_before_s
    assert abs(life_s - 90 * DAY_S) <= 3600
    assert validity.renew_at_s - validity.not_before_s == life_s * 2 // 3


def test_a_token_is_good_for_one_key_once(cloud: SecuredCloud) -> None:
    """Whoever shows a used token with a key of his own is refused."""
    token = cloud.invite("pump-1")
    cloud.enroll("pump-1", token=token)

    with pytest.raises(TrustError, match="used before"):
        cloud.enroll("pump-1", token=token, place="thief")


def test_a_crash_before_the_certificate_was_stored_costs_nothing(
    cloud: SecuredCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same device goes on with the same token: its key was on the disk before."""
    token = cloud.invite("pump-1")
    folder = cloud.place("pump-1")
    with monkeypatch.context() as patch:
        patch.setattr(IdentityFolder, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            enroll(folder, token, url=cloud.url, device="pump-1", serial="s-1")
    assert not folder.is_enrolled

    enroll(folder, token, url=cloud.url, device="pump-1", serial="s-1")

    assert folder.is_enrolled


@pytest.mark.parametrize(
    ("device", "serial", "why"),
    [("pump-1", "s-2", "not known"), ("pump-2", "s-1", "not known")],
    ids=["another machine", "another device"],
)
def test_a_token_is_bound_to_device_and_machine(
    cloud: SecuredCloud, device: str, serial: str, why: str
) -> None:
    """A stolen token does not enroll another machine, or another name."""
    token = cloud.invite("pump-1", serial="s-1")

    with pytest.raises(TrustError, match=why):
        cloud.enroll(device, token=token, serial=serial)
    cloud.enroll("pump-1", token=token, serial="s-1")


def test_a_token_expires(cloud: SecuredCloud, clock: FakeClock) -> None:
    """An old letter with a token in it is worth nothing."""
    token = cloud.invite("pump-1", expires_s=3600)
    clock.advance(3600)

    with pytest.raises(TrustError, match="expired"):
        cloud.enroll("pump-1", token=token)


def test_a_new_invitation_voids_the_one_before(cloud: SecuredCloud) -> None:
    """Of one device there is at most one open token."""
    old = cloud.invite("pump-1")
    cloud.invite("pump-1")

    with pytest.raises(TrustError, match="not known"):
        cloud.enroll("pump-1", token=old)


def test_a_token_is_not_shown_to_another_cloud(cloud: SecuredCloud, tmp_path: Path) -> None:
    """A device that is led elsewhere notices before it says anything secret."""
    token = cloud.invite("pump-1")
    asked: list[str] = []
    with SecuredCloud(tmp_path / "impostor") as impostor:
        impostor.devices.invite("pump-1", token.digest, serial="s-1", expires_s=60)
        folder = cloud.place("pump-1")

        with pytest.raises(TrustError, match="another authority"):
            enroll(folder, token, url=impostor.url, device="pump-1", serial="s-1")
        asked += [device.state for device in impostor.devices.all()]

    assert asked == ["invited"]
    cloud.enroll("pump-1", token=token)


def test_the_server_must_have_the_name_in_the_url(cloud: SecuredCloud) -> None:
    """A certificate of the right authority for another name is refused."""
    # Another way to write 127.0.0.1, which the certificate does not name.
    url = cloud.url.replace("localhost", "127.1")

    with pytest.raises(TrustError, match=r"(?i)hostname mismatch"):
        enroll(
            cloud.place("pump-1"),
            cloud.invite("pump-1"),
            url=url,
            device="pump-1",
            serial="s-1",
        )


def test_renewal_makes_a_new_key_and_keeps_the_name(cloud: SecuredCloud) -> None:
    """The present certificate is proof enough; the next one is for a fresh key."""
    folder = cloud.enroll("pump-1")
    before = certificate_in(folder)

    renew(folder, validity_of(folder), now_s=0.0)

    after = certificate_in(folder)
    assert after.subject == before.subject
    assert after.public_key() != before.public_key()
    assert after.serial_number != before.serial_number


def test_a_revoked_certificate_renews_nothing(cloud: SecuredCloud) -> None:
    """Who is out stays out, whatever his certificate says about its end."""
    folder = cloud.enroll("pump-1")
    cloud.devices.revoke("pump-1")

    with pytest.raises(TrustError, match="no certificate of an active device"):
        renew(folder, validity_of(folder), now_s=0.0)


def test_an_older_certificate_of_a_device_that_came_back_renews_nothing(
    cloud: SecuredCloud,
) -> None:
    """Enrolled again, a device is active; what was signed for the thief stays revoked."""
    stolen = cloud.enroll("pump-1", place="stolen")
    cloud.devices.revoke("pump-1")
    cloud.enroll("pump-1", serial="s-2", place="replacement")

    with pytest.raises(TrustError, match="no certificate of an active device"):
        renew(stolen, validity_of(stolen), now_s=0.0)


def test_without_a_certificate_nothing_is_renewed(cloud: SecuredCloud) -> None:
    """The path alone gives nothing."""
    cloud.enroll("pump-1")
    request = b'{"request": "%s"}' % _request(ec.generate_private_key(ec.SECP256R1())).replace(
        b"\n", b"\\n"
    )

    assert post(cloud, "/v1/renew", request) == 403


@pytest.mark.parametrize(
    ("path", "body", "length", "status"),
    [
        ("/v1/enroll", b"{", None, 400),
        ("/v1/enroll", b"[" * 5000, None, 400),
        ("/v1/enroll", b"", "1000000", 400),
        ("/v1/enroll", b"", "-1", 400),
        ("/v1/enroll", b'{"secret":"../x","device":"../etc","serial":"","request":""}', None, 400),
        ("/v1/elsewhere", b"{}", None, 404),
    ],
)
def test_what_is_not_as_agreed_is_refused(
    cloud: SecuredCloud, path: str, body: bytes, length: str | None, status: int
) -> None:
    """A wrong body, size or path gets a status, and the service goes on."""
    assert post(cloud, path, body, length) == status

    cloud.enroll("pump-1")


def test_signing_requests_must_hold(cloud: SecuredCloud) -> None:
    """Other curves, other kinds of keys, and requests that another key signed are refused."""
    from edge_cloud.identity.authority import requested_key
    from edge_runtime.errors import RequestError

    good = _request(ec.generate_private_key(ec.SECP256R1()))
    others = [
        _request(ec.generate_private_key(ec.SECP384R1())),
        _request(rsa.generate_private_key(65537, 2048)),
        _tampered(good),
        b"no request",
    ]

    requested_key(good.decode())
    for request in others:
        with pytest.raises(RequestError, match="signing request"):
            requested_key(request.decode())


def _request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pump-1")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _tampered(request: bytes) -> bytes:
    lines = request.decode().splitlines()
    der = bytearray(base64.b64decode("".join(lines[1:-1])))
    der[-1] ^= 1
    body = base64.b64encode(bytes(der)).decode()
    return f"{lines[0]}\n{body}\n{lines[-1]}\n".encode()


def test_the_clouds_names_cannot_be_taken(cloud: SecuredCloud) -> None:
    """A device called like a role of the cloud would be that role to the broker."""
    for name in ("cloud-ingest", "+", "#", "pump/1", "Pump", ""):
        with pytest.raises(ConfigError):
            cloud.invite(name)


def test_who_is_refused_again_and_again_has_to_wait(
    cloud: SecuredCloud, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After ten refusals an address is not listened to; a minute later it is."""
    wrong = ClaimToken.draw(cloud.authority.digest)
    for _ in range(10):
        with pytest.raises(TrustError, match="not known"):
            cloud.enroll("pump-1", token=wrong)

    with pytest.raises(Transient, match="wait a minute"):
        cloud.enroll("pump-1", token=wrong)
    with pytest.raises(Transient, match="wait a minute"):
        cloud.enroll("pump-1")
    clock.advance(60)
    cloud.enroll("pump-1")

    assert cloud.place("pump-1").is_enrolled
    assert caplog.messages.count("enrolment.client_held_off") == 1
    assert {one.client for one in caplog.records if one.msg == "enrolment.refused"} == {"127.0.0.1"}


def test_silent_connections_hold_up_nobody(
    cloud: SecuredCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many silent sockets as there is room for, a device enrolls once they are cut."""
    monkeypatch.setattr(server, "_CONNECTION_S", 0.5)
    port = int(cloud.url.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]

    deadline = time.monotonic() + 60
    while not cloud.place("pump-1").is_enrolled and time.monotonic() < deadline:
        # While there is no room, the connection is closed during the handshake.
        with contextlib.suppress(Transient, TrustError):
            cloud.enroll("pump-1")

    for one in silent:
        one.close()
    assert cloud.place("pump-1").is_enrolled


def test_a_cloud_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    """A refused connection may work later; it is no matter of trust."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        with pytest.raises(Transient, match="does not answer"):
            enroll(
                IdentityFolder(tmp_path / "identity"),
                ClaimToken.draw(bytes(32)),
                url=f"https://127.0.0.1:{port}",
                device="pump-1",
                serial="s",
            )


@pytest.mark.parametrize(
    "url", ["http://localhost", "https://", "https://u:p@host", "https://h/p", "https://h:x"]
)
def test_a_url_without_encryption_or_with_more_in_it_is_refused(url: str, tmp_path: Path) -> None:
    """Nothing is asked of what is not plainly https://HOST[:PORT]."""
    with pytest.raises(ConfigError, match="URL"):
        enrolment._parts(url)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(cloud: SecuredCloud) -> None:
    """A client that knows only TLS 1.1 does not get in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    port = int(cloud.url.rpartition(":")[2])

    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)alert.protocol.version"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")
