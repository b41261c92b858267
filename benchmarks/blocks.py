"""What `Pipeline.run_many` adds to the bare runtime in blocks, per row."""

from __future__ import annotations

from functools import partial

import cases
import numpy as np
from bare import BARE
from cases import AD, KWS, Case
from measure import interleaved
from results import Row

from edge_runtime.types import Frame

__all__ = ["PARTS"]

_BLOCK = 64
_MANY = 4 * _BLOCK
_RATIO_BAR = 1.11


def _features() -> tuple[Case, np.ndarray, np.ndarray]:
    real, integers = cases.keyword_features(_MANY)
    return KWS, real, integers


def _values() -> tuple[Case, np.ndarray, np.ndarray]:
    """The autoencoder with windows that do not overlap."""
    case = cases.without_overlap(AD)
    count = _MANY * cases.LENGTH
    real = cases.noise(count, np.float32).reshape(_MANY, cases.LENGTH, 1)
    return case, real, cases.noise(count).reshape(_MANY, cases.LENGTH)


_INPUTS = {"kws": _features, "ad": _values}


def _over_block(name: str, backend: str, *, rounds: int) -> list[Row]:
    case, real, integers = _INPUTS[name]()
    samples = real.reshape(-1, real.shape[-1])
    time_ns = np.arange(len(samples), dtype=np.int64) * case.spec.stream.period_ns
    frame = Frame("main", 0, time_ns, samples)
    pipeline = case.pipeline(backend)
    fresh = pipeline.snapshot()

    def ours() -> None:
        pipeline.restore(fresh)
        pipeline.run_many([frame])

    bare = BARE[backend](case.model(backend), _BLOCK)
    blocks = [integers[first : first + _BLOCK] for first in range(0, _MANY, _BLOCK)]
    timing = interleaved(
        {"bare": lambda: [bare(block) for block in blocks], "ours": ours},
        rounds=max(5, rounds // 8),
        calls=1,
    )
    # Samples are so long that few would be undisturbed: processor time, not the clock.
    bare_us, ours_us = (timing[side].cpu_us / _MANY for side in ("bare", "ours"))
    peers = {f"bare us a row, blocks of {_BLOCK}": bare_us, "ours us a row": ours_us}
    row = f"run_many_over_block_{name}_{backend}"
    return [Row.of(row, ours_us / bare_us, "x", bar=_RATIO_BAR, peers=peers)]


PARTS = {
    f"run_many_over_block_{name}_{backend}": partial(_over_block, name, backend)
    for name in _INPUTS
    for backend in BARE
}
