"""The process that owns the pins, and outlives the device for the moment it takes.

It reads orders from a pipe. When the pipe closes, because the device closed it, died
or was killed, when no order comes for too long, or when it is told to terminate, the
pins go to their safe state. A process that owned its pins itself could not promise
that: nothing of it runs after SIGKILL.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import msgspec

from edge_runtime.child import replies
from edge_runtime.sinks.gpio.config import GpioConfig, PinConfig
from edge_runtime.sinks.gpio.levels import Levels, Order

if TYPE_CHECKING:
    from gpiozero import OutputDevice

__all__ = ["Guardian", "Reply", "main"]

_READ_BYTES = 65536


class Reply(msgspec.Struct, frozen=True):
    """What the guardian says once: empty if it owns the pins.

    Attributes:
        what: What is wrong.
        remedy: What to do about it.
    """

    what: str = ""
    remedy: str = ""


class Guardian:
    """Owns the pins and obeys the orders of one pipe.

    Args:
        config: Which pins.
        orders: Descriptor of the pipe; one order a line.
        told: Descriptor that becomes readable when the process should end.
    """

    def __init__(self, config: GpioConfig, orders: int, told: int) -> None:
        self._pins = [_claimed(pin) for pin in config.pins]
        self._safe = tuple(pin.safe == "on" for pin in config.pins)
        self._shown = self._safe
        self._levels = Levels(config.pins, config.safe_after_s)
        self._orders = orders
        self._told = told
        self._pending = b""
        self._decoder = msgspec.json.Decoder(Order)

    def run(self) -> None:
        """Obey until the pipe closes; whatever happens, leave the pins in their safe state."""
        try:
            while self._step():
                pass
        finally:
            self._make_safe()

    def _step(self) -> bool:
        """Wait for what comes next; False once the pipe is closed."""
        now_ns = time.monotonic_ns()
        self._show(self._levels.at(now_ns))
        next_ns = self._levels.next_ns(now_ns)
        # The kernel may wake us just before the instant; one millisecond more is none too many.
        wait_s = None if next_ns is None else (next_ns - now_ns) / 1e9 + 0.001
        ready, _, _ = select.select([self._orders, self._told], [], [], wait_s)
        if self._told in ready:
            # The device may still hang, or flush: the pins are safe from now on.
            os.read(self._told, _READ_BYTES)
            self._show(self._safe)
            return _is_drained(self._orders)
        return self._orders not in ready or self._obey()

    def _obey(self) -> bool:
        block = os.read(self._orders, _READ_BYTES)
        now_ns = time.monotonic_ns()
        *lines, self._pending = (self._pending + block).split(b"\n")
        for line in lines:
            self._levels.obey(self._decoder.decode(line), now_ns)
        return bool(block)

    def _show(self, levels: tuple[bool, ...]) -> None:
        for pin, is_on, was_on in zip(self._pins, levels, self._shown, strict=True):
            if is_on != was_on:
                pin.value = is_on
        self._shown = levels

    def _make_safe(self) -> None:
        """Set every pin, also those after one that fails."""
        for pin, is_on in zip(self._pins, self._safe, strict=True):
            with suppress(Exception):
                pin.value = is_on


def _claimed(pin: PinConfig) -> OutputDevice:
    from gpiozero import OutputDevice

    is_on = pin.safe == "on"
    return OutputDevice(pin.pin, active_high=pin.active_high, initial_value=is_on)


def _is_drained(orders: int) -> bool:
    """Read orders without obeying until the pipe closes; always False."""
    while os.read(orders, _READ_BYTES):
        pass
    return False


def _told() -> int:
    """Return a descriptor that becomes readable on SIGTERM and SIGHUP."""
    near, far = os.pipe()
    os.set_blocking(far, False)
    signal.set_wakeup_fd(far)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    # The terminal's Ctrl-C means the device, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return near


def _refusal(error: Exception) -> Reply:
    """Say what to do about an error of gpiozero or of the library below it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = f"{type(error).__name__}: {error}"
    for names, remedy in _REMEDIES:
        if names & kinds or any(name in text for name in names):
            return Reply(text, remedy)
    return Reply(text, "Look up the message in the documentation of gpiozero.")


_REMEDIES = (
    ({"PinUnknownPi"}, "gpiozero knows Raspberry Pi boards; on others leave the sink out."),
    ({"BadPinFactory"}, 'pip install "edge-runtime[gpio]", or correct factory.'),
    ({"PinInvalidPin"}, "Correct pin: a Broadcom number such as 17, or a name such as BOARD11."),
    ({"GPIO busy", "GPIOPinInUse"}, "Another program has this pin: gpioinfo shows which."),
    (
        {"PermissionError", "can not open gpiochip"},
        "sudo usermod -aG gpio USER, then log in again; check that /dev/gpiochip0 is there.",
    ),
)


def _first_line(descriptor: int) -> bytes:
    """Return the first line of a pipe, read byte by byte to leave the rest in it."""
    line = b""
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        line += byte
    return line


def main() -> NoReturn:
    """Own the pins that the first line on standard input names, until it closes."""
    answers, told = replies(), _told()
    config = msgspec.json.decode(_first_line(0), type=GpioConfig)
    try:
        guardian = Guardian(config, 0, told)
    except Exception as error:
        answers.write(msgspec.json.encode(_refusal(error)) + b"\n")
        _end(1)
    answers.write(msgspec.json.encode(Reply()) + b"\n")
    try:
        guardian.run()
    except Exception as error:
        sys.stderr.write(f"gpio guardian: {error!r}\n")
        _end(1)
    _end(0)


def _end(code: int) -> NoReturn:
    # gpiozero would turn its pins into inputs on the way out: no state that anybody chose.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
