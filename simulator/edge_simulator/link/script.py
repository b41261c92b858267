"""Faults of a link by plan and chance, one a line.

::

    at 10s cut for 5s
    every 30s half_open for 2s
    by chance 4 a minute reset
    at 1min throttle 10kB/s for 20s
    delay 200ms

What stands before the fault says when: ``at`` a time from the start, ``every`` so often,
``by chance`` at intervals that are exponential on average, or nothing for always.
Faults may overlap: the line is cut as long as any cut lasts, and of several delays,
bandwidths and chances the worst counts.
"""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from edge_runtime.config import load_yaml
from edge_runtime.errors import ConfigError
from edge_simulator.fleet.spans import span_ns
from edge_simulator.link.flow import Chances, Unit

__all__ = [
    "CHANCES",
    "Breakable",
    "LinkFault",
    "LinkScript",
    "Player",
    "bandwidth_of",
    "check_unit",
    "fault_of",
    "load_script",
    "seconds_of",
]

CHANCES = Chances.__struct_fields__
"""Faults that hit single units, with a share from 0 to 1."""

_KINDS = ("cut", "half_open", "reset", "delay", "jitter", "throttle", *CHANCES)
_WHEN = r"(?P<when>at|every)\s+(?P<span>\S+)\s+|by\s+chance\s+(?P<rate>\S+)\s+an?\s+(?P<per>\w+)\s+"
_LINE = re.compile(
    rf"(?:{_WHEN})?(?P<kind>\w+)(?:\s+(?!for\b)(?P<value>\S+))?(?:\s+for\s+(?P<lasts>\S+))?"
)
_PERIODS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_BANDWIDTH = re.compile(r"(\d+(?:\.\d+)?)\s*(k|M)?B(?:/s)?")
_FACTORS = {None: 1.0, "k": 1e3, "M": 1e6}
_HELP = "a line such as: at 10s cut for 5s"


When = Literal["at", "every", "chance", "always"]


class LinkFault(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a script.

    Attributes:
        kind: What goes wrong.
        value: Seconds, bytes a second, or a share; None for those that need none.
        when: ``at`` and ``every`` go by time, ``chance`` by rate, ``always`` is from the start.
        at_s: First time, or mean interval, s.
        lasts_s: How long; None for a moment, or to the end.
    """

    kind: str
    value: float | None = None
    when: When = "always"
    at_s: float = 0.0
    lasts_s: float | None = None


class LinkScript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A script's YAML file.

    Attributes:
        faults: Lines.
        unit: What ``drop``, ``duplicate``, ``reorder``, ``truncate`` and ``corrupt`` hit.
        schema: Version of the file's format.
    """

    faults: Annotated[tuple[str, ...], Meta(min_length=1)]
    unit: Unit = "bytes"
    schema: Literal[1] = 1


class Breakable(Protocol):
    """What a script is played on: a `LinkProxy`.

    Attributes:
        delay_s: One way, for everything.
        jitter_s: Most of what comes on top.
        bytes_per_s: Of each direction; None for no limit.
        chances: What happens to single units.
    """

    delay_s: float
    jitter_s: float
    bytes_per_s: float | None
    chances: Chances

    def cut(self) -> None:
        """Reset every connection, and let none come about."""
        ...

    def half_open(self) -> None:
        """Swallow everything."""
        ...

    def mend(self) -> None:
        """Carry everything again."""
        ...

    def reset(self) -> None:
        """Reset every connection once."""
        ...


# --- reading --------------------------------------------------------------------------


def load_script(path: Path) -> tuple[tuple[LinkFault, ...], Unit]:
    """Read a script's YAML file.

    Raises:
        ConfigError: It cannot be read, or a line says nothing that is known.
    """
    script = load_yaml(path, LinkScript)
    faults = tuple(
        fault_of(line, f"{path}: faults.{number}") for number, line in enumerate(script.faults)
    )
    return faults, script.unit


def check_unit(faults: Iterable[LinkFault], unit: Unit, where: str = "") -> None:
    """Check that faults can happen to a unit.

    Raises:
        ConfigError: Only a packet can lose its end.
    """
    if unit == "bytes" and any(fault.kind == "truncate" for fault in faults):
        raise ConfigError(
            "truncate would hit nothing: the end of a packet goes, and bytes are hit here",
            where=where or "link fault",
            expected="packets as what is hit",
            remedy="Say --packets on the command line, or unit: packets in a script.",
        )


def fault_of(line: str, where: str = "") -> LinkFault:
    """Read one line of a script.

    Raises:
        ConfigError: It does not say when and what; the message shows the line.
    """
    found = _LINE.fullmatch(line.strip())
    if found is None or found["kind"] not in _KINDS:
        raise _unclear(line, where, f"one of {', '.join(_KINDS)}")
    fault = LinkFault(
        kind=found["kind"],
        value=_value(found["kind"], found["value"], line, where),
        when=_when(found),
        at_s=_at_s(found, line, where),
        lasts_s=None if found["lasts"] is None else seconds_of(found["lasts"], line, where),
    )
    _check(fault, line, where)
    return fault


def seconds_of(text: str, line: str = "", where: str = "") -> float:
    """Read a span such as ``200ms`` or ``1min``; a bare number is seconds.

    Raises:
        ConfigError: It is none.
    """
    length_ns = span_ns(text if text[-1:].isalpha() else f"{text}s")
    if length_ns is None:
        raise _unclear(line or text, where, f"a span such as 5s or 200ms, not {text!r}")
    return length_ns / 1e9


def bandwidth_of(text: str, line: str = "", where: str = "") -> float:
    """Read a bandwidth such as ``10kB/s``; a bare number is bytes a second.

    Raises:
        ConfigError: It is none.
    """
    found = _BANDWIDTH.fullmatch(text if text.endswith(("B", "/s")) else f"{text}B")
    if found is None or float(found[1]) <= 0:
        raise _unclear(line or text, where, f"a bandwidth such as 10kB/s, not {text!r}")
    return float(found[1]) * _FACTORS[found[2]]


def _when(found: re.Match[str]) -> When:
    whens: dict[str | None, When] = {"at": "at", "every": "every", None: "always"}
    return "chance" if found["rate"] else whens[found["when"]]


def _at_s(found: re.Match[str], line: str, where: str) -> float:
    if found["rate"] is None:
        return 0.0 if found["span"] is None else seconds_of(found["span"], line, where)
    period_s = _PERIODS_S.get(found["per"])
    if period_s is None:
        raise _unclear(line, where, f"a second, minute or hour, not {found['per']!r}")
    return period_s / _number(found["rate"], line, where)


def _value(kind: str, text: str | None, line: str, where: str) -> float | None:
    if kind in ("cut", "half_open", "reset"):
        if text is not None:
            raise _unclear(line, where, f"no value behind {kind}")
        return None
    if text is None:
        raise _unclear(line, where, f"a value behind {kind}")
    if kind == "throttle":
        return bandwidth_of(text, line, where)
    if kind in CHANCES:
        return _share(text, line, where)
    return seconds_of(text, line, where)


def _share(text: str, line: str, where: str) -> float:
    share = _number(text, line, where)
    if share > 1:
        raise _unclear(line, where, f"a share from 0 to 1, not {text!r}")
    return share


def _number(text: str, line: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise _unclear(line, where, f"a number above 0, not {text!r}")
    return number


def _check(fault: LinkFault, line: str, where: str) -> None:
    """Refuse what cannot be played."""
    if fault.kind == "reset" and (fault.when == "always" or fault.lasts_s is not None):
        raise _unclear(line, where, "a reset at a time, which is over at once")
    if fault.when == "always" and fault.lasts_s is not None:
        raise _unclear(line, where, "at, every or by chance before a fault that ends")
    if fault.when in ("at", "always") or fault.kind == "reset":
        if fault.when == "every" and fault.at_s <= 0:
            raise _unclear(line, where, "an interval above 0")
        return
    if fault.lasts_s is None:
        raise _unclear(line, where, "for how long: for 5s")
    if fault.when == "every" and fault.lasts_s >= fault.at_s:
        raise _unclear(line, where, "a fault that ends before it comes again")


def _unclear(line: str, where: str, expected: str) -> ConfigError:
    return ConfigError(
        f"the fault {line!r} is not understood",
        where=where or "link fault",
        expected=expected,
        remedy=f"Write {_HELP}.",
    )


# --- playing --------------------------------------------------------------------------


class _Act(msgspec.Struct, frozen=True, order=True):
    """A fault begins or ends."""

    at_s: float
    number: int
    is_begin: bool


class Player:
    """Lets the faults of a script happen to a link as time passes; used by one thread.

    Args:
        link: Broken by nobody else.
        faults: Lines of the script.
        seed: Decides what happens by chance, with each line's place alone.
    """

    def __init__(self, link: Breakable, faults: Sequence[LinkFault], seed: str | int = 0) -> None:
        self._link = link
        self._faults = faults
        self._acts: Iterator[_Act] = heapq.merge(
            *(_acts(i, fault, seed) for i, fault in enumerate(faults))
        )
        self._next = next(self._acts, None)
        self._active: list[LinkFault] = []
        self._mode = "up"

    @property
    def active(self) -> tuple[str, ...]:
        """What is wrong at present."""
        return tuple(fault.kind for fault in self._active)

    @property
    def next_s(self) -> float | None:
        """When something happens next; None for never."""
        return None if self._next is None else self._next.at_s

    def advance(self, elapsed_s: float) -> None:
        """Let everything happen that is due by then."""
        while self._next is not None and self._next.at_s <= elapsed_s:
            self._do(self._next)
            self._next = next(self._acts, None)

    def end(self) -> None:
        """Let everything be over for good."""
        self._acts, self._next = iter(()), None
        self._active.clear()
        self._set_link()

    def _do(self, act: _Act) -> None:
        fault = self._faults[act.number]
        if fault.kind == "reset":
            self._link.reset()
        elif act.is_begin:
            self._active.append(fault)
        else:
            self._active.remove(fault)
        self._set_link()

    def _set_link(self) -> None:
        link = self._link
        link.delay_s = max(self._values("delay"), default=0.0)
        link.jitter_s = max(self._values("jitter"), default=0.0)
        link.bytes_per_s = min(self._values("throttle"), default=None)
        link.chances = Chances(**{name: max(self._values(name), default=0.0) for name in CHANCES})
        mode = next((kind for kind in ("cut", "half_open") if kind in self.active), "up")
        if mode != self._mode:
            self._mode = mode
            {"cut": link.cut, "half_open": link.half_open, "up": link.mend}[mode]()

    def _values(self, kind: str) -> Iterable[float]:
        return [fault.value or 0.0 for fault in self._active if fault.kind == kind]


def _acts(number: int, fault: LinkFault, seed: str | int) -> Iterator[_Act]:
    for at_s in _moments(number, fault, seed):
        yield _Act(at_s, number, True)
        if fault.lasts_s is not None:
            yield _Act(at_s + fault.lasts_s, number, False)


def _moments(number: int, fault: LinkFault, seed: str | int) -> Iterator[float]:
    """Yield when a fault begins; it never overlaps with itself."""
    if fault.when in ("at", "always"):
        yield fault.at_s
        return
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - repeatable
    at_s = 0.0
    while True:
        at_s += fault.at_s if fault.when == "every" else chance.expovariate(1 / fault.at_s)
        yield at_s
        if fault.when == "chance":
            at_s += fault.lasts_s or 0.0
