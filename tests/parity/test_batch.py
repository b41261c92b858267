"""Batch mode answers every window as `Pipeline.push` does, byte for byte."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backends import load_session, open_session
from edge_runtime.backends.reference import Reference
from edge_runtime.bundle import load_bundle
from edge_runtime.modes.batch import Shard, ShardResult, score_alone, score_shard, shards_of
from edge_runtime.modes.batch.readers import Block
from edge_runtime.modes.batch.shard import block_in_order, is_independent, shard_rows
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Choice, SessionOptions
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    ModelSpec,
    Normalise,
    OutputSpec,
    Rectify,
    Reject,
    Smoothing,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Decision, Frame

MODELS = Path(__file__).parents[1] / "data" / "models"
PERIOD_NS = 10_000_000
CHANNELS = 3
BLOCK = 8

Answer = tuple[bytes, bytes, list[Decision], dict[str, int]]


def pipeline_of(length: int, hop: int) -> Pipeline:
    """Make a pipeline over a dense network in numpy."""
    spec = ModelSpec(
        name="pump",
        version="1",
        kind="classifier",
        stream=StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(CHANNELS)), 100.0),
        window=WindowSpec(length, hop),
        normalise=Normalise((0.5,) * CHANNELS, (2.0,) * CHANNELS),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("ok", "worn"),
        output=OutputSpec(activation="softmax", scale=1.2, offset=0.1),
        link="log_odds",
        smoothing=Smoothing(3),
        limits=(Limit("worn", 0.6, 0.4),),
    )
    random = np.random.default_rng(length)
    model = io.BytesIO()
    np.savez(
        model,
        w0=random.normal(size=(length * CHANNELS, 8)).astype("f4"),
        b0=random.normal(size=8).astype("f4"),
        w1=random.normal(size=(8, 2)).astype("f4"),
        b1=random.normal(size=2).astype("f4"),
    )
    session = Reference().load(model.getvalue(), SessionOptions())
    return Pipeline(spec, session, base="ab" * 32, block=BLOCK)


def autoencoder_of(length: int) -> Pipeline:
    """Make a pipeline over an autoencoder, whose answer is the error of a whole window."""
    plain = pipeline_of(length, length)
    spec = msgspec.structs.replace(
        plain.spec,
        kind="regressor",
        labels=("error",),
        output=OutputSpec(activation="reconstruction"),
        link="identity",
        limits=(),
    )
    random = np.random.default_rng(length)
    size = length * CHANNELS
    model = io.BytesIO()
    np.savez(
        model,
        w0=random.normal(size=(size, size)).astype("f4"),
        b0=random.normal(size=size).astype("f4"),
    )
    session = Reference().load(model.getvalue(), SessionOptions())
    return Pipeline(spec, session, base="ab" * 32, block=BLOCK)


def stream_of(count: int, seed: int, dtype: str, *, has_faults: bool) -> Frame:
    """Draw a stream, with gaps, late rows and missing values if it is to have faults."""
    random = np.random.default_rng(seed)
    steps = np.full(count, PERIOD_NS)
    samples = (random.normal(size=(count, CHANNELS)) * 4).astype(dtype)
    if has_faults:
        kind = random.uniform(size=count)
        steps[kind < 0.03] = PERIOD_NS * 3
        steps[(kind > 0.03) & (kind < 0.06)] = 0
        steps[(kind > 0.06) & (kind < 0.09)] = -PERIOD_NS // 2
        if samples.dtype.kind == "f":
            samples[random.uniform(size=samples.shape) < 0.01] = np.nan
            samples[random.uniform(size=samples.shape) < 0.01] = np.inf
    return Frame("main", 0, np.cumsum(steps), samples)


def pushed(pipeline: Pipeline, frame: Frame) -> Answer:
    """Push row by row: the live device."""
    outputs = [
        pipeline.push(Frame("main", i, frame.time_ns[i : i + 1], frame.samples[i : i + 1]))
        for i in range(len(frame))
    ]
    return (
        b"".join(output.estimates.index.tobytes() for output in outputs),
        b"".join(output.estimates.value.tobytes() for output in outputs),
        [decision for output in outputs for decision in output.decisions],
        pipeline.discarded,
    )


def blocks_of(frame: Frame, seams: Sequence[int], *, has_times: bool) -> list[Block]:
    """Cut a stream into blocks at these rows, as a reader gives them."""
    bounds = itertools.pairwise(sorted({0, len(frame), *(seam % len(frame) for seam in seams)}))
    return [
        Block(
            frame.samples[first:last],
            frame.time_ns[first:last] if has_times else None,
            {"row": np.arange(first, last)},
            last / len(frame),
        )
        for first, last in bounds
    ]


def answer_of(
    results: Sequence[ShardResult], names: Sequence[str] = ("score_ok", "score_worn")
) -> Answer:
    """Put the results of all shards together."""
    columns = [result.estimates.columns for result in results]
    values = [np.stack([one[name] for name in names], axis=1) for one in columns]
    for one in columns:
        assert one["row"].tolist() == one["index"].tolist()
    decisions = [
        Decision("main", *row)
        for result in results
        for row in zip(
            *(
                result.decisions.columns[name].tolist()
                for name in (
                    *("index", "time_ns", "model", "label", "edge"),
                    *("value", "effective_id", "tier", "revision"),
                )
            ),
            strict=True,
        )
    ]
    discarded: dict[str, int] = {}
    for result in results:
        for reason, count in result.discarded.items():
            discarded[reason] = discarded.get(reason, 0) + count
    return (
        b"".join(one["index"].tobytes() for one in columns),
        b"".join(value.tobytes() for value in values),
        decisions,
        discarded,
    )


def in_order(pipelines: Sequence[Pipeline], shards: Sequence[Shard]) -> list[ShardResult]:
    """Score shard after shard, each with another pipeline and the snapshot before it."""
    results: list[ShardResult] = []
    snapshot = None
    for shard, pipeline in zip(shards, itertools.cycle(pipelines)):
        results.append(score_shard(shard, pipeline, snapshot, model_block=BLOCK))
        snapshot = results[-1].snapshot
    return results


COUNTS = st.integers(1, 400)
SEAMS = st.lists(st.integers(0, 400), max_size=6)
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from(["float32", "int16"])


@settings(max_examples=60)
@given(
    window=st.sampled_from([(1, 1), (4, 4), (5, 2), (2, 7)]),
    rows=st.integers(1, 90),
    count=COUNTS,
    seams=SEAMS,
    seed=SEEDS,
    dtype=DTYPES,
)
def test_shards_in_order_answer_as_the_device_does(
    window: tuple[int, int], rows: int, count: int, seams: list[int], seed: int, dtype: str
) -> None:
    """Estimates, decisions and discards, across any cuts and pipelines, with every fault."""
    frame = stream_of(count, seed, dtype, has_faults=True)
    shards = list(shards_of(blocks_of(frame, seams, has_times=True), rows))

    found = answer_of(in_order([pipeline_of(*window) for _ in range(2)], shards))

    assert found == pushed(pipeline_of(*window), frame)


@settings(max_examples=60)
@given(
    length=st.sampled_from([1, 4]),
    shard_blocks=st.integers(1, 5),
    count=COUNTS,
    seams=SEAMS,
    seed=SEEDS,
    dtype=DTYPES,
)
def test_independent_shards_answer_as_the_device_does(
    length: int, shard_blocks: int, count: int, seams: list[int], seed: int, dtype: str
) -> None:
    """Estimates and discards, in any order of the shards; only decisions need the order."""
    has_times = length == 1
    frame = stream_of(count, seed, dtype, has_faults=has_times)
    if frame.samples.dtype.kind == "f":
        frame.samples[np.random.default_rng(seed).uniform(size=count) < 0.02] = np.nan
    blocks = blocks_of(frame, seams, has_times=has_times)
    shards = list(shards_of(blocks, shard_blocks * BLOCK * length))
    pipeline = pipeline_of(length, length)

    backwards = [score_alone(shard, pipeline, BLOCK) for shard in reversed(shards)]

    index, value, _, discarded = pushed(pipeline_of(length, length), frame)
    found = answer_of(backwards[::-1])
    assert is_independent(pipeline, has_times=has_times)
    assert (found[0], found[1], found[3]) == (index, value, discarded)


@settings(max_examples=60)
@given(
    length=st.sampled_from([1, 4]),
    count=COUNTS,
    seed=SEEDS,
    lost=st.sampled_from([0.0, 0.02]),
    huge=st.sampled_from([0.0, 0.02, 1.0]),
)
def test_errors_of_independent_shards_are_those_of_the_device(
    length: int, count: int, seed: int, lost: float, huge: float
) -> None:
    """Also where values are missing, and where their squares are too large for float32."""
    frame = stream_of(count, seed, "float32", has_faults=False)
    random = np.random.default_rng(seed)
    frame.samples[random.uniform(size=count) < lost] = np.nan
    frame.samples[random.uniform(size=count) < lost] = -np.inf
    frame.samples[random.uniform(size=count) < huge] *= 1e25
    shards = list(shards_of(blocks_of(frame, [], has_times=False), 3 * BLOCK * length))
    pipeline = autoencoder_of(length)

    found = answer_of([score_alone(shard, pipeline, BLOCK) for shard in shards], ["value"])

    index, value, _, discarded = pushed(autoencoder_of(length), frame)
    assert pipeline.scorer.proves_finite
    assert (found[0], found[1], found[3]) == (index, value, discarded)
    assert np.isfinite(np.frombuffer(value)).all()


def test_shards_mark_uncertain_windows_as_the_device_does() -> None:
    """Smoothing carries over from shard to shard, so that such shards go in order."""
    limits = (Limit("worn", 0.6, 0.4, reject=Reject(0.45, 0.65)),)
    plain = pipeline_of(1, 1)
    pipelines = [
        Pipeline(
            msgspec.structs.replace(plain.spec, limits=limits),
            plain.scorer.session,
            base=plain.base,
            block=BLOCK,
        )
        for _ in range(3)
    ]
    frame = stream_of(400, 7, "float32", has_faults=True)
    shards = list(shards_of(blocks_of(frame, [30, 200], has_times=True), 90))

    results = in_order(pipelines[:2], shards)

    expected = pipelines[2].push(frame).estimates.uncertain
    found = np.concatenate([result.estimates.columns["uncertain_worn"] for result in results])
    assert not is_independent(pipelines[2], has_times=True)
    assert expected is not None and 0 < expected[:, 1].sum() < len(expected)
    assert found.tolist() == expected[:, 1].tolist()


@pytest.mark.parametrize(
    ("window", "more", "has_times", "expected"),
    [
        (WindowSpec(1, 1), {}, True, True),
        (WindowSpec(4, 4), {}, False, True),
        (WindowSpec(4, 4), {}, True, False),
        (WindowSpec(4, 2), {}, False, False),
        (WindowSpec(2, 4), {}, False, False),
        (WindowSpec(4, 4, pad=1), {}, False, False),
        (WindowSpec(1, 1), {"filters": (Rectify(),)}, False, False),
    ],
)
def test_shards_are_independent_only_where_nothing_passes_on(
    window: WindowSpec, more: dict[str, object], has_times: bool, expected: bool
) -> None:
    """Overlap, padding, filters, and gaps that move windows tie a shard to the one before."""
    plain = pipeline_of(window.length, window.hop)
    spec = msgspec.structs.replace(plain.spec, window=window, **more)
    pipeline = Pipeline(spec, plain.scorer.session, base=plain.base)

    assert is_independent(pipeline, has_times=has_times) is expected


def test_shards_of_a_model_that_remembers_are_not_independent() -> None:
    """Its state passes from window to window, however these are cut."""
    model = (MODELS / "okay_nabu.tflite").read_bytes()
    spec = ModelSpec(
        name="toy",
        version="1",
        kind="classifier",
        stream=StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(40)), 100.0),
        window=WindowSpec(3, 3),
        artefacts=(ArtefactSpec("tflite", "m", "int8"),),
        labels=("word",),
    )
    pipeline = Pipeline(spec, load_session("litert", "tflite", model), base="ab" * 32)

    assert not is_independent(pipeline, has_times=False)


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
@pytest.mark.parametrize("backend", ["litert", "onnx"])
def test_a_real_model_answers_large_blocks_as_it_answers_rows(version: str, backend: str) -> None:
    """The gas turbine's networks, 1024 rows at once and one by one."""
    bundle = load_bundle(f"examples/gas_turbine/bundles/turbine-nox-{version}")
    golden = bundle.golden().inputs[:, 0]
    random = np.random.default_rng(1)
    rows = golden[np.arange(3000) % len(golden)] * random.uniform(0.8, 1.2, (3000, 1))
    samples = rows.astype(np.float32)
    time_ns = np.arange(3000) * bundle.spec.stream.period_ns

    def pipeline(block: int) -> Pipeline:
        session = open_session(bundle, Choice(backend=backend))
        return Pipeline(bundle.spec, session, base=bundle.digest, block=block)

    shard = Shard(0, Block(samples, None, {}, 1.0), None)
    alone = pipeline(1)
    expected = [
        alone.push(Frame("main", i, time_ns[i : i + 1], samples[i : i + 1])).estimates.value
        for i in range(3000)
    ]

    found = score_alone(shard, pipeline(1024), 1024).estimates.columns

    assert found["value"].tobytes() == b"".join(value.tobytes() for value in expected)


def test_frames_in_order_complete_whole_blocks() -> None:
    """After the first frame a session is asked for blocks alone, whatever the hop."""
    pipeline = pipeline_of(5, 3)
    session = pipeline.scorer.session
    sizes: list[int] = []
    run = session.run

    def counted(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return run(batch)

    session.run = counted  # type: ignore[method-assign]
    rows = shard_rows(pipeline.spec, BLOCK)
    frame = stream_of(2 * rows, 1, "float32", has_faults=False)

    in_order([pipeline], list(shards_of(blocks_of(frame, [], has_times=True), rows)))

    assert sum(sizes) == (len(frame) - 5) // 3 + 1
    assert sizes.count(1) < BLOCK and set(sizes) == {1, BLOCK}


@pytest.mark.parametrize(
    ("hop", "block", "expected"), [(1, 1024, 1024), (3, 4096, 2048), (8191, 32, 1), (9000, 32, 1)]
)
def test_blocks_in_order_fit_into_a_frame(hop: int, block: int, expected: int) -> None:
    """A block that no frame completes would leave every window alone."""
    assert block_in_order(pipeline_of(1, hop).spec, block) == expected
