"""Where the time of a quiet window goes, by function: `python benchmarks/where.py [--float]`.

The profiler makes every call dearer, small functions most; its shares are
therefore scaled to the time without it. Trust the order, not the digits.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Sequence

import cases
import numpy as np
from cases import AD, HOP, LENGTH

from edge_runtime.types import Frame

__all__ = ["main"]

_WINDOWS = 5000


def main() -> int:
    """Push the same windows with and without the profiler, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--float", action="store_true", help="float32 samples instead of int8")
    parser.add_argument("--rows", type=int, default=25, help="functions to show (default 25)")
    args = parser.parse_args()
    samples = cases.noise(LENGTH + _WINDOWS * HOP, np.float32 if args.float else np.int8)
    frames = list(cases.stream(samples, HOP, AD.spec))
    _pushed(frames)
    plain_us = _pushed(frames)
    profile = cProfile.Profile()
    profile.enable()
    _pushed(frames)
    profile.disable()
    _show(pstats.Stats(profile), plain_us, args.rows)
    return 0


def _pushed(frames: Sequence[Frame]) -> float:
    """Return µs per window of processor time."""
    pipeline = AD.pipeline()
    start_ns = time.thread_time_ns()
    for frame in frames:
        pipeline.push(frame)
    return (time.thread_time_ns() - start_ns) / _WINDOWS / 1e3


def _show(stats: pstats.Stats, plain_us: float, rows: int) -> None:
    own = {place: entry[2] for place, entry in stats.stats.items()}  # type: ignore[attr-defined]
    total = sum(own.values())
    print(f"{plain_us:.1f} us a window without the profiler; of them, by function:")
    for place, seconds in sorted(own.items(), key=lambda item: -item[1])[:rows]:
        path, line, name = place
        where = "/".join(path.split("/")[-2:])
        print(f"{seconds / total * plain_us:7.2f} us  {name}  {where}:{line}")


if __name__ == "__main__":
    raise SystemExit(main())
