"""Base bundles the cloud knows: files named by their digest, and names for people.

Files are immutable and never written in place: ``bundles/<digest>.zip``, and
``bundles/<digest>.signed`` once a release key has signed it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_cloud.segments import write_durably
from edge_cloud.signing import SigningKey, sign_base
from edge_cloud.store import Store
from edge_runtime.bundle import Bundle, load_bundle, pack
from edge_runtime.clock import SystemClock
from edge_runtime.errors import BundleError, ConfigError, TrustError
from edge_runtime.ports import Clock
from edge_runtime.sync.messages import Signed
from edge_runtime.update.trust import Statement

__all__ = ["Entry", "Registry"]

_LOADED_BUNDLES = 8


class Entry(msgspec.Struct, frozen=True):
    """One base in the registry.

    Attributes:
        digest: Identity of the bundle.
        name: Model line.
        version: For people.
        archive_sha256: Hash of the packed bytes; devices ask for chunks by it.
        seq: From the signed statement; 0 while it is unsigned.
        created_ns: When it was added.
    """

    digest: str
    name: str
    version: str
    archive_sha256: str
    seq: int
    created_ns: int


class Registry:
    """The bundles of one store; callable from any thread and process."""

    def __init__(self, store: Store, *, clock: Clock | None = None) -> None:
        self._database = store.database
        self._folder = store.folder / "bundles"
        self._clock = clock or SystemClock()
        self._load = functools.lru_cache(_LOADED_BUNDLES)(self._read)

    def add(self, bundle: Bundle, signed: Signed | None = None) -> Entry:
        """Keep a bundle, and its statement if it is signed; adding it again changes nothing.

        Raises:
            TrustError: The statement is about another bundle.
            StoreError: The disk or the catalogue refuses.
        """
        archive = pack(bundle)
        sha256 = hashlib.sha256(archive).hexdigest()
        seq = 0 if signed is None else _statement_of(signed, bundle.digest, sha256).seq
        files = [(self.archive(bundle.digest), archive)]
        if signed is not None:
            files.append((self._signed(bundle.digest), msgspec.msgpack.encode(signed)))
        if not all(path.is_file() for path, _ in files):
            write_durably(files)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO bundle VALUES (?,?,?,?,?,?)"
                " ON CONFLICT (digest) DO UPDATE SET seq = max(seq, excluded.seq)",
                (
                    bundle.digest,
                    bundle.spec.name,
                    bundle.spec.version,
                    sha256,
                    seq,
                    self._clock.now_ns(),
                ),
            )
        entry = self.entry(bundle.digest)
        assert entry is not None  # noqa: S101 - inserted above
        return entry

    def release(
        self,
        bundle: Bundle,
        key: SigningKey,
        layer_keys: Sequence[bytes] = (),
        *,
        seq: int | None = None,
    ) -> Entry:
        """Sign a bundle and keep it.

        Args:
            bundle: The base.
            key: A release key.
            layer_keys: Raw public keys that may sign layers for it.
            seq: Of the statement; None is one more than the newest of its line.

        Raises:
            StoreError: The disk or the catalogue refuses.
        """
        newest = max((one.seq for one in self.entries(bundle.spec.name)), default=0)
        return self.add(bundle, sign_base(key, bundle, layer_keys, seq or newest + 1))

    def archive(self, digest: str) -> Path:
        """Return where the packed bundle is."""
        return self._folder / f"{digest}.zip"

    def signed(self, digest: str) -> Signed:
        """Return the signed statement of a base.

        Raises:
            TrustError: Nobody has signed it.
        """
        try:
            return msgspec.msgpack.decode(self._signed(digest).read_bytes(), type=Signed)
        except FileNotFoundError as error:
            raise TrustError(
                "the base is not signed",
                where=digest[:16],
                expected="a statement by a release key",
                remedy="Publish it with --key, or with the statement of its release.",
            ) from error

    def bundle(self, digest: str) -> Bundle:
        """Load a bundle; the last few stay in memory.

        Raises:
            BundleError: It is not in the registry.
        """
        return self._load(digest)

    def entry(self, digest: str) -> Entry | None:
        """Return what is known about a digest."""
        rows = self._database.rows("SELECT * FROM bundle WHERE digest=?", (digest,))
        return Entry(*rows[0]) if rows else None

    def entries(self, name: str | None = None) -> list[Entry]:
        """Return all bundles, or those of one model line, oldest first."""
        rows = self._database.rows("SELECT * FROM bundle ORDER BY created_ns, seq")
        return [entry for entry in (Entry(*row) for row in rows) if name in (None, entry.name)]

    def line(self, digest: str) -> str | None:
        """Return the model line of a digest; None if it is unknown here."""
        entry = self.entry(digest)
        return None if entry is None else entry.name

    def find(self, ref: str) -> Entry:
        """Find a base by digest, ``name@version`` or ``name@alias``.

        Raises:
            ConfigError: There is none, or a prefix fits several.
        """
        found = [entry for entry in self.entries() if self._fits(entry, ref)]
        if len({entry.digest for entry in found}) != 1:
            known = ", ".join(f"{entry.name}@{entry.version}" for entry in self.entries())
            raise ConfigError(
                f"{len(found)} bundles are called {ref!r}",
                expected="one",
                remedy=f"Known are: {known or 'none'}.",
            )
        return found[0]

    def by_archive(self, sha256: str) -> Path | None:
        """Return the archive with this hash, for a device that asks for its chunks."""
        rows = self._database.rows("SELECT digest FROM bundle WHERE archive_sha256=?", (sha256,))
        return self.archive(rows[0][0]) if rows else None

    def set_alias(self, name: str, alias: str, digest: str) -> None:
        """Point ``name@alias`` to a base."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO alias VALUES (?,?,?)"
                " ON CONFLICT (name, alias) DO UPDATE SET digest = excluded.digest",
                (name, alias, digest),
            )

    def _fits(self, entry: Entry, ref: str) -> bool:
        name, _, version = ref.partition("@")
        if not version:
            return len(ref) >= 8 and entry.digest.startswith(ref)
        aliases = self._database.rows(
            "SELECT digest FROM alias WHERE name=? AND alias=?", (name, version)
        )
        return entry.name == name and (
            entry.version == version or (entry.digest,) in [tuple(row) for row in aliases]
        )

    def _read(self, digest: str) -> Bundle:
        path = self.archive(digest)
        if not path.is_file():
            raise BundleError(
                "the base is not in the registry",
                where=digest[:16],
                expected=f"one of {[entry.digest[:16] for entry in self.entries()]}",
                remedy="Add it: list it under 'bundles' in the cloud's YAML, or publish it.",
            )
        return load_bundle(path)

    def _signed(self, digest: str) -> Path:
        return self._folder / f"{digest}.signed"


def _statement_of(signed: Signed, digest: str, archive_sha256: str) -> Statement:
    """Read a statement without judging the signature, which is the device's matter."""
    try:
        statement = msgspec.json.decode(signed.payload, type=Statement)
    except (msgspec.MsgspecError, ValueError) as error:
        raise TrustError(f"payload: {error}", where="statement", expected="a statement") from error
    if (statement.digest, statement.archive_sha256) != (digest, archive_sha256):
        raise TrustError(
            f"digest: the statement is about {statement.name}@{statement.version},"
            f" {statement.digest[:16]}",
            where="statement",
            expected=f"bundle {digest[:16]}",
            remedy="Sign this bundle, or publish the one that was signed.",
        )
    return statement
