"""Train a GRU to hear where a fan's blades carry weights, and convert it into an int8 cell.

    python -m examples.fan_stream.train --data accelerometer.csv

writes ``fan_gru.onnx``, a network over two seconds of samples, lets ``edge_converters`` cut
it into a cell that takes one sample a call and may lose half a point of accuracy at most,
and writes the bundle and ``result.json`` beside this file. NumPy alone trains it; the same
seed, machine and library versions give the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge_converters import Outcome, Request, convert
from edge_converters.chains import chain
from edge_runtime.config.document import dump_yaml
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    ModelSpec,
    OutputSpec,
    Smoothing,
    StreamSpec,
    WindowSpec,
    as_builtins,
)
from examples.fan_stream.gru import Weights, train
from examples.fan_vibration.report import TEST
from examples.fan_vibration.train import CHANNELS, LABELS, RATE_HZ, TRAIN_ROWS, Run, load
from examples.networks import write_json

HERE = Path(__file__).resolve().parent
MODEL = HERE / "fan_gru.onnx"
BUNDLE = HERE / "bundles" / "fan-stream-1.0.0"
STEPS = 100  # two seconds
SLOWEST = 60  # per cent of the full speed: below it the weights hardly pull
TRAIN_HOP, TEST_HOP = 20, 20
HIDDEN = 32
EPOCHS = 30
LEARNING_RATE = 5e-3
CALIBRATION = 256
MAX_DROP = 0.005
SEED = 7


def windows_of(runs: Sequence[Run], rows: slice, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut every quick run into windows, shape (n, 100, 3), g, and their classes, shape (n,)."""
    cut, labels = [], []
    for run in runs:
        if run.speed >= SLOWEST:
            views = np.lib.stride_tricks.sliding_window_view(run.samples[rows], STEPS, axis=0)
            cut.append(views[::hop].transpose(0, 2, 1))
            labels += [run.label] * len(cut[-1])
    return np.concatenate(cut).astype(np.float32), np.array(labels, np.int64)


def unseen_runs() -> list[Run]:
    """Return the rows of every run that training never saw."""
    with np.load(TEST) as rows:
        parts = zip(rows["label"], rows["speed"], rows["milli_g"], strict=True)
        return [
            Run(int(label), int(speed), (milli / 1000).astype(np.float32), ())
            for label, speed, milli in parts
        ]


def model_of(weights: Weights, mean: np.ndarray, spread: np.ndarray) -> bytes:
    """Return the network as ONNX, from (n, 100, 3) in g to logits."""
    arrays = {
        "0_gain": (1 / spread).astype(np.float32),
        "0_shift": (-mean / spread).astype(np.float32),
        "1_w": weights["w"][None],
        "1_r": weights["r"][None],
        "1_b": np.concatenate([weights["bw"], weights["br"]])[None],
        "2_weights": weights["d"],
        "2_bias": weights["bd"],
    }
    parts = [
        {"op": "scale"},
        {"op": "GRU", "is_sequence": False, "is_reset_after": True},
        {"op": "product"},
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chain.npz"
        np.savez(file, allow_pickle=False, **arrays)
        return chain(file, parts, [STEPS, len(mean)])


def spec_of() -> ModelSpec:
    """Describe the stream, one sample a window, and what the answers mean."""
    return ModelSpec(
        name="fan-stream",
        version="1.0.0",
        kind="classifier",
        stream=StreamSpec(tuple(ChannelSpec(name, "g") for name in CHANNELS), rate_hz=RATE_HZ),
        window=WindowSpec(1, 1),
        artefacts=(ArtefactSpec("onnx", "model.onnx", "float32"),),
        labels=LABELS,
        output=OutputSpec("softmax"),
        limits=tuple(Limit(label, on=0.6, off=0.4) for label in LABELS),
        smoothing=Smoothing(kind="mean", windows=25),
    )


def converted(calibration: np.ndarray, output: Path, report: Path) -> Outcome:
    """Convert the network beside this file, as the command line would, and write the report."""
    from edge_converters.reporting import write_report

    windows, labels = windows_of(unseen_runs(), slice(None), TEST_HOP)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bundle.yaml").write_text(dump_yaml(as_builtins(spec_of())))
        np.savez(folder / "calib.npz", inputs=calibration)
        np.savez(folder / "eval.npz", inputs=windows, labels=labels)
        outcome = convert(
            Request(
                model=str(MODEL),
                output=output,
                calib=folder / "calib.npz",
                eval=folder / "eval.npz",
                metric="accuracy",
                max_drop=MAX_DROP,
                hop=1,
                spec=folder / "bundle.yaml",
            )
        )
    write_report(outcome, report)
    return outcome


def figures(outcome: Outcome, trained: int) -> dict[str, Any]:
    """Return what every file of the cell weighs, loses, and how it drifts."""
    files = {}
    for one in outcome.candidates:
        told = one.verdict
        files[one.precision] = {
            "bytes": one.size_bytes,
            "accuracy": round(told.value, 4) if told else None,
            "loss_95": [round(told.low or 0.0, 4), round(told.high or 0.0, 4)] if told else None,
            "drift_db": {
                f"steps {each.first} to {each.last}": [
                    None if db is None else round(db, 1) for db in (each.output_db, each.state_db)
                ]
                for each in one.drift
            },
        }
    verdicts = [one.verdict for one in outcome.candidates if one.verdict]
    return {
        "bundle": outcome.bundle,
        "precision": outcome.choice.precision,
        "claim": outcome.choice.verdict,
        "windows": {"train": trained, "verdict": verdicts[0].windows},
        "float_accuracy": round(verdicts[0].float_value, 4),
        "files": files,
        "versions": {name: version(name) for name in ("numpy", "onnx", "onnxruntime")},
    }


def main(arguments: Iterable[str] | None = None) -> None:
    """Read the command line, train, convert, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the full accelerometer.csv")
    parser.add_argument("--out", type=Path, default=BUNDLE, help="folder of the bundle")
    parser.add_argument("--report", type=Path, default=Path("fan-stream-report"))
    options = parser.parse_args(None if arguments is None else list(arguments))
    windows, labels = windows_of(load(options.data), slice(TRAIN_ROWS), TRAIN_HOP)
    mean, spread = windows.mean((0, 1)), windows.std((0, 1))
    weights = train(
        ((windows - mean) / spread).astype(np.float32),
        labels,
        HIDDEN,
        epochs=EPOCHS,
        rate=LEARNING_RATE,
        seed=SEED,
        tell=lambda epoch, loss: print(f"epoch {epoch + 1}: loss {loss:.4f}", flush=True),
    )
    MODEL.write_bytes(model_of(weights, mean, spread))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    chosen = np.linspace(0, len(windows) - 1, CALIBRATION).astype(int)
    outcome = converted(windows[chosen], options.out, options.report)
    found = figures(outcome, len(windows))
    write_json(HERE / "result.json", found)
    print(found)


if __name__ == "__main__":
    main()
