"""Sequences on a grid: late samples revise what was answered, and the end answers what waits."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle import Golden, save_bundle, write_arrays, write_golden
from edge_runtime.cli import main
from edge_runtime.quality import Quality
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    GridSpec,
    Limit,
    ModelSpec,
    StreamSpec,
    WindowSpec,
)

TIME = "time: {allowed_lateness_s: 60, revise_s: 1, confirm_rows: 1}"
Answer = dict[str, Any]


def _bundle(folder: Path, *, has_grid: bool = True) -> Path:
    """The mean of two slots, one a second; gaps of up to 3 s are filled."""
    window = WindowSpec(2, 2, kind="tumbling") if has_grid else WindowSpec(2, 2)
    grid = GridSpec(gaps="fill", longest_gap_s=3.0) if has_grid else None
    spec = ModelSpec(
        name="mean",
        version="1",
        kind="regressor",
        stream=StreamSpec((ChannelSpec("a"),), rate_hz=1.0, grid=grid),
        window=window,
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("high",),
        limits=(Limit("high", on=3.0, off=1.0),),
    )
    weights = {"w0": np.full((2, 1), 0.5, np.float32), "b0": np.zeros(1, np.float32)}
    inputs = np.arange(6, dtype=np.float32).reshape(3, 2, 1)
    golden = write_golden(Golden(inputs, inputs.mean(axis=1).astype(np.float64)))
    save_bundle(folder, spec, {"model.npz": write_arrays(weights), "golden.npz": golden})
    return folder


@pytest.fixture
def ask(serve: Callable[..., Any], tmp_path: Path) -> Callable[..., Answer]:
    """Serve it, and send samples as pairs of second and value."""
    running = serve(models=f"[{{bundle: {_bundle(tmp_path / 'grid')}, {TIME}}}]")

    def asked(*samples: tuple[float, float], **parameters: Any) -> Answer:
        seconds, values = zip(*samples, strict=True)
        count = len(samples)
        inputs = [
            {"name": "samples", "shape": [count, 1], "datatype": "FP32", "data": values},
            {
                "name": "time_ns",
                "shape": [count],
                "datatype": "INT64",
                "data": [round(second * 1e9) for second in seconds],
            },
        ]
        told = {"sequence_id": 1, "decisions": True, **parameters}
        reply = running.ask("POST", "/v2/models/mean/infer", {"inputs": inputs, "parameters": told})
        assert reply.status == http.client.OK, reply.body
        return {one["name"]: one["data"] for one in reply.json["outputs"]}

    return asked


def test_the_end_of_a_sequence_answers_what_waits(ask: Callable[..., Answer]) -> None:
    """A slot is whole once a later sample says so, or there are none."""
    first = ask((0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), sequence_start=True)

    last = ask((4, 3.0), (5, 3.0), sequence_end=True)

    assert (first["index"], first["value"]) == ([1], [1.0])
    assert (last["index"], last["value"]) == ([3, 5], [2.0, 3.0])


def test_late_samples_revise_and_take_back(ask: Callable[..., Answer]) -> None:
    """Rows and decisions say their revision, and which of them are void."""
    on_time = [(0, 4.0), (2, 4.0), (3, 4.0), (4, 0.0), (5, 0.0), (6, 0.0)]
    first = ask(*on_time, sequence_start=True)

    late = ask((1, -4.0), (7, 0.0))

    decided = ("decision_index", "decision_edge", "decision_revision", "decision_is_retracted")
    told = [list(zip(*(one[name] for name in decided), strict=True)) for one in (first, late)]
    assert told[0] == [(1, "start", 0, False), (5, "end", 0, False)]
    assert told[1] == [(1, "start", 1, True), (3, "start", 0, False)]
    assert (first["value"][0], first["quality"][0]) == (4.0, Quality.FILLED)
    place = late["index"].index(1)
    row = [late[name][place] for name in ("value", "quality", "revision", "is_retracted")]
    assert row == [0.0, 0, 1, False]


def test_what_was_filled_says_so(ask: Callable[..., Answer]) -> None:
    """As on a device, by a bit of ``quality``."""
    answer = ask(
        (0, 1.0), (1, 1.0), (2, 2.0), (4, 4.0), (5, 4.0), sequence_start=True, sequence_end=True
    )

    assert answer["index"] == [1, 3, 5]
    assert answer["value"] == [1.0, 2.5, 4.0]
    assert answer["quality"] == [0, Quality.FILLED, 0]


def test_waiting_needs_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Elsewhere samples are taken as they come; the server does not start."""
    bundle = _bundle(tmp_path / "plain", has_grid=False)

    code = main(["serve", str(bundle), "--port", "0", "--time", "delay_s=2"])

    assert code == 2
    assert "has no grid" in capsys.readouterr().err
