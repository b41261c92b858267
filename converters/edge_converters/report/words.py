"""Tables of a report as text: Markdown and HTML show the same cells."""

from __future__ import annotations

from collections.abc import Sequence

from edge_converters.latency import TargetLatency
from edge_converters.report.contents import (
    CandidateRow,
    CoverageRow,
    DriftRow,
    MemoryRow,
    OperatorRow,
    ParityRow,
    Report,
    pareto_front,
)

__all__ = [
    "LOUD",
    "Table",
    "candidate_table",
    "card_lines",
    "coverage_table",
    "drift_table",
    "memory_table",
    "number_text",
    "operator_table",
    "parity_table",
    "provenance_table",
    "target_table",
    "target_title",
]

LOUD = {
    "proven": "PROVEN",
    "float": "KEEP FLOAT",
    "uncalibrated": "NOT CALIBRATED",
    "inconclusive": "INCONCLUSIVE",
    "unlabelled": "NOT JUDGED BY LABELS",
}

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Heads and rows."""

_NONE = "–"


def candidate_table(report: Report) -> Table:
    """Show every file, and which of them no other beats."""
    front = pareto_front(report.candidates)
    heads = ("file", "precision", "bytes", "p50 µs", "p95 µs", report.metric or "metric")
    rows = [_candidate(one, is_best=one.name in front) for one in report.candidates]
    return (*heads, "95 %", "SNR dB", "verdict", ""), rows


def parity_table(rows: Sequence[ParityRow]) -> Table:
    """Show every file on every runtime."""
    heads = ("file", "runtime", "sound", "SNR dB", "largest", "same class", "clipped", "windows")
    return (*heads, "why not"), [_parity(one) for one in rows]


def drift_table(rows: Sequence[DriftRow]) -> Table:
    """Show how far each cell is from the float one, the further the stream goes."""
    heads = ("file", "steps", "output SNR dB", "state SNR dB", "largest")
    return heads, [_drift(one) for one in rows]


def operator_table(rows: Sequence[OperatorRow]) -> Table:
    """Show every operator; the least precise stands out by its number."""
    heads = ("operator", "kind", "shape", "weights", "MAC", "is", "alone dB", "range")
    return heads, [_operator(one) for one in rows]


def target_title(report: Report) -> str:
    """Return the heading of `target_table`; it says whether a board has answered."""
    told = [one.target for one in report.candidates if one.target is not None]
    board = told[0].board if told else "the target"
    measured = [one for one in told if one.how == "measured"]
    if not measured:
        return f"Latency on {board}: an estimate"
    boards = max(one.boards for one in measured)
    where = f"on {boards} board{'' if boards == 1 else 's'}" if boards else "there"
    return f"Latency on {board}: measured {where}"


def target_table(report: Report) -> Table:
    """Show what one window takes on the target, and how that is known."""
    heads = ("file", "how", "µs", "least", "most", "boards", "runs", "derived from")
    return heads, [_target(one.name, one.target) for one in report.candidates if one.target]


def coverage_table(report: Report) -> Table:
    """Show the operators of the chosen file, and which runtimes know them."""
    heads = ("operator", "version", "precision", "count", "MAC", "alone dB", "range")
    asked = (*heads, *report.runtimes, "XNNPACK here")
    return asked, [_coverage(one, report.runtimes) for one in report.coverage]


def memory_table(rows: Sequence[MemoryRow]) -> Table:
    """Show memory."""
    return ("memory", "bytes", "how"), [(one.what, str(one.size_bytes), one.how) for one in rows]


def provenance_table(report: Report) -> Table:
    """Show digests and versions."""
    return ("what", "digest or version"), sorted(report.provenance.items())


def card_lines(report: Report) -> list[tuple[str, str]]:
    """Return what the model card tells, and say where it tells nothing."""
    card = report.card
    told = {
        "Description": card.description,
        "Intended use": card.intended_use,
        "Limits": card.limits,
        "Data": card.data,
        "Quantisation": card.quantisation,
    }
    return [(name, text or "nobody told") for name, text in told.items()]


def _candidate(one: CandidateRow, *, is_best: bool) -> tuple[str, ...]:
    marks = ["chosen"] if one.is_chosen else []
    marks += ["Pareto"] if is_best else []
    interval = one.interval
    return (
        one.name,
        one.precision,
        str(one.size_bytes),
        number_text(one.p50_us),
        number_text(one.p95_us),
        number_text(one.value),
        _NONE if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
        "same" if one.snr_db is None else f"{one.snr_db:.1f}",
        _verdict(one),
        "; ".join([*marks, *([one.note] if one.note else [])]),
    )


def _verdict(one: CandidateRow) -> str:
    if one.verdict is None:
        return _NONE
    more = f", need {one.verdict.needed} more" if one.verdict.needed else ""
    return f"{one.verdict.outcome}{more}"


def _parity(one: ParityRow) -> tuple[str, ...]:
    return (
        one.candidate,
        f"{one.runtime}, output {one.output}" if one.output else one.runtime,
        "yes" if one.is_sound else "NO",
        "same" if one.is_sound and one.snr_db is None else number_text(one.snr_db),
        number_text(one.largest),
        _share(one.top1),
        _share(one.saturated),
        str(one.windows),
        one.reason,
    )


def _drift(one: DriftRow) -> tuple[str, ...]:
    ratios = ("same" if db is None else f"{db:.1f}" for db in (one.output_db, one.state_db))
    return (one.candidate, f"{one.first} to {one.last}", *ratios, number_text(one.largest))


def _target(name: str, one: TargetLatency) -> tuple[str, ...]:
    numbers = (one.p50_us, one.low_us, one.high_us)
    how = f"{one.how}, weights before" if one.is_of_weights_before else one.how
    counts = (str(one.boards or _NONE), str(one.runs or _NONE))
    return (name, how, *map(number_text, numbers), *counts, one.source)


def _coverage(one: CoverageRow, runtimes: Sequence[str]) -> tuple[str, ...]:
    return (
        one.kind,
        str(one.version),
        one.precision,
        str(one.count),
        _NONE if one.macs is None else str(one.macs),
        _NONE if one.alone_db is None else f"{one.alone_db:.1f}",
        _range(one.minimum, one.maximum),
        *("NO" if name in one.lacking else "yes" for name in runtimes),
        _NONE if one.delegated is None else f"{one.delegated} of {one.count}",
    )


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is None or maximum is None:
        return _NONE
    return f"{minimum:.4g} to {maximum:.4g}"


def _operator(one: OperatorRow) -> tuple[str, ...]:
    return (
        _short(one.name),
        one.kind,
        "×".join(str(size or "n") for size in one.shape),
        str(one.weights or _NONE),
        _NONE if one.macs is None else str(one.macs),
        one.state,
        _NONE if one.alone_db is None else f"{one.alone_db:.1f}",
        _range(one.minimum, one.maximum),
    )


def number_text(value: float | None) -> str:
    """Show four digits, and never a power of ten for what is merely large."""
    if value is None:
        return _NONE
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _short(name: str) -> str:
    """Return the first of the names that a converter has joined; ``report.json`` has all."""
    first, joined, _ = name.partition(";")
    return f"{first}; …" if joined else first


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2%}"
