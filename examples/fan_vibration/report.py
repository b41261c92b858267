"""Judge the shipped int8 bundle on the later part of every recording, and draw its confusion.

    python -m examples.fan_vibration.report --out confusion.png

Everything is here: the bundle, and in ``fan_vibration_test.npz`` all rows that training never
saw. ``--data accelerometer.csv`` adds how far one gets without a network, which tells how easy
the data are. Drawing needs ``pip install "edge-runtime[demo]"``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import Windows, load_bundle, open_pipeline
from edge_runtime.ports import Choice
from examples.fan_vibration.train import (
    LABELS,
    TRAIN_HOP,
    TRAIN_ROWS,
    UNSEEN_SPEEDS,
    WINDOW,
    load,
    windows_of,
)

HERE = Path(__file__).resolve().parent
BUNDLE = HERE / "bundles" / "fan-unbalance-1.0.0"
TEST = HERE / "fan_vibration_test.npz"
BACKENDS = ("litert", "onnx")
NEIGHBOURS = 5
# Columns of the 168 features, see `train.FEATURES`: six statistics of each axis come first.
EASY = {
    "means of x, y, z: how the sensor hangs": [0, 6, 12],
    "standard deviations of x, y, z: how much it shakes": [1, 7, 13],
    "log spectrum": list(range(18, 168)),
}


def confusion_of(test: Path = TEST, backend: str = "litert") -> np.ndarray:
    """Let the shipped bundle answer every test window.

    Returns:
        Windows by speed, true class and answered class, shape (17, 3, 3), int64.
    """
    with np.load(test) as rows:
        label, speed = rows["label"], rows["speed"]
        samples = (rows["milli_g"] / 1000).astype(np.float32)
    windows = samples.reshape(-1, WINDOW, samples.shape[2])
    answered = answers_of(windows, backend).reshape(len(samples), -1)
    counts = np.zeros((len(np.unique(speed)), len(LABELS), len(LABELS)), np.int64)
    position = np.searchsorted(np.unique(speed), speed)
    np.add.at(counts, (position[:, None], label[:, None], answered), 1)
    return counts


def answers_of(windows: np.ndarray, backend: str) -> np.ndarray:
    """Return the class the bundle names for each window, shape (n,)."""
    pipeline = open_pipeline(load_bundle(BUNDLE), Choice(backend=backend))
    index = np.arange(len(windows), dtype=np.int64)
    instants = index * WINDOW * pipeline.spec.stream.period_ns
    answer: np.ndarray = pipeline.score_windows(
        Windows(index, instants, instants, np.ascontiguousarray(windows))
    ).value.argmax(axis=1)
    return answer


def summary(counts: np.ndarray, speeds: Sequence[int]) -> dict[str, Any]:
    """Return accuracy in all, by class and by speed, per cent."""

    def percent(part: np.ndarray) -> float:
        return round(100 * float(np.trace(part) / part.sum()), 1)

    total = counts.sum(axis=0)
    return {
        "windows": int(total.sum()),
        "accuracy": percent(total),
        "found": {
            name: round(100 * float(total[k, k] / total[k].sum()), 1)
            for k, name in enumerate(LABELS)
        },
        "right_when_said": {
            name: round(100 * float(total[k, k] / total[:, k].sum()), 1)
            for k, name in enumerate(LABELS)
        },
        "by_speed": {str(speed): percent(part) for speed, part in zip(speeds, counts, strict=True)},
        "confusion": total.tolist(),
    }


def easy(data: Path) -> dict[str, dict[str, float]]:
    """Return what five nearest neighbours reach, per cent, on few features and no network."""
    runs = load(data)
    seen = [run for run in runs if run.speed not in UNSEEN_SPEEDS]
    unseen = [run for run in runs if run.speed in UNSEEN_SPEEDS]
    splits = {
        "later_in_time": (
            windows_of(runs, slice(TRAIN_ROWS), TRAIN_HOP),
            windows_of(runs, slice(TRAIN_ROWS, None), WINDOW),
        ),
        "unseen_speeds": (
            windows_of(seen, slice(None), TRAIN_HOP),
            windows_of(unseen, slice(None), WINDOW),
        ),
    }
    return {
        name: {
            split: _nearest(train.features[:, columns], test.features[:, columns], train, test)
            for split, (train, test) in splits.items()
        }
        for name, columns in EASY.items()
    }


def _nearest(known: np.ndarray, asked: np.ndarray, train: Any, test: Any) -> float:
    """Return the accuracy of the majority of nearest neighbours, z-scored, per cent."""
    mean, std = known.mean(axis=0), known.std(axis=0)
    known, asked = (known - mean) / std, (asked - mean) / std
    right = 0
    for row, label in zip(asked, test.labels, strict=True):
        near = np.argsort(((known - row) ** 2).sum(axis=1), kind="stable")[:NEIGHBOURS]
        right += int(np.bincount(train.labels[near], minlength=len(LABELS)).argmax() == label)
    return round(100 * right / len(asked), 1)


def draw_confusion(counts: np.ndarray, speeds: Sequence[int], path: Path) -> None:
    """Draw the confusion of all windows, and the accuracy at each speed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    matrix, dots = figure.subplots(1, 2, width_ratios=(1, 1.6))
    _draw_matrix(matrix, counts.sum(axis=0))
    share = [100 * np.trace(part) / part.sum() for part in counts]
    dots.plot(speeds, share, "o-", color="#0b6fa4", linewidth=0.8)
    dots.set_ylim(80, 101)
    dots.set_xlabel("speed of the fan, %")
    dots.set_title("Windows right, %", loc="left", fontsize=11, fontweight="bold")
    dots.grid(color="#e6e8ec", linewidth=0.6)
    dots.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, facecolor="white")


def _draw_matrix(axes: Any, total: np.ndarray) -> None:
    axes.imshow(total / total.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*total.shape):
        colour = "white" if row == column else "#23272f"
        axes.text(column, row, total[row, column], ha="center", va="center", color=colour)
    names = [name.removeprefix("unbalance-") for name in LABELS]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("answered")
    axes.set_ylabel("true class")
    axes.set_title("Test windows", loc="left", fontsize=11, fontweight="bold")


def main(arguments: Iterable[str] | None = None) -> int:
    """Judge both forms of the model, draw, and print the figures."""
    options = _parser().parse_args(None if arguments is None else list(arguments))
    with np.load(TEST) as rows:
        speeds = np.unique(rows["speed"]).tolist()
    counts = {backend: confusion_of(backend=backend) for backend in BACKENDS}
    found: dict[str, Any] = {name: summary(part, speeds) for name, part in counts.items()}
    if options.data:
        found["without_a_network"] = easy(options.data)
    if options.out:
        draw_confusion(counts["litert"], speeds, options.out)
    print(json.dumps(found, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="PNG to draw the confusion matrix to")
    parser.add_argument("--data", type=Path, help="accelerometer.csv, to see how easy it is")
    return parser


if __name__ == "__main__":
    sys.exit(main())
