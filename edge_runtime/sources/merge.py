"""Several sources as one stream: each delivers some of the channels, the others are NaN."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Annotated, Any, cast

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime import registry
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.ports import LiveSource, Source, SourceHealth
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame

__all__ = ["MergeConfig", "MergePart", "MergeSource"]

# Frames of each live source that may wait; when full, it waits (policy: block).
_WAITING = 8
_READ_S = 0.5


class MergePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the sources.

    Attributes:
        source: ``kind`` and the options of that source.
        channels: Which of the stream's channels it delivers.
        rate_hz: Its samples a second; None for the model's.
    """

    source: dict[str, Any]
    channels: Annotated[tuple[str, ...], Meta(min_length=1)]
    rate_hz: Annotated[float, Meta(gt=0)] | None = None


class MergeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of sources that share a stream.

    Attributes:
        sources: Which ones.
    """

    sources: Annotated[tuple[MergePart, ...], Meta(min_length=2, max_length=64)]

    @property
    def declared_channels(self) -> tuple[str, ...]:
        """Channels that come from anywhere."""
        return tuple(dict.fromkeys(name for part in self.sources for name in part.channels))


class MergeSource:
    """Delivers the samples of several sources, each with its own times.

    Delivery: of recordings alone, rows come in the order of their times and can be
    replayed; as soon as one of them is live, all come as they arrive and none is
    replayed. Thread: one reads, any may close; each live source has one of its own.

    Args:
        config: Options.
        sources: Used in place of those that ``config`` names, in the same order.
    """

    Config = MergeConfig
    parts = "sources"
    """Option whose entries hold a source each, for whoever resolves their options."""

    def __init__(self, config: MergeConfig, *, sources: Sequence[Source] | None = None) -> None:
        self._config = config
        self._sources = sources or [_created(part) for part in config.sources]
        self._is_live = any(hasattr(source, "health") for source in self._sources)
        if self._is_live:
            self.health = self._health
        self._reading: _InOrder | _AsTheyCome | None = None
        self._stream = ""
        self._skip = self._index = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether every recording has ended; always False with a live source."""
        reading = self._reading
        return not self._is_live and reading is not None and reading.is_exhausted

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Open all of them.

        Raises:
            ConfigError: The model has no grid, or channels do not fit.
            SourceError: One of them cannot be read.
        """
        self._check(need, stream)
        self._stream, self._index = stream, index
        self._skip = 0 if self._is_live else index
        places = [_places(part, need) for part in self._config.sources]
        parts = zip(self._sources, self._config.sources, places, strict=True)
        for source, part, own in parts:
            source.open(stream, _need_of(part, need, own), 0)
        pairs = list(zip(self._sources, places, strict=True))
        kind = _AsTheyCome if self._is_live else _InOrder
        self._reading = kind(pairs, len(need.channels))

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next block, or None if none came within ``timeout_s``.

        Raises:
            SourceError: One of them failed.
        """
        reading = self._reading
        while reading is not None and (block := reading.read(timeout_s)) is not None:
            time_ns, samples = block
            skipped = min(self._skip, len(time_ns))
            self._skip -= skipped
            if skipped < len(time_ns):
                first = self._index
                self._index += len(time_ns) - skipped
                return Frame(self._stream, first, time_ns[skipped:], samples[skipped:])
        return None

    def close(self) -> None:
        """Close all of them; safe to call twice and from any thread."""
        reading, self._reading = self._reading, None
        for source in self._sources:
            source.close()
        if isinstance(reading, _AsTheyCome):
            reading.close()

    def _health(self) -> SourceHealth:
        """Return what all live ones have noticed."""
        live = [source for source in self._sources if hasattr(source, "health")]
        found = [cast(LiveSource, source).health() for source in live]
        faults: dict[str, int] = {}
        for one in found:
            for reason, count in one.faults.items():
                faults[reason] = faults.get(reason, 0) + count
        return SourceHealth(
            sum(one.lost_samples for one in found), max(one.jitter_s for one in found), faults
        )

    def _check(self, need: StreamSpec, stream: str) -> None:
        if need.grid is None:
            raise ConfigError(
                "several sources are merged for a model without a grid",
                where=stream,
                expected="stream.grid in bundle.yaml, which puts their samples on one clock",
                remedy="Give each source a stream of its own, or choose another model.",
            )
        unknown = [name for name in self._config.declared_channels if name not in need.names]
        missing = [name for name in need.names if name not in self._config.declared_channels]
        if unknown or missing:
            raise ConfigError(
                f"sources deliver the channels {', '.join(self._config.declared_channels)}",
                where=stream,
                expected=", ".join(need.names),
                remedy="Correct the keys 'channels' of the merged sources.",
            )


_Part = tuple[Source, np.ndarray]
_Block = tuple[np.ndarray, np.ndarray]


class _InOrder:
    """Rows of recordings in the order of their times, then of the recordings.

    A row counts as late as the latest one before it in its recording, so that every
    recording keeps its own order, and how it comes in frames does not matter.
    """

    def __init__(self, parts: Sequence[_Part], channels: int) -> None:
        self._parts = parts
        self._channels = channels
        none = np.empty(0, np.int64), np.empty((0, channels))
        self._waiting = [none for _ in parts]
        self._keys = [np.empty(0, np.int64) for _ in parts]
        self._latest: list[int | None] = [None for _ in parts]

    @property
    def is_exhausted(self) -> bool:
        return not any(map(len, self._keys)) and all(one.is_exhausted for one, _ in self._parts)

    def read(self, timeout_s: float) -> _Block | None:
        while not (block := self._ready()):
            number = self._next()
            if number is None:
                return None
            frame = self._parts[number][0].read(timeout_s)
            if frame is not None:
                self._add(number, frame)
            elif not self._parts[number][0].is_exhausted:
                return None
        return block

    def _next(self) -> int | None:
        """Return the recording that holds the others up."""
        open_ = [n for n, (source, _) in enumerate(self._parts) if not source.is_exhausted]
        silent = [number for number in open_ if self._latest[number] is None]
        return silent[0] if silent else min(open_, key=lambda n: self._latest[n] or 0, default=None)

    def _add(self, number: int, frame: Frame) -> None:
        samples = _spread(frame.samples, self._parts[number][1], self._channels)
        keys = np.maximum.accumulate(frame.time_ns)
        before = self._latest[number]
        keys = keys if before is None else np.maximum(keys, before)
        time_ns, waiting = self._waiting[number]
        self._waiting[number] = (
            np.concatenate((time_ns, frame.time_ns)),
            np.concatenate((waiting, samples)),
        )
        self._keys[number] = np.concatenate((self._keys[number], keys))
        self._latest[number] = int(keys[-1])

    def _ready(self) -> _Block | None:
        """Return rows that nothing can come before."""
        bounds = [
            self._latest[n] for n, (source, _) in enumerate(self._parts) if not source.is_exhausted
        ]
        if None in bounds:
            return None
        bound = min((one for one in bounds if one is not None), default=None)
        counts = [
            len(keys) if bound is None else int(np.searchsorted(keys, bound)) for keys in self._keys
        ]
        if not any(counts):
            return None
        pairs = list(zip(self._waiting, counts, strict=True))
        taken = np.concatenate([k[:n] for k, n in zip(self._keys, counts, strict=True)])
        order = np.argsort(taken, kind="stable")
        time_ns = np.concatenate([rows[0][:n] for rows, n in pairs])[order]
        samples = np.concatenate([rows[1][:n] for rows, n in pairs])[order]
        self._waiting = [(rows[0][n:], rows[1][n:]) for rows, n in pairs]
        self._keys = [keys[n:] for keys, n in zip(self._keys, counts, strict=True)]
        return time_ns, samples


class _AsTheyCome:
    """Frames of live sources, each read by a thread of its own."""

    is_exhausted = False

    def __init__(self, parts: Sequence[_Part], channels: int) -> None:
        self._channels = channels
        self._queue: queue.Queue[_Block | SourceError | None] = queue.Queue(_WAITING * len(parts))
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=part, name="merge", daemon=True)
            for part in parts
        ]
        for thread in self._threads:
            thread.start()

    def read(self, timeout_s: float) -> _Block | None:
        try:
            item = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(item, SourceError):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        if self._queue.empty():
            # Somebody may be waiting in read.
            self._queue.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _run(self, source: Source, places: np.ndarray) -> None:
        while not (self._stop.is_set() or source.is_exhausted):
            try:
                frame = source.read(_READ_S)
            except SourceError as error:
                self._put(error)
                return
            if frame is not None:
                self._put((frame.time_ns, _spread(frame.samples, places, self._channels)))

    def _put(self, item: _Block | SourceError) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_READ_S)
            except queue.Full:
                continue
            return


def _created(part: MergePart) -> Source:
    options = dict(part.source)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError(
            "a merged source has no kind", expected="kind: NAME", remedy="Add the key 'kind'."
        )
    return cast(Source, registry.create("sources", kind, options, "sources"))


def _places(part: MergePart, need: StreamSpec) -> np.ndarray:
    """Return where the channels of a part stand in the stream."""
    return np.array([place for place, name in enumerate(need.names) if name in part.channels])


def _need_of(part: MergePart, need: StreamSpec, places: np.ndarray) -> StreamSpec:
    channels = tuple(need.channels[place] for place in places.tolist())
    rate_hz = part.rate_hz or need.rate_hz
    return msgspec.structs.replace(need, channels=channels, rate_hz=rate_hz)


def _spread(samples: np.ndarray, places: np.ndarray, channels: int) -> np.ndarray:
    spread = np.full((len(samples), channels), np.nan)
    spread[:, places] = samples
    return spread
