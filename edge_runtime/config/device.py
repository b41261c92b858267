"""One YAML file declares a device: its streams, models, sinks, link and trust."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from edge_runtime import registry
from edge_runtime.config.convert import convert, convert_part
from edge_runtime.config.document import Document, KeyPath, key_text, read_document
from edge_runtime.errors import ConfigError
from edge_runtime.ports import Choice
from edge_runtime.types import Isolation, Upload, check_name

__all__ = [
    "DeviceConfig",
    "MetricsConfig",
    "ModelConfig",
    "OutboxConfig",
    "StreamConfig",
    "SyncConfig",
    "TrustConfig",
    "load_device",
    "split_kind",
]

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
NotEmpty = Annotated[str, Meta(min_length=1)]


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything in ``device.yaml``: unknown keys are errors."""


class SyncConfig(_Config, frozen=True):
    """The link to a broker; without it nothing leaves the device.

    Attributes:
        host: Name or address of the broker.
        port: Its TCP port.
        protocol: MQTT version.
        username: Name to log in with.
        password_file: File that holds the password, mode 0600.
        ca_file: Certificates to trust, PEM; TLS is used when it is set.
        keepalive_s: Seconds between signs of life.
        inflight_frames: Frames on their way without the cloud's acknowledgement.
        bytes_per_s: Limit on what is sent; None for no limit.
    """

    host: NotEmpty = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    protocol: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    keepalive_s: Annotated[int, Meta(ge=1, le=65535)] = 30
    inflight_frames: Annotated[int, Meta(ge=1, le=1000)] = 20
    bytes_per_s: Count | None = None


class MetricsConfig(_Config, frozen=True):
    """A page from which Prometheus takes what the device counts.

    Attributes:
        host: Address to listen on; the page has no password.
        port: Its TCP port; 0 takes a free one.
    """

    host: NotEmpty = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 9108


class OutboxConfig(_Config, frozen=True):
    """What waits on disk until the cloud has it.

    Attributes:
        commit_s: Longest time until a record is on disk.
        quota_mb: Largest size; beyond it the oldest rows become gap records.
        max_age_s: Largest age; None keeps rows until they are delivered.
        durable: ``group`` may lose the last ``commit_s`` in a power cut, ``full`` nothing.
        ballast_mb: Space held back so that a full disk can be recovered from.
    """

    commit_s: Seconds = 0.25
    quota_mb: Count = 256
    max_age_s: Seconds | None = None
    durable: Literal["group", "full"] = "group"
    ballast_mb: Annotated[int, Meta(ge=0)] = 1


class ModelConfig(_Config, frozen=True):
    """Which model answers.

    Attributes:
        bundle: Folder or zip file of the base bundle.
        backend: Name of the model runtime; None takes the bundle's preference.
        threads: Threads inside one inference; None takes what `edge-runtime tune` chose,
            else 1.
        accelerator: Execution provider or delegate by name; None for the processor, or
            for what `edge-runtime tune` chose.
        isolation: ``thread`` runs it in the device's process, ``process`` in a child.
        memory_mb: Memory that a model in a child may take beyond its runtime, MiB.
    """

    bundle: Path
    backend: str | None = None
    threads: Annotated[int, Meta(ge=1, le=64)] | None = None
    accelerator: NotEmpty | None = None
    isolation: Isolation = "thread"
    memory_mb: Annotated[int, Meta(ge=16)] = 1024

    @property
    def choice(self) -> Choice:
        """How the configuration wants the model to be run; the device profile fills the rest."""
        return Choice(
            backend=self.backend,
            threads=self.threads,
            accelerator=self.accelerator,
            isolation=self.isolation,
            memory_mb=self.memory_mb,
        )


class StreamConfig(_Config, frozen=True):
    """One stream: a source, a model, and what may leave the device.

    Attributes:
        source: ``kind`` and the options of that source.
        model: What answers.
        upload: What may go to the cloud, whatever the cloud asks for.
    """

    source: dict[str, Any]
    model: ModelConfig
    upload: Upload = "decisions"


class TrustConfig(_Config, frozen=True):
    """Who may sign new base bundles.

    Attributes:
        release_keys: Files with public Ed25519 keys, PEM or hex.
    """

    release_keys: Annotated[tuple[Path, ...], Meta(min_length=1)]


class _DeviceKeys(_Config, frozen=True):
    """The keys of ``device.yaml``."""

    device: str
    state: Path
    streams: Annotated[dict[str, StreamConfig], Meta(min_length=1)]
    sinks: tuple[dict[str, Any], ...] = ()
    sync: SyncConfig | None = None
    metrics: MetricsConfig | None = None
    outbox: OutboxConfig = OutboxConfig()
    trust: TrustConfig | None = None
    watchdog_s: Annotated[float, Meta(ge=1)] = 30.0
    schema: Literal[1] = 1


class DeviceConfig(_DeviceKeys, frozen=True):
    """A device, as its YAML file declares it.

    Attributes:
        device: Device id.
        state: Folder for everything the device keeps.
        streams: By name.
        sinks: Where results are shown or written here; each has a ``kind``.
        sync: Link to the cloud; None stays local.
        metrics: Where the metrics are served; None serves none.
        outbox: What waits on disk.
        trust: Who may sign updates; None accepts none.
        watchdog_s: Longest time one call of a model may take.
        schema: Version of the file's format.
        origin: The file it was read from, for messages; not a key.
    """

    origin: Document | None = None

    @property
    def profiles(self) -> Path:
        """Where the device keeps how its bundles run best."""
        return Path(self.state) / "profiles"

    def __post_init__(self) -> None:
        _check_device_names(self)


def load_device(path: Path | str) -> DeviceConfig:
    """Read a device's YAML file; relative paths in it are relative to the file.

    The options of sources and sinks are checked against their plug-ins and
    completed by their defaults.

    Raises:
        ConfigError: The file cannot be read or does not fit; ``where`` is ``file:line:column``.
    """
    path = Path(path)
    document = read_document(path)
    keys = convert(document, _DeviceKeys, folder=path.parent)
    _check_device_names(keys, document)
    streams = {
        name: msgspec.structs.replace(stream, source=_complete_source(stream, name, document, path))
        for name, stream in keys.streams.items()
    }
    sinks = tuple(
        _complete("sinks", options, document, ("sinks", i), path.parent)
        for i, options in enumerate(keys.sinks)
    )
    fields = msgspec.structs.asdict(keys) | {"streams": streams, "sinks": sinks}
    return DeviceConfig(**fields, origin=document)


def split_kind(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Part the ``kind`` of a source or sink from the options of its plug-in.

    Raises:
        ConfigError: There is no ``kind``.
    """
    rest = dict(options)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError(
            "a source or sink has no kind", expected="kind: NAME", remedy="Add the key 'kind'."
        )
    return kind, rest


def _check_device_names(config: _DeviceKeys, document: Document | None = None) -> None:
    _check_named(config.device, "device id", document, ("device",))
    for name in config.streams:
        _check_named(name, "stream name", document, ("streams", name))
        # Decisions travel as a stream of their own, named after it.
        decisions = f"{name}-decisions"
        _check_named(decisions, "stream name with -decisions", document, ("streams", name))
        if decisions in config.streams:
            raise ConfigError(
                f"stream {decisions!r} has the name under which decisions of {name!r} travel",
                where=document.where_key("streams", decisions) if document else "",
                expected="another name",
                remedy="Rename the stream.",
            )


def _check_named(name: str, what: str, document: Document | None, path: KeyPath) -> None:
    try:
        check_name(name, what)
    except ConfigError as error:
        if document is None:
            raise
        where = document.where(*path) if path == ("device",) else document.where_key(*path)
        raise ConfigError(
            error.what, where=where, expected=error.expected, remedy=error.remedy
        ) from error


def _complete_source(
    stream: StreamConfig, name: str, document: Document, path: Path
) -> dict[str, Any]:
    return _complete("sources", stream.source, document, ("streams", name, "source"), path.parent)


def _complete(
    group: Literal["sources", "sinks"],
    options: dict[str, Any],
    document: Document,
    path: KeyPath,
    folder: Path,
) -> dict[str, Any]:
    """Check a plug-in's options and fill in its defaults, as builtins."""
    plugin = _find(group, options, document, path)
    kind, rest = split_kind(options)
    config = convert_part(document, rest, plugin.Config, path=path, folder=folder)
    completed = msgspec.to_builtins(config, enc_hook=str)
    return {"kind": kind, **cast(dict[str, Any], completed)}


def _find(
    group: Literal["sources", "sinks"], options: dict[str, Any], document: Document, path: KeyPath
) -> type[Any]:
    kind = options.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(
            f"key {key_text((*path, 'kind'))!r} is missing or no text",
            where=document.where(*path, "kind"),
            expected=f"one of {', '.join(registry.names(group))}",
            remedy=f"Say which {group[:-1]} it is: add the key 'kind'.",
        )
    try:
        return registry.find(group, kind)
    except ConfigError as error:
        raise ConfigError(
            f"{key_text((*path, 'kind'))} is {kind!r}: {error.what}",
            where=document.where(*path, "kind"),
            expected=error.expected,
            remedy=error.remedy,
        ) from error
