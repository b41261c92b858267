"""Decisions that switch pins, through a guardian that keeps them safe."""

from __future__ import annotations

import importlib.util
import logging

from edge_runtime.backoff import Backoff
from edge_runtime.clock import SystemClock
from edge_runtime.errors import MissingExtra, Rejected, Transient
from edge_runtime.ports import Clock
from edge_runtime.sinks.gpio.config import GpioConfig, PinConfig
from edge_runtime.sinks.gpio.handle import Handle
from edge_runtime.sinks.gpio.levels import Order
from edge_runtime.types import Decision, Output

__all__ = ["GpioSink"]

log = logging.getLogger(__name__)

_BACKOFF_S = (1.0, 60.0)
# So many signs of life fit into the longest silence.
_SIGNS = 4

_Lasting = set[tuple[str, str]]


class GpioSink:
    """Switches pins on while a label lasts, or for a pulse when it starts.

    Pins are in their safe state from `open` on until the first result, after `close`,
    when no result comes for ``safe_after_s``, and when this process ends in whatever
    way, SIGKILL included: a guardian process owns them. After a start of the device a
    label that lasted before is only known again when it starts anew.

    Delivery: an order is on its way when `write` returns. Thread: one.

    Args:
        config: Options.
        clock: Paces signs of life and restarts of the guardian.
        backoff: Paces restarts of the guardian.

    Attributes:
        is_of_one_device: A pin can not show labels of many devices.
    """

    Config = GpioConfig
    is_of_one_device = True

    def __init__(
        self, config: GpioConfig, *, clock: Clock | None = None, backoff: Backoff | None = None
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._backoff = backoff or Backoff(*_BACKOFF_S)
        self._lasting: list[_Lasting] = [set() for _ in config.pins]
        self._is_open = False
        self._guardian: Handle | None = None
        self._retry_ns = 0
        self._sent: Order | None = None
        self._sent_ns = 0

    @property
    def guardian_pid(self) -> int | None:
        """Process id of the guardian; None without one."""
        return self._guardian.pid if self._guardian else None

    def open(self, device: str, *, epoch: int = 0) -> None:  # noqa: ARG002
        """Start the guardian, which claims the pins in their safe state.

        Raises:
            MissingExtra: gpiozero is not installed.
            Rejected: The pins cannot be claimed.
        """
        if importlib.util.find_spec("gpiozero") is None:
            raise MissingExtra.of("sink 'gpio'", "gpiozero", "gpio")
        for lasting in self._lasting:
            lasting.clear()
        self._start()
        self._is_open = True

    def write(self, output: Output) -> None:
        """Tell the guardian what the decisions of one block want of the pins.

        Raises:
            Transient: The guardian is gone; it is started again by a later write.
            Rejected: The sink is not open.
        """
        if not self._is_open:
            raise Rejected(
                "is not open",
                where="gpio",
                expected="open before write",
                remedy="Open the sink first.",
            )
        order = self._order(output)
        guardian = self._guardian or self._started_again()
        if guardian.is_gone:
            raise self._lost(guardian, "it has ended")
        if self._is_due(order):
            self._send(guardian, order)

    def close(self) -> None:
        """Let the guardian make the pins safe and end; safe to call twice."""
        self._is_open = False
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            guardian.stop()

    # --- decisions ------------------------------------------------------------------

    def _order(self, output: Output) -> Order:
        pins = list(zip(self._config.pins, self._lasting, strict=True))
        pulsed = [False] * len(pins)
        for decision in output.decisions:
            for i, (pin, lasting) in enumerate(pins):
                if _is_about(decision, pin):
                    pulsed[i] = _note(decision, lasting, output.started) or pulsed[i]
        return Order(tuple(map(bool, self._lasting)), tuple(pulsed))

    def _is_due(self, order: Order) -> bool:
        """Whether an order says something new, or a sign of life is due."""
        if self._sent is None or any(order.pulsed) or order.wanted != self._sent.wanted:
            return True
        silence_ns = self._clock.monotonic_ns() - self._sent_ns
        return silence_ns >= self._config.safe_after_s / _SIGNS * 1e9

    # --- guardian -------------------------------------------------------------------

    def _start(self) -> Handle:
        self._sent = None
        self._guardian = Handle(self._config)
        return self._guardian

    def _started_again(self) -> Handle:
        if self._clock.monotonic_ns() < self._retry_ns:
            raise _gone("it is started again soon")
        try:
            guardian = self._start()
        except Rejected as error:
            self._wait()
            raise _gone(error.what) from error
        log.info("gpio.guardian_started", extra={"pid": guardian.pid})
        return guardian

    def _send(self, guardian: Handle, order: Order) -> None:
        try:
            guardian.send(order)
        except OSError as error:
            # A pipe that is full belongs to a guardian that hangs: as good as none.
            raise self._lost(guardian, f"it takes no orders: {error}") from error
        self._sent, self._sent_ns = order, self._clock.monotonic_ns()
        self._backoff.reset()

    def _lost(self, guardian: Handle, why: str) -> Transient:
        """Give a guardian up: what it owned is safe again once the next one starts."""
        log.error("gpio.guardian_lost", extra={"pid": guardian.pid, "why": why})
        self._guardian = None
        guardian.kill()
        self._wait()
        return _gone(why)

    def _wait(self) -> None:
        self._retry_ns = self._clock.monotonic_ns() + round(self._backoff.next_s() * 1e9)


def _is_about(decision: Decision, pin: PinConfig) -> bool:
    return decision.label == pin.label and pin.stream in (None, decision.stream)


def _note(decision: Decision, lasting: _Lasting, started: tuple[str, ...] | None) -> bool:
    """Note who says that a label lasts; return whether it starts here for the first time.

    Args:
        decision: What was decided, perhaps about the past.
        lasting: Who says so.
        started: What stands after decisions about the past.
    """
    who = (decision.stream, decision.model)
    is_start = decision.edge == "start"
    lasts = is_start if started is None else decision.label in started
    if lasts:
        lasting.add(who)
    else:
        lasting.discard(who)
    return is_start and decision.revision == 0


def _gone(why: str) -> Transient:
    return Transient(
        f"the guardian of the pins is gone ({why})",
        where="gpio",
        expected="a process that owns them",
        remedy="See gpio.guardian_lost in the log; pull resistors keep pins safe meanwhile.",
    )
