"""Which ways to run a bundle are worth measuring on this machine."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge_runtime import registry
from edge_runtime.backends.accelerators import check_accelerator
from edge_runtime.bundle import Bundle, artefact_kind
from edge_runtime.errors import ConfigError

__all__ = ["Candidate", "single_threaded", "with_more_threads"]

# Chosen by name alone: it verifies no file, and is many times slower.
_NEVER_BY_ITSELF = ("tflite-runtime",)
# Waking a second thread takes about 10 µs: below this no model can gain from one.
_WORTH_THREADS_US = 50.0


class Candidate(msgspec.Struct, frozen=True):
    """One way to run a bundle.

    Attributes:
        backend: Model runtime.
        artefact: File in the bundle.
        precision: Of that file.
        threads: Threads inside one call.
        accelerator: None for the processor.
    """

    backend: str
    artefact: str
    precision: str
    threads: int = 1
    accelerator: str | None = None

    def __str__(self) -> str:
        engine = f"{self.backend} on {self.accelerator}" if self.accelerator else self.backend
        plural = "" if self.threads == 1 else "s"
        return f"{engine}, {self.artefact}, {self.threads} thread{plural}"


def single_threaded(
    bundle: Bundle, *, backends: Sequence[str] = (), accelerators: Sequence[str] = ()
) -> list[Candidate]:
    """Return every artefact with every backend that runs it, and on each accelerator.

    Args:
        bundle: What is to be run.
        backends: Only these; none for all but ``tflite-runtime``.
        accelerators: To try beside the processor.

    Raises:
        ConfigError: There is no such backend, it runs no file of the bundle, or no
            backend that does knows an accelerator by that name.
    """
    names = backends or [one for one in registry.names("backends") if one not in _NEVER_BY_ITSELF]
    for name in names:
        registry.find("backends", name)
    pairs = [
        Candidate(name, artefact.file, artefact.precision)
        for artefact in bundle.spec.artefacts
        for name in names
        if artefact_kind(name) == artefact.backend
    ]
    if not pairs:
        raise _nothing_to_run(bundle, names)
    fast = [one for name in accelerators for one in _on(name, pairs)]
    return [*pairs, *fast]


def with_more_threads(candidate: Candidate, engine_us: float, cores: int) -> list[Candidate]:
    """Return a candidate with 2, 4, … threads up to ``cores``, where that may help.

    Args:
        candidate: With one thread.
        engine_us: What one window takes in the session alone: only that is spread.
        cores: Processors to use.
    """
    if candidate.accelerator is not None or engine_us < _WORTH_THREADS_US:
        return []
    powers = [2**power for power in range(1, cores.bit_length()) if 2**power < cores]
    counts = [*powers, cores] if cores > 1 else []
    return [msgspec.structs.replace(candidate, threads=threads) for threads in counts]


def _on(accelerator: str, pairs: Sequence[Candidate]) -> list[Candidate]:
    """Return the pairs whose backend knows the accelerator; the last refusal if none does."""
    known: list[Candidate] = []
    refusal: ConfigError | None = None
    for pair in pairs:
        try:
            check_accelerator(pair.backend, accelerator)
        except ConfigError as error:
            refusal = error
        else:
            known.append(msgspec.structs.replace(pair, accelerator=accelerator))
    if not known and refusal is not None:
        raise refusal
    return known


def _nothing_to_run(bundle: Bundle, names: Sequence[str]) -> ConfigError:
    files = ", ".join(f"{one.file} ({one.backend})" for one in bundle.spec.artefacts)
    return ConfigError(
        f"backend {' or '.join(names)} runs no file of {bundle.ref}",
        expected=f"one that runs {files}",
        remedy="Leave --backend out, or add a model file of that kind to the bundle.",
    )
