"""A limit in a few words."""

from __future__ import annotations

from edge_runtime.spec import Limit

__all__ = ["limit_text"]


def limit_text(limit: Limit) -> str:
    """Say what starts and ends a label, and only what is not the default."""
    parts = [f"on {limit.on:g} off {limit.off:g}"]
    if limit.k_of_n != (1, 1):
        parts.append("{} of {}".format(*limit.k_of_n))
    if limit.refractory_s:
        parts.append(f"silent for {limit.refractory_s:g} s")
    if limit.reject is not None:
        parts.append(f"uncertain from {limit.reject.low:.4g} to {limit.reject.high:.4g}")
    return ", ".join(parts)
