"""Whether what a device says of its board can be true; a device may err, or lie."""

from __future__ import annotations

import hashlib
import re

from edge_cloud.registry import Registry
from edge_runtime.boards import BOARDS
from edge_runtime.bundle import Bundle, artefact_kind
from edge_runtime.errors import EdgeError
from edge_runtime.sync.board_times import is_time
from edge_runtime.sync.messages import BoardTimes, FileTime

__all__ = ["unfit"]

_MACHINE = re.compile(r"[0-9a-f]{12}")


def unfit(times: BoardTimes, runs: str | None, registry: Registry) -> str:
    """Return why times do not count; empty if they may.

    Args:
        times: What a device says it has measured.
        runs: Digest of the base that it says it runs there.
        registry: Knows the files of every base.
    """
    if times.base != runs:
        return f"it is of base {times.base[:16]!r}, but the device runs {(runs or '')[:16]!r}"
    if times.board not in BOARDS:
        return f"there is no board {times.board!r}; expected one of {', '.join(BOARDS)}"
    if not _MACHINE.fullmatch(times.machine):
        return f"machine is {times.machine!r}; expected the 12 hex digits of its key"
    # What a device says becomes part of a path only after the catalogue has known it.
    if registry.entry(times.base) is None:
        return f"base {times.base[:16]!r} is not in the registry; list it under 'bundles'"
    try:
        return _unfit_files(times.files, registry.bundle(times.base))
    except EdgeError as error:
        return f"the base cannot be looked at: {error.what}"


def _unfit_files(files: tuple[FileTime, ...], bundle: Bundle) -> str:
    known = {
        hashlib.sha256(bundle.files[one.file]).hexdigest(): one for one in bundle.spec.artefacts
    }
    named = {(one.sha256, one.backend) for one in files}
    if not files or len(named) < len(files):
        return f"it names {len(files)} files; expected one or more, each once"
    for one in files:
        artefact = known.get(one.sha256)
        if artefact is None:
            return f"file {one.sha256[:16]!r} is none of {bundle.ref}"
        if artefact_kind(one.backend) != artefact_kind(artefact.backend):
            return f"backend {one.backend!r} does not run {artefact.file}"
        if not is_time(one.engine_us):
            return f"{artefact.file} took {one.engine_us:g} µs; expected 0.01 to 60,000,000"
    return ""
