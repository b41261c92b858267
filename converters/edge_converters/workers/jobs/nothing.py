"""Jobs that open no model: what can be said of a worker by itself."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

__all__ = ["nothing", "versions"]


def nothing() -> dict[str, object]:
    """Do nothing."""
    return {}


def versions(packages: Sequence[str]) -> dict[str, object]:
    """Return the version of the interpreter, and of each package; None for one that is missing."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version_of(name) for name in packages},
    }


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
