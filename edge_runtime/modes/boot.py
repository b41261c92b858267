"""Brings one stream up: what to run, loaded, and where it stopped last time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.bundle import Bundle
from edge_runtime.config import DeviceConfig
from edge_runtime.errors import ModelError
from edge_runtime.modes.models import SharedModels
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.taping import standing_of
from edge_runtime.modes.updates import StreamUpdates
from edge_runtime.modes.vitals import Crash, Vitals
from edge_runtime.pipeline import AnyPipeline, Pipeline, timed_if_asked
from edge_runtime.ports import Choice, Clock
from edge_runtime.profiles import explain_choice
from edge_runtime.spec import Layer
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.tape import Change, Standing
from edge_runtime.update.agent import UpdateAgent
from edge_runtime.update.proof import LayerProver
from edge_runtime.update.slots import Slots

if TYPE_CHECKING:
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
    keeps_outputs: bool = False,
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
        keeps_outputs: Whether commits carry results as they came.

    Raises:
        BundleError: The factory bundle does not load.
        ModelError: The model does not open with the configured backend.
        StoreError: The device's databases failed.
    """
    builder = _Builder(config, name, models, vitals)
    slots = Slots(
        Path(config.state) / "slots",
        name,
        factory=config.streams[name].model.bundle,
        state=state,
        choice=builder.wanted,
    )
    agent = UpdateAgent(
        slots,
        device=config.device,
        trust=trust,
        clock=clock,
        event_ns=lambda: serving.event_ns,
        prove=LayerProver(lambda bundle: proofs.open(bundle, builder.choose(bundle))),
    )
    chosen = agent.boot(_given_up(crash))
    pipeline = builder.build(chosen.bundle, chosen.layers)
    serving = Serving(
        pipeline,
        position=_resumed(pipeline, outbox),
        commit_s=config.commit_s(name),
        position_s=config.outbox.position_s,
        upload=config.kept(name),
        clock=clock,
        keeps_outputs=keeps_outputs,
        stand=builder.stand if config.ring(name) else None,
    )
    return StreamUpdates(agent, serving, builder.build, builder.wanted)


class _Builder:
    """Makes the pipelines of one stream, and remembers how each base is run.

    Attributes:
        wanted: How the configuration wants models to be run.
    """

    def __init__(
        self, config: DeviceConfig, name: str, models: SharedModels, vitals: Vitals
    ) -> None:
        self._stream, self._name = config.streams[name], name
        self._profiles = config.profiles
        self._models = models
        self._vitals = vitals
        self._choices: dict[str, Choice] = {}
        choice = self._stream.model.choice
        self.wanted = msgspec.structs.replace(choice, limit_s=config.watchdog_s)

    def choose(self, bundle: Bundle) -> Choice:
        """Return how a bundle is run on this machine."""
        found = explain_choice(bundle, self.wanted, self._profiles)
        facts = {"stream": self._name, "why": found.why, **msgspec.structs.asdict(found.choice)}
        log.info("model.chosen", extra=facts)
        self._choices[bundle.digest] = found.choice
        return found.choice

    def build(
        self, bundle: Bundle, layers: Sequence[Layer], *, is_new: bool = False
    ) -> AnyPipeline:
        """Load a bundle and put the stream's pipeline around it."""
        choice = self.choose(bundle)
        with self._vitals.loading():
            session = self._models.open(bundle, choice, is_new=is_new)
        pipeline = Pipeline(
            bundle.spec,
            session,
            base=bundle.digest,
            layers=layers,
            stream=self._name,
            upload=self._stream.upload,
            micro_batch=choice.micro_batch,
        )
        return timed_if_asked(pipeline, self._stream.time)

    def stand(self, pipeline: AnyPipeline, position: int, change: Change) -> Standing:
        """Say for a recording where the stream stands."""
        return standing_of(pipeline, position, change, self._choices[pipeline.base])


def _given_up(crash: Crash | None) -> dict[str, str]:
    if crash is None or crash.times < _MOST_CRASHES:
        return {}
    return {crash.base: f"crash: the device {crash.how} {crash.times} times"}


def _resumed(pipeline: AnyPipeline, outbox: Outbox) -> int:
    """Go on from the last commit, also if another base made it: a kill at a swap loses nothing.

    Returns:
        Index of the next sample to read.
    """
    resume = outbox.resume(pipeline.stream)
    if resume and resume.snapshot:
        try:
            pipeline.restore(resume.snapshot, base=resume.base)
        except ModelError as error:
            log.warning("resume.snapshot_unusable", extra={"why": str(error)})
    return resume.position if resume else 0
