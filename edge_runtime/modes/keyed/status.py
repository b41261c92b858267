"""What a keyed stream is doing: totals over all devices, and none of a single one."""

from __future__ import annotations

import msgspec

from edge_runtime.ports import SourceHealth

__all__ = ["KeyedStatus"]


class KeyedStatus(msgspec.Struct, frozen=True):
    """A keyed stream right now.

    Attributes:
        stream: Its name.
        position: Index of the next sample to read.
        base: Digest of the base.
        effective_id: Identity of base and layers.
        devices: Keys that are known, those of earlier runs included.
        live: Of these, in memory.
        evicted: How often one was put away to make room, since start.
        estimates: Windows scored since start.
        decisions: Decisions made since start.
        discarded: Samples and windows that gave no result since start, by reason.
        withheld: Windows too uncertain to start or end a label since start, by label.
        bridged: Slots of the grid that the gap policy gave a value since start.
        stages: Windows of a cascade since start, by the stage that answered them.
        suspect: Windows scored since start with something suspect, by what it is.
        unusable: Snapshots that could not be used; their devices began anew.
        restarts: Times the source failed and was opened again.
        source: What a live source has noticed.
        blocks_lost: Blocks that a sink did not take.
    """

    stream: str
    position: int = 0
    base: str = ""
    effective_id: str = ""
    devices: int = 0
    live: int = 0
    evicted: int = 0
    estimates: int = 0
    decisions: int = 0
    discarded: dict[str, int] = {}
    withheld: dict[str, int] = {}
    bridged: int = 0
    stages: dict[str, int] = {}
    suspect: dict[str, int] = {}
    unusable: int = 0
    restarts: int = 0
    source: SourceHealth = SourceHealth()
    blocks_lost: int = 0
