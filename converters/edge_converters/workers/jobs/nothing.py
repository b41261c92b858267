"""A job that does nothing: what can be said of a worker without asking it anything."""

from __future__ import annotations

__all__ = ["nothing"]


def nothing() -> dict[str, object]:
    """Do nothing."""
    return {}
