"""Train an autoencoder of MLPerf Tiny's shape on one loading of the fan, and convert it.

    python -m examples.fan_anomaly.train --data accelerometer.csv

learns 640 log-mel energies of ``unbalance-1``, lets ``edge_converters`` make a bundle that may
lose half a point of AUC at most, and writes the bundle and ``result.json`` beside this file.
The two other loadings are what it has to notice. The same seed, machine and library versions
give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_converters import Outcome, Request, convert
from edge_runtime.config.document import dump_yaml
from edge_runtime.pipeline.features import compute
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    LogMel,
    ModelSpec,
    Normalise,
    OutputSpec,
    StreamSpec,
    WindowSpec,
    as_builtins,
)
from examples.fan_vibration.train import RATE_HZ, TRAIN_ROWS, Run, load
from examples.networks import float_tflite, library_versions, write_json

HERE = Path(__file__).resolve().parent
BUNDLE = HERE / "bundles" / "fan-anomaly-1.0.0"
CHANNEL = 1  # y, which hears the weights best
SLOWEST = 60  # per cent of the full speed: below it the weights hardly pull
FEATURES = LogMel(
    frame_length=256,
    frame_step=64,
    fft_length=512,
    bands=128,
    low_hz=0.5,
    high_hz=25.0,
    spectrum="power",
    log="db",
)
FRAMES = 5
WINDOW = FEATURES.frame_length + (FRAMES - 1) * FEATURES.frame_step  # 512 samples, ten seconds
TRAIN_HOP, TEST_HOP = 4, 8
HIDDEN = (128, 128, 128, 128, 8, 128, 128, 128, 128)
EPOCHS = 20
BATCH = 32
LEARNING_RATE = 5e-4
CALIBRATION = 256
MAX_DROP = 0.005
SEED = 7


def windows_of(runs: Sequence[Run], rows: slice, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut one channel of every quick run; windows overlap.

    Returns:
        Windows, shape (n, 512, 1), float32, g, and whether each is an anomaly, shape (n,).
    """
    cut, is_odd = [], []
    for run in runs:
        if run.speed >= SLOWEST:
            signal = run.samples[rows, CHANNEL]
            cut.append(np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::hop])
            is_odd += [run.label != 0] * len(cut[-1])
    return np.concatenate(cut)[..., None].astype(np.float32), np.array(is_odd, np.int64)


def energies_of(windows: np.ndarray) -> np.ndarray:
    """Return the log-mel energies of windows, as the runtime computes them, shape (n, 640)."""
    return compute((FEATURES,), windows, rate_hz=RATE_HZ).reshape(len(windows), -1)


def train_network(inputs: np.ndarray) -> Any:
    """Train the autoencoder on scaled energies and return the Keras model."""
    import keras

    keras.utils.set_random_seed(SEED)
    layers = [keras.layers.Dense(width, "relu", name=f"l{n}") for n, width in enumerate(HIDDEN)]
    size = inputs.shape[1]
    model = keras.Sequential([keras.Input((size,)), *layers, keras.layers.Dense(size, name="out")])
    steps = EPOCHS * -(-len(inputs) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), "mse")
    model.fit(inputs, inputs, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def spec_of(scaling: Normalise, threshold: float) -> ModelSpec:
    """Describe the stream, the features and what counts as an anomaly."""
    return ModelSpec(
        name="fan-anomaly",
        version="1.0.0",
        kind="scorer",
        stream=StreamSpec((ChannelSpec("y", "g"),), rate_hz=RATE_HZ),
        window=WindowSpec(WINDOW, FEATURES.frame_step),
        features=(FEATURES,),
        normalise=scaling,
        artefacts=(ArtefactSpec("tflite", "model.tflite", "float32"),),
        labels=("anomaly",),
        output=OutputSpec("reconstruction"),
        limits=(Limit("anomaly", on=threshold, off=threshold),),
    )


def build(runs: Sequence[Run], output: Path, report: Path) -> dict[str, Any]:
    """Train, convert, write the bundle and its report, and return the figures."""
    train, is_odd = windows_of(runs, slice(TRAIN_ROWS), TRAIN_HOP)
    known = train[is_odd == 0]
    energies = energies_of(known)
    scaling = Normalise(tuple(energies.mean(0).tolist()), tuple(energies.std(0).tolist()))
    inputs = ((energies - energies.mean(0)) / energies.std(0)).astype(np.float32)
    model = train_network(inputs)
    errors = ((model.predict(inputs, verbose=0) - inputs) ** 2).mean(axis=1)
    spec = spec_of(scaling, float(np.quantile(errors, 0.99)))
    test, truth = windows_of(runs, slice(TRAIN_ROWS, None), TEST_HOP)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bundle.yaml").write_text(dump_yaml(as_builtins(spec)))
        (folder / "autoencoder.tflite").write_bytes(float_tflite(model))
        rows = np.linspace(0, len(known) - 1, CALIBRATION).astype(int)
        np.savez(folder / "calib.npz", inputs=known[rows])
        np.savez(folder / "eval.npz", inputs=test, labels=truth)
        outcome = converted(folder, output, report)
    return figures(outcome, len(known))


def converted(folder: Path, output: Path, report: Path) -> Outcome:
    """Convert what lies in a folder, as the command line would, and write the report."""
    from edge_converters.reporting import write_report

    outcome = convert(
        Request(
            model=str(folder / "autoencoder.tflite"),
            output=output,
            spec=folder / "bundle.yaml",
            calib=folder / "calib.npz",
            eval=folder / "eval.npz",
            metric="auc",
            max_drop=MAX_DROP,
            precisions=("float32", "int8", "mixed"),
            target="raspberry-pi-4",
        )
    )
    write_report(outcome, report)
    return outcome


def figures(outcome: Outcome, trained: int) -> dict[str, Any]:
    """Return what was chosen, and what it loses."""
    chosen = next(one for one in outcome.candidates if one.precision == outcome.choice.precision)
    verdict = chosen.verdict
    assert verdict is not None  # noqa: S101 - labels were given
    original = outcome.candidates[0]
    return {
        "bundle": outcome.bundle,
        "precision": chosen.precision,
        "claim": outcome.choice.verdict,
        "windows": {"train": trained, "verdict": verdict.windows},
        "auc": {"float": round(verdict.float_value, 4), "chosen": round(verdict.value, 4)},
        "loss_95": [round(verdict.low or 0.0, 4), round(verdict.high or 0.0, 4)],
        "bytes": {"float": original.size_bytes, "chosen": chosen.size_bytes},
        "versions": library_versions(),
    }


def main(arguments: Iterable[str] | None = None) -> None:
    """Read the command line, build, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the full accelerometer.csv")
    parser.add_argument("--out", type=Path, default=BUNDLE, help="folder of the bundle")
    parser.add_argument("--report", type=Path, default=Path("fan-anomaly-report"))
    options = parser.parse_args(None if arguments is None else list(arguments))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = build(load(options.data), options.out, options.report)
    write_json(options.out.parents[1] / "result.json", found)
    print(found)


if __name__ == "__main__":
    main()
