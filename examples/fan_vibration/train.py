"""Train the fan's vibration classifier and quantise it to int8 TFLite and ONNX.

    python -m examples.fan_vibration.train --data accelerometer.csv --out artefacts

writes four files into ``--out``:

======================  ======================================================
``model_int8.tflite``   int8 input and output, batch 1, resizable
``model_int8.onnx``     QDQ with static ranges, float32 input and output
``features.json``       window, features in order, mean and std, labels
``metrics.json``        accuracy on windows never trained on, library versions
======================  ======================================================

Both models take z-scored features, shape (n, 168), and answer logits, shape
(n, 3). Features come from the runtime itself, so that the device computes the
same numbers. The same seed, machine and library versions give the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.pipeline.features import compute
from edge_runtime.spec import Spectrum, Statistics
from examples.networks import (
    Names,
    Predict,
    calibration_rows,
    float_network,
    library_versions,
    save_quantised,
    write_json,
)

COLUMNS = "Sensor Configuration,Rotation Speed Percentage,x,y,z"
CHANNELS = ("x", "y", "z")
LABELS = ("unbalance-1", "unbalance-2", "unbalance-3")
RATE_HZ = 50.0
WINDOW = 100  # samples: two seconds
TRAIN_ROWS = 2100  # of each run; the later ones are for the test
TRAIN_HOP = 10  # training windows overlap, test windows never do
FEATURES = (
    Statistics(which=("mean", "std", "ptp", "skewness", "kurtosis", "crest")),
    Spectrum(first=1, last=50, remove_mean=True, log=True),
)
UNSEEN_SPEEDS = (35, 60, 85)
PART_SPEEDS = (40, 60, 80, 100)
PART_ROWS = 600  # the last rows of each run
HIDDEN = (64, 32)
EPOCHS = 40
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_PENALTY = 1e-4
DROPOUT = 0.2
NOISE = 0.2  # standard deviations of a feature
LABEL_SMOOTHING = 0.1  # keeps logits small, so that their int8 steps are fine
SEED = 7


@dataclass(frozen=True, eq=False)
class Run:
    """One recording at constant class and speed.

    Attributes:
        label: Index into ``LABELS``.
        speed: Per cent of the full speed.
        samples: Shape (n, 3), float32, g, 50 a second.
        lines: The same rows as the file has them.
    """

    label: int
    speed: int
    samples: np.ndarray
    lines: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Windows:
    """Features of windows, shape (n, 168), and their labels, shape (n,)."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Scaling:
    """z-score of the features, from training windows alone."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the features z-scored, float32."""
        scaled: np.ndarray = ((features - self.mean) / self.std).astype(np.float32)
        return scaled


def load(path: Path) -> list[Run]:
    """Read the data file and part it into runs.

    Raises:
        ValueError: The columns are not the expected ones.
    """
    header, *lines = path.read_text().splitlines()
    if header != COLUMNS:
        raise ValueError(
            f"{path}:1: the columns are {header!r}; expected {COLUMNS!r}.\n"
            "  Pass the file described in DATA.md with --data."
        )
    table = np.array([line.split(",") for line in lines], dtype=np.float64)
    edges = np.flatnonzero(np.any(np.diff(table[:, :2], axis=0) != 0, axis=1)) + 1
    bounds = [0, *edges.tolist(), len(table)]
    return [
        Run(
            label=int(table[start, 0]) - 1,
            speed=int(table[start, 1]),
            samples=table[start:end, 2:].astype(np.float32),
            lines=tuple(lines[start:end]),
        )
        for start, end in itertools.pairwise(bounds)
    ]


def windows_of(runs: Sequence[Run], rows: slice, hop: int) -> Windows:
    """Cut windows from the same rows of every run and compute their features."""
    cut, labels = [], []
    for run in runs:
        views = np.lib.stride_tricks.sliding_window_view(run.samples[rows], WINDOW, axis=0)
        cut.append(views[::hop].transpose(0, 2, 1))
        labels += [run.label] * len(cut[-1])
    features = compute(FEATURES, np.concatenate(cut), rate_hz=RATE_HZ)
    return Windows(features, np.array(labels))


def fit_scaling(features: np.ndarray) -> Scaling:
    """Take mean and std of every feature."""
    values = features.astype(np.float64)
    return Scaling(values.mean(axis=0), values.std(axis=0))


def train_network(inputs: np.ndarray, labels: np.ndarray) -> Any:
    """Train the network on z-scored features and return the Keras model."""
    import keras

    keras.utils.set_random_seed(SEED)
    layers: list[Any] = [keras.layers.GaussianNoise(NOISE)]
    for index, width in enumerate(HIDDEN):
        penalty = keras.regularizers.L2(WEIGHT_PENALTY)
        name = f"hidden_{index}"
        layers += [
            keras.layers.Dense(width, "relu", kernel_regularizer=penalty, name=name),
            keras.layers.Dropout(DROPOUT),
        ]
    layers.append(keras.layers.Dense(len(LABELS), name="logits"))
    model = keras.Sequential([keras.Input((inputs.shape[1],), name="features"), *layers])
    steps = EPOCHS * -(-len(inputs) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = keras.losses.CategoricalCrossentropy(True, label_smoothing=LABEL_SMOOTHING)
    model.compile(keras.optimizers.Adam(rate), loss)
    target = np.eye(len(LABELS), dtype=np.float32)[labels]
    model.fit(inputs, target, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def accuracy(predict: Predict, scaling: Scaling, windows: Windows) -> float:
    """Return the share of windows whose highest logit is the right label."""
    answers = predict(scaling(windows.features)).argmax(axis=1)
    return round(float((answers == windows.labels).mean()), 4)


def unseen_accuracy(runs: Sequence[Run]) -> float:
    """Train without the unseen speeds and return the float accuracy on them alone."""
    seen = [run for run in runs if run.speed not in UNSEEN_SPEEDS]
    unseen = [run for run in runs if run.speed in UNSEEN_SPEEDS]
    train = windows_of(seen, slice(None), TRAIN_HOP)
    scaling = fit_scaling(train.features)
    model = train_network(scaling(train.features), train.labels)
    return accuracy(float_network(model), scaling, windows_of(unseen, slice(None), WINDOW))


def features_json(scaling: Scaling) -> dict[str, Any]:
    """Describe what comes before the model, in the words of ``bundle.yaml``."""
    return {
        "channels": [{"name": name, "unit": "g"} for name in CHANNELS],
        "rate_hz": RATE_HZ,
        "window": {"length": WINDOW, "hop": WINDOW},
        "features": msgspec.to_builtins(FEATURES),
        "normalise": {"mean": scaling.mean.tolist(), "std": scaling.std.tolist()},
        "output": {"activation": "softmax"},
        "labels": LABELS,
    }


def write_part(runs: Sequence[Run], path: Path) -> None:
    """Write rows never trained on, for demos and tests: the end of some runs."""
    chosen = [run.lines[-PART_ROWS:] for run in runs if run.speed in PART_SPEEDS]
    path.write_text("\n".join([COLUMNS, *(line for lines in chosen for line in lines)]) + "\n")


def write_test(runs: Sequence[Run], path: Path) -> None:
    """Write the rows of every run that training never saw, in thousandths of g, compressed."""
    later = np.stack([run.samples[TRAIN_ROWS:] for run in runs]).astype(np.float64)
    milli = np.round(1000 * later).astype(np.int16)
    label, speed = ([getattr(run, name) for run in runs] for name in ("label", "speed"))
    np.savez_compressed(path, label=label, speed=speed, milli_g=milli)


def build(runs: Sequence[Run], out: Path) -> dict[str, Any]:
    """Train, write the four files into ``out`` and return the metrics."""
    train = windows_of(runs, slice(TRAIN_ROWS), TRAIN_HOP)
    test = windows_of(runs, slice(TRAIN_ROWS, None), WINDOW)
    scaling = fit_scaling(train.features)
    inputs = scaling(train.features)
    model = train_network(inputs, train.labels)
    calibration = calibration_rows(inputs, extremes=False)
    names = Names("fan-unbalance", "features", "logits")
    models = save_quantised(model, calibration, out, names)
    write_json(out / "features.json", features_json(scaling))

    metrics = {
        "windows": {"train": len(train.labels), "test": len(test.labels)},
        "accuracy_later_in_time": {
            name: accuracy(predict, scaling, test) for name, predict in models.items()
        },
        "accuracy_unseen_speeds": {
            "speeds": UNSEEN_SPEEDS,
            "float": unseen_accuracy(runs),
        },
        "versions": library_versions(),
    }
    write_json(out / "metrics.json", metrics)
    return metrics


def main(arguments: Iterable[str] | None = None) -> None:
    """Read the command line, build, and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the full accelerometer.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the artefacts")
    parser.add_argument("--part", type=Path, help="also write the demo's rows to this file")
    parser.add_argument("--test", type=Path, help="also write the rows of the test to this file")
    options = parser.parse_args(None if arguments is None else list(arguments))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    runs = load(options.data)
    if options.part:
        write_part(runs, options.part)
    if options.test:
        write_test(runs, options.test)
    print(json.dumps(build(runs, options.out), indent=2))


if __name__ == "__main__":
    main()
