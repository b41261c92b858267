"""Runs ``edge-runtime`` in a process of its own, and kills it in the middle."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.errors import ModelError

__all__ = ["run_killed"]

_LOOK_S = 0.002
_LONGEST_S = 600.0


def run_killed(words: Sequence[str], outbox: Path, targets: Sequence[int]) -> int:
    """Run a command to its end, killing it once it has committed each of these positions.

    Args:
        words: Of ``edge-runtime``.
        outbox: The ``outbox.db`` it commits to.
        targets: Positions of its stream, ascending.

    Returns:
        How often it was killed: a process may be done before it is hit.

    Raises:
        ModelError: It failed by itself, or did not end.
    """
    killed = 0
    for target in targets:
        child = _started(words, subprocess.DEVNULL)
        try:
            _wait_until(child, outbox, target)
        finally:
            child.kill()
            child.wait()
        if child.returncode != -signal.SIGKILL:
            break
        killed += 1
    _run(words)
    return killed


def _started(words: Sequence[str], stderr: int) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "edge_runtime.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
    )


def _run(words: Sequence[str]) -> None:
    child = _started(words, subprocess.PIPE)
    try:
        _, told = child.communicate(timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        told = f"it did not end within {_LONGEST_S:g} s"
    finally:
        child.kill()
        child.wait()
    if child.returncode != 0:
        raise ModelError(
            f"ended with code {child.returncode}: {told.strip()[-2000:]}",
            where=f"edge-runtime {words[0]}",
            expected="an end with code 0",
            remedy="Run the bundle by itself first: edge-runtime check.",
        )


def _wait_until(child: subprocess.Popen[str], outbox: Path, target: int) -> None:
    until = time.monotonic() + _LONGEST_S
    while child.poll() is None and time.monotonic() < until:
        if _position(outbox) >= target:
            return
        time.sleep(_LOOK_S)


def _position(outbox: Path) -> int:
    """Return what the last commit says, without touching the file."""
    with contextlib.suppress(sqlite3.Error):
        where = f"file:{outbox}?mode=ro"
        with contextlib.closing(sqlite3.connect(where, uri=True, timeout=0)) as connection:
            row = connection.execute("SELECT max(position) FROM resume").fetchone()
            return row[0] or 0
    return 0
