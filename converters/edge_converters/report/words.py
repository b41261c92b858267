"""Tables of a report as text: Markdown and HTML show the same cells."""

from __future__ import annotations

from collections.abc import Sequence

from edge_converters.report.contents import (
    CandidateRow,
    CoverageRow,
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
    "memory_table",
    "operator_table",
    "parity_table",
    "provenance_table",
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


def operator_table(rows: Sequence[OperatorRow]) -> Table:
    """Show every operator; the least precise stands out by its number."""
    heads = ("operator", "kind", "shape", "weights", "MAC", "is", "alone dB", "range")
    return heads, [_operator(one) for one in rows]


def coverage_table(rows: Sequence[CoverageRow]) -> Table:
    """Show what each runtime knows of the chosen file."""
    return ("runtime", "known", "of", "missing"), [
        (one.runtime, str(one.known), str(one.operators), ", ".join(one.missing) or _NONE)
        for one in rows
    ]


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
        _number(one.p50_us),
        _number(one.p95_us),
        _number(one.value),
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
        one.runtime,
        "yes" if one.is_sound else "NO",
        "same" if one.is_sound and one.snr_db is None else _number(one.snr_db),
        _number(one.largest),
        _share(one.top1),
        _share(one.saturated),
        str(one.windows),
        one.reason,
    )


def _operator(one: OperatorRow) -> tuple[str, ...]:
    has_range = one.minimum is not None and one.maximum is not None
    return (
        one.name,
        one.kind,
        "×".join(str(size or "n") for size in one.shape),
        str(one.weights or _NONE),
        _NONE if one.macs is None else str(one.macs),
        one.state,
        _NONE if one.alone_db is None else f"{one.alone_db:.1f}",
        f"{one.minimum:.4g} to {one.maximum:.4g}" if has_range else _NONE,
    )


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2%}"
