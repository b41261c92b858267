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
from edge_runtime.ports import Choice, Timing
from edge_runtime.types import Isolation, Upload, check_name

__all__ = [
    "DeviceConfig",
    "Limits",
    "MetricsConfig",
    "ModelConfig",
    "OutboxConfig",
    "ProxyConfig",
    "RecordConfig",
    "RingConfig",
    "StreamConfig",
    "StreamOutboxConfig",
    "SyncConfig",
    "TrustConfig",
    "device_of",
    "load_device",
    "split_kind",
]

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
NotEmpty = Annotated[str, Meta(min_length=1)]


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything in ``device.yaml``: unknown keys are errors."""


class ProxyConfig(_Config, frozen=True):
    """A proxy between the device and the broker; names are resolved by the proxy.

    Attributes:
        kind: ``http`` asks it to CONNECT, ``socks5`` speaks SOCKS version 5.
        host: Its name or address.
        port: Its TCP port.
        username: Name to log in with.
        password_file: File that holds the password, mode 0600.
    """

    kind: Literal["http", "socks5"]
    host: NotEmpty
    port: Annotated[int, Meta(ge=1, le=65535)]
    username: str | None = None
    password_file: Path | None = None


class SyncConfig(_Config, frozen=True):
    """The link to a broker; without it nothing leaves the device.

    Attributes:
        host: Name or address of the broker.
        port: Its TCP port.
        protocol: MQTT version.
        username: Name to log in with.
        password_file: File that holds the password, mode 0600.
        tls: Whether the link is encrypted; None for yes where ``ca_file`` or ``cert_file`` is
            set, or the device is enrolled. A plain link to another machine needs ``off``.
        ca_file: Certificates to trust, PEM; None for the identity's, else the system's.
        cert_file: This client's certificate, PEM; None for the identity's.
        key_file: Its private key, mode 0600; None where it is in ``cert_file``.
        keepalive_s: Seconds between signs of life.
        inflight_frames: Frames on their way without the cloud's acknowledgement.
        bytes_per_s: Limit on what is sent; None for no limit.
        bytes_per_day: Limit on what a day of UTC may cost, both ways; None for no limit.
        proxy: What to connect through; None connects directly.
    """

    host: NotEmpty = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    protocol: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password_file: Path | None = None
    tls: Literal["on", "off"] | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: Annotated[int, Meta(ge=1, le=65535)] = 30
    inflight_frames: Annotated[int, Meta(ge=1, le=1000)] = 20
    bytes_per_s: Count | None = None
    bytes_per_day: Annotated[int, Meta(ge=262144)] | None = None
    proxy: ProxyConfig | None = None

    def __post_init__(self) -> None:
        files = (self.ca_file, self.cert_file, self.key_file)
        if self.tls == "off" and any(files):
            raise ConfigError(
                "tls is off, but files for it are named",
                expected="tls: on, or no ca_file, cert_file and key_file",
                remedy="Remove what is not meant.",
            )
        if self.key_file is not None and self.cert_file is None:
            raise ConfigError(
                "there is a key_file and no cert_file",
                expected="the certificate that belongs to the key",
                remedy="Add cert_file, or enroll the device.",
            )

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is used."""
        return self.tls == "on" or bool(self.ca_file or self.cert_file)


class MetricsConfig(_Config, frozen=True):
    """A page from which Prometheus takes what the device counts.

    Attributes:
        host: Address to listen on; the page has no password.
        port: Its TCP port; 0 takes a free one.
    """

    host: NotEmpty = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 9108


Policy = Literal["drop_oldest", "thin", "block"]
Durable = Literal["group", "full"]
Priority = Literal["low", "normal", "high"]
KeepEvery = Annotated[int, Meta(ge=2, le=1_000_000)]
# Room for decisions between: of one priority they outlive estimates.
_RANKS: Mapping[Priority, int] = {"low": 0, "normal": 2, "high": 4}
_DECISIONS = "-decisions"


class OutboxConfig(_Config, frozen=True):
    """What waits on disk until the cloud has it.

    Attributes:
        commit_s: Longest time until a record is on disk, safe from a power cut.
        position_s: Longest time until a position is on disk where no record comes.
        quota_mb: Largest size; beyond it room is made as ``policy`` says.
        max_age_s: Largest age; None keeps rows until they are delivered.
        durable: ``group`` commits every ``commit_s``, ``full`` whatever a stream
            answers at once.
        policy: What makes room: the oldest rows become gap records (``drop_oldest``),
            old estimates are thinned first (``thin``), or the pipeline waits (``block``).
        keep_every: Of thinned estimates, every so many-th stays.
        ballast_mb: Space held back so that a full disk can be recovered from.
    """

    commit_s: Seconds = 0.25
    position_s: Seconds = 10.0
    quota_mb: Count = 256
    max_age_s: Seconds | None = None
    durable: Durable = "group"
    policy: Policy = "drop_oldest"
    keep_every: KeepEvery = 10
    ballast_mb: Annotated[int, Meta(ge=0)] = 1

    def limits(self, stream: str, own: StreamOutboxConfig | None = None) -> Limits:
        """Return what holds for the rows of an outbox stream.

        Args:
            stream: Its name; decisions of ``x`` are ``x-decisions``.
            own: What its owner has of its own.
        """
        own = own or StreamOutboxConfig()
        owner = stream.removesuffix(_DECISIONS)
        return Limits(
            owner=owner,
            rank=_RANKS[own.priority] + (owner != stream),
            quota_bytes=None if own.quota_mb is None else own.quota_mb << 20,
            max_age_s=own.max_age_s or self.max_age_s,
            policy=own.policy or self.policy,
            keep_every=own.keep_every or self.keep_every,
        )


class StreamOutboxConfig(_Config, frozen=True):
    """How the rows of one stream wait; what is left out is as the device says.

    Attributes:
        priority: Who makes room first; of one priority, decisions outlive estimates.
        quota_mb: Largest size of this stream's share, decisions included.
        max_age_s: Largest age.
        durable: As in `OutboxConfig`.
        policy: As in `OutboxConfig`.
        keep_every: As in `OutboxConfig`.
    """

    priority: Priority = "normal"
    quota_mb: Count | None = None
    max_age_s: Seconds | None = None
    durable: Durable | None = None
    policy: Policy | None = None
    keep_every: KeepEvery | None = None


class Limits(msgspec.Struct, frozen=True):
    """What holds for the rows of one outbox stream.

    Attributes:
        owner: Stream of the configuration; all its outbox streams share a quota.
        rank: Rows of a lower rank make room first.
        quota_bytes: Largest size of the owner's rows; None for no limit of its own.
        max_age_s: Largest age; None for no limit.
        policy: What makes room.
        keep_every: Of thinned rows, those whose number is a multiple of this stay.
    """

    owner: str
    rank: int = 0
    quota_bytes: int | None = None
    max_age_s: float | None = None
    policy: Policy = "drop_oldest"
    keep_every: int = 10


class RingConfig(_Config, frozen=True):
    """How much of a stream's raw frames is kept on the device.

    Attributes:
        quota_mb: Largest size; beyond it the oldest frames go.
        max_age_s: Largest age; None for no limit.
    """

    quota_mb: Count = 256
    max_age_s: Seconds | None = None


class RecordConfig(RingConfig, frozen=True):
    """Keeps the raw frames of every stream, for ``replay`` and ``explain``.

    Attributes:
        folder: Where; None for ``recording`` in the state folder.
        keep_free_mb: Room on the disk below which nothing more is recorded.
    """

    folder: Path | None = None
    keep_free_mb: Annotated[int, Meta(ge=0)] = 64


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
        time: How long to wait for samples, and which stamps to believe; for models
            with ``stream.grid`` alone.
        record: Whether raw frames are kept on the device, and how much of them; None
            as the device says.
        outbox: How its rows wait for the cloud.
    """

    source: dict[str, Any]
    model: ModelConfig
    upload: Upload = "decisions"
    time: Timing | None = None
    record: bool | RingConfig | None = None
    outbox: StreamOutboxConfig = StreamOutboxConfig()


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
    record: RecordConfig | None = None
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
        record: How raw frames are kept on the device; None keeps none, unless a stream says so.
        watchdog_s: Longest time one call of a model may take.
        schema: Version of the file's format.
        origin: The file it was read from, for messages; not a key.
    """

    origin: Document | None = None

    @property
    def profiles(self) -> Path:
        """Where the device keeps how its bundles run best."""
        return Path(self.state) / "profiles"

    @property
    def identity(self) -> Path:
        """Where the device keeps its key and certificate."""
        return Path(self.state) / "identity"

    @property
    def files(self) -> tuple[Path, ...]:
        """What it must be able to read: bundles, secrets and keys."""
        sync = self.sync
        secrets = (sync.password_file, sync.ca_file, sync.cert_file, sync.key_file) if sync else ()
        if sync and sync.proxy:
            secrets = (*secrets, sync.proxy.password_file)
        keys = self.trust.release_keys if self.trust else ()
        bundles = [Path(stream.model.bundle) for stream in self.streams.values()]
        return (*bundles, *filter(None, secrets), *keys)

    @property
    def recording(self) -> Path:
        """Where raw frames are kept, a folder for each stream."""
        named = self.record.folder if self.record else None
        return Path(self.state) / "recording" if named is None else Path(named)

    def ring(self, stream: str) -> RingConfig | None:
        """Return how much of a stream's raw frames is kept; None for nothing."""
        own = self.streams[stream].record
        if isinstance(own, RingConfig):
            return own
        if own is False or (own is None and self.record is None):
            return None
        return self.record or RecordConfig()

    def commit_s(self, stream: str) -> float:
        """Return the longest time until a record of a stream is on disk; 0 for at once."""
        durable = self.streams[stream].outbox.durable or self.outbox.durable
        return 0.0 if durable == "full" else self.outbox.commit_s

    def kept(self, stream: str) -> Upload:
        """Return which rows of a stream wait for the cloud; none without a link to one."""
        return "none" if self.sync is None else self.streams[stream].upload

    @property
    def limits(self) -> dict[str, Limits]:
        """What holds for the rows of every outbox stream, by its name."""
        return {
            outbox_stream: self.outbox.limits(outbox_stream, stream.outbox)
            for name, stream in self.streams.items()
            for outbox_stream in (name, name + _DECISIONS)
        }

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
    return device_of(read_document(path), path.parent)


def device_of(document: Document, folder: Path) -> DeviceConfig:
    """Build a device from a document that was read, or is a part of another one.

    Args:
        document: With the keys of a device's YAML file.
        folder: Relative paths are taken from here.

    Raises:
        ConfigError: It does not fit; ``where`` is ``file:line:column``.
    """
    keys = convert(document, _DeviceKeys, folder=folder)
    _check_device_names(keys, document)
    streams = {
        name: _complete_stream(stream, name, document, folder)
        for name, stream in keys.streams.items()
    }
    sinks = tuple(
        _complete("sinks", options, document, ("sinks", i), folder)
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


def _complete_stream(
    stream: StreamConfig, name: str, document: Document, folder: Path
) -> StreamConfig:
    path = ("streams", name, "source")
    source = _complete("sources", stream.source, document, path, folder)
    return msgspec.structs.replace(stream, source=source)


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
    completed = cast(dict[str, Any], msgspec.to_builtins(config, enc_hook=str))
    parts: str | None = getattr(plugin, "parts", None)
    for number, part in enumerate(completed[parts] if parts else ()):
        inner: KeyPath = (*path, str(parts), number, "source")
        part["source"] = _complete(group, part["source"], document, inner, folder)
    return {"kind": kind, **completed}


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
