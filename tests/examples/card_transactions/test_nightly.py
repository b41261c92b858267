"""The batch never looks ahead, and its layers do in the pipeline what it computed for all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import Pipeline
from edge_runtime.bundle import load_bundle
from edge_runtime.update.book import LayerBook
from examples.card_transactions.batch import main as batch_main
from examples.card_transactions.desk import Desk
from examples.card_transactions.desk import main as desk_main
from examples.card_transactions.evaluate import judge_world
from examples.card_transactions.evaluate import main as evaluate_main
from examples.card_transactions.judge import average_precision
from examples.card_transactions.nightly import (
    History,
    Plan,
    answer,
    fit,
    history_of,
    layers_of,
    night_of,
)
from examples.card_transactions.payments import (
    BUNDLE,
    device_of,
    open_base,
    score,
    seen_live,
    time_ns,
)
from examples.card_transactions.train import SIZE, TEST_WORLD
from examples.card_transactions.world import DAY_S, Payments, WorldSize, draw

SMALL = WorldSize(customers=600, days=120)
SEED = 5
NIGHT = 100
LOWEST = 1e-6  # log-odds of less are those of this


@dataclass(frozen=True, eq=False)
class Bank:
    """A small world, and what its batch made of one night."""

    base: Pipeline
    payments: Payments
    history: History
    plan: Plan


@pytest.fixture(scope="module")
def bank() -> Bank:
    base, payments = open_base(), draw(SEED, SMALL).payments
    history = history_of(payments, score(base, payments), SMALL.customers, SMALL.days - 1)
    return Bank(base, payments, history, fit(history, NIGHT, base.spec.clamps))


def answered(bank: Bank, rows: np.ndarray) -> np.ndarray:
    """Answer payments one by one at a desk; return score and value, shape (n, 2)."""
    bundle = load_bundle(BUNDLE)
    layers = layers_of(bank.history, bank.plan, NIGHT, bundle.digest)
    desk = Desk(bundle, LayerBook(layers, bundle.spec, bundle.digest), most=100)
    channels, instants = seen_live(bank.payments), time_ns(bank.payments.time_s)
    answers = []
    for row in rows.tolist():
        card = device_of(int(bank.payments.customer[row]))
        answers.append(desk.answer(card, int(instants[row]), channels[row])[:2])
    return np.array(answers)


def test_a_night_knows_nothing_of_the_days_after(bank: Bank) -> None:
    """From what the bank has at midnight come the very layers that come from the whole world."""
    seen = bank.payments.as_of(NIGHT * DAY_S)
    history = history_of(seen, score(bank.base, seen), SMALL.customers, NIGHT)
    plan = fit(history, NIGHT, bank.base.spec.clamps)

    blind = layers_of(history, plan, NIGHT, bank.base.base)

    assert blind == layers_of(bank.history, bank.plan, NIGHT, bank.base.base)
    assert len(blind) == SMALL.customers + 2


def test_one_by_one_is_as_for_all_at_once(bank: Bank) -> None:
    """A desk that forgets most cards answers what the batch's formula says of the same day."""
    rows = np.flatnonzero(night_of(bank.payments.time_s) == NIGHT)

    answers = answered(bank, rows)

    expected = answer(bank.history, rows, bank.plan, bank.base.spec.clamps)
    assert len(rows) > 300
    assert np.maximum(answers[:, 0], LOWEST) == pytest.approx(expected.live, rel=1e-12)
    assert answers[:, 1] == pytest.approx(expected.fused, rel=1e-12)
    assert np.abs(answers[:, 1] - answers[:, 0]).max() > 0.01


def test_old_layers_leave_the_model_alone(bank: Bank) -> None:
    """After their expiry the answer is the base's, bit by bit."""
    last_s = NIGHT * DAY_S + bank.plan.lasts_s
    rows = np.flatnonzero(bank.payments.time_s >= last_s)[:200]

    answers = answered(bank, rows)

    assert np.isfinite(bank.plan.lasts_s)
    assert len(rows) == 200
    assert np.array_equal(answers[:, 0], answers[:, 1])


def test_both_together_beat_either_alone(bank: Bank) -> None:
    """In a small world too the fused answer finds more than the live one and the batch."""
    outcome = judge_world(bank.history, SMALL.days, bank.base.spec.clamps)

    precision = {way: v.average_precision for way, v in outcome.verdicts.items()}
    assert precision["fused"] > precision["live"] + 0.02
    assert precision["fused"] > precision["batch"] + 0.02
    assert outcome.aged[0] == precision["fused"] > outcome.aged[14]


def test_the_bundle_is_as_good_as_its_card() -> None:
    """On the world that training never saw the int8 file reaches what was written down."""
    metrics = json.loads((BUNDLE.parents[1] / "artefacts/1.0.0/metrics.json").read_text())
    payments = draw(TEST_WORLD, SIZE).payments

    found = average_precision(score(open_base(), payments), payments.is_fraud)

    assert round(found, 3) == round(metrics["average_precision"]["int8_tflite"], 3)


def test_the_commands_work_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch writes what the desk answers with."""
    book = tmp_path / "night.layers"
    common = ["--night", "90", "--customers", "400", "--seed", "5"]

    assert batch_main([*common, "--out", str(book)]) == 0
    assert desk_main([*common, "--layers", str(book)]) == 0

    written, answered = capsys.readouterr().out.split("\n", 1)
    assert "402 layers" in written
    assert "average precision" in answered


def test_a_night_without_labels_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before there is something to fit, the batch says from when on there is."""
    code = batch_main(["--night", "9", "--out", str(tmp_path / "night.layers")])

    assert code == 2
    assert "expected 56 or later" in capsys.readouterr().err


def test_a_world_without_fraud_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With too few reports nothing is fitted, and the message says what to change."""
    tiny = ["--customers", "20"]

    assert batch_main([*tiny, "--night", "90", "--out", str(tmp_path / "night.layers")]) == 1
    assert evaluate_main([*tiny, "--out", str(tmp_path / "result")]) == 1

    assert capsys.readouterr().err.count("expected 10 or more in each") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_evaluation_writes_figures_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tiny worlds give a table, the same figures as JSON, and a plot."""
    pytest.importorskip("matplotlib")
    size = ["--worlds", "2", "--customers", "500"]

    code = evaluate_main([*size, "--out", str(tmp_path / "result")])

    result = json.loads((tmp_path / "result.json").read_text())
    assert code == 0
    assert result["worlds"] == 2
    assert f"{result['lift']['live']['recall']['mean']:.3f}" in capsys.readouterr().out
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
