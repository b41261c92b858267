"""Finds and opens a serial port, and says why that failed."""

from __future__ import annotations

import errno
import grp
import termios
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from edge_runtime.errors import ConfigError, EdgeError, MissingExtra, SourceError
from edge_runtime.sources.serial.config import SerialConfig, Usb

__all__ = [
    "Connect",
    "ListPorts",
    "Port",
    "PortEntry",
    "find_port",
    "open_port",
    "pyserial",
    "pyserial_ports",
    "vanished",
]

_BUSY = (errno.EAGAIN, errno.EBUSY)
_MISSING = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
# The group of serial ports on Debian, Raspberry Pi OS and Fedora.
_USUAL_GROUP = "dialout"


class Port(Protocol):
    """What is needed of an open port."""

    def fileno(self) -> int:
        """Return its descriptor."""
        ...

    def close(self) -> None:
        """Let others open it."""
        ...


class PortEntry(Protocol):
    """A port that the system lists, as pyserial describes it."""

    @property
    def device(self) -> str:
        """Path of its node."""
        ...

    @property
    def vid(self) -> int | None:
        """USB vendor; None for a port that is no USB adapter."""
        ...

    @property
    def pid(self) -> int | None:
        """USB product."""
        ...

    @property
    def serial_number(self) -> str | None:
        """Serial number of the adapter, if it has one."""
        ...


ListPorts = Callable[[], Iterable[PortEntry]]
Connect = Callable[..., Port]


def pyserial_ports() -> Iterable[PortEntry]:
    """List the ports of this machine.

    Raises:
        MissingExtra: pyserial is not installed.
    """
    _pyserial()
    from serial.tools import list_ports

    found: Iterable[PortEntry] = list_ports.comports()
    return found


def find_port(config: SerialConfig, list_ports: ListPorts) -> str:
    """Return the node of the configured port, wherever its adapter is now.

    Raises:
        ConfigError: Several adapters fit.
        SourceError: None fits.
    """
    if config.usb is None:
        return config.port or ""
    entries = list(list_ports())
    found = [entry.device for entry in entries if _fits(entry, config.usb)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{_name(config.usb)} stands for {', '.join(sorted(found))}",
            expected="one adapter",
            remedy="Add its serial number, usb.serial, or name the port.",
        )
    raise _missing(_name(config.usb), [_described(entry) for entry in entries])


def pyserial(path: str, **options: object) -> Port:
    """Open a port with pyserial, whose options these are.

    Raises:
        MissingExtra: pyserial is not installed.
    """
    port: Port = _pyserial().Serial(path, **options)
    return port


def open_port(config: SerialConfig, path: str, *, connect: Connect, list_ports: ListPorts) -> Port:
    """Open a port for this program alone.

    Raises:
        ConfigError: It cannot do these settings, or is no serial port.
        MissingExtra: pyserial is not installed.
        SourceError: It is missing or in use, or nobody may open it.
    """
    try:
        return connect(
            path,
            baudrate=config.baud,
            bytesize=config.data_bits,
            parity=config.parity[0].upper(),
            stopbits=config.stop_bits,
            xonxoff=config.flow == "xon_xoff",
            rtscts=config.flow == "rts_cts",
            timeout=0,
            exclusive=True,
        )
    except (OSError, ValueError, termios.error) as error:
        raise _not_opened(config, path, error, list_ports) from error


def vanished(path: str, error: OSError | None = None) -> SourceError:
    """Say that an open port has gone away."""
    return SourceError(
        f"the port has gone away ({error.strerror if error else 'it ends'})",
        where=path,
        expected="an adapter that stays plugged in",
        remedy="Check cable and power; it is opened again once it is back.",
    )


def _pyserial() -> Any:
    try:
        import serial
    except ImportError as error:
        raise MissingExtra.of('source "serial"', "pyserial", "serial") from error
    return serial


def _not_opened(
    config: SerialConfig, path: str, error: Exception, list_ports: ListPorts
) -> EdgeError:
    number = _errno(error)
    if number == errno.EIO:
        return vanished(path)
    if number in _MISSING:
        return _missing(path, [_described(entry) for entry in list_ports()])
    if number in (errno.EACCES, errno.EPERM):
        return SourceError(
            "no permission to open it",
            where=path,
            expected=f"a user in the group {_group(path)}",
            remedy=f"sudo usermod -aG {_group(path)} $USER, then log in again.",
        )
    if number in _BUSY:
        return SourceError(
            "another program has it open",
            where=path,
            expected="a port that nobody uses",
            remedy=f"Stop that program; fuser -v {path} names it.",
        )
    return ConfigError(
        f"it cannot be set up ({error})",
        where=path,
        expected=f"a serial port that does {config.baud} baud, {config.data_bits} data bits, "
        f"parity {config.parity}, {config.stop_bits} stop bits",
        remedy="Correct port, baud, data_bits, parity or stop_bits.",
    )


def _errno(error: BaseException) -> int | None:
    """Return the system's reason; pyserial wraps some of them without it."""
    if isinstance(error, termios.error):
        return int(error.args[0])
    number = getattr(error, "errno", None)
    return number if number or error.__context__ is None else _errno(error.__context__)


def _missing(wanted: str, seen: list[str]) -> SourceError:
    return SourceError(
        "there is no such port",
        where=wanted,
        expected=f"one of {', '.join(sorted(seen))}" if seen else "a port, and there is none",
        remedy="Plug the adapter in; dmesg shows the name it gets. "
        "A port on the board itself must be switched on: raspi-config, Serial Port.",
    )


def _fits(entry: PortEntry, usb: Usb) -> bool:
    is_kind = (entry.vid, entry.pid) == (usb.vid, usb.pid)
    return is_kind and usb.serial in (None, entry.serial_number)


def _name(usb: Usb) -> str:
    return f"usb {usb.vid:04x}:{usb.pid:04x}" + (f" {usb.serial}" if usb.serial else "")


def _described(entry: PortEntry) -> str:
    if entry.vid is None or entry.pid is None:
        return entry.device
    usb = Usb(vid=entry.vid, pid=entry.pid, serial=entry.serial_number)
    return f"{entry.device} ({_name(usb)})"


def _group(path: str) -> str:
    """Return the group that may open a port."""
    try:
        name = grp.getgrgid(Path(path).stat().st_gid).gr_name
    except (OSError, KeyError):
        return _USUAL_GROUP
    return _USUAL_GROUP if name == "root" else name
