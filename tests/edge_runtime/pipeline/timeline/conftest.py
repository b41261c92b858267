"""A toy model on a grid of 100 Hz, and streams of samples for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import pytest

from edge_runtime.pipeline import Pipeline
from edge_runtime.pipeline.timeline import TimedPipeline
from edge_runtime.ports import Timing
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    GridSpec,
    Limit,
    ModelSpec,
    Smoothing,
    Statistics,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Decision, Frame, Output

PERIOD_NS = 10_000_000

Timed = Callable[..., TimedPipeline]


@pytest.fixture(scope="session")
def timed(session_of: Callable[..., object]) -> Timed:
    """Make a pipeline whose score is a window's mean, over 4 samples every 2 if not said."""

    def make(
        *,
        window: WindowSpec | None = None,
        grid: GridSpec | None = None,
        channels: int = 1,
        stream: str = "main",
        upload: str = "none",
        rate_hz: float = 100.0,
        smoothing: int = 2,
        base: str = "ab" * 32,
        **timing: object,
    ) -> TimedPipeline:
        spec = ModelSpec(
            name="toy",
            version="1",
            kind="scorer",
            stream=StreamSpec(
                tuple(ChannelSpec(f"c{i}") for i in range(channels)),
                rate_hz,
                grid=grid or GridSpec(),
            ),
            window=window or WindowSpec(4, 2),
            features=(Statistics(("mean",)),),
            artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
            labels=tuple(f"v{i}" for i in range(channels)),
            smoothing=Smoothing(smoothing),
            limits=(Limit("v0", 5.0, 4.0),),
        )
        session = session_of((channels,), channels, is_identity=True)
        inner = Pipeline(spec, session, base=base, stream=stream, upload=upload)
        return TimedPipeline(inner, Timing(**{"confirm_rows": 1, **timing}))

    return make


def frame_at(slots: object, values: object, *, index: int = 0, stream: str = "main") -> Frame:
    """Make a frame of samples at (fractional) slots."""
    time_ns = np.rint(np.asarray(slots, np.float64) * PERIOD_NS).astype(np.int64)
    samples = np.asarray(values, np.float32)
    return Frame(stream, index, time_ns, samples.reshape(len(time_ns), -1))


def frames_of(
    time_ns: np.ndarray,
    samples: np.ndarray,
    cuts: Iterable[int] = (),
    quality: np.ndarray | None = None,
) -> list[Frame]:
    """Cut samples into frames, in the order in which they come."""
    bounds = [0, *sorted(cuts), len(time_ns)]
    return [
        Frame(
            "main",
            first,
            time_ns[first:last],
            samples[first:last],
            quality=None if quality is None else quality[first:last],
        )
        for first, last in itertools.pairwise(bounds)
    ]


class Final:
    """What was told last of every window and decision."""

    def __init__(self, outputs: Iterable[Output]) -> None:
        self.windows: dict[int, tuple[object, ...]] = {}
        self.decisions: dict[tuple[int, str, str], Decision] = {}
        self.revisions: dict[int, int] = {}
        for output in outputs:
            self._take(output)

    def _take(self, output: Output) -> None:
        told = [(row, output.estimates) for row in range(len(output.estimates))]
        gone = output.retracted
        told += [] if gone is None else [(row, gone) for row in range(len(gone))]
        # One push may revise a window more than once.
        for row, part in sorted(told, key=lambda one: one[1].revision.item(one[0])):
            index, revision = part.index.item(row), part.revision.item(row)
            assert revision == self.revisions.get(index, -1) + 1
            self.revisions[index] = revision
            times = part.start_ns.item(row), part.end_ns.item(row)
            mask = 0 if part.quality is None else part.quality.item(row)
            self.windows[index] = (*times, part.score[row].tobytes(), mask)
            if part is gone:
                del self.windows[index]
        for decision in output.decisions:
            key = decision.index, decision.label, decision.edge
            if decision.is_retracted:
                del self.decisions[key]
            else:
                self.decisions[key] = msgspec.structs.replace(decision, revision=0)

    def same_as(self, other: Final) -> bool:
        """Whether both end in the same answers."""
        return self.windows == other.windows and self.decisions == other.decisions


def final_of(pipeline: TimedPipeline, frames: Sequence[Frame]) -> Final:
    """Push all frames, end the stream, and return what was told last."""
    return Final([*map(pipeline.push, frames), pipeline.finish()])
