"""The clock: what keeps it, and whether it can be believed."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.clock import SystemClock, clock_quality
from edge_runtime.doctor.finding import Finding
from edge_runtime.ports import Clock
from edge_runtime.types import ClockQuality

__all__ = ["look_at_clock"]

# No edge-runtime was there before.
_EARLIEST_NS = 1_767_225_600 * 10**9


def look_at_clock(
    root: Path = Path("/"), clock: Clock | None = None, quality: ClockQuality | None = None
) -> Iterator[Finding]:
    """Say what time it is here, who says so, and whether a power cut loses it."""
    now_ns = (clock or SystemClock()).now_ns()
    quality = quality or clock_quality()
    now = datetime.datetime.fromtimestamp(now_ns // 10**9, datetime.UTC)
    has_rtc = (root / "dev/rtc0").exists() or (root / "dev/rtc").exists()
    what = f"{now:%Y-%m-%d %H:%M:%S} UTC, {'synchronised' if quality == 'ntp' else 'unsynced'}"
    if now_ns < _EARLIEST_NS:
        yield Finding(
            "clock",
            "problem",
            f"{what}: it was never set",
            "Streams go on and their times jump once it is set; let systemd-timesyncd or chrony "
            "reach a time server, or fit a real-time clock.",
        )
    elif quality != "ntp":
        yield Finding(
            "clock",
            "warning",
            what,
            "Start systemd-timesyncd or chrony: `timedatectl set-ntp true`.",
        )
    else:
        yield Finding("clock", "ok", what)
    source = root / "sys/devices/system/clocksource/clocksource0/current_clocksource"
    kept = "kept by a real-time clock" if has_rtc else "lost in a power cut: no real-time clock"
    if source.exists():
        yield Finding("clock", "ok", f"counted by {source.read_text().strip()}; {kept}")
