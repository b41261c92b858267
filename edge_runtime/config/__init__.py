"""Configuration in YAML: read strictly, explained by line and column, checked across parts."""

from edge_runtime.config.convert import Tombstones, load_yaml, parse_yaml
from edge_runtime.config.device import (
    DeviceConfig,
    Limits,
    ModelConfig,
    OutboxConfig,
    ProxyConfig,
    RecordConfig,
    RingConfig,
    StreamConfig,
    StreamOutboxConfig,
    SyncConfig,
    TrustConfig,
    device_of,
    load_device,
    split_kind,
)
from edge_runtime.config.document import Document, dump_yaml

__all__ = [
    "DeviceConfig",
    "Document",
    "Limits",
    "ModelConfig",
    "OutboxConfig",
    "ProxyConfig",
    "RecordConfig",
    "RingConfig",
    "StreamConfig",
    "StreamOutboxConfig",
    "SyncConfig",
    "Tombstones",
    "TrustConfig",
    "device_of",
    "dump_yaml",
    "load_device",
    "load_yaml",
    "parse_yaml",
    "split_kind",
]
