"""What is installed, what is running, what is being tried: stored before it is acted on.

Folder of one stream::

    <folder>/<stream>/<archive sha256>.part    chunks of the archive being fetched
    <folder>/<stream>/<digest>.zip             verified archives: active, previous, candidate

The factory bundle stays where the configuration points and is never touched.
Its statement may lie beside it as ``<bundle>.signed.json`` (a `Signed` in
JSON); without it the factory base takes no layers.

All the rest is one `Record` per stream under one key of ``state.db``, so each
step is one durable write.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from edge_runtime.bundle import Bundle, load_bundle, read_archive
from edge_runtime.errors import BundleError, StoreError, TrustError
from edge_runtime.ports import Choice
from edge_runtime.sync.messages import JobReport, Signed
from edge_runtime.sync.state import StateStore

if TYPE_CHECKING:
    from edge_runtime.update.trust import Statement, Trust

__all__ = [
    "Candidate",
    "CandidateState",
    "Floor",
    "LayerTrial",
    "Record",
    "Slots",
    "read_signed",
    "signed_path",
    "write_signed",
]

log = logging.getLogger(__name__)

CandidateState = Literal["fetching", "verified", "staged", "trial"]
_DONE_KEPT = 32


class Floor(msgspec.Struct, frozen=True):
    """The highest sequence number that was ever committed, and what it named."""

    seq: int
    digest: str


class Candidate(msgspec.Struct, frozen=True):
    """A base on its way in.

    Attributes:
        job: Job that brought it.
        digest: Its identity.
        signed: Its statement, as signed.
        layers: Layers that come with it, as signed.
        state: How far it is.
        attempts: How often it was started; counted before each start.
    """

    job: str
    digest: str
    signed: Signed
    layers: tuple[Signed, ...] = ()
    state: CandidateState = "fetching"
    attempts: int = 0


class LayerTrial(msgspec.Struct, frozen=True):
    """A layer set that was proven and is about to go live.

    Attributes:
        job: Job that brought it.
        layers: The complete set, as signed.
        attempts: How often it was started; counted before each start.
    """

    job: str
    layers: tuple[Signed, ...]
    attempts: int = 0


class Record(msgspec.Struct, frozen=True):
    """Everything about one stream's model that must survive a power cut.

    Attributes:
        factory: Digest of the factory bundle this record was made with.
        active: Digest of the committed base.
        layers: Its committed layers, as signed.
        previous: Digest of the base before it, to fall back to.
        previous_layers: That base's layers.
        statements: Signed statement per installed digest.
        candidate: Base on its way in.
        trial: Layer set on its way in.
        floors: Per ``<line>/base`` and ``<line>/<kind of layer>``.
        quarantine: Reason per digest that is never tried again.
        boots: Starts of the active base since it last came up; counted before each.
        done: Last reports of finished jobs, oldest first.
    """

    factory: str
    active: str
    layers: tuple[Signed, ...] = ()
    previous: str | None = None
    previous_layers: tuple[Signed, ...] = ()
    statements: dict[str, Signed] = msgspec.field(default_factory=dict)
    candidate: Candidate | None = None
    trial: LayerTrial | None = None
    floors: dict[str, Floor] = msgspec.field(default_factory=dict)
    quarantine: dict[str, str] = msgspec.field(default_factory=dict)
    boots: int = 0
    done: tuple[JobReport, ...] = ()

    def finished(self, job: str) -> JobReport | None:
        """Return how a job ended, or None if it did not or is forgotten."""
        return next((report for report in self.done if report.id == job), None)


class Slots:
    """The archives and the record of one stream.

    Args:
        folder: Where archives are kept; a subfolder per stream is made.
        stream: Name of the stream.
        factory: Folder or zip of the factory bundle.
        state: Durable store of the record.
        choice: How this machine runs the stream's models.

    Raises:
        BundleError: The factory bundle does not load.
        StoreError: The stored record cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        stream: str,
        *,
        factory: Path,
        state: StateStore,
        choice: Choice | None = None,
    ) -> None:
        self.stream = stream
        self.folder = folder / stream
        self.factory = load_bundle(factory)
        self._factory_path = factory
        self._key = f"update/{stream}"
        self._state = state
        self._choice = choice
        self.record = self._load()

    def store(self, **changes: object) -> Record:
        """Change fields of the record; durable when this returns."""
        record = msgspec.structs.replace(self.record, **changes)
        self._state.set(self._key, record)
        self.record = record
        return record

    def finish(self, report: JobReport, **changes: object) -> JobReport:
        """Change the record and remember how a job ended, in one durable write."""
        self.store(done=(*self.record.done, report)[-_DONE_KEPT:], **changes)
        return report

    def part(self, statement: Statement) -> Path:
        """Return where chunks of this archive are collected."""
        return self.folder / f"{statement.archive_sha256}.part"

    def slot(self, digest: str) -> Path:
        """Return where the verified archive of a bundle is kept."""
        return self.folder / f"{digest}.zip"

    def install(self, statement: Statement) -> Bundle:
        """Make the complete part file a slot, durably, if it is what was signed.

        Raises:
            TrustError: Hash or digest differ from the statement.
            BundleError: The archive is no bundle.
            StoreError: The disk failed.
        """
        part, slot = self.part(statement), self.slot(statement.digest)
        if slot.exists() and not part.exists():
            return _read_verified(slot, statement)
        bundle = _read_verified(part, statement)
        try:
            _sync(part)
            part.replace(slot)
            _sync(slot.parent)
        except OSError as error:
            raise StoreError(
                f"disk: {error.strerror or error}", where=str(slot), expected="a durable rename"
            ) from error
        return bundle

    def is_installed(self, statement: Statement) -> bool:
        """Whether the slot holds exactly what was signed."""
        try:
            archive = self.slot(statement.digest).read_bytes()
        except OSError:
            return False
        return hashlib.sha256(archive).hexdigest() == statement.archive_sha256

    def open(self, digest: str, trust: Trust | None) -> tuple[Bundle, Statement | None]:
        """Load an installed base, verified again from its bytes.

        Returns:
            The bundle, and its statement. The factory base always opens; its
            statement is None if there is none, or none that can be trusted.

        Raises:
            BundleError: It is altered, or no longer trusted.
            StoreError: It is missing.
        """
        if digest == self.factory.digest:
            return self.factory, self._factory_statement(trust)
        signed = self.record.statements.get(digest)
        if signed is None or trust is None:
            raise TrustError(
                f"key: nothing vouches for base {digest[:16]}",
                where=str(self.slot(digest)),
                expected="a statement and release keys to verify it",
            )
        statement = trust.verify_base(signed)
        return _read_verified(self.slot(digest), statement), statement

    def prune(self) -> None:
        """Delete archives and parts that nothing in the record refers to."""
        if not self.folder.is_dir() or self.record.candidate is not None:
            return
        keep = {self.slot(digest) for digest in self._kept()}
        for path in self.folder.iterdir():
            if path.suffix in {".zip", ".part"} and path not in keep:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            # Only space is lost, and the next start tries again.
            log.warning("update.file_kept", extra={"path": str(path), "reason": str(error)})

    def _kept(self) -> set[str]:
        return {digest for digest in (self.record.active, self.record.previous) if digest}

    def _load(self) -> Record:
        digest = self.factory.digest
        record = self._state.get(self._key, Record)
        if record is None:
            return Record(factory=digest, active=digest)
        if record.factory == digest:
            return record
        if record.active != record.factory and not self._is_sound(self._factory_path):
            # Damaged rather than replaced: what was committed over the air lies sound in its slot.
            log.error("update.factory_unsound", extra={"base": digest, "before": record.factory})
            return record
        # A person has put another factory bundle in place: start from it, but never
        # below the floors, and never with what was proven bad.
        log.warning("update.factory_replaced", extra={"base": digest, "before": record.factory})
        return Record(
            factory=digest, active=digest, floors=record.floors, quarantine=record.quarantine
        )

    def _is_sound(self, path: Path) -> bool:
        from edge_runtime.update.admission import admit

        return admit(path, self._choice).is_admitted

    def _factory_statement(self, trust: Trust | None) -> Statement | None:
        path = signed_path(self._factory_path)
        if trust is None or not path.exists():
            return None
        try:
            statement = trust.verify_base(read_signed(path))
            _expect("bundle beside it", self.factory.digest, statement.digest, path)
        except BundleError as error:
            # Only layers need the statement; a device must start without it.
            log.error("update.factory_statement_refused", extra={"reason": str(error)})
            return None
        return statement


def signed_path(bundle: Path) -> Path:
    """Return where the statement of a bundle folder or zip lies: ``<bundle>.signed.json``."""
    return bundle.with_name(f"{bundle.name}.signed.json")


def read_signed(path: Path) -> Signed:
    """Read a signed statement that lies beside a bundle.

    Raises:
        BundleError: The file is missing or is not one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Signed)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"statement file: {error}",
            where=str(path),
            expected="JSON with payload, key and signature",
            remedy="Sign the bundle again.",
        ) from error


def write_signed(path: Path, signed: Signed) -> None:
    """Write a signed statement, whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(msgspec.json.encode(signed))
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def _read_verified(path: Path, statement: Statement) -> Bundle:
    """Read an archive; nothing is unpacked before its hash is right."""
    try:
        archive = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"disk: {error.strerror or error}", where=str(path), expected="a base archive"
        ) from error
    _expect("archive", hashlib.sha256(archive).hexdigest(), statement.archive_sha256, path)
    bundle = read_archive(archive)
    _expect("bundle", bundle.digest, statement.digest, path)
    return bundle


def _expect(what: str, digest: str, signed: str, path: Path) -> None:
    if digest != signed:
        raise TrustError(
            f"digest: {what} has {digest[:16]}",
            where=str(path),
            expected=f"{signed[:16]}, as signed",
            remedy="It was altered or damaged; publish the signed archive again.",
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
