"""``edge-runtime simulate link``: a link between any client and broker of this machine."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_runtime.errors import ConfigError
from edge_simulator.interrupt import terminated_like_interrupted
from edge_simulator.link.flow import Unit
from edge_simulator.link.proxy import LinkCounts, LinkProxy
from edge_simulator.link.script import CHANCES, LinkFault, Player, check_unit, fault_of, load_script

__all__ = ["SimulateLink"]

_SHOW_S = 1.0
_WHERE = "command line"
_TIMED = {
    "cut": "every connection is reset, and none comes about",
    "half_open": "nothing fails and nothing arrives",
    "reset": "every connection is reset once",
}
_LASTING = '"at 5 for 10", "every 1min for 5s" or "by chance 2 a minute for 1s"'
_WHEN = {"cut": _LASTING, "half_open": _LASTING, "reset": '"at 5" or "by chance 2 a minute"'}


class SimulateLink:
    """Break a link on purpose, until Ctrl-C."""

    name = "simulate link"
    help = "stand between a client and a broker, and break the link by plan and chance"
    example = 'edge-runtime simulate link --listen 1884 --to 127.0.0.1:1883 --cut "at 5 for 10"'

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("--listen", type=int, default=0, metavar="PORT", help="on loopback (a free one)")
        add("--to", default="127.0.0.1:1883", metavar="HOST:PORT", help="broker, on loopback too")
        add("--script", type=Path, metavar="YAML", help="faults, one a line")
        add("--fault", action="append", default=[], metavar="LINE", help="one line of a script")
        add("--delay", metavar="SPAN", help="how much later everything arrives, such as 200ms")
        add("--jitter", metavar="SPAN", help="most of a further delay that varies")
        add("--throttle", metavar="RATE", help="bandwidth of each direction, such as 10kB/s")
        for kind, what in _TIMED.items():
            text = f"when {what}, such as {_WHEN[kind]}"
            add(f"--{kind.replace('_', '-')}", action="append", metavar="WHEN", help=text)
        for kind in CHANCES:
            add(f"--{kind}", metavar="SHARE", help=f"how many units to {kind}, from 0 to 1")
        add("--packets", action="store_true", help="hit whole MQTT PUBLISH packets, not bytes")
        add("--seed", type=int, default=0, metavar="N", help="decides all chance (0)")
        add("--seconds", type=float, metavar="S", help="end by itself after that time")
        add("--json", action="store_true", help="print the summary as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Forward until Ctrl-C, then say what went through."""
        faults, unit = _faults(args)
        proxy = LinkProxy(args.listen, _address(args.to), unit=unit, seed=args.seed)
        with terminated_like_interrupted(), proxy as link:
            player = Player(link, faults, args.seed)
            player.advance(0.0)  # what begins at once holds for whoever reads the next line
            sys.stderr.write(f"127.0.0.1:{link.port} leads to {args.to}; Ctrl-C ends it.\n")
            started_s = time.monotonic()
            try:
                _play(link, player, args.seconds)
            except KeyboardInterrupt:
                sys.stderr.write("\n")
            counts = link.counts()
        _print(counts, time.monotonic() - started_s, is_json=args.json)
        return 0


def _faults(args: argparse.Namespace) -> tuple[Sequence[LinkFault], Unit]:
    faults, unit = load_script(args.script) if args.script else ((), "bytes")
    lines = list(args.fault)
    for kind in _TIMED:
        lines += [_timed(kind, when) for when in getattr(args, kind) or ()]
    for kind in ("delay", "jitter", "throttle", *CHANCES):
        value = getattr(args, kind)
        lines += [] if value is None else [f"{kind} {value}"]
    given = [*faults, *(fault_of(line, _WHERE) for line in lines)]
    unit = "packets" if args.packets else unit
    check_unit(given, unit, _WHERE)
    return given, unit


def _timed(kind: str, when: str) -> str:
    """Put a fault between when it begins and how long it lasts.

    Raises:
        ConfigError: It does not say when.
    """
    if not when.startswith(("at ", "every ", "by chance ")):
        raise ConfigError(
            f"--{kind.replace('_', '-')} is {when!r}",
            where=_WHERE,
            expected="a time that begins with at, every or by chance",
            remedy=f"Write it such as {_WHEN[kind]}.",
        )
    start, found, lasts = when.partition(" for ")
    return f"{start} {kind}{found}{lasts}"


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(
            f"--to is {text!r}", where=_WHERE, expected="HOST:PORT, such as 127.0.0.1:1883"
        )
    return host, int(port)


def _play(link: LinkProxy, player: Player, seconds: float | None) -> None:
    """Let faults happen until the end, and show what goes through."""
    started_s = time.monotonic()
    waiting = threading.Event()
    ends_s = float("inf") if seconds is None else seconds
    shown_s = 0.0
    while (elapsed_s := time.monotonic() - started_s) < ends_s:
        player.advance(elapsed_s)
        if sys.stderr.isatty() and elapsed_s - shown_s >= _SHOW_S:
            shown_s = elapsed_s
            sys.stderr.write(f"\r\x1b[K{_line(link.counts(), player.active)}")
            sys.stderr.flush()
        dues_s = [ends_s, elapsed_s + _SHOW_S, player.next_s or float("inf")]
        waiting.wait(max(0.0, min(dues_s) - (time.monotonic() - started_s)))


def _line(counts: LinkCounts, active: tuple[str, ...]) -> str:
    words = ", ".join(f"{name} {value}" for name, value in _facts(counts).items() if value)
    return f"{' + '.join(active) or 'up'}: {words or 'nothing yet'}"


def _facts(counts: LinkCounts) -> dict[str, int]:
    return {name: int(value) for name, value in msgspec.structs.asdict(counts).items()}


def _print(counts: LinkCounts, seconds: float, *, is_json: bool) -> None:
    facts: dict[str, float] = {**_facts(counts), "seconds": round(seconds, 1)}
    if is_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    width = max(map(len, facts))
    lines = [f"{name.replace('_', ' '):<{width}}  {value}" for name, value in facts.items()]
    sys.stdout.write("\n".join(lines) + "\n")
