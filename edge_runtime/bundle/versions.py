"""Versions of bundles, which are for people."""

from __future__ import annotations

import re

__all__ = ["next_version"]


def next_version(version: str) -> str:
    """Return a version with its last number one higher, such as 1.0.1 for 1.0.0."""
    match = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", version)
    if match is None:
        return f"{version}.1"
    head, number, tail = match.groups()
    return f"{head}{int(number) + 1}{tail}"
