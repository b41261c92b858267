"""What the measuring process and its children say to each other, a line of JSON each."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.timing import Sample

__all__ = ["Ask", "Failed", "Opened", "Reply", "Took"]


class Ask(msgspec.Struct, frozen=True):
    """Take samples for a while.

    Attributes:
        what: ``window``: one window through the pipeline, or through the session alone
            for a model with state; ``block``: ``rows`` windows
            through it at once; ``engine``: ``rows`` ready inputs through the session alone.
        rows: Windows in one call.
        seconds: Stop after this time; one sample is taken at least.
    """

    what: Literal["window", "block", "engine"]
    rows: int
    seconds: float


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The model is loaded and has answered the golden windows.

    Attributes:
        golden: Number of golden windows that were asked: 64, or what half a second allows.
        agreeing: How many were answered within the bundle's tolerance, twice alike.
        worst: Largest distance to a golden answer, in reported units; None if one was not finite.
        engine_us: A first look at the time of one window in the session alone.
        rss_mb: Memory that runtime and model added, MiB.
        is_stateless: Whether windows may be answered in blocks.
    """

    golden: int
    agreeing: int
    worst: float | None
    engine_us: float
    rss_mb: float
    is_stateless: bool


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The candidate cannot be measured.

    Attributes:
        reason: On one line.
        remedy: What to do about it.
        is_absent: Whether something is not installed, as opposed to broken.
    """

    reason: str
    remedy: str = ""
    is_absent: bool = False


class Took(msgspec.Struct, frozen=True, tag="took"):
    """Samples of what was asked for.

    Attributes:
        samples: Each of one call.
        cpu_us: Processor time of one call, over all threads; of a window alone.
        is_equal: Whether a block gave the bytes of its windows alone; without it no samples.
    """

    samples: tuple[Sample, ...]
    cpu_us: float
    is_equal: bool = True


Reply = Opened | Failed | Took
