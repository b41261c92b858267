"""Child processes that run a module of this package, for what may crash or hang."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

__all__ = ["child_command", "child_environment", "replies"]


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs ``module`` with this interpreter."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """Return this process's environment; the child finds modules where this process does."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def replies() -> BinaryIO:
    """Return, in a child, where replies to the parent go.

    Everything else that is written to standard output, by runtimes in Python or
    C++, goes to standard error from now on.
    """
    kept = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return kept
