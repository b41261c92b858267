"""One conversion, from a model to a bundle that has proven itself, stage by stage."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from edge_converters.card import write_card
from edge_converters.contracts import (
    Candidate,
    Choice,
    Format,
    Kind,
    Loaded,
    Outcome,
    Recipe,
    Request,
    Step,
)
from edge_converters.datasets import Dataset, load_dataset
from edge_converters.embed import embed, manifest_of
from edge_converters.formats import recognise
from edge_converters.latency import load_answers
from edge_converters.lint import Finding, check_data, refuse
from edge_converters.outputs import state_of
from edge_converters.paths import route, usual_formats_of
from edge_converters.quantise.contracts import Samples
from edge_converters.quantise.refit import Refit, delta_bytes
from edge_converters.recipes import recipe_of, write_recipe
from edge_converters.report import OperatorRow
from edge_converters.stages.asking import ask_model, ask_others
from edge_converters.stages.before import Before, completed, load_before
from edge_converters.stages.cell import check_cell, cut
from edge_converters.stages.choose import choose
from edge_converters.stages.describe import Described, describe
from edge_converters.stages.examine import examined, on_target
from edge_converters.stages.float_file import FloatFile
from edge_converters.stages.judge import halves
from edge_converters.stages.judge import judged as judge_all
from edge_converters.stages.load import load, stem_of
from edge_converters.stages.normalise import draw, gate, normalise_onnx
from edge_converters.stages.prove import proven, write
from edge_converters.stages.quantise import Made, quantised, requantised
from edge_converters.stages.stream import drifted
from edge_converters.stages.verify import verified
from edge_converters.stages.windows import (
    drawn_windows,
    features_of,
    golden_windows_of,
    sequences_of,
    stream_windows,
)
from edge_converters.stamps import restamp
from edge_converters.targets import Target, target_of
from edge_runtime.backends.precision import precision_of
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, ConfigError, EdgeError, MissingExtra
from edge_runtime.spec import ArtefactSpec, ModelSpec

__all__ = ["Tell", "convert"]

_MODULES = ("onnx", "onnxslim", "onnxruntime", "ai_edge_litert", "litert_quantizer")

Tell = Callable[[str, str, float], None]
"""Hears the stage, what it works on, and the share of all that lies behind."""


def convert(request: Request, tell: Tell = lambda *_: None) -> Outcome:
    """Turn a model into a bundle, or say why not; nothing half-made is ever left behind.

    Args:
        request: What is wanted.
        tell: Hears of progress.

    Raises:
        ConfigError: The request cannot be met as it is written.
        MissingExtra: The extra ``convert`` is not installed.
        TrustError: The model would have to be trusted first.
        BundleError: The model is unfit, or its path is refused.
        ModelError: A worker, a runtime or a gate says no.
    """
    _check_extra()
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
            outcome, bundle = _conversion(request, Path(folder), tell).run()
            write(bundle, request.output)
    except OSError as error:
        if isinstance(error, EdgeError):
            raise
        raise _no_room(error) from error
    tell("done", bundle.ref, 1.0)
    return msgspec.structs.replace(outcome, seconds=time.monotonic() - start)


def _conversion(request: Request, folder: Path, tell: Tell) -> _Conversion:
    before = None if request.refresh is None else load_before(request.refresh)
    return _Conversion(request, before, folder, tell)


class _Conversion:
    """What the stages of one conversion share."""

    def __init__(self, asked: Request, before: Before | None, folder: Path, tell: Tell) -> None:
        self._asked, self._before, self._folder, self._tell = asked, before, folder, tell
        self._request = asked if before is None else completed(asked, before, folder)
        self._refit: Refit | None = None
        self._notes: list[str] = []
        self._operators: list[OperatorRow] = []
        self._findings: list[Finding] = []

    def run(self) -> tuple[Outcome, Bundle]:
        request = self._request
        kind = recognise(request.model)
        target = target_of(request.target)
        answers = load_answers(request.bench, target.name)
        forms = _forms(request, kind)
        calib, judged = _datasets(request)
        floats = [self._float(kind, form, calib or judged) for form in forms]
        candidates = [
            one for float_ in floats for one in self._candidates(float_, calib, judged, target)
        ]
        candidates = on_target(self._examined(candidates), answers, target, self._before)
        choice = choose(candidates, request, kind, target)
        chosen = _chosen(choice, candidates)
        float_ = next(one for one in floats if one.form == chosen.format)
        self._tell("prove", chosen.file.name, 0.9)
        recipe = recipe_of(self._asked, chosen, choice.verdict, float_.origin)
        bundle = self._bundle(float_, chosen, recipe, judged or calib)
        return self._outcome(kind, target, choice, floats, candidates, recipe, bundle), bundle

    # --- stages -------------------------------------------------------------------

    def _float(self, kind: Kind, form: Format, dataset: Dataset | None) -> FloatFile:
        """Load, describe and normalise."""
        request, folder = self._request, self._folder / form
        folder.mkdir()
        self._tell("load", request.model, 0.05)
        given = self._given_inputs(kind, dataset, folder)
        loaded, facts = load(request, kind, form, folder, given)
        steps = (gate(loaded, request),) if loaded.worker else ()
        asked = None
        if _is_as_is(request):
            steps = ()
        elif form == "onnx":
            self._tell("normalise", loaded.file.name, 0.3)
            asked = self._probed(loaded, dataset)
            steps = (*steps, *self._normalised(loaded.file, asked))
        file = steps[-1].file if steps else loaded.file
        self._tell("describe", file.name, 0.4)
        named = file.rename(loaded.file.with_stem(stem_of(request.model))) if steps else file
        described = describe(named, form, facts, request)
        inputs = self._inputs(dataset, described, folder)
        if request.hop is not None and asked is not None:
            inputs = asked
        limits, constants = request.limits, request.constants
        told = ask_model(named, form, inputs, limits=limits, constants=constants)
        others = ask_others(named, form, inputs, limits=limits, constants=constants)
        return FloatFile(
            origin=loaded.origin,
            form=form,
            file=named,
            precision=_precision(form, named),
            steps=steps,
            described=described,
            inputs=inputs,
            answers=told.answers,
            others=others,
            shape=told.shape,
        )

    def _given_inputs(self, kind: Kind, dataset: Dataset | None, folder: Path) -> Path | None:
        """Write windows for the worker, where they are what the model sees itself.

        Trees are asked rows around their own thresholds, which prove more.
        """
        if dataset is None or self._request.spec is not None or kind == "sklearn":
            return None
        file = folder / "given.npy"
        np.save(file, golden_windows_of(dataset.inputs))
        return file

    def _probed(self, loaded: Loaded, dataset: Dataset | None) -> Path:
        """Return the windows that every step of an ONNX file is asked; of a cell, sequences."""
        if loaded.inputs is not None:
            return loaded.inputs
        if self._request.hop is None or dataset is None:
            return self._drawn(loaded.file)
        inputs = loaded.file.with_name("sequences.npy")
        np.save(inputs, np.asarray(golden_windows_of(dataset.inputs), np.float32))
        return inputs

    def _drawn(self, file: Path) -> Path:
        """Draw windows; of a model with state, one sequence of them."""
        inputs = draw(file, self._request)
        if state_of("onnx", file.read_bytes(), self._request.constants).tensors:
            np.save(inputs, np.load(inputs)[np.newaxis])
        return inputs

    def _normalised(self, file: Path, inputs: Path) -> tuple[Step, ...]:
        request = self._request
        is_float = _precision("onnx", file) == "float32"
        steps = normalise_onnx(file, inputs, request, is_folded=is_float)
        if request.hop is None:
            return steps
        return (*steps, cut(steps[-1].file if steps else file, inputs, request.hop, request))

    def _inputs(self, dataset: Dataset | None, described: Described, folder: Path) -> Path:
        """Write the windows that every candidate is asked, as the model sees them.

        A model with state is asked sequences.
        """
        spec, probe = described.spec, described.probe
        if spec.state.tensors:
            probe = probe[np.newaxis]
        if dataset is not None and self._request.hop is None:
            probe = features_of(_golden(dataset), spec)
        file = folder / "probe.npy"
        np.save(file, probe)
        return file

    def _candidates(
        self, float_: FloatFile, calib: Dataset | None, judged: Dataset | None, target: Target
    ) -> list[Candidate]:
        """Make, verify, time and judge the float file and what is made of it."""
        size = float_.file.stat().st_size
        tried = [
            Candidate(
                format=float_.form, precision=float_.precision, file=float_.file, size_bytes=size
            )
        ]
        searched, samples = halves(float_, calib, judged, self._request)
        self._look_at(float_, calib, samples)
        self._tell("quantise", float_.file.name, 0.5)
        made = self._quantised(float_, calib, searched)
        self._notes += made.notes
        self._operators += made.operators
        finished = [self._finished(one, float_, target) for one in (*tried, *made.candidates)]
        if samples is not None and float_.is_stream:
            finished = drifted(finished, float_, samples.windows, self._request)
        self._compare_deltas(made, finished[-1], float_)
        if samples is None or not made.candidates:
            return finished
        self._tell("judge", f"{len(samples)} windows", 0.8)
        return judge_all(finished, float_, samples, self._request)

    def _quantised(
        self,
        float_: FloatFile,
        calib: Dataset | None,
        searched: Samples | None,
    ) -> Made:
        if self._before is None or calib is None:
            return quantised(float_, calib, searched, self._request)
        return requantised(float_, calib, self._before, self._request)

    def _compare_deltas(self, made: Made, chosen: Candidate, float_: FloatFile) -> None:
        """Say what a refresh sends, and what it would send with the other scales."""
        if self._before is None or made.refit is None or made.other is None:
            return
        other = _stamped(made.other, float_.described.spec)
        old = self._before.model
        sizes = [delta_bytes(old, one.file.read_bytes()) for one in (chosen, other)]
        kept, anew = sizes if made.refit.keeps_scales else reversed(sizes)
        self._refit = msgspec.structs.replace(
            made.refit, kept_delta_bytes=kept, anew_delta_bytes=anew
        )
        self._notes.append(str(self._refit))
        if self._before.left_out:
            names = ", ".join(self._before.left_out)
            self._notes.append(
                f"the bundle before also has {names}, which is not made anew: devices that run "
                "nothing else stay on it"
            )

    def _look_at(self, float_: FloatFile, calib: Dataset | None, samples: Samples | None) -> None:
        """Refuse data that would spoil the ranges, and note what is odd about them."""
        if calib is None:
            return
        channels = [one.name for one in float_.described.spec.stream.channels]
        windows = float_.tensors(calib)
        names = channels if len(channels) == windows.shape[-1] else ()
        judged = samples if self._request.eval is not None else None
        findings = check_data(windows, judged, channels=names)
        refuse(findings, is_forced=self._request.is_forced)
        self._findings += findings

    def _finished(self, one: Candidate, float_: FloatFile, target: Target) -> Candidate:
        """Stamp, embed, verify and time a candidate."""
        self._tell("verify", one.file.name, 0.6)
        if not _is_as_is(self._request):
            one = _stamped(one, float_.described.spec)
        return verified(one, float_, self._request, target)

    def _examined(self, candidates: list[Candidate]) -> list[Candidate]:
        """Look at operators; a file that cannot be looked at has been proven all the same."""
        self._tell("examine", f"{len(candidates)} files", 0.85)
        try:
            return examined(candidates, self._request)
        except EdgeError as error:
            self._notes.append(f"operators could not be counted: {error.what}")
            return candidates

    def _bundle(
        self, float_: FloatFile, chosen: Candidate, recipe: Recipe, dataset: Dataset | None
    ) -> Bundle:
        spec = float_.described.spec
        windows = self._golden_windows(float_, dataset)
        name = f"model.{chosen.format}"
        artefact = ArtefactSpec(chosen.format, name, chosen.precision)  # type: ignore[arg-type]
        spec = msgspec.structs.replace(spec, artefacts=(artefact,))
        files = {
            name: chosen.file.read_bytes(),
            "recipe.json": write_recipe(recipe),
            "card.md": write_card(spec, chosen, recipe, float_.described.assumed),
        }
        return proven(spec, files, windows)

    def _golden_windows(self, float_: FloatFile, dataset: Dataset | None) -> np.ndarray:
        """Return the windows that a device proves the bundle with; with state, one sequence."""
        spec = float_.described.spec
        if dataset is None and self._request.hop is not None:
            sequence = np.load(float_.inputs)[0]
            return np.asarray(sequence.reshape(-1, spec.window.length, len(spec.stream.channels)))
        if dataset is None:
            return drawn_windows(spec, float_.described.probe)
        if float_.is_stream:
            return np.asarray(sequences_of(_golden(dataset), spec)[0])
        return golden_windows_of(stream_windows(dataset, spec))

    def _outcome(
        self,
        kind: Kind,
        target: Target,
        choice: Choice,
        floats: list[FloatFile],
        candidates: list[Candidate],
        recipe: Recipe,
        bundle: Bundle,
    ) -> Outcome:
        described = [one.described for one in floats]
        return Outcome(
            bundle=bundle.ref,
            digest=bundle.digest,
            recipe=recipe,
            kind=kind,
            target=target.name,
            choice=choice,
            steps=tuple(step for one in floats for step in one.steps),
            candidates=tuple(candidates),
            operators=tuple(_as_chosen(one, choice, candidates) for one in self._operators),
            findings=tuple(self._findings),
            assumed=tuple(dict.fromkeys(text for one in described for text in one.assumed)),
            notes=(*dict.fromkeys(text for one in described for text in one.notes), *self._notes),
            seconds=0.0,
            peak_rss_mb=_peak_rss_mb(),
            refit=self._refit,
        )


def _check_extra() -> None:
    for module in _MODULES:
        if find_spec(module) is None:
            raise MissingExtra.of("edge-runtime convert", module, "convert")


def _no_room(error: OSError) -> BundleError:
    return BundleError(
        f"a file of the conversion cannot be read or written: {error.strerror or error}",
        where=str(error.filename or tempfile.gettempdir()),
        expected="room and permission for temporary files",
        remedy="Nothing was written. Make room, or name another place: TMPDIR=FOLDER.",
    )


def _chosen(choice: Choice, candidates: Sequence[Candidate]) -> Candidate:
    return next(
        one
        for one in candidates
        if (one.format, one.precision) == (choice.format, choice.precision)
    )


def _as_chosen(row: OperatorRow, choice: Choice, candidates: Sequence[Candidate]) -> OperatorRow:
    """Say how an operator is in the file that was chosen."""
    usual: dict[str, Literal["weights", "int8"]] = {
        "int8": "int8",
        "mixed": "int8",
        "dynamic": "weights",
    }
    made = _chosen(choice, candidates).quantised
    cures = made.cures if made is not None else {}
    state = cures.get(row.name) or usual.get(choice.precision, "float")
    return msgspec.structs.replace(row, state=state)


def _peak_rss_mb() -> float:
    """Return the largest resident memory of this process and all it has waited for, MiB."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(one).ru_maxrss for one in who)
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _forms(request: Request, kind: Kind) -> tuple[Format, ...]:
    """Return the formats that are wanted; a path that is refused says so."""
    if request.hop is not None:
        check_cell(request)
    forms = request.formats or (("onnx",) if request.hop is not None else usual_formats_of(kind))
    if not forms:
        route(kind, "onnx", request.model)
    for form in forms:
        route(kind, form, request.model)
    if _is_as_is(request) and kind not in forms:
        raise ConfigError(
            f"--precision as-is for a model of {kind}",
            where="the command line",
            expected="an .onnx or .tflite file that is taken over to the byte",
            remedy="Leave --precision out: this model has to be converted.",
        )
    return forms


def _datasets(request: Request) -> tuple[Dataset | None, Dataset | None]:
    needs = {"int8", "mixed"} & set(request.precisions)
    if needs and request.calib is None:
        raise ConfigError(
            f"--precision {', '.join(sorted(needs))} without --calib",
            where="the command line",
            expected="windows as the device will see them, 64 or more",
            remedy="Add --calib windows.npz; or leave the model float.",
        )
    if request.eval is not None and request.metric is None:
        raise ConfigError(
            "--eval without --metric",
            where="the command line",
            expected="--metric accuracy, auc, f1 or mae",
            remedy="Say what the model is judged by.",
        )
    calib, judged = (load_dataset(one) if one else None for one in (request.calib, request.eval))
    return calib, judged


def _golden(dataset: Dataset) -> Dataset:
    return msgspec.structs.replace(dataset, inputs=golden_windows_of(dataset.inputs), labels=None)


def _is_as_is(request: Request) -> bool:
    return request.precisions == ("as-is",)


def _precision(form: Format, file: Path) -> str:
    try:
        return precision_of(form, file.read_bytes()) or "float32"
    except (ValueError, IndexError, OverflowError) as error:
        raise BundleError(
            f"the file cannot be read: {error}",
            where=file.name,
            expected=f"a complete {form} model",
            remedy="Compare the file's digest with its origin's; export it again.",
        ) from error


def _stamped(one: Candidate, spec: ModelSpec) -> Candidate:
    content, notes = one.file.read_bytes(), one.notes
    if one.format == "tflite":
        content, stamps = restamp(content)
        notes += tuple(str(stamp) for stamp in stamps)
    content = embed(content, one.format, manifest_of(spec))
    one.file.write_bytes(content)
    return msgspec.structs.replace(one, size_bytes=len(content), notes=notes)
