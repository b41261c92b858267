"""A small cloud with an authority of its own, and a Mosquitto that knows only its devices.

For tests and simulations of identity: everything is real, on loopback, in one folder.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Self

from edge_cloud.brokers.folder import write_mosquitto, write_revocations
from edge_cloud.brokers.mosquitto import Listener
from edge_cloud.config import CloudConfig, HomeAssistantConfig, IngestConfig
from edge_cloud.identity.authority import Authority
from edge_cloud.identity.devices import Devices
from edge_cloud.identity.enrolment import Enrolment
from edge_cloud.identity.server import EnrolmentServer
from edge_cloud.links import roles_of
from edge_cloud.store import Store
from edge_runtime.clock import SystemClock
from edge_runtime.config import SyncConfig
from edge_runtime.ports import Clock
from edge_runtime.sync.identity.enrolment import enroll
from edge_runtime.sync.identity.folder import IdentityFolder
from edge_runtime.sync.identity.token import ClaimToken
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.topics import Topics
from edge_simulator.broker import Broker

__all__ = ["SecuredCloud"]

_NAMES = ("localhost", "127.0.0.1")


class SecuredCloud:
    """An authority, its book of devices, its enrolment service, and a broker on demand.

    The broker lets Home Assistant and its bridge in.

    Args:
        folder: For everything.
        clock: Of the authority and of its book; TLS itself judges by the machine's.
        topics: The topic tree.
        processes: How many ingesters share the rows, for the broker's access list.
        days: Life of a device's certificate.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        topics: Topics | None = None,
        processes: int = 1,
        days: float = 90.0,
    ) -> None:
        self.folder = folder
        self.clock = clock or SystemClock()
        self.topics = topics or Topics()
        config = CloudConfig(
            store=folder / "store",
            root=self.topics.root,
            ingest=IngestConfig(processes=processes),
            homeassistant=HomeAssistantConfig(),
        )
        self._roles = roles_of(config)
        self.store = Store(folder / "store", clock=self.clock)
        self.authority = Authority.create(folder / "ca", "edge-simulator", self.clock)
        self.devices = Devices(self.store, self.clock)
        self.broker = Broker("mosquitto", folder / "broker", configure=self._configure)
        enrolment = Enrolment(self.authority, self.devices, days=days)
        shown = self.authority.server(folder / "ca", _NAMES, stem="enroll")
        self._server = EnrolmentServer("127.0.0.1", 0, shown, enrolment, self.clock)
        self._thread = threading.Thread(target=self._server.run, name="identity")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End broker and service; safe to call twice."""
        self.broker.stop()
        self._server.stop()
        self._thread.join()
        self.store.close()

    @property
    def url(self) -> str:
        """Where devices enroll."""
        return f"https://localhost:{self._server.port}"

    def invite(self, device: str, *, serial: str = "s-1", expires_s: float = 3600.0) -> ClaimToken:
        """Return a claim token for a device."""
        token = ClaimToken.draw(self.authority.digest)
        self.devices.invite(device, token.digest, serial=serial, expires_s=expires_s)
        return token

    def enroll(
        self,
        device: str,
        *,
        token: ClaimToken | None = None,
        serial: str = "s-1",
        place: str | None = None,
    ) -> IdentityFolder:
        """Let a device make its key and get its certificate.

        Args:
            device: Device id.
            token: Claim token; None draws one.
            serial: What the machine says its number is.
            place: Name of the device's folder; its id if not given.
        """
        folder = self.place(place or device)
        token = token or self.invite(device, serial=serial)
        enroll(folder, token, url=self.url, device=device, serial=serial)
        return folder

    def place(self, name: str) -> IdentityFolder:
        """Return where a device keeps its identity."""
        return IdentityFolder(self.folder / "devices" / name / "identity")

    def link(self, identity: IdentityFolder | None = None) -> SyncConfig:
        """Return a link to the broker, as a device with this identity has it."""
        config = SyncConfig(host="localhost", port=self.broker.port)
        return config if identity is None else identity.completed(config)

    def device(self, name: str, client_id: str | None = None) -> PahoTransport:
        """Return the transport of an enrolled device, not open yet."""
        return PahoTransport(
            self.link(self.place(name)), client_id or name, SystemClock(), jitter=lambda: 0.1
        )

    def role(self, client_id: str = "cloud-ingest") -> PahoTransport:
        """Return the transport of a role of the cloud, not open yet."""
        shown = self.authority.role(client_id, days=90)
        config = SyncConfig(
            host="localhost",
            port=self.broker.port,
            ca_file=shown.authority,
            cert_file=shown.certificate,
            key_file=shown.key,
        )
        return PahoTransport(config, client_id, SystemClock(), jitter=lambda: 0.1)

    def tell_broker(self) -> None:
        """Pass on who is out, as ``cloud revoke`` does."""
        write_revocations(
            self.folder / "broker",
            roles=self._roles,
            authority=self.authority,
            devices=self.devices,
            topics=self.topics,
        )
        if self.broker.pid is not None:
            os.kill(self.broker.pid, signal.SIGHUP)

    def _configure(self, port: int) -> Path:
        folder = self.folder / "broker"
        write_mosquitto(
            folder,
            Listener(folder=folder, data=folder, port=port, bind="127.0.0.1"),
            names=_NAMES,
            roles=self._roles,
            authority=self.authority,
            devices=self.devices,
            topics=self.topics,
        )
        config = folder / "mosquitto.conf"
        if os.geteuid() == 0:
            # As another user it could not read a folder that is root's alone.
            config.write_text(config.read_text() + "user root\n")
        return config
