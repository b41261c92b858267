"""What an outbox holds, by stream, and who has to make room."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edge_runtime.sync.frames import kept_rows

if TYPE_CHECKING:
    from edge_runtime.config import Limits, OutboxConfig

__all__ = ["Excess", "Holdings"]

log = logging.getLogger(__name__)

_MIB = 1 << 20
_EVICT_ABOVE = 0.95
_EVICT_TO = 0.90
_WARN_ABOVE = 0.80


class Excess(msgspec.Struct, frozen=True):
    """Streams that hold more than they may together.

    Attributes:
        streams: Outbox streams.
        bytes: What is to be freed of them.
        spare_bytes: So much of that may stay, and all fits none the less.
    """

    streams: tuple[str, ...]
    bytes: float
    spare_bytes: float


class Holdings:
    """Counts what is stored; the caller stores and drops.

    Args:
        config: Quota of the device, and what holds for streams without limits of their own.
        limits: By outbox stream.

    Attributes:
        rows: Rows that wait, without gaps.
        quota_bytes: Of the device.
    """

    def __init__(self, config: OutboxConfig, limits: Mapping[str, Limits]) -> None:
        self._config = config
        self._limits = limits
        self._bytes: Counter[str] = Counter()
        self._is_nearly_full = False
        self.rows = 0
        self.quota_bytes = config.quota_mb * _MIB

    @property
    def bytes(self) -> int:
        """Bytes of everything that is held."""
        return self._bytes.total()

    @property
    def streams(self) -> tuple[str, ...]:
        """Outbox streams that hold something, or did."""
        return tuple(self._bytes)

    def limit(self, stream: str) -> Limits:
        """Return what holds for the rows of an outbox stream."""
        return self._limits.get(stream) or self._config.limits(stream)

    def may_drop(self, stream: str) -> bool:
        """Whether a stream makes room, or would rather wait."""
        return self.limit(stream).policy != "block"

    def add(self, stream: str, size: int, rows: int) -> None:
        """Note bytes and rows that came, or left where they are negative."""
        self._bytes[stream] += size
        self.rows += rows

    def add_blocks(self, blocks: Iterable[Any], sign: int = 1) -> None:
        """Note blocks that came, or with a sign of -1 left."""
        for row in blocks:
            is_gap = row["kind"] == "gap"
            rows = 0 if is_gap else kept_rows(row["seq0"], row["n"], row["every"])
            self.add(row["stream"], sign * row["bytes"], sign * rows)
        self._note_fill()

    def excesses(self, coming: Iterable[Any]) -> Iterator[Excess]:
        """Return who holds too much with the blocks that come; asked again after each.

        Streams with quotas of their own first, then the device.
        """
        wanted: Counter[str] = Counter()
        for row in coming:
            wanted[row["stream"]] += row["bytes"]
        for streams, quota in self._quotas(wanted):
            used = sum(self._bytes[name] + wanted[name] for name in streams)
            if used > _EVICT_ABOVE * quota:
                yield Excess(streams, used - _EVICT_TO * quota, (1 - _EVICT_TO) * quota)

    def _quotas(self, wanted: Mapping[str, int]) -> Iterator[tuple[tuple[str, ...], int]]:
        owners = {each.owner: each.quota_bytes for each in self._limits.values()}
        for owner, quota in owners.items():
            if quota is not None:
                same = (name for name, each in self._limits.items() if each.owner == owner)
                yield tuple(same), quota
        yield tuple(dict.fromkeys((*self._bytes, *wanted))), self.quota_bytes

    def ranks(self, streams: Iterable[str]) -> list[list[str]]:
        """Return the streams that make room, those first that do it first."""
        ranks: dict[int, list[str]] = {}
        for name in streams:
            if self.may_drop(name):
                ranks.setdefault(self.limit(name).rank, []).append(name)
        return [names for _, names in sorted(ranks.items())]

    def holds_back(self, streams: Iterable[str]) -> bool:
        """Whether some of these hold rows that may not be dropped."""
        return any(self._bytes[name] and not self.may_drop(name) for name in streams)

    def _note_fill(self) -> None:
        used = self.bytes
        if (used > _WARN_ABOVE * self.quota_bytes) != self._is_nearly_full:
            self._is_nearly_full = not self._is_nearly_full
            event = "outbox.nearly_full" if self._is_nearly_full else "outbox.has_room"
            log.warning(event, extra={"bytes": used, "quota_mb": self._config.quota_mb})
