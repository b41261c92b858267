"""One part on an I2C bus of Linux: its registers, and what each failure means.

Every source opens the bus for itself; the kernel keeps the transfers of several
apart. The kernel's contract is in its documentation, ``i2c/dev-interface`` and
``i2c/fault-codes``.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from edge_runtime.errors import MissingExtra, SourceError
from edge_runtime.spec import StreamSpec

__all__ = [
    "NO_ACKNOWLEDGE",
    "Adapter",
    "BusConfig",
    "Connect",
    "Part",
    "bus_speed_hz",
    "transfer_s",
]

NO_ACKNOWLEDGE = 121
"""EREMOTEIO, with which Linux says that no part acknowledges; other systems lack the name."""

_STANDARD_MODE_HZ = 100_000
_BITS_PER_BYTE = 9  # each is acknowledged: I2C specification UM10204, section 3.1.5
_ADDRESSING_BYTES = 3  # address to write, register, address to read


class BusConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a part is, and what its channels are called.

    Attributes:
        bus: Number N of ``/dev/i2c-N``.
        bus_hz: Clock of the bus; None takes what the device tree says, else 100 kHz.
        channels: The part's name of a channel that the model calls otherwise.
    """

    bus: Annotated[int, Meta(ge=0, le=255)] = 1
    bus_hz: Annotated[int, Meta(ge=10_000, le=1_000_000)] | None = None
    channels: dict[str, str] = {}

    def as_the_part(self, need: StreamSpec) -> StreamSpec:
        """Return ``need`` with every channel under the part's own name."""
        renamed = tuple(
            msgspec.structs.replace(one, name=self.channels.get(one.name, one.name))
            for one in need.channels
        )
        return msgspec.structs.replace(need, channels=renamed)

    @property
    def speed_hz(self) -> int:
        """Clock of the bus, as configured or as found."""
        return self.bus_hz or bus_speed_hz(self.bus)


class Adapter(Protocol):
    """What is used of ``smbus2.SMBus``; a stand-in offers the same."""

    def i2c_rdwr(self, *i2c_msgs: Any) -> None:
        """Carry out messages as one transfer, with repeated starts."""
        ...

    def read_byte_data(self, i2c_addr: int, register: int) -> int:
        """Read one register; refused while a driver of the kernel holds the address."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


Connect = Callable[[int], Adapter]
"""Opens the bus of that number."""


class Part:
    """The registers of one part; used by one thread, closed from any.

    Whoever reads holds `lock`, so that the file is never closed under a transfer;
    ``closed`` ends its waits.

    Args:
        kind: Name of the source, for messages.
        bus: Number of the bus.
        address: Seven bits.
        connect: Opens the bus; smbus2 by default.

    Raises:
        MissingExtra: smbus2 is not installed.
    """

    def __init__(self, kind: str, bus: int, address: int, connect: Connect | None = None) -> None:
        smbus2 = _smbus2(kind)
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self._messages: Any = smbus2.i2c_msg
        self._connect: Connect = connect or smbus2.SMBus
        self._kind, self._bus, self._address = kind, bus, address
        self._adapter: Adapter | None = None

    @property
    def is_open(self) -> bool:
        """Whether the bus is open and nobody has asked to close it."""
        return self._adapter is not None and not self.closed.is_set()

    def open(self, id_register: int) -> int:
        """Open the bus and return what the part says it is.

        Raises:
            SourceError: There is no bus, no right to use it, or nothing answers.
        """
        self.release()
        self.closed.clear()
        try:
            self._adapter = self._connect(self._bus)
            # Unlike plain transfers this is refused while a kernel driver holds the part.
            return self._adapter.read_byte_data(self._address, id_register)
        except OSError as error:
            raise self._failure(error) from error

    def read(self, register: int, count: int) -> bytes:
        """Read ``count`` bytes from ``register`` on, in one transfer.

        Raises:
            SourceError: The transfer failed.
        """
        # One read, and it the last message: more than that the Raspberry Pi's adapter refuses.
        answer = self._messages.read(self._address, count)
        self._transfer(self._messages.write(self._address, [register]), answer)
        return bytes(answer)

    def write(self, register: int, value: int) -> None:
        """Set one register.

        Raises:
            SourceError: The transfer failed.
        """
        self._transfer(self._messages.write(self._address, [register, value]))

    def close(self) -> None:
        """End the waits of whoever reads, then close; safe to call twice and from any thread."""
        self.closed.set()
        with self.lock:
            self.release()

    def release(self) -> None:
        """Close the bus; for the thread that holds `lock`."""
        if self._adapter is not None:
            self._adapter.close()
            self._adapter = None

    def error(self, what: str, *, expected: str = "", remedy: str) -> SourceError:
        """Say what is wrong with this part."""
        return SourceError(what, where=self.where, expected=expected, remedy=remedy)

    @property
    def where(self) -> str:
        """Name of the source and place of the part, for messages."""
        return f"{self._kind} at address 0x{self._address:02x} of {self._node}"

    @property
    def _node(self) -> str:
        return f"/dev/i2c-{self._bus}"

    def _transfer(self, *messages: object) -> None:
        if self._adapter is None:
            raise self.error("the bus is not open", remedy="Open the source first.")
        try:
            self._adapter.i2c_rdwr(*messages)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> SourceError:
        meaning = _MEANINGS.get(error.errno or 0)
        if meaning is None:
            reason = error.strerror or str(error)
            return self.error(
                f"the transfer failed ({reason})", remedy=_WIRING.format(bus=self._bus)
            )
        what = meaning.what.format(node=self._node, address=f"0x{self._address:02x}")
        return self.error(what, remedy=meaning.remedy.format(bus=self._bus, present=_present()))


def bus_speed_hz(bus: int, sys: Path = Path("/sys")) -> int:
    """Return the clock of a bus as the device tree gives it; 100 kHz where it is silent.

    Source: Linux device tree bindings, ``i2c-controller``: ``clock-frequency``, one
    big-endian cell.

    Args:
        bus: Number of the bus.
        sys: Where sysfs is.
    """
    file = sys / f"bus/i2c/devices/i2c-{bus}/of_node/clock-frequency"
    try:
        return int.from_bytes(file.read_bytes()[:4], "big") or _STANDARD_MODE_HZ
    except OSError:
        return _STANDARD_MODE_HZ


def transfer_s(count: int, speed_hz: int) -> float:
    """Return how long the bus is busy while ``count`` bytes are read from a register on."""
    return (_ADDRESSING_BYTES + count) * _BITS_PER_BYTE / speed_hz


class _Meaning(NamedTuple):
    what: str
    remedy: str


_WIRING = "Check power, ground, SDA and SCL; `i2cdetect -y {bus}` lists the addresses that answer."
_NO_ANSWER = _Meaning("no part answers at {address}", _WIRING)
_NO_RIGHT = _Meaning(
    "{node} may not be opened by this user",
    "sudo usermod -aG i2c $USER, then log in again.",
)
_NO_BUS = _Meaning(
    "{node} does not exist",
    "Switch the bus on (Raspberry Pi: sudo raspi-config nonint do_i2c 0), then "
    "sudo modprobe i2c-dev. Buses there are: {present}.",
)
_NO_I2C = _Meaning(
    "{node} is no adapter for plain I2C transfers",
    "Choose another bus. Buses there are: {present}.",
)
_STUCK = _Meaning(
    "the bus is stuck: something holds SDA or SCL low",
    "Switch the power of all parts on this bus off and on; check the pull-ups to 3.3 V, "
    "or use a shorter cable or a slower clock.",
)
_MEANINGS = {
    errno.ENOENT: _NO_BUS,
    errno.ENODEV: _NO_BUS,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.ENXIO: _NO_ANSWER,
    NO_ACKNOWLEDGE: _NO_ANSWER,
    errno.ETIMEDOUT: _STUCK,
    errno.ENOTTY: _NO_I2C,
    errno.EOPNOTSUPP: _NO_I2C,
    errno.EBUSY: _Meaning(
        "a driver of the kernel holds the part",
        "Remove its overlay from /boot/firmware/config.txt, or unbind the driver.",
    ),
}


def _present() -> str:
    return ", ".join(sorted(str(path) for path in Path("/dev").glob("i2c-*"))) or "none"


def _smbus2(kind: str) -> Any:
    try:
        import smbus2
    except ImportError as error:
        raise MissingExtra.of(f'source "{kind}"', "smbus2", "i2c") from error
    return smbus2
