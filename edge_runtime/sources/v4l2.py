"""Cameras of the Linux kernel: Video for Linux 2 through its ioctls.

Source of every number and layout: ``linux/videodev2.h`` and the kernel's *Video for
Linux API*; the C structures are laid out with the machine's own alignment.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, Protocol

from edge_runtime.errors import ConfigError, EdgeError, SourceError
from edge_runtime.sources.waking import Waker

__all__ = [
    "BUFFER",
    "CAPABILITY",
    "FORMAT",
    "FORMAT_DESCRIPTION",
    "FRAME_SIZE",
    "PARAMETERS",
    "REQUESTS",
    "REQUEST_BUFFERS",
    "Kernel",
    "LinuxKernel",
    "PixelFormat",
    "Shot",
    "VideoDevice",
]

# struct v4l2_capability: driver, card, bus_info, version, capabilities, device_caps, reserved.
CAPABILITY = Struct("=16s32s32s6I")
# struct v4l2_fmtdesc: index, type, flags, description, pixelformat, mbus_code, reserved.
FORMAT_DESCRIPTION = Struct("=3I32s5I")
# struct v4l2_format: type, then a union that may hold pointers; its pix is width, height,
# pixelformat, field, bytesperline, sizeimage, colorspace, priv, flags, ycbcr_enc,
# quantization, xfer_func.
FORMAT = Struct("@I0L12I152s")
# struct v4l2_streamparm: type, then capture: capability, capturemode, numerator and
# denominator of timeperframe, extendedmode, readbuffers, reserved; the rest of the union.
PARAMETERS = Struct("=11I160s")
# struct v4l2_requestbuffers: count, type, memory, capabilities, flags, reserved.
REQUEST_BUFFERS = Struct("=4IB3s")
# struct v4l2_buffer: index, type, bytesused, flags, field, seconds, microseconds, timecode,
# sequence, memory, offset, length, reserved2, request_fd.
BUFFER = Struct("@5I0L2l16s2IL3I0L")
# struct v4l2_frmsizeenum: index, pixel_format, type, discrete or stepwise sizes, reserved.
FRAME_SIZE = Struct("=3I6I2I")

_WRITE, _READ = 1, 2


def _request(direction: int, number: int, size: int) -> int:
    # asm-generic/ioctl.h; the few processors that differ run no camera of ours.
    return direction << 30 | size << 16 | ord("V") << 8 | number


REQUESTS = {
    "VIDIOC_QUERYCAP": _request(_READ, 0, CAPABILITY.size),
    "VIDIOC_ENUM_FMT": _request(_READ | _WRITE, 2, FORMAT_DESCRIPTION.size),
    "VIDIOC_S_FMT": _request(_READ | _WRITE, 5, FORMAT.size),
    "VIDIOC_REQBUFS": _request(_READ | _WRITE, 8, REQUEST_BUFFERS.size),
    "VIDIOC_QUERYBUF": _request(_READ | _WRITE, 9, BUFFER.size),
    "VIDIOC_QBUF": _request(_READ | _WRITE, 15, BUFFER.size),
    "VIDIOC_DQBUF": _request(_READ | _WRITE, 17, BUFFER.size),
    "VIDIOC_STREAMON": _request(_WRITE, 18, 4),
    "VIDIOC_S_PARM": _request(_READ | _WRITE, 22, PARAMETERS.size),
    "VIDIOC_ENUM_FRAMESIZES": _request(_READ | _WRITE, 74, FRAME_SIZE.size),
}

_CAPTURE = 1  # V4L2_BUF_TYPE_VIDEO_CAPTURE
_MMAP = 1  # V4L2_MEMORY_MMAP
_CAN_CAPTURE, _CAN_STREAM, _HAS_DEVICE_CAPS = 0x1, 0x0400_0000, 0x8000_0000
_EXTENDED = 0xFEEDCAFE  # V4L2_PIX_FMT_PRIV_MAGIC: the fields after priv count
_TELLS_RATE = 0x1000  # V4L2_CAP_TIMEPERFRAME
_IS_DAMAGED, _TIMESTAMP_KIND, _IS_MONOTONIC = 0x40, 0xE000, 0x2000  # V4L2_BUF_FLAG_…
_DISCRETE = 1  # V4L2_FRMSIZE_TYPE_DISCRETE
_FULL_RANGE, _COLORSPACE_JPEG = 1, 7
_ENCODING_709, _COLORSPACES_709 = 2, (3, 12)  # V4L2_COLORSPACE_REC709, …_DCI_P3
_BUFFERS = 4
_MOST_LISTED = 64


class Kernel(Protocol):
    """The calls that a video device is used through; waiting is the real ``poll``.

    Every method raises OSError as the kernel does.
    """

    def open(self, path: Path) -> int:
        """Return a descriptor of the device, not blocking."""
        ...

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> None:
        """Make a request, whose answer replaces ``argument``."""
        ...

    def map(self, descriptor: int, length: int, offset: int) -> mmap.mmap:
        """Map a buffer of the device."""
        ...

    def close(self, descriptor: int) -> None:
        """Give the device back."""
        ...


class LinuxKernel:
    """The running kernel."""

    def open(self, path: Path) -> int:
        """Open a device node."""
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> None:
        """Make the system call."""
        fcntl.ioctl(descriptor, request, argument)

    def map(self, descriptor: int, length: int, offset: int) -> mmap.mmap:
        """Map a buffer of the device."""
        return mmap.mmap(descriptor, length, offset=offset)

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        os.close(descriptor)


class PixelFormat(NamedTuple):
    """What the driver delivers.

    Attributes:
        code: Four letters, such as ``YUYV``.
        width: Pixels.
        height: Pixels.
        line_bytes: Bytes from one line to the next; 0 for a compressed picture.
        is_full_range: Whether luma goes from 0 to 255.
        is_hd: Whether YUV has the weights of BT.709.
    """

    code: str
    width: int
    height: int
    line_bytes: int
    is_full_range: bool
    is_hd: bool


class Shot(NamedTuple):
    """A filled buffer; give it back with `VideoDevice.give_back`.

    Attributes:
        buffer: Its number.
        number: The driver's count of pictures, 32 bits; a jump tells lost ones.
        taken_ns: Monotonic time; None if the driver tells none.
        content: The bytes, valid until the buffer is given back.
        is_damaged: Whether the driver says that something is missing.
    """

    buffer: int
    number: int
    taken_ns: int | None
    content: memoryview
    is_damaged: bool


class VideoDevice:
    """One open video device with memory-mapped streaming; used by one thread.

    Args:
        path: Device node.
        kernel: Makes the calls.

    Raises:
        ConfigError: It is no camera.
        SourceError: It cannot be opened.
    """

    def __init__(self, path: Path, kernel: Kernel) -> None:
        self._path = path
        self._kernel = kernel
        self._maps: list[mmap.mmap] = []
        try:
            self._descriptor: int | None = kernel.open(path)
        except OSError as error:
            raise _failure(path, error) from error
        try:
            self.card = self._check_camera()
        except EdgeError:
            self.close()
            raise

    def formats(self) -> tuple[str, ...]:
        """Return the codes of all formats, in the driver's order of preference."""
        return tuple(self._formats())

    def sizes(self, code: str) -> str:
        """Return the sizes that a format comes in, in words."""
        return ", ".join(self._sizes(code))

    def set_format(self, code: str, width: int, height: int) -> PixelFormat:
        """Ask for a format and size; return what the driver makes of it."""
        wanted = (width, height, _to_number(code), 0, 0, 0, 0, _EXTENDED, 0, 0, 0, 0)
        answer = self._ask("VIDIOC_S_FMT", FORMAT, _CAPTURE, *wanted, b"")
        _, width, height, number, _, line_bytes, _, colours, _, _, encoding, range_, _, _ = answer
        is_full = range_ == _FULL_RANGE or (not range_ and colours == _COLORSPACE_JPEG)
        is_hd = encoding == _ENCODING_709 or (not encoding and colours in _COLORSPACES_709)
        return PixelFormat(_to_code(number), width, height, line_bytes, is_full, is_hd)

    def set_rate(self, rate_hz: float) -> float | None:
        """Ask for pictures a second; return what the driver sets, None if it does not tell."""
        rate = Fraction(rate_hz).limit_denominator(1001)
        wanted = (0, 0, rate.denominator, rate.numerator, 0, 0, 0, 0, 0, 0)
        try:
            answer = self._ask("VIDIOC_S_PARM", PARAMETERS, _CAPTURE, *wanted, b"")
        except OSError:
            return None
        _, capability, _, numerator, denominator, *_ = answer
        is_told = capability & _TELLS_RATE and numerator and denominator
        return denominator / numerator if is_told else None

    def start(self) -> None:
        """Queue the buffers and start streaming.

        Raises:
            SourceError: The device is busy, or the bus has no room.
        """
        try:
            asked = (_BUFFERS, _CAPTURE, _MMAP, 0, 0, b"")
            count = int(self._ask("VIDIOC_REQBUFS", REQUEST_BUFFERS, *asked)[0])
            for number in range(count):
                self._map(number)
                self._queue(number)
            self._ask("VIDIOC_STREAMON", Struct("=i"), _CAPTURE)
        except OSError as error:
            raise _failure(self._path, error) from error

    def wait(self, waker: Waker, timeout_s: float) -> bool:
        """Return whether a picture, or bad news, has come in time."""
        return self._descriptor is not None and bool(waker.wait([self._descriptor], timeout_s))

    def take(self) -> Shot | None:
        """Return the oldest picture; None if there is none yet.

        Raises:
            SourceError: The device is gone, or broken.
        """
        try:
            answer = self._ask("VIDIOC_DQBUF", BUFFER, *_buffer(0))
        except BlockingIOError:
            return None
        except OSError as error:
            raise _failure(self._path, error) from error
        buffer, _, used, flags, _, seconds, microseconds, _, number = answer[:9]
        is_told = flags & _TIMESTAMP_KIND == _IS_MONOTONIC
        taken_ns = seconds * 1_000_000_000 + microseconds * 1000 if is_told else None
        content = memoryview(self._maps[buffer])[:used]
        return Shot(buffer, number, taken_ns, content, bool(flags & _IS_DAMAGED) or not used)

    def give_back(self, shot: Shot) -> None:
        """Let the driver fill the buffer again.

        Raises:
            SourceError: The device is gone.
        """
        try:
            self._queue(shot.buffer)
        except OSError as error:
            raise _failure(self._path, error) from error

    def close(self) -> None:
        """Stop streaming and give the device back; safe to call twice."""
        descriptor, self._descriptor = self._descriptor, None
        # A buffer is unmapped as soon as nobody looks at it any more.
        self._maps.clear()
        if descriptor is not None:
            # Closing ends the stream and frees the driver's buffers.
            self._kernel.close(descriptor)

    def _check_camera(self) -> str:
        try:
            answer = self._ask("VIDIOC_QUERYCAP", CAPABILITY, b"", b"", b"", 0, 0, 0, 0, 0, 0)
        except OSError as error:
            raise _no_camera(self._path, error.strerror or "it refuses") from error
        _, card, _, _, of_all, of_this, *_ = answer
        abilities = of_this if of_all & _HAS_DEVICE_CAPS else of_all
        if not (abilities & _CAN_CAPTURE and abilities & _CAN_STREAM):
            raise _no_camera(self._path, "it delivers no pictures")
        return bytes(card).split(b"\0")[0].decode("utf-8", "replace")

    def _map(self, number: int) -> None:
        answer = self._ask("VIDIOC_QUERYBUF", BUFFER, *_buffer(number))
        self._maps.append(self._kernel.map(self._needed(), int(answer[11]), int(answer[10])))

    def _queue(self, number: int) -> None:
        self._ask("VIDIOC_QBUF", BUFFER, *_buffer(number))

    def _formats(self) -> Iterator[str]:
        for index in range(_MOST_LISTED):
            try:
                asked = (index, _CAPTURE, 0, b"", 0, 0, 0, 0, 0)
                answer = self._ask("VIDIOC_ENUM_FMT", FORMAT_DESCRIPTION, *asked)
            except OSError:
                return
            yield _to_code(int(answer[4]))

    def _sizes(self, code: str) -> Iterator[str]:
        for index in range(_MOST_LISTED):
            try:
                asked = (index, _to_number(code), 0, 0, 0, 0, 0, 0, 0, 0, 0)
                answer = self._ask("VIDIOC_ENUM_FRAMESIZES", FRAME_SIZE, *asked)
            except OSError:
                return
            _, _, kind, first, second, third, fourth, fifth, *_ = answer
            if kind != _DISCRETE:
                yield f"{first}x{fourth} to {second}x{fifth} in steps of {third}"
                return
            yield f"{first}x{second}"

    def _needed(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "the device is closed")
        return self._descriptor

    def _ask(self, request: str, layout: Struct, *values: int | bytes) -> tuple[Any, ...]:
        argument = bytearray(layout.pack(*values))
        self._kernel.ioctl(self._needed(), REQUESTS[request], argument)
        return layout.unpack(argument)


def _buffer(number: int) -> tuple[int | bytes, ...]:
    return (number, _CAPTURE, 0, 0, 0, 0, 0, b"", 0, _MMAP, 0, 0, 0, 0)


def _to_number(code: str) -> int:
    return int.from_bytes(code.encode("ascii"), "little")


def _to_code(number: int) -> str:
    return number.to_bytes(4, "little").decode("latin-1")


def _no_camera(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"is no camera ({reason})",
        where=str(path),
        expected="a video device that captures",
        remedy="One camera has several nodes, and the lowest number delivers the pictures: "
        "v4l2-ctl --list-devices tells them.",
    )


_REMEDIES = {
    errno.ENOENT: "Plug the camera in, and see v4l2-ctl --list-devices; a camera module of a "
    "Raspberry Pi needs through: picamera2.",
    errno.EACCES: "Join the group that may use cameras, and log in again: "
    "sudo usermod -aG video $USER.",
    errno.EBUSY: "Another program uses the camera; fuser -v tells which.",
    errno.ENOSPC: "The USB bus has no room for this stream: choose format: mjpg, or a smaller "
    "size, or another port.",
    errno.ENODEV: "The camera was unplugged, or has failed; it is opened again once it is back.",
}
_REMEDIES[errno.ENXIO] = _REMEDIES[errno.ENODEV]


def _failure(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"the camera cannot be used ({error.strerror or error})",
        where=str(path),
        expected="a camera that delivers pictures",
        remedy=_REMEDIES.get(error.errno or 0, "Unplug the camera and plug it in again."),
    )
