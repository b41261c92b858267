"""Topics of other makers as a source."""

from edge_runtime.sources.mqtt.config import ChannelConfig, MqttConfig, MqttTimeConfig
from edge_runtime.sources.mqtt.source import MqttSource

__all__ = ["ChannelConfig", "MqttConfig", "MqttSource", "MqttTimeConfig"]
