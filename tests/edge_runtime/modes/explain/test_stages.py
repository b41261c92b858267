"""What stands between a value and a decision is told as it was for that window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Golden, load_bundle, save_bundle, write_arrays, write_golden
from edge_runtime.clock import SystemClock
from edge_runtime.identity import ResultId
from edge_runtime.modes.explain import Explanation, explain, page_of
from edge_runtime.modes.replay import Bundles
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.taping import standing_of
from edge_runtime.modes.writer import taken_of
from edge_runtime.ports import Choice
from edge_runtime.quality import MASK, Quality
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    ModelSpec,
    OutputSpec,
    Reject,
    Smoothing,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.tape import Limits, Origin, Recorder, Ring
from edge_runtime.types import Frame

Told = Callable[..., Explanation]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """Record a model that answers each sample with itself, and explain the last one."""

    def tell(
        values: Sequence[float], limit: Limit, smoothing: Smoothing | None = None
    ) -> Explanation:
        spec = ModelSpec(
            name="same",
            version="1",
            kind="classifier",
            stream=StreamSpec((ChannelSpec("level"),), rate_hz=1.0),
            window=WindowSpec(1, 1),
            artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
            labels=("hot",),
            output=OutputSpec(),
            smoothing=smoothing or Smoothing(),
            limits=(limit,),
        )
        _record(tmp_path, spec, values)
        name = ResultId("bench-1", 1, "main", len(values) - 1)
        explanation, found = explain(name, tmp_path / "rec", Bundles())
        (tmp_path / "why.html").write_text(page_of(explanation, found))
        return explanation

    return tell


def _record(folder: Path, spec: ModelSpec, values: Sequence[float]) -> None:
    """Serve samples, one a second and the last one saturated, and keep them on a tape."""
    weights = {"w0": np.eye(1, dtype=np.float32), "b0": np.zeros(1, np.float32)}
    golden = write_golden(Golden(np.zeros((1, 1, 1)), np.zeros((1, 1))))
    bundle = folder / "bundle"
    save_bundle(bundle, spec, {"model.npz": write_arrays(weights), spec.golden: golden})
    clock = SystemClock()
    serving = Serving(
        open_pipeline(load_bundle(bundle)),
        position=0,
        commit_s=3600,
        clock=clock,
        stand=lambda *how: standing_of(*how, Choice()),
    )
    standing = serving.standing()
    assert standing is not None
    origin = Origin(1, "bench-1", "main", 1, 7, (str(bundle),), 0)
    recorder = Recorder(Ring(folder / "rec" / "main", Limits(1 << 30), clock), origin, standing)
    masks = np.zeros(len(values), MASK)
    masks[-1] = Quality.SATURATED
    times, samples = np.arange(len(values)) * 10**9, np.array([values], np.float32).T
    serving.push(Frame("main", 0, times, samples, quality=masks))
    recorder.write(taken_of(serving.take()))
    recorder.close()


def _stage(explanation: Explanation, name: str) -> str:
    return next(stage.what for stage in explanation.stages if stage.name == name)


def test_suspect_samples_are_named(told: Told, tmp_path: Path) -> None:
    """With the window, with its decision, and on the page."""
    found = told([0.1, 0.9], Limit("hot", 0.5, 0.4))

    assert found.is_equal is True
    assert found.quality == ["saturated"]
    assert found.decisions[0].quality == Quality.SATURATED
    assert _stage(found, "samples").endswith("suspect: saturated")
    assert "Suspect samples in the window: saturated" in (tmp_path / "why.html").read_text()


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        (Smoothing(), "none: every window counts alone"),
        (Smoothing(2), "mean of 2 windows"),
        (Smoothing(3, kind="median"), "median of 3 windows"),
        (Smoothing(9), "mean: not yet 9 windows, nothing is decided"),
        (Smoothing(kind="exponential", alpha=0.5), "exponential: 0.5 of the way to each new value"),
        (
            Smoothing(kind="exponential", half_life_s=2.0),
            "exponential: half of the way in 2 s of event time",
        ),
    ],
)
def test_every_kind_of_smoothing_is_named(told: Told, smoothing: Smoothing, expected: str) -> None:
    """With its own number, and what came out of it beside it."""
    found = told([0.1, 0.2, 0.6, 0.9], Limit("hot", 0.5, 0.4), smoothing)

    assert found.is_equal is True
    assert _stage(found, "smooth") == expected
    assert found.history[-1].smoothed is None or len(found.history[-1].smoothed) == 1


@pytest.mark.parametrize(
    ("limit", "values", "expected"),
    [
        (Limit("hot", 0.5, 0.4, k_of_n=(2, 3)), [0.6, 0.1, 0.1], "1 of the 2 windows before"),
        (Limit("hot", 0.5, 0.4, k_of_n=(2, 3)), [0.6, 0.1, 0.7], "hot starts"),
        (
            Limit("hot", 0.5, 0.4, refractory_s=5.0),
            [0.6, 0.1, 0.3, 0.7],
            "it had ended 2 s before, and rests 5 s",
        ),
        (Limit("hot", 0.5, 0.4, refractory_s=5.0), [0.1, 0.7], "it had not ended before"),
        (
            Limit("hot", 0.5, 0.4, reject=Reject(0.45, 0.65)),
            [0.1, 0.6],
            "uncertain: 0.6 lies in the reject band, nothing starts or ends",
        ),
        (
            Limit("hot", 0.5, 0.4, reject=Reject(0.45, 0.65)),
            [0.1, 0.9],
            "sure: 0.9 lies outside the reject band",
        ),
    ],
)
def test_a_gate_says_what_it_had_seen(
    told: Told, tmp_path: Path, limit: Limit, values: list[float], expected: str
) -> None:
    """Hits, rest and reject band, as they stood before this window."""
    found = told(values, limit)

    assert found.is_equal is True
    assert expected in f"{_stage(found, 'gate: hot')} {_stage(found, 'decide')}"
    has_band = "uncertain from 0.45" in (tmp_path / "why.html").read_text()
    assert has_band == (limit.reject is not None)
