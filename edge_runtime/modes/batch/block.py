"""How many windows a model answers at once, where nobody has tuned it."""

from __future__ import annotations

import contextlib
import math

import msgspec
import numpy as np

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Choice, Clock
from edge_runtime.types import Windows

__all__ = ["with_proven_block"]

_VALUES = 1 << 16
_MOST = 1024
_CALLS = 8
_SLOW_NS = 300_000  # Above this, what a call costs besides the model no longer counts.


def with_proven_block(bundle: Bundle, choice: Choice, clock: Clock) -> Choice:
    """Return ``choice`` with a larger block, if blocks of that size answer like single windows.

    Golden windows, each made a little louder or softer, are answered alone and as one
    block; a single differing bit keeps ``choice.block``. An accelerator answers a few bits
    apart whatever it is asked: there what goes beyond the bundle's tolerance does. Takes
    less than half a second.

    Raises:
        EdgeError: The model does not load.
    """
    spec = bundle.spec
    values = spec.window.length * len(spec.stream.channels)
    block = min(_MOST, 1 << int(math.log2(max(1, _VALUES // values))))
    # The models of a cascade are asked for blocks of 32, whatever is read at once.
    if block <= choice.block or spec.cascade:
        return choice
    with contextlib.closing(open_session(bundle, choice)) as session:
        golden = bundle.golden().inputs
        if session.state_kind != "stateless" or not len(golden):
            return choice
        alone, together = (
            Pipeline(spec, session, base=bundle.digest, block=size) for size in (1, block)
        )
        windows = _windows(golden, block)
        is_exact = choice.accelerator is None
        # To start an accelerator takes long, however little it has to do.
        if is_exact and _quickest_ns(alone, windows, clock) > _SLOW_NS:
            return choice
        expected, found = (one.score_windows(windows).score for one in (alone, together))
    if is_exact:
        is_alike = expected.tobytes() == found.tobytes()
    else:
        is_alike = bool((np.abs(expected - found) <= spec.tolerance).all())
    return msgspec.structs.replace(choice, block=block) if is_alike else choice


def _quickest_ns(pipeline: Pipeline, windows: Windows, clock: Clock) -> int:
    """Time a single window; the quickest of some calls, for others are disturbed."""
    one = slice(0, 1)
    single = Windows(
        windows.index[one], windows.start_ns[one], windows.end_ns[one], windows.samples[one]
    )
    taken_ns = []
    for _ in range(_CALLS):
        started_ns = clock.monotonic_ns()
        pipeline.score_windows(single)
        taken_ns.append(clock.monotonic_ns() - started_ns)
    return min(taken_ns)


def _windows(golden: np.ndarray, count: int) -> Windows:
    samples = golden[np.arange(count) % len(golden)]
    if samples.dtype.kind == "f":
        loudness = np.random.default_rng(0).uniform(0.5, 1.5, (count, 1, 1))
        samples = (samples * loudness).astype(samples.dtype)
    times = np.zeros(count, np.int64)
    return Windows(times, times, times, samples)
