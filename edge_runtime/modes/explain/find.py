"""Finds the window behind a result on a tape, and answers it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.errors import SourceError
from edge_runtime.identity import ResultId, decision_id
from edge_runtime.modes.explain.context import Context
from edge_runtime.modes.explain.explanation import Explanation, explanation_of
from edge_runtime.modes.explain.found import Found, Moment, Said
from edge_runtime.modes.replay import Bundles, Replay
from edge_runtime.pipeline import TimedPipeline, Trace, TracedPipeline
from edge_runtime.tape import (
    Answer,
    Answers,
    Entry,
    Origin,
    Segment,
    Standing,
    Tape,
    answers_of_output,
    open_tapes,
    place_before,
    windows_of,
)
from edge_runtime.types import Decision, Output

__all__ = ["explain"]

_MOMENTS = 64


def explain(result: ResultId, recording: Path, bundles: Bundles) -> tuple[Explanation, Found]:
    """Answer the window behind a result again, and say what each stage did.

    Args:
        result: Of a window, or of a decision made on it.
        recording: Folder of the device or the stream.
        bundles: Where bundles come from.

    Returns:
        It in words and numbers, and what `page_of` draws from.

    Raises:
        SourceError: There is no such result on the tape, or not any more.
        BundleError: The bundle that answered is not there any more.
    """
    tape = open_tapes(recording, result.stream)[result.stream]
    if tape.device != result.device:
        raise _unknown(result, f"the tape is of device {tape.device!r}", "a tape of this device")
    search = _Search(result, bundles)
    try:
        found = search.run(_segments(tape, result))
    finally:
        search.close()
    _check_decision(result, found)
    return explanation_of(str(result), found), found


def _segments(tape: Tape, result: ResultId) -> Sequence[Segment]:
    """Return where to look: of this start of the device, from the segment with the sample on."""
    epochs = sorted({one.origin.epoch for one in tape.segments})
    segments = tape.before(result.epoch, result.index)
    if segments:
        return segments
    if result.epoch > epochs[-1]:
        raise _unknown(result, f"the tape ends with epoch {epochs[-1]}", "an epoch on the tape")
    if result.epoch in epochs:
        ours = [one for one in tape.segments if one.origin.epoch == result.epoch]
        raise _expired(result, f"epoch {result.epoch} begins on it with sample {_begin(ours)}")
    raise _expired(result, f"it has the epochs {', '.join(map(str, epochs))}")


def _begin(segments: Sequence[Segment]) -> int:
    return min(one.next_index for one in segments if one.next_index is not None)


class _Search:
    """Replays a tape until nothing can be said any more of one window."""

    def __init__(self, result: ResultId, bundles: Bundles) -> None:
        self._result = result
        self._index = result.index
        self._replay = Replay(result.stream, bundles, is_traced=True)
        self._context = Context(result.index)
        self._moments: dict[int, Moment] = {}
        self._target: Trace | None = None
        self._clock = self._its_clock = ""
        self._nearby: list[int] = []
        self._said: list[Answer] = []
        self._decided: list[Decision] = []
        # How many of these the device's own answers on the tape stand beside.
        self._compared = (0, 0)
        self._recorded: list[Answer] = []
        self._recorded_decisions: list[Decision] = []

    def close(self) -> None:
        """Free the model."""
        self._replay.close()

    def run(self, segments: Sequence[Segment]) -> Found:
        """Go through the tape until the window and the device's answers to it are found."""
        for step in self._replay.run(self._entries(segments)):
            if step.frame is not None:
                self._clock = step.frame.clock
                self._context.add(step.frame, self._replay.pipeline)
            if step.output is not None and self._replay.traced is not None:
                self._look(step.output, self._replay.traced)
        if self._target is None or self._replay.traced is None:
            raise self._missing()
        return self._found(self._target, self._replay.traced)

    # --- going through the tape -----------------------------------------------------

    def _entries(self, segments: Sequence[Segment]) -> Iterator[tuple[Origin, Entry]]:
        """Yield what has to be replayed, and note the device's own answers on the way."""
        for segment, entry in _from_standing(segments, self._index):
            if isinstance(entry, Answers):
                self._note_answers(entry)
            elif self._is_done:
                return
            yield segment.origin, entry

    @property
    def _is_done(self) -> bool:
        """Whether the commit with the last that can be said of the window is behind."""
        return self._is_final and self._compared == (len(self._said), len(self._decided))

    @property
    def _is_final(self) -> bool:
        pipeline = self._replay.pipeline
        if isinstance(pipeline, TimedPipeline):
            return pipeline.is_final(self._index)
        return self._target is not None or self._has_passed

    @property
    def _has_passed(self) -> bool:
        """Whether a later window has been answered."""
        return bool(self._nearby) and self._nearby[-1] > self._index

    def _note_answers(self, answers: Answers) -> None:
        self._recorded += [one for one in windows_of(answers) if one.index == self._index]
        self._recorded_decisions += _on(answers.decisions, self._index)
        if answers.is_last:
            self._compared = len(self._said), len(self._decided)

    def _look(self, output: Output, traced: TracedPipeline) -> None:
        for trace in traced.traces:
            if trace.index <= self._index:
                self._moments[trace.index] = _moment(trace)
            if not self._has_passed:
                self._nearby = [*self._nearby[-1:], trace.index]
            if trace.index == self._index:
                self._target, self._its_clock = trace, self._clock
        for one in () if output.retracted is None else output.retracted.index.tolist():
            self._moments.pop(one, None)
        self._trim()
        told = (one for answers in answers_of_output(output) for one in windows_of(answers))
        self._said += [one for one in told if one.index == self._index]
        self._decided += _on(output.decisions, self._index)

    def _trim(self) -> None:
        if len(self._moments) > 2 * _MOMENTS:
            self._moments = dict(sorted(self._moments.items())[-_MOMENTS:])

    # --- what was found ---------------------------------------------------------------

    def _found(self, trace: Trace, traced: TracedPipeline) -> Found:
        spec = traced.spec
        said, decided = self._compared
        # The window may have been taken back; then it is shown as it was answered last.
        moments = self._moments | {trace.index: _moment(trace)}
        return Found(
            trace=trace,
            spec=spec,
            base=traced.base,
            layers=[f"{layer.kind} {layer.digest[:16]}" for layer in traced.layers],
            backend=self._replay.backend,
            signal=self._context.signal(trace, spec),
            clock=self._its_clock,
            moments=[moments[index] for index in sorted(moments)[-_MOMENTS:]],
            said=Said(tuple(self._said), tuple(self._decided)),
            compared=Said(tuple(self._said[:said]), tuple(self._decided[:decided])),
            recorded=Said(tuple(self._recorded), tuple(self._recorded_decisions)),
            is_same_bundle=self._replay.is_same,
        )

    def _missing(self) -> SourceError:
        next_index = self._replay.next_index
        if next_index <= self._index:
            return _unknown(
                self._result,
                f"what the tape has of this start of the device ends with sample {next_index - 1}",
                "a sample on the tape; a crash may have cut it off, or it is still being written",
            )
        near = ", ".join(map(str, sorted(set(self._nearby)))) or "none"
        return _unknown(
            self._result,
            f"no window ends with sample {self._index}; near it some end with {near}",
            "the last sample of a window that was answered",
        )


def _from_standing(segments: Sequence[Segment], index: int) -> Iterator[tuple[Segment, Entry]]:
    """Yield entries from a standing on that leaves some windows before the one of interest."""
    first = list(segments[0].entries())
    standings = [(n, one) for n, one in enumerate(first) if isinstance(one, Standing)]
    last = place_before([one.next_index for _, one in standings], index) or 0
    begin = 0
    for place, _ in reversed(standings[: last + 1]):
        begin = place
        if sum(_windows_before(one, index) for one in first[place:]) >= _MOMENTS:
            break
    yield from ((segments[0], one) for one in first[begin:])
    for segment in segments[1:]:
        yield from ((segment, one) for one in segment.entries())


def _windows_before(entry: Entry, index: int) -> int:
    if not isinstance(entry, Answers):
        return 0
    return int(np.count_nonzero(np.frombuffer(entry.index, np.int64) < index))


def _moment(trace: Trace) -> Moment:
    return Moment(
        index=trace.index,
        end_ns=trace.end_ns,
        value=trace.value.tolist(),
        smoothed=None if trace.smoothed is None else trace.smoothed.tolist(),
        decisions=trace.decisions,
    )


def _on(decisions: Sequence[Decision], index: int) -> list[Decision]:
    return [one for one in decisions if one.index == index]


def _check_decision(result: ResultId, found: Found) -> None:
    """Refuse the name of a decision that neither the device nor the replay has made."""
    if result.model is None:
        return
    made = (*found.said.decisions, *found.recorded.decisions)
    if any(result.names(one) for one in made):
        return
    known = {str(decision_id(result.device, result.epoch, one)) for one in made}
    window = str(msgspec.structs.replace(result, model=None, label=None, edge=None))
    raise _unknown(
        result,
        "the window is there, but no such decision was made on it",
        ", ".join(sorted(known)) or f"{window}, the window itself: nothing was decided on it",
    )


def _unknown(result: ResultId, what: str, expected: str) -> SourceError:
    return SourceError(
        what,
        where=str(result),
        expected=expected,
        remedy="Copy the result from the output of the device that --recording belongs to.",
    )


def _expired(result: ResultId, what: str) -> SourceError:
    return SourceError(
        f"it is not on the tape any more: {what}",
        where=str(result),
        expected="a result that the ring still holds",
        remedy="Give the ring more room (record.quota_mb, record.max_age_s) to reach back further.",
    )
