"""The card or disk that a device keeps its rows on."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.doctor.finding import Finding, State

__all__ = ["look_at_storage"]

_SYNCS = 12
_BLOCK = os.urandom(4096)
_SLOW_MS, _STUCK_MS = 60.0, 1000.0
_SCARCE_MB = 512
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "overlay"})


def look_at_storage(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> Iterator[Finding]:
    """Say what the file system is, how much is free, and how long an fsync takes.

    Args:
        folder: Where a device keeps its state; the nearest folder that exists is looked at.
        mounts: The kernel's list of mounts.
    """
    while not folder.exists():
        folder = folder.parent
    yield from _mount(folder, mounts)
    free_mb = shutil.disk_usage(folder).free // 2**20
    scarce = free_mb < _SCARCE_MB
    yield Finding(
        "space",
        "warning" if scarce else "ok",
        f"{free_mb} MiB free in {folder}",
        "Make room, or lower outbox.quota_mb: it makes room itself when nothing is left."
        if scarce
        else "",
    )
    yield _fsync(folder)


def _mount(folder: Path, mounts: Path) -> Iterator[Finding]:
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return
    resolved = folder.resolve()
    around = [line for line in lines if len(line) > 3 and resolved.is_relative_to(line[1])]
    if not around:
        return
    device, place, kind, options = max(around, key=lambda line: len(line[1]))[:4]
    what = f"{kind} on {device}, mounted at {place}"
    if "ro" in options.split(","):
        yield Finding(
            "storage",
            "problem",
            f"{what}, read only",
            "Name another `state` folder; a card that turned read only is dying: replace it.",
        )
    elif kind in _IN_MEMORY:
        yield Finding(
            "storage",
            "warning",
            what,
            "What is kept there may be gone after a restart: name a `state` folder on a disk.",
        )
    else:
        yield Finding("storage", "ok", what)


def _fsync(folder: Path) -> Finding:
    """Time what every group commit costs: a small write, brought to the medium."""
    try:
        taken_ms = sorted(_timed(folder))
    except OSError as error:
        return Finding(
            "fsync",
            "problem",
            f"{folder} cannot be written: {error.strerror}",
            "Let the device's user own its `state` folder.",
        )
    median, worst = statistics.median(taken_ms), taken_ms[-1]
    state: State = "ok"
    remedy = ""
    if worst > _STUCK_MS:
        state = "problem"
        remedy = (
            "Replace the card: a good one (A1 or A2) takes some milliseconds, a dying one this."
        )
    elif median > _SLOW_MS:
        state = "warning"
        remedy = "Rows are kept all the same; `outbox.commit_s: 1` commits less often."
    return Finding("fsync", state, f"{median:.1f} ms, at worst {worst:.1f} ms", remedy)


def _timed(folder: Path) -> Iterator[float]:
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(_SYNCS):
            start_ns = time.perf_counter_ns()
            file.write(_BLOCK)
            file.flush()
            os.fsync(file.fileno())
            yield (time.perf_counter_ns() - start_ns) / 1e6
