"""Sensors behind Linux's Industrial I/O subsystem, without a library.

Source of every file name and format here: the kernel's
Documentation/ABI/testing/sysfs-bus-iio and Documentation/iio/iio_devbuf.rst.
"""

from edge_runtime.sources.iio.config import IioConfig
from edge_runtime.sources.iio.source import IioSource

__all__ = ["IioConfig", "IioSource"]
