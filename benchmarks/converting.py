"""What importing the converters costs, and a Keras model from its file to a proven bundle."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from measure import median_ratio
from results import Ratio, Row, Skipped

from edge_converters import Request, convert
from edge_converters.workers.environments import environment

__all__ = ["PARTS"]

_RATIO = 1.3
_KERAS_BAR_S = 60.0
_KERAS = """
import keras
from keras import layers as L
keras.Sequential([
    L.Input((128, 3)), L.Conv1D(8, 5, strides=2, activation="relu"), L.BatchNormalization(),
    L.Conv1D(16, 5, strides=2, activation="relu"), L.GlobalAveragePooling1D(),
    L.Dense(6, activation="softmax"),
]).save("cnn.keras")
"""
_BASE = "import numpy, msgspec"
_OURS = "import edge_converters, numpy, msgspec"
_ALL = "from edge_converters import Request, convert"


def imports(*, rounds: int) -> Sequence[Row]:
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


def keras(*, rounds: int) -> Sequence[Row]:
    """A convolutional network, with a worker that has been made; wall time."""
    worker = environment("keras")
    if not worker.is_ready:
        raise Skipped("edge-runtime convert env sync keras has not been run")
    with tempfile.TemporaryDirectory(prefix="edge-runtime-bench-") as name:
        folder = Path(name)
        command = [worker.python, "-c", _KERAS]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        found = [
            convert(Request(model=str(folder / "cnn.keras"), output=folder / str(number)))
            for number in range(max(1, rounds // 60))
        ]
    seconds = statistics.median(one.seconds for one in found)
    peers = {"largest process MB": max(one.peak_rss_mb for one in found)}
    return [Row.of("convert_keras_s", seconds, "s", bar=_KERAS_BAR_S, peers=peers)]


PARTS = {"convert_import_ms": imports, "convert_keras_s": keras}
