"""One YAML file declares a cloud: its store, link, keys and what it refreshes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_cloud.publisher import PublisherConfig
from edge_cloud.refresh import RefreshConfig
from edge_runtime.config import SyncConfig, load_yaml
from edge_runtime.errors import ConfigError
from edge_runtime.types import check_name

__all__ = ["CloudConfig", "KeysConfig", "load_cloud"]

Positive = Annotated[float, Meta(gt=0)]


class KeysConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Private keys of a cloud; release keys stay with people.

    Attributes:
        layer: File of the key that signs layers.
    """

    layer: Path


class CloudConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cloud, as its YAML file declares it.

    Attributes:
        store: Folder for everything it keeps.
        broker: Link to the devices.
        root: First level of every topic.
        keys: What it signs layers with; needed by ``refresh``.
        bundles: Bases that devices already run, such as their factory bundles.
        refresh: Model lines whose layers are computed.
        publisher: How jobs and archives are sent.
        labels_inbox: Folder with CSV files of labels; None for ``labels-inbox`` in the store.
        retention_days: Rows this much older than their stream's newest are deleted; None keeps all.
        compact_s: Time between two compactions; None never compacts by itself.
        rescore_s: Time between two rescorings with the newest base; None only on demand.
        schema: Version of this file's format.
    """

    store: Path
    broker: SyncConfig = SyncConfig()
    root: str = "er"
    keys: KeysConfig | None = None
    bundles: tuple[Path, ...] = ()
    refresh: tuple[RefreshConfig, ...] = ()
    publisher: PublisherConfig = PublisherConfig()
    labels_inbox: Path | None = None
    retention_days: Positive | None = None
    compact_s: Positive | None = 3600.0
    rescore_s: Positive | None = None
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_name(self.root, "topic root")
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


def load_cloud(path: Path) -> CloudConfig:
    """Read a cloud's YAML file; relative paths in it are relative to the file.

    Raises:
        ConfigError: The file cannot be read or does not fit; ``where`` is ``file:line:column``.
    """
    return load_yaml(path, CloudConfig)
