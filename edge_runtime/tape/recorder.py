"""Writes what a commit brings to the tape of its stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from edge_runtime.tape.entries import Answers, Entry, Origin, Silence, Standing, encode
from edge_runtime.tape.frames import Packer, Run
from edge_runtime.tape.ring import Ring

__all__ = ["Recorder", "Taken"]

# A standing is written again when so many windows have been answered, and its
# snapshot takes no more than a fifth of what is written.
_WINDOWS = 200
_SNAPSHOTS = 4


class Taken(msgspec.Struct, frozen=True, eq=False):
    """What a stream took in between two commits, and how it stood after.

    Attributes:
        items: Frames and silences in order; a standing where base or layers changed.
        position: Index of the next sample.
        next_index: See `Standing`.
        snapshot: Of the pipeline.
        answers: What came of it.
    """

    items: Sequence[Run | Silence | Standing]
    position: int
    next_index: int | None
    snapshot: bytes
    answers: Sequence[Answers]


class Recorder:
    """Keeps one stream's frames, and now and then how the pipeline stood.

    Delivery: what `write` kept survives the end of the process, and a power cut as
    far as the system had written it. Thread: one writes; any may read the counts.

    Args:
        ring: Takes the bytes.
        origin: Begins every segment.
        standing: How the stream stands before the first frame.

    Attributes:
        frames: Frames kept.
        discarded: Frames that were not, by reason.
    """

    def __init__(self, ring: Ring, origin: Origin, standing: Standing) -> None:
        self._ring = ring
        self._origin = origin
        self._standing = standing
        self._packer = Packer()
        self._windows = self._bytes = 0
        self.frames = 0
        self.discarded: Counter[str] = Counter()

    @property
    def size_bytes(self) -> int:
        """What the tape takes on the disk."""
        return self._ring.size_bytes

    def write(self, taken: Taken) -> None:
        """Keep this, or count what is not kept; raises nothing for want of a disk."""
        content = b"".join([encode(entry) for entry in self._entries(taken)])
        after = self._after(taken)
        self._windows += sum(len(one.index) // 8 for one in taken.answers)
        self._bytes += len(content)
        if self._is_due(after):
            content += encode(after)
            self._windows = self._bytes = 0
        frames = sum(len(item.frames) for item in taken.items if isinstance(item, Run))
        trouble = self._ring.append(content, self._beginning)
        if trouble is None:
            self.frames += frames
        else:
            self.discarded[trouble] += frames
        self._standing = after

    def give_back(self) -> None:
        """Free some of the disk for somebody who needs it more."""
        self._ring.give_back()

    def close(self) -> None:
        """Sync to the disk; safe to call twice."""
        self._ring.close()

    def _entries(self, taken: Taken) -> Iterator[Entry]:
        for item in taken.items:
            if isinstance(item, Run):
                yield from self._packer.stretches(item)
            else:
                yield item
        yield from taken.answers

    def _after(self, taken: Taken) -> Standing:
        standings = [item for item in taken.items if isinstance(item, Standing)]
        last = standings[-1] if standings else self._standing
        return msgspec.structs.replace(
            last,
            position=taken.position,
            next_index=taken.next_index,
            snapshot=taken.snapshot,
            change="none",
        )

    def _is_due(self, after: Standing) -> bool:
        return self._windows >= _WINDOWS and self._bytes >= _SNAPSHOTS * len(after.snapshot)

    def _beginning(self) -> bytes:
        return encode(self._origin) + encode(self._standing)
