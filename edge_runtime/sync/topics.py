"""The topic tree, built and taken apart in one place.

::

    er/1/d/<device>/up/{life,last,tel/<stream>,job/<id>,blob,evt}   the device writes
    er/1/d/<device>/dn/{ack,job,blob,cmd}                           the device reads
    er/1/all/cloud                                                  is an ingest online (retained)

At most seven slashes, so that hosted brokers carry it as well.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.errors import ConfigError, WireError
from edge_runtime.types import check_name

__all__ = ["Address", "Topics"]

_VERSION = "1"
_MAX_TOPIC = 512


class Address(msgspec.Struct, frozen=True):
    """What a topic says.

    Attributes:
        way: ``up`` from a device, ``dn`` to a device, ``all`` for everybody.
        leaf: First level below the way: ``tel``, ``ack``, ``job``, ``cloud`` …
        device: Device id; empty for ``all``.
        name: Second level, such as a stream or a job id; empty without one.
    """

    way: Literal["up", "dn", "all"]
    leaf: str
    device: str = ""
    name: str = ""


class Topics(msgspec.Struct, frozen=True):
    """Topics below one root; two installations on one broker use two roots."""

    root: str = "er"

    def __post_init__(self) -> None:
        check_name(self.root, "topic root")

    @property
    def all_cloud(self) -> str:
        """Retained presence of the cloud (`CloudState`)."""
        return f"{self.root}/{_VERSION}/all/cloud"

    def up(self, device: str, leaf: str) -> str:
        """Topic that ``device`` writes; ``leaf`` such as ``life`` or ``job/<id>``."""
        return self._device(device, "up", leaf)

    def dn(self, device: str, leaf: str) -> str:
        """Topic that ``device`` reads; ``leaf`` such as ``ack``, or ``#`` for all of them."""
        return self._device(device, "dn", leaf)

    def tel(self, device: str, stream: str) -> str:
        """Topic of the frames of one outbox stream."""
        return self.up(device, f"tel/{check_name(stream, 'stream')}")

    def every_up(self, leaf: str) -> str:
        """Filter for ``leaf`` of every device, such as ``tel/+`` or ``life``; for the cloud."""
        return f"{self.root}/{_VERSION}/d/+/up/{leaf}"

    def shared(self, group: str, pattern: str) -> str:
        """Filter whose messages go to one member of a group each."""
        return f"$share/{check_name(group, 'group')}/{pattern}"

    def parse(self, topic: str) -> Address:
        """Take a topic apart.

        Raises:
            WireError: It is not of this tree, or a name in it breaks the grammar.
        """
        match topic[:_MAX_TOPIC].split("/"):
            case [self.root, "1", "all", leaf]:
                return Address(way="all", leaf=_checked(leaf, topic))
            case [self.root, "1", "d", device, "up" | "dn" as way, leaf, *rest] if len(rest) < 2:
                name = _checked(rest[0], topic) if rest else ""
                return Address(
                    way="up" if way == "up" else "dn",
                    leaf=_checked(leaf, topic),
                    device=_checked(device, topic),
                    name=name,
                )
        raise WireError("unknown topic", where=topic[:80], expected=f"{self.root}/1/d/<device>/…")

    def _device(self, device: str, way: str, leaf: str) -> str:
        return f"{self.root}/{_VERSION}/d/{check_name(device, 'device')}/{way}/{leaf}"


def _checked(name: str, topic: str) -> str:
    try:
        return check_name(name, "topic level")
    except ConfigError as error:
        raise WireError(error.what, where=topic[:80], expected=error.expected) from error
