"""Train the gas turbine's NOx network, and let ``edge_converters`` make int8 files of it.

    python -m examples.gas_turbine.train --years 2011 2012 --out artefacts

writes six files into ``--out``, and a report on each model file into ``--report``:

======================  ======================================================
``model_int8.tflite``   int8 input and output, batch 1, resizable
``model_int8.onnx``     QDQ with static ranges, float32 input and output
``recipe_tflite.json``  how the library made that file; ``recipe_onnx.json`` the other
``normalise.json``      names, mean and std of the nine inputs
``metrics.json``        mean absolute errors (mg/m3), verdicts and library versions
======================  ======================================================

Both models take z-scored sensors, shape (n, 9), and answer NOx in mg/m3,
shape (n, 1). The same seed, machine and library versions give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.networks import (
    Evidence,
    Names,
    Predict,
    calibration_rows,
    library_versions,
    save_converted,
    write_json,
)
from examples.specs import turbine_spec

SENSORS = ("AT", "AP", "AH", "AFDP", "GTEP", "TIT", "TAT", "TEY", "CDP")
TARGET = "NOX"
HIDDEN = (32, 16)
EPOCHS = 25
BATCH = 128
LEARNING_RATE = 3e-3
WEIGHT_PENALTY = 1e-2  # set by training on 2011 and replaying 2012
SEED = 7
HELD_OUT_BLOCK = 168  # rows: one week
HELD_OUT_EVERY = 10  # one week in ten is never trained on
MAX_DROP = 0.05  # mg/m3 that int8 may lose on the held-out weeks


@dataclass(frozen=True, eq=False)
class Rows:
    """Hourly rows in time order.

    Attributes:
        year: Shape (n,), int.
        sensors: Shape (n, 9), float64, in the units of the data file.
        nox: Shape (n,), float64, mg/m3.
    """

    year: np.ndarray
    sensors: np.ndarray
    nox: np.ndarray


@dataclass(frozen=True, eq=False)
class Scaling:
    """z-score of the inputs, and of the target while training."""

    mean: np.ndarray
    std: np.ndarray
    target_mean: float
    target_std: float

    def inputs(self, sensors: np.ndarray) -> np.ndarray:
        """Return the sensors z-scored, float32."""
        scaled: np.ndarray = ((sensors - self.mean) / self.std).astype(np.float32)
        return scaled

    def target(self, nox: np.ndarray) -> np.ndarray:
        """Return NOx z-scored, shape (n, 1), float32."""
        scaled: np.ndarray = ((nox - self.target_mean) / self.target_std).astype(np.float32)
        return scaled[:, None]


def load(path: Path) -> Rows:
    """Read the data file.

    Raises:
        ValueError: A column is missing.
    """
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    missing = {"year", TARGET, *SENSORS} - set(table[0] if table else ())
    if missing:
        raise ValueError(
            f"{path}: columns {sorted(missing)} are missing; expected year, {TARGET} and "
            f"{', '.join(SENSORS)}.\n  Pass the joined file described in DATA.md with --data."
        )
    return Rows(
        year=np.array([int(row["year"]) for row in table]),
        sensors=np.array([[float(row[name]) for name in SENSORS] for row in table]),
        nox=np.array([float(row[TARGET]) for row in table]),
    )


def split(rows: Rows, years: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks of rows: to train on, and held out of the same years.

    Whole weeks are held out, so that neighbours in time do not leak.

    Raises:
        ValueError: A year is not in the data.
    """
    known = sorted(set(rows.year.tolist()))
    if unknown := sorted(set(years) - set(known)):
        raise ValueError(f"--years {unknown} are not in the data; it has {known}.")
    chosen = np.isin(rows.year, years)
    week = np.arange(len(rows.year)) // HELD_OUT_BLOCK
    held_out = chosen & (week % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
    return chosen & ~held_out, held_out


def fit_scaling(rows: Rows, train: np.ndarray) -> Scaling:
    """Take mean and std from the training rows alone."""
    sensors, nox = rows.sensors[train], rows.nox[train]
    return Scaling(sensors.mean(axis=0), sensors.std(axis=0), float(nox.mean()), float(nox.std()))


def train_network(inputs: np.ndarray, target: np.ndarray) -> Any:
    """Train the network on z-scored rows and return the Keras model.

    The weight penalty is strong on purpose: sensors drift over the years, and
    a smooth network goes wrong smoothly, which a residual layer can follow.
    """
    import keras

    keras.utils.set_random_seed(SEED)
    penalty = keras.regularizers.L2(WEIGHT_PENALTY)
    hidden = [
        keras.layers.Dense(width, "relu", kernel_regularizer=penalty, name=f"hidden_{index}")
        for index, width in enumerate(HIDDEN)
    ]
    answer = keras.layers.Dense(1, kernel_regularizer=penalty, name="nox")
    model = keras.Sequential([keras.Input((len(SENSORS),), name="sensors"), *hidden, answer])
    steps = EPOCHS * -(-len(inputs) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), "mse")
    model.fit(inputs, target, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def answer_in_units(model: Any, scaling: Scaling) -> None:
    """Fold the target's z-score into the last layer: the output becomes mg/m3."""
    weights, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights(
        [weights * scaling.target_std, bias * scaling.target_std + scaling.target_mean]
    )


def errors_by_part(
    rows: Rows, parts: dict[str, np.ndarray], predict: Predict, inputs: np.ndarray
) -> dict[str, float]:
    """Return the mean absolute error (mg/m3) of each part of the rows."""
    error = np.abs(predict(inputs)[:, 0] - rows.nox)
    return {name: round(float(error[mask].mean()), 3) for name, mask in parts.items()}


def parts_of(rows: Rows, train: np.ndarray, held_out: np.ndarray) -> dict[str, np.ndarray]:
    """Name the parts errors are reported for: train, held_out and each other year."""
    others = rows.year[~(train | held_out)]
    years = {str(year): rows.year == year for year in np.unique(others)}
    return {"train": train, "held_out": held_out, **years}


def evidence_of(rows: Rows, train: np.ndarray, held_out: np.ndarray) -> Evidence:
    """Return training rows that set the ranges, and the held-out weeks to judge by."""
    return Evidence(
        calibration=calibration_rows(rows.sensors[train], extremes=True)[:, None, :],
        windows=rows.sensors[held_out][:, None, :],
        labels=rows.nox[held_out],
        metric="mae",
        max_drop=MAX_DROP,
    )


def build(
    rows: Rows, years: Sequence[int], out: Path, report: Path, version: str
) -> dict[str, Any]:
    """Train on ``years``, write the files into ``out`` and return the metrics."""
    train, held_out = split(rows, years)
    scaling = fit_scaling(rows, train)
    inputs = scaling.inputs(rows.sensors)
    model = train_network(inputs[train], scaling.target(rows.nox[train]))
    answer_in_units(model, scaling)
    models, verdicts = save_converted(
        model,
        turbine_spec(version, scaling.mean.tolist(), scaling.std.tolist()),
        evidence_of(rows, train, held_out),
        out,
        report,
        Names("turbine-nox", "sensors", "nox"),
    )
    write_json(
        out / "normalise.json",
        {"names": SENSORS, "mean": scaling.mean.tolist(), "std": scaling.std.tolist()},
    )

    parts = parts_of(rows, train, held_out)
    metrics = {
        "years": list(years),
        "unit": "mg/m3",
        "rows": {name: int(mask.sum()) for name, mask in parts.items()},
        "mae": {name: errors_by_part(rows, parts, run, inputs) for name, run in models.items()},
        "verdict": verdicts,
        "versions": library_versions(),
    }
    write_json(out / "metrics.json", metrics)
    return metrics


def main(arguments: Iterable[str] | None = None) -> None:
    """Read the command line, build, and print the metrics."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--years", type=int, nargs="+", required=True, help="years to train on")
    parser.add_argument("--out", type=Path, required=True, help="folder, named after the version")
    parser.add_argument("--report", type=Path, default=Path("turbine-nox-report"))
    parser.add_argument("--data", type=Path, default=here / "gas_turbine_2011_2015.csv")
    options = parser.parse_args(None if arguments is None else list(arguments))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    rows, version = load(options.data), options.out.name
    print(json.dumps(build(rows, options.years, options.out, options.report, version), indent=2))


if __name__ == "__main__":
    main()
