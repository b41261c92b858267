"""Brings one stream up: what to run, loaded, and where it stopped last time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_runtime.bundle import Bundle
from edge_runtime.config import DeviceConfig
from edge_runtime.errors import ModelError
from edge_runtime.modes.models import SharedModels
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.updates import StreamUpdates
from edge_runtime.modes.vitals import Crash, Vitals
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Choice, Clock
from edge_runtime.profiles import explain_choice
from edge_runtime.spec import Layer
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.update.agent import UpdateAgent
from edge_runtime.update.proof import LayerProver
from edge_runtime.update.slots import Slots
from edge_runtime.update.trust import Trust

__all__ = ["boot_stream"]

log = logging.getLogger(__name__)

_MOST_CRASHES = 2


def boot_stream(
    config: DeviceConfig,
    name: str,
    *,
    state: StateStore,
    outbox: Outbox,
    trust: Trust | None,
    clock: Clock,
    models: SharedModels,
    proofs: SharedModels,
    vitals: Vitals,
    crash: Crash | None = None,
) -> StreamUpdates:
    """Choose, load and resume what stream ``name`` runs.

    A base that has taken the device down twice is given up for the one before.

    Args:
        config: The device's.
        name: Of the stream.
        state: Started.
        outbox: Open.
        trust: Who may sign updates.
        clock: Tells time.
        models: Of the pipeline thread, shared by all streams.
        proofs: Of the update agents' thread, to prove layers on.
        vitals: Told while a model is loaded.
        crash: What the base has done to the device before.

    Raises:
        BundleError: The factory bundle does not load.
        ModelError: The model does not open with the configured backend.
        StoreError: The device's databases failed.
    """
    stream = config.streams[name]
    wanted = msgspec.structs.replace(stream.model.choice, limit_s=config.watchdog_s)
    folder = Path(config.state) / "slots"
    slots = Slots(folder, name, factory=stream.model.bundle, state=state, choice=wanted)

    def choose(bundle: Bundle) -> Choice:
        found = explain_choice(bundle, wanted, config.profiles)
        facts = {"stream": name, "why": found.why, **msgspec.structs.asdict(found.choice)}
        log.info("model.chosen", extra=facts)
        return found.choice

    prover = LayerProver(lambda bundle: proofs.open(bundle, choose(bundle)))
    agent = UpdateAgent(
        slots,
        device=config.device,
        trust=trust,
        clock=clock,
        event_ns=lambda: serving.event_ns,
        prove=prover,
    )

    def build(bundle: Bundle, layers: Sequence[Layer], *, is_new: bool = False) -> Pipeline:
        choice = choose(bundle)
        with vitals.loading():
            session = models.open(bundle, choice, is_new=is_new)
        return Pipeline(
            bundle.spec,
            session,
            base=bundle.digest,
            layers=layers,
            stream=name,
            upload=stream.upload,
            micro_batch=choice.micro_batch,
        )

    chosen = agent.boot(_given_up(crash))
    pipeline = build(chosen.bundle, chosen.layers)
    serving = _resumed(pipeline, outbox, commit_s=config.outbox.commit_s, clock=clock)
    return StreamUpdates(agent, serving, build, wanted)


def _given_up(crash: Crash | None) -> dict[str, str]:
    if crash is None or crash.times < _MOST_CRASHES:
        return {}
    return {crash.base: f"crash: the device {crash.how} {crash.times} times"}


def _resumed(pipeline: Pipeline, outbox: Outbox, *, commit_s: float, clock: Clock) -> Serving:
    """Go on from the last commit, also if another base made it: a kill at a swap loses nothing."""
    resume = outbox.resume(pipeline.stream)
    position = resume.position if resume else 0
    if resume and resume.snapshot:
        try:
            pipeline.restore(resume.snapshot, base=resume.base)
        except ModelError as error:
            log.warning("resume.snapshot_unusable", extra={"why": str(error)})
    return Serving(pipeline, position=position, commit_s=commit_s, clock=clock)
