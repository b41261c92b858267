"""Golden replay: what a model must answer, and how far layers may move it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, Golden
from edge_runtime.errors import ModelError, TrustError
from edge_runtime.pipeline import Pipeline
from edge_runtime.pipeline.fuse import to_link
from edge_runtime.ports import Session
from edge_runtime.spec import Layer, ModelSpec
from edge_runtime.types import Windows

__all__ = ["LayerProver", "allowed_move", "golden_windows", "prove_layers"]

# Enough to meet every layer; a refresh must stay a matter of milliseconds.
_REPLAYED = 64


def golden_windows(inputs: np.ndarray, end_ns: int = 0) -> Windows:
    """Make windows of golden inputs, all of them ending at ``end_ns``.

    Args:
        inputs: Shape (n, length, channels).
        end_ns: Decides which layers count, and how old they are.
    """
    instants = np.full(len(inputs), end_ns, np.int64)
    return Windows(np.arange(len(inputs), dtype=np.int64), instants, instants, inputs)


def prove_layers(pipeline: Pipeline, golden: Golden, layers: Sequence[Layer]) -> dict[str, float]:
    """Replay golden windows with a layer set and check what becomes of the answers.

    The windows end when the youngest layer was made, so that every layer counts.

    Args:
        pipeline: One for this purpose; the set is active in it afterwards.
        golden: Of the pipeline's base.
        layers: Complete set, each verified and within its clamps.

    Returns:
        ``largest_move``: largest change of an answer, in the link.

    Raises:
        BundleError: The layers do not go together.
        ModelError: An answer is not finite.
        TrustError: An answer moved further than the clamps allow.
    """
    pipeline.activate(layers)
    end_ns = max((layer.made_ns for layer in layers), default=0)
    answers = pipeline.score_windows(golden_windows(golden.inputs[:_REPLAYED], end_ns))
    if not (np.isfinite(answers.score).all() and np.isfinite(answers.value).all()):
        raise ModelError(
            "golden: an answer is not finite",
            where=pipeline.effective_id,
            expected="finite answers on golden windows",
            remedy="Compute the layers again.",
        )
    link = pipeline.spec.link
    before, after = to_link(answers.score, link), to_link(answers.value, link)
    move, allowed = np.abs(after - before), allowed_move(before, pipeline.spec, layers)
    if (move > allowed).any():
        worst = np.unravel_index(np.argmax(move - allowed), move.shape)
        raise TrustError(
            f"clamp: together the layers move {move[worst]:g} > {allowed[worst]:g}",
            where=pipeline.effective_id,
            expected="no further than the base's clamps allow",
            remedy="Compute the layers again.",
        )
    return {"largest_move": float(move.max(initial=0.0))}


def allowed_move(z: np.ndarray, spec: ModelSpec, layers: Sequence[Layer]) -> np.ndarray:
    """Return how far these kinds of layers may move answers ``z``, in the link.

    With calibration within [1/S, S] and ±O, a residual within ±R, fusion
    weights within ±F and a prior within ±P, ``w0 + w1 (s z + o + r) + p`` lies
    within ``(F S + 1) |z| + F (1 + O + R) + P`` of z, and without fusion within
    ``(S - 1) |z| + O + R + P``. A normaliser layer acts before z.

    Args:
        z: Answers after the base's calibration and normaliser layer, any shape.
        spec: The base's.
        layers: Which kinds count.
    """
    kinds, clamps = {layer.kind for layer in layers}, spec.clamps
    scale = clamps.calibration_scale if "calibration" in kinds else 1.0
    shift = clamps.calibration_offset if "calibration" in kinds else 0.0
    shift += clamps.residual if "residual" in kinds else 0.0
    slope, offset = scale - 1.0, shift
    if "fusion" in kinds:
        slope = clamps.fusion_weight * scale + 1.0
        offset = clamps.fusion_weight * (1.0 + shift)
    offset += clamps.prior if "prior" in kinds else 0.0
    size = np.abs(z)
    rounding = 1e-6 * (1.0 + size)
    allowed: np.ndarray = slope * size + offset + rounding
    return allowed


class LayerProver:
    """Replay layer sets on a session of its own, kept open for the base in use.

    A session is not thread-safe, so the serving one cannot be asked. One
    thread; about a millisecond a set, more for the first set of a base.

    Args:
        open_base: Opens a base, or shares one that is open on this thread.
    """

    def __init__(self, open_base: Callable[[Bundle], Session] = open_session) -> None:
        self._open_base = open_base
        self._pipeline: Pipeline | None = None
        self._golden: Golden | None = None

    def __call__(self, bundle: Bundle, layers: tuple[Layer, ...]) -> dict[str, float]:
        """Prove a set for ``bundle``; see `prove_layers`.

        Returns:
            ``largest_move`` in the link, and ``replay_ms``.

        Raises:
            EdgeError: The base does not open, or the set fails.
        """
        start = time.perf_counter()
        pipeline, golden = self._open(bundle)
        measured = prove_layers(pipeline, golden, layers)
        return measured | {"replay_ms": (time.perf_counter() - start) * 1e3}

    def _open(self, bundle: Bundle) -> tuple[Pipeline, Golden]:
        if self._pipeline is None or self._golden is None or self._pipeline.base != bundle.digest:
            self._golden = bundle.golden()
            self._pipeline = Pipeline(bundle.spec, self._open_base(bundle), base=bundle.digest)
        return self._pipeline, self._golden
