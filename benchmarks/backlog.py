"""One stream whose frames come as fast as they are answered, or one by one.

What a device's pipeline thread does with them: `Inbox`, `Gatherer`, `Failures`, `Serving`.
Filling the inbox is a source's work; here it is counted as the pipeline thread's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import cast

from edge_runtime.modes.failures import Failures
from edge_runtime.modes.gathering import Gatherer
from edge_runtime.modes.inbox import Inbox
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.updates import StreamUpdates
from edge_runtime.modes.vitals import Vitals
from edge_runtime.types import Frame, Output

__all__ = ["Backlog"]


class Backlog:
    """Frames that wait for a stream.

    Args:
        serving: The stream, named main.
        frames: All of them.
        is_live: Whether each comes only when the one before is answered.
    """

    def __init__(self, serving: Serving, frames: Iterable[Frame], *, is_live: bool = False) -> None:
        self._frames = iter(frames)
        self._is_live = is_live
        self._inbox: Inbox[Frame] = Inbox(8)
        self._gatherer = Gatherer(self._inbox, lambda _: None, lambda _: True)
        stream = cast("StreamUpdates", SimpleNamespace(serving=serving))
        self._failures = Failures(
            {"main": stream},
            ("main",),
            Vitals(),
            on_pipeline=lambda do: do(),
            on_agents=lambda do: do(),
            on_event=lambda *_: None,
        )

    def answer(self) -> list[Output] | None:
        """Answer the next frame and what goes along with it; None when all are answered."""
        self._fill()
        first = self._inbox.get(0.0)
        if first is None:
            return None
        start_ns = time.perf_counter_ns()
        groups = self._gatherer.take(first)
        outputs = [output for group in groups for output in self._failures.push(group)]
        self._gatherer.note(sum(map(len, groups)), time.perf_counter_ns() - start_ns)
        return outputs

    def _fill(self) -> None:
        room = 1 if self._is_live else self._inbox.limit
        while len(self._inbox) < room:
            frame = next(self._frames, None)
            if frame is None:
                return
            self._inbox.put(frame, 0.0)
