"""A running cloud: the roles in threads of one process, or some of them alone.

Threads: ``network`` receives, stores and acknowledges, or ``members`` looks after
the processes that do; ``registry`` sends jobs and archives; ``refresh`` computes
layers; ``identity`` signs certificates; ``house`` compacts, expires and rescores.
State lives in the store alone, so any role may be killed at any time, and roles may
run as processes of their own.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Literal, get_args

import msgspec

from edge_cloud.boards.kept import Boards
from edge_cloud.config import CloudConfig, IdentityConfig
from edge_cloud.identity.authority import Authority
from edge_cloud.identity.devices import Devices
from edge_cloud.identity.enrolment import Enrolment
from edge_cloud.identity.server import EnrolmentServer
from edge_cloud.ingest import Ingest, IngestStats, Member, Router
from edge_cloud.jobs import Jobs
from edge_cloud.labels import Labels
from edge_cloud.links import INGEST, PROBE, REGISTRY, link_of, member_id
from edge_cloud.members import Members
from edge_cloud.publisher import Publisher
from edge_cloud.refresher import Refresher, RefreshRow, read_history
from edge_cloud.registry import Registry
from edge_cloud.rescore import rescore
from edge_cloud.signing import SigningKey
from edge_cloud.store import Store, StoreStatus
from edge_runtime.bundle import load_bundle
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError, StoreError, WireError
from edge_runtime.modes.schedule import History, Job, Scheduler
from edge_runtime.ports import Clock, Transport
from edge_runtime.sync.messages import Life
from edge_runtime.sync.topics import Address, Topics

__all__ = ["ROLES", "CloudService", "CloudStatus", "Role", "TransportFactory", "streams_of"]

log = logging.getLogger(__name__)

Role = Literal["ingest", "registry", "refresh", "rescore", "identity"]

ROLES: tuple[Role, ...] = get_args(Role)
"""Every role; `CloudService` runs all of them unless told otherwise."""

TransportFactory = Callable[[str], Transport]
"""Makes a transport for a client id."""

# Longest time a role sleeps while nothing wakes it; also how soon jobs and labels
# that another process has put into the store are noticed.
_NETWORK_S = 0.5
_POLL_S = 0.1
_LABELS_S = 0.5
_RETRY_S = 1.0
# Control messages that may wait for the registry thread; when full, the network waits (block).
_CONTROL_MESSAGES = 1000
_DAY_NS = 86_400_000_000_000


class CloudStatus(msgspec.Struct, frozen=True):
    """The whole cloud right now.

    Attributes:
        store: What is stored.
        jobs: Number of jobs as ``kind/state``.
        devices: What every device last said about itself.
        refreshes: Number of refreshes by the set that was chosen.
        labels: Number of labels kept.
        labels_without_row: Labels for which no row is stored, by ``device/stream``.
        ingest: Counters of this process; zero without the role.
    """

    store: StoreStatus
    jobs: dict[str, int]
    devices: list[Life]
    refreshes: dict[str, int]
    labels: int
    labels_without_row: dict[str, int]
    ingest: IngestStats


class CloudService:
    """Run roles until stopped.

    Args:
        config: Declares the cloud.
        transport_factory: Makes links to the broker; None uses MQTT as configured.
        clock: Wall and monotonic time.
        roles: Which to run.
        member: Which of several ingesters this process is; None for the only one.
        member_command: Command line of such a process; without it rows are taken here,
            whatever the configuration says.
        at_step: Called after each durable step of an ingest, see `Store`, and before its
            acks; fault tests end the process there.

    Raises:
        EdgeError: The store, a key or a bundle cannot be used.

    Attributes:
        store: The store, for reading beside the running roles.
        labels: Labels of the store.
        registry: Bases of the store.
        jobs: Jobs of the store; adding one wakes the sender.
        enrolment: The service that signs certificates; None without that role.
    """

    def __init__(
        self,
        config: CloudConfig,
        transport_factory: TransportFactory | None = None,
        clock: Clock | None = None,
        *,
        roles: Collection[Role] = ROLES,
        member: Member | None = None,
        member_command: Callable[[Member], Sequence[str]] | None = None,
        at_step: Callable[[str], None] | None = None,
    ) -> None:
        self._member = member
        self._member_command = member_command if config.ingest.processes > 1 else None
        self._config = config
        self._at_step = at_step
        self._clock = clock or SystemClock()
        self._roles = set(roles)
        self._topics = Topics(config.root)
        self.store = Store(config.store, clock=self._clock, at_step=at_step)
        self.labels = Labels(self.store, config.labels_inbox)
        self.registry = Registry(self.store, clock=self._clock)
        self.jobs = Jobs(self.store, clock=self._clock)
        self._devices = Devices(self.store, self._clock)
        for path in config.bundles:
            self.registry.add(load_bundle(path))
        self._make_transport = transport_factory or self._mqtt
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._jobs_changed = threading.Event()
        self._rows_changed = threading.Event()
        self._control: queue.Queue[tuple[Address, bytes]] = queue.Queue(_CONTROL_MESSAGES)
        self._hub: Ingest | Router | None = None
        self._publisher: Publisher | None = None
        self._refresher = self._made_refresher() if "refresh" in self._roles else None
        self.enrolment: EnrolmentServer | None = None
        self._client_ids: set[str] = set()
        self.jobs.on_added = self._jobs_changed.set

    # --- running ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the roles in the background and return."""
        loops: dict[str, Callable[[], None]] = {}
        if "ingest" in self._roles and self._member_command is not None:
            members = self._made_members(self._member_command)
            loops["members"] = lambda: members.run(self._stopping)
        if self._listens & {"ingest", "registry"}:
            self._hub, transport = self._made_hub()
            self._hub.open()
            loops["network"] = self._run_network
        if "registry" in self._roles:
            self._publisher = Publisher(
                transport.publish,
                self.jobs,
                self.registry,
                topics=self._topics,
                config=self._config.publisher,
                clock=self._clock,
                on_changed=self._rows_changed.set,
                boards=Boards(self.store.folder, self.registry, clock=self._clock),
            )
            loops["registry"] = self._run_registry
        if self._refresher is not None:
            loops["refresh"] = self._run_refresh
        if "identity" in self._roles and self._config.identity is not None:
            self.enrolment = self._made_enrolment(self._config.identity)
            loops["identity"] = self.enrolment.run
        has_chores = self._member is None and self._roles & {"rescore", "ingest"}
        if has_chores or self._config.identity is not None:
            loops["house"] = self._run_house
        for name, loop in loops.items():
            thread = threading.Thread(target=self._guarded, args=(name, loop), name=f"cloud-{name}")
            thread.start()
            self._threads.append(thread)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until somebody calls `stop` or a role fails; whether that has happened."""
        return self._ended.wait(timeout_s)

    def stop(self) -> None:
        """End all roles cleanly and close the store; safe to call twice and from any thread.

        Raises:
            Exception: What made a role fail, if one did.
        """
        self._stopping.set()
        self._ended.set()
        self._jobs_changed.set()
        self._rows_changed.set()
        if self._hub is not None:
            self._hub.transport.wake()
        if self.enrolment is not None:
            self.enrolment.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._threads.clear()
        if self._hub is not None:
            self._hub.close()
            self._hub = None
        self.store.close()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def run(self) -> None:
        """Start, wait for `end`, stop: for a main thread.

        Raises:
            Exception: What made a role fail, if one did.
        """
        self.start()
        try:
            self.wait()
        finally:
            self.stop()

    def end(self) -> None:
        """Let `run` return; callable from a signal handler."""
        self._ended.set()

    def status(self) -> CloudStatus:
        """Return what is stored, sent and decided."""
        refreshes = self.store.database.rows("SELECT chosen, count(*) FROM refresh GROUP BY chosen")
        hub = self._hub
        return CloudStatus(
            store=self.store.status(),
            jobs=self.jobs.counts(),
            devices=self.jobs.lives(),
            refreshes=dict(refreshes),
            labels=self.labels.count(),
            labels_without_row=self.labels.without_row(),
            ingest=hub.stats if isinstance(hub, Ingest) else IngestStats(),
        )

    def history(self) -> list[RefreshRow]:
        """Return every refresh that was decided, oldest first, with its replay."""
        return read_history(self.store)

    def refresh_once(self) -> int:
        """Refresh what is due, on the caller's thread, while no role runs; return jobs made."""
        return 0 if self._refresher is None else self._refresher.step()

    def wake(self) -> None:
        """Let the refresh look at rows, labels and jobs now, such as after adding labels."""
        self._rows_changed.set()
        self._jobs_changed.set()

    # --- parts --------------------------------------------------------------------------

    def _made_refresher(self) -> Refresher | None:
        keys = self._config.keys
        if keys is None:
            return None
        return Refresher(
            self.store,
            labels=self.labels,
            registry=self.registry,
            jobs=self.jobs,
            key=SigningKey.load(keys.layer),
            configs=self._config.refresh,
            clock=self._clock,
        )

    @property
    def _listens(self) -> set[Role]:
        """Roles that need a link of this process."""
        return self._roles - {"ingest"} if self._member_command is not None else self._roles

    def _made_members(self, command: Callable[[Member], Sequence[str]]) -> Members:
        config = self._config.ingest
        return Members(
            config.processes,
            config.group,
            command,
            probe=self._make_transport(PROBE),
            topics=self._topics,
            clock=self._clock,
        )

    def _made_enrolment(self, identity: IdentityConfig) -> EnrolmentServer:
        authority = Authority(self._config.authority, self._clock)
        return EnrolmentServer(
            identity.host,
            identity.port,
            authority.server(authority.folder, identity.names, stem="enroll"),
            Enrolment(authority, self._devices, days=identity.certificate_days),
            self._clock,
        )

    def _made_hub(self) -> tuple[Ingest | Router, Transport]:
        name = INGEST if "ingest" in self._listens else REGISTRY
        if self._member is not None:
            name = member_id(self._member.number)
        transport = self._make_transport(name)
        is_registry = "registry" in self._roles
        handlers = (
            dict.fromkeys(("life", "job", "blob"), self._queue_control) if is_registry else {}
        )
        if "ingest" not in self._listens:
            leaves = ("life", "job/+", "blob")
            return Router(
                transport, topics=self._topics, leaves=leaves, handlers=handlers
            ), transport
        ingest = Ingest(
            transport,
            self.store,
            topics=self._topics,
            handlers=handlers,
            on_stored=lambda _: self._rows_changed.set(),
            config=self._config.ingest,
            member=self._member,
            clock=self._clock,
            at_step=self._at_step,
            revoked=self._devices.revoked,
        )
        return ingest, transport

    def _mqtt(self, client_id: str) -> Transport:
        from edge_runtime.sync.paho import PahoTransport

        self._client_ids.add(client_id)
        return PahoTransport(link_of(self._config, client_id, self._clock), client_id, self._clock)

    def _queue_control(self, address: Address, payload: bytes) -> None:
        while not self._stopping.is_set():
            try:
                self._control.put((address, payload), timeout=_POLL_S)
            except queue.Full:
                continue
            break
        self._jobs_changed.set()

    # --- threads ------------------------------------------------------------------------

    def _guarded(self, name: str, loop: Callable[[], None]) -> None:
        """Run a role; what kills it ends the whole service, loudly."""
        try:
            loop()
        except BaseException as error:
            log.exception("cloud.role_failed", extra={"role": name})
            self._failure = error
            self._stopping.set()
            self._ended.set()
            self.wake()

    def _run_network(self) -> None:
        hub = self._hub
        while hub is not None and not self._stopping.is_set():
            hub.step(_NETWORK_S)

    def _run_registry(self) -> None:
        publisher = self._publisher
        assert publisher is not None  # noqa: S101 - made before the thread
        last, due_ns = -1, 0
        while not self._stopping.is_set():
            self._jobs_changed.wait(_POLL_S)
            is_woken = self._jobs_changed.is_set()
            self._jobs_changed.clear()
            try:
                newest = self.jobs.last_number()
                is_due = self._clock.monotonic_ns() >= due_ns
                if is_woken or newest != last or is_due or publisher.has_chunks:
                    self._take_control(publisher)
                    self._settle_new_jobs(newest != last)
                    publisher.step()
                    last, due_ns = newest, self._clock.monotonic_ns() + round(_RETRY_S * 1e9)
            except StoreError as error:
                log.error("registry.store_failed", extra={"why": str(error)})
                self._stopping.wait(_RETRY_S)

    def _take_control(self, publisher: Publisher) -> None:
        while True:
            try:
                address, payload = self._control.get_nowait()
            except queue.Empty:
                return
            try:
                publisher.handle(address, payload)
            except WireError as error:
                self.store.count("poison_total", address.leaf)
                log.warning("registry.poison", extra={"why": str(error)})

    def _settle_new_jobs(self, has_more: bool) -> None:
        """Let new bases go to whoever computes their first layers, or let them go at once."""
        if has_more and self._refresher is not None:
            self._rows_changed.set()
        lines = {refresh.line for refresh in self._config.refresh}
        for row in self.jobs.open_jobs():
            if row.state == "new" and row.job.model not in lines:
                with self.store.database.transaction() as connection:
                    self.jobs.complete(connection, row, ())

    def _run_refresh(self) -> None:
        refresher = self._refresher
        assert refresher is not None  # noqa: S101 - made before the thread
        while not self._stopping.is_set():
            self._rows_changed.wait(_LABELS_S)
            self._rows_changed.clear()
            try:
                refresher.step()
            except StoreError as error:
                log.error("refresh.store_failed", extra={"why": str(error)})
                self._stopping.wait(_RETRY_S)

    def _run_house(self) -> None:
        chores: list[tuple[float, Callable[[], object]]] = []
        config = self._config
        if "ingest" in self._roles and self._member is None:
            if config.compact_s is not None:
                chores.append((config.compact_s, self.store.compact))
            if config.retention_days is not None:
                keep_ns = round(config.retention_days * _DAY_NS)
                chores.append((3600.0, lambda: self.store.expire(keep_ns)))
        identity = config.identity
        if identity is not None:
            chores.append((identity.renew_s, lambda: self._renew_certificates(identity)))
        with self._scheduled() as scheduler:
            self._do_chores(chores, scheduler)

    def _renew_certificates(self, identity: IdentityConfig) -> None:
        """Replace what is old of the cloud's own; links read theirs at every connection."""
        for client_id in self._client_ids:
            link_of(self._config, client_id, self._clock)
        if self.enrolment is not None:
            authority = Authority(self._config.authority, self._clock)
            self.enrolment.use(authority.server(authority.folder, identity.names, stem="enroll"))

    @contextmanager
    def _scheduled(self) -> Iterator[Scheduler | None]:
        """Open what is rescored by the clock, if anything is."""
        when = self._config.rescore if "rescore" in self._roles else None
        if when is None:
            yield None
            return
        with closing(History(self._config.store / "schedule.db", self._clock)) as history:
            job = Job("rescore", when, lambda _: f"{self.rescore_newest()} rows scored")
            yield Scheduler([job], history, self._clock)

    def _do_chores(
        self, chores: Sequence[tuple[float, Callable[[], object]]], scheduler: Scheduler | None
    ) -> None:
        started_ns = self._clock.monotonic_ns()
        due_ns = [started_ns + round(every_s * 1e9) for every_s, _ in chores]
        while not self._stopping.wait(_NETWORK_S):
            if scheduler is not None:
                self._done(scheduler.run_due)
            for index, (every_s, chore) in enumerate(chores):
                if self._clock.monotonic_ns() >= due_ns[index]:
                    self._done(chore)
                    due_ns[index] = self._clock.monotonic_ns() + round(every_s * 1e9)

    def _done(self, chore: Callable[[], object]) -> None:
        try:
            chore()
        except EdgeError as error:
            log.error("house.failed", extra={"why": str(error)})

    def rescore_newest(self) -> int:
        """Score what was received with the newest base of every line; return the rows scored."""
        newest = {entry.name: entry for entry in self.registry.entries()}
        rows = 0
        for line, entry in newest.items():
            streams = streams_of(line, self.jobs, self.registry)
            if streams:
                bundle = self.registry.bundle(entry.digest)
                rows += rescore(self.store, bundle, streams=streams, clock=self._clock).rows
        return rows


def streams_of(line: str, jobs: Jobs, registry: Registry) -> list[str]:
    """Return the streams on which a device has ever run a model line."""
    streams = {
        stream
        for life in jobs.lives()
        for stream, base in life.base.items()
        if registry.line(base) == line
    }
    return sorted(streams)
