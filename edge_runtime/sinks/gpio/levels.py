"""Which pins are on at an instant: pure, so that every case can be tested."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge_runtime.sinks.gpio.config import PinConfig

__all__ = ["Levels", "Order"]


class Order(msgspec.Struct, frozen=True, array_like=True):
    """What the device wants of its pins; any order is a sign of life.

    Attributes:
        wanted: Whether each pin's label lasts.
        pulsed: Whether each pin's label has just started.
    """

    wanted: tuple[bool, ...]
    pulsed: tuple[bool, ...]


class Levels:
    """Follows orders, keeps minimum times, and falls back to the safe state.

    The safe state holds before the first order, and after ``safe_after_s`` without
    one. Whoever is heard again goes on where it was.

    Args:
        pins: What each pin does.
        safe_after_s: Longest silence.
    """

    def __init__(self, pins: Sequence[PinConfig], safe_after_s: float) -> None:
        self._pins = pins
        self._safe = tuple(pin.safe == "on" for pin in pins)
        self._limit_ns = round(safe_after_s * 1e9)
        self._wanted = [False] * len(pins)
        # Until when a pin stays on although its label does not last.
        self._held_ns = [0] * len(pins)
        self._heard_ns: int | None = None

    def obey(self, order: Order, now_ns: int) -> None:
        """Take an order."""
        self._heard_ns = now_ns
        for i, pin in enumerate(self._pins):
            if pin.pulse_s is not None:
                if order.pulsed[i]:
                    self._held_ns[i] = now_ns + round(pin.pulse_s * 1e9)
                continue
            if order.wanted[i] and not self._wanted[i]:
                self._held_ns[i] = now_ns + round(pin.min_on_s * 1e9)
            self._wanted[i] = order.wanted[i]

    def at(self, now_ns: int) -> tuple[bool, ...]:
        """Return whether each pin is on."""
        if self._is_silent(now_ns):
            return self._safe
        return tuple(
            wanted or now_ns < held_ns
            for wanted, held_ns in zip(self._wanted, self._held_ns, strict=True)
        )

    def next_ns(self, now_ns: int) -> int | None:
        """Return when a pin may change without an order; None if none will."""
        if self._heard_ns is None or self._is_silent(now_ns):
            return None
        held_ns = [held_ns for held_ns in self._held_ns if held_ns > now_ns]
        return min([self._heard_ns + self._limit_ns, *held_ns])

    def _is_silent(self, now_ns: int) -> bool:
        return self._heard_ns is None or now_ns - self._heard_ns >= self._limit_ns
