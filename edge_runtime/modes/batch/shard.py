"""The shard: a run of consecutive input rows, and the one pure function that scores it.

Where nothing passes from window to window, a shard's answers depend on its rows
alone, and shards may be scored in any order. Else shard k + 1 needs the
pipeline's snapshot after shard k. On a grid rows wait for others, so that behind the
last shard comes an empty one that ends the stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np

from edge_runtime.modes.batch.job import (
    answer_names,
    quality_schema,
    rejecting,
    uncertain_name,
)
from edge_runtime.modes.batch.readers import Block
from edge_runtime.modes.batch.readers.block import grid_of
from edge_runtime.pipeline import AnyPipeline, Pipeline, TimedPipeline
from edge_runtime.pipeline.records import decisions_table, with_quality
from edge_runtime.quality import MASK, joined_masks
from edge_runtime.spec import ModelSpec
from edge_runtime.types import Decision, Estimates, Frame, Table, Windows

__all__ = [
    "Shard",
    "ShardResult",
    "block_in_order",
    "is_independent",
    "score_alone",
    "score_shard",
    "shard_rows",
    "shards_of",
]

_VALUES = 1 << 21
_MOST_ROWS = 1 << 17
_UNIT = 1024
_CHECKED_VALUES = 1 << 15
_FRAME_ROWS = 8192
_FRAME_VALUES = 65536


class Shard(msgspec.Struct, frozen=True, eq=False):
    """Consecutive rows of one input.

    Attributes:
        first: Row of the input that it begins with.
        block: The rows.
        latest_ns: Latest time of all rows before; None at the start.
        is_end: Whether no row comes behind it.
    """

    first: int
    block: Block
    latest_ns: int | None
    is_end: bool = False


class ShardResult(msgspec.Struct, frozen=True, eq=False):
    """What became of one shard.

    Attributes:
        rows: Rows read.
        estimates: Position, times, answers and kept columns, one row per window.
        decisions: As `decisions_table` makes them.
        discarded: Discards by reason, in this shard.
        snapshot: The pipeline after this shard; None where nothing passes on.
        latest_ns: Latest time up to the end of this shard.
        share: Share of the input that lies behind.
    """

    rows: int
    estimates: Table
    decisions: Table
    discarded: dict[str, int]
    snapshot: bytes | None
    latest_ns: int | None
    share: float


def is_independent(pipeline: AnyPipeline, *, has_times: bool) -> bool:
    """Whether the estimates of a shard depend on its own rows alone.

    Windows must not overlap, neither model nor features nor filters may keep
    anything, and no gap in time may move where windows begin. Smoothing and limits
    change decisions, not estimates, but for the reject bands that mark them.
    """
    spec, window = pipeline.spec, pipeline.spec.window
    if isinstance(pipeline, TimedPipeline):
        return False
    is_tumbling = window.length == window.hop and (window.length == 1 or not has_times)
    keeps = pipeline.scorer.is_stateful or spec.filters or window.pad
    return is_tumbling and not keeps and not rejecting(spec)


def shard_rows(spec: ModelSpec, block: int) -> int:
    """Return how many rows a shard has: about 8 MiB of samples, and at least a block of windows.

    Blocks up to 1024 do not change it: a run may go on with another one.
    """
    most = min(_MOST_ROWS, _VALUES // len(spec.stream.channels))
    unit = spec.window.hop * (_UNIT if most >= _UNIT * spec.window.hop else 1)
    return max(most // unit * unit, block * spec.window.hop)


def shards_of(
    blocks: Iterable[Block], rows: int, *, first: int = 0, latest_ns: int | None = None
) -> Iterator[Shard]:
    """Cut blocks of any length into shards of ``rows`` rows; the last may be shorter."""
    for block in _regrouped(blocks, rows):
        yield Shard(first, block, latest_ns)
        first += len(block)
        latest_ns = _latest(block, latest_ns)


def end_of(spec: ModelSpec, *, has_times: bool) -> Shard:
    """Return the shard behind the last one: it has no rows, and ends the stream."""
    samples = np.empty((0, len(spec.stream.channels)), np.float32)
    time_ns = np.empty(0, np.int64) if has_times else None
    return Shard(0, Block(samples, time_ns, {}, 1.0), None, is_end=True)


def block_in_order(spec: ModelSpec, block: int) -> int:
    """Return how many windows the model can answer at once where shards go in order.

    A power of two if it is smaller than ``block``, so that frames fill shards.
    """
    most = _frame_limit(spec) // spec.window.hop
    return block if block <= most else 1 << max(0, most.bit_length() - 1)


def score_shard(
    shard: Shard, pipeline: AnyPipeline, snapshot: bytes | None = None, *, model_block: int = 1
) -> ShardResult:
    """Score a shard in order; what comes out depends on the other arguments alone.

    Args:
        shard: The rows.
        pipeline: Any pipeline of the base, used by one thread.
        snapshot: Where the shard before it ended; None goes on where ``pipeline`` is.
        model_block: Windows that its session answers at once; frames are cut to suit it.

    Raises:
        ModelError: The model fails, or the snapshot is of another base.
        ShapeError: The rows are no samples of this model.
    """
    if snapshot is not None:
        pipeline.restore(snapshot)
    before = pipeline.discarded
    outputs = list(pipeline.run(_frames(shard, pipeline, model_block)))
    if shard.is_end and isinstance(pipeline, TimedPipeline):
        outputs.append(pipeline.finish())
    estimates = [output.estimates for output in outputs if len(output.estimates)]
    decisions = [decision for output in outputs for decision in output.decisions]
    discarded = {name: n - before.get(name, 0) for name, n in pipeline.discarded.items()}
    return _result(shard, pipeline.spec, estimates, decisions, discarded, pipeline.snapshot())


def score_alone(shard: Shard, pipeline: Pipeline, model_block: int) -> ShardResult:
    """Score a shard for which `is_independent`; byte-equal to `score_shard`, in any order.

    Rows are no frames here, so that the model gets whole blocks and nothing is
    copied into a buffer. Windows with a value that is not finite are scored as
    zeros and left out afterwards, and the last block is filled up with zeros:
    a session that answers 8192 rows at once takes a thousand times as long for
    one row alone.

    Args:
        shard: The rows.
        pipeline: Any pipeline of the base, used by one thread; its state is not touched.
        model_block: Windows that its session answers at once.
    """
    block, length = shard.block, pipeline.spec.window.length
    on_time = None if block.time_ns is None else _is_later(block.time_ns, shard.latest_ns)
    count = len(block) // length
    samples = block.samples[: count * length].reshape(count, length, block.samples.shape[1])
    last = np.arange(shard.first + length - 1, shard.first + count * length, length)
    # Without layers no answer depends on the time, and without a column none goes out.
    times = last if block.time_ns is None else block.time_ns[:count]
    estimates, is_finite = _answered(Windows(last, times, times, samples), pipeline, model_block)
    is_good = np.ones(count, np.bool_) if on_time is None else on_time
    if is_finite is not None:
        is_good = is_good & is_finite
    late = 0 if on_time is None else int(np.count_nonzero(~on_time))
    discarded = {
        "out_of_order": late,
        "gap": 0,
        "not_finite": count - late - int(np.count_nonzero(is_good)),
    }
    if discarded["out_of_order"] or discarded["not_finite"]:
        estimates = _chosen(estimates, is_good)
    return _result(shard, pipeline.spec, [estimates], [], discarded, None)


def _answered(
    windows: Windows, pipeline: Pipeline, model_block: int
) -> tuple[Estimates, np.ndarray | None]:
    """Score windows, and tell which have only finite values; None if all have."""
    if pipeline.scorer.proves_finite:
        # Where the answers tell, samples are read once less.
        estimates = _in_blocks(windows, pipeline, model_block)
        if np.isfinite(estimates.score).all():
            return estimates, None
    is_finite = _is_finite(windows.samples)
    if is_finite is not None:
        zero = windows.samples.dtype.type(0)
        samples = np.where(is_finite[:, None, None], windows.samples, zero)
        windows = msgspec.structs.replace(windows, samples=samples)
    return _in_blocks(windows, pipeline, model_block), is_finite


def _in_blocks(windows: Windows, pipeline: Pipeline, model_block: int) -> Estimates:
    count = len(windows)
    missing = -count % model_block
    if not missing or count == 1:
        return pipeline.score_windows(windows)
    full = count - count % model_block
    filled = np.zeros((model_block, *windows.samples.shape[1:]), windows.samples.dtype)
    filled[: count - full] = windows.samples[full:]
    times = np.zeros(model_block, np.int64)
    tail = pipeline.score_windows(Windows(times, times, times, filled))
    parts = [pipeline.score_windows(_windows(windows, full))] if full else []
    value = np.concatenate([*(part.value for part in parts), tail.value[: count - full]])
    stages = [part.stage for part in (*parts, tail) if part.stage is not None]
    return Estimates(
        windows.index,
        windows.start_ns,
        windows.end_ns,
        value,
        value,
        None,
        tail.effective_id,
        stage=np.concatenate(stages)[:count] if stages else None,
    )


def _windows(windows: Windows, count: int) -> Windows:
    return Windows(
        windows.index[:count],
        windows.start_ns[:count],
        windows.end_ns[:count],
        windows.samples[:count],
    )


def _frames(shard: Shard, pipeline: AnyPipeline, model_block: int) -> Iterator[Frame]:
    """Yield frames that the pipeline takes in one go, and that complete whole blocks."""
    need = pipeline.spec.stream
    time_ns = shard.block.time_ns
    if time_ns is None:
        time_ns = grid_of(need).grid(len(shard.block), shard.first)
    block, limit = shard.block, _frame_limit(pipeline.spec)
    unit = model_block * pipeline.spec.window.hop
    rows = limit // unit * unit or limit
    for first in range(0, len(block), rows):
        part = slice(first, first + rows)
        yield Frame(pipeline.stream, shard.first + first, time_ns[part], block.samples[part])


def _frame_limit(spec: ModelSpec) -> int:
    return max(1, min(_FRAME_ROWS, _FRAME_VALUES // len(spec.stream.channels)))


def _result(
    shard: Shard,
    spec: ModelSpec,
    estimates: list[Estimates],
    decisions: list[Decision],
    discarded: dict[str, int],
    snapshot: bytes | None,
) -> ShardResult:
    return ShardResult(
        rows=len(shard.block),
        estimates=_estimate_table(shard, spec, estimates),
        decisions=_decision_table(spec, decisions),
        discarded=discarded,
        snapshot=snapshot,
        latest_ns=_latest(shard.block, shard.latest_ns),
        share=shard.block.share,
    )


def _estimate_table(shard: Shard, spec: ModelSpec, estimates: list[Estimates]) -> Table:
    positions = ("index",) if shard.block.time_ns is None else ("index", "start_ns", "end_ns")
    columns = {
        name: _joined([getattr(one, name) for one in estimates], np.int64) for name in positions
    }
    for label, name in enumerate(answer_names(spec)):
        columns[name] = _joined([one.value[:, label] for one in estimates], np.float64)
    marks = [one.uncertain for one in estimates if one.uncertain is not None]
    for name in rejecting(spec):
        column = spec.labels.index(name)
        columns[uncertain_name(name)] = _joined([mark[:, column] for mark in marks], np.bool_)
    if quality_schema(spec):
        masks = joined_masks((one.quality, len(one)) for one in estimates)
        columns["quality"] = np.zeros(len(columns["index"]), MASK) if masks is None else masks
    if spec.cascade:
        stages = [one.stage for one in estimates if one.stage is not None]
        columns["stage"] = _joined(stages, np.uint8)
    rows = columns["index"] - shard.first
    columns |= {name: column[rows] for name, column in shard.block.kept.items()}
    return Table(columns)


def _decision_table(spec: ModelSpec, decisions: list[Decision]) -> Table:
    (table,) = with_quality([decisions_table(decisions)], is_wanted=bool(quality_schema(spec)))
    return table


def _joined(parts: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0])
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _chosen(estimates: Estimates, rows: np.ndarray) -> Estimates:
    score = estimates.score[rows]
    return Estimates(
        estimates.index[rows],
        estimates.start_ns[rows],
        estimates.end_ns[rows],
        score,
        score if estimates.value is estimates.score else estimates.value[rows],
        None,
        estimates.effective_id,
        stage=None if estimates.stage is None else estimates.stage[rows],
    )


def _latest(block: Block, before_ns: int | None) -> int | None:
    if block.time_ns is None or not len(block):
        return before_ns
    newest_ns = int(block.time_ns.max())
    return newest_ns if before_ns is None else max(before_ns, newest_ns)


def _is_later(time_ns: np.ndarray, latest_ns: int | None) -> np.ndarray | None:
    """Tell which rows are later than all before; None if every one is."""
    first_ns = time_ns[0] - 1 if latest_ns is None else latest_ns
    before = np.concatenate(([np.int64(first_ns)], time_ns[:-1]))
    if (time_ns > before).all():
        return None
    is_later: np.ndarray = time_ns > np.maximum.accumulate(before)
    return is_later


def _is_finite(samples: np.ndarray) -> np.ndarray | None:
    """Tell which windows have only finite values; None if all have."""
    if samples.dtype.kind != "f":
        return None
    at_once = max(1, _CHECKED_VALUES // max(1, math.prod(samples.shape[1:])))
    parts = (samples[first : first + at_once] for first in range(0, len(samples), at_once))
    # A few at a time: what they are is read while it is in the cache.
    if all(np.isfinite(part).all() for part in parts):
        return None
    found: np.ndarray = np.logical_and.reduce(np.isfinite(samples), axis=(1, 2))
    return found


def _regrouped(blocks: Iterable[Block], rows: int) -> Iterator[Block]:
    waiting: list[Block] = []
    count = 0
    for block in blocks:
        first = 0
        while first < len(block):
            part = _rows(block, first, min(len(block), first + rows - count))
            waiting.append(part)
            first += len(part)
            count += len(part)
            if count == rows:
                yield _together(waiting)
                waiting, count = [], 0
    if waiting:
        yield _together(waiting)


def _rows(block: Block, first: int, last: int) -> Block:
    if first == 0 and last == len(block):
        return block
    part = slice(first, last)
    kept = {name: column[part] for name, column in block.kept.items()}
    time_ns = None if block.time_ns is None else block.time_ns[part]
    return Block(block.samples[part], time_ns, kept, block.share)


def _together(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    times = [block.time_ns for block in blocks if block.time_ns is not None]
    return Block(
        np.concatenate([block.samples for block in blocks]),
        np.concatenate(times) if times else None,
        {name: np.concatenate([b.kept[name] for b in blocks]) for name in blocks[0].kept},
        blocks[-1].share,
    )
