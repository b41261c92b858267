"""A device as a service of its machine: unit file, installing it and removing it."""

from edge_runtime.service.install import check_root, install, uninstall
from edge_runtime.service.unit import unit_name, unit_of

__all__ = ["check_root", "install", "uninstall", "unit_name", "unit_of"]
