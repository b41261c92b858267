"""What this machine has, proved: every runtime and accelerator answers a tiny model.

An import proves little: tflite-runtime imports under NumPy 2 and fails later,
and ONNX Runtime lists providers whose libraries are missing. So each is asked in
a child process of its own, with a time limit: one that crashes is a line in the
report.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, requires
from importlib.resources import files
from typing import Any, Literal

import msgspec
import numpy as np

from edge_runtime import registry
from edge_runtime.backends import ARTEFACT_KINDS, load_session
from edge_runtime.backends.accelerators import delegates_here, providers_here
from edge_runtime.child import child_command, child_environment, replies
from edge_runtime.distributions import installed_version
from edge_runtime.errors import EdgeError, MissingExtra, ModelError
from edge_runtime.machine import RUNTIMES, cores, memory_mb, processor, vectors
from edge_runtime.ports import Backend, SessionOptions
from edge_runtime.version import __version__

__all__ = ["Extra", "Health", "Report", "examine"]

_LIMIT_S = 30.0
_AT_ONCE = 2
# An accelerator may compute in 16 bits.
_TOLERANCE = 0.02


class Health(msgspec.Struct, frozen=True):
    """Whether one runtime, or one of its accelerators, answers the tiny model.

    Attributes:
        backend: Model runtime.
        accelerator: Asked through it; None for the processor.
        state: ``works``, ``absent`` (not installed) or ``broken``.
        version: Of the runtime; empty if it did not get so far.
        ms: Time from import to the answer, ms.
        why: What is wrong.
        remedy: What to do about it.
        accelerators: What the runtime has besides the processor, unproved.
    """

    backend: str
    accelerator: str | None = None
    state: Literal["works", "absent", "broken"] = "works"
    version: str = ""
    ms: float = 0.0
    why: str = ""
    remedy: str = ""
    accelerators: tuple[str, ...] = ()


class Extra(msgspec.Struct, frozen=True):
    """The packages one extra of edge-runtime brings.

    Attributes:
        name: Of the extra.
        packages: Version of each; None where it is not installed.
    """

    name: str
    packages: dict[str, str | None]


class Report(msgspec.Struct, frozen=True):
    """Everything about this machine that decides what can run on it.

    Attributes:
        edge_runtime: Our own version.
        python: Version of the interpreter.
        platform: Name of the operating system, with its version.
        architecture: Such as ``x86_64`` or ``aarch64``.
        libc: Name and version of the C library; empty where there is none to name.
        processor: Name of the processor or board.
        vectors: Its vector instructions, of those that kernels ask for.
        cores: Processors this process may use.
        memory_mb: The machine's memory, MiB.
        backends: Every registered runtime.
        accelerators: Every execution provider that is built in, every delegate that is found.
        extras: What is installed.
    """

    edge_runtime: str
    python: str
    platform: str
    architecture: str
    libc: str
    processor: str
    vectors: tuple[str, ...]
    cores: int
    memory_mb: int
    backends: tuple[Health, ...]
    accelerators: tuple[Health, ...]
    extras: tuple[Extra, ...]

    @property
    def is_able(self) -> bool:
        """Whether a ``.tflite`` or ``.onnx`` file can be run here."""
        return any(one.state == "works" for one in self.backends if one.backend != "reference")


def examine(*, limit_s: float = _LIMIT_S) -> Report:
    """Ask every runtime and every accelerator, in child processes.

    Args:
        limit_s: One that has not answered by then is broken.
    """
    backends = _asked([(name, None) for name in registry.names("backends")], limit_s)
    pairs = [(one.backend, name) for one in backends for name in one.accelerators]
    return Report(
        edge_runtime=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        architecture=platform.machine(),
        libc=" ".join(platform.libc_ver()).strip(),
        processor=processor(),
        vectors=vectors(),
        cores=cores(),
        memory_mb=memory_mb(),
        backends=backends,
        accelerators=_asked(pairs, limit_s),
        extras=_extras(),
    )


def _asked(pairs: Sequence[tuple[str, str | None]], limit_s: float) -> tuple[Health, ...]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(lambda pair: _ask(pair[0], pair[1], limit_s), pairs))


def _ask(backend: str, accelerator: str | None, limit_s: float) -> Health:
    broken = Health(backend, accelerator, "broken", remedy="Reinstall it, or leave it out.")
    arguments = [backend, accelerator or ""]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            child_command("edge_runtime.doctor.runtimes", *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=child_environment(),
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return msgspec.structs.replace(broken, why=f"it did not answer within {limit_s:g} s")
    try:
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=Health)
    except msgspec.DecodeError:
        pass
    last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    why = f"its process died of {how}: {last[:200]}".removesuffix(": ")
    return msgspec.structs.replace(broken, why=why)


def _extras() -> tuple[Extra, ...]:
    """Return the extras of the installed package; none if it is not installed as one."""
    try:
        lines = requires("edge-runtime") or []
    except PackageNotFoundError:
        return ()
    found: dict[str, dict[str, str | None]] = {}
    for line in lines:
        package = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", line)
        if package and extra and package[0] != "edge-runtime":
            found.setdefault(extra[1], {})[package[0]] = _found(package[0])
    return tuple(Extra(name, packages) for name, packages in sorted(found.items()))


def _found(package: str) -> str | None:
    # Each accelerator of ONNX Runtime comes as a package of another name.
    names = [name for name in RUNTIMES if name.startswith(f"{package}-")]
    kin = names if package == "onnxruntime" else []
    return next(filter(None, map(installed_version, [package, *kin])), None)


# --- in the child -------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Ask one runtime, in this process; for `examine` alone."""
    backend, accelerator = arguments[0], arguments[1] or None
    out = replies()
    start_s = time.perf_counter()
    try:
        health = _answered(backend, accelerator)
    except EdgeError as error:
        is_absent = isinstance(error, MissingExtra)
        health = Health(
            backend,
            accelerator,
            "absent" if is_absent else "broken",
            why=error.what,
            remedy=error.remedy,
        )
    ms = (time.perf_counter() - start_s) * 1e3
    out.write(msgspec.json.encode(msgspec.structs.replace(health, ms=ms)))
    return 0


def _answered(backend: str, accelerator: str | None) -> Health:
    runtime: Backend = registry.create("backends", backend, {})
    version = runtime.probe()
    if accelerator is None:
        return Health(backend, version=version, accelerators=_accelerators(backend))
    kind = ARTEFACT_KINDS[backend]
    model = files("edge_runtime.backends").joinpath(f"probe.{kind}").read_bytes()
    session = load_session(backend, kind, model, SessionOptions(accelerator=accelerator))
    answer = float(session.run(np.array([[3, 4]], np.float32))[0, 0])
    if abs(answer - 2.5) > _TOLERANCE:
        raise ModelError(
            f"the test model answered {answer:g} instead of 2.5",
            remedy="Do not use it: its answers are wrong here.",
        )
    return Health(backend, accelerator, version=version)


def _accelerators(backend: str) -> tuple[str, ...]:
    if backend == "onnx":
        runtime: Any = sys.modules["onnxruntime"]
        return providers_here(runtime)
    return delegates_here() if ARTEFACT_KINDS.get(backend) == "tflite" else ()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
