"""What the pipeline adds to the bare runtime, and what a hand-written loop adds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import cases
import hand
import numpy as np
from bare import BARE, litert
from cases import AD, HOP, KWS, LENGTH, VWW, Case
from measure import Timing, interleaved, median_ratio
from results import Ratio, Row

from edge_runtime.backends import open_session
from edge_runtime.ports import Choice
from edge_runtime.types import Frame

__all__ = ["PARTS"]

_CALLS = 10
_WINDOW_CALLS = 10
_QUIET_BAR_US = 12.0
_HAND_RATIO = 1.5
_KEYWORD_RATIO = 1.35
_IMAGE_RATIO = 1.12


def quiet(*, rounds: int) -> list[Row]:
    """A window of 640 int8 values every 64, nothing decided."""
    return [_quiet("overhead_quiet_us", 4 * rounds, is_float=False)]


def quiet_float(*, rounds: int) -> list[Row]:
    """The same from float32 samples, which have to be quantised."""
    return [_quiet("overhead_quiet_float_us", 4 * rounds, is_float=True)]


def keywords(*, rounds: int) -> list[Row]:
    """From ready features; and, for information, with the other runtime."""
    features, integers = cases.keyword_features(64)
    loop = hand.Keywords(litert(KWS.model()))
    row = _over_invoke(
        "pipeline_over_invoke_kws", KWS, features, integers, 2 * rounds, _KEYWORD_RATIO, loop.push
    )
    twin = _over_invoke(
        "pipeline_over_invoke_kws_onnx", KWS, features, integers, 2 * rounds, None, None, "onnx"
    )
    return [row, twin]


def images(*, rounds: int) -> list[Row]:
    """From 8-bit images."""
    pixels = cases.images(16)
    integers = (pixels ^ 0x80).view(np.int8)
    lines = pixels.reshape(16, 96, 288)
    loop = hand.Images(litert(VWW.model()))
    return [
        _over_invoke(
            "pipeline_over_invoke_vww", VWW, lines, integers, 2 * rounds, _IMAGE_RATIO, loop.push
        )
    ]


def sessions(*, rounds: int) -> list[Row]:
    """`Session.run` alone, without a pipeline, over the bare runtime."""
    return [_session(backend, rounds) for backend in BARE]


PARTS = {
    "overhead_quiet_us": quiet,
    "overhead_quiet_float_us": quiet_float,
    "pipeline_over_invoke_kws pipeline_over_invoke_kws_onnx": keywords,
    "pipeline_over_invoke_vww": images,
    "session_over_bare": sessions,
}


def _quiet(name: str, rounds: int, *, is_float: bool) -> Row:
    count = (rounds + 1) * _CALLS
    samples = cases.noise(LENGTH + count * HOP, np.float32 if is_float else np.int8)
    frames = list(cases.stream(samples, HOP, AD.spec))
    integers = cases.noise(LENGTH + count * HOP)[:, 0]
    cut = np.lib.stride_tricks.sliding_window_view(integers, LENGTH)[:: HOP * 7, None]
    windows = [window.copy() for window in cut[:64]]
    pipeline = AD.pipeline()
    loop = hand.Reconstruction(
        litert(AD.model()), cases.AD_INPUT, cases.AD_OUTPUT, is_float=is_float
    )
    # Fill both up to one sample block before the first window.
    first = LENGTH // HOP - 1
    for frame in frames[:first]:
        pipeline.push(frame)
        loop.push(frame.samples[:, 0], frame.time_ns)
    ours = _pusher(pipeline.push, frames[first:])
    blocks = [(frame.samples[:, 0], frame.time_ns) for frame in frames[first:]]
    timing = _timed(litert(AD.model()), windows, ours, blocks, loop.push, rounds, _CALLS)
    following = first + 1 + rounds * _CALLS
    answer = pipeline.push(frames[following]).estimates.score[0, 0]
    _check_same(name, answer, loop, blocks[following - first])
    return _beyond(name, timing)


def _check_same(
    name: str,
    ours: float,
    loop: hand.Reconstruction,
    last: tuple[np.ndarray, np.ndarray],
) -> None:
    """Stop where the two sides do not compute the same."""
    loop.push(*last)
    if not math.isclose(ours, loop.value, rel_tol=1e-3):
        raise ValueError(f"{name}: the pipeline answers {ours}, the hand-written loop {loop.value}")


def _beyond(name: str, timing: dict[str, Timing]) -> Row:
    bare_us = timing["bare"].median_us
    ours_us = timing["ours"].median_us - bare_us
    hand_us = timing["hand"].median_us - bare_us
    ours, hand_loop, bare = (timing[side].samples_us for side in ("ours", "hand", "bare"))
    ratio = median_ratio(ours, hand_loop, bare)
    return Row.of(
        name,
        ours_us,
        "us",
        bar=_QUIET_BAR_US,
        ratios=[Ratio("ours over the hand loop", ratio, at_most=_HAND_RATIO)],
        peers={"hand loop us": hand_us, **_figures(timing)},
    )


def _over_invoke(
    name: str,
    case: Case,
    windows: np.ndarray,
    integers: np.ndarray,
    rounds: int,
    bar: float | None,
    loop: Callable[[np.ndarray, np.ndarray], None] | None,
    backend: str = "litert",
) -> Row:
    pipeline = case.pipeline(backend)
    # Frames are built in advance: a source would have them ready.
    frames = list(itertools.islice(_frames(case, windows), (rounds + 1) * _WINDOW_CALLS))
    blocks = [(frame.samples, frame.time_ns) for frame in frames]
    ready = [row[None] for row in integers]
    bare = BARE[backend](case.model(backend))
    ours = _pusher(pipeline.push, frames)
    timing = _timed(bare, ready, ours, blocks, loop, rounds, _WINDOW_CALLS)
    if len(pipeline.push(frames[1 + rounds * _WINDOW_CALLS]).estimates) != 1:
        raise ValueError(f"{name}: a frame did not give one window")
    bare_us = timing["bare"].median_us
    peers = _figures(timing) | {"beyond us": timing["ours"].median_us - bare_us}
    if loop is not None:
        peers["hand loop x"] = median_ratio(timing["hand"].samples_us, timing["bare"].samples_us)
    ratio = median_ratio(timing["ours"].samples_us, timing["bare"].samples_us)
    return Row.of(name, ratio, "x", bar=bar, peers=peers)


def _session(backend: str, rounds: int) -> Row:
    _, integers = cases.keyword_features(64)
    session = open_session(KWS.bundle(backend), Choice(backend=backend))
    bare = BARE[backend](KWS.model(backend))
    inputs, again = (itertools.cycle([row[None] for row in integers]) for _ in range(2))
    timing = interleaved(
        {"bare": lambda: bare(next(inputs)), "ours": lambda: session.run(next(again))},
        rounds=2 * rounds,
        calls=_WINDOW_CALLS,
    )
    ratio = median_ratio(timing["ours"].samples_us, timing["bare"].samples_us)
    peers = {"ours us": timing["ours"].median_us, **_figures(timing)}
    return Row.of(f"session_over_bare_{backend}", ratio, "x", bar=None, peers=peers)


def _frames(case: Case, windows: np.ndarray) -> Iterator[Frame]:
    """Yield one-window frames without end."""
    spec = case.spec
    length = spec.window.length
    step_ns = spec.stream.period_ns
    time_ns = np.arange(length, dtype=np.int64) * step_ns
    for number in itertools.count():
        first, samples = number * length, windows[number % len(windows)]
        yield Frame("main", first, time_ns + first * step_ns, samples, step_ns=step_ns)


def _pusher(push: Callable[[Frame], object], frames: Sequence[Frame]) -> Callable[[], object]:
    following = iter(frames)
    return lambda: push(next(following))


def _timed(
    bare: Callable[[np.ndarray], np.ndarray],
    windows: Sequence[np.ndarray],
    ours: Callable[[], object],
    blocks: Sequence[tuple[np.ndarray, np.ndarray]],
    loop: Callable[[np.ndarray, np.ndarray], None] | None,
    rounds: int,
    calls: int,
) -> dict[str, Timing]:
    inputs = itertools.cycle(windows)
    variants: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(next(inputs)),
        "ours": ours,
    }
    if loop is not None:
        following = iter(blocks)
        variants["hand"] = lambda: loop(*next(following))
    return interleaved(variants, rounds=rounds, calls=calls)


def _figures(timing: dict[str, Timing]) -> dict[str, float]:
    return {
        "bare us": timing["bare"].median_us,
        "dropped samples": float(sum(entry.dropped for entry in timing.values())),
    }
