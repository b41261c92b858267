"""Which layers count for a window, and what they make of its score."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol, cast

import msgspec
import numpy as np

from edge_runtime.errors import BundleError, ShapeError
from edge_runtime.pipeline.fuse import Reals, decay, from_link, to_link
from edge_runtime.pipeline.scales import Scales, normalise, scales_of
from edge_runtime.spec import (
    CalibrationLayer,
    FusionLayer,
    Layer,
    LayerBody,
    LayerKind,
    Limit,
    ModelSpec,
    NormaliserLayer,
    PriorLayer,
    ResidualLayer,
    ThresholdsLayer,
)

__all__ = ["Active", "LayerSet", "Scales", "normalise", "scales_of"]


class _Step(Protocol):
    """Changes ``z``, shape (n, k), given features (n, …) or None, and window ends (n,)."""

    @property
    def kind(self) -> LayerKind: ...

    def __call__(self, z: Reals, features: np.ndarray | None, end_ns: np.ndarray, /) -> Reals: ...


_NS_PER_S = 1e9
_FOREVER_NS = 2.0**61


class Active(msgspec.Struct, frozen=True, eq=False):
    """The layers that count for a run of windows, ready to use.

    Attributes:
        scales: The normaliser in force: layer, base, or none.
        limits: The operating point in force.
        steps: What changes the value, in the order of application.
        needs_features: Whether a step looks at the features.
    """

    scales: Scales | None
    limits: tuple[Limit, ...]
    steps: tuple[_Step, ...]
    needs_features: bool


class LayerSet:
    """Layers on top of one base, at most one of each kind.

    A layer counts for a window whose end lies at or after ``made_ns``, before
    ``expires_ns``, and no more than ``clamps.age_s`` after ``made_ns``. For any
    other window it is as if it did not exist: nothing looks ahead, nothing
    outlives its time.

    Args:
        spec: The base's spec.
        layers: In any order.
        base: Digest of the base.
        shape: Shape of one window's features.

    Attributes:
        layers: As given.
        base_scales: The base's normaliser.
        always: What counts for every window, if there are no layers; else None.

    Raises:
        BundleError: Two layers have one kind, one is for another base, or a
            threshold names an unknown label.
        ShapeError: A layer's lengths do not fit the base.
    """

    def __init__(
        self, spec: ModelSpec, layers: Sequence[Layer], *, base: str, shape: tuple[int, ...]
    ) -> None:
        self._spec = spec
        self._shape = shape
        self.layers = tuple(layers)
        self.base_scales = (
            None if spec.normalise is None else scales_of(spec.normalise, shape, "normalise")
        )
        self._check(base)
        self._bounds = [self._bounds_of(layer) for layer in self.layers]
        self._active: dict[int, Active] = {}
        self.always = None if self._bounds else self._with(0)

    def _check(self, base: str) -> None:
        kinds = [layer.kind for layer in self.layers]
        if len(set(kinds)) != len(kinds):
            raise BundleError(
                f"layers have the kinds {kinds}",
                expected="at most one of each kind",
                remedy="Activate only the newest layer of a kind.",
            )
        for layer in self.layers:
            if layer.requires != base:
                raise BundleError(
                    f"a {layer.kind} layer requires base {layer.requires[:16]}",
                    expected=base[:16],
                    remedy="Compute the layer for the base that is active.",
                )
            self._check_body(layer.body)

    def _check_body(self, body: LayerBody) -> None:
        labels = self._spec.labels
        match body:
            case NormaliserLayer():
                scales_of(body, self._shape, "normaliser layer")
            case ResidualLayer():
                _check_length("residual weights", body.weights, int(np.prod(self._shape)))
            case PriorLayer():
                _check_length("prior value", body.value, len(labels))
                _check_length("prior base", body.base, len(labels))
            case ThresholdsLayer():
                unknown = [limit.label for limit in body.limits if limit.label not in labels]
                if unknown:
                    raise BundleError(
                        f"a thresholds layer names the labels {unknown}",
                        expected=f"labels from {list(labels)}",
                        remedy="Compute the layer for the base that is active.",
                    )
            case CalibrationLayer() | FusionLayer():
                pass

    def _bounds_of(self, layer: Layer) -> tuple[int, int]:
        """Return the first window end that counts, and the first that no longer does."""
        last_ns = layer.made_ns + int(min(self._spec.clamps.age_s * _NS_PER_S, _FOREVER_NS))
        if layer.expires_ns is None:
            return layer.made_ns, last_ns + 1
        return layer.made_ns, min(last_ns + 1, layer.expires_ns)

    # --- which count --------------------------------------------------------------

    def runs(self, end_ns: np.ndarray) -> list[tuple[slice, Active]]:
        """Split windows into runs for which the same layers count.

        Args:
            end_ns: End of each window, shape (n,), int64, any order.
        """
        if not self._bounds:
            return [(slice(0, len(end_ns)), self._with(0))]
        counted = np.zeros(len(end_ns), np.int64)
        for i, (first, last) in enumerate(self._bounds):
            counted |= ((end_ns >= first) & (end_ns < last)).astype(np.int64) << i
        cuts = (np.flatnonzero(counted[1:] != counted[:-1]) + 1).tolist()
        bounds = itertools.pairwise([0, *cuts, len(end_ns)])
        return [(slice(a, b), self._with(int(counted[a]))) for a, b in bounds]

    def at(self, end_ns: int) -> Active:
        """Return what counts for one window."""
        bounds = enumerate(self._bounds)
        return self._with(sum((a <= end_ns < b) << i for i, (a, b) in bounds))

    def _with(self, bits: int) -> Active:
        found = self._active.get(bits)
        if found is None:
            layers = [layer for i, layer in enumerate(self.layers) if bits >> i & 1]
            found = self._active[bits] = self._made_active(layers)
        return found

    def _made_active(self, layers: Sequence[Layer]) -> Active:
        scales, limits = self.base_scales, self._spec.limits
        for layer in layers:
            if isinstance(layer.body, NormaliserLayer):
                scales = scales_of(layer.body, self._shape, "normaliser layer")
            elif isinstance(layer.body, ThresholdsLayer):
                limits = _replaced(limits, layer.body.limits)
        steps = self._steps(layers)
        return Active(scales, limits, steps, any(isinstance(s, _AddResidual) for s in steps))

    def _steps(self, layers: Sequence[Layer]) -> tuple[_Step, ...]:
        """Return calibration, residual, fusion and prior, as far as they are there."""
        by_kind = {layer.kind: layer for layer in layers}
        kinds: tuple[LayerKind, ...] = ("calibration", "residual", "fusion", "prior")
        ordered = [by_kind[kind] for kind in kinds if kind in by_kind]
        clamps = self._spec.clamps
        steps: list[_Step] = []
        w2 = 1.0
        for layer in ordered:
            match layer.body:
                case CalibrationLayer(scale=scale, offset=offset):
                    steps.append(_Straight(layer.kind, scale, offset))
                case ResidualLayer() as body:
                    steps.append(_AddResidual(layer, body, self.base_scales, clamps.residual))
                case FusionLayer(w0=w0, w1=w1):
                    w2 = layer.body.w2
                    steps.append(_Straight(layer.kind, w1, w0))
                case PriorLayer() as body:
                    prior = _AddPrior(layer, body, w2, clamps.prior)
                    # One that says nothing changes no bit; going to the link and back might.
                    if prior.says_something:
                        steps.append(prior)
        return tuple(steps)

    # --- what they do ---------------------------------------------------------------

    def refine(
        self, score: Reals, active: Active, features: np.ndarray | None, end_ns: np.ndarray
    ) -> Reals:
        """Return the value: the score with the active layers applied in the link.

        ``z`` is calibrated, gets the residual's term, then is fused:
        ``w0 + w1 * z + w2 * 2^(-age / half_life) * (prior.value - prior.base)``.

        Args:
            score: Shape (n, k), float64.
            active: What counts for all of these windows.
            features: Shape (n, …), float32, not normalised; may be None unless
                ``active.needs_features``.
            end_ns: End of each window, shape (n,).
        """
        if not active.steps:
            return score
        z = to_link(score, self._spec.link)
        for step in active.steps:
            z = step(z, features, end_ns)
        return from_link(z, self._spec.link)

    def trace(
        self, score: Reals, active: Active, features: np.ndarray | None, end_ns: np.ndarray
    ) -> list[tuple[LayerKind, Reals]]:
        """Return what `refine` makes of the score layer by layer, each in reported units."""
        z, link = to_link(score, self._spec.link), self._spec.link
        traced: list[tuple[LayerKind, Reals]] = []
        for step in active.steps:
            z = step(z, features, end_ns)
            traced.append((step.kind, from_link(z, link)))
        return traced


class _Straight:
    """``scale * z + offset``: calibration, and what fusion makes of the live answer."""

    def __init__(self, kind: LayerKind, scale: float, offset: float) -> None:
        self.kind: LayerKind = kind
        self._scale = scale
        self._offset = offset

    def __call__(self, z: Reals, _features: np.ndarray | None, _end_ns: np.ndarray) -> Reals:
        return z * self._scale + self._offset


class _AddResidual:
    """Adds ``intercept + weights · x``, cut to the clamp, then fading."""

    kind: LayerKind = "residual"

    def __init__(
        self, layer: Layer, body: ResidualLayer, scales: Scales | None, largest: float
    ) -> None:
        self._layer = layer
        self._scales = scales
        self._weights = np.array(body.weights)
        self._intercept = body.intercept
        self._largest = largest

    def __call__(self, z: Reals, features: np.ndarray | None, end_ns: np.ndarray) -> Reals:
        seen = normalise(cast(np.ndarray, features), self._scales)
        # Products, then a sum along each contiguous row: a matrix product would
        # add in an order that depends on how many windows there are.
        terms = seen.reshape(len(seen), -1) * self._weights
        total = np.add.reduce(terms, axis=1, keepdims=True) + self._intercept
        return z + _cut(total, self._largest) * _fading(self._layer, end_ns)


class _AddPrior:
    """Adds ``w2 * (value - base)``, cut to the clamp, then fading."""

    kind: LayerKind = "prior"

    def __init__(self, layer: Layer, body: PriorLayer, w2: float, largest: float) -> None:
        self._layer = layer
        self._term = _cut(w2 * (np.array(body.value) - np.array(body.base)), largest)

    @property
    def says_something(self) -> bool:
        """Whether it adds anything at all."""
        return bool(self._term.any())

    def __call__(self, z: Reals, _features: np.ndarray | None, end_ns: np.ndarray) -> Reals:
        return z + self._term * _fading(self._layer, end_ns)


def _fading(layer: Layer, end_ns: np.ndarray) -> Reals:
    return decay((end_ns - layer.made_ns) / _NS_PER_S, layer.half_life_s)


def _cut(term: Reals, largest: float) -> Reals:
    # fmax and fmin: a term that is not a number is cut like any other.
    return np.fmin(np.fmax(term, -largest), largest)


def _replaced(limits: Sequence[Limit], by: Sequence[Limit]) -> tuple[Limit, ...]:
    merged = {limit.label: limit for limit in limits}
    for limit in by:
        base = merged.get(limit.label, Limit(limit.label, limit.on, limit.off))
        merged[limit.label] = base.moved(limit)
    return tuple(merged.values())


def _check_length(what: str, numbers: Sequence[float], expected: int) -> None:
    if len(numbers) != expected:
        raise ShapeError(
            f"{what} has {len(numbers)} numbers",
            where="layer",
            expected=str(expected),
            remedy="Compute the layer for the base that is active.",
        )
