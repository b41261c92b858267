"""What importing the converters costs, over numpy and msgspec alone."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

from measure import median_ratio
from results import Ratio, Row

__all__ = ["rows"]

_RATIO = 1.3
_BASE = "import numpy, msgspec"
_OURS = "import edge_converters, numpy, msgspec"
_ALL = "from edge_converters import Request, convert"


def rows(*, rounds: int) -> Sequence[Row]:
    """Processor time of a fresh interpreter, one statement each."""
    taken: dict[str, list[float]] = {_BASE: [], _OURS: [], _ALL: []}
    for _ in range(max(5, rounds // 10)):
        for statement, times in taken.items():
            times.append(_cpu_ms(statement))
    ratio = Ratio(
        "the package over numpy and msgspec",
        median_ratio(taken[_OURS], taken[_BASE]),
        at_most=_RATIO,
    )
    peers = {
        "numpy and msgspec alone ms": statistics.median(taken[_BASE]),
        "with everything that converts ms": statistics.median(taken[_ALL]),
    }
    ours_ms = statistics.median(taken[_OURS])
    return [Row.of("convert_import_ms", ours_ms, "ms", bar=None, ratios=[ratio], peers=peers)]


def _cpu_ms(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent * 1e3
