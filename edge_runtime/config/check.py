"""Compares the parts of a device before any hardware is touched."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime import registry
from edge_runtime.bundle.bundle import Bundle, load_bundle
from edge_runtime.config.device import DeviceConfig, StreamConfig, split_kind
from edge_runtime.config.document import KeyPath, key_text
from edge_runtime.errors import BundleError, ConfigError, ModelError, ShapeError
from edge_runtime.ports import Choice
from edge_runtime.spec import ChannelSpec, Limit, WindowSpec
from edge_runtime.types import TensorSpec, Upload

__all__ = ["DeviceGraph", "Inspect", "Inspection", "StreamGraph", "check_device", "check_file"]

# A rate written with three digits, such as 0.000278 Hz for one row an hour, still fits.
_RATE_TOLERANCE = 1e-3


class Inspection(msgspec.Struct, frozen=True):
    """What opening a model tells.

    Attributes:
        features: Shape of one window's features.
        inputs: The model's input tensors.
        outputs: The model's output tensors.
        choice: How it was opened, and will be run.
        why: Where that choice comes from, in words.
    """

    features: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    choice: Choice = Choice()
    why: str = ""


Inspect = Callable[[Bundle, StreamConfig], Inspection]


class StreamGraph(msgspec.Struct, frozen=True):
    """One stream as it will run, from source to sinks.

    Attributes:
        name: Stream name.
        source: Kind of source.
        channels: In order, with units.
        rate_hz: Samples a second.
        window: How windows are cut.
        features: Kinds of features, in order.
        model: ``name@version``.
        digest: Identity of the bundle.
        kind: What the model answers.
        backend: Backend named in the configuration; None for the bundle's preference.
        artefact: Model file that will run.
        labels: Names of the outputs.
        unit: Unit of a regressor's value.
        limits: The operating point.
        upload: What may leave the device.
        inspection: Shapes; None if the model was not opened.
    """

    name: str
    source: str
    channels: tuple[ChannelSpec, ...]
    rate_hz: float
    window: WindowSpec
    features: tuple[str, ...]
    model: str
    digest: str
    kind: str
    backend: str | None
    artefact: str
    labels: tuple[str, ...]
    unit: str
    limits: tuple[Limit, ...]
    upload: Upload
    inspection: Inspection | None


class DeviceGraph(msgspec.Struct, frozen=True):
    """A device as it will run.

    Attributes:
        device: Device id.
        streams: In the order of the file.
        sinks: Kinds of sinks.
        sync: ``mqtt://host:port`` or ``mqtts://…``; None stays local.
        is_updatable: Whether any key may sign updates.
    """

    device: str
    streams: tuple[StreamGraph, ...]
    sinks: tuple[str, ...]
    sync: str | None
    is_updatable: bool


def check_device(config: DeviceConfig, *, inspect: Inspect | None = None) -> DeviceGraph:
    """Check everything but the hardware and return the resolved graph.

    Args:
        config: From `load_device`, or built in code.
        inspect: Opens a model and tells its shapes; None leaves shapes unchecked.

    Raises:
        ConfigError: Parts do not fit each other, or a file that is named is missing.
        BundleError: A bundle cannot be loaded.
        ShapeError: Features do not fit the model's tensors, or labels its output.
    """
    _check_secrets(config)
    return DeviceGraph(
        device=config.device,
        streams=tuple(
            _check_stream(config, name, stream, inspect) for name, stream in config.streams.items()
        ),
        sinks=tuple(_check_sink(config, i) for i in range(len(config.sinks))),
        sync=_broker(config),
        is_updatable=config.trust is not None,
    )


def check_file(path: Path, what: str, where: str, *, is_secret: bool = False) -> None:
    """Check that a file which a configuration names is there; a secret for its owner alone.

    Raises:
        ConfigError: It is missing, no file, or a secret that others can read.
    """
    if not path.is_file():
        raise ConfigError(
            f"{what} is {str(path)!r}, which is no file",
            where=where,
            expected="an existing file",
            remedy="Correct the path; relative paths are relative to the configuration.",
        )
    mode = stat.S_IMODE(path.stat().st_mode)
    if is_secret and mode & 0o077:
        raise ConfigError(
            f"{what} is {str(path)!r}, which has mode {mode:04o}",
            where=where,
            expected="mode 0600 or stricter",
            remedy=f"chmod 600 {path}",
        )


def _check_secrets(config: DeviceConfig) -> None:
    files: list[tuple[KeyPath, Path | None]] = []
    if config.sync:
        files = [
            (("sync", "password_file"), config.sync.password_file),
            (("sync", "ca_file"), config.sync.ca_file),
        ]
    keys = config.trust.release_keys if config.trust else ()
    files += [(("trust", "release_keys", i), key) for i, key in enumerate(keys)]
    for path, file in files:
        if file is not None:
            is_secret = path[-1] == "password_file"
            check_file(file, key_text(path), _where(config, path), is_secret=is_secret)


def _check_sink(config: DeviceConfig, number: int) -> str:
    kind, options = split_kind(config.sinks[number])
    registry.configure("sinks", kind, options, _where(config, ("sinks", number)))
    return kind


def _check_stream(
    config: DeviceConfig, name: str, stream: StreamConfig, inspect: Inspect | None
) -> StreamGraph:
    bundle = _load(config, name, stream)
    spec = bundle.spec
    kind = _check_source(config, name, stream, bundle)
    artefact = _check_backend(config, name, stream, bundle)
    inspection = inspect(bundle, stream) if inspect else None
    if inspection:
        _check_shapes(bundle, inspection, _where(config, ("streams", name, "model")))
    return StreamGraph(
        name=name,
        source=kind,
        channels=spec.stream.channels,
        rate_hz=spec.stream.rate_hz,
        window=spec.window,
        features=tuple(str(feature.__struct_config__.tag) for feature in spec.features),
        model=bundle.ref,
        digest=bundle.digest,
        kind=spec.kind,
        backend=stream.model.backend,
        artefact=artefact,
        labels=spec.labels,
        unit=spec.unit,
        limits=spec.limits,
        upload=stream.upload,
        inspection=inspection,
    )


def _load(config: DeviceConfig, name: str, stream: StreamConfig) -> Bundle:
    try:
        return load_bundle(stream.model.bundle)
    except BundleError as error:
        if stream.model.bundle.exists():
            raise
        path = ("streams", name, "model", "bundle")
        raise ConfigError(
            f"{key_text(path)} is {str(stream.model.bundle)!r}, which does not exist",
            where=_where(config, path),
            expected="a bundle: a folder, or one zip file",
            remedy="Correct the path; relative paths are relative to the configuration.",
        ) from error


def _check_source(config: DeviceConfig, name: str, stream: StreamConfig, bundle: Bundle) -> str:
    path: KeyPath = ("streams", name, "source")
    kind, options = split_kind(stream.source)
    # Only the options are checked; the source itself may need its hardware.
    source = registry.configure("sources", kind, options, _where(config, path))
    _check_rate(config, path, source, bundle)
    _check_channels(config, path, source, bundle)
    return kind


def _check_rate(config: DeviceConfig, path: KeyPath, source: Any, bundle: Bundle) -> None:
    declared = getattr(source, "declared_rate_hz", None) or getattr(source, "rate_hz", None)
    needed = bundle.spec.stream.rate_hz
    if declared is None or math.isclose(declared, needed, rel_tol=_RATE_TOLERANCE):
        return
    given = getattr(source, "rate_hz", None) is not None
    key = (*path, "rate_hz") if given else path
    says = f"{key_text(key)} is {declared:g}"
    if not given:
        says = f"{key_text(path)} delivers {declared:g} Hz"
    raise ConfigError(
        f"{says}, but model {bundle.ref} needs {needed:g} Hz",
        where=_where(config, key),
        remedy=f"Set {key_text((*path, 'rate_hz'))} to {needed:g}, "
        f"or convert the model with --rate-hz {declared:g}.",
    )


def _check_channels(config: DeviceConfig, path: KeyPath, source: Any, bundle: Bundle) -> None:
    declared: tuple[str, ...] | None = getattr(source, "declared_channels", None)
    if declared is None:
        return
    needed = bundle.spec.stream.names
    missing = [channel for channel in needed if channel not in declared]
    if missing:
        raise ConfigError(
            f"{key_text(path)} declares the channels {', '.join(declared)}, "
            f"but model {bundle.ref} needs {', '.join(missing)}",
            where=_where(config, (*path, "columns")),
            expected=f"the {len(needed)} channels {', '.join(needed)}",
            remedy=f"Declare the missing channels in {key_text(path)}, or choose another model.",
        )


def _check_backend(config: DeviceConfig, name: str, stream: StreamConfig, bundle: Bundle) -> str:
    path = ("streams", name, "model", "backend")
    backend = stream.model.backend
    known = registry.names("backends")
    if backend is not None and backend not in known:
        raise ConfigError(
            f"{key_text(path)} is {backend!r}",
            where=_where(config, path),
            expected=f"one of {', '.join(known)}",
            remedy=registry.closest(backend, known),
        )
    try:
        return bundle.artefact(backend)[0].file
    except BundleError as error:
        raise ConfigError(
            f"{key_text(path)} is {backend!r}, but model {bundle.ref} {error.what}",
            where=_where(config, path),
            expected=error.expected,
            remedy=error.remedy,
        ) from error


def _check_shapes(bundle: Bundle, inspection: Inspection, where: str) -> None:
    if not (inspection.inputs and inspection.outputs):
        raise ModelError(
            f"model {bundle.ref} has {len(inspection.inputs)} inputs "
            f"and {len(inspection.outputs)} outputs",
            where=where,
            expected="at least one of each",
            remedy="Convert the model again.",
        )
    tensor, output = inspection.inputs[0], inspection.outputs[0]
    _check_size("features", inspection.features, tensor, bundle, where)
    if bundle.spec.output.activation == "reconstruction":
        _check_size("output", output.shape[1:], tensor, bundle, where)
    else:
        _check_size("labels", (len(bundle.spec.labels),), output, bundle, where)


def _check_size(
    what: str, shape: tuple[int, ...], tensor: TensorSpec, bundle: Bundle, where: str
) -> None:
    if math.prod(shape) != math.prod(tensor.shape[1:]):
        raise ShapeError(
            f"{what} of model {bundle.ref} have shape {shape}, "
            f"but its tensor {tensor.name!r} has {tensor.shape[1:]}",
            where=where,
            expected=f"{math.prod(tensor.shape[1:])} values",
            remedy="Correct features, window or labels in bundle.yaml, or convert the model again.",
        )


def _broker(config: DeviceConfig) -> str | None:
    if config.sync is None:
        return None
    scheme = "mqtts" if config.sync.ca_file else "mqtt"
    return f"{scheme}://{config.sync.host}:{config.sync.port}"


def _where(config: DeviceConfig, path: KeyPath) -> str:
    return config.origin.where(*path) if config.origin else key_text(path)
