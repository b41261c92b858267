"""What a person may ask a running device from afar: answers to ``dn/cmd``."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from edge_runtime.clock import clock_quality
from edge_runtime.errors import ConfigError, WireError
from edge_runtime.ports import Clock
from edge_runtime.sync.messages import Answer, Command, encode
from edge_runtime.types import ClockQuality

__all__ = ["Commands", "Do", "set_log_level"]

log = logging.getLogger(__name__)

Do = Callable[[Mapping[str, str]], Mapping[str, Any]]
"""Does one command: its options in, what it found out back; a ConfigError refuses them."""

_REMEMBERED = 64
_LEVELS = ("debug", "info", "warning", "error")


class Commands:
    """Does each command once, and gives the same answer when it comes again.

    The newest 64 answers since the start are remembered. A deadline is judged only
    where something keeps the clock right: sessions start clean, so that a command
    never waits at a broker for a device that is away.

    Thread: the network thread.

    Args:
        device: Device id.
        table: What it can do, by name.
        clock: Judges deadlines.
        quality: Tells how far that clock may be trusted.
    """

    def __init__(
        self,
        device: str,
        table: Mapping[str, Do],
        clock: Clock,
        *,
        quality: Callable[[], ClockQuality] = clock_quality,
    ) -> None:
        self._device = device
        self._table = table
        self._clock = clock
        self._quality = quality
        self._answered: OrderedDict[str, bytes] = OrderedDict()

    def answer(self, command: Command) -> bytes:
        """Return the payload of the answer to one command."""
        if command.id not in self._answered:
            self._answered[command.id] = self._encoded(self._done(command))
            if len(self._answered) > _REMEMBERED:
                self._answered.popitem(last=False)
        return self._answered[command.id]

    def _done(self, command: Command) -> Answer:
        do = self._table.get(command.name)
        if do is None:
            names = ", ".join(sorted(self._table))
            return self._refused(command, f"no command {command.name!r}; there are {names}")
        if self._is_late(command):
            return self._not_done(command, "expired", "it came after its deadline")
        try:
            result = dict(do(command.options))
        except ConfigError as error:
            return self._refused(command, str(error))
        except Exception as error:
            log.exception("command.failed", extra={"command": command.name})
            return self._not_done(command, "failed", f"{type(error).__name__}: {error}")
        return Answer(command.id, self._device, "done", result, made_ns=self._clock.now_ns())

    def _is_late(self, command: Command) -> bool:
        is_over = 0 < command.deadline_ns < self._clock.now_ns()
        return is_over and self._quality() != "unsynced"

    def _refused(self, command: Command, reason: str) -> Answer:
        return self._not_done(command, "refused", reason)

    def _not_done(self, command: Command, state: Any, reason: str) -> Answer:
        return Answer(
            command.id, self._device, state, reason=reason[:1024], made_ns=self._clock.now_ns()
        )

    def _encoded(self, answer: Answer) -> bytes:
        try:
            return encode(answer)
        except WireError as error:
            short = Answer(answer.id, answer.device, "failed", reason=str(error)[:1024])
            return encode(short)


def set_log_level(options: Mapping[str, str]) -> Mapping[str, Any]:
    """Log from ``level`` on, of ``logger`` or everywhere; the answer says what it was before.

    Raises:
        ConfigError: There is no such level.
    """
    level = options.get("level", "")
    if level not in _LEVELS:
        raise ConfigError(f"level is {level!r}", expected=f"one of {', '.join(_LEVELS)}")
    logger = logging.getLogger(options.get("logger"))
    before = logging.getLevelName(logger.getEffectiveLevel()).lower()
    logger.setLevel(level.upper())
    return {"level": level, "before": before}
