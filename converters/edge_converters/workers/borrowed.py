"""Interpreters that somebody made for other work, and that stand in for a worker's environment."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec

from edge_converters.contracts import Limits
from edge_converters.workers.ask import Worker, ask
from edge_converters.workers.environments import Environment, cache_folder, environment
from edge_runtime.errors import ConfigError, ModelError

__all__ = ["Borrowed", "borrow", "borrowed", "find_worker", "give_back"]

_LIMITS = Limits(seconds=60.0)


class Borrowed(msgspec.Struct, frozen=True):
    """An interpreter that stands in for an environment.

    Attributes:
        python: Where it lies.
        versions: Of what it has, when it was named.
    """

    python: Path
    versions: dict[str, str]

    def __str__(self) -> str:
        told = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.python}: {told}"


def borrowed(name: str) -> Borrowed | None:
    """Return the interpreter that was named for an environment, or None.

    Raises:
        ConfigError: Its record cannot be read.
    """
    record = _record_of(name)
    if not record.exists():
        return None
    try:
        return msgspec.json.decode(
            record.read_bytes(), type=Borrowed, dec_hook=lambda _, value: Path(value)
        )
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"cannot be read: {error}",
            where=str(record),
            expected="what edge-runtime convert env use wrote",
            remedy=f"Name the interpreter again: edge-runtime convert env use {name} PYTHON.",
        ) from error


def borrow(name: str, python: str) -> Borrowed:
    """Let an interpreter stand in for an environment, from now on.

    Args:
        name: Of the environment.
        python: The interpreter; Python 3.11 or newer. Nothing is installed into it.

    Raises:
        ConfigError: There is no such environment or interpreter, or none may stand in.
        ModelError: It lacks a package, has one too old, or does not start.
    """
    one = environment(name)
    if not one.needs:
        raise ConfigError(
            f"the environment {name!r} is made of its lock file alone",
            where="edge-runtime convert env use",
            expected="an environment that weighs too much to be made twice: torch",
            remedy=f"Make it: edge-runtime convert env sync {name}.",
        )
    place = _interpreter(python)
    worker = Worker(name, place)
    arguments = {"packages": list(one.needs)}
    try:
        told = ask(worker, "nothing.versions", arguments, _LIMITS, where=str(place))
    except ModelError as error:
        error.remedy = f"Is it a Python? Try: {place} --version"
        raise
    _check(one, place, told.result["packages"])
    versions = {"python": told.result["python"], **told.result["packages"]}
    found = Borrowed(place, versions)
    cache_folder().mkdir(parents=True, exist_ok=True)
    _record_of(name).write_bytes(msgspec.json.encode(found, enc_hook=str))
    return found


def give_back(name: str) -> None:
    """Forget the interpreter that was named for an environment, if one was."""
    _record_of(name).unlink(missing_ok=True)


def find_worker(name: str, where: str) -> Worker:
    """Return a worker whose interpreter was named, or whose environment has been made.

    Raises:
        ModelError: There is neither, or the interpreter is gone.
    """
    one, named = environment(name), borrowed(name)
    if named is not None:
        return _still_there(name, named, where)
    if not one.is_ready:
        instead = f"; or name a Python that has it: edge-runtime convert env use {name} PYTHON"
        raise ModelError(
            f"needs the worker {name!r}, whose environment is not here",
            where=where,
            expected=f"the environment in {one.folder}",
            remedy=f"Make it once, with a network, about {one.size_mb} MB: "
            f"edge-runtime convert env sync {name}{instead if one.needs else ''}",
        )
    return Worker(name, one.python)


def _still_there(name: str, named: Borrowed, where: str) -> Worker:
    if not named.python.exists():
        raise ModelError(
            f"the interpreter that stands in for the worker {name!r} is gone",
            where=where,
            expected=str(named.python),
            remedy=f"Name another one: edge-runtime convert env use {name} PYTHON; or make the "
            f"environment: edge-runtime convert env sync {name}.",
        )
    return Worker(name, named.python)


def _record_of(name: str) -> Path:
    return cache_folder() / f"{name}.json"


def _interpreter(python: str) -> Path:
    found = shutil.which(python)
    if found is None:
        raise ConfigError(
            "there is no such interpreter",
            where=python,
            expected="a Python that can be run, such as one in the bin folder of an environment",
            remedy="Correct the path.",
        )
    # As it was named: the interpreter of a virtual environment is a link to another one.
    return Path(found).absolute()


def _check(one: Environment, python: Path, found: dict[str, str | None]) -> None:
    lacking = [
        f"{name} {version or 'is missing'}"
        for name, version in found.items()
        if version is None or _release(version) < _release(one.needs[name])
    ]
    if not lacking:
        return
    wanted = " ".join(f"{name}=={one.pins[name]}" for name in one.needs if name != one.name)
    raise ModelError(
        f"cannot stand in for the worker {one.name!r}: {', '.join(lacking)}",
        where=str(python),
        expected=", ".join(f"{name} {oldest} or newer" for name, oldest in one.needs.items()),
        remedy=f"Install what is missing there, {python} -m pip install {wanted}; "
        "or name another interpreter.",
    )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])
