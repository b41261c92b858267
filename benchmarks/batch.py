"""What batch mode leaves of the bare runtime, in memory and from file to file.

The in-memory rows give both sides the same rows in the same blocks on one
scoring thread: the bare runtime gets ready tensors and only invokes, we get
float32 rows, check them, quantise, invoke, and compute the reconstruction error.
From file to file, a loop as one would write it by hand reads, scores, writes and
fsyncs one batch after the other, with the same options of the same libraries.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bare import BARE
from cases import KINDS, MODELS
from dense import dense_onnx
from measure import median_ratio
from results import Row

from edge_runtime.backends import load_session
from edge_runtime.bundle import Bundle
from edge_runtime.modes.batch import BatchJob, Scorers, run_batch, shards_of
from edge_runtime.modes.batch.flow import in_order
from edge_runtime.modes.batch.readers import Block
from edge_runtime.pipeline.quantise import quantise
from edge_runtime.ports import Choice
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    ModelSpec,
    OutputSpec,
    StreamSpec,
    WindowSpec,
)

__all__ = ["rows"]

SHARE_BAR = 0.90
RATE_BAR = 1e6
MEMORY_ROWS = 200_000
MEMORY_ROUNDS = 10
FILE_ROWS = 4_000_000
FILE_CHANNELS = 16
FILE_BLOCK = 2048
BATCH_ROWS = 1 << 17
AUTOENCODER = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)

Loop = Callable[[], object]


def rows(*, rounds: int) -> list[Row]:
    """Measure every row.

    Args:
        rounds: 200 give three runs of each loop over the files; fewer give fewer.
    """
    int8 = (MODELS / "ad_autoencoder_int8.tflite").read_bytes()
    return [
        _in_memory("batch_share_ad_int8", "litert", int8, block=64),
        _in_memory("batch_share_ad_float", "onnx", dense_onnx(AUTOENCODER), block=256),
        *_from_files(max(1, rounds // 66)),
    ]


def _at_least(name: str, value: float, unit: str, bar: float, peers: dict[str, float]) -> Row:
    """Make a row in which higher is better."""
    return Row.of(name, value, unit, bar=bar, peers=peers, better="higher")


# --- in memory ------------------------------------------------------------------------------


def _in_memory(name: str, backend: str, model: bytes, *, block: int) -> Row:
    bundle = _bundle(640, backend, model, activation="reconstruction")
    part = MEMORY_ROWS // MEMORY_ROUNDS // block * block
    samples = np.random.default_rng(7).normal(0, 15, (part, 640)).astype(np.float32)
    raw = _raw(backend, model, samples, block)
    taken: dict[str, list[float]] = {"raw": [], "one": [], "all": []}
    ours = {
        label: _scored(bundle, samples, Choice(backend=backend, block=block), workers)
        for label, workers in (("one", 1), ("all", os.cpu_count() or 1))
    }
    for _ in range(MEMORY_ROUNDS):
        for label, loop in {"raw": raw, **ours}.items():
            taken[label].append(_seconds(loop))
    rates = {label: part / statistics.median(times) for label, times in taken.items()}
    peers = {
        "raw engine rows/s": rates["raw"],
        "ours rows/s": rates["one"],
        f"ours rows/s, {os.cpu_count()} workers": rates["all"],
    }
    share = median_ratio(taken["raw"], taken["one"])
    return _at_least(name, share, "share", SHARE_BAR, peers)


def _raw(backend: str, model: bytes, samples: np.ndarray, block: int) -> Loop:
    tensor = load_session(backend, KINDS[backend], model).inputs[0]
    ready = quantise(samples.reshape(-1, *tensor.shape[1:]), tensor)
    blocks = [ready[first : first + block] for first in range(0, len(ready), block)]
    answer = BARE[backend](model, block)
    return lambda: [answer(one) for one in blocks]


def _scored(bundle: Bundle, samples: np.ndarray, choice: Choice, workers: int) -> Loop:
    job = BatchJob(input=Path(), output=Path(), choice=choice, workers=workers)
    scorers = Scorers(bundle, job)

    def loop() -> None:
        shards = shards_of([Block(samples, None, {}, 1.0)], scorers.shard_rows)
        for _ in in_order(shards, scorers.score, scorers.pipelines):
            pass

    return loop


# --- from file to file ----------------------------------------------------------------------


def _from_files(rounds: int) -> list[Row]:
    model = dense_onnx((FILE_CHANNELS, 64, 32, 1))
    bundle = _bundle(FILE_CHANNELS, "onnx", model)
    with tempfile.TemporaryDirectory(prefix="edge-runtime-bench-") as name:
        folder = Path(name)
        source = _written(folder / "in.parquet")
        by_hand, ours = folder / "hand.parquet", folder / "ours.parquet"
        job = BatchJob(
            input=source,
            output=ours,
            choice=Choice(backend="onnx", block=FILE_BLOCK),
            workers=os.cpu_count() or 1,
        )
        loops: dict[str, Loop] = {
            "hand": lambda: _hand_loop(model, source, by_hand),
            "ours": lambda: run_batch(job, bundle, may_overwrite=True),
            "raw": _engine_alone(model),
        }
        taken = {label: [] for label in loops}
        for _, label in itertools.product(range(rounds), loops):
            taken[label].append(_seconds(loops[label]))
        _check_equal(by_hand, ours)
    rates = {label: FILE_ROWS / statistics.median(times) for label, times in taken.items()}
    peers = {f"{label} rows/s": rate for label, rate in rates.items()}
    share = rates["ours"] / rates["hand"]
    return [
        _at_least("batch_share_parquet", share, "share", SHARE_BAR, peers),
        _at_least("batch_parquet_rows_per_s", rates["ours"], "rows/s", RATE_BAR, peers),
    ]


def _written(path: Path) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    names = [f"c{i}" for i in range(FILE_CHANNELS)]
    schema = pa.schema([(name, pa.float32()) for name in names])
    random = np.random.default_rng(3)
    with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(16):
            block = random.normal(size=(FILE_CHANNELS, FILE_ROWS // 16)).astype(np.float32)
            writer.write_table(pa.table(dict(zip(names, block, strict=True))))
    return path


def _hand_loop(model: bytes, source: Path, target: Path) -> None:
    """Read, score, write, as plainly as it goes, with what is fastest on one thread."""
    import pyarrow as pa
    from pyarrow import parquet

    session = _session(model)
    schema = pa.schema([("index", pa.int64()), ("score_anomaly", pa.float64())])
    row = 0
    with target.open("wb") as file:
        writer = parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=False)
        reader = parquet.ParquetFile(source, pre_buffer=False)
        for batch in reader.iter_batches(BATCH_ROWS):
            x = np.stack([column.to_numpy() for column in batch.columns], axis=1)
            blocks = [x[i : i + FILE_BLOCK] for i in range(0, len(x), FILE_BLOCK)]
            scores = np.concatenate([session.run(["y"], {"x": block})[0] for block in blocks])
            index = np.arange(row, row + len(x))
            table = pa.table([index, scores[:, 0].astype(np.float64)], schema=schema)
            writer.write_table(table)
            row += len(x)
        writer.close()
        file.flush()
        os.fsync(file.fileno())


def _engine_alone(model: bytes) -> Loop:
    session = _session(model)
    rows = np.random.default_rng(1).normal(size=(BATCH_ROWS, FILE_CHANNELS)).astype(np.float32)
    blocks = [rows[i : i + FILE_BLOCK] for i in range(0, BATCH_ROWS, FILE_BLOCK)]

    def loop() -> None:
        for block in itertools.islice(itertools.cycle(blocks), FILE_ROWS // FILE_BLOCK):
            session.run(["y"], {"x": block})

    return loop


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _check_equal(*paths: Path) -> None:
    """See that both sides did the same work."""
    from pyarrow import parquet

    first, second = (parquet.read_table(path) for path in paths)
    if not first.equals(second):
        raise SystemExit(f"{paths[0]} and {paths[1]} differ")


# --- both -----------------------------------------------------------------------------------


def _bundle(channels: int, backend: str, model: bytes, activation: Any = "none") -> Bundle:
    spec = ModelSpec(
        name="benchmark",
        version="1",
        kind="scorer",
        stream=StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(channels)), 100.0),
        window=WindowSpec(1, 1),
        artefacts=(ArtefactSpec(KINDS[backend], "model", "float32"),),
        labels=("anomaly",),
        output=OutputSpec(activation=activation),
    )
    return Bundle(spec, "0" * 64, {"model": model})


def _seconds(loop: Loop) -> float:
    start_ns = time.perf_counter_ns()
    loop()
    return (time.perf_counter_ns() - start_ns) / 1e9
