"""Contract checks: what every source, sink and backend must do, whoever wrote it.

Each raises AssertionError with a sentence; use them with any test runner.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.ports import (
    Backend,
    LiveSource,
    ResumableSink,
    Session,
    SessionOptions,
    Sink,
    Source,
)
from edge_runtime.quality import MASK, joined_masks
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame, Output, TensorSpec

__all__ = ["check_backend", "check_live_source", "check_sink", "check_source", "read_all"]

_READS = 100_000
_PATIENCE_S = 10.0


def check_source(
    make: Callable[[], Source], need: StreamSpec, *, resume_at: Sequence[int] = (1,)
) -> None:
    """Check a source that can be replayed.

    Args:
        make: Builds it, unpaced; called for every check.
        need: Channels and rate that it can deliver.
        resume_at: Indices to start again from.
    """
    frames = _read(make(), need, 0)
    _check_frames(frames, need)
    for index in resume_at:
        _check_resumed(frames, _read(make(), need, index), index)
    _check_ends(make(), need, frames[-1].index + len(frames[-1]))
    _check_closes(make(), need)
    _check_closes_from_another_thread(make(), need)


def check_live_source(
    make: Callable[[], LiveSource], need: StreamSpec, *, samples: int = 32, index: int = 5
) -> None:
    """Check a source that cannot be replayed, on hardware or a stand-in that delivers.

    Args:
        make: Builds it; called for every check.
        need: Channels and rate that it can deliver.
        samples: How many to wait for.
        index: Where the stream goes on.
    """
    source = make()
    frames = _read_some(source, need, index, samples)
    _check_frames(frames, need)
    _require(frames[0].index == index, "the first frame goes on at the index that was asked for")
    _, times, _ = _joined(frames)
    _require(bool((np.diff(times) > 0).all()), "event times grow from sample to sample")
    _require(not source.is_exhausted, "a live source never ends")
    health = source.health()
    _require(health.lost_samples >= 0 and health.jitter_s >= 0, "what is counted does not shrink")
    source.close()
    source.close()
    _require(source.read(0.0) is None, "a closed source delivers nothing")
    again = _read_some(source, need, index + 7, 1)
    _require(again[0].index == index + 7, "a closed source can be opened again")
    source.close()
    _require(source.health().lost_samples >= health.lost_samples, "an open forgets no loss")
    _check_wakes(make(), need)


def check_sink(make: Callable[[], Sink], outputs: Sequence[Output]) -> None:
    """Check that a sink takes results, can be closed twice and opened again.

    One that has marks must be able to go back to its own.

    Args:
        make: Builds it.
        outputs: Results to write, in order.
    """
    sink = make()
    for _ in range(2):
        sink.open("contract")
        for output in outputs:
            sink.write(output)
        if isinstance(sink, ResumableSink):
            sink.resume(sink.mark(is_durable=True))
        sink.close()
        sink.close()
    make().close()


def check_backend(make: Callable[[], Backend], model: bytes) -> None:
    """Check that a backend proves itself, refuses junk and answers repeatably.

    Args:
        make: Builds it.
        model: A small stateless model that it can run.
    """
    backend = make()
    _require(bool(backend.name) and bool(backend.probe()), "a backend tells name and version")
    for junk in (b"", b"no model"):
        _check_refused(partial(backend.load, junk, SessionOptions()), ModelError)
    session = backend.load(model, SessionOptions())
    _check_answers(session)
    session.close()
    session.close()


def read_all(source: Source) -> list[Frame]:
    """Read an open source until it is exhausted; close it."""
    frames: list[Frame] = []
    for _ in range(_READS):
        if source.is_exhausted:
            break
        frame = source.read(0.1)
        if frame is not None:
            frames.append(frame)
    _require(source.is_exhausted, "a recording must end")
    source.close()
    return frames


def _check_answers(session: Session) -> None:
    batch = _batch(session.inputs[0], 5)
    answers = session.run(batch)
    _require(answers.shape == (5, *session.outputs[0].shape[1:]), "every row gets an answer")
    _require(answers.dtype == session.outputs[0].dtype, "answers have the tensor's dtype")
    asked, told = batch.copy(), answers.copy()
    answers.fill(0)
    _require(_is_equal(batch, asked), "an answer is no view of the question")
    _require(_is_equal(told, session.run(batch)), "a question asked twice has one answer")
    session.reset()
    single = np.concatenate([session.run(row[None]) for row in batch])
    _require(_is_equal(told, single), "a batch gives the bytes of its rows alone")
    _require(len(session.run(batch[:0])) == 0, "no rows, no answers")
    _check_refused(lambda: session.run(batch[..., :0]), ShapeError)
    _check_refused(lambda: session.run(batch.astype(np.complex128)), ShapeError)


def _batch(tensor: TensorSpec, rows: int) -> np.ndarray:
    shape = (rows, *tensor.shape[1:])
    numbers = np.arange(rows * int(np.prod(shape[1:])), dtype=np.int64).reshape(shape) % 100
    return numbers.astype(tensor.dtype)


def _check_refused(call: Callable[[], object], kind: type[Exception]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} must be raised")


def _read(source: Source, need: StreamSpec, index: int) -> list[Frame]:
    source.open("contract", need, index)
    return read_all(source)


def _check_frames(frames: Sequence[Frame], need: StreamSpec) -> None:
    _require(bool(frames), "a recording has at least one frame")
    position = frames[0].index
    for frame in frames:
        _require(frame.stream == "contract", "a frame carries the stream's name")
        _require(frame.index == position, "frames follow each other without gap or overlap")
        _require(0 < len(frame) <= 65536, "a frame is not empty and not huge")
        _require(frame.samples.shape[1] == len(need.channels), "a frame has the needed channels")
        _require(frame.time_ns.dtype == np.int64, "times are int64")
        _require(frame.samples.dtype.kind in "iuf", "samples are real numbers")
        _require(_keeps_step(frame), "a clock that is promised to be steady is steady")
        position += len(frame)


def _keeps_step(frame: Frame) -> bool:
    if frame.step_ns is None:
        return True
    return bool((np.abs(np.diff(frame.time_ns) - frame.step_ns) <= 1).all())


def _check_resumed(frames: Sequence[Frame], again: Sequence[Frame], index: int) -> None:
    first = max(index, frames[0].index)
    samples, times, masks = _joined(frames)
    resumed = _joined(again) if again else (samples[:0], times[:0], masks[:0])
    start = first - frames[0].index
    _require(not again or again[0].index == first, f"a replay begins at index {first}")
    _require(_is_equal(samples[start:], resumed[0]), f"a replay from {index} repeats the samples")
    _require(_is_equal(times[start:], resumed[1]), f"a replay from {index} repeats the times")
    _require(_is_equal(masks[start:], resumed[2]), f"a replay from {index} repeats the quality")


def _check_ends(source: Source, need: StreamSpec, index: int) -> None:
    source.open("contract", need, index)
    _require(read_all(source) == [], "a recording opened at its end delivers nothing")


def _check_closes(source: Source, need: StreamSpec) -> None:
    source.close()
    source.open("contract", need, 0)
    source.close()
    source.close()
    _require(source.read(0.0) is None, "a closed source delivers nothing")


def _check_closes_from_another_thread(source: Source, need: StreamSpec) -> None:
    source.open("contract", need, 0)
    thread = threading.Thread(target=source.close)
    thread.start()
    for _ in range(_READS):
        if source.read(0.0) is None:
            break
    thread.join(_PATIENCE_S)
    _require(not thread.is_alive(), "close returns while another thread reads")


def _read_some(source: Source, need: StreamSpec, index: int, samples: int) -> list[Frame]:
    """Open a source and read so many samples."""
    source.open("contract", need, index)
    frames: list[Frame] = []
    deadline_s = time.monotonic() + _PATIENCE_S
    while sum(map(len, frames)) < samples:
        _require(time.monotonic() < deadline_s, f"{samples} samples come in {_PATIENCE_S} s")
        frame = source.read(0.5)
        if frame is not None:
            frames.append(frame)
    return frames


def _check_wakes(source: Source, need: StreamSpec) -> None:
    """A read that waits for long ends when another thread closes the source."""
    source.open("contract", need, 0)
    began_s = time.monotonic()
    closing = threading.Timer(0.05, source.close)
    closing.start()
    while source.read(2 * _PATIENCE_S) is not None:
        pass
    closing.join()
    _require(time.monotonic() - began_s < _PATIENCE_S, "close wakes a read that waits")


def _joined(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    masks = joined_masks((frame.quality, len(frame)) for frame in frames)
    times = np.concatenate([frame.time_ns for frame in frames])
    return (
        np.concatenate([frame.samples for frame in frames]),
        times,
        np.zeros(len(times), MASK) if masks is None else masks,
    )


def _is_equal(expected: np.ndarray, actual: np.ndarray) -> bool:
    return expected.dtype == actual.dtype and expected.tobytes() == actual.tobytes()


def _require(is_fact: bool, sentence: str) -> None:
    if not is_fact:
        raise AssertionError(sentence)
