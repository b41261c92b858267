"""Live images from a camera."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.clock import SystemClock
from edge_runtime.ports import Clock, SourceHealth
from edge_runtime.sources.cameras import Camera, KernelCamera, PiCamera, Seen, Wanted
from edge_runtime.sources.live import Health, SampleClock
from edge_runtime.sources.pictures import Shaper, image_of
from edge_runtime.sources.suspects import Frozen, Patience, note_suspects
from edge_runtime.sources.v4l2 import Kernel, LinuxKernel
from edge_runtime.sources.waking import Holder, Silence
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame

__all__ = ["CameraConfig", "CameraSource"]

# A camera that has shown nothing for so long, or for so many periods, has failed.
_SILENCE_NS, _SILENCE_PERIODS = 5_000_000_000, 4
_NUMBERS = 1 << 32


class CameraConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a camera.

    Attributes:
        through: ``v4l2`` for one with a device node, ``picamera2`` for a camera
            module of a Raspberry Pi.
        device: Device node; names in ``/dev/v4l/by-id`` do not change.
        number: Which camera of picamera2, from 0.
        width: Pixels of the pictures that the camera takes.
        height: As many lines.
        format: Their format; None takes the first of these that fits. Of v4l2 alone.
        every: The camera takes so many pictures for each image of the model.
        frozen_s: The same image for so long is a fault; None never counts.
    """

    through: Literal["v4l2", "picamera2"] = "v4l2"
    device: Path = Path("/dev/video0")
    number: Annotated[int, Meta(ge=0)] = 0
    width: Annotated[int, Meta(ge=16, le=8192)] = 640
    height: Annotated[int, Meta(ge=16, le=8192)] = 480
    format: Literal["yuyv", "mjpg", "rgb3", "grey"] | None = None
    every: Annotated[int, Meta(ge=1, le=1000)] = 1
    frozen_s: Patience = 1.0

    @property
    def delivers_images(self) -> bool:
        """Only a model of images can use them."""
        return True


class CameraSource:
    """Looks through a camera; a line of pixels is one sample.

    The last line of an image has the time at which the picture was taken; the
    others lie before it, evenly over the period. A lost or damaged picture is lost
    samples and a gap of its length.

    Delivery: live, at most once; the driver holds four pictures while the pipeline
    is behind, then drops the newest. Clock: the driver's monotonic time stamps.
    Thread: one reads, any may close.

    Args:
        config: Options.
        clock: Tells time.
        kernel: Makes the calls to the video device; for tests.
        picamera2: The library; for tests.
    """

    Config = CameraConfig

    def __init__(
        self,
        config: CameraConfig,
        *,
        clock: Clock | None = None,
        kernel: Kernel | None = None,
        picamera2: Any = None,
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._kernel = kernel or LinuxKernel()
        self._picamera2 = picamera2
        self._health = Health()
        self._holder: Holder[Camera] = Holder()
        self._view: _View | None = None
        self._silence = Silence(self._clock, _SILENCE_NS, self._where)

    @property
    def is_exhausted(self) -> bool:
        """Always False: a camera never ends."""
        return False

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Start the camera at the model's number of images a second.

        Raises:
            ConfigError: The model needs no images, or the camera has no such size,
                format or rate.
            MissingExtra: A library is not installed.
            SourceError: The camera is not there, in use, or not ours to use.
        """
        image = image_of(need, "camera")
        rate_hz = need.rate_hz / image.height
        shaper = Shaper(image, "camera")
        self._holder.open(lambda: self._opened(rate_hz * self._config.every, shaper))
        limit_ns = max(_SILENCE_NS, round(_SILENCE_PERIODS * 1e9 / rate_hz))
        self._silence = Silence(self._clock, limit_ns, self._where)
        times = SampleClock(need.rate_hz, self._clock, self._health)
        frozen = Frozen(self._config.frozen_s, rate_hz)
        self._view = _View(stream, index, self._config.every, times, frozen, self._health)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the lines of the next image; None if none came within ``timeout_s``.

        Raises:
            SourceError: The camera was unplugged, or shows nothing any more.
        """
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * 1e9)
        with self._holder.use() as camera:
            while camera is not None and self._view is not None:
                left_s = (deadline_ns - self._clock.monotonic_ns()) / 1e9
                with camera.look(max(0.0, left_s)) as seen:
                    frame = self._view.frame(seen) if seen else None
                if seen is None:
                    self._silence.check()
                    return None
                self._silence.end()
                if frame is not None or left_s <= 0:
                    return frame
        return None

    def close(self) -> None:
        """Make a waiting read return and release the camera; safe to call twice."""
        self._holder.close()

    def health(self) -> SourceHealth:
        """Return lost lines, jitter, and how many pictures were ``damaged`` or ``frozen``."""
        return self._health.report()

    def _opened(self, rate_hz: float, shaper: Shaper) -> Camera:
        config = self._config
        wanted = Wanted(
            config.width, config.height, rate_hz, config.format and config.format.upper()
        )
        if config.through == "picamera2":
            return PiCamera(config.number, wanted, shaper, self._picamera2)
        return KernelCamera(config.device, self._kernel, wanted, shaper)

    @property
    def _where(self) -> str:
        config = self._config
        is_module = config.through == "picamera2"
        return f"camera {config.number}" if is_module else str(config.device)


class _View:
    """Makes frames of pictures, from `open` to `close`."""

    def __init__(
        self,
        stream: str,
        index: int,
        every: int,
        times: SampleClock,
        frozen: Frozen,
        health: Health,
    ) -> None:
        self._stream = stream
        self._index = index
        self._every = every
        self._times = times
        self._frozen = frozen
        self._health = health
        self._due: int | None = None

    def frame(self, seen: Seen) -> Frame | None:
        """Return the frame of a picture; None if it is not due, or damaged."""
        lost = self._lost_before(seen.number)
        if lost is None:
            return None
        try:
            lines = seen.lines()
        except ValueError:
            self._health.fault("damaged")
            return None
        self._due = (seen.number + self._every) % _NUMBERS
        count = len(lines)
        stamps = self._times.stamp(count, lost=lost * count, taken_ns=seen.taken_ns)
        first, self._index = self._index, self._index + count
        quality = self._noted(lines, stamps.lost)
        return Frame(
            self._stream, first, stamps.time_ns, lines, stamps.clock, stamps.step_ns, quality
        )

    def _lost_before(self, number: int) -> int | None:
        """Return how many due pictures are missing before this one; None if it is not due."""
        if self._due is None:
            return 0
        late = (number - self._due + _NUMBERS // 2) % _NUMBERS - _NUMBERS // 2
        if late <= -self._every:
            # The driver has begun to count anew.
            self._due, late = number, 0
        return late // self._every if late >= 0 and late % self._every == 0 else None

    def _noted(self, lines: np.ndarray, lost: int) -> np.ndarray | None:
        """Count an image that stands still, and return the masks of its lines."""
        frozen = self._frozen.find(lines.reshape(1, -1))
        quality = note_suspects(self._health, 1, frozen=frozen)
        masks = note_suspects(self._health, len(lines), lost=lost)
        if quality is None:
            return masks
        return np.broadcast_to(quality, len(lines)) | (0 if masks is None else masks)
