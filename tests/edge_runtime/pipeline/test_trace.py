"""A traced pipeline gives the same bytes, and its stages lead to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.backends import open_session
from edge_runtime.backends.reference import Reference
from edge_runtime.bundle import load_bundle, write_arrays
from edge_runtime.pipeline import Pipeline, TracedPipeline, dequantise
from edge_runtime.pipeline.gate import Mark
from edge_runtime.ports import Session, SessionOptions
from edge_runtime.quality import MASK, Quality
from edge_runtime.spec import (
    ArtefactSpec,
    CalibrationLayer,
    ChannelSpec,
    FusionLayer,
    Layer,
    Limit,
    ModelSpec,
    OutputSpec,
    PriorLayer,
    Reject,
    ResidualLayer,
    Smoothing,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Decision, Frame, Output

TURBINE = Path(__file__).parents[3] / "examples/gas_turbine"
HOUR_NS = 3600 * 10**9


def _frame() -> Frame:
    rows = np.loadtxt(
        TURBINE / "gas_turbine_2011_2015.csv",
        delimiter=",",
        skiprows=1 + 15039,
        max_rows=400,
    )
    return Frame("main", 0, np.arange(400) * HOUR_NS, rows[:, 1:10])


def test_the_stages_of_a_window_lead_to_its_answer() -> None:
    """Tensor, raw answer, score, each layer, value, smoothing, limits: one follows the other."""
    bundle = load_bundle(TURBINE / "bundles/turbine-nox-1.0.0")
    bodies = [
        CalibrationLayer(1.1, -3.0),
        ResidualLayer(0.5, (0.2,) * 9),
        FusionLayer(0.1, 0.9, 0.5),
        PriorLayer((70.0,), (64.0,)),
    ]
    layers = [Layer(body, bundle.digest, n, made_ns=0) for n, body in enumerate(bodies)]
    session = open_session(bundle)
    traced = TracedPipeline(bundle.spec, session, base=bundle.digest, layers=layers)
    plain = Pipeline(bundle.spec, open_session(bundle), base=bundle.digest, layers=layers)

    output = traced.push(_frame())

    expected = plain.push(_frame())
    traces = traced.traces
    assert output.estimates.value.tobytes() == expected.estimates.value.tobytes()
    assert output.decisions == expected.decisions
    assert output.decisions == tuple(one for trace in traces for one in trace.decisions)
    raw = dequantise(
        np.stack([one.asked[0].answer for one in traces]).reshape(-1, 1), session.outputs[0]
    )
    score = np.stack([one.score for one in traces])
    assert raw.tobytes() == score.tobytes()
    kinds = ["calibration", "residual", "fusion", "prior"]
    assert all([kind for kind, _ in one.layers] == kinds for one in traces)
    calibrated = np.stack([one.layers[0][1] for one in traces])
    assert calibrated.tobytes() == (score * 1.1 - 3.0).tobytes()
    assert all(one.layers[-1][1].tobytes() == one.value.tobytes() for one in traces)
    early = bundle.spec.smoothing.windows - 1
    assert [one.smoothed is None for one in traces] == [True] * early + [False] * (400 - early)
    for decision in output.decisions:
        assert traces[decision.index].smoothed == [decision.value]


class _Told(NamedTuple):
    """What a pipeline has made of all frames."""

    values: bytes
    uncertain: bytes | None
    quality: bytes | None
    decisions: tuple[Decision, ...]


def _told(output: Output) -> _Told:
    estimates = output.estimates
    columns = estimates.uncertain, estimates.quality
    bytes_of = [None if one is None else one.tobytes() for one in columns]
    return _Told(estimates.value.tobytes(), *bytes_of, output.decisions)


SMOOTHINGS = [
    Smoothing(),
    Smoothing(4),
    Smoothing(3, kind="median"),
    Smoothing(kind="exponential", alpha=0.3),
    Smoothing(kind="exponential", half_life_s=2.0),
]


@given(
    smoothing=st.sampled_from(SMOOTHINGS),
    k_of_n=st.sampled_from([(1, 1), (2, 3), (3, 3)]),
    refractory_s=st.sampled_from([0.0, 5.0]),
    reject=st.sampled_from([None, Reject(0.4, 0.6)]),
    values=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    seams=st.lists(st.integers(0, 60), max_size=6),
)
def test_a_traced_pipeline_says_the_same_whatever_stands_before_a_decision(
    smoothing: Smoothing,
    k_of_n: tuple[int, int],
    refractory_s: float,
    reject: Reject | None,
    values: list[float],
    seams: list[int],
) -> None:
    """Any smoothing, any gate, suspect samples, any chunking: window by window the same bytes."""
    limit = Limit("hot", 0.6, 0.4, k_of_n=k_of_n, refractory_s=refractory_s, reject=reject)
    spec = identity_spec(smoothing=smoothing, limits=(limit,))
    plain = Pipeline(spec, identity_session(), base="0" * 64)
    traced = TracedPipeline(spec, identity_session(), base="0" * 64)
    frames = list(chunked(values, seams))

    expected = plain.run_many(frames)
    outputs = list(traced.run(frames))

    assert _told(traced._merged(outputs)) == _told(expected)
    for trace in traced.traces:
        before = trace.before.marks.get("hot", Mark())
        assert len(before.hits) <= k_of_n[1] - 1
        assert trace.decisions == () or trace.smoothed == [trace.decisions[0].value]


def identity_spec(**more: object) -> ModelSpec:
    """Declare a model that answers each sample with itself."""
    fields = {
        "name": "same",
        "version": "1",
        "kind": "classifier",
        "stream": StreamSpec((ChannelSpec("level"),), rate_hz=1.0),
        "window": WindowSpec(1, 1),
        "artefacts": (ArtefactSpec("reference", "model.npz", "float32"),),
        "labels": ("hot",),
        "output": OutputSpec(),
    }
    return ModelSpec(**{**fields, **more})


def identity_session() -> Session:
    """Open that model."""
    weights = {"w0": np.eye(1, dtype=np.float32), "b0": np.zeros(1, np.float32)}
    return Reference().load(write_arrays(weights), SessionOptions())


def chunked(values: Sequence[float], seams: Sequence[int]) -> Iterator[Frame]:
    """Yield frames of one sample a second; every seventh is suspect."""
    samples = np.array([values], np.float32).T
    index = np.arange(len(values))
    masks = np.where(index % 7 == 3, MASK.type(Quality.SATURATED), MASK.type(0))
    bounds = sorted({0, len(values), *(seam % (len(values) + 1) for seam in seams)})
    for first, last in itertools.pairwise(bounds):
        part = slice(first, last)
        quality = masks[part] if masks[part].any() else None
        yield Frame("main", first, index[part] * 10**9, samples[part], quality=quality)
