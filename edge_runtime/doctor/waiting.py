"""What a device's outbox says about its card: wear, losses, files that were corrupt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from edge_runtime.doctor.finding import Finding
from edge_runtime.errors import EdgeError
from edge_runtime.sync.reading import OutboxReader, Wait

__all__ = ["look_at_outbox"]

_MIB = 1 << 20
# A card of 32 GB whose cells stand 500 writes lasts four years at this.
_MUCH_BYTES = 10 << 30


def look_at_outbox(folder: Path) -> Iterator[Finding]:
    """Say what waits, what is written in a day, and which files were set aside.

    Args:
        folder: The device's state folder; nothing is said before it has an outbox.
    """
    if not (folder / "outbox.db").exists():
        return
    try:
        with closing(OutboxReader(folder)) as reader:
            wait = reader.wait()
    except EdgeError as error:
        yield Finding("outbox", "problem", error.what, error.remedy)
        return
    yield _waiting(wait)
    if wait.wear_bytes_per_day is not None:
        yield _wear(wait.wear_bytes_per_day, wait.wear_ran_s)


def _waiting(wait: Wait) -> Finding:
    what = f"{wait.rows} rows wait, gaps of {wait.gap_rows}"
    if not wait.set_aside:
        return Finding("outbox", "ok", what)
    return Finding(
        "outbox",
        "warning",
        f"{what}; {len(wait.set_aside)} corrupt files were set aside, last {wait.set_aside[-1]}",
        "A card that corrupts files is dying, or loses power while it writes: replace it, "
        "then remove these files.",
    )


def _wear(bytes_per_day: int, ran_s: float) -> Finding:
    what = f"{bytes_per_day / _MIB:.0f} MiB a day go to both databases, over {ran_s / 3600:.1f} h"
    if bytes_per_day < _MUCH_BYTES:
        return Finding("wear", "ok", what)
    return Finding(
        "wear",
        "warning",
        what,
        "A larger outbox.commit_s writes less, and so does upload: decisions.",
    )
