"""Model runtimes behind one port, found by name and imported when chosen.

| backend | runs | package |
|---|---|---|
| ``litert`` | ``.tflite`` | ai-edge-litert |
| ``onnx`` | ``.onnx`` | onnxruntime |
| ``tflite-runtime`` | ``.tflite`` | tflite-runtime, for 32-bit ARM; never chosen by itself |
| ``reference`` | ``.npz`` | numpy alone |
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from edge_runtime import registry
from edge_runtime.backends.accelerators import check_accelerator
from edge_runtime.bundle import Bundle, artefact_kind
from edge_runtime.errors import ConfigError, ModelError
from edge_runtime.pipeline import AnyPipeline, Pipeline, timed_if_asked
from edge_runtime.pipeline.features import shape_of
from edge_runtime.ports import Backend, Choice, Session, SessionOptions, Timing
from edge_runtime.spec import ArtefactSpec, Layer, ModelSpec, StageSpec
from edge_runtime.types import Upload

__all__ = [
    "ARTEFACT_KINDS",
    "artefacts_of",
    "backend_of",
    "load_session",
    "open_pipeline",
    "open_session",
]

ARTEFACT_KINDS: Mapping[str, str] = MappingProxyType(
    {"litert": "tflite", "onnx": "onnx", "reference": "reference", "tflite-runtime": "tflite"}
)
"""The kind of model file each built-in backend runs."""

_DEFAULT_BACKENDS = {"tflite": "litert", "onnx": "onnx", "reference": "reference"}
_MOST_THREADS = 64


def open_pipeline(
    bundle: Bundle,
    choice: Choice | None = None,
    *,
    layers: Sequence[Layer] = (),
    stream: str = "main",
    upload: Upload = "none",
    timing: Timing | None = None,
) -> AnyPipeline:
    """Open a bundle's model and put the pipeline around it.

    Args:
        bundle: What to run.
        choice: How to run it; None takes the bundle's preference, one thread.
        layers: Active layers.
        stream: Name of the stream whose frames will be pushed.
        upload: What estimates keep of the window.
        timing: How long a bundle with a grid waits for samples, and what it believes.

    Raises:
        BundleError: The bundle has no file for that backend, or the layers do not fit it.
        MissingExtra: The backend is not installed.
        ModelError: The file does not load, or does not fit the bundle's own description.
    """
    choice = choice or Choice()
    pipeline = Pipeline(
        bundle.spec,
        open_session(bundle, choice),
        base=bundle.digest,
        layers=layers,
        stream=stream,
        upload=upload,
        block=choice.block,
        micro_batch=choice.micro_batch,
    )
    return timed_if_asked(pipeline, timing)


def open_session(bundle: Bundle, choice: Choice | None = None) -> Session:
    """Open a bundle's model, of a cascade with those of its stages; see `open_pipeline`.

    Stages are run as the bundle's own model is, but on the processor, and with the first
    of their files that the chosen backend runs, if there is one.
    """
    choice, spec = choice or Choice(), bundle.spec
    artefact, _ = bundle.artefact(choice.backend, choice.artefact)
    main = _open_model(bundle, artefact, spec, choice)
    return _with_stages(bundle, main, choice) if spec.cascade else main


def artefacts_of(bundle: Bundle, choice: Choice) -> list[tuple[ArtefactSpec, Choice]]:
    """Return every model file that is opened for a bundle, and how; its own one comes first."""
    stages = [stage for stage in bundle.spec.cascade if stage.artefacts]
    own, _ = bundle.artefact(choice.backend, choice.artefact)
    return [(own, choice), *(_of_stage(stage, choice) for stage in stages)]


def _with_stages(bundle: Bundle, main: Session, choice: Choice) -> Session:
    from edge_runtime.backends.staged import StagedSession

    with contextlib.ExitStack() as opened:
        opened.callback(main.close)
        stages = []
        for stage in bundle.spec.cascade:
            stages.append(_open_stage(bundle, stage, choice))
            opened.callback(stages[-1].close)
        opened.pop_all()
    return StagedSession(main, stages)


def _open_stage(bundle: Bundle, stage: StageSpec, choice: Choice) -> Session:
    from edge_runtime.backends.staged import FeatureSession

    if not stage.artefacts:
        return FeatureSession(math.prod(shape_of(stage.features, _window(bundle))))
    artefact, choice = _of_stage(stage, choice)
    return _open_model(bundle, artefact, stage, choice)


def _of_stage(stage: StageSpec, choice: Choice) -> tuple[ArtefactSpec, Choice]:
    """Return the file of a stage that is run, and how."""
    wanted = None if choice.backend is None else artefact_kind(choice.backend)
    fitting = [one for one in stage.artefacts if one.backend == wanted]
    return (*fitting, *stage.artefacts)[0], msgspec.structs.replace(
        choice, backend=choice.backend if fitting else None, artefact=None, accelerator=None
    )


def _open_model(
    bundle: Bundle, artefact: ArtefactSpec, declared: ModelSpec | StageSpec, choice: Choice
) -> Session:
    content = bundle.files[artefact.file]
    options = SessionOptions(
        threads=choice.threads or 1,
        accelerator=choice.accelerator,
        state=declared.state,
        shape=shape_of(declared.features, _window(bundle)),
    )
    try:
        if choice.isolation == "process":
            return _open_isolated(choice, artefact.backend, content, options)
        return load_session(choice.backend, artefact.backend, content, options)
    except ModelError as error:
        raise ModelError(
            error.what,
            where=f"{bundle.ref}, {artefact.file}, {error.where}".removesuffix(", "),
            expected=error.expected,
            remedy=error.remedy,
        ) from error


def _window(bundle: Bundle) -> tuple[int, int]:
    return bundle.spec.window.length, len(bundle.spec.stream.channels)


def _open_isolated(choice: Choice, kind: str, model: bytes, options: SessionOptions) -> Session:
    from edge_runtime.backends.process import open_in_process
    from edge_runtime.backends.shared import Setting

    _check_threads(options.threads)
    setting = Setting(choice.backend, kind, options, choice.limit_s, choice.memory_mb)
    return open_in_process(model, setting)


def load_session(
    backend: str | None, kind: str, model: bytes, options: SessionOptions | None = None
) -> Session:
    """Open a model with the named backend, or with the one for its kind.

    The backend first proves itself on a tiny model, once per process.

    Args:
        backend: Name of a backend; None takes the default for ``kind``.
        kind: Kind of model file: ``tflite``, ``onnx`` or ``reference``.
        model: The file's bytes, verified by the caller.
        options: How to run it; None for one thread.

    Returns:
        A session for one worker; stateless at first.

    Raises:
        ConfigError: There is no such backend, or ``options`` make no sense.
        MissingExtra: Its package is not installed.
        ModelError: It does not work here, or cannot run the model.
    """
    options = options or SessionOptions()
    _check_threads(options.threads)
    runtime = backend_of(backend, kind)
    check_accelerator(runtime.name, options.accelerator)
    runtime.probe()
    return runtime.load(model, options)


def backend_of(backend: str | None, kind: str) -> Backend:
    """Return the named model runtime, or the one for a kind of file; not probed yet.

    Raises:
        ConfigError: There is no such backend.
        ModelError: It does not run that kind of file.
    """
    name = backend or _default_backend(kind)
    _check_kind(name, kind)
    runtime: Backend = registry.create("backends", name, {})
    return runtime


def _default_backend(kind: str) -> str:
    if kind not in _DEFAULT_BACKENDS:
        raise ModelError(
            f"the model file is of kind {kind!r}",
            expected=f"one of {', '.join(sorted(_DEFAULT_BACKENDS))}",
            remedy="Name the backend that runs it.",
        )
    return _DEFAULT_BACKENDS[kind]


def _check_kind(backend: str, kind: str) -> None:
    if ARTEFACT_KINDS.get(backend, kind) != kind:
        raise ModelError(
            f"the model file is of kind {kind!r}",
            where=f"backend {backend!r}",
            expected=f"a file of kind {ARTEFACT_KINDS[backend]!r}",
            remedy=f"Leave the backend out, or add a {ARTEFACT_KINDS[backend]} file to the bundle.",
        )


def _check_threads(threads: int) -> None:
    if not 1 <= threads <= _MOST_THREADS:
        raise ConfigError(
            f"threads is {threads}",
            expected=f"1 to {_MOST_THREADS}",
            remedy="Most small models are fastest with 1.",
        )
