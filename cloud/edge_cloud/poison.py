"""What ingest could not read: set aside, looked at by people, replayed or dropped.

An entry is ``<device>-<hash>.bin`` with the payload as it came, and ``.why`` beside it
with its topic and what is wrong. What comes again is kept once.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edge_runtime.errors import ConfigError, StoreError, WireError
from edge_runtime.ports import Message
from edge_runtime.sync.topics import Address

__all__ = ["Poison", "PoisonEntry"]

# Poison is for people to look at, not a second store.
_ENTRIES = 1000
_HASH_DIGITS = 12


class PoisonEntry(msgspec.Struct, frozen=True):
    """One message that was set aside.

    Attributes:
        name: How it is called here.
        topic: Where it came from.
        why: What is wrong with it.
        bytes: Size of its payload.
        time_ns: When it last came.
    """

    name: str
    topic: str
    why: str
    bytes: int
    time_ns: int


class Poison:
    """The folder ``poison`` of a store; callable from any thread.

    Args:
        store: Folder of the store.
    """

    def __init__(self, store: Path) -> None:
        self._folder = store / "poison"

    def add(self, address: Address, message: Message, error: WireError) -> None:
        """Set one message aside, unless there are too many already.

        Raises:
            OSError: The disk refuses.
        """
        self._folder.mkdir(exist_ok=True)
        digest = hashlib.sha256(message.topic.encode() + message.payload).hexdigest()
        path = self._folder / f"{address.device}-{digest[:_HASH_DIGITS]}.bin"
        if path.exists() or len(list(self._folder.glob("*.bin"))) < _ENTRIES:
            path.write_bytes(message.payload)
            path.with_suffix(".why").write_text(f"{message.topic}\n{error}\n")

    def entries(self) -> list[PoisonEntry]:
        """Return what is here, newest first."""
        found = [self._entry(path) for path in self._folder.glob("*.bin")]
        return sorted(found, key=lambda entry: entry.time_ns, reverse=True)

    def message(self, name: str) -> Message:
        """Return an entry as it came.

        Raises:
            ConfigError: There is no such entry.
        """
        path = self._path(name)
        return Message(self._entry(path).topic, path.read_bytes())

    def drop(self, name: str) -> None:
        """Forget an entry.

        Raises:
            ConfigError: There is no such entry.
        """
        path = self._path(name)
        path.unlink()
        path.with_suffix(".why").unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        path = self._folder / f"{name}.bin"
        if "/" in name or not path.is_file():
            raise ConfigError(
                f"nothing called {name!r} was set aside",
                where=str(self._folder),
                expected="a name of edge-runtime cloud poison ls",
            )
        return path

    def _entry(self, path: Path) -> PoisonEntry:
        try:
            topic, _, why = path.with_suffix(".why").read_text().partition("\n")
        except OSError as error:
            raise StoreError(f"the reason is missing: {error}", where=str(path)) from error
        facts = path.stat()
        return PoisonEntry(path.stem, topic, why.strip(), facts.st_size, facts.st_mtime_ns)
