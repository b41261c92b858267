"""One YAML file declares a cloud: its store, link, keys and what it refreshes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_cloud.homeassistant.discovery import Names
from edge_cloud.publisher import PublisherConfig
from edge_cloud.refresh import RefreshConfig
from edge_runtime.config import SyncConfig, Tombstones, load_yaml
from edge_runtime.errors import ConfigError
from edge_runtime.modes.schedule import When
from edge_runtime.types import check_name

__all__ = [
    "CloudConfig",
    "HomeAssistantConfig",
    "IdentityConfig",
    "IngestConfig",
    "KeysConfig",
    "load_cloud",
]

Positive = Annotated[float, Meta(gt=0)]


class KeysConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Private keys of a cloud; release keys stay with people.

    Attributes:
        layer: File of the key that signs layers.
    """

    layer: Path


class IngestConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How rows are taken.

    Attributes:
        processes: Ingesters that share the work; the broker must have shared subscriptions.
        group: Name of their share.
        hold_s: How long one of several waits for rows that another one has.
        rows_per_s: Rows a second of one device; beyond it its acknowledgements wait.
        bytes_per_day: Bytes a day of one device, the same.
    """

    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    group: str = "ingest"
    hold_s: Positive = 2.0
    rows_per_s: Positive | None = None
    bytes_per_day: Positive | None = None


class IdentityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may connect, and who says so.

    Attributes:
        names: Names and addresses by which devices reach this cloud and its broker.
        ca: Folder of the certificate authority; None for ``ca`` in the store.
        host: Address on which enrolment is served.
        port: Its TCP port; 0 takes a free one.
        certificate_days: Life of a device's certificate; it is renewed at two thirds.
        broker_folder: What ``broker-config`` wrote, so that a revocation reaches the broker.
        broker_pid_file: Whom to tell that the files there have changed (SIGHUP).
    """

    names: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]
    ca: Path | None = None
    host: str = "0.0.0.0"  # noqa: S104 - devices are other machines; it is encrypted and bounded
    port: Annotated[int, Meta(ge=0, le=65535)] = 8443
    certificate_days: Annotated[float, Meta(gt=0, le=825)] = 90.0
    broker_folder: Path | None = None
    broker_pid_file: Path | None = None

    @property
    def url(self) -> str:
        """Where devices enroll."""
        name = f"[{self.names[0]}]" if ":" in self.names[0] else self.names[0]
        return f"https://{name}:{self.port}"

    @property
    def renew_s(self) -> float:
        """How often to look whether the cloud's own certificates have grown old."""
        return min(1.0, self.certificate_days / 6) * 86_400.0


class HomeAssistantConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That devices are shown in Home Assistant: its bridge and itself are let in by the broker.

    Attributes:
        prefix: Where Home Assistant looks for devices.
    """

    prefix: str = "homeassistant"

    def names(self, root: str) -> Names:
        """Return the topics of the bridge.

        Raises:
            ConfigError: The prefix is no name, or the root of the devices' topics.
        """
        return Names(root, self.prefix)


class CloudConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cloud, as its YAML file declares it.

    Attributes:
        store: Folder for everything it keeps.
        broker: Link to the devices.
        root: First level of every topic.
        ingest: How rows are taken.
        keys: What it signs layers with; needed by ``refresh``.
        bundles: Bases that devices already run, such as their factory bundles.
        refresh: Model lines whose layers are computed.
        publisher: How jobs and archives are sent.
        labels_inbox: Folder with CSV files of labels; None for ``labels-inbox`` in the store.
        retention_days: Rows this much older than their stream's newest are deleted; None keeps all.
        compact_s: Time between two compactions; None never compacts by itself.
        rescore: When rows are rescored with the newest base; None only on demand.
        identity: Who may connect; None leaves that to the broker.
        homeassistant: Whether Home Assistant is a client of the broker, and how; None if not.
        schema: Version of this file's format.
    """

    store: Path
    broker: SyncConfig = SyncConfig()
    root: str = "er"
    ingest: IngestConfig = IngestConfig()
    keys: KeysConfig | None = None
    bundles: tuple[Path, ...] = ()
    refresh: tuple[RefreshConfig, ...] = ()
    publisher: PublisherConfig = PublisherConfig()
    labels_inbox: Path | None = None
    retention_days: Positive | None = None
    compact_s: Positive | None = 3600.0
    rescore: When | None = None
    identity: IdentityConfig | None = None
    homeassistant: HomeAssistantConfig | None = None
    schema: Literal[1] = 1

    @property
    def authority(self) -> Path:
        """Folder of the certificate authority."""
        named = None if self.identity is None else self.identity.ca
        return self.store / "ca" if named is None else named

    def __post_init__(self) -> None:
        check_name(self.root, "topic root")
        check_name(self.ingest.group, "ingest.group")
        if self.homeassistant is not None:
            self.homeassistant.names(self.root)
        for refresh in self.refresh:
            check_name(refresh.line, "model line")
        lines = [refresh.line for refresh in self.refresh]
        if len(set(lines)) != len(lines):
            raise ConfigError(f"refresh names the lines {lines}", expected="each line once")
        if self.refresh and self.keys is None:
            raise ConfigError(
                "refresh is on, but there is no layer key",
                expected="keys: {layer: FILE}",
                remedy="Make one: edge-runtime cloud keys new layer.key.",
            )


_TOMBSTONES: Tombstones = {
    (CloudConfig, "rescore_s"): "It is now rescore: {every_s: …}, {cron: …} or {at: …}."
}


def load_cloud(path: Path) -> CloudConfig:
    """Read a cloud's YAML file; relative paths in it are relative to the file.

    Raises:
        ConfigError: The file cannot be read or does not fit; ``where`` is ``file:line:column``.
    """
    return load_yaml(path, CloudConfig, tombstones=_TOMBSTONES)
