"""One YAML file declares what is done by the clock."""

from __future__ import annotations

import string
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from edge_runtime import registry
from edge_runtime.config import load_yaml
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.modes.schedule.runner import Job
from edge_runtime.modes.schedule.when import When
from edge_runtime.types import check_name

__all__ = ["JobConfig", "ScheduleConfig", "load_schedule"]

_PLACES = ("date", "time", "planned_ns", "year", "month", "day", "hour")
_TOLD_BYTES = 2000


class JobConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job.

    Attributes:
        when: Its instants.
        run: Words of ``edge-runtime``, such as ``[batch, BUNDLE, in-{date}.csv, -o, …]``.
            ``{date}``, ``{time}``, ``{year}``, ``{month}``, ``{day}``, ``{hour}`` and
            ``{planned_ns}`` are those of the planned instant, in the job's time zone.
    """

    when: When
    run: Annotated[tuple[str, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        _check_verb(self.run[0])
        for word in self.run:
            _check_places(word)


class ScheduleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is done by the clock.

    Attributes:
        history: File that keeps what was planned and what became of it.
        jobs: By name.
        schema: Version of this file's format.
    """

    history: Path
    jobs: Annotated[dict[str, JobConfig], Meta(min_length=1)]
    schema: int = 1

    def __post_init__(self) -> None:
        for name in self.jobs:
            check_name(name, "job")

    def made(self, folder: Path) -> list[Job]:
        """Return the jobs; each runs in a process of its own, in ``folder``."""
        return [_job(name, job, folder) for name, job in self.jobs.items()]


def load_schedule(path: Path) -> ScheduleConfig:
    """Read a schedule's YAML file; relative paths in it are relative to the file.

    Raises:
        ConfigError: The file cannot be read or does not fit; ``where`` is ``file:line:column``.
    """
    return load_yaml(path, ScheduleConfig)


def _job(name: str, job: JobConfig, folder: Path) -> Job:
    def run(planned_ns: int) -> str:
        places = _places(planned_ns, job.when.timezone)
        return _run([word.format(**places) for word in job.run], folder)

    return Job(name, job.when, run)


def _places(planned_ns: int, timezone: str) -> dict[str, str]:
    instant = datetime.fromtimestamp(planned_ns // 10**9, UTC).astimezone(ZoneInfo(timezone))
    return {
        "date": instant.strftime("%Y-%m-%d"),
        "time": instant.strftime("%H%M%S"),
        "year": instant.strftime("%Y"),
        "month": instant.strftime("%m"),
        "day": instant.strftime("%d"),
        "hour": instant.strftime("%H"),
        "planned_ns": str(planned_ns),
    }


def _check_verb(word: str) -> None:
    """Find a slip now, and not in the middle of the night."""
    verbs = tuple(sorted({name.partition(" ")[0] for name in registry.names("commands")}))
    if word not in verbs:
        raise ConfigError(
            f"run has {word!r}",
            expected="a verb of edge-runtime first",
            remedy=registry.closest(word, verbs),
        )


def _check_places(word: str) -> None:
    try:
        used = [name for _, name, _, _ in string.Formatter().parse(word) if name is not None]
    except ValueError as error:
        raise _unfit(word) from error
    if not set(used) <= set(_PLACES):
        raise _unfit(word)


def _unfit(word: str) -> ConfigError:
    return ConfigError(
        f"run has {word!r}",
        expected=", ".join(f"{{{name}}}" for name in _PLACES) + "; a brace itself is doubled",
        remedy="Correct the word.",
    )


def _run(words: list[str], folder: Path) -> str:
    """Run a command to its end and return the last thing it said."""
    done = subprocess.run(  # noqa: S603 - our own program, words of the user's own file
        [sys.executable, "-m", "edge_runtime.cli", *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        # Ctrl-C is for the scheduler, which lets a running job come to its end.
        start_new_session=True,
    )
    told = (done.stdout if done.returncode == 0 else done.stderr).strip()[-_TOLD_BYTES:]
    if done.returncode != 0:
        raise EdgeError(
            f"ended with code {done.returncode}: {told}",
            where="edge-runtime " + " ".join(words),
            expected="an end with code 0",
            remedy="Run it by hand; the next planned instant is tried all the same.",
        )
    return told
