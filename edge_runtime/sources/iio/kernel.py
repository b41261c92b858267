"""What the kernel is asked for: attributes in sysfs, and a character device."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from edge_runtime.errors import ConfigError, EdgeError, SourceError

__all__ = ["Attributes", "Kernel", "Linux", "decimal", "gone", "opened"]

_MOST_BYTES = 4096  # sysfs never gives more than a page
_DENIED = (errno.EACCES, errno.EPERM)
_GONE = (errno.ENODEV, errno.ENOENT, errno.ENXIO)


class Kernel(Protocol):
    """The four calls that a stand-in for the kernel answers; all raise OSError."""

    def read(self, path: Path) -> str:
        """Return what an attribute says."""
        ...

    def write(self, path: Path, text: str) -> None:
        """Set an attribute, in one call."""
        ...

    def open(self, path: Path) -> int:
        """Open a character device for reading without blocking."""
        ...

    def take(self, file: int, size_bytes: int) -> bytes:
        """Read from it; BlockingIOError if there is nothing yet."""
        ...


class Linux:
    """The machine's own kernel."""

    def read(self, path: Path) -> str:
        """Return what an attribute says."""
        file = os.open(path, os.O_RDONLY)
        try:
            return os.read(file, _MOST_BYTES).decode(errors="replace").strip("\n\0 ")
        finally:
            os.close(file)

    def write(self, path: Path, text: str) -> None:
        """Set an attribute, in one call."""
        file = os.open(path, os.O_WRONLY)
        try:
            os.write(file, f"{text}\n".encode())
        finally:
            os.close(file)

    def open(self, path: Path) -> int:
        """Open a character device for reading without blocking."""
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def take(self, file: int, size_bytes: int) -> bytes:
        """Read from it; BlockingIOError if there is nothing yet."""
        return os.read(file, size_bytes)


class Attributes:
    """Attributes of one device and its trigger; knows how to undo its changes.

    Args:
        kernel: Answers.
        root: Folder of all devices; names are relative to it.
        device: Folder of the device.
    """

    def __init__(self, kernel: Kernel, root: Path, device: str) -> None:
        self.device = device
        self._kernel = kernel
        self._root = root
        self._undo: list[tuple[str, str]] = []

    def path(self, name: str) -> Path:
        """Return where an attribute of the device lies; ``/trigger0/name`` for another's."""
        return self._root / (name[1:] if name.startswith("/") else f"{self.device}/{name}")

    def has(self, name: str) -> bool:
        """Whether there is such an attribute."""
        return self.path(name).exists()

    def is_writable(self, name: str) -> bool:
        """Whether there is such an attribute, and its driver lets anybody set it."""
        return self.has(name) and bool(self.path(name).stat().st_mode & 0o222)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder of the device, sorted."""
        try:
            return sorted(path.name for path in self.path(folder).iterdir())
        except OSError as error:
            raise gone(self.device, error) from error

    def get(self, name: str) -> str:
        """Return what an attribute says.

        Raises:
            SourceError: It cannot be read.
        """
        path = self.path(name)
        try:
            return self._kernel.read(path)
        except OSError as error:
            raise _refused(path, error) from error

    def numbers(self, name: str) -> list[float]:
        """Return the numbers in an attribute, without the brackets of a range.

        Raises:
            SourceError: It cannot be read, or says something else.
        """
        text = self.get(name)
        try:
            return [float(word) for word in text.strip("[]").split()]
        except ValueError as error:
            raise SourceError(
                f"says {text[:60]!r}",
                where=str(self.path(name)),
                expected="numbers",
                remedy="Report it to the author of the part's driver.",
            ) from error

    def set(self, name: str, value: str) -> None:
        """Change an attribute until `restore`; one that says so already stays untouched.

        Raises:
            ConfigError: The device does not take this value.
            SourceError: It is busy, gone, or nobody may write to it.
        """
        before = self.get(name)
        if before == value:
            return
        self.force(name, value)
        self._undo.append((name, before))

    def force(self, name: str, value: str) -> None:
        """Change an attribute for good.

        Raises:
            ConfigError: The device does not take this value.
            SourceError: It is busy, gone, or nobody may write to it.
        """
        path = self.path(name)
        try:
            self._kernel.write(path, value)
        except OSError as error:
            raise self._not_taken(name, value, error) from error

    def restore(self) -> None:
        """Undo every change, the last one first, as far as the device is still there."""
        while self._undo:
            name, before = self._undo.pop()
            with suppress(OSError):
                self._kernel.write(self.path(name), before)

    def _not_taken(self, name: str, value: str, error: OSError) -> EdgeError:
        path = self.path(name)
        if error.errno in (*_DENIED, *_GONE, errno.EBUSY):
            return _refused(path, error)
        choices = f"{name}_available"
        return ConfigError(
            f"{value!r} is not accepted ({error.strerror})",
            where=str(path),
            expected=self.get(choices) if self.has(choices) else "a value of this device",
            remedy="Choose a value that the part's driver offers.",
        )


def decimal(number: float) -> str:
    """Return a number as the kernel reads it: without an exponent, to the ninth digit."""
    return f"{number:.9f}".rstrip("0").rstrip(".")


def gone(device: str, error: OSError) -> SourceError:
    """Say that a device no longer answers."""
    return SourceError(
        f"the device does not answer ({error.strerror or error})",
        where=device,
        remedy="Check its wiring and power, and what the kernel says: dmesg.",
    )


def _refused(path: Path, error: OSError) -> SourceError:
    """Say why an attribute or a character device cannot be used."""
    if error.errno in _DENIED:
        return SourceError(
            f"no permission ({error.strerror})",
            where=str(path),
            expected="a user that may configure the device",
            remedy="Let a udev rule give it to the group iio, and join that group: "
            "sudo usermod -aG iio $USER. See docs/reference/sources/iio.md.",
        )
    if error.errno == errno.EBUSY:
        return SourceError(
            "another program uses the device",
            where=str(path),
            expected="a device that nobody captures from",
            remedy="Stop it; often it is iio-sensor-proxy or iiod: fuser -v /dev/iio:device*.",
        )
    return gone(str(path), error)


def opened(kernel: Kernel, path: Path) -> int:
    """Open a character device, which no other program can open meanwhile.

    Raises:
        SourceError: It is missing or busy, or nobody may read it.
    """
    try:
        return kernel.open(path)
    except OSError as error:
        raise _refused(path, error) from error
