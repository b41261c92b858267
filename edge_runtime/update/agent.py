"""The update agent of one stream: jobs and chunks in, actions out.

A base goes ``idle → fetching → verified → staged → trial → committed``, or ends
as ``rolled_back`` or ``refused``; a layer set goes ``idle → trial → committed``
or ``refused``. Every step is stored before the action it allows is returned, so
the process may be killed at any instant: the next one boots with what was
committed and goes on from the stored step. While anything is wrong, the old
base and layers keep serving.

Pure: no threads, no sockets, no clock of its own. All methods belong to one
thread; actions are done by the caller in order.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, EdgeError, MissingExtra, ModelError, TrustError
from edge_runtime.ports import Clock
from edge_runtime.spec import Layer, ModelSpec, effective_id
from edge_runtime.sync.messages import BlobChunk, Job, JobReport, Signed
from edge_runtime.update.actions import (
    Action,
    ActivateBase,
    ActivateLayers,
    Admit,
    Report,
    Request,
    Serving,
)
from edge_runtime.update.slots import Candidate, Floor, LayerTrial, Slots

if TYPE_CHECKING:
    from edge_runtime.update.admission import Admission
    from edge_runtime.update.fetch import Fetch
    from edge_runtime.update.trust import Statement, Trust

__all__ = ["Prove", "UpdateAgent"]

log = logging.getLogger(__name__)

Prove = Callable[[Bundle, tuple[Layer, ...]], Mapping[str, float]]
"""Golden replay of a layer set in the serving process; raises `EdgeError`, returns measurements."""

_MAX_ATTEMPTS = 2
_MAX_WAITING = 8
_MAX_REASON = 500
# A device that lacks memory, time or an extra today may have it tomorrow.
_NOT_THE_BUNDLES_FAULT = ("memory", "time", "missing", "spawn")


class UpdateAgent:
    """Decide what one stream runs.

    Args:
        slots: Archives and record of the stream.
        device: Device id; jobs and layers for others are not taken.
        trust: Verifies; None refuses every update.
        clock: Its monotonic time drives time-outs.
        event_ns: Event time of the stream now, which ages of layers count
            against; None while it is unknown.
        prove: Golden replay of layers, a few milliseconds.
    """

    def __init__(
        self,
        slots: Slots,
        *,
        device: str,
        trust: Trust | None,
        clock: Clock,
        event_ns: Callable[[], int | None],
        prove: Prove,
    ) -> None:
        self._slots = slots
        self._stream = slots.stream
        self._device = device
        self._trust = trust
        self._clock = clock
        self._event_ns = event_ns
        self._prove = prove
        self._is_linked = True
        self._fetch: Fetch | None = None
        self._expected: ActivateLayers | ActivateBase | None = None
        self._measured: dict[str, dict[str, float]] = {}
        self._waiting: list[Job] = []
        self._bundle = slots.factory
        self._statement: Statement | None = None
        self._effective = effective_id(self._bundle.digest)

    # --- starting ---------------------------------------------------------------

    @property
    def bundle(self) -> Bundle:
        """The base that serves."""
        return self._bundle

    def boot(self, bad: Mapping[str, str] | None = None) -> Serving:
        """Choose what to serve and count the attempt; call once, before anything else.

        The committed base with its layers; after two starts that never came
        up, or if it does not verify, the one before it; at last the factory
        bundle. Layers that no longer verify are left out as a set.

        Args:
            bad: Why a base must not serve any more, by digest: it took the device
                down again and again while it served.

        Raises:
            StoreError: The attempt cannot be stored.
        """
        self._give_up_on_failing_base()
        if bad and self._slots.record.active in bad:
            self._quarantine_active(bad[self._slots.record.active])
        return self._next_choice()

    def give_up(self, why: str) -> Serving:
        """Put the base that serves into quarantine, and choose what serves instead.

        The factory bundle is never given up: it is chosen again.

        Raises:
            StoreError: The choice cannot be stored.
        """
        self._expected = None
        self._quarantine_active(f"model: {why}"[:_MAX_REASON])
        chosen = self._next_choice()
        self._slots.store(boots=0)
        return chosen

    def _quarantine_active(self, reason: str) -> None:
        record = self._slots.record
        if record.active == self._slots.factory.digest:
            log.error("update.factory_base_fails", extra={"base": record.active, "reason": reason})
            return
        log.error("update.base_quarantined", extra={"base": record.active, "reason": reason})
        self._slots.store(quarantine=record.quarantine | {record.active: reason})

    def _next_choice(self) -> Serving:
        for digest, signed in self._choices():
            try:
                self._bundle, self._statement = self._slots.open(digest, self._trust)
            except EdgeError as error:
                log.error("update.base_unusable", extra={"base": digest, "reason": _reason(error)})
                continue
            self._choose(digest, signed)
            layers = self._boot_layers()
            self._effective = effective_id(digest, layers)
            return Serving(self._bundle, layers)
        raise AssertionError("the factory bundle opens without any check")

    def on_booted(self) -> list[Action]:
        """Say that what `boot` chose is serving; goes on with what was interrupted."""
        if self._slots.record.boots:
            self._slots.store(boots=0)
        actions = self._resume_layers() if self._slots.record.trial else []
        candidate = self._slots.record.candidate
        if candidate is None:
            self._slots.prune()
        elif self._expected is None or candidate.state in {"fetching", "verified"}:
            actions += self._resume_base(candidate)
        return actions

    # --- what arrives -------------------------------------------------------------

    def on_job(self, job: Job) -> list[Action]:
        """Take an offer; the same job may come any number of times."""
        if (job.device, job.stream) != (self._device, self._stream):
            log.warning("update.foreign_job", extra={"job": job.id, "for_device": job.device})
            return []
        known = self._known(job)
        if known is not None:
            return known
        try:
            return self._offer_layers(job) if job.base is None else self._offer_base(job, job.base)
        except EdgeError as error:
            return self._refuse(job.id, error)

    def on_chunk(self, chunk: BlobChunk) -> list[Action]:
        """Take a chunk; foreign, repeated and damaged ones change nothing."""
        fetch, candidate = self._fetch, self._slots.record.candidate
        if fetch is None or candidate is None:
            return []
        try:
            fetch.take(chunk, self._clock.monotonic_ns())
        except EdgeError as error:
            return self._refuse(candidate.job, error)
        return self._fetch_on()

    @property
    def is_fetching(self) -> bool:
        """Whether a base is on its way, so that `on_tick` has something to do."""
        return self._fetch is not None

    def on_tick(self, now_ns: int) -> list[Action]:
        """Ask again for chunks that did not come; call about once a second.

        Args:
            now_ns: Monotonic time.
        """
        fetch, candidate = self._fetch, self._slots.record.candidate
        if fetch is None or candidate is None or not self._is_linked:
            return []
        try:
            fetch.tick(now_ns)
        except EdgeError as error:
            return self._refuse(candidate.job, error)
        return self._requests()

    def on_link(self, is_up: bool) -> list[Action]:
        """Pause the fetch while the link is down, however long; go on when it is back."""
        self._is_linked = is_up
        if self._fetch is not None:
            self._fetch.pause()
        return self._requests()

    def on_admitted(self, digest: str, admission: Admission) -> list[Action]:
        """Take the child process's verdict about a candidate."""
        candidate = self._slots.record.candidate
        if candidate is None or (candidate.digest, candidate.state) != (digest, "verified"):
            return []
        if not admission.is_admitted:
            reason = f"admission: {admission.reason}"
            is_final = not admission.reason.startswith(_NOT_THE_BUNDLES_FAULT)
            return self._refuse(candidate.job, reason, bad=digest if is_final else None)
        self._measure(
            candidate.job,
            {
                "admission_s": admission.seconds,
                "peak_rss_mb": admission.peak_rss_mb,
                "worst_difference": admission.worst_difference,
            },
        )
        self._store_candidate(candidate, state="staged")
        return [self._report(candidate.job, "staged"), *self._go_on()]

    def on_activated(
        self, effective: str, measured: Mapping[str, float] | None = None
    ) -> list[Action]:
        """Say that an activation is live; it is committed here, and only then reported."""
        expected = self._expected
        if expected is None or expected.effective_id != effective:
            return []
        self._expected = None
        self._effective = effective
        if isinstance(expected, ActivateBase):
            return self._commit_base(expected, measured or {})
        return self._commit_layers(expected, measured or {})

    def on_failed(self, effective: str, reason: str) -> list[Action]:
        """Say that an activation failed and the old keeps serving."""
        expected = self._expected
        if expected is None or expected.effective_id != effective:
            return []
        self._expected = None
        log.warning("update.activation_failed", extra={"effective_id": effective, "why": reason})
        record = self._slots.record
        if isinstance(expected, ActivateBase):
            return self._try_base(f"activation: {reason}")
        assert record.trial is not None  # noqa: S101 - stored before the action was returned
        return self._refuse(record.trial.job, f"activation: {reason}")

    # --- boot ---------------------------------------------------------------------

    def _give_up_on_failing_base(self) -> None:
        record = self._slots.record
        if record.boots < _MAX_ATTEMPTS or record.active == self._slots.factory.digest:
            return
        self._quarantine_active(f"boot: {record.boots} starts did not come up")

    def _choices(self) -> list[tuple[str, tuple[Signed, ...]]]:
        record = self._slots.record
        chain = [(record.active, record.layers)]
        if record.previous is not None:
            chain.append((record.previous, record.previous_layers))
        factory = self._slots.factory.digest
        usable = [(d, s) for d, s in chain if d == factory or d not in record.quarantine]
        return [*usable, (factory, ())]

    def _choose(self, digest: str, signed: tuple[Signed, ...]) -> None:
        record = self._slots.record
        if digest == record.active:
            self._slots.store(boots=record.boots + 1)
            return
        log.error("update.fell_back", extra={"base": digest, "from": record.active})
        self._slots.store(active=digest, layers=signed, previous=None, trial=None, boots=1)

    def _boot_layers(self) -> tuple[Layer, ...]:
        # No event time is known yet; the pipeline judges ages window by window.
        try:
            return self._verified(
                self._slots.record.layers, self._bundle, self._statement, now_ns=None
            )
        except EdgeError as error:
            log.error("update.layers_unusable", extra={"reason": _reason(error)})
            return ()

    def _resume_layers(self) -> list[Action]:
        trial = self._slots.record.trial
        assert trial is not None  # noqa: S101 - the caller has looked
        if trial.attempts >= _MAX_ATTEMPTS:
            return self._refuse(trial.job, f"crash: {trial.attempts} attempts did not come up")
        try:
            layers = self._verified(trial.layers, self._bundle, self._statement, now_ns=None)
            return self._try_layers(trial, layers)
        except EdgeError as error:
            return self._refuse(trial.job, error)

    def _resume_base(self, candidate: Candidate) -> list[Action]:
        try:
            if candidate.state == "fetching":
                return self._start_fetch(self._statement_of(candidate))
            if candidate.state == "verified":
                return [self._admit(candidate)]
        except EdgeError as error:
            return self._refuse(candidate.job, error)
        return self._try_base("crash: the device went down while starting it")

    # --- offers --------------------------------------------------------------------

    def _known(self, job: Job) -> list[Action] | None:
        record = self._slots.record
        finished = record.finished(job.id)
        if finished is not None:
            return [Report(finished)]
        if record.candidate is not None and record.candidate.job == job.id:
            return [self._report(job.id, record.candidate.state)]
        if record.trial is not None and record.trial.job == job.id:
            return [self._report(job.id, "trial")]
        return [] if any(job.id == other.id for other in self._waiting) else None

    def _offer_base(self, job: Job, signed: Signed) -> list[Action]:
        statement = self._trusted().verify_base(signed)
        if statement.digest == self._bundle.digest:
            return self._offer_layers(job) if job.layers else self._already(job)
        self._check_offer(job, statement)
        candidate = self._slots.record.candidate
        if candidate is not None and candidate.state == "fetching":
            before = self._statement_of(candidate)
            if before.seq < statement.seq:
                return [
                    *self._refuse(candidate.job, f"superseded: by job {job.id}"),
                    *self.on_job(job),
                ]
        if candidate is not None or self._expected is not None:
            return self._wait(job)
        self._slots.store(candidate=Candidate(job.id, statement.digest, signed, layers=job.layers))
        log.info("update.fetch_started", extra={"job": job.id, "base": statement.digest})
        return [self._report(job.id, "fetching"), *self._start_fetch(statement)]

    def _offer_layers(self, job: Job) -> list[Action]:
        self._trusted()
        self._check_line(job.model)
        if job.requires and job.requires != self._bundle.digest:
            raise TrustError(
                f"requires: base {job.requires[:16]}", expected=f"base {self._bundle.digest[:16]}"
            )
        if not job.layers:
            raise TrustError("payload: the job brings neither a base nor layers")
        if self._expected is not None:
            return self._wait(job)
        layers = self._verified(job.layers, self._bundle, self._statement, now_ns=self._event_ns())
        if effective_id(self._bundle.digest, layers) == self._effective:
            return self._already(job)
        return self._try_layers(LayerTrial(job.id, job.layers), layers)

    def _wait(self, job: Job) -> list[Action]:
        """Keep an offer until the one before it is done; refuse the newest when full."""
        if len(self._waiting) >= _MAX_WAITING:
            return self._refuse(job.id, f"busy: {_MAX_WAITING} jobs wait already")
        self._waiting.append(job)
        return []

    def _already(self, job: Job) -> list[Action]:
        report = self._report(job.id, "committed")
        self._slots.finish(report.message)
        return [report]

    def _check_offer(self, job: Job, statement: Statement) -> None:
        record = self._slots.record
        self._check_line(job.model)
        self._check_line(statement.name)
        bad = record.quarantine.get(statement.digest)
        if bad is not None:
            raise TrustError(f"quarantine: {bad}", where=statement.digest[:16])
        self._check_floor("base", statement.seq, statement.digest)

    def _check_line(self, line: str) -> None:
        if line != self._line:
            raise TrustError(
                f"line: {line!r} is not what this stream runs", expected=repr(self._line)
            )

    def _check_floor(self, kind: str, seq: int, digest: str) -> None:
        floor = self._slots.record.floors.get(f"{self._line}/{kind}")
        if floor is None or seq > floor.seq or (seq, digest) == (floor.seq, floor.digest):
            return
        raise TrustError(
            f"floor: {kind} seq {seq} <= {floor.seq}",
            expected=f"a seq above {floor.seq}; a device never goes back",
            remedy="Publish it under a new sequence number.",
        )

    # --- layers --------------------------------------------------------------------

    def _verified(
        self,
        signed: Iterable[Signed],
        bundle: Bundle,
        statement: Statement | None,
        *,
        now_ns: int | None,
    ) -> tuple[Layer, ...]:
        """Verify a whole set for one base; one bad layer refuses all of them.

        Raises:
            TrustError: Naming the rule and the values.
        """
        layers = tuple(self._verified_one(one, bundle, statement, now_ns) for one in signed)
        kinds = [layer.kind for layer in layers]
        if len(set(kinds)) != len(kinds):
            raise TrustError(f"kind: {kinds}", expected="each kind once in a set")
        return layers

    def _verified_one(
        self, signed: Signed, bundle: Bundle, statement: Statement | None, now_ns: int | None
    ) -> Layer:
        if statement is None:
            raise TrustError(
                "unsigned: the base has no signed statement that names layer keys",
                where=bundle.ref,
                expected="a statement beside the bundle, <bundle>.signed.json",
                remedy="Sign the bundle with a release key and put the statement there.",
            )
        from edge_runtime.update.trust import check_layer

        layer = self._trusted().verify_layer(signed, statement)
        check_layer(layer, bundle.spec, bundle.digest, now_ns)
        if layer.scope.startswith("device:") and layer.scope != f"device:{self._device}":
            raise TrustError(f"scope: {layer.scope}", expected=f"device:{self._device}")
        self._check_floor(layer.kind, layer.seq, layer.digest)
        return layer

    def _try_layers(self, trial: LayerTrial, layers: tuple[Layer, ...]) -> list[Action]:
        self._measure(trial.job, self._prove(self._bundle, layers))
        self._slots.store(trial=msgspec.structs.replace(trial, attempts=trial.attempts + 1))
        identity = effective_id(self._bundle.digest, layers)
        self._expected = ActivateLayers(self._stream, layers, identity)
        return [self._expected]

    def _commit_layers(self, done: ActivateLayers, measured: Mapping[str, float]) -> list[Action]:
        trial = self._slots.record.trial
        assert trial is not None  # noqa: S101 - stored before the action was returned
        self._measure(trial.job, measured)
        report = self._report(trial.job, "committed")
        self._slots.finish(
            report.message,
            trial=None,
            layers=trial.layers,
            floors=self._slots.record.floors | self._floors(done.layers),
        )
        log.info("update.layers_committed", extra={"effective_id": done.effective_id})
        return [report, *self._go_on()]

    def _floors(self, layers: Sequence[Layer]) -> dict[str, Floor]:
        return {f"{self._line}/{one.kind}": Floor(one.seq, one.digest) for one in layers}

    # --- bases ----------------------------------------------------------------------

    def _start_fetch(self, statement: Statement) -> list[Action]:
        if self._slots.is_installed(statement):
            return self._verify(statement)
        from edge_runtime.update.fetch import Fetch

        self._fetch = Fetch(statement, self._slots.part(statement), device=self._device)
        return self._fetch_on()

    def _fetch_on(self) -> list[Action]:
        assert self._fetch is not None  # noqa: S101 - callers have looked
        return self._verify(self._fetch.statement) if self._fetch.is_complete else self._requests()

    def _requests(self) -> list[Action]:
        if self._fetch is None or not self._is_linked:
            return []
        return [Request(one) for one in self._fetch.request(self._clock.monotonic_ns())]

    def _verify(self, statement: Statement) -> list[Action]:
        candidate = self._slots.record.candidate
        assert candidate is not None  # noqa: S101 - stored before anything is fetched
        self._fetch = None
        try:
            bundle = self._slots.install(statement)
            _check_fit(bundle.spec, self._bundle.spec, statement)
            self._verified(candidate.layers, bundle, statement, now_ns=self._event_ns())
        except EdgeError as error:
            return self._refuse(candidate.job, error)
        self._store_candidate(candidate, state="verified")
        return [self._report(candidate.job, "verified"), self._admit(candidate)]

    def _admit(self, candidate: Candidate) -> Admit:
        return Admit(self._stream, candidate.digest, self._slots.slot(candidate.digest))

    def _try_base(self, why: str = "") -> list[Action]:
        """Count an attempt, then start the candidate; ``why`` is how the last one ended."""
        candidate = self._slots.record.candidate
        assert candidate is not None  # noqa: S101 - stored before anything is fetched
        if candidate.attempts >= _MAX_ATTEMPTS:
            return self._refuse(candidate.job, why, bad=candidate.digest, state="rolled_back")
        self._store_candidate(candidate, state="trial", attempts=candidate.attempts + 1)
        try:
            statement = self._statement_of(candidate)
            bundle = self._slots.install(statement)
            layers = self._verified(candidate.layers, bundle, statement, now_ns=self._event_ns())
            if layers:
                self._measure(candidate.job, self._prove(bundle, layers))
        except EdgeError as error:
            return self._refuse(candidate.job, error)
        identity = effective_id(bundle.digest, layers)
        self._expected = ActivateBase(self._stream, bundle, layers, identity)
        return [self._report(candidate.job, "trial"), self._expected]

    def _commit_base(self, done: ActivateBase, measured: Mapping[str, float]) -> list[Action]:
        record = self._slots.record
        candidate = record.candidate
        assert candidate is not None  # noqa: S101 - stored before the action was returned
        self._measure(candidate.job, measured)
        statement = self._statement_of(candidate)
        floors = {f"{self._line}/base": Floor(statement.seq, statement.digest)}
        report = self._report(candidate.job, "committed")
        self._slots.finish(
            report.message,
            active=candidate.digest,
            layers=candidate.layers,
            previous=record.active,
            previous_layers=record.layers,
            statements={
                digest: signed
                for digest, signed in record.statements.items()
                if digest == record.active
            }
            | {candidate.digest: candidate.signed},
            candidate=None,
            floors=record.floors | floors | self._floors(done.layers),
        )
        self._bundle, self._statement = done.bundle, statement
        self._slots.prune()
        log.info("update.base_committed", extra={"base": done.bundle.digest, "job": candidate.job})
        return [report, *self._go_on()]

    def _store_candidate(self, candidate: Candidate, **changes: object) -> None:
        self._slots.store(candidate=msgspec.structs.replace(candidate, **changes))

    def _statement_of(self, candidate: Candidate) -> Statement:
        return self._trusted().verify_base(candidate.signed)

    # --- endings ---------------------------------------------------------------------

    def _refuse(
        self,
        job: str,
        why: EdgeError | str,
        *,
        bad: str | None = None,
        state: str = "refused",
    ) -> list[Action]:
        """End a job; the old keeps serving, and a digest proven bad is never tried again."""
        reason = why if isinstance(why, str) else _reason(why)
        record = self._slots.record
        changes: dict[str, object] = {}
        if record.candidate is not None and record.candidate.job == job:
            changes["candidate"] = self._fetch = None
        if record.trial is not None and record.trial.job == job:
            changes["trial"] = None
        if bad is not None:
            changes["quarantine"] = record.quarantine | {bad: reason[:_MAX_REASON]}
        log.warning("update.refused", extra={"job": job, "reason": reason, "state": state})
        report = self._report(job, state, reason)
        self._slots.finish(report.message, **changes)
        if "candidate" in changes:
            self._slots.prune()
        return [report, *(self._go_on() if changes else [])]

    def _go_on(self) -> list[Action]:
        """Start what had to wait: a staged base first, then the offers in order."""
        candidate = self._slots.record.candidate
        if self._expected is None and candidate is not None and candidate.state == "staged":
            return self._try_base()
        waiting, self._waiting = self._waiting, []
        return [action for job in waiting for action in self.on_job(job)]

    def _report(self, job: str, state: str, reason: str = "") -> Report:
        has_ended = state not in {"fetching", "verified", "staged", "trial"}
        measured = self._measured.pop(job, {}) if has_ended else {}
        return Report(
            JobReport(
                id=job,
                device=self._device,
                stream=self._stream,
                state=state,
                reason=reason[:_MAX_REASON],
                effective=self._effective if has_ended else "",
                measured=measured,
            )
        )

    def _measure(self, job: str, measured: Mapping[str, float]) -> None:
        """Keep what was measured at a gate until the job's last report."""
        self._measured[job] = self._measured.get(job, {}) | dict(measured)

    @property
    def _line(self) -> str:
        return self._slots.factory.spec.name

    def _trusted(self) -> Trust:
        if self._trust is None:
            raise TrustError(
                "key: this device trusts no release key",
                expected="trust.release_keys in the device's configuration",
                remedy="Add the public release key, then offer the update again.",
            )
        return self._trust


def _check_fit(spec: ModelSpec, running: ModelSpec, statement: Statement) -> None:
    if (spec.name, spec.version) != (statement.name, statement.version):
        raise TrustError(
            f"digest: the bundle is {spec.name}@{spec.version}",
            expected=f"{statement.name}@{statement.version}, as signed",
        )
    if spec.stream != running.stream:
        raise BundleError(
            f"requires: channels {list(spec.stream.names)} at {spec.stream.rate_hz:g} Hz",
            expected=f"{list(running.stream.names)} at {running.stream.rate_hz:g} Hz",
            remedy="Change the device's configuration first; its source stays as it is.",
        )


def _reason(error: EdgeError) -> str:
    """Say in one line why, beginning with one word that programs may rely on."""
    what = error.what if re.match(r"[a-z]+: ", error.what) else f"{_word(error)}: {error.what}"
    return f"{what} ({error.where})" if error.where else what


def _word(error: EdgeError) -> str:
    words = {MissingExtra: "missing", ModelError: "model", BundleError: "bundle"}
    return next((word for kind, word in words.items() if isinstance(error, kind)), "store")
