"""Make the example bundles from the trained artefacts; the same inputs give the same bytes.

    python -m examples.make_bundles [gas_turbine] [fan_vibration] [card_transactions]

writes ``examples/gas_turbine/bundles/turbine-nox-{1.0.0,2.0.0}``,
``examples/fan_vibration/bundles/fan-unbalance-1.0.0`` and
``examples/card_transactions/bundles/card-fraud-1.0.0``, loads them again, and
admits them in a child process as a device would. Golden vectors are rows that
the training held out; their answers come from the bundle's own pipeline.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.backends import load_session
from edge_runtime.bundle import Bundle, Golden, digest_of, save_bundle, write_golden
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import ModelSpec
from edge_runtime.types import Windows
from edge_runtime.update.admission import admit
from examples.card_transactions.payments import seen_live
from examples.card_transactions.train import TEST_WORLD
from examples.card_transactions.world import WorldSize, draw
from examples.specs import TURBINE_CHANNELS, cards_spec, turbine_spec

HERE = Path(__file__).resolve().parent
TURBINE = HERE / "gas_turbine"
FAN = HERE / "fan_vibration"
CARDS = HERE / "card_transactions"

GOLDEN_WINDOWS = 32
HELD_OUT_BLOCK = 168  # as in gas_turbine/train.py: whole weeks, one in ten
HELD_OUT_EVERY = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Make, check and admit the bundles of some examples, or all; return 1 if one is refused."""
    names = sorted(folder.name for folder in (TURBINE, FAN, CARDS))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("examples", nargs="*", metavar="EXAMPLE", help=", ".join(names))
    chosen = parser.parse_args(arguments).examples or names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"there is no {', '.join(unknown)}; expected {', '.join(names)}")
    bundles = {
        TURBINE / "bundles" / "turbine-nox-1.0.0": partial(turbine, "1.0.0", (2011, 2012)),
        TURBINE / "bundles" / "turbine-nox-2.0.0": partial(turbine, "2.0.0", (2011, 2012, 2013)),
        FAN / "bundles" / "fan-unbalance-1.0.0": partial(fan, "1.0.0"),
        CARDS / "bundles" / "card-fraud-1.0.0": partial(cards, "1.0.0"),
    }
    refused = 0
    for folder, made in bundles.items():
        if folder.parents[1].name not in chosen:
            continue
        bundle = write(folder, *made())
        verdict = admit(folder)
        print(f"{bundle.ref} {bundle.digest[:16]} admitted={verdict.is_admitted} {verdict.reason}")
        refused += not verdict.is_admitted
    return 1 if refused else 0


def turbine(version: str, years: tuple[int, ...]) -> tuple[ModelSpec, dict[str, bytes], np.ndarray]:
    """Return spec, files and golden windows of one NOx base."""
    artefacts = TURBINE / "artefacts" / version
    scaling = json.loads((artefacts / "normalise.json").read_text())
    names = tuple(name for name, _ in TURBINE_CHANNELS)
    if tuple(scaling["names"]) != names:
        raise ValueError(f"{artefacts}: columns {scaling['names']}; expected {list(names)}")
    spec = turbine_spec(version, scaling["mean"], scaling["std"])
    files = {
        "model_int8.tflite": (artefacts / "model_int8.tflite").read_bytes(),
        "model_int8.onnx": (artefacts / "model_int8.onnx").read_bytes(),
        **recipes(artefacts),
        "card.md": turbine_card(
            version, years, json.loads((artefacts / "metrics.json").read_text())
        ),
    }
    return spec, files, turbine_windows(names, years)


def turbine_windows(names: tuple[str, ...], years: tuple[int, ...]) -> np.ndarray:
    """Return held-out rows of the training years, spread evenly, shape (32, 1, 9), float64."""
    rows = np.genfromtxt(
        TURBINE / "gas_turbine_2011_2015.csv", delimiter=",", names=True, encoding="utf-8"
    )
    week = np.arange(len(rows)) // HELD_OUT_BLOCK
    held_out = np.isin(rows["year"], years) & (week % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
    chosen = np.flatnonzero(held_out)
    chosen = chosen[np.linspace(0, len(chosen) - 1, GOLDEN_WINDOWS).astype(int)]
    return np.stack([rows[name][chosen] for name in names], axis=1)[:, None, :]


def turbine_card(version: str, years: tuple[int, ...], metrics: dict[str, Any]) -> bytes:
    """Return the model card, with the figures the training wrote down."""
    int8 = metrics["mae"]["int8_tflite"]
    later = "\n".join(
        f"| {year} | {int8[year]:.2f} |" for year in ("2013", "2014", "2015") if year in int8
    )
    return f"""# turbine-nox {version}

Estimates the NOx of a gas turbine (mg/m³) from nine process sensors, one row an hour.

- **Network:** 9 → 32 → 16 → 1, ReLU, 865 parameters, int8; trained on {years[0]} to {years[-1]}.
- **Inputs:** the nine process sensors, z-scored; never CO, never the year.
- **Operating point:** `nox-high` starts at 80 mg/m³ and ends below 76, on the mean of three rows.
- **Golden vectors:** {GOLDEN_WINDOWS} rows of weeks that were held out of training.
- **Layers:** residual, prior, fusion, normaliser, thresholds, within the clamps of `bundle.yaml`.

Mean absolute error of the network alone, mg/m³:

| rows | error |
|---|---|
| held-out weeks | {int8["held_out"]:.2f} |
{later}

The plant drifts, and the network alone does not follow: use it with layers.

Data: UCI data set 551, CC BY 4.0; H. Kaya, P. Tüfekci, E. Uzun, Turkish Journal of Electrical
Engineering & Computer Sciences 27 (2019) 4783-4796. Model: Apache-2.0.
""".encode()


def fan(version: str) -> tuple[ModelSpec, dict[str, bytes], np.ndarray]:
    """Return spec, files and golden windows of the unbalance classifier."""
    artefacts = FAN / "artefacts" / version
    described = json.loads((artefacts / "features.json").read_text())
    spec = msgspec.convert(
        {
            **{key: described[key] for key in ("window", "features", "normalise", "labels")},
            "stream": {"channels": described["channels"], "rate_hz": described["rate_hz"]},
            "name": "fan-unbalance",
            "version": version,
            "kind": "classifier",
            "output": described["output"],
            "link": "log_odds",
            "artefacts": [
                {"backend": "onnx", "file": "model_int8.onnx", "precision": "int8"},
                {"backend": "tflite", "file": "model_int8.tflite", "precision": "int8"},
            ],
            "limits": [{"label": name, "on": 0.7, "off": 0.5} for name in described["labels"]],
            "tolerance": 0.05,
        },
        ModelSpec,
    )
    files = {
        "model_int8.onnx": (artefacts / "model_int8.onnx").read_bytes(),
        "model_int8.tflite": (artefacts / "model_int8.tflite").read_bytes(),
        "card.md": fan_card(version, json.loads((artefacts / "metrics.json").read_text())),
    }
    return spec, files, fan_windows(spec)


def fan_windows(spec: ModelSpec) -> np.ndarray:
    """Return windows of the rows that training never saw, shape (32, 100, 3), float64."""
    rows = np.genfromtxt(FAN / "fan_vibration_part.csv", delimiter=",", names=True)
    samples = np.stack([rows[name] for name in spec.stream.names], axis=1)
    windows = samples.reshape(-1, spec.window.length, samples.shape[1])
    return windows[np.linspace(0, len(windows) - 1, GOLDEN_WINDOWS).astype(int)]


def fan_card(version: str, metrics: dict[str, Any]) -> bytes:
    """Return the model card, with the figures the training wrote down."""
    later, unseen = metrics["accuracy_later_in_time"], metrics["accuracy_unseen_speeds"]
    return f"""# fan-unbalance {version}

Tells from two seconds of vibration which of three sets of weights sits on a fan's blades.

- **Network:** 168 → 64 → 32 → 3, ReLU, int8; softmax by the runtime.
- **Inputs:** statistics and log spectrum of x, y and z (g, 50 Hz), z-scored.
- **Operating point:** a label starts at probability 0.7 and ends below 0.5.
- **Golden vectors:** {GOLDEN_WINDOWS} windows that training never saw.
- **Layers:** none.

Accuracy on later windows of known speeds: {100 * later["int8_onnx"]:.1f} %.
At speeds it has never heard: {100 * unseen["float"]:.1f} % (float).
Record every speed the fan will run at.

Data: UCI data set 846, CC BY 4.0; G. S. Sampaio et al., Sensors 2019, 19(19), 4342.
Model: Apache-2.0.
""".encode()


def cards(version: str) -> tuple[ModelSpec, dict[str, bytes], np.ndarray]:
    """Return spec, files and golden windows of the fraud scorer."""
    artefacts = CARDS / "artefacts" / version
    scaling = json.loads((artefacts / "normalise.json").read_text())
    spec = cards_spec(version, scaling["mean"], scaling["std"])
    files = {
        "model_int8.tflite": (artefacts / "model_int8.tflite").read_bytes(),
        "model_int8.onnx": (artefacts / "model_int8.onnx").read_bytes(),
        **recipes(artefacts),
        "card.md": cards_card(version, json.loads((artefacts / "metrics.json").read_text())),
    }
    return spec, files, cards_windows()


def cards_windows() -> np.ndarray:
    """Return payments of an invented world never trained on, shape (32, 1, 15), float64."""
    payments = draw(TEST_WORLD, WorldSize(customers=100, days=30)).payments
    rows = np.linspace(0, len(payments) - 1, GOLDEN_WINDOWS).astype(int)
    return seen_live(payments)[rows][:, None, :]


def cards_card(version: str, metrics: dict[str, Any]) -> bytes:
    """Return the model card, with the figures the training wrote down."""
    precision = metrics["average_precision"]
    return f"""# card-fraud {version}

Scores one card payment by what is known at the moment it is made.

- **Network:** 15 → 32 → 16 → 1, ReLU, int8; sigmoid by the runtime.
- **Inputs:** amount, hour, online or how far from home, time since the card's last payment,
  payments in the last day, category; z-scored. Nothing of the customer's habits.
- **Operating point:** `fraud` from probability 0.1; a thresholds layer sets a better one.
- **Golden vectors:** {GOLDEN_WINDOWS} payments of a world that training never saw.
- **Layers:** fusion, prior, thresholds, within the clamps of `bundle.yaml`.

Average precision alone on a world never trained on, where {_share(metrics)} of payments are
fraud: {precision["float"]:.3f} in float, {precision["int8_tflite"]:.3f} in int8.

All data are invented by `world.py`; nothing here says anything about real cards.
Model: Apache-2.0.
""".encode()


def _share(metrics: dict[str, Any]) -> str:
    return f"{100 * metrics['fraud']['test'] / metrics['payments']['test']:.1f} %"


def recipes(artefacts: Path) -> dict[str, bytes]:
    """Return how the library made the model files; a refresh starts from ``recipe.json``."""
    return {
        "recipe.json": (artefacts / "recipe_tflite.json").read_bytes(),
        "recipe_onnx.json": (artefacts / "recipe_onnx.json").read_bytes(),
    }


def write(folder: Path, spec: ModelSpec, files: dict[str, bytes], windows: np.ndarray) -> Bundle:
    """Write a bundle whose golden answers are its own pipeline's."""
    artefact = spec.artefacts[0]
    session = load_session(None, artefact.backend, files[artefact.file])
    pipeline = Pipeline(spec, session, base=digest_of(files))
    answers = pipeline.score_windows(numbered(windows, spec)).score
    golden = write_golden(Golden(windows, answers))
    return save_bundle(folder, spec, {**files, spec.golden: golden})


def numbered(windows: np.ndarray, spec: ModelSpec) -> Windows:
    """Give windows, shape (n, length, channels), indices and times as if from one stream."""
    index = np.arange(1, len(windows) + 1, dtype=np.int64) * spec.window.length - 1
    end_ns = index * spec.stream.period_ns
    start_ns = end_ns - (spec.window.length - 1) * spec.stream.period_ns
    return Windows(index, start_ns, end_ns, np.ascontiguousarray(windows))


if __name__ == "__main__":
    sys.exit(main())
