"""What there is to say about one window, from its samples to its decisions."""

from __future__ import annotations

import msgspec
import numpy as np

from edge_runtime.modes.explain.found import Found, Moment, Said
from edge_runtime.modes.explain.stages import Stage, stages_of
from edge_runtime.quality import names_of_mask
from edge_runtime.spec import Limit
from edge_runtime.tape import Answer
from edge_runtime.types import Decision

__all__ = ["Explanation", "Revision", "explanation_of"]


class Revision(msgspec.Struct, frozen=True):
    """One answer of the window.

    Attributes:
        revision: How often it was answered before.
        is_retracted: Whether it takes the answer back.
        value: A number for each label.
    """

    revision: int
    is_retracted: bool
    value: list[float]


class Explanation(msgspec.Struct, frozen=True):
    """Everything about one window, in builtins.

    Attributes:
        result: What it is called.
        model: Reference of the base.
        base: Digest of the base.
        effective_id: Of base and layers.
        layers: Its layers.
        start_ns: Time of the first sample.
        end_ns: Time of the last.
        clock: How far these may be trusted.
        quality: Names of what is suspect about its samples.
        labels: Names of the model's outputs.
        unit: Of a regressor's value.
        stages: What each stage did, in order.
        limits: The operating point.
        started: Labels that had started before.
        decisions: Made on this window, again; revisions included.
        recorded: Made on it by the device; None where the tape does not tell.
        revisions: Every answer, in order: late samples may have changed it.
        is_equal: Whether everything that was said of the window is the device's to the
            byte; None where the tape does not tell.
        verdict: The same in words.
        channels: Name and unit of each.
        samples: What the window held after the filters, a list for each sample.
        features: What the model that answered was shown before normalising, flat; None
            where that is the samples.
        feature_shape: Their shape.
        normalised: The same on the model's scale, flat; None without a normaliser.
        history: The windows before, and this one.
    """

    result: str
    model: str
    base: str
    effective_id: str
    layers: list[str]
    start_ns: int
    end_ns: int
    clock: str
    quality: list[str]
    labels: tuple[str, ...]
    unit: str
    stages: list[Stage]
    limits: tuple[Limit, ...]
    started: tuple[str, ...]
    decisions: tuple[Decision, ...]
    recorded: tuple[Decision, ...] | None
    revisions: list[Revision]
    is_equal: bool | None
    verdict: str
    channels: list[tuple[str, str]]
    samples: list[list[float]]
    features: list[float] | None
    feature_shape: tuple[int, ...] | None
    normalised: list[float] | None
    history: list[Moment]


def explanation_of(result: str, found: Found) -> Explanation:
    """Put what was found into words and numbers."""
    trace, spec = found.trace, found.spec
    answered = trace.asked[-1]
    is_equal = _is_equal(found)
    return Explanation(
        result=result,
        model=f"{spec.name}@{spec.version}",
        base=found.base,
        effective_id=trace.effective_id,
        layers=found.layers,
        start_ns=trace.start_ns,
        end_ns=trace.end_ns,
        clock=found.clock,
        quality=names_of_mask(trace.quality),
        labels=spec.labels,
        unit=spec.unit,
        stages=list(stages_of(found)),
        limits=trace.limits,
        started=trace.before.started,
        decisions=found.said.decisions,
        recorded=None if is_equal is None else found.recorded.decisions,
        revisions=[_revision(one) for one in found.said.answers],
        is_equal=is_equal,
        verdict=_verdict(found, is_equal),
        channels=[(channel.name, channel.unit) for channel in spec.stream.channels],
        samples=trace.samples.tolist(),
        features=_flat(answered.features),
        feature_shape=None if answered.features is None else answered.features.shape,
        normalised=_flat(answered.normalised),
        history=found.moments,
    )


def _revision(answer: Answer) -> Revision:
    value = np.frombuffer(answer.value).tolist()
    return Revision(answer.revision, answer.is_retracted, value)


def _flat(array: np.ndarray | None) -> list[float] | None:
    return None if array is None else array.ravel().tolist()


# --- verdict ------------------------------------------------------------------------


def _is_equal(found: Found) -> bool | None:
    if not (found.compared.answers or found.recorded.answers):
        return None
    encode = msgspec.msgpack.encode
    return encode(found.compared) == encode(found.recorded)


def _verdict(found: Found, is_equal: bool | None) -> str:
    if is_equal is None:
        return "The tape was cut off before the device's own answer: there is nothing to compare."
    if is_equal:
        return "Byte-equal: score, value and decisions are what the device had made."
    if not found.is_same_bundle:
        return f"Another bundle answered; the device had {_told(found.recorded)}."
    return f"NOT equal to what the device had made: {_told(found.recorded)}."


def _told(recorded: Said) -> str:
    if not recorded.answers:
        return "no answer"
    last = recorded.answers[-1]
    values = ", ".join(f"{one:.6g}" for one in np.frombuffer(last.value).tolist())
    made = ", ".join(f"{one.label} {one.edge}s" for one in recorded.decisions) or "no decision"
    return f"value {values} and {made}, with effective id {last.effective_id}"
