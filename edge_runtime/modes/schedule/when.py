"""When something is planned: instants that depend on the words alone, never on a start."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError, MissingExtra
from edge_runtime.sources.instants import Instant, instant_ns

if TYPE_CHECKING:
    from cronsim import CronSim

__all__ = ["When"]

_NS_PER_S = 1_000_000_000


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of `every_s`, `cron` and `at`, and what happens to instants that were missed.

    Attributes:
        every_s: Seconds between two instants, counted from ``start``.
        start: An instant of ``every_s``; 1970 by default, so that 86400 is midnight UTC.
        cron: Five words as in crontab(5): minute, hour, day, month, weekday.
        timezone: Whose wall clock ``cron`` means, by IANA name.
        at: The only instant.
        catch_up: After a downtime the ``latest`` of the missed instants is made up for,
            ``each`` of them (10,000 at most), or ``none`` that is more than a minute late.
    """

    every_s: Annotated[float, Meta(ge=1)] | None = None
    start: Instant | None = None
    cron: str | None = None
    timezone: str = "UTC"
    at: Instant | None = None
    catch_up: Literal["latest", "each", "none"] = "latest"

    def __post_init__(self) -> None:
        given = [key for key in ("every_s", "cron", "at") if getattr(self, key) is not None]
        if len(given) != 1 or (self.start is not None and self.every_s is None):
            raise ConfigError(
                f"when has {', '.join(given) or 'nothing'}"
                + (" and start" if self.start is not None else ""),
                expected="one of every_s (with or without start), cron, at",
                remedy='Write for instance {every_s: 3600}, or {cron: "30 2 * * *"}.',
            )
        if self.cron is not None:
            self._simulated(0)

    def after(self, time_ns: int) -> Iterator[int]:
        """Yield every planned instant later than this one, in order, ns since the epoch."""
        if self.every_s is not None:
            yield from self._every(round(self.every_s * _NS_PER_S), time_ns)
        elif self.cron is not None:
            yield from (instant_ns(instant) for instant in self._simulated(time_ns))
        elif self.at is not None and instant_ns(self.at) > time_ns:
            yield instant_ns(self.at)

    def between(self, after_ns: int, last_ns: int) -> Iterator[int]:
        """Yield every planned instant later than one and not later than the other."""
        return takewhile(lambda instant: instant <= last_ns, self.after(after_ns))

    def _every(self, step_ns: int, time_ns: int) -> Iterator[int]:
        anchor_ns = 0 if self.start is None else instant_ns(self.start)
        # Nothing is planned before the anchor, if one is given.
        steps = (time_ns - anchor_ns) // step_ns + 1
        instant = anchor_ns + (max(0, steps) if self.start is not None else steps) * step_ns
        while True:
            yield instant
            instant += step_ns

    def _simulated(self, time_ns: int) -> CronSim:
        try:
            from cronsim import CronSim, CronSimError
        except ImportError as error:
            raise MissingExtra.of("cron words", "cronsim", "batch") from error
        try:
            zone = ZoneInfo(self.timezone)
        except (KeyError, OSError, ValueError) as error:
            raise ConfigError(
                f"timezone is {self.timezone!r}",
                expected="a name such as Europe/Berlin, or UTC",
                remedy='Correct it; on a system without time zones: pip install "tzdata".',
            ) from error
        try:
            return CronSim(
                str(self.cron), datetime.fromtimestamp(time_ns // _NS_PER_S, UTC).astimezone(zone)
            )
        except CronSimError as error:
            raise ConfigError(
                f"cron is {self.cron!r} ({error})",
                expected="five words: minute hour day month weekday",
                remedy='Write for instance "30 2 * * 1-5": 2:30 on weekdays.',
            ) from error
