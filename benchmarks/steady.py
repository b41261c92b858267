"""What a small model costs at 50 Hz, where an engine that spins between calls burns a core.

Engine alone and pipeline run at the same time in processes of their own, each
a few milliseconds after the other, so that both find the machine alike.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from measure import median_ratio, seconds
from results import Ratio, Row
from rounds import Worker

__all__ = ["PARTS"]

_SCRIPT = Path(__file__).parent / "children" / "steady.py"
_RATIO = 1.15
_PERIOD_MS = 20.0
_ROUND_S = 2.0


def fifty_hz(*, rounds: int) -> list[Row]:
    """Both runtimes, about ten seconds in all."""
    sides = [(side, backend) for backend in ("litert", "onnx") for side in ("engine", "ours")]
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in sides}
    with ExitStack() as stack:
        workers = {
            key: stack.enter_context(
                Worker([sys.executable, str(_SCRIPT), *key, str(5 * place), str(_ROUND_S)])
            )
            for place, key in enumerate(sides)
        }
        for number in range(1 + round(seconds(rounds, 10.0) / _ROUND_S)):
            for worker in workers.values():
                worker.ask()
            for key, worker in workers.items():
                answer = worker.answer()
                if number:
                    taken[key].append(answer["ms"])
    alone = {key: float(worker.hello["back_to_back_ms"]) for key, worker in workers.items()}
    return [
        _row(backend, taken["ours", backend], taken["engine", backend], alone["engine", backend])
        for backend in ("litert", "onnx")
    ]


PARTS = {"core_at_50hz_litert core_at_50hz_onnx": fifty_hz}


def _row(backend: str, ours: list[float], engine: list[float], back_to_back_ms: float) -> Row:
    ratio = median_ratio(ours, engine)
    ours_ms = statistics.median(ours)
    return Row.of(
        f"core_at_50hz_{backend}",
        100 * ours_ms / _PERIOD_MS,
        "% of a core",
        bar=None,
        ratios=[Ratio("ours over the engine alone at 50 Hz", ratio, at_most=_RATIO)],
        peers={
            "ours ms": ours_ms,
            "engine alone ms": statistics.median(engine),
            "engine back to back ms": back_to_back_ms,
        },
    )
