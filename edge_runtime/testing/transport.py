"""The in-memory broker, for tests of anything that talks MQTT."""

from edge_runtime.sync.transport import Fault, MemoryBroker, MemoryTransport

__all__ = ["Fault", "MemoryBroker", "MemoryTransport"]
