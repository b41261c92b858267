"""Where the time of a quiet window goes, by function: `python benchmarks/where.py [--float]`.

The profiler makes every call dearer, small functions most; its shares are
therefore scaled to the time without it. Trust the order, not the digits.

With `--side` the windows are only answered, for a tool that counts instructions.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Sequence

import cases
import hand
import numpy as np
from bare import litert
from cases import AD, HOP, LENGTH

from edge_runtime.types import Frame

__all__ = ["main"]

_WINDOWS = 5000


def main() -> int:
    """Push the same windows with and without the profiler, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--float", action="store_true", help="float32 samples instead of int8")
    parser.add_argument("--rows", type=int, default=25, help="functions to show (default 25)")
    parser.add_argument(
        "--side", choices=("ours", "hand", "bare"), help="only answer, profile nothing"
    )
    parser.add_argument("--windows", type=int, default=_WINDOWS, help="how many (default 5000)")
    args = parser.parse_args()
    samples = cases.noise(LENGTH + args.windows * HOP, np.float32 if args.float else np.int8)
    frames = list(cases.stream(samples, HOP, AD.spec))
    if args.side is not None:
        _answer(args.side, frames, is_float=args.float)
        return 0
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
    return (time.thread_time_ns() - start_ns) / (len(frames) - LENGTH // HOP) / 1e3


def _answer(side: str, frames: Sequence[Frame], *, is_float: bool) -> None:
    """Answer all windows by the pipeline, the hand-written loop or the runtime alone."""
    if side == "ours":
        _pushed(frames)
        return
    answer = litert(AD.model())
    if side == "hand":
        loop = hand.Reconstruction(answer, cases.AD_INPUT, cases.AD_OUTPUT, is_float=is_float)
        for frame in frames:
            loop.push(frame.samples[:, 0], frame.time_ns)
        return
    window = np.zeros((1, LENGTH), np.int8)
    for _ in range(len(frames) - LENGTH // HOP):
        answer(window)


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
