"""What goes into a conversion and what comes out of each of its stages.

::

    Request ─ load ─ normalise ─ candidates ─ verify ─ bench ─ choose ─ embed ─ report ─ Outcome
                 │        │           │          │        │       │        │
              Loaded    Step…    Candidate   Verified  Latency  Choice   bundle

Between any two stages that make a file lies the float parity gate (`Parity`).
Stages hand files and these records to each other, nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_converters.latency import TargetLatency
from edge_converters.lint import Finding
from edge_converters.operations import Operation
from edge_converters.quantise.contracts import Recipe as Quantised
from edge_converters.quantise.refit import Refit
from edge_converters.report import OperatorRow
from edge_converters.verdict import Verdict

__all__ = [
    "Candidate",
    "Choice",
    "Claim",
    "Drift",
    "Format",
    "Kind",
    "Latency",
    "Limits",
    "Loaded",
    "Origin",
    "Outcome",
    "Parity",
    "Precision",
    "Recipe",
    "Request",
    "Step",
    "Verified",
]

Kind = Literal[
    "keras",
    "savedmodel",
    "torch-export",
    "torch-module",
    "torch-pickle",
    "torch-script",
    "torch-weights",
    "onnx",
    "tflite",
    "sklearn",
    "xgboost",
    "lightgbm",
]
"""What a model was made with, told by its bytes."""
Format = Literal["tflite", "onnx"]
Claim = Literal["proven", "unlabelled", "float", "uncalibrated", "inconclusive"]
Precision = Literal["float32", "float16", "dynamic", "int8", "mixed", "as-is"]
"""``as-is`` is a file that is taken over byte for byte."""


class Limits(msgspec.Struct, frozen=True):
    """What a worker may take.

    Attributes:
        memory_mb: Address space, MiB.
        seconds: Wall time.
    """

    memory_mb: Annotated[int, Meta(ge=64)] = 8192
    seconds: Annotated[float, Meta(gt=0)] = 600.0


class Origin(msgspec.Struct, frozen=True):
    """What a conversion begins with.

    Attributes:
        sha256: Of the model; of a folder, over its files; of a torch module, over its
            source file and its weights.
        worker: Versions of what opened it there; empty where nothing foreign did.
    """

    sha256: str
    worker: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be converted, and what it is to become.

    Attributes:
        model: A file or folder, or ``package.module:name`` of a torch module.
        output: Folder of the bundle.
        calib: Windows that decide the ranges of integers; None leaves the model float.
        eval: Windows with labels that the verdict is made on.
        metric: ``accuracy``, ``auc``, ``f1`` or ``mae``.
        max_drop: How much of it may be lost.
        prefer: What makes one file better than another that keeps the budget.
        target: Board or runtime that must be able to run it.
        bench: Results of ``edge-runtime tune --json`` on that board, or folders of them; the
            store of a cloud, or what ``edge-runtime cloud boards --json`` printed.
        formats: What is wanted; empty takes what the model's path gives.
        precisions: What is tried; empty takes what the data allow.
        hop: Samples that a recurrent network is to take in one call, with its state from
            call to call; None leaves it whole.
        spec: A ``bundle.yaml`` whose artefacts are replaced; None derives one.
        refresh: The bundle that devices have, of the same network with other weights: its
            spec, format, precision and, where they fit, its scales are kept.
        sidecar: File with what a bare model does not tell; None looks beside it.
        name: Model line; None takes the file's name.
        version: Of the bundle; None is 1, or one more than the version before.
        labels: Names of the outputs.
        rate_hz: Samples a second, where nothing else says it.
        warm_up: Windows that decide the state of a model whose state cannot be read; None
            takes 100 of them.
        shape: Of one window's features, for free axes.
        constants: Values of further inputs, by name.
        is_trusted: Whether a pickle may be opened, or a module imported.
        is_forced: Whether calibration data that look like noise are taken.
        chosen: Format, precision and claim of a recipe; None chooses anew.
        origin: What a recipe began with; None takes anything.
        limits: Of every worker.
    """

    model: str
    output: Path
    calib: Path | None = None
    eval: Path | None = None
    metric: str | None = None
    max_drop: Annotated[float, Meta(ge=0)] = 0.005
    prefer: Literal["size", "latency"] = "size"
    target: str = "desktop"
    bench: tuple[Path, ...] = ()
    formats: tuple[Format, ...] = ()
    precisions: tuple[Precision, ...] = ()
    hop: Annotated[int, Meta(ge=1)] | None = None
    spec: Path | None = None
    refresh: Path | None = None
    sidecar: Path | None = None
    name: str | None = None
    version: str | None = None
    labels: tuple[str, ...] = ()
    rate_hz: Annotated[float, Meta(gt=0)] = 1.0
    warm_up: Annotated[int, Meta(ge=0)] | None = None
    shape: tuple[int, ...] | None = None
    constants: dict[str, float] = {}
    is_trusted: bool = False
    is_forced: bool = False
    chosen: tuple[Format, str, Claim] | None = None
    origin: Origin | None = None
    limits: Limits = Limits()


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Every choice of a conversion: played again, it gives the same bundle to the byte.

    Attributes:
        request: What was asked for, without the places on this machine.
        model_sha256: Of the model, as in `Origin`.
        worker: What opened it, as in `Origin`.
        calib_sha256: Of the calibration data; None without.
        eval_sha256: Of the evaluation data; None without.
        spec_sha256: Of the ``bundle.yaml`` that was given; None without.
        sidecar_sha256: Of the sidecar that was named; None without.
        format: Of the file that was chosen.
        precision: Of that file.
        claim: What may be said of it, as in `Choice`.
        quantised: How the file was made of the float one; None for float itself. A refresh
            takes the scales from here.
        refresh_sha256: Of the bundle before; None without one.
        tools: Versions of the packages that decide bytes.
        schema: Version of this file.
    """

    request: dict[str, object]
    model_sha256: str
    calib_sha256: str | None
    eval_sha256: str | None
    spec_sha256: str | None
    sidecar_sha256: str | None
    format: Format
    precision: str
    claim: Claim
    quantised: Quantised | None = None
    refresh_sha256: str | None = None
    tools: dict[str, str] = {}
    worker: str = ""
    schema: Literal[1] = 1


# --- records of the stages ---------------------------------------------------------


class Parity(msgspec.Struct, frozen=True):
    """How far two sets of answers are from each other.

    Attributes:
        snr_db: Power of the answers over power of the difference, dB; None where they
            are equal to the byte.
        largest: Largest absolute difference, in units of the output.
        top1: Share of windows whose largest output is the same; None for one output.
        windows: How many were asked.
    """

    snr_db: float | None
    largest: float
    top1: float | None
    windows: int


class Loaded(msgspec.Struct, frozen=True):
    """A model as it came out of its worker.

    Attributes:
        kind: What it was made with.
        origin: What it is, to the byte.
        format: Of the file that the worker wrote.
        file: That file.
        worker: Which environment opened it.
        inputs: Windows it was asked, ``.npy``, shape (n, …).
        outputs: What the source framework answered, ``.npy``, shape (n, …); None where
            the file itself is the source.
        notes: What the worker had to do or assume, a sentence each.
        seconds: Wall time.
    """

    kind: Kind
    origin: Origin
    format: Format
    file: Path
    worker: str
    inputs: Path | None
    outputs: Path | None
    notes: tuple[str, ...]
    seconds: float


class Step(msgspec.Struct, frozen=True):
    """A change of a float file, and the gate behind it.

    Attributes:
        name: What was done.
        file: Result.
        size_bytes: Of the result.
        parity: Against the answers before; None where there is nothing to compare.
        notes: What changed, a sentence each.
        seconds: Wall time.
    """

    name: str
    file: Path
    size_bytes: int
    parity: Parity | None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class Verified(msgspec.Struct, frozen=True):
    """A file on one runtime version.

    Attributes:
        runtime: Such as ``litert 2.3.0``.
        is_sound: Whether it runs there and answers as it should.
        reason: Why not; empty if it is.
        parity: Against the float answers; None where it does not run.
        others: The same of every output but the one that decides, by its name.
        peak_rss_mb: Of the process that asked it, the runtime included, MiB.
    """

    runtime: str
    is_sound: bool
    reason: str = ""
    parity: Parity | None = None
    others: dict[str, Parity] = {}
    peak_rss_mb: float = 0.0


class Drift(msgspec.Struct, frozen=True):
    """How far a cell is from the float one in a part of one stream, which is never reset.

    Attributes:
        first: Step that it begins with, from 1.
        last: Step that it ends with.
        output_db: SNR of the output, dB; None where it is equal to the byte.
        state_db: The same of the state that is carried on.
        largest: Largest absolute difference of the output.
    """

    first: int
    last: int
    output_db: float | None
    state_db: float | None
    largest: float


class Latency(msgspec.Struct, frozen=True):
    """Time of one call on this machine, one thread, µs."""

    p50_us: float
    p95_us: float


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A file that could be shipped.

    Attributes:
        format: Which runtime it is for.
        precision: How it is quantised.
        file: Where it lies.
        size_bytes: Of the file.
        quantised: How it was made of the float file; None for float itself.
        verified: On every runtime of the target.
        latency: On this machine; None where it was not measured.
        target: On the target; None where nobody asked for a board.
        operations: What it computes, in order.
        asked: Runtimes that were asked whether they know these.
        drift: Of a cell, along one stream; empty for float itself, and without data.
        verdict: What it loses against float; None for float itself, and without data.
        notes: A sentence each.
    """

    format: Format
    precision: str
    file: Path
    size_bytes: int
    quantised: Quantised | None = None
    verified: tuple[Verified, ...] = ()
    latency: Latency | None = None
    target: TargetLatency | None = None
    operations: tuple[Operation, ...] = ()
    asked: tuple[str, ...] = ()
    drift: tuple[Drift, ...] = ()
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether it holds on every runtime it was tried on."""
        return all(one.is_sound for one in self.verified)


class Choice(msgspec.Struct, frozen=True):
    """What is shipped, and why.

    Attributes:
        format: Of the file.
        precision: Of the file.
        verdict: ``proven`` on labelled windows, ``unlabelled`` (it answers like float,
            nobody gave labels), ``float`` (nothing smaller is good enough),
            ``uncalibrated`` (nobody gave windows), or ``inconclusive``.
        why: One sentence.
        windows_needed: How many more labelled windows would decide it.
    """

    format: Format
    precision: str
    verdict: Claim
    why: str
    windows_needed: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A finished conversion.

    Attributes:
        bundle: ``name@version``.
        digest: Identity of the bundle.
        recipe: How to do it again.
        kind: What the model was made with.
        target: What it is for.
        choice: What was shipped, and why.
        steps: Every change and its gate.
        candidates: Everything that was tried.
        operators: Of the float file; empty where nothing was quantised.
        findings: What is odd about the data.
        assumed: What nobody told, a sentence each.
        notes: Of workers and steps, a sentence each.
        seconds: Wall time of it all.
        peak_rss_mb: Largest resident memory of any process, MiB.
        refit: What became of new weights; None without a bundle before.
    """

    bundle: str
    digest: str
    recipe: Recipe
    kind: Kind
    target: str
    choice: Choice
    steps: tuple[Step, ...]
    candidates: tuple[Candidate, ...]
    operators: tuple[OperatorRow, ...]
    findings: tuple[Finding, ...]
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float
    peak_rss_mb: float
    refit: Refit | None = None
