"""Rescoring: the device's own bytes, each shard once, whatever is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.registry import Registry
from edge_cloud.rescore import rescore, score_shard
from edge_cloud.segments import read_segment
from edge_cloud.store import Store
from edge_runtime.backends import open_pipeline, open_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.errors import ModelError, StoreError
from edge_runtime.pipeline import Pipeline, estimates_table
from edge_runtime.quality import MASK
from edge_runtime.sync.frames import RowFrame
from edge_runtime.types import Frame, Table, Upload

from .conftest import HOUR_NS, T0_NS, frame_of

SRC = Path(__file__).parents[2]


def device_rows(bundle: Bundle, n: int, upload: Upload = "windows", first: int = 0) -> Table:
    """Let a device's pipeline answer ``n`` rows."""
    samples = np.random.default_rng(first).normal(size=(n, 2)).astype(np.float32)
    session = open_session(bundle)
    pipeline = Pipeline(bundle.spec, session, base=bundle.digest, upload=upload)
    times = T0_NS + (first + np.arange(n)) * HOUR_NS
    return estimates_table(pipeline.push(Frame("main", first, times, samples)).estimates)


def as_frame(table: Table, seq0: int = 0) -> RowFrame:
    return RowFrame("pump-1", "main", 1, 7, seq0, len(table), "estimate", table)


def filled(store: Store, bundle: Bundle, shards: int = 6, n: int = 30) -> None:
    for shard in range(shards):
        table = device_rows(bundle, n, first=shard * n)
        store.ingest([as_frame(table, shard * n)])


def test_a_shard_scores_as_the_device_did(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    """Scores of a shard are the device's, byte for byte, and each row keeps its identity."""
    table = device_rows(bundle, 77)
    store.ingest([as_frame(table)])

    result = score_shard(store.segments()[0].path, bundle, tmp_path / "out")

    scored = read_segment(Path(result.path)).columns
    assert scored["score"].tobytes() == table.columns["score"].tobytes()
    assert scored["seq"].tolist() == list(range(77))
    assert set(scored["tier"]) == {"cloud"}


def test_a_shard_keeps_what_is_suspect(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    """Scores of the cloud's model stand beside the same flaws of the same samples."""
    table = device_rows(bundle, 4)
    masks = np.array([0, 1, 2, 0], MASK)
    store.ingest([as_frame(Table({**table.columns, "quality": masks}))])

    result = score_shard(store.segments()[0].path, bundle, tmp_path / "out")

    scored = read_segment(Path(result.path)).columns
    assert scored["quality"].tolist() == masks.tolist()
    assert scored["quality"].dtype == MASK


def test_a_gas_turbine_shard_scores_as_the_device_did(store: Store, tmp_path: Path) -> None:
    """The same holds for a quantised network on its own runtime."""
    pytest.importorskip("ai_edge_litert")
    bundle = load_bundle(SRC / "examples/gas_turbine/bundles/turbine-nox-1.0.0")
    windows = bundle.golden().inputs
    pipeline = open_pipeline(bundle)
    pipeline = Pipeline(bundle.spec, pipeline.scorer.session, base=bundle.digest, upload="windows")
    times = T0_NS + np.arange(len(windows)) * HOUR_NS
    outputs = [
        pipeline.push(Frame("main", i, times[i : i + 1], windows[i])).estimates
        for i in range(len(windows))
    ]
    frames = [as_frame(estimates_table(output), i) for i, output in enumerate(outputs)]
    store.ingest(frames)

    result = score_shard(store.segments()[0].path, bundle, tmp_path)

    scores = read_segment(Path(result.path)).columns["score"]
    assert scores.tobytes() == b"".join(output.score.tobytes() for output in outputs)


def test_doing_a_shard_again_writes_the_same_file(
    store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    """Name and bytes depend on the segment and the bundle alone."""
    filled(store, bundle, shards=1)
    segment = store.segments()[0].path

    first = score_shard(segment, bundle, tmp_path)
    content = Path(first.path).read_bytes()

    assert score_shard(segment, bundle, tmp_path) == first
    assert Path(first.path).read_bytes() == content


def test_rows_without_windows_are_left_out_and_it_is_said(
    store: Store, newer_bundle: Bundle
) -> None:
    """Rows uploaded without inputs cannot be scored again; the report counts them."""
    store.ingest([as_frame(device_rows(newer_bundle, 5, "decisions"))])
    store.ingest([frame_of(0, 5, device="pump-2")])

    report = rescore(store, newer_bundle)

    assert (report.rows, report.left_out) == (0, {"no inputs were uploaded": 2})


def test_everything_is_scored_once_and_a_second_run_does_nothing(
    store: Store, bundle: Bundle, newer_bundle: Bundle
) -> None:
    """The manifest remembers; another base is another run."""
    filled(store, bundle)

    runs = [rescore(store, base) for base in (newer_bundle, newer_bundle, bundle)]

    assert [(run.rows, run.resumed) for run in runs] == [(180, 0), (0, 6), (180, 0)]


def test_a_compacted_segment_is_a_new_shard(store: Store, bundle: Bundle) -> None:
    """Results of segments that are gone go with them, and the merged one is scored."""
    filled(store, bundle, shards=4, n=6)
    rescore(store, bundle)
    store.compact()

    report = rescore(store, bundle)

    assert (report.shards, report.rows) == (1, 24)
    assert len(list((store.folder / "rescored").rglob("*.parquet"))) == 1


def test_a_failing_shard_does_not_stop_the_others(store: Store, bundle: Bundle) -> None:
    """A damaged segment is reported at the end; the rest is done and stays done."""
    filled(store, bundle, shards=3)
    store.segments()[1].path.write_bytes(b"not parquet")

    with pytest.raises((StoreError, ModelError), match="cannot be read"):
        rescore(store, bundle)

    done = store.database.rows("SELECT count(*) FROM shard WHERE state='done'")[0][0]
    assert done == 2


_CHILD = """
import os, sys
sys.path[:0] = [{src!r}, {cloud!r}]
from pathlib import Path
from edge_cloud.registry import Registry
from edge_cloud.rescore import rescore
from edge_cloud.store import Store
store = Store(Path(sys.argv[1]))
registry = Registry(store)
bundle = registry.bundle(registry.entries()[0].digest)
def stop(done, total):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
rescore(store, bundle, on_shard=stop)
"""


def test_a_killed_run_goes_on_where_it_stopped(store: Store, bundle: Bundle) -> None:
    """After two kills every row is scored, and none twice."""
    Registry(store).add(bundle)
    filled(store, bundle, shards=8, n=10)
    script = _CHILD.format(src=str(SRC), cloud=str(SRC / "cloud"))
    for stop_at in (3, 6):
        subprocess.run([sys.executable, "-c", script, str(store.folder), str(stop_at)])

    report = rescore(store, bundle)

    assert report.resumed == 6
    results = store.database.rows("SELECT path FROM shard WHERE state='done'")
    seqs = [
        seq
        for (path,) in results
        for seq in read_segment(store.folder / path).columns["seq"].tolist()
    ]
    assert sorted(seqs) == list(range(80))
