"""Keeps what devices say of their boards: a small file for each device, base and machine."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from pathlib import Path

import msgspec

from edge_cloud.boards.judge import unfit
from edge_cloud.registry import Registry
from edge_cloud.segments import write_durably
from edge_runtime.clock import SystemClock
from edge_runtime.errors import StoreError
from edge_runtime.ports import Clock
from edge_runtime.sync.board_times import BOARDS, DeviceTimes
from edge_runtime.sync.messages import BoardTimes, Life
from edge_runtime.types import check_name

__all__ = ["Boards"]

log = logging.getLogger(__name__)

# A board runs a few bases on a few versions of the runtimes; more is somebody's invention.
_MOST_OF_DEVICE = 32


class Boards:
    """Takes times from what devices say of themselves; used by one thread.

    Delivery: a device says all of it at every connection, so what could not be kept comes
    again.

    Args:
        store: Folder of the store.
        registry: Knows the files of every base.
        clock: For the time of arrival.
    """

    def __init__(self, store: Path, registry: Registry, *, clock: Clock | None = None) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock or SystemClock()

    def note(self, life: Life) -> None:
        """Keep what a device says its board took, with the reason where it does not count."""
        for stream, times in life.board_times.items():
            try:
                self._note(life.device, times, life.base.get(stream))
            except StoreError as error:
                log.error("boards.not_kept", extra={"device": life.device, "why": str(error)})

    def _note(self, device: str, times: BoardTimes, runs: str | None) -> None:
        folder = self._store / BOARDS / check_name(device, "device")
        # Its own words never become a name of a file.
        name = hashlib.sha256(f"{times.base}/{times.machine}".encode()).hexdigest()[:16]
        path = folder / f"{name}.json"
        before = _kept(path)
        refused = unfit(times, runs, self._registry)
        if refused:
            # Odd figures are nobody's to read, and JSON has no NaN.
            times = msgspec.structs.replace(times, files=())
        if before is not None and (before.times, before.refused) == (times, refused):
            return
        if refused:
            log.warning("boards.refused", extra={"device": device, "why": refused})
        told = DeviceTimes(device, self._clock.now_ns(), times, refused)
        write_durably([(path, msgspec.json.encode(told))])
        _drop_oldest(folder)


def _kept(path: Path) -> DeviceTimes | None:
    """Return what is in a file; a damaged one is as good as none, for it is written anew."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=DeviceTimes)
    except (OSError, ValueError):
        return None


def _drop_oldest(folder: Path) -> None:
    # Another process may delete them meanwhile; what stays too many is dropped the next time.
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[:-_MOST_OF_DEVICE]:
            path.unlink(missing_ok=True)
