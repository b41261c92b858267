"""The two ways to a camera: the kernel's own, and picamera2 for modules on a ribbon."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from edge_runtime.errors import ConfigError, EdgeError, MissingExtra, SourceError
from edge_runtime.sources.pictures import Shaper, YuvKind
from edge_runtime.sources.v4l2 import Kernel, PixelFormat, Shot, VideoDevice
from edge_runtime.sources.waking import Handover, Part, Waker

__all__ = ["FORMATS", "Camera", "KernelCamera", "PiCamera", "Seen", "Wanted"]

# The format that takes least work first.
FORMATS = ("YUYV", "MJPG", "RGB3", "GREY")
_RATE_TOLERANCE = 1e-3
# Pictures that wait for the source; when full, new ones are lost (policy: drop_newest).
_WAITING = 2


class Wanted(NamedTuple):
    """What a camera is asked for.

    Attributes:
        width: Pixels.
        height: Pixels.
        rate_hz: Pictures a second.
        format: Code of `FORMATS`; None for the first one that fits.
    """

    width: int
    height: int
    rate_hz: float
    format: str | None = None


class Seen(NamedTuple):
    """A picture that has come.

    Attributes:
        number: Counts the pictures that were taken, seen or not; 32 bits.
        taken_ns: Monotonic time; None if nobody tells.
        lines: Makes the lines of an image of it; raises ValueError if it is damaged.
    """

    number: int
    taken_ns: int | None
    lines: Callable[[], np.ndarray]


class Camera(Part, Protocol):
    """An open camera that delivers; used by one thread, but for `wake`."""

    def look(self, timeout_s: float) -> AbstractContextManager[Seen | None]:
        """Give the next picture for the time of a ``with``; None if none came in time.

        Raises:
            SourceError: The camera has failed.
        """
        ...


class KernelCamera:
    """A camera with a device node, such as one on USB.

    Args:
        path: The node.
        kernel: Makes the calls.
        wanted: Size, rate and format.
        shaper: Makes images of pictures.

    Raises:
        ConfigError: It does not deliver what is wanted.
        SourceError: It cannot be used.
    """

    def __init__(self, path: Path, kernel: Kernel, wanted: Wanted, shaper: Shaper) -> None:
        self._shaper = shaper
        self._waker = Waker()
        try:
            self._device = VideoDevice(path, kernel)
        except EdgeError:
            self._waker.close()
            raise
        try:
            self._format = _chosen(self._device, path, wanted)
            self._device.start()
        except EdgeError:
            self.close()
            raise

    @contextmanager
    def look(self, timeout_s: float) -> Iterator[Seen | None]:
        """Give the next picture; its buffer goes back to the driver afterwards."""
        shot = self._device.take() if self._device.wait(self._waker, timeout_s) else None
        if shot is None:
            yield None
            return
        yield Seen(shot.number, shot.taken_ns, partial(self._lines, shot))
        self._device.give_back(shot)

    def wake(self) -> None:
        """End the wait for a picture."""
        self._waker.wake()

    def close(self) -> None:
        """Stop the stream and give the device back."""
        self._device.close()
        self._waker.close()

    def _lines(self, shot: Shot) -> np.ndarray:
        if shot.is_damaged:
            raise ValueError("the driver says that the picture is damaged")
        match self._format.code:
            case "MJPG":
                return self._shaper.decode(io.BytesIO(shot.content))
            case "YUYV":
                kind = YuvKind(self._format.is_full_range, self._format.is_hd)
                return self._shaper.yuyv(self._rows(shot, 2), kind)
            case "RGB3":
                rows = self._rows(shot, 3)
                return self._shaper.pixels(rows.reshape(len(rows), -1, 3))
            case _:
                return self._shaper.pixels(self._rows(shot, 1))

    def _rows(self, shot: Shot, pixel_bytes: int) -> np.ndarray:
        """Return the pixels without what pads the lines; ValueError if some are missing."""
        height, width = self._format.height, self._format.width
        line_bytes = max(self._format.line_bytes, pixel_bytes * width)
        rows = np.frombuffer(shot.content, np.uint8, height * line_bytes)
        wanted = rows.reshape(height, line_bytes)[:, : pixel_bytes * width]
        return np.ascontiguousarray(wanted)


def _chosen(device: VideoDevice, path: Path, wanted: Wanted) -> PixelFormat:
    """Set the first format that comes in the wanted size and rate."""
    offered = device.formats()
    answers = []
    for code in [wanted.format] if wanted.format else FORMATS:
        if code not in offered:
            continue
        try:
            got = device.set_format(code, wanted.width, wanted.height)
        except OSError as error:
            raise _refused(path, code, error) from error
        rate_hz = device.set_rate(wanted.rate_hz)
        answers.append(_Answer(got, rate_hz, device.sizes(code)))
        if answers[-1].fits(code, wanted):
            return got
    raise _misfit(path, device.card, wanted, offered, answers)


class _Answer(NamedTuple):
    """What a driver made of a wish."""

    format: PixelFormat
    rate_hz: float | None
    sizes: str

    def fits(self, code: str, wanted: Wanted) -> bool:
        """Whether it is what was wanted."""
        is_size = self.format[:3] == (code, wanted.width, wanted.height)
        rate_hz = self.rate_hz or 0.0
        return is_size and math.isclose(rate_hz, wanted.rate_hz, rel_tol=_RATE_TOLERANCE)

    def __str__(self) -> str:
        code, width, height = self.format[:3]
        rate = "an unknown number of" if self.rate_hz is None else f"{self.rate_hz:g}"
        sizes = f" (sizes: {self.sizes})" if self.sizes else ""
        return f"{code} {width}x{height}, {rate} images a second{sizes}"


def _refused(path: Path, code: str, error: OSError) -> SourceError:
    return SourceError(
        f"the camera does not take format {code} ({error.strerror})",
        where=str(path),
        expected="a camera that nobody else uses",
        remedy="fuser -v tells who uses it.",
    )


def _misfit(
    path: Path, card: str, wanted: Wanted, offered: tuple[str, ...], answers: list[_Answer]
) -> ConfigError:
    told = "; ".join(map(str, answers)) or f"only the formats {', '.join(offered) or 'none'}"
    return ConfigError(
        f"camera {card!r} offers {told}",
        where=str(path),
        expected=f"{wanted.format or ' or '.join(FORMATS)} {wanted.width}x{wanted.height}, "
        f"{wanted.rate_hz:g} images a second",
        remedy=_advice(wanted, answers),
    )


def _advice(wanted: Wanted, answers: list[_Answer]) -> str:
    for answer in answers:
        ratio = (answer.rate_hz or 0.0) / wanted.rate_hz
        if ratio > 1.5 and math.isclose(ratio, round(ratio), rel_tol=_RATE_TOLERANCE):
            return f"Set every {round(ratio)} times as high: so many pictures come for each image."
    return "Choose a width, height and format that it offers, or convert the model with --rate-hz."


class PiCamera:
    """A camera module of a Raspberry Pi, through the library that its system ships.

    The library tells no numbers: lost pictures are read off the sensor's time stamps.

    Args:
        number: Which camera, from 0.
        wanted: Size and rate; the format is the library's matter.
        shaper: Makes images of pictures.
        library: Module ``picamera2``; None imports it.

    Raises:
        ConfigError: The sensor does not have this rate.
        MissingExtra: The library is not installed.
        SourceError: There is no such camera, or it is in use.
    """

    def __init__(self, number: int, wanted: Wanted, shaper: Shaper, library: Any = None) -> None:
        library = library or _picamera2()
        self._where = f"camera {number}"
        self._shaper = shaper
        self._period_ns = 1e9 / wanted.rate_hz
        self._number, self._taken_ns = 0, 0
        self._came: Handover[tuple[int, np.ndarray]] = Handover(_WAITING)
        try:
            self._camera: Any = library.Picamera2(number)
        except (RuntimeError, IndexError) as error:
            raise self._failure(error) from error
        try:
            self._start(wanted)
        except RuntimeError as error:
            self.close()
            raise self._failure(error) from error
        except EdgeError:
            self.close()
            raise

    @contextmanager
    def look(self, timeout_s: float) -> Iterator[Seen | None]:
        """Give the next picture."""
        came = self._came.take(timeout_s)
        if came is None:
            yield None
            return
        taken_ns, pixels = came
        if self._taken_ns:
            self._number += max(1, round((taken_ns - self._taken_ns) / self._period_ns))
        self._taken_ns = taken_ns
        yield Seen(self._number & 0xFFFF_FFFF, taken_ns, lambda: self._shaper.pixels(pixels))

    def wake(self) -> None:
        """End the wait for a picture."""
        self._came.wake()

    def close(self) -> None:
        """Stop and release the camera."""
        self._camera.stop()
        self._camera.close()

    def _start(self, wanted: Wanted) -> None:
        period_us = round(1e6 / wanted.rate_hz)
        # The library names the order of bytes in a word: these are red, green, blue.
        configuration = self._camera.create_video_configuration(
            main={"size": (wanted.width, wanted.height), "format": "BGR888"},
            controls={"FrameDurationLimits": (period_us, period_us)},
        )
        self._camera.configure(configuration)
        shortest_us, longest_us, *_ = self._camera.camera_controls["FrameDurationLimits"]
        if not shortest_us <= period_us <= longest_us:
            raise self._wrong_rate(wanted, 1e6 / longest_us, 1e6 / shortest_us)
        self._camera.post_callback = self._take
        self._camera.start()

    def _take(self, request: Any) -> None:
        """Copy a picture out of the library's buffer; called on its thread."""
        taken_ns = int(request.get_metadata()["SensorTimestamp"])
        self._came.put((taken_ns, request.make_array("main")))

    def _wrong_rate(self, wanted: Wanted, least_hz: float, most_hz: float) -> ConfigError:
        return ConfigError(
            f"the sensor takes {least_hz:.3g} to {most_hz:.3g} images a second",
            where=self._where,
            expected=f"{wanted.rate_hz:g}",
            remedy="Choose a smaller size or another number for every, "
            "or convert the model with --rate-hz.",
        )

    def _failure(self, error: Exception) -> SourceError:
        return SourceError(
            f"the camera cannot be used ({error})",
            where=self._where,
            expected="a camera that nobody else uses",
            remedy="rpicam-hello --list-cameras tells which are connected; "
            "see that its ribbon sits firmly and that no other program uses it.",
        )


def _picamera2() -> Any:
    try:
        import picamera2
    except ImportError as error:
        raise MissingExtra(
            'source "camera" through picamera2 needs picamera2, which is not installed',
            remedy="sudo apt install python3-picamera2, and make the virtual environment "
            "with --system-site-packages",
        ) from error
    return picamera2
