"""The hand-written loops compute what the pipeline computes: else a comparison says nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

Load = Callable[[str], ModuleType]


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_autoencoder(load: Load, dtype: type) -> None:
    """Both give the same error for every window of a stream, across moves of the ring buffer."""
    cases, hand, bare = load("cases"), load("hand"), load("bare")
    case = cases.AD
    loop = hand.Reconstruction(
        bare.litert(case.model()),
        cases.AD_INPUT,
        cases.AD_OUTPUT,
        is_float=dtype is np.float32,
    )
    pipeline, ours, theirs = case.pipeline(), [], []
    for frame in cases.stream(cases.noise(64 * 500, dtype), 64, case.spec):
        ours += pipeline.push(frame).estimates.score[:, 0].tolist()
        loop.push(frame.samples[:, 0], frame.time_ns)
        theirs.append(loop.value)

    assert len(ours) == 491
    assert theirs[-491:] == pytest.approx(ours, rel=1e-4)


def test_keywords(load: Load) -> None:
    """The best word of both has the same score."""
    cases, hand, bare = load("cases"), load("hand"), load("bare")
    case = cases.KWS
    features, _ = cases.keyword_features(40)
    loop, pipeline = hand.Keywords(bare.litert(case.model())), case.pipeline()
    ours, theirs = [], []
    for frame in cases.stream(features.reshape(-1, 10), 49, case.spec):
        ours.append(pipeline.push(frame).estimates.score.max())
        loop.push(frame.samples, frame.time_ns)
        theirs.append(loop.value)

    assert theirs == pytest.approx(ours, abs=1 / 256)


def test_images(load: Load) -> None:
    """Both see the same person in the same pixels."""
    cases, hand, bare = load("cases"), load("hand"), load("bare")
    case = cases.VWW
    lines = cases.images(6).reshape(-1, 288)
    loop, pipeline = hand.Images(bare.litert(case.model())), case.pipeline()
    ours, theirs = [], []
    for frame in cases.stream(lines, 96, case.spec):
        ours.append(pipeline.push(frame).estimates.score[0, 1])
        loop.push(frame.samples, frame.time_ns)
        theirs.append(loop.value)

    assert theirs == pytest.approx(ours, abs=1e-9)
