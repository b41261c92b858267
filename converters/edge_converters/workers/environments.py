"""Environments of workers: made from lock files with hashes, and kept by the lock's hash."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_converters.workers.ask import Worker
from edge_runtime.errors import ConfigError, ModelError

__all__ = ["ENVIRONMENTS", "Environment", "cache_folder", "environment", "find_worker", "sync"]

_LOCKS = Path(__file__).with_name("locks")
_CACHE_VARIABLE = "EDGE_RUNTIME_WORKERS"
_INSTALL_S = 3600.0
_KEPT_LINES = 8


class Environment(msgspec.Struct, frozen=True):
    """What a worker is made of.

    Attributes:
        name: Also of its lock file.
        purpose: For people.
        size_mb: On disk, about, MiB.
        pythons: Versions it exists for, oldest and newest.
    """

    name: str
    purpose: str
    size_mb: int
    pythons: tuple[tuple[int, int], tuple[int, int]] = ((3, 11), (3, 13))

    @property
    def lock(self) -> Path:
        """Its lock file: every package with the hashes of its files."""
        return _LOCKS / f"{self.name}.txt"

    @property
    def folder(self) -> Path:
        """Where it lies, or will: another lock or interpreter is another folder."""
        version = platform.python_version()
        told = f"{version} {platform.machine()} {sys.platform}\n".encode()
        digest = hashlib.sha256(told + self.lock.read_bytes()).hexdigest()
        return cache_folder() / f"{self.name}-{digest[:16]}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def is_ready(self) -> bool:
        """Whether it has been made, whole."""
        return self.python.exists()

    @property
    def pins(self) -> dict[str, str]:
        """Version of every package in its lock, the last one that is named for each."""
        lines = (line.split(";")[0] for line in self.lock.read_text().splitlines())
        pairs = [line.rstrip(" \\").split("==") for line in lines if "==" in line]
        return {name.strip(): version.strip() for name, version in pairs}


ENVIRONMENTS: dict[str, Environment] = {
    one.name: one
    for one in (
        Environment("keras", "Keras and SavedModel to TFLite; all three to ONNX", 1550),
        Environment("sklearn", "scikit-learn to ONNX", 350),
        Environment("verify-legacy", "proves files on tflite-runtime 2.14", 80, ((3, 11), (3, 11))),
    )
}


def cache_folder() -> Path:
    """Return the folder of all environments; ``EDGE_RUNTIME_WORKERS`` names another."""
    told = os.environ.get(_CACHE_VARIABLE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(told) if told else base / "edge-runtime" / "workers"


def environment(name: str) -> Environment:
    """Return what is known about an environment.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in ENVIRONMENTS:
        raise ConfigError(
            f"there is no environment {name!r}",
            where="edge-runtime convert env",
            expected=f"one of {', '.join(ENVIRONMENTS)}",
            remedy="Correct the name.",
        )
    return ENVIRONMENTS[name]


def find_worker(name: str, where: str) -> Worker:
    """Return a worker whose environment has been made.

    Raises:
        ModelError: It has not.
    """
    one = environment(name)
    if not one.is_ready:
        raise ModelError(
            f"needs the worker {name!r}, whose environment is not here",
            where=where,
            expected=f"the environment in {one.folder}",
            remedy=f"Make it once, with a network, about {one.size_mb} MB: "
            f"edge-runtime convert env sync {name}",
        )
    return Worker(name, one.python)


def sync(name: str, tell: Callable[[str], None] = lambda _: None) -> Environment:
    """Make an environment if it is not there; a half-made one is never found.

    Args:
        name: Of the environment.
        tell: Hears what is being done.

    Raises:
        ConfigError: There is none of that name, or none for this interpreter.
        ModelError: It cannot be made: no network, no disk, or a hash that does not fit.
    """
    one = environment(name)
    _check_python(one)
    if one.is_ready:
        return one
    _check_disk(one)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / f".{name}.lock").open("w") as lock:
        # Whoever comes second waits, and finds it made.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not one.is_ready:
            tell(f"making {name}, about {one.size_mb} MB")
            _make_and_rename(one, tell)
    return one


def _make_and_rename(one: Environment, tell: Callable[[str], None]) -> None:
    # Its scripts keep the first place in mind after the rename; only its interpreter is run.
    with tempfile.TemporaryDirectory(prefix=f".{one.name}-", dir=cache_folder()) as made:
        _make(one, Path(made) / "venv", tell)
        shutil.rmtree(one.folder, ignore_errors=True)
        (Path(made) / "venv").rename(one.folder)


def _make(one: Environment, folder: Path, tell: Callable[[str], None]) -> None:
    uv = shutil.which("uv")
    python = folder / "bin" / "python"
    if uv:
        _call(one, [uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        _call(one, [sys.executable, "-m", "venv", str(folder)])
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-input"]
    tell(f"installing {len(one.pins)} packages")
    _call(one, [*install, "--require-hashes", "--no-deps", "-r", str(one.lock)])


def _call(one: Environment, command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, or uv
            command, capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unmade(one, str(error)) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines
        raise _unmade(one, "; ".join(errors[-_KEPT_LINES:]) or f"exit code {done.returncode}")


def _unmade(one: Environment, why: str) -> ModelError:
    return ModelError(
        f"the environment {one.name!r} could not be made: {why[:1500]}",
        where=str(one.folder),
        expected="a network with a package index, and room on the disk",
        remedy="Connect this machine and try again; or make it on another one of the same kind "
        f"and copy the folder. {_CACHE_VARIABLE} names another place for it.",
    )


def _check_python(one: Environment) -> None:
    oldest, newest = one.pythons
    if not oldest <= sys.version_info[:2] <= newest:
        low, high = (".".join(map(str, version)) for version in one.pythons)
        raise ConfigError(
            f"the environment {one.name!r} has no packages for Python {platform.python_version()}",
            where="edge-runtime convert env sync",
            expected=f"Python {low}" if low == high else f"Python {low} to {high}",
            remedy="Run edge-runtime with such an interpreter.",
        )


def _check_disk(one: Environment) -> None:
    place = cache_folder()
    while not place.exists():
        place = place.parent
    free_mb = shutil.disk_usage(place).free >> 20
    # Packages are unpacked beside their archives.
    if free_mb < 2 * one.size_mb:
        raise ModelError(
            f"the environment {one.name!r} needs {2 * one.size_mb} MB while it is made, "
            f"and {free_mb} MB are free",
            where=str(place),
            expected="room on the disk",
            remedy=f"Make room, or name another place: {_CACHE_VARIABLE}=FOLDER.",
        )
