"""Puts a simulation together: file, folder, way of running, screen, verdicts."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console

from edge_runtime.cli.table import table
from edge_runtime.errors import ConfigError
from edge_simulator.fleet.config import Mode
from edge_simulator.fleet.expect import Verdict, judge
from edge_simulator.fleet.load import Fleet, check_fleet
from edge_simulator.fleet.play import pacer_of, play, running_of
from edge_simulator.fleet.progress import Progress
from edge_simulator.fleet.result import Result
from edge_simulator.fleet.shipped import find_fleet
from edge_simulator.fleet.view import Ended, Screen
from edge_simulator.keys import keys_of_terminal

__all__ = ["Options", "show"]

_INCONCLUSIVE = 4
_SHOWN = (
    "rows_made",
    "rows_arrived",
    "rows_waiting",
    "gap_rows",
    "rows_lost",
    "duplicates",
    "decisions",
    "starts",
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line; None leaves it to the file."""

    fleet: Path
    out: Path | None = None
    mode: Mode | None = None
    speed: float | Literal["max"] | None = None
    seed: int | None = None
    is_check: bool = False
    is_headless: bool = False
    is_json: bool = False
    is_verbose: bool = False


def show(options: Options) -> int:
    """Run a fleet and print what came of it; return the exit code.

    Raises:
        EdgeError: The file does not fit, or something does not start.
    """
    fleet = _fleet(options)
    with _folder(options.out) as folder, _quiet(is_quiet=not options.is_verbose):
        try:
            result = _run(fleet, folder, options)
        except Ended:
            sys.stderr.write("Ended by key; nothing of the simulation is left running.\n")
            return _INCONCLUSIVE
        if options.out is not None:
            result.write(options.out / "result.jsonl")
    verdicts = judge(result)
    text = _json(result, verdicts) if options.is_json else _text(result, verdicts)
    sys.stdout.write(text + "\n")
    return int(options.is_check and not all(verdict.holds for verdict in verdicts))


def _fleet(options: Options) -> Fleet:
    asked = {
        "mode": options.mode,
        "speed": options.speed,
        "seed": options.seed,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    fleet = msgspec.structs.replace(find_fleet(options.fleet), **given)
    check_fleet(fleet)
    return fleet


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Make the folder for everything that devices keep; without a name it is gone afterwards."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="edge-runtime-fleet-") as folder:
            yield Path(folder)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            "it is not empty",
            where=str(out),
            expected="a new or an empty folder",
            remedy="Choose another folder with --out, or remove this one.",
        )
    out.mkdir(parents=True, exist_ok=True)
    yield out.absolute()


@contextmanager
def _quiet(*, is_quiet: bool) -> Iterator[None]:
    """Keep to ourselves what the devices warn about: here it is part of the plan."""
    log = logging.getLogger("edge_runtime")
    before = log.level
    log.setLevel(logging.CRITICAL if is_quiet else before)
    try:
        yield
    finally:
        log.setLevel(before)


def _run(fleet: Fleet, folder: Path, options: Options) -> Result:
    """Run it, on a screen where somebody looks, else with a bar at most."""
    running, pacer = running_of(fleet, folder), pacer_of(fleet)
    console = Console(highlight=False)
    if options.is_headless or options.is_check or options.is_json or not console.is_terminal:
        with Progress(fleet, Console(stderr=True)) as progress:
            return play(running, pacer, progress.show)
    with keys_of_terminal() as keys, Screen(running, pacer, keys, console) as screen:
        return play(running, pacer, screen.show)


# --- what is printed --------------------------------------------------------------------


def _json(result: Result, verdicts: list[Verdict]) -> str:
    expected = msgspec.to_builtins(verdicts)
    return msgspec.json.encode({**result.summary(), "expectations": expected}).decode()


def _text(result: Result, verdicts: list[Verdict]) -> str:
    rows = [
        [name, *(str(getattr(counts, what)) for what in _SHOWN)]
        for name, counts in result.counts.items()
    ]
    header = ["device", *(what.replace("_", " ") for what in _SHOWN)]
    parts = [table(header, rows)]
    if verdicts:
        parts.append(_verdict_table(verdicts))
    return "\n\n".join(parts)


def _verdict_table(verdicts: list[Verdict]) -> str:
    rows = [
        ["ok" if verdict.holds else "FAILED", verdict.what, verdict.expected, verdict.found]
        for verdict in verdicts
    ]
    lines = [table(["", "expectation", "expected", "found"], rows)]
    failed = [verdict for verdict in verdicts if not verdict.holds]
    lines += [f"{each.where}: {each.what} is {each.found}." for each in failed]
    return "\n".join(lines)
