"""The number by which a machine is told from others, as it knows it itself."""

from __future__ import annotations

from pathlib import Path

__all__ = ["machine_serial"]

# A board's own number survives a new card; the number of an installation does not.
_PLACES = (Path("/proc/device-tree/serial-number"), Path("/etc/machine-id"))


def machine_serial(places: tuple[Path, ...] = _PLACES) -> str | None:
    """Return the board's serial number, else the installation's; None where there is neither."""
    for place in places:
        try:
            serial = place.read_text(errors="replace").strip("\0 \n")
        except OSError:
            continue
        if serial:
            return serial[:128]
    return None
