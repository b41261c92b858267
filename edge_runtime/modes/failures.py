"""A model that fails takes neither its device nor the other streams with it.

What a failed model did not answer is counted as ``model_failed``. The model is
opened again: at once the first time, then after growing waits on a thread of its
own, while its frames are passed over. A base that fails again and again is given
up like one that crashes: it goes into quarantine, and the base before takes over.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from edge_runtime.errors import EdgeError, ModelError, ShapeError
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.updates import StreamUpdates
from edge_runtime.modes.vitals import Vitals
from edge_runtime.pipeline import AnyPipeline, Pipeline, TimedPipeline, answer_together
from edge_runtime.pipeline.joining import joined
from edge_runtime.pipeline.pipeline import Question
from edge_runtime.types import Frame, Output
from edge_runtime.update.actions import Serving as Chosen

__all__ = ["Failures"]

log = logging.getLogger(__name__)

OnEvent = Callable[[str, Mapping[str, object]], None]
# A model is opened again after a random time up to this, doubling each time.
_WAIT_S = (0.5, 30.0)
# Failures, without so many answers in a row in between, that end a base's service.
_MOST = 5
_GOOD_WINDOWS = 256
# A snapshot up to this takes less than answering a few frames at once saves.
_SMALL_SNAPSHOT_BYTES = 1 << 16


class _Stream(msgspec.Struct):
    """How a stream's model does.

    Attributes:
        failures: Since it served well.
        answered: Windows since it failed last.
        is_away: Whether it is being opened again.
        is_refused: Whether its last frame had a wrong shape.
        is_recovering: Whether windows may be missing because rows before them are.
        has_small_snapshots: As far as one was taken.
        lost: What gave no result, by reason.
    """

    failures: int = 0
    answered: int = 0
    is_away: bool = False
    is_refused: bool = False
    is_recovering: bool = False
    has_small_snapshots: bool = True
    lost: dict[str, int] = msgspec.field(default_factory=dict)


class Failures:
    """Push frames, and mend the model that fails.

    Thread: `push` belongs to the pipeline thread.

    Args:
        streams: By name; filled before the first frame comes.
        names: Of all streams, in the order of their numbers.
        vitals: Told which model is called.
        on_pipeline: Runs something on the pipeline thread, between two windows.
        on_agents: Runs something on the thread of the update agents.
        on_event: Told about bases that were given up.
    """

    def __init__(
        self,
        streams: Mapping[str, StreamUpdates],
        names: Sequence[str],
        vitals: Vitals,
        *,
        on_pipeline: Callable[[Callable[[], None]], None],
        on_agents: Callable[[Callable[[], None]], None],
        on_event: OnEvent,
    ) -> None:
        self._streams = streams
        self._numbers = {name: number for number, name in enumerate(names)}
        self._states = {name: _Stream() for name in names}
        self._vitals = vitals
        self._stop = threading.Event()
        self._mends: list[threading.Thread] = []
        self._on_pipeline = on_pipeline
        self._on_agents = on_agents
        self._on_event = on_event

    def lost(self, stream: str) -> dict[str, int]:
        """Return what gave no result for want of a model: windows, or samples of a wrong shape."""
        return self._states[stream].lost

    def may_go_at_once(self, stream: str) -> bool:
        """Tell whether `push` may get several frames: going back would cost little, and is rare."""
        state = self._states[stream]
        return state.has_small_snapshots and not (state.failures or state.is_refused)

    def close(self) -> None:
        """Give up what is being mended, and wait for its threads."""
        self._stop.set()
        for thread in self._mends:
            thread.join()

    def push(self, frames: Sequence[Frame]) -> list[Output]:
        """Run frames of one stream through its pipeline; what has no answer is left out.

        Args:
            frames: Each follows the one before. They are answered at once; where that
                fails they are answered one by one, so that it takes one frame.
        """
        if len(frames) > 1:
            outputs = self._pushed_at_once(joined(frames))
            if outputs is not None:
                return outputs
        return [output for frame in frames if (output := self._pushed(frame)) is not None]

    def _pushed_at_once(self, frame: Frame) -> list[Output] | None:
        """Return what several frames give as one; None if each must be asked about by itself.

        Then everything is as before, but for a model that was opened again.
        """
        name, before = frame.stream, None
        serving = self._streams[name].serving
        self._vitals.enter(self._numbers[name])
        try:
            before = serving.pipeline.snapshot()
            self._states[name].has_small_snapshots = len(before) <= _SMALL_SNAPSHOT_BYTES
            output = serving.push(frame)
        except (ShapeError, ModelError) as error:
            log.error("model.failed_at_once", extra={"stream": name, "why": str(error)})
            return None if before is None else self._returned(frame, before, error)
        finally:
            self._vitals.leave()
        self._note(frame, output)
        return [output]

    def _returned(
        self, frame: Frame, before: bytes, error: ShapeError | ModelError
    ) -> list[Output] | None:
        """Go back to a snapshot, with a model that failed opened again; else the frame is lost."""
        name = frame.stream
        serving = self._streams[name].serving
        try:
            if isinstance(error, ModelError):
                serving.replace(self._built(name), snapshot=before)
            else:
                serving.pipeline.restore(before)
        except EdgeError as fault:
            log.error("model.not_opened", extra={"stream": name, "why": str(fault)})
            self._fail(frame, fault)
            return []
        return None

    def _pushed(self, frame: Frame) -> Output | None:
        """Return what a frame gives; None where the model does not answer."""
        name = frame.stream
        if self._states[name].is_away:
            self._pass_over(frame)
            return None
        self._vitals.enter(self._numbers[name])
        try:
            output = self._streams[name].serving.push(frame)
        except ShapeError as error:
            self._refuse(frame, error)
            return None
        except ModelError as error:
            self._fail(frame, error)
            return None
        finally:
            self._vitals.leave()
        self._note(frame, output)
        return output

    def pass_time(self, name: str, passed_s: float) -> Output | None:
        """Let a stream's time go on without a frame; None where that gives nothing."""
        return self._without_frame(name, lambda serving: serving.pass_time(passed_s))

    def finish(self, name: str) -> Output | None:
        """End a stream whose source has ended; None where that gives nothing."""
        return self._without_frame(name, Serving.finish)

    def _without_frame(self, name: str, do: Callable[[Serving], Output | None]) -> Output | None:
        if self._states[name].is_away:
            return None
        self._vitals.enter(self._numbers[name])
        try:
            return do(self._streams[name].serving)
        except ModelError as error:
            log.error("model.failed", extra={"stream": name, "why": str(error), "n": 1})
            self._reopen(name)
            return None
        finally:
            self._vitals.leave()

    def push_together(self, frames: Sequence[Frame]) -> list[Output]:
        """Run frames of streams that share a session; what has no answer is left out.

        Args:
            frames: One of each stream; all have the same `Pipeline.common_session`.
        """
        asked = [(frame, questions) for frame in frames if (questions := self._asked(frame))]
        if not asked:
            return []
        self._vitals.enter(self._numbers[asked[0][0].stream])
        start_ns = time.perf_counter_ns()
        try:
            outputs = answer_together(
                [
                    (_behind(self._streams[frame.stream].serving.pipeline), one)
                    for frame, one in asked
                ]
            )
        except ModelError as error:
            for frame, _ in asked:
                self._fail(frame, error)
            return []
        finally:
            self._vitals.leave()
        share_ns = (time.perf_counter_ns() - start_ns) // len(asked)
        for (frame, _), output in zip(asked, outputs, strict=True):
            self._streams[frame.stream].serving.keep(frame, output, share_ns)
            self._note(frame, output)
        return outputs

    def _asked(self, frame: Frame) -> list[Question]:
        """Return a frame's questions; without any it is done with."""
        serving = self._streams[frame.stream].serving
        if self._states[frame.stream].is_away:
            self._pass_over(frame)
            return []
        try:
            questions = _behind(serving.pipeline).ask(frame)
        except ShapeError as error:
            self._refuse(frame, error)
            return []
        if not questions:
            serving.take_in(frame)
        return questions

    def _note(self, frame: Frame, output: Output) -> None:
        state = self._states[frame.stream]
        state.is_refused = False
        if state.failures or state.is_recovering:
            self._note_answers(frame, len(output.estimates))

    def _refuse(self, frame: Frame, error: ShapeError) -> None:
        name, state = frame.stream, self._states[frame.stream]
        self._count(name, "wrong_shape", len(frame))
        self._streams[name].serving.skip(frame)
        if not state.is_refused:
            state.is_refused = True
            log.warning("frame.refused", extra={"stream": name, "why": str(error)})

    def _note_answers(self, frame: Frame, count: int) -> None:
        name, state = frame.stream, self._states[frame.stream]
        if state.is_recovering:
            missing = self._windows_in(frame) - count
            self._count(name, "model_failed", max(0, missing))
            state.is_recovering = missing > 0 or count == 0
        if count and not state.answered:
            log.info("model.answers_again", extra={"stream": name})
        state.answered += count
        if state.answered >= _GOOD_WINDOWS:
            state.failures = 0

    # --- counting -----------------------------------------------------------------

    def _pass_over(self, frame: Frame) -> None:
        self._count(frame.stream, "model_failed", self._windows_in(frame))
        self._states[frame.stream].is_recovering = True
        self._streams[frame.stream].serving.skip(frame)

    def _windows_in(self, frame: Frame) -> int:
        """Return how many windows end in a frame: at length - 1, and then every hop."""
        window = self._streams[frame.stream].serving.pipeline.spec.window
        first, last = frame.index, frame.index + len(frame)
        ends = [max(0, (end - window.length) // window.hop + 1) for end in (first, last)]
        return ends[1] - ends[0]

    def _count(self, stream: str, reason: str, count: int) -> None:
        lost = self._states[stream].lost
        lost[reason] = lost.get(reason, 0) + count

    # --- mending ------------------------------------------------------------------

    def _fail(self, frame: Frame, error: EdgeError) -> None:
        name, state = frame.stream, self._states[frame.stream]
        self._pass_over(frame)
        state.failures += 1
        state.answered = 0
        log.error("model.failed", extra={"stream": name, "why": str(error), "n": state.failures})
        if state.failures == 1 and self._reopen(name):
            return
        state.is_away = True
        failed = self._streams[name].serving.pipeline
        mend = threading.Thread(
            target=self._mend, args=(name, failed, error), name="mend", daemon=True
        )
        self._mends = [
            thread for thread in (*self._mends, mend) if thread is mend or thread.is_alive()
        ]
        mend.start()

    def _reopen(self, name: str) -> bool:
        """Open the same base again, here and now."""
        updates = self._streams[name]
        try:
            updates.serving.replace(self._built(name))
        except EdgeError as error:
            log.error("model.not_opened", extra={"stream": name, "why": str(error)})
            return False
        return True

    def _mend(self, name: str, failed: AnyPipeline, error: EdgeError) -> None:
        """Wait, open the base again or the one before, and put it in place."""
        state = self._states[name]
        wait_s = min(_WAIT_S[0] * 2 ** max(0, state.failures - 2), _WAIT_S[1])
        while not self._stop.wait(random.uniform(wait_s / 2, wait_s)):  # noqa: S311 - jitter
            try:
                pipeline = self._built(name, str(error) if state.failures >= _MOST else None)
            except EdgeError as fault:
                log.error("model.not_opened", extra={"stream": name, "why": str(fault)})
                state.failures += 1
                wait_s = min(2 * wait_s, _WAIT_S[1])
                continue
            self._on_pipeline(partial(self._replace, name, failed, pipeline))
            return

    def _built(self, name: str, given_up: str | None = None) -> AnyPipeline:
        updates = self._streams[name]
        if given_up is not None:
            chosen = self._other_base(name, given_up)
            return updates.build(chosen.bundle, chosen.layers, is_new=True)
        layers = updates.serving.pipeline.layers
        return updates.build(updates.agent.bundle, layers, is_new=True)

    def _other_base(self, name: str, why: str) -> Chosen:
        """Let the agent, on its thread, choose what to run instead."""
        chosen: list[Chosen | EdgeError] = []
        done = threading.Event()

        def choose() -> None:
            try:
                chosen.append(self._streams[name].agent.give_up(why))
            except EdgeError as error:
                chosen.append(error)
            done.set()

        self._on_agents(choose)
        while not done.wait(1.0):
            if self._stop.is_set():
                raise ModelError("the device ends", where=name)
        if isinstance(chosen[0], EdgeError):
            raise chosen[0]
        return chosen[0]

    def _replace(self, name: str, failed: AnyPipeline, pipeline: AnyPipeline) -> None:
        serving, state = self._streams[name].serving, self._states[name]
        state.is_away = False
        if serving.pipeline is not failed:
            # An update was quicker.
            return
        is_other = pipeline.base != failed.base
        if not is_other:
            pipeline.activate(failed.layers)
        serving.replace(pipeline)
        if is_other:
            state.failures = 0
            facts = {"stream": name, "base": pipeline.base, "effective_id": pipeline.effective_id}
            self._on_event("base.activated", {**facts, "index": serving.position})


def _behind(pipeline: AnyPipeline) -> Pipeline:
    """Return what asks the model: streams that are asked together have no grid."""
    return pipeline.behind if isinstance(pipeline, TimedPipeline) else pipeline
