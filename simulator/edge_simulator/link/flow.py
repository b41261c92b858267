"""What happens to the bytes of one direction of a connection: lost, doubled, damaged, swapped.

In units of bytes a stream is cut every 256 bytes, wherever its writer paused, so that
the same seed hits the same bytes. MQTT notices: the peers hang up and begin anew. In
units of packets whole PUBLISH packets are hit, and everything else passes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_simulator.link.packets import Splitter, is_publish, tail_of, truncated

__all__ = ["Chances", "Flow", "Hits", "Unit"]

Unit = Literal["bytes", "packets"]
"""What is hit: stretches of the stream, or whole PUBLISH packets."""

_Share = Annotated[float, Meta(ge=0.0, le=1.0)]
_STRETCH_BYTES = 256


class Chances(msgspec.Struct, frozen=True, kw_only=True):
    """How likely each unit is hit, from 0 to 1.

    Attributes:
        drop: It is lost.
        duplicate: It comes twice.
        reorder: It comes after its successor.
        truncate: Its end is missing; packets only.
        corrupt: One bit is flipped: of a packet behind its topic, or of each byte.
    """

    drop: _Share = 0.0
    duplicate: _Share = 0.0
    reorder: _Share = 0.0
    truncate: _Share = 0.0
    corrupt: _Share = 0.0


class Hits(msgspec.Struct):
    """How often something was hit since the link was made.

    Attributes:
        dropped: Units lost.
        duplicated: Units that came twice.
        reordered: Units that came late.
        truncated: Packets without their end.
        corrupted: Bits flipped.
    """

    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0
    truncated: int = 0
    corrupted: int = 0


class Flow:
    """One direction of one connection.

    Args:
        unit: What is hit.
        seed: With the units' order alone it decides which.
        hits: Counts.
    """

    def __init__(self, unit: Unit, seed: str, hits: Hits) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable faults, no secrets
        self._hits = hits
        self._splitter = Splitter() if unit == "packets" else None
        self._stretch = bytearray()
        self._fate = Chances()
        self._late: list[bytes] = []
        self._damage = _Damage(self._random, 0.0)

    def push(self, piece: bytes, chances: Chances) -> Iterator[bytes]:
        """Take bytes as they come, and yield what the other side gets."""
        if self._splitter is None:
            yield from self._stretches(piece, chances)
            return
        for packet in self._splitter.push(piece):
            if is_publish(packet):
                yield from self._hit(packet, chances)
            else:
                # Nothing overtakes what opens or ends a session.
                yield from self._overdue()
                yield packet

    # --- packets ---------------------------------------------------------------------

    def _hit(self, packet: bytes, chances: Chances) -> Iterator[bytes]:
        if self._draws(chances.drop):
            self._hits.dropped += 1
            return
        if self._draws(chances.reorder):
            self._hits.reordered += 1
            self._late.append(packet)
            return
        packet = self._harmed(packet, chances)
        yield packet
        if self._draws(chances.duplicate):
            self._hits.duplicated += 1
            yield packet
        yield from self._overdue()

    def _harmed(self, packet: bytes, chances: Chances) -> bytes:
        tail = tail_of(packet)
        # Behind the topic two bytes may be the packet's id; without it it is no packet.
        first, count = tail + 2, len(packet) - tail - 2
        if count > 0 and self._draws(chances.truncate):
            self._hits.truncated += 1
            packet = truncated(packet, 2 + self._random.randrange(count))
        elif count > 0 and self._draws(chances.corrupt):
            self._hits.corrupted += 1
            damaged = bytearray(packet)
            damaged[first + self._random.randrange(count)] ^= 1 << self._random.randrange(8)
            packet = bytes(damaged)
        return packet

    def _overdue(self) -> Iterator[bytes]:
        late, self._late = self._late, []
        yield from late

    # --- bytes -----------------------------------------------------------------------

    def _stretches(self, piece: bytes, chances: Chances) -> Iterator[bytes]:
        """Pass bytes on at once, and decide at the start of each stretch what becomes of it."""
        while piece:
            if not self._stretch:
                self._fate = self._drawn(chances)
            part = piece[: _STRETCH_BYTES - len(self._stretch)]
            piece = piece[len(part) :]
            self._stretch += part
            is_held = self._fate.drop or self._fate.reorder
            if not is_held:
                yield self._damaged(part, chances)
            if len(self._stretch) == _STRETCH_BYTES:
                yield from self._finished(chances)

    def _drawn(self, chances: Chances) -> Chances:
        """Return certainties."""
        return Chances(
            drop=float(self._draws(chances.drop)),
            duplicate=float(self._draws(chances.duplicate)),
            reorder=float(self._draws(chances.reorder)),
        )

    def _finished(self, chances: Chances) -> Iterator[bytes]:
        stretch, self._stretch = bytes(self._stretch), bytearray()
        if self._fate.drop:
            self._hits.dropped += 1
        elif self._fate.reorder:
            self._hits.reordered += 1
            self._late.append(stretch)
            return
        elif self._fate.duplicate:
            self._hits.duplicated += 1
            yield self._damaged(stretch, chances)
        yield from self._overdue()

    def _damaged(self, part: bytes, chances: Chances) -> bytes:
        if chances.corrupt != self._damage.rate:
            self._damage = _Damage(self._random, chances.corrupt)
        damaged, count = self._damage.apply(part)
        self._hits.corrupted += count
        return damaged

    def _draws(self, chance: float) -> bool:
        return chance > 0 and self._random.random() < chance


class _Damage:
    """Flips one bit in a share of all bytes, whatever pieces the bytes come in."""

    def __init__(self, chance: random.Random, rate: float) -> None:
        # Of its own, so that other draws do not shift it.
        self._random = random.Random(chance.random())  # noqa: S311 - repeatable faults
        self.rate = rate
        self._skip = self._gap()

    def apply(self, piece: bytes) -> tuple[bytes, int]:
        """Return the bytes as they arrive, and how many of them are hit."""
        if not self.rate:
            return piece, 0
        damaged = bytearray(piece)
        position, count = self._skip, 0
        while position < len(damaged):
            damaged[position] ^= 1 << self._random.randrange(8)
            position += 1 + self._gap()
            count += 1
        self._skip = position - len(damaged)
        return bytes(damaged), count

    def _gap(self) -> int:
        """Bytes left whole before the next damaged one: geometric."""
        if not 0 < self.rate < 1:
            return 0
        return int(math.log(1 - self._random.random()) / math.log(1 - self.rate))
