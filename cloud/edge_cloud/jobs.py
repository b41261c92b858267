"""Jobs: what devices are asked to run, until each has said how it ended.

::

    new ──► ready ──► sent ──► (fetching, verified, staged, trial) ──► committed
     │        │         │                                              refused
     │        └─────────┴──► superseded, silent                        rolled_back
     └ a base waits here until its first layers are computed

The store is the truth: any process may add a job, the running cloud finds it.
A stream has at most one base on its way; layers for it wait until it has ended.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from edge_cloud.registry import Registry
from edge_cloud.store import Store, bump
from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError
from edge_runtime.ports import Clock
from edge_runtime.sync.messages import Job, JobReport, Life, Signed, encode, unknown_fields

__all__ = ["ENDED", "JobKind", "JobRow", "Jobs"]

JobKind = Literal["base", "layers"]

ENDED = ("committed", "refused", "rolled_back", "superseded", "silent")
"""States that are never left, except that a device may still report on a superseded job."""

_NOTHING: Mapping[str, object] = {}
_REPORTED_ENDS = ("committed", "refused", "rolled_back")
_OPEN = f"state NOT IN ({','.join(repr(state) for state in ENDED)})"


class JobRow(msgspec.Struct, frozen=True):
    """A job and how far it is.

    Attributes:
        number: Order of making.
        job: The message itself.
        kind: Whether it brings a base.
        requires: Digest of the base that its layers need, or that it brings.
        state: See the module.
        reason: Why it was refused or rolled back.
        effective: Effective id that the device reported.
        measured: Numbers that the device measured at its gates.
        tries: Times it was sent.
        created_ns: When it was made.
        changed_ns: When its state last changed.
    """

    number: int
    job: Job
    kind: JobKind
    requires: str
    state: str
    reason: str
    effective: str
    measured: dict[str, float]
    tries: int
    created_ns: int
    changed_ns: int


class Jobs:
    """The jobs of one store; callable from any thread and process.

    Attributes:
        on_added: Called after a job was added by this object.
    """

    def __init__(self, store: Store, *, clock: Clock | None = None) -> None:
        self._database = store.database
        self._clock = clock or SystemClock()
        self.on_added: Callable[[], None] = _ignore

    # --- making ---------------------------------------------------------------------

    def publish(
        self, registry: Registry, digest: str, devices: Sequence[str] | None = None
    ) -> list[str]:
        """Offer a signed base to every stream that runs its model line.

        Args:
            registry: Has the base and its statement.
            digest: The base.
            devices: Whom; None for all that have ever said hello.

        Returns:
            Ids of the jobs; a stream that runs the base already gets none.

        Raises:
            TrustError: The base is not signed.
            ConfigError: A named device is unknown or runs another model line.
        """
        signed, line = registry.signed(digest), registry.bundle(digest).spec.name
        targets = [
            (life.device, stream)
            for life in self.lives()
            for stream, base in life.base.items()
            if registry.line(base) == line and base != digest
        ]
        if devices is not None:
            self._check_devices(devices, line, registry)
            targets = [target for target in targets if target[0] in devices]
        return [
            self.offer(device=device, stream=stream, model=line, base=signed, requires=digest)
            for device, stream in targets
        ]

    def offer(
        self,
        *,
        device: str,
        stream: str,
        model: str,
        base: Signed | None = None,
        layers: Sequence[Signed] = (),
        requires: str = "",
        state: Literal["new", "ready"] = "new",
    ) -> str:
        """Add one job as it is, without judging what it brings; return its id.

        Args:
            device: For whom.
            stream: Pipeline stream.
            model: Model line.
            base: Statement of a new base.
            layers: Complete set of signed layers.
            requires: Digest of the base.
            state: ``new`` lets a refresh add layers to a base; ``ready`` sends as it is.
        """
        with self._database.transaction() as connection:
            identity = self.add(
                connection,
                device=device,
                stream=stream,
                model=model,
                base=base,
                layers=tuple(layers),
                requires=requires,
                state=state if base is not None else "ready",
            )
        self.on_added()
        return identity

    def add(
        self,
        connection: sqlite3.Connection,
        *,
        device: str,
        stream: str,
        model: str,
        base: Signed | None,
        layers: tuple[Signed, ...],
        requires: str,
        state: str,
    ) -> str:
        """Add one job inside a transaction; it takes the place of older ones of its kind."""
        kind: JobKind = "layers" if base is None else "base"
        identity = f"{kind}-{secrets.token_hex(6)}"
        now_ns = self._clock.now_ns()
        job = Job(
            id=identity,
            device=device,
            stream=stream,
            model=model,
            made_ns=now_ns,
            base=base,
            layers=layers,
            requires=requires,
        )
        supersede(connection, device, stream, kind, now_ns)
        connection.execute(
            "INSERT INTO job (id, device, stream, model, kind, body, requires, state,"
            " created_ns, changed_ns) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                identity,
                device,
                stream,
                model,
                kind,
                msgspec.msgpack.encode(job),
                requires,
                state,
                now_ns,
                now_ns,
            ),
        )
        return identity

    def complete(
        self, connection: sqlite3.Connection, row: JobRow, layers: tuple[Signed, ...]
    ) -> None:
        """Give a new base its first layers and let it go."""
        job = msgspec.structs.replace(row.job, layers=layers)
        connection.execute(
            "UPDATE job SET body=?, state='ready', changed_ns=? WHERE id=? AND state='new'",
            (msgspec.msgpack.encode(job), self._clock.now_ns(), job.id),
        )
        supersede(connection, job.device, job.stream, "layers", self._clock.now_ns())

    # --- what devices say -------------------------------------------------------------

    def note_report(
        self, report: JobReport, beyond: Mapping[str, object] = _NOTHING
    ) -> JobRow | None:
        """Store a device's report; return the job, or None for one that is unknown.

        The first end is kept: a report that comes again changes nothing.

        Args:
            report: What the device says.
            beyond: Its fields that this version does not know; they are kept.
        """
        row = self.get(report.id)
        if row is None or row.job.device != report.device or row.state in _REPORTED_ENDS:
            return row
        if row.state in ENDED and report.state not in _REPORTED_ENDS:
            return row
        with self._database.transaction(is_durable=False) as connection:
            connection.execute(
                "UPDATE job SET state=?, reason=?, effective=?, measured=?, changed_ns=?,"
                " beyond=? WHERE id=?",
                (
                    report.state,
                    report.reason,
                    report.effective,
                    msgspec.json.encode(report.measured).decode(),
                    self._clock.now_ns(),
                    msgspec.msgpack.encode(beyond) if beyond else None,
                    report.id,
                ),
            )
            if report.state == "committed" and row.kind == "base":
                _set_base(connection, row)
            if report.state in _REPORTED_ENDS:
                bump(connection, f"updates_{report.state}_total", _first_word(report.reason))
        return self.get(report.id)

    def note_life(self, life: Life, beyond: Mapping[str, object] = _NOTHING) -> bool:
        """Store who is there and what runs; False for a will older than the last birth.

        Args:
            life: What the device says.
            beyond: Its fields that this version does not know; they are kept.
        """
        known = self.life(life.device)
        is_same = known is not None and known.incarnation == life.incarnation
        if known is not None and is_same and not life.is_online and life.epoch < known.epoch:
            return False
        if known is not None and is_same and not life.is_online:
            # A will was written when the link came up; what runs may have changed since.
            life = msgspec.structs.replace(life, base=known.base, effective=known.effective)
        payload = encode(life, beyond=beyond)
        if payload == self.life_payload(life.device):
            return True
        with self._database.transaction(is_durable=False) as connection:
            connection.execute(
                "INSERT INTO life VALUES (?,?,?) ON CONFLICT (device) DO UPDATE"
                " SET payload = excluded.payload, received_ns = excluded.received_ns",
                (life.device, payload, self._clock.now_ns()),
            )
        return True

    def mark_sent(self, identity: str) -> None:
        """Count one sending."""
        with self._database.transaction(is_durable=False) as connection:
            connection.execute(
                "UPDATE job SET tries = tries + 1, changed_ns = ?,"
                " state = CASE state WHEN 'ready' THEN 'sent' ELSE state END WHERE id=?",
                (self._clock.now_ns(), identity),
            )

    def give_up(self, identity: str) -> None:
        """End a job that no number of sendings brought an answer to."""
        with self._database.transaction() as connection:
            connection.execute(
                f"UPDATE job SET state='silent', changed_ns=? WHERE id=? AND {_OPEN}",  # noqa: S608
                (self._clock.now_ns(), identity),
            )
            bump(connection, "updates_silent_total", "")

    # --- looking ----------------------------------------------------------------------

    def get(self, identity: str) -> JobRow | None:
        """Return one job."""
        rows = self._select("id=?", (identity,))
        return rows[0] if rows else None

    def all(self) -> list[JobRow]:
        """Return every job, oldest first."""
        return self._select("1", ())

    def open_jobs(self) -> list[JobRow]:
        """Return jobs that have not ended, oldest first."""
        return self._select(_OPEN, ())

    def open_base(self, device: str, stream: str) -> JobRow | None:
        """Return the base on its way to a stream."""
        rows = self._select(f"{_OPEN} AND kind='base' AND device=? AND stream=?", (device, stream))
        return rows[0] if rows else None

    def last_number(self) -> int:
        """Return the number of the newest job: a cheap way to notice others' jobs."""
        return int(self._database.rows("SELECT coalesce(max(number), 0) FROM job")[0][0])

    def life(self, device: str) -> Life | None:
        """Return what a device last said about itself."""
        payload = self.life_payload(device)
        return None if payload is None else msgspec.msgpack.decode(payload, type=Life)

    def life_payload(self, device: str) -> bytes | None:
        """Return the same as it is stored, with the fields that this version does not know."""
        rows = self._database.rows("SELECT payload FROM life WHERE device=?", (device,))
        return rows[0][0] if rows else None

    def lives(self) -> list[Life]:
        """Return what every device last said about itself."""
        rows = self._database.rows("SELECT payload FROM life ORDER BY device")
        return [msgspec.msgpack.decode(row[0], type=Life) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return the number of jobs per kind and state, as ``layers/committed``."""
        rows = self._database.rows("SELECT kind, state, count(*) FROM job GROUP BY kind, state")
        return {f"{kind}/{state}": n for kind, state, n in rows}

    def _select(self, where: str, values: Sequence[Any]) -> list[JobRow]:
        rows = self._database.rows(
            "SELECT number, body, kind, requires, state, reason, effective, measured, tries,"  # noqa: S608
            f" created_ns, changed_ns FROM job WHERE {where} ORDER BY number",
            values,
        )
        return [_row(row) for row in rows]

    def _check_devices(self, devices: Sequence[str], line: str, registry: Registry) -> None:
        fitting = [
            life.device
            for life in self.lives()
            if any(registry.line(base) == line for base in life.base.values())
        ]
        for device in devices:
            if device not in fitting:
                raise ConfigError(
                    f"device {device!r} is not known to run {line!r}",
                    expected=f"one of {fitting}",
                    remedy="Let it say hello once, with its base in the cloud's 'bundles'.",
                )


def supersede(
    connection: sqlite3.Connection, device: str, stream: str, kind: JobKind, now_ns: int
) -> None:
    """End older open jobs of one kind for one stream: the newest brings the whole set."""
    connection.execute(
        "UPDATE job SET state='superseded', changed_ns=?"  # noqa: S608
        f" WHERE device=? AND stream=? AND kind=? AND {_OPEN}",
        (now_ns, device, stream, kind),
    )


def _set_base(connection: sqlite3.Connection, row: JobRow) -> None:
    rows = connection.execute("SELECT payload FROM life WHERE device=?", (row.job.device,))
    for (payload,) in rows.fetchall():
        life = msgspec.msgpack.decode(payload, type=Life)
        life = msgspec.structs.replace(life, base=life.base | {row.job.stream: row.requires})
        connection.execute(
            "UPDATE life SET payload=? WHERE device=?",
            (encode(life, beyond=unknown_fields(payload, Life)), row.job.device),
        )


def _row(row: Any) -> JobRow:
    number, body, kind, requires, state, reason, effective, measured, *rest = row
    job = msgspec.msgpack.decode(body, type=Job)
    numbers = msgspec.json.decode(measured, type=dict[str, float])
    return JobRow(number, job, kind, requires, state, reason, effective, numbers, *rest)


def _first_word(reason: str) -> str:
    return reason.partition(":")[0][:32]


def _ignore() -> None:
    pass
