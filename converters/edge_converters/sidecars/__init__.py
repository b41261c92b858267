"""What lies beside or inside a bare model file and tells what the file does not."""

from edge_converters.sidecars.find import Sidecar, read_sidecar

__all__ = ["Sidecar", "read_sidecar"]
