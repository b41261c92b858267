"""Numbers on the command line, checked where they are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

__all__ = ["count", "seconds", "whole"]

N = TypeVar("N", int, float)


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    return _read(text, int, lambda number: number >= 1, "a whole number, 1 or more")


def whole(text: str) -> int:
    """Read a whole number of at least 0."""
    return _read(text, int, lambda number: number >= 0, "a whole number, 0 or more")


def seconds(text: str) -> float:
    """Read seconds, more than 0 and not without an end."""
    return _read(text, float, lambda number: 0 < number < float("inf"), "seconds above 0")


def _read(text: str, kind: Callable[[str], N], fits: Callable[[N], bool], expected: str) -> N:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not fits(number):
        raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")
    return number
