"""Compare the live score, the nightly batch and both together over many invented worlds.

    python -m examples.card_transactions.evaluate --out result

writes ``result.json`` and ``result.png``, and prints the table of the README. Every world is
answered for its last sixty days: a batch each night, weights fitted anew each week with what
had been reported by then. Intervals are 95 %, over worlds; lifts are paired within worlds.
Needs ``pip install "edge-runtime[demo]"``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import Pipeline
from edge_runtime.spec import Clamps
from examples.card_transactions.judge import (
    FALSE_ALARM_SHARE,
    Interval,
    Verdict,
    average_precision,
)
from examples.card_transactions.nightly import History, Plan, answer, fit, history_of, night_of
from examples.card_transactions.payments import open_base, score
from examples.card_transactions.world import WorldSize, draw

TESTED_DAYS = 60
WEEK = 7
MISSED = (0, 1, 2, 3, 5, 7, 14)
WAYS = ("live", "batch", "fused")
FIGURES = tuple(field.name for field in fields(Verdict))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one world says.

    Attributes:
        fraud: Fraudulent payments in the tested days.
        payments: Payments in them.
        verdicts: By way to answer.
        aged: Average precision of the fused answer by missed nights.
        frozen: The same, if old layers counted like new ones.
    """

    fraud: int
    payments: int
    verdicts: dict[str, Verdict]
    aged: dict[int, float]
    frozen: dict[int, float]


def judge_world(history: History, days: int, clamps: Clamps) -> Outcome:
    """Answer the last of a world's days in every way, and judge.

    Raises:
        ValueError: There is too little fraud to fit anything to.
    """
    payments, weeks = history.payments, []
    for night in range(days - TESTED_DAYS, days, WEEK):
        live_since = night_of(payments.time_s)
        rows = np.flatnonzero((live_since >= night) & (live_since < night + WEEK))
        weeks.append((rows, fit(history, night, clamps)))
    rows = np.concatenate([rows for rows, _ in weeks])
    fraud, amount = payments.is_fraud[rows], payments.amount[rows]

    def precision(missed: int, fades: bool) -> float:
        return average_precision(_fused(history, weeks, clamps, missed, fades), fraud)

    return Outcome(
        fraud=int(fraud.sum()),
        payments=len(rows),
        verdicts={
            way: Verdict.of(values, fraud, amount, alarm)
            for way, (values, alarm) in _answers(history, weeks, clamps).items()
        },
        aged={missed: precision(missed, True) for missed in MISSED},
        frozen={missed: precision(missed, False) for missed in MISSED},
    )


def _outcome_of(seed: int, size: WorldSize, base: Pipeline) -> Outcome:
    payments = draw(seed, size).payments
    history = history_of(payments, score(base, payments), size.customers, size.days - 1)
    return judge_world(history, size.days, base.spec.clamps)


_Weeks = list[tuple[np.ndarray, Plan]]


def _answers(
    history: History, weeks: _Weeks, clamps: Clamps
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return values, and alarms by each week's own threshold, of every way to answer."""
    answers = [answer(history, rows, plan, clamps) for rows, plan in weeks]
    joined = {}
    for position, way in enumerate(WAYS):
        values = [getattr(each, way) for each in answers]
        limits = [plan.thresholds[position] for _, plan in weeks]
        alarms = [value >= limit for value, limit in zip(values, limits, strict=True)]
        joined[way] = np.concatenate(values), np.concatenate(alarms)
    return joined


def _fused(history: History, weeks: _Weeks, clamps: Clamps, missed: int, fades: bool) -> np.ndarray:
    parts = [answer(history, *week, clamps, missed=missed, fades=fades).fused for week in weeks]
    return np.concatenate(parts)


# --- telling ------------------------------------------------------------------------


def summary(outcomes: Sequence[Outcome], size: WorldSize) -> dict[str, Any]:
    """Return all figures, with their intervals, as JSON has them."""

    def over(values: list[float]) -> dict[str, float]:
        return {key: round(value, 4) for key, value in asdict(Interval.of(values)).items()}

    def of(way: str, figure: str) -> list[float]:
        return [getattr(outcome.verdicts[way], figure) for outcome in outcomes]

    def lift(way: str, figure: str) -> list[float]:
        pairs = zip(of("fused", figure), of(way, figure), strict=True)
        return [fused - alone for fused, alone in pairs]

    return {
        "worlds": len(outcomes),
        "size": asdict(size),
        "tested_days": TESTED_DAYS,
        "payments": sum(outcome.payments for outcome in outcomes),
        "fraud": sum(outcome.fraud for outcome in outcomes),
        "false_alarm_share": FALSE_ALARM_SHARE,
        "ways": {way: {name: over(of(way, name)) for name in FIGURES} for way in WAYS},
        "lift": {way: {name: over(lift(way, name)) for name in FIGURES} for way in WAYS[:2]},
        "missed_nights": {
            str(missed): {
                "fading": over([outcome.aged[missed] for outcome in outcomes]),
                "frozen": over([outcome.frozen[missed] for outcome in outcomes]),
                "fading_minus_live": over(
                    [o.aged[missed] - o.verdicts["live"].average_precision for o in outcomes]
                ),
            }
            for missed in MISSED
        },
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as the README shows them."""

    def shown(cell: dict[str, float]) -> str:
        return f"{cell['mean']:.3f} ± {cell['half']:.3f}"

    names = ("average precision", "recall", "money saved", "false alarms")
    lines = [f"| | {' | '.join(names)} |", "|---" * 5 + "|"]
    for way, figures in result["ways"].items():
        lines.append(f"| {way} | " + " | ".join(shown(figures[name]) for name in FIGURES) + " |")
    for way, figures in result["lift"].items():
        cells = " | ".join(shown(figures[name]) for name in FIGURES)
        lines.append(f"| fused − {way} | {cells} |")
    lines += ["", "| nights missed | fading | − live | frozen |", "|---" * 4 + "|"]
    for missed, figures in result["missed_nights"].items():
        cells = (figures[name] for name in ("fading", "fading_minus_live", "frozen"))
        lines.append(f"| {missed} | " + " | ".join(map(shown, cells)) + " |")
    return "\n".join(lines)


def draw_plot(result: dict[str, Any], path: Path) -> None:
    """Draw the three ways side by side, and what missed nights do to the fused one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    bars, lines = figure.subplots(1, 2)
    _draw_bars(bars, result)
    _draw_ages(lines, result)
    figure.savefig(path, dpi=110, facecolor="white")


_COLOURS = {"live": "#8b8f98", "batch": "#a9825a", "fused": "#0b6fa4"}
_FAINT, _GRID = "#6b7280", "#e6e8ec"


def _draw_bars(axes: Any, result: dict[str, Any]) -> None:
    names = ("average precision", "recall at 0.5 % false alarms", "money saved, share")
    for offset, way in enumerate(WAYS):
        cells = [result["ways"][way][figure] for figure in FIGURES[:3]]
        axes.bar(
            np.arange(3) + 0.26 * (offset - 1),
            [cell["mean"] for cell in cells],
            0.24,
            yerr=[cell["half"] for cell in cells],
            color=_COLOURS[way],
            ecolor=_FAINT,
            label=way,
        )
    axes.set_xticks(range(3), names, fontsize=8)
    axes.margins(y=0.18)
    axes.legend(frameon=False, ncols=len(WAYS), loc="upper left")
    _dress(axes, "Live score, nightly batch, and both fused", "")


def _draw_ages(axes: Any, result: dict[str, Any]) -> None:
    live = result["ways"]["live"]["average_precision"]["mean"]
    axes.axhline(live, color=_COLOURS["live"], label="live alone")
    for name, colour, style in (("fading", _COLOURS["fused"], "-"), ("frozen", "#c8553d", ":")):
        cells = [result["missed_nights"][str(missed)][name] for missed in MISSED]
        label = "fading, then expired" if name == "fading" else "as if old layers were new"
        axes.errorbar(
            MISSED,
            [cell["mean"] for cell in cells],
            [cell["half"] for cell in cells],
            color=colour,
            linestyle=style,
            marker="o",
            capsize=3,
            label=label,
        )
    axes.legend(frameon=False)
    axes.set_ylim(bottom=0)
    _dress(axes, "Average precision, fused", "nights whose batch did not arrive")


def _dress(axes: Any, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(below, color=_FAINT)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def main(argv: Sequence[str] | None = None) -> int:
    """Judge every world, write figures and picture, and print the table."""
    args = _parser().parse_args(argv)
    size = WorldSize(customers=args.customers, days=args.days)
    base = open_base()
    outcomes = []
    for seed in range(1, args.worlds + 1):
        try:
            outcomes.append(_outcome_of(seed, size, base))
        except ValueError as error:
            print(f"world {seed}: {error}", file=sys.stderr)
            return 1
        print(f"world {seed} of {args.worlds}", file=sys.stderr, flush=True)
    result = summary(outcomes, size)
    args.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    draw_plot(result, args.out.with_suffix(".png"))
    print(json.dumps(result, indent=2) if args.json else table(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--worlds", type=int, default=10, help="seeds 1 to this, 2 to 31")
    parser.add_argument("--customers", type=int, default=2000, help="in each world")
    parser.add_argument("--days", type=int, default=150, help="of each world, 120 or more")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.png")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
