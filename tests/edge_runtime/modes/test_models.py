"""One loaded model for all streams, and how long each of a cascade takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.modes.models import SharedModels, stage_times
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Choice
from edge_runtime.types import Frame


@pytest.fixture
def bundle(cascade_bundle: Callable[..., Path]) -> Bundle:
    """A gate without a model, a small model and a large one."""
    return load_bundle(cascade_bundle())


def test_calls_are_timed_by_stage_for_all_streams(bundle: Bundle) -> None:
    """Two streams of one cascade share histograms; a stage without a model has none."""
    models = SharedModels()
    sessions = [models.open(bundle, Choice()) for _ in range(2)]
    pipelines = [Pipeline(bundle.spec, one, base=bundle.digest) for one in sessions]
    level = 1 + np.sin(np.arange(200) / 15)
    samples = np.random.default_rng(0).normal(size=(200, 2)) * level[:, None]

    for row in range(200):
        frame = Frame("main", row, np.array([row * 10**9]), samples[row : row + 1])
        for pipeline in pipelines:
            pipeline.push(frame)

    times = stage_times(bundle.spec, sessions[1])
    ended = pipelines[0].answered
    assert {name: sum(one.counts) for name, one in times.items()} == {
        "small": 2 * (ended["small"] + ended["model"]),
        "model": 2 * ended["model"],
    }
    assert sessions[0] is sessions[1]


def test_a_bundle_without_a_cascade_has_no_stages(cascade_bundle: Callable[..., Path]) -> None:
    """Its one model is timed as ever."""
    plain = load_bundle(cascade_bundle(cascade=()))

    session = SharedModels().open(plain, Choice())

    assert session.stages == ()
    assert stage_times(plain.spec, session) == {}
