"""Configuration in YAML: read strictly, explained by line and column, checked across parts."""

from edge_runtime.config.convert import Tombstones, load_yaml, parse_yaml
from edge_runtime.config.device import (
    DeviceConfig,
    ModelConfig,
    OutboxConfig,
    StreamConfig,
    SyncConfig,
    TrustConfig,
    load_device,
    split_kind,
)
from edge_runtime.config.document import Document, dump_yaml

__all__ = [
    "DeviceConfig",
    "Document",
    "ModelConfig",
    "OutboxConfig",
    "StreamConfig",
    "SyncConfig",
    "Tombstones",
    "TrustConfig",
    "dump_yaml",
    "load_device",
    "load_yaml",
    "parse_yaml",
    "split_kind",
]
