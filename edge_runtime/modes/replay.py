"""Runs a tape through the pipeline again: the same frames, layers and bundle, the same bytes.

The pipeline starts from a snapshot on the tape and takes every frame as the device
took it, in the order of arrival. It starts anew from the tape where the device did: at
the start of a process, where a pipeline took over, and after frames that are not on
the tape.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec.msgpack import encode

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.errors import BundleError, EdgeError, ModelError, StoreError
from edge_runtime.pipeline import (
    AnyPipeline,
    Pipeline,
    TimedPipeline,
    TracedPipeline,
    timed_if_asked,
)
from edge_runtime.ports import Choice, Session
from edge_runtime.spec import Layer
from edge_runtime.tape import (
    Answer,
    Answers,
    Entry,
    Origin,
    Segment,
    Silence,
    Standing,
    Stretch,
    answers_of_output,
    frames_of,
    windows_of,
)
from edge_runtime.types import Decision, Frame, Output

__all__ = ["Bundles", "Comparison", "Replay", "Step", "entries_of"]


class Bundles:
    """Finds the bundles of a tape, and opens each once.

    Args:
        other: Runs this one instead, whatever the tape says.
    """

    def __init__(self, other: Path | None = None) -> None:
        self._other = None if other is None else load_bundle(other)
        self._found: dict[str, Bundle] = {}

    @property
    def is_fixed(self) -> bool:
        """Whether one bundle runs, whatever the tape says."""
        return self._other is not None

    def find(self, standing: Standing, places: Sequence[str]) -> Bundle:
        """Return the bundle to run for what the tape says.

        Raises:
            BundleError: It lies nowhere that the tape knows.
        """
        if self._other is not None:
            return self._other
        found = self._found.get(standing.base) or self._searched(standing, places)
        self._found[standing.base] = found
        return found

    def _searched(self, standing: Standing, places: Sequence[str]) -> Bundle:
        candidates = [one for place in places for one in _bundles_at(Path(place), standing.base)]
        for path in candidates:
            try:
                bundle = load_bundle(path)
            except EdgeError:
                continue
            if bundle.digest == standing.base:
                return bundle
        raise BundleError(
            f"bundle {standing.ref} with digest {standing.base[:16]} is not there any more",
            where=", ".join(map(str, places)),
            expected="the bundle that was recorded with, unchanged",
            remedy="Give the folder or zip file of it with --bundle, or another one to compare.",
        )


def _bundles_at(place: Path, base: str) -> Iterator[Path]:
    """Yield the place itself, and the archive of that base in it."""
    archive = place / f"{base}.zip"
    if archive.exists():
        yield archive
    if place.is_file() or (place / "bundle.yaml").exists():
        yield place


class Step(msgspec.Struct, frozen=True, eq=False):
    """What one frame gave, or a silence.

    Attributes:
        stream: Name of the stream.
        epoch: Of the process that recorded it.
        due_ns: When it came, in event time.
        frame: The frame; None where time went on without one.
        output: What came of it; None where the device's model was away.
    """

    stream: str
    epoch: int
    due_ns: int
    frame: Frame | None
    output: Output | None


class Comparison(msgspec.Struct):
    """How what was made again relates to what the device had made.

    An answer that late samples have changed counts for each time it was told.

    Attributes:
        windows: Windows answered by both.
        decisions: Decisions made by both.
        different: Windows of which anything that was said differs in any bit.
        largest: Largest difference of a value.
        altered: Decisions that differ in any byte; another base always shows in them.
        absent: Windows that the device answered and the replay did not.
        missing: Decisions that the device made and the replay did not.
        added: Decisions that only the replay made.
        unrecorded: Windows whose recorded answer is not on the tape.
    """

    windows: int = 0
    decisions: int = 0
    different: int = 0
    largest: float = 0.0
    altered: int = 0
    absent: int = 0
    missing: list[Decision] = msgspec.field(default_factory=list)
    added: list[Decision] = msgspec.field(default_factory=list)
    unrecorded: int = 0

    @property
    def is_equal(self) -> bool:
        """Whether every byte is the same."""
        return not (self.different or self.altered or self.absent or self.missing or self.added)


def entries_of(segments: Iterable[Segment]) -> Iterator[tuple[Origin, Entry]]:
    """Yield every whole entry of segments with the origin it belongs to."""
    for segment in segments:
        for entry in segment.entries():
            yield segment.origin, entry


class Replay:
    """Runs the entries of one stream's tape.

    Args:
        stream: Name of the stream.
        bundles: Where bundles come from.
        is_traced: Whether every stage of every window is noted, which takes longer.

    Attributes:
        comparison: With what the device had made, so far.
        is_same: Whether every base was that of the tape.
        pipeline: What runs; None before the first standing.
        traced: The same, or what asks its model, if it is traced. Whoever reads its
            traces does so between two steps.
        backend: What runs its model, for people.
    """

    def __init__(self, stream: str, bundles: Bundles, *, is_traced: bool = False) -> None:
        self._stream = stream
        self._bundles = bundles
        self._is_traced = is_traced
        self._sessions: dict[tuple[str, Choice], Session] = {}
        self._process: tuple[int, int] | None = None
        self._layers: tuple[bytes, ...] = ()
        self._next = 0
        self._due_ns: int | None = None
        self._is_adrift = True
        self._books = _Books(stream)
        self.comparison = self._books.comparison
        self.is_same = True
        self.pipeline: AnyPipeline | None = None
        self.traced: TracedPipeline | None = None
        self.backend = ""

    @property
    def next_index(self) -> int:
        """Windows that end here or later have not been answered yet."""
        if isinstance(self.pipeline, TimedPipeline):
            return self.pipeline.next_index or 0
        return self._next

    def run(self, entries: Iterable[tuple[Origin, Entry]]) -> Iterator[Step]:
        """Push every frame, and compare what comes of it.

        Raises:
            BundleError: A bundle of the tape is not there any more.
            ModelError: The model failed.
            StoreError: What is on the tape does not fit together.
        """
        for origin, entry in entries:
            match entry:
                case Standing():
                    self._stand(origin, entry)
                case Stretch() if self.pipeline is not None:
                    yield from self._stretched(origin, entry, self.pipeline)
                case Silence() if isinstance(self.pipeline, TimedPipeline):
                    yield self._silent(origin, entry, self.pipeline)
                case Answers():
                    self._books.compare(entry)
        self._books.close()

    def close(self) -> None:
        """Free the models; safe to call twice."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    # --- standing -----------------------------------------------------------------

    def _stand(self, origin: Origin, standing: Standing) -> None:
        """Do what the device did; elsewhere the pipeline stands as the tape says already."""
        process = origin.epoch, origin.incarnation
        is_continued = (process, standing.position) == (self._process, self._next)
        if not is_continued:
            self._books.close()
        is_replaced = standing.change == "pipeline" and not self._bundles.is_fixed
        if not is_continued or self._is_adrift or is_replaced:
            self._open(origin, standing)
        elif self._has_other_layers(standing) and self.pipeline is not None and self.is_same:
            self.pipeline.activate(_layers(standing))
        self._process, self._next = process, standing.position
        self._layers, self._is_adrift = standing.layers, False

    def _has_other_layers(self, standing: Standing) -> bool:
        # The same layers again end what late samples can revise.
        return standing.change == "layers" or self._layers != standing.layers

    def _open(self, origin: Origin, standing: Standing) -> None:
        bundle = self._bundles.find(standing, origin.places)
        is_same = bundle.digest == standing.base
        # Where it ran does not change an answer, and here nothing needs to be protected.
        choice = msgspec.structs.replace(standing.choice, isolation="thread")
        if not is_same:
            choice = Choice()
        self.is_same &= is_same
        self._books.is_same = is_same
        self.backend = _backend(bundle, choice)
        layers = _layers(standing) if is_same else []
        pipeline = timed_if_asked(self._built(bundle, choice, layers), standing.timing)
        _restore(pipeline, standing)
        self.pipeline = pipeline

    def _built(self, bundle: Bundle, choice: Choice, layers: Sequence[Layer]) -> Pipeline:
        kind = TracedPipeline if self._is_traced else Pipeline
        pipeline = kind(
            bundle.spec,
            self._session(bundle, choice),
            base=bundle.digest,
            layers=layers,
            stream=self._stream,
            micro_batch=choice.micro_batch,
        )
        self.traced = pipeline if isinstance(pipeline, TracedPipeline) else None
        return pipeline

    def _session(self, bundle: Bundle, choice: Choice) -> Session:
        key = bundle.digest, choice
        if key not in self._sessions:
            self._sessions[key] = open_session(bundle, choice)
        self._sessions[key].reset()
        return self._sessions[key]

    # --- frames -------------------------------------------------------------------

    def _stretched(self, origin: Origin, stretch: Stretch, pipeline: AnyPipeline) -> Iterator[Step]:
        for frame in frames_of(stretch, f"tape of {self._stream}"):
            self._next = frame.index + len(frame)
            if len(frame):
                self._due_ns = frame.time_ns.item(-1)
            if stretch.is_passed:
                self._is_adrift = True
                yield self._step(origin, frame, None)
                continue
            self._forget_traces()
            output = pipeline.push(frame)
            self._books.note(output)
            yield self._step(origin, frame, output)

    def _silent(self, origin: Origin, silence: Silence, pipeline: TimedPipeline) -> Step:
        self._forget_traces()
        if silence.passed_s is None:
            output = pipeline.finish()
        else:
            output = pipeline.pass_time(silence.passed_s)
        self._books.note(output)
        return self._step(origin, None, output, silence.passed_s or 0.0)

    def _forget_traces(self) -> None:
        if self.traced is not None:
            self.traced.traces.clear()

    def _step(
        self, origin: Origin, frame: Frame | None, output: Output | None, passed_s: float = 0.0
    ) -> Step:
        due_ns = (self._due_ns or 0) + round(passed_s * 1e9)
        return Step(self._stream, origin.epoch, due_ns, frame, output)


def _backend(bundle: Bundle, choice: Choice) -> str:
    artefact, _ = bundle.artefact(choice.backend, choice.artefact)
    where = f" on {choice.accelerator}" if choice.accelerator else ""
    return f"{choice.backend or artefact.backend}{where} with {artefact.file}"


def _layers(standing: Standing) -> list[Layer]:
    return [Layer.decode(one) for one in standing.layers]


def _restore(pipeline: AnyPipeline, standing: Standing) -> None:
    """Go on from the tape's snapshot; another base, as far as it fits that one."""
    try:
        pipeline.restore(standing.snapshot, base=standing.base)
    except ModelError:
        if pipeline.base == standing.base:
            raise


_Said = tuple[int, int, bool]


class _Books:
    """Answers made again, until those of the device come by on the tape.

    What came of the entries up to a commit stands in the commit's own answers: whatever
    is left then has no counterpart.

    Args:
        stream: Name of the stream.

    Attributes:
        comparison: So far.
        is_same: Whether the bundle that answers is that of the tape.
    """

    def __init__(self, stream: str) -> None:
        self._where = f"tape of {stream}"
        self.comparison = Comparison()
        self.is_same = True
        self._made: dict[_Said, list[Answer]] = {}
        self._first: int | None = None
        self._again: dict[Hashable, Decision] = {}
        self._recorded: dict[Hashable, Decision] = {}
        self._has_met = False

    def note(self, output: Output) -> None:
        """Take what was made again."""
        for answers in answers_of_output(output):
            for one in windows_of(answers):
                self._made.setdefault(_said(one), []).append(one)
                self._first = one.index if self._first is None else self._first
        self._again |= {_key(decision): decision for decision in output.decisions}

    def compare(self, answers: Answers) -> None:
        """Compare with what the device made of windows that were answered again."""
        for one in _windows(answers, self._where):
            made = self._made.get(_said(one))
            if made:
                self._note_window(made.pop(0), one)
            elif self._is_ours(one.index):
                self.comparison.absent += 1
        self._recorded |= {_key(one): one for one in answers.decisions}
        if answers.is_last:
            self._settle()

    def close(self) -> None:
        """Forget what the device has not answered: the tape was cut off, or goes on elsewhere."""
        self.comparison.unrecorded += sum(map(len, self._made.values()))
        self._made, self._again, self._recorded = {}, {}, {}
        self._first, self._has_met = None, False

    def _is_ours(self, index: int) -> bool:
        """Tell whether a replay has to make what the device made.

        The first commit may also tell of entries before those that were replayed.
        """
        return self._has_met or (self._first is not None and index >= self._first)

    def _note_window(self, made: Answer, recorded: Answer) -> None:
        found = self.comparison
        found.windows += 1
        if not self.is_same:
            # Of another bundle it is known already that it is another.
            made = msgspec.structs.replace(made, effective_id=recorded.effective_id)
        if made == recorded:
            return
        found.different += 1
        again, value = np.frombuffer(made.value), np.frombuffer(recorded.value)
        if again.shape == value.shape:
            found.largest = max(found.largest, float(np.nanmax(np.abs(again - value))))

    def _settle(self) -> None:
        """Let go of everything up to a commit."""
        for key in self._recorded.keys() & self._again.keys():
            again, recorded = self._again.pop(key), self._recorded.pop(key)
            self.comparison.decisions += 1
            if encode(again) != encode(recorded):
                self.comparison.altered += 1
        ours = (one for one in self._recorded.values() if self._is_ours(one.index))
        self.comparison.missing += ours
        self.comparison.added += self._again.values()
        self.comparison.unrecorded += sum(map(len, self._made.values()))
        self._made, self._again, self._recorded = {}, {}, {}
        self._has_met = True


def _windows(answers: Answers, where: str) -> list[Answer]:
    try:
        return list(windows_of(answers))
    except ValueError as error:
        raise StoreError(
            f"the device's own answers do not fit: {error}",
            where=where,
            expected="columns of one length",
            remedy="Replay what lies before or behind them, with --from and --to.",
        ) from error


def _said(answer: Answer) -> _Said:
    return answer.index, answer.revision, answer.is_retracted


def _key(decision: Decision) -> Hashable:
    return (
        decision.index,
        decision.label,
        decision.edge,
        decision.revision,
        decision.is_retracted,
    )
