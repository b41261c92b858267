"""Train the card model on invented worlds, and let ``edge_converters`` make int8 files of it.

    python -m examples.card_transactions.train --out artefacts

writes six files into ``--out``, and a report on each model file into ``--report``:

======================  ======================================================
``model_int8.tflite``   int8 input and output, batch 1, resizable
``model_int8.onnx``     QDQ with static ranges, float32 input and output
``recipe_tflite.json``  how the library made that file; ``recipe_onnx.json`` the other
``normalise.json``      names, mean and std of the fifteen inputs
``metrics.json``        average precision on a world never trained on, verdicts, versions
======================  ======================================================

Both models take z-scored channels, shape (n, 15), and answer a logit, shape (n, 1). They are
trained on the first sixty days of their worlds, with what had been reported two weeks later.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from examples.card_transactions.judge import average_precision
from examples.card_transactions.payments import CHANNELS, seen_live
from examples.card_transactions.world import DAY_S, Payments, WorldSize, draw
from examples.networks import (
    Evidence,
    Names,
    calibration_rows,
    library_versions,
    save_converted,
    write_json,
)
from examples.specs import cards_spec

WORLDS = (1001, 1002, 1003, 1004)
TEST_WORLD = 1005
SIZE = WorldSize(days=120)
TRAINED_DAYS = 60
REPORT_DAYS = 14  # labels that arrive later than this after the last day are not there yet
HIDDEN = (32, 16)
EPOCHS = 12
BATCH = 512
LEARNING_RATE = 3e-3
WEIGHT_PENALTY = 1e-5
SEED = 7
JUDGED_EVERY = 8  # one payment in eight of the test world: enough for an interval of 0.001
MAX_DROP = 0.005  # of the area under the ROC curve


def known_rows(payments: Payments) -> tuple[np.ndarray, np.ndarray]:
    """Return channels and labels of the trained days, as the bank knew them."""
    rows = payments.time_s < TRAINED_DAYS * DAY_S
    known = payments.known_s[rows] < (TRAINED_DAYS + REPORT_DAYS) * DAY_S
    return seen_live(payments)[rows], known


def train_network(inputs: np.ndarray, labels: np.ndarray) -> Any:
    """Train the network on z-scored rows and return the Keras model."""
    import keras

    keras.utils.set_random_seed(SEED)
    hidden = [
        keras.layers.Dense(
            width,
            "relu",
            kernel_regularizer=keras.regularizers.L2(WEIGHT_PENALTY),
            name=f"hidden_{index}",
        )
        for index, width in enumerate(HIDDEN)
    ]
    answer = keras.layers.Dense(1, name="logit")
    model = keras.Sequential([keras.Input((inputs.shape[1],), name="payment"), *hidden, answer])
    steps = EPOCHS * -(-len(inputs) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), keras.losses.BinaryCrossentropy(from_logits=True))
    target = labels.astype(np.float32)[:, None]
    model.fit(inputs, target, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def evidence_of(rows: np.ndarray, test: Payments) -> Evidence:
    """Return training rows that set the ranges, and payments of the test world to judge by."""
    return Evidence(
        calibration=calibration_rows(rows, extremes=True)[:, None, :],
        windows=seen_live(test)[::JUDGED_EVERY, None, :],
        labels=test.is_fraud[::JUDGED_EVERY].astype(np.int64),
        metric="auc",
        max_drop=MAX_DROP,
    )


def build(out: Path, report: Path) -> dict[str, Any]:
    """Train, write the files into ``out`` and return the metrics."""
    parts = [known_rows(draw(seed, SIZE).payments) for seed in WORLDS]
    rows = np.concatenate([channels for channels, _ in parts])
    labels = np.concatenate([known for _, known in parts])
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    inputs = ((rows - mean) / std).astype(np.float32)
    model = train_network(inputs, labels)
    test = draw(TEST_WORLD, SIZE).payments
    models, verdicts = save_converted(
        model,
        cards_spec(out.name, mean.tolist(), std.tolist()),
        evidence_of(rows, test),
        out,
        report,
        Names("card-fraud", "payment", "logit"),
    )
    names = [name for name, _ in CHANNELS]
    write_json(out / "normalise.json", {"names": names, "mean": mean.tolist(), "std": std.tolist()})

    shown = ((seen_live(test) - mean) / std).astype(np.float32)
    metrics = {
        "worlds": {"train": WORLDS, "test": TEST_WORLD},
        "payments": {"train": len(rows), "test": len(test)},
        "fraud": {"train": int(labels.sum()), "test": int(test.is_fraud.sum())},
        "average_precision": {
            name: round(average_precision(predict(shown)[:, 0], test.is_fraud), 4)
            for name, predict in models.items()
        },
        "verdict": verdicts,
        "versions": library_versions(),
    }
    write_json(out / "metrics.json", metrics)
    return metrics


def main(arguments: Iterable[str] | None = None) -> None:
    """Read the command line, build, and print the metrics."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder, named after the version")
    parser.add_argument("--report", type=Path, default=Path("card-fraud-report"))
    options = parser.parse_args(None if arguments is None else list(arguments))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    print(json.dumps(build(options.out, options.report), indent=2))


if __name__ == "__main__":
    main()
