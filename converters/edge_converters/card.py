"""The model card in the bundle: what people should know, and nothing that was timed."""

from __future__ import annotations

from collections.abc import Sequence

from edge_converters.contracts import Candidate, Recipe
from edge_converters.report.words import LOUD
from edge_runtime.spec import ModelSpec

__all__ = ["write_card"]


def write_card(spec: ModelSpec, chosen: Candidate, recipe: Recipe, assumed: Sequence[str]) -> bytes:
    """Write ``card.md``; equal conversions give equal bytes.

    Args:
        spec: Of the bundle.
        chosen: The file in it.
        recipe: How it was made.
        assumed: What nobody told, a sentence each.
    """
    verdict = f"; {chosen.verdict}" if chosen.verdict is not None else ""
    channels = ", ".join(f"{one.name} [{one.unit}]" for one in spec.stream.channels[:16])
    more = "" if len(spec.stream.channels) <= 16 else f" and {len(spec.stream.channels) - 16} more"
    lines = [
        f"# {spec.name} {spec.version}",
        "",
        f"{LOUD[recipe.claim]}: {chosen.precision} {chosen.format}{verdict}.",
        "",
        f"- Answers: {spec.kind} of {', '.join(spec.labels[:16])}.",
        f"- Sees: {spec.window.length} samples of {channels}{more}, at {spec.stream.rate_hz:g} Hz.",
        f"- Made of: model {recipe.model_sha256}.",
        f"- Calibrated on: {recipe.calib_sha256 or 'nothing'}.",
        f"- Judged on: {recipe.eval_sha256 or 'nothing'}.",
        *(f"- Assumed: {text}." for text in assumed),
        "",
        "`recipe.json` beside this file makes the same bundle again.",
        "",
    ]
    return "\n".join(lines).encode()
