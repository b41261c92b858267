"""What stands in a report: ``report.json`` is exactly this."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from edge_converters.latency import TargetLatency
from edge_converters.lint import Finding
from edge_converters.operations import Operation, count_macs
from edge_converters.quantise.contracts import (
    Calibration,
    Cure,
    Format,
    MetricName,
    Operator,
    Precision,
    Ranking,
)
from edge_converters.verdict import Verdict
from edge_runtime.errors import BundleError

__all__ = [
    "CandidateRow",
    "CoverageRow",
    "DriftRow",
    "MemoryRow",
    "ModelCard",
    "OperatorRow",
    "ParityRow",
    "Report",
    "coverage_rows",
    "decode_report",
    "encode_report",
    "operator_rows",
    "pareto_front",
]

SCHEMA = 1


class CandidateRow(msgspec.Struct, frozen=True, kw_only=True):
    """One file that could be shipped.

    Attributes:
        name: Of the file, unique in the report.
        format: Which runtime it is for.
        precision: How it is quantised; ``as-is`` for a file that was taken over.
        size_bytes: Of the file.
        p50_us: Median time of one window on this machine, µs; None where not measured.
        p95_us: Time that 95 of 100 windows do not exceed, µs.
        target: Time on the target; None where nobody asked for a board.
        value: The metric; None where it was not measured.
        verdict: Against float; None for float itself, and without evaluation data.
        snr_db: Output against float; None where it is the same.
        is_chosen: Whether it is shipped.
        note: Why it was chosen, or not.
    """

    name: str
    format: Format
    precision: Precision | Literal["as-is"]
    size_bytes: int
    p50_us: float | None = None
    p95_us: float | None = None
    target: TargetLatency | None = None
    value: float | None = None
    verdict: Verdict | None = None
    snr_db: float | None = None
    is_chosen: bool = False
    note: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the metric lies if float's is what was measured; 95 %."""
        told = self.verdict
        if told is None or told.low is None or told.high is None:
            return None
        ends = (told.low, told.high)
        if told.metric == "mae":
            return told.float_value + ends[0], told.float_value + ends[1]
        start = 1.0 if told.metric == "agreement" else told.float_value
        return start - ends[1], start - ends[0]


class ParityRow(msgspec.Struct, frozen=True, kw_only=True):
    """One file on one version of a runtime.

    Attributes:
        candidate: Name of the file.
        runtime: Such as ``litert 2.3.0``.
        output: Which output, where it is not the one that decides.
        is_sound: Whether it runs there and answers as it should.
        snr_db: Against the float answers; None where they are equal to the byte.
        largest: Largest absolute difference, in units of the output.
        top1: Share of windows with the same class; None for a single output.
        saturated: Share of input values that the model clips; None for a float input.
        windows: How many were asked.
        reason: Why it is not sound.
    """

    candidate: str
    runtime: str
    output: str = ""
    is_sound: bool
    snr_db: float | None = None
    largest: float | None = None
    top1: float | None = None
    saturated: float | None = None
    windows: int = 0
    reason: str = ""


class DriftRow(msgspec.Struct, frozen=True, kw_only=True):
    """One cell in a part of one stream, beside the float cell; neither is ever reset.

    Attributes:
        candidate: Name of the file.
        first: Step that the part begins with, from 1.
        last: Step that it ends with.
        output_db: SNR of the output, dB; None where it is equal to the byte.
        state_db: The same of the state.
        largest: Largest absolute difference of the output, in its units.
    """

    candidate: str
    first: int
    last: int
    output_db: float | None
    state_db: float | None
    largest: float


class OperatorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One operator, in order of execution.

    Attributes:
        name: As in the recipe.
        kind: Operator type.
        shape: Of its output; 0 where an axis is free.
        weights: How many weights it has.
        macs: Multiply-accumulates for one window; None where not known.
        state: How it is in the chosen file.
        alone_db: SNR of the model's output when this operator alone is int8; None where
            nothing changes.
        minimum: Smallest value of its output in the calibration; None without one.
        maximum: Largest value.
        histogram: How often values fell into equal bins between them.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    weights: int = 0
    macs: int | None = None
    state: Cure | Literal["int8"] = "int8"
    alone_db: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    histogram: tuple[int, ...] = ()


class CoverageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Operators of one kind, version and precision in the chosen file.

    Attributes:
        kind: Operator type.
        version: In TFLite the operator's own, in ONNX that of its operator set.
        precision: What they compute with.
        count: How many there are.
        macs: Multiply-accumulates of all of them for one window; None where not known.
        lacking: Runtimes that do not know them, of `Report.runtimes`.
        delegated: How many XNNPACK takes over; None where nobody asked.
        alone_db: Lowest SNR of the model's output with one of them alone in int8; None
            where nobody tried.
        minimum: Smallest value of their outputs in the calibration; None without one.
        maximum: Largest value.
    """

    kind: str
    version: int
    precision: str
    count: int
    macs: int | None = 0
    lacking: tuple[str, ...] = ()
    delegated: int | None = None
    alone_db: float | None = None
    minimum: float | None = None
    maximum: float | None = None


class MemoryRow(msgspec.Struct, frozen=True):
    """Memory of one kind, bytes, and how it was found."""

    what: str
    size_bytes: int
    how: Literal["measured", "estimated"]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What people should know before they rely on the model; empty where nobody told."""

    description: str = ""
    intended_use: str = ""
    limits: str = ""
    data: str = ""
    quantisation: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a conversion found.

    Attributes:
        title: The bundle, ``name@version``.
        outcome: ``proven``, ``float`` (nothing smaller was wanted or good enough),
            ``uncalibrated`` (nobody gave data), ``unlabelled`` (nobody gave labels) or
            ``inconclusive``.
        sentence: The verdict in words.
        metric: What the table's values are; None without evaluation data.
        candidates: Every file that was made.
        parity: Every file on every runtime it was tried on.
        drift: Every quantised cell along one stream; empty for models without state.
        operators: Of the model; empty where nothing was quantised.
        coverage: Operators of the chosen file.
        runtimes: Which were asked whether they know these.
        memory: Of the chosen file.
        findings: What is wrong with the data.
        provenance: Digests of model, data and recipe, and versions of tools, by name.
        card: For people.
        notes: What workers and steps had to assume, a sentence each.
        schema: Version of this format.
    """

    title: str
    outcome: Literal["proven", "float", "uncalibrated", "unlabelled", "inconclusive"]
    sentence: str
    metric: MetricName | None = None
    candidates: tuple[CandidateRow, ...] = ()
    parity: tuple[ParityRow, ...] = ()
    drift: tuple[DriftRow, ...] = ()
    operators: tuple[OperatorRow, ...] = ()
    coverage: tuple[CoverageRow, ...] = ()
    runtimes: tuple[str, ...] = ()
    memory: tuple[MemoryRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    provenance: dict[str, str] = {}
    card: ModelCard = ModelCard()
    notes: tuple[str, ...] = ()
    schema: Literal[1] = 1


def encode_report(report: Report) -> bytes:
    """Write ``report.json``; equal reports give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(report, order="deterministic"), indent=2)


def decode_report(content: bytes) -> Report:
    """Read ``report.json``; unknown keys of newer versions are left out.

    Raises:
        BundleError: It is none.
    """
    try:
        return msgspec.json.decode(content, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(
            f"this is no report of a conversion: {error}",
            where="report.json",
            expected=f"schema {SCHEMA}",
            remedy="Convert the model again.",
        ) from error


def operator_rows(
    operators: Sequence[Operator],
    calibration: Calibration | None,
    ranking: Sequence[Ranking],
    cures: Mapping[str, Cure],
) -> tuple[OperatorRow, ...]:
    """Put together what is known of each operator."""
    alone = {one.operator: one.snr_db for one in ranking}
    return tuple(_row(one, calibration, alone, cures) for one in operators)


def _row(
    one: Operator,
    calibration: Calibration | None,
    alone: Mapping[str, float],
    cures: Mapping[str, Cure],
) -> OperatorRow:
    seen = calibration.tensors.get(one.output) if calibration else None
    alone_db = alone.get(one.name, math.inf)
    return OperatorRow(
        name=one.name,
        kind=one.kind,
        shape=one.shape,
        weights=one.weights,
        macs=one.macs,
        state=cures.get(one.name, "int8"),
        alone_db=alone_db if math.isfinite(alone_db) else None,
        minimum=seen.minimum if seen else None,
        maximum=seen.maximum if seen else None,
        histogram=seen.histogram if seen else (),
    )


def coverage_rows(
    operations: Sequence[Operation], operators: Sequence[OperatorRow]
) -> tuple[CoverageRow, ...]:
    """Count the operators of a file by kind, version and precision, dearest first.

    Args:
        operations: Of the file.
        operators: What the search found out about the same model, as they are in the file.
    """
    groups: dict[tuple[str, int, str], list[Operation]] = {}
    for one in operations:
        groups.setdefault((one.kind, one.version, one.precision), []).append(one)
    rows = [_coverage(group, operators) for group in groups.values()]
    return tuple(sorted(rows, key=lambda one: (-(one.macs or 0), -one.count, one.kind)))


def _coverage(group: Sequence[Operation], operators: Sequence[OperatorRow]) -> CoverageRow:
    first = group[0]
    state = {"int8": "int8", "int8 weights": "weights"}.get(first.precision, "float")
    alike = [one for one in operators if one.kind == first.kind and one.state == state]
    taken = [one.is_delegated for one in group if one.is_delegated is not None]
    return CoverageRow(
        kind=first.kind,
        version=first.version,
        precision=first.precision,
        count=len(group),
        macs=count_macs(group),
        lacking=tuple(dict.fromkeys(name for one in group for name in one.lacking)),
        delegated=sum(taken) if taken else None,
        alone_db=min((one.alone_db for one in alike if one.alone_db is not None), default=None),
        minimum=min((one.minimum for one in alike if one.minimum is not None), default=None),
        maximum=max((one.maximum for one in alike if one.maximum is not None), default=None),
    )


def pareto_front(rows: Sequence[CandidateRow]) -> frozenset[str]:
    """Return the files that no other beats in one of size, latency and loss without losing another.

    What was not measured is as bad as can be.
    """
    costs = {one.name: _costs(one) for one in rows}
    return frozenset(
        name
        for name, cost in costs.items()
        if not any(_beats(other, cost) for other in costs.values())
    )


def _costs(one: CandidateRow) -> tuple[float, float, float]:
    latency = math.inf if one.p50_us is None else one.p50_us
    told = one.verdict
    loss = 0.0 if told is None or told.loss is None else told.loss
    return one.size_bytes, latency, loss


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
