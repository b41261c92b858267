"""Capture through the kernel's buffer: many samples a call."""

from __future__ import annotations

import os
from contextlib import ExitStack

import numpy as np

from edge_runtime.errors import SourceError
from edge_runtime.ports import Clock
from edge_runtime.sources.iio.config import IioConfig
from edge_runtime.sources.iio.kernel import Attributes, Kernel, gone, opened
from edge_runtime.sources.iio.setup import TIMESTAMP, Setup, check_has_buffer, configure
from edge_runtime.sources.iio.stamps import KernelStamps
from edge_runtime.sources.intake import Block
from edge_runtime.sources.live import Health, SampleClock
from edge_runtime.sources.suspects import Frozen, note_suspects
from edge_runtime.sources.waiting import Readiness
from edge_runtime.spec import StreamSpec

__all__ = ["Buffered", "start_buffer"]

# No frame is longer; what a full buffer holds beyond it comes with the next read.
_MOST_SCANS = 65536


class Buffered:
    """An enabled buffer.

    Args:
        kernel: Answers.
        file: Its character device, which this object closes.
        attributes: Restored at close; the buffer's ``enable`` among them.
        setup: How it was enabled.
        stamps: Makes event times, of the kernel's stamps or of the arrivals.
        frozen: Finds samples that stand still.
        health: Told about suspect samples.
    """

    def __init__(
        self,
        kernel: Kernel,
        file: int,
        attributes: Attributes,
        setup: Setup,
        *,
        stamps: KernelStamps | SampleClock,
        frozen: Frozen,
        health: Health,
    ) -> None:
        self._kernel = kernel
        self._file = file
        self._attributes = attributes
        self._setup = setup
        self._scan_bytes = setup.layout.dtype.itemsize
        self._most_bytes = min(setup.length, _MOST_SCANS) * self._scan_bytes
        self._stamps = stamps
        self._frozen = frozen
        self._health = health
        self._ready = Readiness(file)

    def read(self, timeout_s: float) -> Block | None:
        """Return what the buffer holds once it is a block, or after ``timeout_s``.

        The buffer is read after a time-out too: for what is there below the
        watermark, and because a device that is gone shows in a read alone.

        Raises:
            SourceError: The device is gone.
        """
        if not self._ready.wait(timeout_s) and self._ready.is_woken:
            return None
        scans = self._take()
        if scans is None:
            return None
        samples, saturated = self._setup.layout.decode(scans)
        if isinstance(self._stamps, KernelStamps):
            grid = self._stamps.stamp(scans[TIMESTAMP][:, 0].astype(np.int64))
            lost = 0 if grid.lost is None else grid.lost
            quality = self._noted(samples, saturated, lost)
            return Block(grid.time_ns, samples, self._stamps.quality, grid.step_ns, quality)
        stamps = self._stamps.stamp(len(samples))
        quality = self._noted(samples, saturated, stamps.lost)
        return Block(stamps.time_ns, samples, stamps.clock, stamps.step_ns, quality)

    def _noted(
        self, samples: np.ndarray, saturated: np.ndarray, lost: int | np.ndarray
    ) -> np.ndarray | None:
        frozen = self._frozen.find(samples)
        return note_suspects(
            self._health, len(samples), saturated=saturated, frozen=frozen, lost=lost
        )

    def _take(self) -> np.ndarray | None:
        try:
            taken = self._kernel.take(self._file, self._most_bytes)
        except BlockingIOError:
            self._check_enabled()
            return None
        except OSError as error:
            raise gone(self._attributes.device, error) from error
        # The kernel gives whole scans, and an end only where there is no buffer any more.
        if not taken or len(taken) % self._scan_bytes:
            raise SourceError(
                f"the buffer gave {len(taken)} bytes",
                where=self._attributes.device,
                expected=f"scans of {self._scan_bytes} bytes",
                remedy="Report it to the author of the part's driver.",
            )
        return np.frombuffer(taken, self._setup.layout.dtype)

    def _check_enabled(self) -> None:
        """Tell silence from a buffer that was stopped: the kernel gives nothing for both."""
        if self._attributes.get(self._setup.enable) != "1":
            raise SourceError(
                "the buffer was disabled",
                where=self._attributes.device,
                expected="a buffer that nobody else sets up",
                remedy="Stop the other program; often it is iio-sensor-proxy or iiod.",
            )

    def wake(self) -> None:
        """Make a waiting `read` return; callable from any thread."""
        self._ready.wake()

    def close(self) -> None:
        """Disable the buffer, restore what was changed, and let others open the device."""
        self._ready.close()
        self._attributes.restore()
        os.close(self._file)


def start_buffer(
    kernel: Kernel,
    attributes: Attributes,
    config: IioConfig,
    need: StreamSpec,
    *,
    clock: Clock,
    health: Health,
) -> Buffered:
    """Configure a device, and let the kernel collect its samples.

    Raises:
        ConfigError: Elements, rate, trigger or an attribute do not fit the device.
        SourceError: It is busy, gone, or nobody may use it.
    """
    check_has_buffer(attributes)
    with ExitStack() as undo:
        # First the character device: whoever has it open is alone with the buffer.
        file = opened(kernel, config.nodes / attributes.device)
        undo.callback(os.close, file)
        undo.callback(attributes.restore)
        setup = configure(attributes, config, need)
        undo.pop_all()
    make = KernelStamps if setup.is_stamped else SampleClock
    return Buffered(
        kernel,
        file,
        attributes,
        setup,
        stamps=make(need.rate_hz, clock, health),
        frozen=Frozen(config.frozen_s, need.rate_hz),
        health=health,
    )
