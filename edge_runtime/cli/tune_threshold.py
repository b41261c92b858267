"""``edge-runtime tune-threshold``: the operating point, from labelled recordings."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, load_bundle, next_version
from edge_runtime.cli.limits import limit_text
from edge_runtime.cli.progress import Steps
from edge_runtime.cli.table import table
from edge_runtime.errors import ConfigError
from edge_runtime.plural import counted
from edge_runtime.ports import Choice
from edge_runtime.profiles import explain_choice
from edge_runtime.spec import Limit, ModelSpec, Smoothing
from edge_runtime.thresholds import (
    Choices,
    Found,
    Point,
    Recording,
    Rows,
    Target,
    fitted_temperature,
    rate_bounds,
    score_recordings,
    search,
    share_bounds,
    write_operating_point,
)
from edge_runtime.thresholds.plot import plot_curves

__all__ = ["TuneThreshold"]

_QUIET_S = 2.0
_ROWS = 9
_EXIT = {"proven": 0, "failed": 1, "inconclusive": 4}
_HEADER = ("", "on", "off", "false/h", "at most", "missed", "found", "repeats", "delay s")


class TuneThreshold:
    """Search thresholds that keep a budget of false alarms, and write a new bundle version."""

    name = "tune-threshold"
    help = "search the operating point on labelled recordings, for a budget of false alarms"
    example = (
        "edge-runtime tune-threshold examples/fan_vibration/bundles/fan-unbalance-1.0.0"
        " examples/fan_vibration/fan_vibration_part.csv"
        ' --label-column "Sensor Configuration" --event 1=unbalance-1'
        " --false-alarms-per-hour 120"
    )

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("bundle", type=Path, help="folder or zip file")
        add("data", type=Path, nargs="+", help=".parquet, .csv, .tsv, .npz or .jsonl, labelled")
        add("--false-alarms-per-hour", type=float, required=True, metavar="N", help="the budget")
        _add_truth(parser)
        _add_tried(parser)
        add("-o", "--output", type=Path, metavar="FOLDER", help="write the new bundle here")
        add("--version", metavar="VERSION", help="its version (default: the last number plus 1)")
        add("--anyway", action="store_true", help="write it even if too little was recorded")
        add("--plot", type=Path, metavar="PNG", help="draw the trade-off; needs matplotlib")
        add("--backend", metavar="NAME", help="model runtime; the bundle's preference by default")
        add("--quiet", action="store_true", help="show no progress")
        add("--json", action="store_true", help="print JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Score, search, show, write; 4 if too little was recorded, 1 if nothing fits."""
        bundle = load_bundle(args.bundle)
        target = Target(_budget(args), _tolerance_s(args, bundle.spec), args.confidence)
        progress = Steps(math.inf if args.quiet else _QUIET_S)
        try:
            report, spec = _searched(args, bundle, target, progress)
        finally:
            progress.end()
        if args.plot is not None:
            plot_curves(args.plot, report.labels, target.alarms_per_hour)
        code = max((_EXIT[one.verdict] for one in report.labels), key=_worst_first)
        output: Path | None = args.output
        if output is not None and (code == 0 or (code == 4 and args.anyway)):
            made = write_operating_point(output, bundle, spec, _json(report))
            report = msgspec.structs.replace(report, written=str(output), digest=made.digest)
        sys.stdout.write((_json(report).decode() if args.json else _drawn(report)) + "\n")
        return code


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was searched and found; without the last two it becomes a file of the bundle.

    Attributes:
        bundle: ``name@version`` it is about.
        version: Of the new bundle.
        recordings: Names of the files.
        alarms_per_hour: The budget.
        confidence: Of the proof.
        tolerance_s: How long after an event a start still counts for it.
        smoothing: As chosen.
        temperature: As fitted; None where it was not asked for.
        labels: What was found.
        written: Where the new bundle is; None where none was written.
        digest: Of the new bundle.
    """

    bundle: str
    version: str
    recordings: tuple[str, ...]
    alarms_per_hour: float
    confidence: float
    tolerance_s: float
    smoothing: Smoothing
    temperature: float | None
    labels: tuple[Found, ...]
    written: str | None = None
    digest: str | None = None


def _add_truth(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--label-column", metavar="COLUMN", help="column that names the label of each row")
    add("--events", type=Path, metavar="CSV", help="file with the columns start, end, label")
    add(
        "--event",
        action="append",
        default=[],
        metavar="WORD=LABEL",
        help="label for a word of these two that is none itself; may be repeated",
    )
    add("--label", action="append", default=[], help="search this label alone; may be repeated")
    add("--tolerance-s", type=float, metavar="S", help="a start counts so long after an event")
    add("--confidence", type=float, default=0.95, help="of the proof (default 0.95)")
    add("--map", action="append", default=[], metavar="CHANNEL=COLUMN", help="as of batch")
    add("--time", metavar="COLUMN", help="column with event times")
    add("--time-format", choices=("iso", "unix_s", "unix_ms", "unix_ns"), default="iso")
    add("--array", metavar="NAME", help="array (rows, channels) in an .npz")


def _add_tried(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--smoothing", nargs="+", default=[], metavar="HOW", help="such as 1 5 median:5 half:2.5")
    add("--k-of-n", nargs="+", default=[], metavar="K/N", help="such as 1/1 2/3")
    add("--refractory-s", nargs="+", type=float, default=[], metavar="S", help="such as 0 5")
    add("--gap", nargs="+", type=float, default=[], metavar="G", help="on minus off, such as 0 0.2")
    add("--reject-error", type=float, metavar="RATE", help="calibrate a band of uncertain values")
    add("--fit-temperature", action="store_true", help="fit the temperature of softmax or sigmoid")


# --- doing ----------------------------------------------------------------------


def _searched(
    args: argparse.Namespace, bundle: Bundle, target: Target, progress: Steps
) -> tuple[Report, ModelSpec]:
    rows, choices = _rows(args), _choices(args, bundle.spec)
    spec, recordings = _tempered(args, rows, bundle, progress)
    labels = _labels(args, spec, recordings)
    smoothing, found = search(
        spec, recordings, labels, target, choices, lambda *step: progress.tell("searching", *step)
    )
    version = args.version or next_version(spec.version)
    report = Report(
        bundle=bundle.ref,
        version=version,
        recordings=tuple(path.name for path in rows.files),
        alarms_per_hour=target.alarms_per_hour,
        confidence=target.confidence,
        tolerance_s=target.tolerance_s,
        smoothing=smoothing,
        temperature=spec.output.temperature if args.fit_temperature else None,
        labels=found,
    )
    limits = _limits(spec, found)
    return report, msgspec.structs.replace(
        spec, version=version, smoothing=smoothing, limits=limits
    )


def _tempered(
    args: argparse.Namespace, rows: Rows, bundle: Bundle, progress: Steps
) -> tuple[ModelSpec, list[Recording]]:
    """Score the recordings; with a temperature that was fitted to them, if asked to."""
    if not args.fit_temperature:
        return bundle.spec, _scored(args, rows, bundle, progress)
    if bundle.spec.cascade:
        raise ConfigError(
            f"--fit-temperature on {bundle.ref}, which has a cascade",
            expected="a bundle with one model: a temperature belongs to one",
            remedy="Leave the flag out; set output.temperature of each stage by its own data.",
        )
    spec = _with_temperature(bundle.spec, _scored(args, rows, bundle, progress))
    retempered = Bundle(spec, bundle.digest, bundle.files)
    return spec, _scored(args, rows, retempered, progress)


def _scored(
    args: argparse.Namespace, rows: Rows, bundle: Bundle, progress: Steps
) -> list[Recording]:
    choice = explain_choice(bundle, Choice(backend=args.backend)).choice
    with contextlib.closing(open_session(bundle, choice)) as session:
        return score_recordings(
            rows,
            bundle,
            session,
            block=choice.block,
            on_share=lambda *step: progress.tell("scoring", *step),
        )


def _with_temperature(spec: ModelSpec, recordings: Sequence[Recording]) -> ModelSpec:
    truths = [_truth(spec, one) for one in recordings]
    scores = np.concatenate([one.score for one in recordings])
    is_true = np.concatenate(truths)
    if spec.output.activation == "softmax":
        rows = is_true.sum(axis=1) == 1
        scores, is_true = scores[rows], is_true[rows]
    temperature = fitted_temperature(scores, is_true, spec.output)
    output = msgspec.structs.replace(spec.output, temperature=temperature)
    return msgspec.structs.replace(spec, output=output)


def _truth(spec: ModelSpec, one: Recording) -> np.ndarray:
    """Return which labels were there when each window ended, shape (n, labels), bool."""
    is_true = np.zeros(one.score.shape, np.bool_)
    for event in one.events:
        rows = (one.end_ns >= event.start_ns) & (one.end_ns <= event.end_ns)
        is_true[rows, spec.labels.index(event.label)] = True
    return is_true


def _limits(spec: ModelSpec, found: Sequence[Found]) -> tuple[Limit, ...]:
    """Return the limits in label order, those that were found in place of the old ones."""
    by_label = {limit.label: limit for limit in spec.limits}
    by_label |= {one.label: one.point.limit for one in found if one.point is not None}
    return tuple(by_label[label] for label in spec.labels if label in by_label)


# --- what was asked for -------------------------------------------------------------


def _rows(args: argparse.Namespace) -> Rows:
    return Rows(
        files=tuple(args.data),
        columns=dict(_pair("--map", text) for text in args.map),
        time=args.time,
        time_format=args.time_format,
        array=args.array,
        label_column=args.label_column,
        events=args.events,
        names=dict(_pair("--event", text) for text in args.event),
    )


def _choices(args: argparse.Namespace, spec: ModelSpec) -> Choices:
    return Choices(
        tuple(map(_smoothing, args.smoothing)) or (spec.smoothing,),
        tuple(map(_k_of_n, args.k_of_n)),
        tuple(args.refractory_s),
        tuple(args.gap),
        args.reject_error,
    )


def _smoothing(text: str) -> Smoothing:
    """Read ``5``, ``median:5``, ``alpha:0.2`` or ``half:2.5``."""
    kind, _, number = text.rpartition(":")
    words: dict[str, object] = {
        "": {"windows": number},
        "mean": {"windows": number},
        "median": {"kind": "median", "windows": number},
        "alpha": {"kind": "exponential", "alpha": number},
        "half": {"kind": "exponential", "half_life_s": number},
    }
    try:
        return msgspec.convert(words[kind], Smoothing, strict=False)
    except (KeyError, msgspec.ValidationError) as error:
        raise _unread("--smoothing", text, "5, median:5, alpha:0.2 or half:2.5") from error


def _k_of_n(text: str) -> tuple[int, int]:
    k, mark, n = text.partition("/")
    if not (mark and k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n) <= 1024):
        raise _unread("--k-of-n", text, "K/N such as 2/3, K at most N")
    return int(k), int(n)


def _pair(flag: str, text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not (name and mark and value):
        raise _unread(flag, text, "NAME=VALUE")
    return name, value


def _budget(args: argparse.Namespace) -> float:
    for flag, value, is_good in (
        ("--false-alarms-per-hour", args.false_alarms_per_hour, args.false_alarms_per_hour > 0),
        ("--confidence", args.confidence, 0 < args.confidence < 1),
        ("--reject-error", args.reject_error, 0 < (args.reject_error or 0.5) < 1),
        ("--tolerance-s", args.tolerance_s, (args.tolerance_s or 0) >= 0),
        ("--gap", args.gap, min(args.gap, default=0) >= 0),
        ("--refractory-s", args.refractory_s, min(args.refractory_s, default=0) >= 0),
    ):
        if not is_good:
            raise _unread(flag, str(value), "a number in its range: see --help")
    budget: float = args.false_alarms_per_hour
    return budget


def _tolerance_s(args: argparse.Namespace, spec: ModelSpec) -> float:
    """Return what was asked for, or a window: it still holds some of the event for so long."""
    window_s = spec.window.length / spec.stream.rate_hz
    return window_s if args.tolerance_s is None else args.tolerance_s


def _labels(
    args: argparse.Namespace, spec: ModelSpec, recordings: Sequence[Recording]
) -> list[str]:
    """Return the labels that have events, or those asked for."""
    there = {event.label for one in recordings for event in one.events}
    labels = [label for label in spec.labels if label in (args.label or there)]
    missing = [label for label in args.label if label not in there]
    if missing or not labels:
        raise ConfigError(
            f"there is no event of {missing[0] if missing else 'any label of the model'}",
            where=", ".join(str(path) for path in args.data[:3]),
            expected=f"events of {', '.join(spec.labels)}",
            remedy="Check --label-column or --events; --event WORD=LABEL translates words.",
        )
    return labels


def _unread(flag: str, text: str, expected: str) -> ConfigError:
    return ConfigError(f"{flag} is {text!r}", expected=expected)


def _worst_first(code: int) -> int:
    return {0: 0, 4: 1, 1: 2}[code]


# --- telling ----------------------------------------------------------------------


def _json(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=2)


def _drawn(report: Report) -> str:
    lines = [f"{report.bundle} on {', '.join(report.recordings)}: {_described(report)}"]
    for one in report.labels:
        lines += ["", *_of_label(one, report)]
    if report.written is not None:
        lines += ["", f"Written to {report.written} as version {report.version}, golden proven."]
    return "\n".join(lines)


def _described(report: Report) -> str:
    smoothing = report.smoothing
    how = f"{smoothing.kind} of {smoothing.windows} windows" if smoothing.windows > 1 else "none"
    if smoothing.kind == "exponential":
        pace = f"alpha {smoothing.alpha:g}" if smoothing.alpha else ""
        how = f"exponential, {pace or f'half-life {smoothing.half_life_s:g} s'}"
    tempered = "" if report.temperature is None else f", temperature {report.temperature:g}"
    return f"smoothing {how}{tempered}, a start counts {report.tolerance_s:g} s after an event"


def _of_label(one: Found, report: Report) -> list[str]:
    head = f"{one.label}: {counted(one.events, 'event')}, {one.quiet_hours:.3g} h without one"
    rows = [_cells(point, point is one.point, one) for point in _shown(one)]
    return [head, table(_HEADER, rows, right=" ".join(_HEADER[1:])), _sentence(one, report)]


def _shown(one: Found) -> list[Point]:
    """Return the chosen point and a few around it, those that differ in what they do."""
    curve = [
        point
        for number, point in enumerate(one.curve)
        if point is one.point
        or not number
        or point.outcome.missed != one.curve[number - 1].outcome.missed
        or point.outcome.false_alarms != one.curve[number - 1].outcome.false_alarms
    ]
    at = next((number for number, point in enumerate(curve) if point is one.point), 0)
    first = max(0, min(at - _ROWS // 2, len(curve) - _ROWS))
    return curve[first : first + _ROWS]


def _cells(point: Point, is_chosen: bool, one: Found) -> tuple[str, ...]:
    outcome = point.outcome
    return (
        "*" if is_chosen else "",
        f"{point.limit.on:g}",
        f"{point.limit.off:g}",
        f"{point.alarms_per_hour:.3g}",
        "" if point.highest_per_hour is None else f"{point.highest_per_hour:.3g}",
        f"{outcome.missed / one.events:.1%}",
        f"{outcome.found}/{one.events}",
        str(outcome.repeats),
        "" if outcome.delay_s is None else f"{outcome.delay_s:.3g}",
    )


def _sentence(one: Found, report: Report) -> str:
    if one.point is None:
        return f"No threshold keeps {report.alarms_per_hour:g} false alarms an hour."
    outcome, limit = one.point.outcome, one.point.limit
    low, high = rate_bounds(outcome.false_alarms, one.quiet_hours)
    worst, best = share_bounds(outcome.found, one.events)
    numbers = (
        f"{limit_text(limit)}: {one.point.alarms_per_hour:.3g} false alarms an hour "
        f"(95 %: {low:.3g} to {high:.3g}), {outcome.found} of {one.events} events found "
        f"(95 %: {worst:.0%} to {best:.0%})."
    )
    if one.verdict == "inconclusive":
        return (
            f"{numbers}\nInconclusive: {one.quiet_hours:.3g} h without an event are too few to "
            f"prove {report.alarms_per_hour:g} an hour; it takes {one.hours_needed:.3g} h "
            "without a single false alarm."
        )
    if one.verdict == "failed":
        return f"{numbers}\nFailed: no point that keeps the budget finds an event."
    tried = counted(one.tried, "way")
    return f"{numbers}\nProven at {report.confidence:.0%}, having tried {tried} to decide."
