"""Shows the same rows to every mode, and compares."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.bundle import Bundle
from edge_runtime.config.check import check_timing
from edge_runtime.modes.parity import legs
from edge_runtime.modes.parity.answers import Answers, Difference
from edge_runtime.modes.parity.rows import Rows
from edge_runtime.ports import Choice, Timing

__all__ = ["MODES", "Leg", "ParityReport", "prove_parity"]

_Run = Callable[[legs.Setting], tuple[Answers, str]]

MODES: Mapping[str, _Run] = {
    "edge": legs.edge,
    "streaming": legs.stream,
    "real-time": legs.realtime,
    "batch": legs.batch,
    "hybrid": legs.hybrid,
}
"""By name, in the order they are run; the first is what the others are compared with."""


class Leg(msgspec.Struct, frozen=True):
    """One mode.

    Attributes:
        mode: Its name.
        how: How it took the rows.
        windows: Answers it gave.
        decisions: Decisions it made.
        digest: SHA-256 over every index, value and decision, hex.
        difference: From the first mode; None if every byte is the same.
        seconds: How long it took.
    """

    mode: str
    how: str
    windows: int
    decisions: int
    digest: str
    difference: Difference | None
    seconds: float


class ParityReport(msgspec.Struct, frozen=True):
    """The proof, or what is missing for it.

    Attributes:
        bundle: ``name@version``.
        base: Digest of the bundle.
        rows: What every mode was shown.
        seed: Decided frames, kills and snapshots.
        legs: One for each mode.
    """

    bundle: str
    base: str
    rows: int
    seed: int
    legs: tuple[Leg, ...]

    @property
    def is_proven(self) -> bool:
        """Whether every mode gave the same bytes, and there was something to compare."""
        return all(leg.difference is None and leg.windows for leg in self.legs)


def prove_parity(
    bundle: Bundle,
    bundle_path: Path,
    rows: Rows,
    *,
    choice: Choice,
    timing: Timing | None = None,
    kills: int = 3,
    seed: int = 0,
    on_leg: Callable[[str], None] = lambda _: None,
) -> ParityReport:
    """Drive the same rows through every mode and compare what comes out.

    Indices, values and decisions must be the same bytes; the effective id of hybrid
    mode is its own, because a neutral prior is a layer too. On a grid what is compared
    is what stands at last, after all revisions.

    Args:
        bundle: The base.
        bundle_path: Folder or zip file it was read from; processes open it anew.
        rows: What the modes are shown.
        choice: How the model is run, in all modes alike.
        timing: How long rows on a grid are waited for; None as usual.
        kills: How often edge and streaming mode are killed, and hybrid mode restored.
        seed: Of everything that is random.
        on_leg: Told the name of each mode before it begins.

    Raises:
        ConfigError: ``timing`` does not go with the bundle.
        EdgeError: A mode failed.
    """
    check_timing(bundle, timing, "--timing")
    dice = np.random.default_rng(seed)
    done: list[Leg] = []
    first: Answers | None = None
    with tempfile.TemporaryDirectory(prefix="parity-") as name:
        folder = Path(name)
        recording = folder / "rows.npz"
        rows.save(recording)
        setting = legs.Setting(
            bundle, bundle_path, choice, rows, recording, folder, kills, timing, dice
        )
        for mode, run in MODES.items():
            on_leg(mode)
            begun = time.monotonic()
            answers, how = run(setting)
            first = answers if first is None else first
            done.append(_leg(mode, how, answers, first, time.monotonic() - begun))
    return ParityReport(bundle.ref, bundle.digest, len(rows), seed, tuple(done))


def _leg(mode: str, how: str, answers: Answers, first: Answers, seconds: float) -> Leg:
    return Leg(
        mode=mode,
        how=how,
        windows=len(answers.index),
        decisions=len(answers.decisions),
        digest=answers.digest,
        difference=answers.difference(first),
        seconds=round(seconds, 3),
    )
