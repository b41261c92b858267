"""Who is let in, and whom a device lets itself be let in by."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from edge_cloud.identity.authority import Authority, Credentials
from edge_runtime.clock import SystemClock
from edge_runtime.config import SyncConfig
from edge_runtime.errors import ConfigError, TrustError
from edge_runtime.ports import Connected
from edge_runtime.sync.identity.folder import IdentityFolder
from edge_runtime.sync.identity.keys import load_key, new_key, pem_of
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.tls import link_context
from edge_runtime.testing import FakeClock
from edge_simulator.secured import SecuredCloud

from .conftest import MARK, PATIENCE_S, Scene

DAY_S = 86_400.0
# MQTT 3.1.1, clean session, keep-alive 30 s, client id "test".
CONNECT = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x1e\x00\x04test"


def identity_of(authority: Authority, name: str, folder: Path, *, days: float = 90) -> Path:
    """Write a key and a certificate that an authority signs without asking."""
    key = new_key()
    certificate = authority.sign_client(key.public_key(), name, days=days)
    return write_identity(folder / f"{name}.pem", pem_of(key), certificate)


def write_identity(path: Path, key: bytes, certificate: x509.Certificate) -> Path:
    path.touch(0o600)
    path.write_bytes(key + certificate.public_bytes(Encoding.PEM))
    return path


def is_let_in(cloud: SecuredCloud, certificate: Path | None) -> bool:
    """Whether the broker answers a CONNECT of who shows this certificate."""
    context = ssl.create_default_context(cafile=str(cloud.authority.path))
    if certificate is not None:
        context.load_cert_chain(certificate)
    try:
        with (
            socket.create_connection(("127.0.0.1", cloud.broker.port), PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(CONNECT)
            return secure.recv(4) == b"\x20\x02\x00\x00"
    except OSError:
        return False


@pytest.mark.mosquitto
def test_a_certificate_of_the_clouds_authority_is_let_in(secured: SecuredCloud) -> None:
    """The other tests of this file would see an open door."""
    assert is_let_in(secured, secured.place("good").certificate)


@pytest.mark.mosquitto
def test_without_a_certificate_nobody_is_let_in(secured: SecuredCloud) -> None:
    """The broker asks for one."""
    assert not is_let_in(secured, None)


@pytest.mark.mosquitto
def test_a_foreign_certificate_is_not_let_in(secured: SecuredCloud, tmp_path: Path) -> None:
    """Another authority of the same name signs for a device that exists here: refused."""
    foreign = Authority.create(tmp_path / "ca", "edge-simulator")

    assert not is_let_in(secured, identity_of(foreign, "good", tmp_path))


@pytest.mark.mosquitto
def test_a_device_cannot_sign_for_another(secured: SecuredCloud, tmp_path: Path) -> None:
    """A device's certificate is no authority, whatever it has signed."""
    stolen = secured.place("evil").certificate.read_bytes()
    evil_key = load_key(stolen, "evil")
    evil = x509.load_pem_x509_certificate(stolen)
    key, now = new_key(), datetime.datetime.now(datetime.UTC)
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "good")]))
        .issuer_name(evil.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(evil_key, SHA256())
    )
    path = write_identity(tmp_path / "forged.pem", pem_of(key), forged)
    path.write_bytes(path.read_bytes() + evil.public_bytes(Encoding.PEM))

    assert not is_let_in(secured, path)


@pytest.mark.mosquitto
def test_an_expired_certificate_is_not_let_in(secured: SecuredCloud, tmp_path: Path) -> None:
    """Ninety days after it was signed a certificate that nobody renewed is worth nothing."""
    past = FakeClock(time.time_ns() - round(91 * DAY_S * 1e9))
    then = Authority(secured.authority.folder, past)

    assert not is_let_in(secured, identity_of(then, "good", tmp_path))


@pytest.mark.mosquitto
def test_a_revoked_certificate_is_not_let_in_once_the_broker_is_told(own_scene: Scene) -> None:
    """Mosquitto reads its list of revoked certificates again with its other files."""
    cloud = own_scene.cloud
    # A broker that answers nobody yet may still be ended by the signal.
    assert is_let_in(cloud, cloud.place("evil").certificate)
    cloud.devices.revoke("evil")
    cloud.tell_broker()

    deadline = time.monotonic() + PATIENCE_S
    while is_let_in(cloud, cloud.place("evil").certificate) and time.monotonic() < deadline:
        pass

    assert not is_let_in(cloud, cloud.place("evil").certificate)
    assert is_let_in(cloud, cloud.place("good").certificate)


@pytest.mark.mosquitto
def test_a_revoked_certificate_is_not_let_in_after_a_restart(own_scene: Scene) -> None:
    """The list of revoked certificates is read at the start; the rest go on."""
    cloud = own_scene.cloud
    cloud.devices.revoke("evil")
    cloud.tell_broker()

    cloud.broker.stop()
    cloud.broker.start()

    assert not is_let_in(cloud, cloud.place("evil").certificate)
    assert is_let_in(cloud, cloud.place("good").certificate)


@pytest.mark.mosquitto
def test_a_thief_stays_out_when_the_device_is_enrolled_again(own_scene: Scene) -> None:
    """After a restart the name is served again, with the new certificate alone."""
    cloud = own_scene.cloud
    cloud.devices.revoke("good")
    replacement = cloud.enroll("good", serial="s-2", place="replacement")

    cloud.tell_broker()
    cloud.broker.stop()
    cloud.broker.start()

    assert not is_let_in(cloud, cloud.place("good").certificate)
    assert is_let_in(cloud, replacement.certificate)


@pytest.mark.mosquitto
def test_a_renewed_certificate_is_used_from_the_next_connection(own_scene: Scene) -> None:
    """The transport reads the files anew: a renewal needs no restart of the device."""
    cloud = own_scene.cloud
    mine = cloud.place("good").certificate
    device = own_scene.device("good", "er/1/d/+/dn/#")
    before = mine.with_name("before.pem")
    mine.rename(before)
    cloud.place("evil").certificate.rename(mine)

    # Whoever shows the old one ends the session that was opened with it.
    assert is_let_in(cloud, before)
    device.wait_for(Connected)

    own_scene.ingest().send("er/1/d/evil/dn/ack", MARK)
    assert device.until_mark() == []


@pytest.mark.mosquitto
def test_the_port_speaks_nothing_in_the_clear(secured: SecuredCloud) -> None:
    """A CONNECT without TLS gets no answer."""
    with socket.create_connection(("127.0.0.1", secured.broker.port), PATIENCE_S) as plain:
        plain.sendall(CONNECT)
        try:
            answer = plain.recv(64)
        except OSError:
            answer = b""

    # An alert of TLS, or nothing; never a CONNACK.
    assert answer[:1] in (b"", b"\x15")


# --- what a device trusts ---------------------------------------------------------------


class Impostor:
    """A TLS server that takes connections and notes what clients say to it."""

    def __init__(self, certificate: Path, key: Path | None = None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.heard: list[bytes] = []
        self.tries = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._server.accept()
            except OSError:
                return
            self.tries += 1
            try:
                with self._context.wrap_socket(plain, server_side=True) as secure:
                    self.heard.append(secure.recv(4096))
            except OSError:
                plain.close()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[SecuredCloud]:
    with SecuredCloud(tmp_path) as cloud:
        cloud.enroll("good")
        yield cloud


def hears(impostor: Impostor, identity: IdentityFolder, *, now_ns: int | None = None) -> bool:
    """Whether a device tells this server anything, in three tries."""
    clock = SystemClock() if now_ns is None else FakeClock(now_ns)
    config = identity.completed(SyncConfig(host="localhost", port=impostor.port))
    transport = PahoTransport(config, "good", clock, jitter=lambda: 0.01)
    transport.open([], None)
    deadline = time.monotonic() + PATIENCE_S
    while impostor.tries < 3 and not any(impostor.heard) and time.monotonic() < deadline:
        transport.receive(0.05)
    transport.close()
    impostor.close()
    return any(impostor.heard)


def test_a_device_speaks_to_a_broker_of_its_cloud(cloud: SecuredCloud, tmp_path: Path) -> None:
    """The following tests would notice that it does not."""
    shown = cloud.authority.server(tmp_path, ["localhost"])

    assert hears(Impostor(shown.certificate, shown.key), cloud.place("good"))


def test_a_device_does_not_speak_to_a_foreign_broker(cloud: SecuredCloud, tmp_path: Path) -> None:
    """Another authority's certificate for the right name is refused before a byte is said."""
    shown = Authority.create(tmp_path / "foreign", "x").server(tmp_path, ["localhost"])

    assert not hears(Impostor(shown.certificate, shown.key), cloud.place("good"))


def test_a_device_does_not_speak_to_another_name(cloud: SecuredCloud, tmp_path: Path) -> None:
    """A server of the same cloud, for another name, is not the broker."""
    shown = cloud.authority.server(tmp_path, ["elsewhere.example"])

    assert not hears(Impostor(shown.certificate, shown.key), cloud.place("good"))


def test_a_device_does_not_take_another_device_for_the_broker(
    cloud: SecuredCloud, tmp_path: Path
) -> None:
    """A device's certificate says that it is a client's; it opens no shop with it."""
    cloud.enroll("localhost")

    assert not hears(Impostor(cloud.place("localhost").certificate), cloud.place("good"))


def test_a_device_does_not_speak_to_an_expired_broker(cloud: SecuredCloud, tmp_path: Path) -> None:
    """With the clock right, a certificate that has ended is refused."""
    shown = _ended(cloud, tmp_path)

    assert not hears(Impostor(shown.certificate, shown.key), cloud.place("good"))


def test_in_1970_a_device_speaks_to_its_broker_all_the_same(
    cloud: SecuredCloud, tmp_path: Path
) -> None:
    """A clock that was never set must not lock a device out: name and authority are checked."""
    shown = cloud.authority.server(tmp_path, ["localhost"])

    assert hears(Impostor(shown.certificate, shown.key), cloud.place("good"), now_ns=0)


def test_in_1970_a_broker_that_ended_before_the_device_began_is_refused(
    cloud: SecuredCloud, tmp_path: Path
) -> None:
    """The device's own certificate says how late it is at least."""
    shown = _ended(cloud, tmp_path)

    assert not hears(Impostor(shown.certificate, shown.key), cloud.place("good"), now_ns=0)


def test_in_1970_a_foreign_broker_is_still_refused(cloud: SecuredCloud, tmp_path: Path) -> None:
    """Only times are not judged."""
    shown = Authority.create(tmp_path / "foreign", "x").server(tmp_path, ["localhost"])

    assert not hears(Impostor(shown.certificate, shown.key), cloud.place("good"), now_ns=0)


def _ended(cloud: SecuredCloud, folder: Path) -> Credentials:
    past = FakeClock(time.time_ns() - round(400 * DAY_S * 1e9))
    return Authority(cloud.authority.folder, past).server(folder, ["localhost"])


# --- what a configuration may say ---------------------------------------------------------


def test_a_plain_link_to_another_machine_must_be_asked_for() -> None:
    """Without identity and without ca_file there is an error that says what can be done."""
    with pytest.raises(ConfigError, match="not be encrypted") as caught:
        PahoTransport(SyncConfig(host="broker.example"), "pump", SystemClock())

    assert "tls: off" in caught.value.remedy
    assert caught.value.exit_code == 2


def test_a_plain_link_that_is_asked_for_is_plain() -> None:
    """Off says off, and loopback needs no word."""
    assert link_context(SyncConfig(host="broker.example", tls="off"), now_s=0) is None
    assert link_context(SyncConfig(), now_s=0) is None


def test_every_encrypted_link_checks_names_and_knows_no_old_tls(cloud: SecuredCloud) -> None:
    """TLS 1.2 at least, the certificate required, and its name compared."""
    link = cloud.place("good").completed(SyncConfig(host="broker.example"))

    for sync in (link, SyncConfig(host="broker.example", tls="on")):
        context = link_context(sync, now_s=time.time())
        assert context is not None
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_key_that_others_can_read_is_not_used(cloud: SecuredCloud) -> None:
    """A copied card, or a careless chmod, is noticed before the key is shown to anybody."""
    folder = cloud.place("good")
    folder.certificate.chmod(0o640)

    with pytest.raises(TrustError, match="mode 0640"):
        PahoTransport(cloud.link(folder), "good", SystemClock())


def test_the_authoritys_key_must_be_its_owners_alone(cloud: SecuredCloud) -> None:
    """An authority whose key others can read signs nothing."""
    (cloud.authority.folder / "ca.key").chmod(0o644)

    with pytest.raises(TrustError, match="mode 0644"):
        Authority(cloud.authority.folder)
