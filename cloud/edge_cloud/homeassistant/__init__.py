"""Devices and their decisions in Home Assistant, by MQTT discovery; beside the cloud, not in it."""

from edge_cloud.homeassistant.bridge import Bridge, BridgeStats
from edge_cloud.homeassistant.discovery import Names, discovery_of, slug

__all__ = ["Bridge", "BridgeStats", "Names", "discovery_of", "slug"]
