"""An IIO sensor as a source."""

from __future__ import annotations

from edge_runtime.clock import SystemClock
from edge_runtime.ports import Clock, SourceHealth
from edge_runtime.sources.iio.buffered import start_buffer
from edge_runtime.sources.iio.config import IioConfig
from edge_runtime.sources.iio.find import find_device
from edge_runtime.sources.iio.kernel import Attributes, Kernel, Linux
from edge_runtime.sources.iio.polled import start_polling
from edge_runtime.sources.intake import Intake
from edge_runtime.sources.live import Health
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame

__all__ = ["IioSource"]


class IioSource:
    """Reads a sensor whose driver is in the kernel.

    Delivery: live; what is lost shows as a jump in the event times, and is counted.
    Values are float32 in the kernel's units. Thread: one reads, any may close.

    Args:
        config: Options.
        clock: Tells time; its monotonic time must be the kernel's for `timestamps`.
        kernel: Answers; the machine's own by default, a stand-in in tests.
    """

    Config = IioConfig

    def __init__(
        self, config: IioConfig, *, clock: Clock | None = None, kernel: Kernel | None = None
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._kernel = kernel or Linux()
        self._health = Health()
        self._intake = Intake()

    @property
    def is_exhausted(self) -> bool:
        """A sensor never ends."""
        return False

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Find the device, set it up and start.

        Raises:
            ConfigError: Elements, rate, trigger or an attribute do not fit the device.
            SourceError: It is missing, busy, or nobody may use it.
        """
        self.close()
        config = self._config
        device = find_device(self._kernel, config.root, config.device)
        attributes = Attributes(self._kernel, config.root, device)
        start = start_buffer if config.capture == "buffer" else start_polling
        reader = start(
            self._kernel, attributes, config, need, clock=self._clock, health=self._health
        )
        self._intake.open(reader, stream, index)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next block, or None if none came within ``timeout_s``.

        Raises:
            SourceError: The device is gone.
        """
        return self._intake.read(timeout_s)

    def health(self) -> SourceHealth:
        """Return what was noticed so far; callable from any thread."""
        return self._health.report()

    def close(self) -> None:
        """Stop, and leave the device as it was; safe to call twice and from any thread."""
        self._intake.close()
