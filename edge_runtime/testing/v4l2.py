"""A video device without a camera: the kernel's side of Video for Linux 2."""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from struct import Struct

from edge_runtime.clock import SystemClock
from edge_runtime.ports import Clock
from edge_runtime.sources.v4l2 import (
    BUFFER,
    CAPABILITY,
    FORMAT,
    FORMAT_DESCRIPTION,
    FRAME_SIZE,
    PARAMETERS,
    REQUEST_BUFFERS,
    REQUESTS,
)

__all__ = ["FakeVideo", "Modes"]

Modes = Mapping[tuple[str, int, int], float]
"""Format code, width and height → most pictures a second; slower ones divide it."""

_BYTES = {"YUYV": 2, "RGB3": 3, "GREY": 1, "MJPG": 0}
_NAMES = {number: name for name, number in REQUESTS.items()}
_NODE_ABILITIES = 0x1 | 0x0400_0000
_MONOTONIC, _DAMAGED = 0x2000, 0x40


class _Buffer:
    """One buffer: dequeued, queued or filled."""

    def __init__(self, length: int) -> None:
        self.memory = mmap.mmap(-1, length)
        self.is_queued = False
        self.used = self.flags = self.sequence = self.taken_ns = 0


class FakeVideo:
    """Behaves like the driver of one camera at ``/dev/video0``; fits `Kernel`.

    Buffers go round as with a real one: a picture that finds none queued is lost, and
    only the sequence number tells. `take_picture` exposes one; with ``is_free_running``
    every request for a picture takes one, as fast as they are asked for.

    Args:
        modes: What the camera can do.
        picture: Makes the bytes of picture number N.
        clock: Its monotonic time stamps the pictures.
        padding: Bytes after each line.
        is_free_running: Whether pictures come by themselves.

    Attributes:
        failures: Requests that fail, by name, such as ``{"VIDIOC_STREAMON": errno.EBUSY}``;
            ``open`` is one of them.
        abilities: Capabilities of the node.
        colours: colorspace, ycbcr_enc and quantization of its pictures.
        is_streaming: Whether it is.
        opened: How often it was opened and not closed.
    """

    def __init__(
        self,
        modes: Modes,
        picture: Callable[[int], bytes],
        *,
        clock: Clock | None = None,
        padding: int = 0,
        is_free_running: bool = False,
    ) -> None:
        self.failures: dict[str, int] = {}
        self.abilities = _NODE_ABILITIES
        self.colours = (8, 0, 0)
        self.is_streaming = False
        self.opened = 0
        self._modes = modes
        self._picture = picture
        self._clock = clock or SystemClock()
        self._padding = padding
        self._is_free_running = is_free_running
        self._mode = next(iter(modes))
        self._sequence = 0
        self._buffers: list[_Buffer] = []
        self._queued: deque[int] = deque()
        self._filled: deque[int] = deque()
        self._is_plugged = True
        self._descriptor = -1

    # --- what happens to the camera -----------------------------------------------------

    def take_picture(self, *, is_damaged: bool = False) -> None:
        """Expose one picture; it is lost if no buffer is queued."""
        number, self._sequence = self._sequence, self._sequence + 1
        if not self.is_streaming or not self._queued:
            return
        index = self._queued.popleft()
        buffer, content = self._buffers[index], self._picture(number)
        buffer.memory[: len(content)] = content
        buffer.used, buffer.sequence = len(content), number
        buffer.flags = _MONOTONIC | (_DAMAGED if is_damaged else 0)
        buffer.taken_ns = self._clock.monotonic_ns()
        self._filled.append(index)
        self._signal()

    def skip(self, pictures: int) -> None:
        """Count pictures that nobody sees."""
        self._sequence += pictures

    def unplug(self) -> None:
        """Every request fails from now on, and whoever waits is woken."""
        self._is_plugged = False
        self._signal()

    def plug(self) -> None:
        """The camera is back."""
        self._is_plugged = True

    # --- Kernel ---------------------------------------------------------------------------

    def open(self, path: Path) -> int:
        """Return an event descriptor that can be read while a picture waits."""
        if str(path) != "/dev/video0" or not self._is_plugged:
            raise _error(errno.ENOENT)
        self._fail("open")
        self.opened += 1
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._descriptor

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> None:
        """Answer a request as a driver does, errors included."""
        if descriptor != self._descriptor or not self.opened:
            raise _error(errno.EBADF)
        if not self._is_plugged:
            raise _error(errno.ENODEV)
        name = _NAMES.get(request)
        if name is None or len(argument) != request >> 16 & 0x3FFF:
            raise _error(errno.ENOTTY)
        self._fail(name)
        getattr(self, "_" + name.removeprefix("VIDIOC_").lower())(argument)

    def map(self, descriptor: int, length: int, offset: int) -> mmap.mmap:
        """Return the memory of the buffer at ``offset``."""
        if descriptor != self._descriptor:
            raise _error(errno.EBADF)
        buffer = self._buffers[self._number_of(offset)].memory
        if length != len(buffer):
            raise _error(errno.EINVAL)
        return buffer

    def close(self, descriptor: int) -> None:
        """End the stream and free the buffers."""
        self.opened -= 1
        self._stop()
        self._buffers = []
        os.close(descriptor)

    # --- requests ---------------------------------------------------------------------------

    def _querycap(self, argument: bytearray) -> None:
        names = (b"stand-in", b"Stand-in camera", b"usb-1", 0x60100)
        everything = self.abilities | 0x8000_0000
        CAPABILITY.pack_into(argument, 0, *names, everything, self.abilities, 0, 0, 0)

    def _enum_fmt(self, argument: bytearray) -> None:
        index, kind, *_ = FORMAT_DESCRIPTION.unpack(argument)
        codes = list(dict.fromkeys(code for code, _, _ in self._modes))
        if kind != 1 or index >= len(codes):
            raise _error(errno.EINVAL)
        code = codes[index]
        answer = (index, kind, 0, code.encode(), _number(code), 0, 0, 0, 0)
        FORMAT_DESCRIPTION.pack_into(argument, 0, *answer)

    def _enum_framesizes(self, argument: bytearray) -> None:
        index, code, *_ = FRAME_SIZE.unpack(argument)
        sizes = [(w, h) for known, w, h in self._modes if _number(known) == code]
        if index >= len(sizes):
            raise _error(errno.EINVAL)
        FRAME_SIZE.pack_into(argument, 0, index, code, 1, *sizes[index], 0, 0, 0, 0, 0, 0)

    def _s_fmt(self, argument: bytearray) -> None:
        if self._buffers:
            raise _error(errno.EBUSY)
        _, width, height, code, *_ = FORMAT.unpack(argument)
        # The format is kept if there is one like it, and the size becomes the nearest.
        self._mode = min(
            self._modes,
            key=lambda mode: (
                _number(mode[0]) != code,
                abs(mode[1] - width) + abs(mode[2] - height),
            ),
        )
        name, width, height = self._mode
        line_bytes = _BYTES[name] * width + (self._padding if _BYTES[name] else 0)
        space, encoding, range_ = self.colours
        pixels = (width, height, _number(name), 1, line_bytes, self._length, space)
        FORMAT.pack_into(argument, 0, 1, *pixels, 0xFEEDCAFE, 0, encoding, range_, 0, b"")

    def _s_parm(self, argument: bytearray) -> None:
        _, _, _, numerator, denominator, *_ = PARAMETERS.unpack(argument)
        fastest = self._modes[self._mode]
        rates = [fastest / part for part in (1, 2, 3, 6)]
        rate = min(rates, key=lambda rate: abs(rate - denominator / numerator))
        answer = (1, 0x1000, 0, 10_000_000, round(rate * 1e7), 0, 0, 0, 0, 0, 0)
        PARAMETERS.pack_into(argument, 0, *answer, b"")

    def _reqbufs(self, argument: bytearray) -> None:
        count, kind, memory, *_ = REQUEST_BUFFERS.unpack(argument)
        if (kind, memory) != (1, 1) or self.is_streaming:
            raise _error(errno.EINVAL)
        self._buffers = [_Buffer(self._length) for _ in range(count)]
        REQUEST_BUFFERS.pack_into(argument, 0, count, kind, memory, 0, 0, b"")

    def _querybuf(self, argument: bytearray) -> None:
        index = BUFFER.unpack(argument)[0]
        self._answer(argument, index, self._buffer(index))

    def _qbuf(self, argument: bytearray) -> None:
        index = BUFFER.unpack(argument)[0]
        buffer = self._buffer(index)
        if buffer.is_queued:
            raise _error(errno.EINVAL)
        buffer.is_queued = True
        self._queued.append(index)

    def _dqbuf(self, argument: bytearray) -> None:
        if not self.is_streaming:
            raise _error(errno.EINVAL)
        if not self._filled:
            raise _error(errno.EAGAIN)
        index = self._filled.popleft()
        self._quiet()
        self._buffers[index].is_queued = False
        self._answer(argument, index, self._buffers[index])

    def _streamon(self, argument: bytearray) -> None:
        if Struct("=i").unpack(argument) != (1,) or not self._buffers:
            raise _error(errno.EINVAL)
        self.is_streaming, self._sequence = True, 0
        if self._is_free_running:
            self.take_picture()

    # --- parts ------------------------------------------------------------------------------

    @property
    def _length(self) -> int:
        _, width, height = self._mode
        pages = (3 + self._padding) * width * height + mmap.PAGESIZE - 1
        return pages // mmap.PAGESIZE * mmap.PAGESIZE

    def _number_of(self, offset: int) -> int:
        number, rest = divmod(offset, self._length)
        if rest or number >= len(self._buffers):
            raise _error(errno.EINVAL)
        return number

    def _buffer(self, index: int) -> _Buffer:
        if index >= len(self._buffers):
            raise _error(errno.EINVAL)
        return self._buffers[index]

    def _answer(self, argument: bytearray, index: int, buffer: _Buffer) -> None:
        seconds, rest_ns = divmod(buffer.taken_ns, 1_000_000_000)
        head = (index, 1, buffer.used, buffer.flags, 1, seconds, rest_ns // 1000, b"")
        place = (index * self._length, self._length, 0, 0)
        BUFFER.pack_into(argument, 0, *head, buffer.sequence, 1, *place)

    def _signal(self) -> None:
        if self.opened:
            os.eventfd_write(self._descriptor, 1)

    def _quiet(self) -> None:
        """Let the descriptor be readable only while a picture waits."""
        if self._is_free_running and self._queued:
            self.take_picture()
        if not self._filled:
            with suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)

    def _stop(self) -> None:
        self.is_streaming = False
        self._queued.clear()
        self._filled.clear()

    def _fail(self, name: str) -> None:
        if name in self.failures:
            raise _error(self.failures[name])


def _number(code: str) -> int:
    return int.from_bytes(code.encode(), "little")


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
