"""One loaded bundle that answers requests: windows, samples of a sequence, or bare tensors."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from edge_runtime.bundle import Bundle, Golden
from edge_runtime.errors import BundleError, RequestError
from edge_runtime.metrics import Histogram
from edge_runtime.modes.models import TimedSession, stage_times
from edge_runtime.modes.realtime.arrays import DECISION, stream_arrays, window_arrays
from edge_runtime.modes.realtime.lane import Lane
from edge_runtime.modes.realtime.request import Answer, Request
from edge_runtime.modes.realtime.sequences import Sequence, Sequences
from edge_runtime.modes.realtime.tensors import Tensor, datatype_of
from edge_runtime.pipeline import BATCH, AnyPipeline, Pipeline, timed_if_asked
from edge_runtime.ports import Choice, Clock, Timing
from edge_runtime.registry import closest
from edge_runtime.types import Estimates, Output, TensorSpec, Windows
from edge_runtime.update.book import LayerBook
from edge_runtime.update.proof import golden_windows

__all__ = ["Counts", "ServedModel", "TensorFact"]

_WARM_UP = 5
_STREAM = "main"
_FLOAT32, _INT64 = np.dtype(np.float32), np.dtype(np.int64)


class TensorFact(msgspec.Struct, frozen=True):
    """What metadata say of a tensor; -1 stands for any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Counts:
    """What one version of a model has done; written where it runs, read by anybody.

    Attributes:
        answered: Requests answered.
        windows: Windows scored.
        stages: Of a cascade, by the stage that answered them.
        decisions: Labels that started or ended.
        discarded: Samples and windows of sequences that gave no result, by reason.
        refused: Requests not answered, by reason.
        times: From a request to its answer.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.windows = 0
        self.stages: Counter[str] = Counter()
        self.decisions = 0
        self.discarded: Counter[str] = Counter()
        self.refused: dict[str, int] = {}
        self.times = Histogram()

    def note_windows(self, estimates: Estimates, stages: tuple[str, ...]) -> None:
        """Count windows; ``stages`` are those of the bundle."""
        self.windows += len(estimates)
        if estimates.stage is not None:
            for name, count in zip(stages, np.bincount(estimates.stage).tolist(), strict=False):
                self.stages[name] += count


class ServedModel:
    """A bundle, opened: checks requests on the event loop and answers them on its lane.

    Answers to windows are byte-equal to `Pipeline.score_windows`, answers to the
    samples of a sequence to `Pipeline.push` with the layers of the entity whose id is
    that of the sequence; on a grid to `TimedPipeline.push`, and the end of a sequence
    to its `finish`. A window has no time, so no layer counts for it.

    Args:
        bundle: What is served.
        choice: How it is run.
        session: Its model, opened for this object alone.
        book: Layers of the entities.
        lane: Where it runs.
        sequences: The server's streams.
        timing: How long a sequence waits for samples on a grid; None as usual.
        counts: What this version has done before it was loaded again.
        most: Largest number of windows, rows or samples in a request.
        clock: Measures the first answers.

    Attributes:
        bundle: As given.
        book: As given; may be replaced, for the sequences that start from then on.
        lane: As given.
        counts: As given, and counted on.
        inputs: Of a request without parameters.
        outputs: Of its answer.

    Raises:
        BundleError: It does not repeat its golden answers.
        ModelError: It does not fit its own description, or fails.
    """

    def __init__(
        self,
        bundle: Bundle,
        choice: Choice,
        session: TimedSession,
        *,
        book: LayerBook,
        lane: Lane,
        sequences: Sequences,
        timing: Timing | None,
        counts: Counts,
        most: int,
        clock: Clock,
    ) -> None:
        self.bundle = bundle
        self.book = book
        self.lane = lane
        self.counts = counts
        self._choice = choice
        self._session = session
        self._sequences = sequences
        self._timing = timing
        self._most = most
        spec = bundle.spec
        self._pipeline = self.open_stream()
        self._channels = len(spec.stream.channels)
        self._window = spec.window.length, self._channels
        golden = bundle.golden()
        # What the bundle's own windows are made of is what its sources deliver.
        self._dtype = _FLOAT32 if golden.inputs.dtype.kind == "f" else golden.inputs.dtype
        labels = len(spec.labels)
        datatype = datatype_of(self._dtype)
        self.inputs = (TensorFact("window", datatype, (-1, *self._window)),)
        stage = (TensorFact("stage", "UINT8", (-1,)),) if spec.cascade else ()
        answers = [TensorFact(name, "FP64", (-1, labels)) for name in ("value", "score")]
        self.outputs = (*answers, *stage)
        self._routes = {
            "window": frozenset({"window"}),
            "samples": frozenset({"samples", "time_ns"}),
            "tensor": frozenset({session.inputs[0].name}),
        }
        self._named = {
            "window": tuple(fact.name for fact in self.outputs),
            "samples": tuple(stream_arrays(self._nothing(), has_decisions=True)),
            "tensor": (session.outputs[0].name,),
        }
        self._prove(golden, clock)

    def open_stream(self, sequence: str | int | None = None) -> AnyPipeline:
        """Return a pipeline with state of its own on the same loaded model.

        Args:
            sequence: Whose layers count; None takes none.
        """
        pipeline = Pipeline(
            self.bundle.spec,
            self._session.fork(),
            base=self.bundle.digest,
            layers=() if sequence is None else self.book.of(str(sequence)),
            stream=_STREAM,
            block=self._choice.block,
            micro_batch=self._choice.micro_batch,
        )
        return timed_if_asked(pipeline, self._timing)

    def close_stream(self, opened: Callable[[], AnyPipeline | None]) -> None:
        """Let go of a pipeline behind what waits for the model."""

        def close() -> None:
            pipeline = opened()
            # A model without state has one session for all.
            if pipeline is not None and pipeline.scorer.session is not self._session:
                pipeline.scorer.session.close()

        self.lane.run_last(close)

    def close(self) -> None:
        """Free the model behind what waits for it; nothing may be asked after."""
        self.close_stream(lambda: self._pipeline)
        self.lane.run_last(self._session.close)
        self.lane.close()

    def _prove(self, golden: Golden, clock: Clock) -> None:
        """Repeat the golden answers, and see how long a window takes."""
        answers = self._pipeline.score_windows(golden_windows(golden.inputs)).score
        worst = float(np.abs(answers - golden.outputs).max(initial=0.0))
        if not worst <= self.bundle.spec.tolerance:
            raise BundleError(
                f"an answer to a golden window differs by {worst:g}",
                where=self.bundle.ref,
                expected=f"at most its tolerance, {self.bundle.spec.tolerance:g}",
                remedy="Choose another backend or artefact, or make the bundle again.",
            )
        one = golden_windows(golden.inputs[:1])
        taken_ns = []
        for _ in range(_WARM_UP):
            start_ns = clock.monotonic_ns()
            self._pipeline.score_windows(one)
            taken_ns.append(clock.monotonic_ns() - start_ns)
        self.lane.window_ns = float(min(taken_ns))

    # --- what it is -------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The model line."""
        return self.bundle.spec.name

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.bundle.spec.version

    @property
    def backend(self) -> str:
        """What kind of file runs."""
        return self.bundle.artefact(self._choice.backend, self._choice.artefact)[0].backend

    @property
    def inferences(self) -> Histogram:
        """Times of the calls of the model."""
        return self._session.answers

    @property
    def stage_inferences(self) -> dict[str, Histogram]:
        """Times of the calls of each model of a cascade; none without one."""
        return stage_times(self.bundle.spec, self._session)

    def facts(self) -> dict[str, Any]:
        """Return what a client should know beside the tensors of a plain request."""
        spec = self.bundle.spec
        rows = [TensorFact("samples", self.inputs[0].datatype, (-1, self._channels))]
        return {
            "kind": spec.kind,
            "labels": spec.labels,
            "unit": spec.unit,
            "channels": [msgspec.structs.asdict(channel) for channel in spec.stream.channels],
            "rate_hz": spec.stream.rate_hz,
            "hop": spec.window.hop,
            "base": self.bundle.digest,
            "effective_id": self._pipeline.effective_id,
            "sequence": {
                "inputs": [*rows, TensorFact("time_ns", "INT64", (-1,))],
                "outputs": _facts_of(stream_arrays(self._nothing(), has_decisions=True)),
            },
            "tensors": {
                "inputs": [_fact(self._session.inputs[0])],
                "outputs": [_fact(self._session.outputs[0])],
            },
        }

    def _nothing(self) -> Output:
        return self._pipeline.run_many(())

    # --- answering --------------------------------------------------------------------

    def infer(self, request: Request) -> Answer | asyncio.Future[Answer]:
        """Check a request and answer it, at once or by a future; event loop only.

        Raises:
            RequestError: It does not fit this model, or the lane is full.
            ModelError: The model failed.
        """
        parameters = request.parameters
        if parameters.sequence_id:
            return self._of_sequence(request)
        if parameters.decisions or parameters.sequence_start or parameters.sequence_end:
            raise RequestError(
                "decisions, sequence_start or sequence_end is given without sequence_id",
                where="parameters",
                expected="a sequence_id, for only a stream decides",
                remedy="Send the samples of a stream with sequence_id and sequence_start.",
            )
        return self._of_tensors(request) if parameters.tensors else self._of_windows(request)

    def _of_windows(self, request: Request) -> Answer | asyncio.Future[Answer]:
        samples = self._input(request, "window", self._dtype, self._window)
        if samples.dtype.kind == "f":
            samples = _finite(samples.astype(_FLOAT32, copy=False))
        count = len(samples)
        zeros = np.zeros(count, np.int64)
        windows = Windows(np.arange(count, dtype=np.int64), zeros, zeros, samples)

        def answer() -> Answer:
            estimates = self._pipeline.score_windows(windows)
            self.counts.note_windows(estimates, self.bundle.spec.stages)
            return self._answer(request, window_arrays(estimates))

        return self.lane.run(answer, count)

    def _of_sequence(self, request: Request) -> Answer | asyncio.Future[Answer]:
        parameters = request.parameters
        if parameters.tensors:
            raise RequestError(
                "asks for tensors", where="parameters", expected="samples, in a sequence"
            )
        samples = self._input(request, "samples", self._dtype, (self._channels,))
        time_ns = self._times(request, len(samples))
        key = self.bundle.digest, parameters.sequence_id
        if parameters.sequence_start:
            sequence = self._sequences.start(key, self)
        else:
            sequence = self._sequences.find(key)
        windows = len(samples) // self.bundle.spec.window.hop + 1
        answer = self.lane.run(lambda: self._pushed(request, sequence, samples, time_ns), windows)
        # Not before the samples are taken, or are sure to be.
        if parameters.sequence_end:
            self._sequences.end(sequence)
        return answer

    def _pushed(
        self,
        request: Request,
        sequence: Sequence,
        samples: np.ndarray,
        time_ns: np.ndarray | None,
    ) -> Answer:
        is_end = request.parameters.sequence_end
        output = sequence.push(samples, time_ns, is_end=is_end)
        self.counts.note_windows(output.estimates, self.bundle.spec.stages)
        self.counts.decisions += len(output.decisions)
        self.counts.discarded += sequence.discarded
        has_decisions = request.parameters.decisions
        arrays = stream_arrays(output, has_decisions=has_decisions)
        return self._answer(request, arrays, output.estimates.effective_id)

    def _of_tensors(self, request: Request) -> Answer | asyncio.Future[Answer]:
        source, target = self._session.inputs[0], self._session.outputs[0]
        dtype = np.dtype(source.dtype)
        tensor = self._input(request, "tensor", dtype, source.shape[1:], source.name)

        def answer() -> Answer:
            session = self._session.fork()
            parts = [session.run(tensor[rows]) for rows in _proven_blocks(len(tensor))]
            if session is not self._session:
                session.close()
            empty = np.empty((0, *map(abs, target.shape[1:])), target.dtype)
            return self._answer(request, {target.name: np.concatenate(parts) if parts else empty})

        return self.lane.run(answer, len(tensor))

    def _answer(
        self, request: Request, arrays: Mapping[str, np.ndarray], effective_id: str = ""
    ) -> Answer:
        outputs = tuple([Tensor(name, arrays[name]) for name in request.outputs or arrays])
        return Answer(self.name, self.version, outputs, effective_id or self._pipeline.effective_id)

    # --- checking ---------------------------------------------------------------------

    def _input(
        self,
        request: Request,
        route: str,
        dtype: np.dtype,
        shape: tuple[int, ...],
        name: str | None = None,
    ) -> np.ndarray:
        """Return the one input of a request after a look at all that can be wrong with it."""
        name = name or route
        array = request.inputs.get(name)
        if array is None or not self._routes[route].issuperset(request.inputs):
            raise self._inputs_error(request, route)
        self._check_array(array, dtype, shape, f"input {name!r}")
        self._check_outputs(request, route)
        return array

    def _check_outputs(self, request: Request, route: str) -> None:
        """Refuse an output that there is not, before a stream has moved on."""
        if not request.outputs:
            return
        known = self._named[route]
        if route == "samples" and not request.parameters.decisions:
            known = tuple(name for name in known if not name.startswith(DECISION))
        for name in request.outputs:
            if name not in known:
                raise RequestError(
                    "this request has no such output",
                    where=f"output {name!r}",
                    expected=f"one of {', '.join(known)}",
                    remedy=closest(name, known),
                )

    def _check_array(
        self, array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], where: str
    ) -> None:
        if array.dtype != dtype and not (dtype == _FLOAT32 and array.dtype.kind == "f"):
            raise RequestError(
                f"datatype is {datatype_of(array.dtype)}",
                where=where,
                expected=datatype_of(dtype),
                remedy=f"Send what the metadata say: GET /v2/models/{self.name}.",
            )
        is_as_long = len(array.shape) == len(shape) + 1
        if not is_as_long or any(
            want >= 1 and want != is_ for want, is_ in zip(shape, array.shape[1:], strict=True)
        ):
            raise RequestError(
                f"shape is {list(array.shape)}",
                where=where,
                expected=str([-1, *shape]),
                remedy="-1 stands for any number of windows or rows.",
            )
        if len(array) > self._most:
            raise RequestError(
                f"{len(array)} rows",
                kind="too_large",
                where=where,
                expected=f"at most {self._most}",
                remedy="Send them in several requests.",
            )

    def _inputs_error(self, request: Request, route: str) -> RequestError:
        expected = self._routes[route]
        return RequestError(
            f"the inputs are {', '.join(map(repr, request.inputs)) or 'none'}",
            where=f"model {self.name!r}",
            expected=" and perhaps ".join(map(repr, sorted(expected))),
            remedy={
                "window": "Samples of a stream need a sequence_id, a bare tensor tensors: true.",
                "samples": "A request with a sequence_id brings samples, not windows.",
                "tensor": "With tensors: true the model's own input is asked.",
            }[route],
        )

    def _times(self, request: Request, count: int) -> np.ndarray | None:
        time_ns = request.inputs.get("time_ns")
        if time_ns is None:
            return None
        if time_ns.dtype != _INT64 or time_ns.shape != (count,):
            raise RequestError(
                f"it is {datatype_of(time_ns.dtype)} {list(time_ns.shape)}",
                where="input 'time_ns'",
                expected=f"INT64 [{count}], one for each sample",
                remedy="Send nanoseconds since the Unix epoch, UTC.",
            )
        return time_ns


def _proven_blocks(count: int) -> list[slice]:
    """Split rows into blocks of the size that admission has proven, and single rows."""
    whole = count - count % BATCH
    blocks = [slice(first, first + BATCH) for first in range(0, whole, BATCH)]
    return blocks + [slice(row, row + 1) for row in range(whole, count)]


def _finite(samples: np.ndarray) -> np.ndarray:
    is_finite = np.isfinite(samples).ravel()
    # The first that is not, if there is one: three times as fast as asking all.
    if is_finite.size and not is_finite.item(is_finite.argmin()):
        row = int(np.flatnonzero(~np.isfinite(samples).all(axis=(1, 2)))[0])
        raise RequestError(
            f"window {row} has a value that is missing, infinite, or too large for FP32",
            where="input 'window'",
            expected="finite numbers",
            remedy="Leave that window out; a sequence leaves out such windows by itself.",
        )
    return samples


def _facts_of(arrays: Mapping[str, np.ndarray]) -> list[TensorFact]:
    return [
        TensorFact(name, datatype_of(array.dtype), (-1, *array.shape[1:]))
        for name, array in arrays.items()
    ]


def _fact(tensor: TensorSpec) -> TensorFact:
    return TensorFact(tensor.name, datatype_of(np.dtype(tensor.dtype)), (-1, *tensor.shape[1:]))
