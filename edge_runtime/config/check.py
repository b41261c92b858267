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
from edge_runtime.config.hosts import is_loopback
from edge_runtime.errors import BundleError, ConfigError, ModelError, ShapeError
from edge_runtime.ports import Choice, Timing
from edge_runtime.spec import ChannelSpec, GridSpec, ImageSpec, Limit, WindowSpec
from edge_runtime.types import TensorSpec, Upload

__all__ = [
    "DeviceGraph",
    "Inspect",
    "Inspection",
    "StreamGraph",
    "check_device",
    "check_file",
    "check_keyed",
    "check_timing",
]

# A rate written with three digits, such as 0.000278 Hz for one row an hour, still fits.
_RATE_TOLERANCE = 1e-3
# Sources whose rows may be of many devices.
_KEYED = ("csv", "mqtt", "npz", "parquet")
# Values that may wait in memory, and are part of every commit: 64 MiB of float32.
_MOST_KEPT = 1 << 24


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
        image: What its images look like; None if its samples are no lines of images.
        grid: Where its samples are put in order; None takes them as they come.
        time: How long it waits for samples then.
        window: How windows are cut.
        features: Kinds of features, in order.
        model: ``name@version``.
        digest: Identity of the bundle.
        kind: What the model answers.
        backend: Backend named in the configuration; None for the bundle's preference.
        artefact: Model file that will run.
        cascade: What is asked before the model, and when it asks on, in words.
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
    image: ImageSpec | None
    grid: GridSpec | None
    time: Timing
    window: WindowSpec
    features: tuple[str, ...]
    model: str
    digest: str
    kind: str
    backend: str | None
    artefact: str
    cascade: tuple[str, ...]
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


def check_device(
    config: DeviceConfig, *, inspect: Inspect | None = None, is_keyed: bool = False
) -> DeviceGraph:
    """Check everything but the hardware and return the resolved graph.

    Args:
        config: From `load_device`, or built in code.
        inspect: Opens a model and tells its shapes; None leaves shapes unchecked.
        is_keyed: Whether its sources may be of many devices.

    Raises:
        ConfigError: Parts do not fit each other, or a file that is named is missing.
        BundleError: A bundle cannot be loaded.
        ShapeError: Features do not fit the model's tensors, or labels its output.
    """
    _check_secrets(config)
    for name, stream in config.streams.items():
        _check_key(config, name, stream, is_keyed=is_keyed)
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
            (("sync", "cert_file"), config.sync.cert_file),
            (("sync", "key_file"), config.sync.key_file),
        ]
        if config.sync.proxy:
            files.append((("sync", "proxy", "password_file"), config.sync.proxy.password_file))
    keys = config.trust.release_keys if config.trust else ()
    files += [(("trust", "release_keys", i), key) for i, key in enumerate(keys)]
    for path, file in files:
        if file is not None:
            is_secret = path[-1] in ("password_file", "key_file")
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
    _check_time(config, name, stream, bundle)
    inspection = inspect(bundle, stream) if inspect else None
    if inspection:
        _check_shapes(bundle, inspection, _where(config, ("streams", name, "model")))
    return StreamGraph(
        name=name,
        source=kind,
        channels=spec.stream.channels,
        rate_hz=spec.stream.rate_hz,
        image=spec.stream.image,
        grid=spec.stream.grid,
        time=stream.time or Timing(),
        window=spec.window,
        features=tuple(str(feature.__struct_config__.tag) for feature in spec.features),
        model=bundle.ref,
        digest=bundle.digest,
        kind=spec.kind,
        backend=stream.model.backend,
        artefact=artefact,
        cascade=tuple(map(str, bundle.spec.cascade)),
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
    _check_images(config, path, source, bundle)
    return kind


def _check_key(config: DeviceConfig, name: str, stream: StreamConfig, *, is_keyed: bool) -> None:
    """Refuse rows of many devices where they would be taken for one."""
    path: KeyPath = ("streams", name, "source")
    kind, options = split_kind(stream.source)
    source = registry.configure("sources", kind, options, _where(config, path))
    if not is_keyed and getattr(source, "declared_key", None) is not None:
        raise ConfigError(
            f"{key_text((*path, 'key'))} is set: its rows are of many devices",
            where=_where(config, (*path, "key")),
            expected="rows of one device",
            remedy="Answer each device by itself with edge-runtime stream --key, "
            "or leave the key out.",
        )


def check_keyed(kind: str) -> None:
    """Check that a source of this kind can name a device in each row.

    Raises:
        ConfigError: It cannot.
    """
    if kind not in _KEYED:
        raise ConfigError(
            f"--key is given, and source {kind!r} is of one device",
            where="the command line",
            expected=f"a source that names a device in each row: {', '.join(_KEYED)}",
            remedy="Leave --key out.",
        )


def _check_time(config: DeviceConfig, name: str, stream: StreamConfig, bundle: Bundle) -> None:
    spec, path = bundle.spec, ("streams", name, "time")
    check_timing(bundle, stream.time, key_text(path), where=_where(config, path))
    if spec.window.kind == "session" and stream.upload == "windows":
        raise ConfigError(
            f"{key_text(('streams', name, 'upload'))} is windows, "
            f"but model {bundle.ref} has sessions",
            where=_where(config, ("streams", name, "upload")),
            expected="features, decisions or none",
            remedy="Sessions have no common length.",
        )


def check_timing(bundle: Bundle, timing: Timing | None, name: str, *, where: str = "") -> None:
    """Check how long samples are waited for: only a grid waits, and memory has an end.

    Args:
        bundle: Whose samples.
        timing: As given; None is always right.
        name: Of the option that gave it.
        where: Its place, for the message.

    Raises:
        ConfigError: The bundle has no grid, or what waits would fill the memory.
    """
    need = bundle.spec.stream
    if timing is None:
        return
    if need.grid is None:
        raise ConfigError(
            f"{name} is set, but model {bundle.ref} has no grid",
            where=where,
            expected="a bundle with stream.grid, which puts samples in order",
            remedy="Leave it out, or add 'grid: {}' to the stream in bundle.yaml.",
        )
    kept_s = timing.delay_s + timing.allowed_lateness_s
    values = kept_s * need.rate_hz * len(need.channels)
    if values > _MOST_KEPT:
        raise ConfigError(
            f"delay_s and allowed_lateness_s of {name} keep {values:.3g} values",
            where=where,
            expected=f"at most {_MOST_KEPT}: {_MOST_KEPT / values * kept_s:.3g} s at "
            f"{need.rate_hz:g} Hz and {len(need.channels)} channels",
            remedy="Wait for a shorter time; older samples go to a sink with aside: true.",
        )


def _check_rate(config: DeviceConfig, path: KeyPath, source: Any, bundle: Bundle) -> None:
    declared = getattr(source, "declared_rate_hz", None) or getattr(source, "rate_hz", None)
    needed = bundle.spec.stream.rate_hz
    fits = declared is None or math.isclose(declared, needed, rel_tol=_RATE_TOLERANCE)
    # A grid takes any rate.
    if declared is None or fits or bundle.spec.stream.grid is not None:
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


def _check_images(config: DeviceConfig, path: KeyPath, source: Any, bundle: Bundle) -> None:
    if getattr(source, "delivers_images", False) and bundle.spec.stream.image is None:
        raise ConfigError(
            f"{key_text(path)} delivers images, but model {bundle.ref} needs none",
            where=_where(config, path),
            expected="a model with stream.image in bundle.yaml",
            remedy="Declare height, width, colour and fit there, or choose another source.",
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
    sync = config.sync
    # Outside loopback a plain link is refused at the start, unless it is asked for.
    is_encrypted = sync.is_encrypted or (sync.tls is None and not is_loopback(sync.host))
    scheme = "mqtts" if is_encrypted else "mqtt"
    return f"{scheme}://{sync.host}:{sync.port}"


def _where(config: DeviceConfig, path: KeyPath) -> str:
    return config.origin.where(*path) if config.origin else key_text(path)
