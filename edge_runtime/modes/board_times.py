"""What this board took for the files of a base, told to the cloud with what runs."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.profiles import Measured, find_profile
from edge_runtime.sync.messages import BoardTimes, FileTime

__all__ = ["board_times"]

_MOST_FILES = 16
_LONGEST_NAME = 128


def board_times(base: str, profiles: Path) -> BoardTimes | None:
    """Return what ``edge-runtime tune`` found here; None where it did not, or kept no times.

    Only what ran on one thread of the processor is told: that is what other boards of the
    kind can be compared by.

    Args:
        base: Digest of the base.
        profiles: Folder of the device's own profiles; the user's are looked at after it.
    """
    profile = find_profile(base, profiles)
    if profile is None or not profile.board:
        return None
    files = tuple(
        FileTime(one.sha256, one.choice.backend or "", one.engine_us)
        for one in profile.ranked
        if _is_comparable(one)
    )
    if not files:
        return None
    return BoardTimes(
        base=base,
        board=profile.board,
        machine=profile.machine.key,
        processor=profile.machine.processor[:_LONGEST_NAME],
        made_ns=profile.made_ns,
        files=files[:_MOST_FILES],
    )


def _is_comparable(one: Measured) -> bool:
    is_plain = one.choice.threads == 1 and one.choice.accelerator is None
    return is_plain and one.engine_us > 0 and bool(one.sha256)
