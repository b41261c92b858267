"""A conversion in words."""

from __future__ import annotations

from collections.abc import Sequence

from edge_converters.contracts import Candidate, Outcome, Parity, Step, Verified
from edge_converters.paths import NETWORKS, PATHS
from edge_converters.report import OperatorRow
from edge_converters.report.words import LOUD
from edge_runtime.cli.table import table

__all__ = ["operators_text", "outcome_text", "paths_text", "step_text"]


def outcome_text(outcome: Outcome, output: str) -> str:
    """Say what was made, why, and what was assumed."""
    choice = outcome.choice
    lines = [
        f"{LOUD[choice.verdict]}: {choice.precision} {choice.format}, {choice.why}",
        f"{outcome.bundle} in {output}",
        f"  digest  {outcome.digest}",
        *(f"  step    {step_text(one)}" for one in outcome.steps),
        *(f"  tried   {line}" for one in outcome.candidates for line in _candidate(one)),
        *(f"  data    {one}" for one in outcome.findings),
        *(f"  note    {text}" for text in outcome.notes),
        *(f"  assumed {text}" for text in outcome.assumed),
        f"  took    {outcome.seconds:.1f} s, at most {outcome.peak_rss_mb:.0f} MiB in one process",
    ]
    return "\n".join(lines)


def paths_text() -> str:
    """Show every path, and the precisions of every network; why the rest is refused."""
    rows = [(one.source, one.format, one.state, one.worker or "-", one.how) for one in PATHS]
    networks = [
        (one.network, one.format, one.state, ", ".join(one.precisions), one.how) for one in NETWORKS
    ]
    return "\n\n".join(
        [
            table(("from", "to", "state", "worker", "how, or why not"), rows),
            table(("network", "in", "integers", "precisions", "how, or why not"), networks),
        ]
    )


def operators_text(rows: Sequence[OperatorRow]) -> str:
    """Show operators: how each is in the chosen file, and what it does when it alone is int8."""
    cells = [
        (
            one.name,
            one.kind,
            one.state,
            "-" if one.alone_db is None else f"{one.alone_db:.1f} dB",
            "-" if one.minimum is None else f"{one.minimum:.4g} … {one.maximum:.4g}",
        )
        for one in rows
    ]
    return table(("operator", "kind", "state", "alone", "range"), cells, right="alone")


def step_text(one: Step) -> str:
    """Say what a step did, and how near its answers stayed."""
    notes = "; ".join(one.notes)
    parity = "not compared" if one.parity is None else _parity(one.parity)
    return f"{one.name}: {notes + ', ' if notes else ''}{parity}"


def _parity(parity: Parity) -> str:
    if parity.snr_db is None:
        return f"equal to the byte over {parity.windows} windows"
    top1 = "" if parity.top1 is None else f", same class {parity.top1:.1%}"
    return f"{parity.snr_db:.1f} dB, at most {parity.largest:.3g} off{top1}"


def _seen(seen: Verified) -> str:
    if seen.reason or seen.parity is None:
        return seen.reason or "ok"
    others = [f"output {name}: {_parity(parity)}" for name, parity in seen.others.items()]
    return "; ".join([_parity(seen.parity), *others])


def _candidate(one: Candidate) -> list[str]:
    time = f", {one.latency.p50_us:.1f} µs here" if one.latency else ""
    on_target = [f"  on the target: {one.target}"] if one.target else []
    head = f"{one.precision} {one.format}: {one.size_bytes} bytes{time}"
    seen = [f"  on {seen.runtime}: {_seen(seen)}" for seen in one.verified]
    if one.drift:
        last = one.drift[-1]
        parts = zip(("output", "state"), (last.output_db, last.state_db), strict=True)
        far = ", ".join(f"{name} {'same' if db is None else f'{db:.1f} dB'}" for name, db in parts)
        seen.append(f"  after {last.last} steps without a reset: {far}")
    if one.verdict is not None:
        seen.append(f"  {one.verdict}")
    return [head, *on_target, *seen, *(f"  {text}" for text in one.notes)]
