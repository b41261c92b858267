"""Measure how fast ten channels of a rotating machine are made.

    python examples/rotating_machine/measure_speed.py

Everything runs on one core; the numbers are those of this machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from edge_simulator.signals import (
    GearConfig,
    GrowthConfig,
    MountConfig,
    RotatingConfig,
    Signal,
    SignalConfig,
    build_signal,
)

CHUNK = 65_536
MOUNTS = tuple(MountConfig(name=f"c{i}", angle_deg=36.0 * i) for i in range(10))
FAULT = GrowthConfig(starts_s=0, fails_s=600)
SIGNALS: dict[str, SignalConfig] = {
    "healthy": RotatingConfig(mounts=MOUNTS),
    "gear and broken bearing": RotatingConfig(mounts=MOUNTS, gear=GearConfig(), fault=FAULT),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each signal."""
    args = _parser().parse_args(argv)
    for name, config in SIGNALS.items():
        signal = build_signal(config, seed=1)
        count = round(args.hours * 3600 * signal.rate_hz)
        seconds = _read(signal, count)
        values = count * len(signal.channels)
        print(f"{name:24} {values:>12,} values {seconds:8.2f} s {values / seconds:>14,.0f} /s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=float, default=1.0, help="event time of each signal")
    return parser


def _read(signal: Signal, count: int) -> float:
    """Return how many seconds it takes to read a signal from its beginning."""
    began_s = time.perf_counter()
    for first in range(0, count, CHUNK):
        signal.read(first, min(CHUNK, count - first))
    return time.perf_counter() - began_s


if __name__ == "__main__":
    sys.exit(main())
