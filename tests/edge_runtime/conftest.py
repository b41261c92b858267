"""Model runtimes with faults, installed as plug-ins for this process and its children."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_runtime import registry

_SOURCE = '''
import os, threading
import numpy as np
from edge_runtime.errors import ModelError
from edge_runtime.types import TensorSpec

class Doubles:
    """Answers twice the only value of a window."""
    name = "doubles"
    def probe(self):
        return "1"
    def load(self, model, options):
        return self.Session(options)
    class Session:
        inputs = (TensorSpec("x", (1, 1), "float32"),)
        outputs = (TensorSpec("y", (1, 1), "float32"),)
        state_kind = "stateless"
        calls = 0
        def __init__(self, options):
            self.options = options
        def run(self, batch):
            self.calls += 1
            return (2 * batch).reshape(len(batch), 1)
        def reset(self): pass
        def fork(self): return self
        def state(self): return b""
        def restore(self, state): pass
        def close(self): pass

class Aborts(Doubles):
    """Dies in native code when a model is opened, and when it is asked to prove itself."""
    name = "aborts"
    def probe(self):
        os.abort()

class Dies(Doubles):
    """Dies in native code in the middle of the measurement."""
    name = "dies"
    class Session(Doubles.Session):
        def run(self, batch):
            if self.calls > 50:
                os.abort()
            return super().run(batch)

class Fails(Doubles):
    """Raises in the middle of the measurement."""
    name = "fails"
    class Session(Doubles.Session):
        def run(self, batch):
            if self.calls > 50:
                raise ModelError("the model failed: out of luck")
            return super().run(batch)

class Hangs(Doubles):
    """Never answers."""
    name = "hangs"
    def probe(self):
        threading.Event().wait()

class Lies(Doubles):
    """Is quick, and wrong."""
    name = "lies"
    class Session(Doubles.Session):
        def run(self, batch):
            return (2 * batch + 1).reshape(len(batch), 1)

class Drifts(Doubles):
    """Answers the same question differently each time, within the tolerance."""
    name = "drifts"
    class Session(Doubles.Session):
        def run(self, batch):
            return super().run(batch) + np.float32(1e-6 * self.calls)

class Rounds(Doubles):
    """Answers a block of 32 with another last bit than single windows."""
    name = "rounds"
    class Session(Doubles.Session):
        def run(self, batch):
            return super().run(batch) + np.float32(1e-6 if len(batch) == 32 else 0)

class Prints(Doubles):
    """Writes to standard output, like some runtimes do."""
    name = "prints"
    def load(self, model, options):
        os.write(1, b"Created a delegate\\n")
        return super().load(model, options)
'''
FAULTY = ("aborts", "dies", "doubles", "drifts", "fails", "hangs", "lies", "prints", "rounds")


@pytest.fixture
def faulty_backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """Install a package with nine backends, eight of them with a fault; return their names."""
    folder = tmp_path / "plugins"
    facts = folder / "faulty_backends-1.dist-info"
    facts.mkdir(parents=True)
    (folder / "faulty_backends.py").write_text(_SOURCE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-backends\nVersion: 1\n")
    lines = [f"{name} = faulty_backends:{name.title()}" for name in FAULTY]
    (facts / "entry_points.txt").write_text("\n".join(["[edge_runtime.backends]", *lines]) + "\n")
    monkeypatch.syspath_prepend(str(folder))
    registry._entries.cache_clear()
    yield FAULTY
    monkeypatch.undo()
    registry._entries.cache_clear()


class Authority:
    """A certificate authority of its own, and a server certificate for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        key, self._name = ec.generate_private_key(ec.SECP256R1()), _named("test authority")
        ca = self._signed(self._name, key, key, x509.BasicConstraints(True, None), critical=True)
        server_key = ec.generate_private_key(ec.SECP256R1())
        host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        server = self._signed(_named("server"), server_key, key, host, critical=False)
        self.ca_file, self.cert_file, self.key_file = (
            folder / name for name in ("ca.pem", "cert.pem", "key.pem")
        )
        pem = serialization.Encoding.PEM
        self.ca_file.write_bytes(ca.public_bytes(pem))
        self.cert_file.write_bytes(server.public_bytes(pem))
        self.key_file.write_bytes(
            server_key.private_bytes(
                pem,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def _signed(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        signer: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        *,
        critical: bool,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical)
        )
        return builder.sign(signer, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates that a client trusts only if it is told to."""
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority."""
    return Authority(tmp_path_factory.mktemp("tls") / "stranger")
