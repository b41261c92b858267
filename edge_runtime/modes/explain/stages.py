"""Each stage of the pipeline in words: what it did with one window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from edge_runtime.modes.explain.found import Found
from edge_runtime.pipeline import Asked
from edge_runtime.pipeline.gate import Mark
from edge_runtime.plural import counted
from edge_runtime.quality import names_of_mask
from edge_runtime.spec import (
    FeatureSpec,
    Limit,
    ModelSpec,
    OutputSpec,
    Reject,
    Smoothing,
    StageSpec,
)
from edge_runtime.tape import Answer
from edge_runtime.types import TensorSpec

__all__ = ["Stage", "limit_text", "stages_of"]


_VALUES = 4


class Stage(msgspec.Struct, frozen=True):
    """One stage of the pipeline.

    Attributes:
        name: Of the stage.
        what: What it did.
        values: What came out of it, a number for each label; None where that is no such thing.
    """

    name: str
    what: str
    values: list[float] | None = None


def stages_of(found: Found) -> Iterator[Stage]:
    """Yield the stages in order, and at the end what late samples have changed."""
    trace, spec = found.trace, found.spec
    yield Stage("samples", _window_text(found))
    if spec.filters:
        kinds = ", ".join(_kind(one) for one in spec.filters)
        yield Stage("filters", f"{kinds}; the samples shown are what came out")
    if spec.cascade:
        yield from _cascade(found)
    else:
        asked = trace.asked[0]
        yield Stage("features", _features_text(spec.features, asked, found))
        yield Stage("normalise", _normalise_text(found))
        yield Stage("model", _asked_text(found.backend, asked))
        yield Stage("score", _score_text(spec.output), trace.score.tolist())
    for kind, values in trace.layers:
        yield Stage(f"layer: {kind}", _LAYERS[kind], values.tolist())
    yield Stage("value", _value_text(found), trace.value.tolist())
    smoothed = None if trace.smoothed is None else trace.smoothed.tolist()
    yield Stage("smooth", _smooth_text(spec.smoothing, smoothed), smoothed)
    if smoothed is not None:
        yield from _gates(found, smoothed)
    yield Stage("decide", _decide_text(found))
    if len(found.said.answers) > 1 or any(one.is_retracted for one in found.said.answers):
        yield Stage("revisions", _revisions_text(found.said.answers))


_LAYERS = {
    "calibration": "a fitted scale and offset, in the link",
    "residual": "what the cloud learned of the model's error, from the features",
    "fusion": "weight of the live answer",
    "prior": "what the last batch answer says, fading with its age",
}


def _kind(spec: Any) -> str:
    return str(spec.__struct_config__.tag)


def _window_text(found: Found) -> str:
    count, channels = found.trace.samples.shape
    rate = found.spec.stream.rate_hz
    grid = found.spec.stream.grid
    told = (
        f"{counted(count, 'sample')} of {counted(channels, 'channel')} at {rate:g} Hz, "
        f"clock {found.clock}"
    )
    if grid is not None:
        told += f", on a grid by {grid.resample}"
    suspect = ", ".join(names_of_mask(found.trace.quality))
    return f"{told}; suspect: {suspect}" if suspect else told


# --- models -------------------------------------------------------------------------


def _cascade(found: Found) -> Iterator[Stage]:
    """Yield the models that were asked, and at the end what was answered."""
    ways: list[StageSpec | ModelSpec] = [*found.spec.cascade, found.spec]
    answered = found.trace.asked[-1]
    for asked, way in zip(found.trace.asked, ways, strict=False):
        told = [_features_text(way.features, asked, found), _asked_text(_engine(found, way), asked)]
        told += [_score_text(way.output), _says(asked, way.labels or found.spec.labels)]
        if isinstance(way, StageSpec):
            told.append(_rule_text(way, is_left=asked is not answered))
        yield Stage(asked.name, "; ".join(told))
    is_idle = answered.score.tolist() != found.trace.score.tolist()
    what = "what it answers where nothing goes on" if is_idle else "as it said"
    yield Stage("score", f"answered by {answered.name}: {what}", found.trace.score.tolist())


def _says(asked: Asked, labels: Sequence[str]) -> str:
    """Name the largest scores."""
    scores = asked.score.tolist()
    order = sorted(range(len(scores)), key=lambda place: -scores[place])[:_VALUES]
    more = " …" if len(scores) > _VALUES else ""
    return "says " + ", ".join(f"{labels[one]} {scores[one]:.6g}" for one in order) + more


def _rule_text(stage: StageSpec, *, is_left: bool) -> str:
    what = "left it to the next" if is_left else "answers"
    return f"{what}: it asks the next for {stage.ask_next}"


def _features_text(features: Sequence[FeatureSpec], asked: Asked, found: Found) -> str:
    kinds = ", ".join(_kind(one) for one in features)
    shape = found.trace.samples.shape if asked.features is None else asked.features.shape
    return f"{kinds}: shape {_by(shape)}"


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _normalise_text(found: Found) -> str:
    if found.trace.asked[0].normalised is None:
        return "nothing: neither the base nor a layer has a normaliser"
    by = "a layer" if any(one.startswith("normaliser") for one in found.layers) else "the base"
    return f"with the numbers of {by}"


def _engine(found: Found, way: StageSpec | ModelSpec) -> str:
    """Say what ran a model of a cascade: the first of its files that the backend runs."""
    if isinstance(way, ModelSpec):
        return found.backend
    backend = found.backend.partition(" ")[0]
    files = [one.file for one in way.artefacts if one.backend == backend]
    return f"{backend} with {files[0]}" if files else "no model, its features are its values"


def _asked_text(engine: str, asked: Asked) -> str:
    source, target, answer = asked.source, asked.target, asked.answer
    said = ", ".join(f"{one:g}" for one in answer.ravel()[:12].tolist())
    more = f" … ({answer.size} numbers)" if answer.size > 12 else ""
    return (
        f"{engine}, asked {source.dtype} {_by(asked.tensor.shape)}{_scale(source)}, "
        f"answered {target.dtype} {said}{more}{_scale(target)}"
    )


def _scale(tensor: TensorSpec) -> str:
    if tensor.scale is None:
        return ""
    return f" (scale {tensor.scale:g}, zero point {tensor.zero_point})"


def _score_text(output: OutputSpec) -> str:
    applied = "" if output.activation == "none" else f"{output.activation}, "
    return f"{applied}calibration shipped with the base: {output.scale:g} x + {output.offset:g}"


def _value_text(found: Found) -> str:
    return "the score, refined by the layers" if found.trace.layers else "the score: no layer"


def _smooth_text(smoothing: Smoothing, smoothed: list[float] | None) -> str:
    if smoothing.alpha is not None:
        return f"exponential: {smoothing.alpha:g} of the way to each new value"
    if smoothing.half_life_s is not None:
        return f"exponential: half of the way in {smoothing.half_life_s:g} s of event time"
    if smoothing.windows == 1:
        return "none: every window counts alone"
    if smoothed is None:
        return f"{smoothing.kind}: not yet {smoothing.windows} windows, nothing is decided"
    return f"{smoothing.kind} of {smoothing.windows} windows"


# --- limits -------------------------------------------------------------------------


def limit_text(limit: Limit) -> str:
    """Say what a limit asks for."""
    told = f"starts at {limit.on:g}, ends below {limit.off:g}"
    if limit.k_of_n != (1, 1):
        told += f", with {limit.k_of_n[0]} of {limit.k_of_n[1]} windows"
    if limit.refractory_s:
        told += f", not again within {limit.refractory_s:g} s"
    if limit.reject is not None:
        told += f", uncertain from {limit.reject.low:g} to below {limit.reject.high:g}"
    return told


def _gates(found: Found, smoothed: list[float]) -> Iterator[Stage]:
    """Yield what stood between a value and a start or an end, where more than a limit does."""
    before, labels = found.trace.before, found.spec.labels
    for limit in found.trace.limits:
        if not limit.is_plain:
            value = smoothed[labels.index(limit.label)]
            mark = before.marks.get(limit.label, Mark())
            told = _gate_text(limit, mark, value, found.trace.end_ns)
            yield Stage(f"gate: {limit.label}", told)


def _gate_text(limit: Limit, mark: Mark, value: float, end_ns: int) -> str:
    parts = [_band_text(limit.reject, value)] if limit.reject is not None else []
    count = limit.k_of_n[1] - 1
    if count:
        parts.append(f"{len(mark.hits)} of the {count} windows before had reached {limit.on:g}")
    if limit.refractory_s:
        parts.append(_refractory_text(limit.refractory_s, mark.ended_ns, end_ns))
    return "; ".join(parts)


def _band_text(reject: Reject, value: float) -> str:
    if reject.low <= value < reject.high:
        return f"uncertain: {value:.6g} lies in the reject band, nothing starts or ends"
    return f"sure: {value:.6g} lies outside the reject band"


def _refractory_text(refractory_s: float, ended_ns: int | None, end_ns: int) -> str:
    if ended_ns is None:
        return "it had not ended before"
    return f"it had ended {(end_ns - ended_ns) / 1e9:g} s before, and rests {refractory_s:g} s"


def _decide_text(found: Found) -> str:
    trace = found.trace
    if not trace.limits:
        return "no limits: this model makes estimates alone"
    had = f"started before: {', '.join(trace.before.started) or 'none'}"
    told = ", ".join(f"{one.label} {one.edge}s" for one in trace.decisions)
    return f"{told or 'nothing starts or ends'}; {had}"


def _revisions_text(answers: Sequence[Answer]) -> str:
    """Say that late samples have changed the answer, and what stands."""
    told = ", ".join(f"revision {one.revision} {_answer_text(one)}" for one in answers)
    return f"late samples have changed it: {told}; shown is the last answer"


def _answer_text(answer: Answer) -> str:
    if answer.is_retracted:
        return "takes it back"
    values = np.frombuffer(answer.value).tolist()
    more = "…" if len(values) > _VALUES else ""
    return "is " + " ".join(f"{one:.6g}" for one in values[:_VALUES]) + more
