"""Board, operating system, heat and power.

All of it is read below ``root``, so that a copy of another machine's files can be
looked at too.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.boards import board_here
from edge_runtime.doctor.finding import Finding

__all__ = ["look_at_board", "look_at_heat", "look_at_power", "look_at_system"]

_GLIBC_FLOOR = (2, 34)
_WARM_C, _HOT_C = 70.0, 80.0
_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"

_NOW = {0: "under-voltage", 1: "the clock is capped", 2: "throttled", 3: "the soft heat limit"}
_SINCE_BOOT = 16


def look_at_board(root: Path = Path("/")) -> Iterator[Finding]:
    """Say which board this is, and what it is known for."""
    model = root / "proc/device-tree/model"
    told = _text(model)
    board = board_here(model)
    what = f"{told or 'no device tree'}: {board.title}"
    yield Finding("board", "warning" if board.note else "ok", what, board.note)


def look_at_system(
    root: Path = Path("/"), libc: tuple[str, str] | None = None
) -> Iterator[Finding]:
    """Say whether the operating system carries the wheels we need."""
    yield Finding("system", "ok", f"{_os_name(root)}, Linux {platform.release()}")
    name, number = platform.libc_ver() if libc is None else libc
    floor = ".".join(map(str, _GLIBC_FLOOR))
    if name != "glibc":
        yield Finding(
            "libc",
            "unknown" if sys.platform != "linux" else "problem",
            name or "not glibc",
            f"Wheels of the runtimes need glibc {floor}: take Debian 12 or newer.",
        )
    elif tuple(map(int, number.split("."))) < _GLIBC_FLOOR:
        yield Finding(
            "libc",
            "problem",
            f"glibc {number}",
            f"ai-edge-litert installs here and fails when it loads: it needs glibc {floor}. "
            "Take Debian 12 (Bookworm) or newer.",
        )
    else:
        yield Finding("libc", "ok", f"glibc {number}")
    is_mixed = platform.machine() == "aarch64" and sys.maxsize < 2**32
    if is_mixed:
        yield Finding(
            "python",
            "problem",
            "a 32-bit Python on a 64-bit kernel",
            "Install the 64-bit system: there are no 32-bit wheels of the runtimes.",
        )


def look_at_heat(root: Path = Path("/")) -> Iterator[Finding]:
    """Say how warm it is."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    read = {zone: _text(zone / "temp") for zone in zones}
    celsius = {
        _text(zone / "type") or zone.name: int(text) / 1000
        for zone, text in read.items()
        if text.lstrip("-").isdecimal()
    }
    if not celsius:
        yield Finding("heat", "unknown", "no thermal zone can be read")
        return
    name, hottest = max(celsius.items(), key=lambda pair: pair[1])
    what = f"{hottest:.0f} °C ({name})"
    if hottest >= _HOT_C:
        yield Finding("heat", "problem", what, "It is about to throttle: cool it, or ask it less.")
    elif hottest >= _WARM_C:
        yield Finding("heat", "warning", what, "Leave air around it; a heat sink helps.")
    else:
        yield Finding("heat", "ok", what)


def look_at_power(root: Path = Path("/")) -> Iterator[Finding]:
    """Say what a Raspberry Pi's firmware says of its supply; nothing on other boards.

    Source: Raspberry Pi documentation, vcgencmd get_throttled: bits 0 to 3 are now,
    bits 16 to 19 since boot.
    """
    text = _text(root / _THROTTLED)
    if not text:
        return
    bits = int(text, 16)
    now = [word for bit, word in _NOW.items() if bits >> bit & 1]
    before = [word for bit, word in _NOW.items() if bits >> (bit + _SINCE_BOOT) & 1]
    remedy = "Use the board's own power supply and a short cable; cool it."
    if now:
        yield Finding("power", "problem", f"now: {', '.join(now)}", remedy)
    elif before:
        yield Finding("power", "warning", f"since boot: {', '.join(before)}", remedy)
    else:
        yield Finding("power", "ok", "no under-voltage and no throttling since boot")


def _os_name(root: Path) -> str:
    lines = _text(root / "etc/os-release").splitlines()
    named = dict(line.split("=", 1) for line in lines if "=" in line)
    return named.get("PRETTY_NAME", os.uname().sysname).strip('"')


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""
