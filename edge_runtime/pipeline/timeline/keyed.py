"""Many streams of many devices in one process, each as if it were alone."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from typing import Generic, Literal, TypeVar

import msgspec

from edge_runtime.errors import ModelError
from edge_runtime.pipeline.pipeline import Pipeline
from edge_runtime.pipeline.timeline.timed import TimedPipeline
from edge_runtime.types import Frame, Output

__all__ = ["KeyedPipelines", "Tally"]

Key = TypeVar("Key", bound=Hashable)
_Any = Pipeline | TimedPipeline
What = Literal["answered", "bridged", "discarded", "withheld"]

Tally = Counter[tuple[What, str]]
"""What pipelines count, all keys together: by what it is, and by reason, label or stage."""


class _Saved(msgspec.Struct, frozen=True):
    """A key that was put away.

    Attributes:
        samples: Samples of it so far: the index of its next one.
        base: Digest of the base that made the snapshot.
        snapshot: Of the pipeline.
    """

    samples: int
    base: str
    snapshot: bytes


class _Live(Generic[Key]):
    """A key in memory."""

    def __init__(self, pipeline: _Any, samples: int) -> None:
        self.pipeline = pipeline
        self.samples = samples
        self._before = _tally_of(pipeline)
        self.is_changed = False

    def add_to(self, tally: Tally) -> None:
        """Add what was counted since this key came into memory; late samples heal some of it."""
        tally.update(_tally_of(self.pipeline))
        tally.subtract(self._before)


class KeyedPipelines(Generic[Key]):
    """One pipeline for each key, such as a device and its stream; used by one thread.

    A key's results are those of its frames alone: each has its own state, its own
    watermark and its own count of samples, and nothing is asked of the others. Keys that
    were not used for longest are put away as snapshots, so that at most ``most_live``
    pipelines take memory.

    Args:
        make: Makes the pipeline of a key. Those of one model share its session; where
            the model keeps state each has a fork, which is closed when it is put away.
        most_live: Pipelines in memory.
        snapshots: Where snapshots are put, and stay; a mapping in memory, or on disk.

    Attributes:
        evicted: How often a key was put away to make room.
        unusable: Snapshots that were damaged, or of a base that has nothing in common
            with this one: their keys began anew.

    Raises:
        ValueError: ``most_live`` is below 1.
    """

    def __init__(
        self,
        make: Callable[[Key], _Any],
        *,
        most_live: int,
        snapshots: MutableMapping[Key, bytes] | None = None,
    ) -> None:
        if most_live < 1:
            raise ValueError(f"most_live is {most_live}, expected at least 1")
        self._make = make
        self._most_live = most_live
        self._live: OrderedDict[Key, _Live[Key]] = OrderedDict()
        self._snapshots: MutableMapping[Key, bytes] = {} if snapshots is None else snapshots
        self._count = len(self._snapshots)
        self._unsaved: set[Key] = set()
        self._gone: Tally = Counter()
        self.evicted = 0
        self.unusable = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: Key) -> bool:
        return key in self._live or key in self._snapshots

    def __iter__(self) -> Iterator[Key]:
        yield from self._unsaved
        yield from self._snapshots

    @property
    def live(self) -> int:
        """Pipelines in memory."""
        return len(self._live)

    @property
    def tally(self) -> Tally:
        """What all pipelines have counted since this object was made."""
        found = Counter(self._gone)
        for one in self._live.values():
            one.add_to(found)
        return found

    def push(self, key: Key, frame: Frame) -> Output:
        """Take a frame of one key; see `Pipeline.push`. Its samples are counted here."""
        one = self._entry(key)
        output = one.pipeline.push(msgspec.structs.replace(frame, index=one.samples, keys=None))
        one.samples += len(frame)
        return output

    def of(self, key: Key) -> _Any:
        """Return the pipeline of a key, woken or made; valid until the next key is asked for."""
        return self._entry(key).pipeline

    def _entry(self, key: Key) -> _Live[Key]:
        one = self._live.get(key)
        if one is None:
            self._make_room()
            one = self._live[key] = self._woken(key)
        self._live.move_to_end(key)
        one.is_changed = True
        return one

    def _woken(self, key: Key) -> _Live[Key]:
        pipeline = self._make(key)
        found = self._snapshots.get(key)
        if found is None:
            self._unsaved.add(key)
            self._count += 1
            return _Live(pipeline, 0)
        samples = 0
        try:
            saved = msgspec.msgpack.decode(found, type=_Saved)
            samples = saved.samples
            pipeline.restore(saved.snapshot, base=saved.base)
        except (msgspec.MsgspecError, ModelError):
            self.unusable += 1
        return _Live(pipeline, samples)

    def save(self) -> None:
        """Make a snapshot of every key that was used since its last one; all stay in memory."""
        for key, one in self._live.items():
            self._save(key, one)

    def put_away_all(self) -> None:
        """Make a snapshot of every key and let go of it, as at the end of a process."""
        self.save()
        self.let_go()

    def let_go(self) -> None:
        """Forget what is in memory since the last snapshots, and free it."""
        while self._live:
            self._let_go(*self._live.popitem())

    def _make_room(self) -> None:
        while len(self._live) >= self._most_live:
            self._put_away()
            self.evicted += 1

    def _put_away(self) -> None:
        """Let go of the key that was not used for longest."""
        key, one = next(iter(self._live.items()))
        self._save(key, one)
        del self._live[key]
        self._let_go(key, one)

    def _let_go(self, key: Key, one: _Live[Key]) -> None:
        if key in self._unsaved:
            self._unsaved.discard(key)
            self._count -= 1
        one.add_to(self._gone)
        if one.pipeline.scorer.has_memory:
            one.pipeline.scorer.session.close()

    def _save(self, key: Key, one: _Live[Key]) -> None:
        if not one.is_changed:
            return
        saved = _Saved(one.samples, one.pipeline.base, one.pipeline.snapshot())
        self._snapshots[key] = msgspec.msgpack.encode(saved)
        self._unsaved.discard(key)
        one.is_changed = False

    def finish(self) -> Iterator[tuple[Key, Output]]:
        """End every stream, and yield what each had left."""
        for key in list(self):
            pipeline = self.of(key)
            if not isinstance(pipeline, TimedPipeline):
                # All are of one kind, and nothing waits in any of them.
                return
            yield key, pipeline.finish()


def _tally_of(pipeline: _Any) -> Tally:
    tally: Tally = Counter({("discarded", why): n for why, n in pipeline.discarded.items()})
    tally.update({("withheld", label): n for label, n in pipeline.withheld.items()})
    tally.update({("answered", stage): n for stage, n in pipeline.answered.items()})
    if isinstance(pipeline, TimedPipeline):
        tally["bridged", ""] = pipeline.bridged
    return tally
