"""The report of a conversion: JSON, Markdown and one page, beside the bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from edge_converters.contracts import Candidate, Drift, Outcome, Verified
from edge_converters.report import (
    CandidateRow,
    DriftRow,
    MemoryRow,
    ModelCard,
    ParityRow,
    Report,
    coverage_rows,
    encode_report,
    markdown_of,
    page_of,
)
from edge_converters.show import step_text
from edge_runtime.errors import BundleError

__all__ = ["report_of", "write_report"]


def report_of(outcome: Outcome) -> Report:
    """Put together what a conversion found; no place on this machine stands in it."""
    choice = outcome.choice
    chosen = next(one for one in outcome.candidates if _is_chosen(one, outcome))
    told = next((one.verdict for one in outcome.candidates if one.verdict is not None), None)
    return Report(
        title=outcome.bundle,
        outcome=choice.verdict,
        sentence=f"{choice.precision} {choice.format}: {choice.why}",
        metric=told.metric if told else None,
        candidates=tuple(_candidate(one, outcome) for one in outcome.candidates),
        parity=tuple(
            row for one in outcome.candidates for seen in one.verified for row in _parity(one, seen)
        ),
        drift=tuple(_drift(one, part) for one in outcome.candidates for part in one.drift),
        operators=outcome.operators,
        coverage=coverage_rows(chosen.operations, outcome.operators),
        runtimes=chosen.asked,
        memory=_memory(chosen, outcome),
        findings=outcome.findings,
        provenance=_provenance(outcome),
        card=ModelCard(
            description=f"{outcome.kind} model, for {outcome.target}",
            limits=" ".join(f"Assumed: {text}." for text in outcome.assumed),
            quantisation=f"{choice.precision}; {choice.why}",
        ),
        notes=(*map(step_text, outcome.steps), *outcome.notes),
    )


def write_report(outcome: Outcome, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``, which hold times of this machine.

    Raises:
        BundleError: The folder cannot be written.
    """
    report = report_of(outcome)
    files = {
        "report.json": encode_report(report),
        "report.md": markdown_of(report).encode(),
        "report.html": page_of(report).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            part = folder / f".{name}"
            part.write_bytes(content)
            part.replace(folder / name)
    except OSError as error:
        raise BundleError(
            f"cannot be written: {error.strerror or error}",
            where=str(folder),
            expected="room and permission for a report",
            remedy="The bundle itself is complete. Name another place: --report FOLDER.",
        ) from error


def _is_chosen(one: Candidate, outcome: Outcome) -> bool:
    choice = outcome.choice
    return (one.format, one.precision) == (choice.format, choice.precision)


def _candidate(one: Candidate, outcome: Outcome) -> CandidateRow:
    parity = next((seen.parity for seen in one.verified if seen.parity), None)
    return CandidateRow(
        name=_name(one),
        format=one.format,
        precision=one.precision,  # type: ignore[arg-type]
        size_bytes=one.size_bytes,
        p50_us=one.latency.p50_us if one.latency else None,
        p95_us=one.latency.p95_us if one.latency else None,
        target=one.target,
        value=one.verdict.value if one.verdict else _value_before(one, outcome),
        verdict=one.verdict,
        snr_db=parity.snr_db if parity else None,
        is_chosen=_is_chosen(one, outcome),
        note="; ".join(one.notes),
    )


def _value_before(one: Candidate, outcome: Outcome) -> float | None:
    """Return the metric of the file that the others of its format are compared with."""
    alike = [each for each in outcome.candidates if each.format == one.format]
    told = next((each.verdict for each in alike if each.verdict is not None), None)
    return told.float_value if told is not None and one is alike[0] else None


def _parity(one: Candidate, seen: Verified) -> Iterator[ParityRow]:
    """Yield a row for every output, the one that decides first."""
    for output, found in {"": seen.parity, **seen.others}.items():
        yield ParityRow(
            candidate=_name(one),
            runtime=seen.runtime,
            output=output,
            is_sound=seen.is_sound,
            snr_db=found.snr_db if found else None,
            largest=found.largest if found and np.isfinite(found.largest) else None,
            top1=found.top1 if found else None,
            windows=found.windows if found else 0,
            reason=seen.reason,
        )


def _drift(one: Candidate, part: Drift) -> DriftRow:
    return DriftRow(candidate=_name(one), **msgspec.structs.asdict(part))


def _memory(chosen: Candidate, outcome: Outcome) -> tuple[MemoryRow, ...]:
    ran_bytes = max((seen.peak_rss_mb for seen in chosen.verified), default=0.0) * 2**20
    made_bytes = outcome.peak_rss_mb * 2**20
    return (
        MemoryRow("model file", chosen.size_bytes, "measured"),
        MemoryRow("process that ran it, runtime included", round(ran_bytes), "measured"),
        MemoryRow("largest process of the conversion", round(made_bytes), "measured"),
    )


def _provenance(outcome: Outcome) -> dict[str, str]:
    recipe = outcome.recipe
    digests = {
        "bundle": outcome.digest,
        "model": recipe.model_sha256,
        "calibration data": recipe.calib_sha256 or "none",
        "evaluation data": recipe.eval_sha256 or "none",
    }
    worker = {"worker": recipe.worker} if recipe.worker else {}
    return digests | worker | recipe.tools | {"seconds": f"{outcome.seconds:.1f}"}


def _name(one: Candidate) -> str:
    return f"{one.format} {one.precision}"
