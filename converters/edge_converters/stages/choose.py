"""Choose: which candidate is shipped, and what may be claimed about it."""

from __future__ import annotations

from collections.abc import Sequence

from edge_converters import verdict
from edge_converters.contracts import Candidate, Choice, Claim, Kind, Request
from edge_converters.targets import Target
from edge_runtime.errors import ModelError

__all__ = ["choose"]


def choose(candidates: Sequence[Candidate], request: Request, kind: Kind, target: Target) -> Choice:
    """Return the candidate to ship: the smallest that keeps the budget, or float.

    Raises:
        ModelError: None runs on every runtime of the target, or none of those that were
            asked for keeps the budget.
    """
    if request.chosen is not None:
        return _as_before(candidates, request)
    allowed = [one for one in candidates if not _is_excluded(one, request)]
    sound = [one for one in allowed if one.is_sound]
    if not sound:
        raise _none_sound(allowed, request, target)
    tried = [one for one in sound if one.verdict is not None]
    if not tried:
        return _without_verdict(sound, request, kind)
    original = next((one for one in sound if one.verdict is None), None)
    return _among(tried, request) if original is None else _against_float(original, tried, request)


def _as_before(candidates: Sequence[Candidate], request: Request) -> Choice:
    """Return what a recipe chose."""
    assert request.chosen is not None  # noqa: S101 - by the caller
    form, precision, claim = request.chosen
    for one in candidates:
        if (one.format, one.precision) == (form, precision) and one.is_sound:
            return Choice(form, precision, claim, "a recipe was played again")
    raise ModelError(
        f"there is no sound {precision} {form} file among those that were made",
        where=request.model,
        expected="what the recipe chose",
        remedy="Convert anew, without --replay.",
    )


def _is_excluded(one: Candidate, request: Request) -> bool:
    """Whether somebody said what is wanted, and this is something else."""
    wanted = set(request.precisions) - {"as-is"}
    return bool(wanted) and one.precision not in wanted


def _without_verdict(sound: Sequence[Candidate], request: Request, kind: Kind) -> Choice:
    one = sound[0]
    if kind == "sklearn":
        return Choice(one.format, one.precision, "float", "nothing in it can be quantised")
    if one.precision != "float32" and request.calib is None:
        why = f"the file is {one.precision} already, and was taken over"
        return Choice(one.format, one.precision, "uncalibrated", why)
    if request.calib is None:
        why = "nobody gave windows to calibrate with, so it stays float"
        return Choice(one.format, one.precision, "uncalibrated", why)
    return Choice(one.format, one.precision, "float", "nothing smaller runs on the target")


def _against_float(original: Candidate, tried: Sequence[Candidate], request: Request) -> Choice:
    times_s = _times_s((original, *tried))
    contenders = [
        verdict.Contender(_name(one), one.precision, one.size_bytes, time_s, one.verdict)
        for one, time_s in zip((original, *tried), times_s, strict=True)
    ]
    chosen = verdict.choose(contenders, request.prefer)
    one = next(one for one in (original, *tried) if _name(one) == chosen.name)
    if not chosen.keeps_float:
        return Choice(one.format, one.precision, _claim(request), chosen.why)
    needed = _needed(tried)
    if needed is not None:
        return Choice(one.format, one.precision, "inconclusive", chosen.why, needed)
    return Choice(one.format, one.precision, "float", chosen.why)


def _among(tried: Sequence[Candidate], request: Request) -> Choice:
    """Choose where float was not asked for: what failed is refused."""
    passed = [one for one in tried if one.verdict and one.verdict.outcome == "pass"]
    open_ones = [one for one in tried if one.verdict and one.verdict.outcome == "inconclusive"]
    if not passed and not open_ones:
        raise ModelError(
            "; ".join(f"{one.precision}: {one.verdict}" for one in tried),
            where=request.model,
            expected="a file that keeps the budget",
            remedy="Nothing was written. Leave --precision out, or allow more with --max-drop.",
        )
    one = min(passed or open_ones, key=lambda one: one.size_bytes)
    why = f"{one.verdict}"
    if passed:
        return Choice(one.format, one.precision, _claim(request), why)
    return Choice(one.format, one.precision, "inconclusive", why, _needed(tried))


def _claim(request: Request) -> Claim:
    return "proven" if request.eval is not None else "unlabelled"


def _needed(tried: Sequence[Candidate]) -> int | None:
    verdicts = [one.verdict for one in tried if one.verdict is not None]
    needed = [one.needed for one in verdicts if one.outcome == "inconclusive" and one.needed]
    return min(needed, default=None)


def _name(one: Candidate) -> str:
    return f"{one.format} {one.precision}"


def _times_s(candidates: Sequence[Candidate]) -> list[float | None]:
    """Return the time of a call: on the target if it has answered for all, else here."""
    told = [one.target for one in candidates]
    there = [one.p50_us for one in told if one is not None and one.how in {"measured", "scaled"}]
    if len(there) == len(candidates):
        us: list[float | None] = list(there)
    else:
        us = [one.latency.p50_us if one.latency else None for one in candidates]
    return [None if one is None else one / 1e6 for one in us]


def _none_sound(candidates: Sequence[Candidate], request: Request, target: Target) -> ModelError:
    told = [
        f"{one.precision} {one.format} on {seen.runtime}: {seen.reason}"
        for one in candidates
        for seen in one.verified
        if not seen.is_sound
    ]
    return ModelError(
        "; ".join(told),
        where=request.model,
        expected=f"a file that every runtime of {target.name} answers alike",
        remedy="Nothing was written. Choose another --target, --to or --precision.",
    )
