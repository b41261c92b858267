"""What a server is told: which models, where to listen, who may ask, and how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.config import ModelConfig, load_yaml
from edge_runtime.config.check import check_file
from edge_runtime.config.hosts import is_loopback
from edge_runtime.errors import ConfigError
from edge_runtime.ports import Timing

__all__ = ["Limits", "ServeConfig", "ServedConfig", "TLSConfig", "check_serve", "load_serve"]

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Megabytes = Annotated[float, Meta(gt=0, le=4096)]
NotEmpty = Annotated[str, Meta(min_length=1)]

_SHORTEST_TOKEN = 16
_MOST_TOKENS = 16


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything in ``serve.yaml``: unknown keys are errors."""


class ServedConfig(ModelConfig, frozen=True):
    """One model, as a device's configuration describes it.

    Attributes:
        layers: Book of layers: a sequence has those of the entity whose id is its own.
        time: How long a sequence waits for samples, and which stamps it believes; for a
            bundle with ``stream.grid`` alone.
    """

    layers: Path | None = None
    time: Timing | None = None


class TLSConfig(_Config, frozen=True):
    """Encryption; TLS 1.2 is the least.

    Attributes:
        cert_file: Certificate chain, PEM.
        key_file: Its private key, PEM, mode 0600.
        client_ca_file: Certificates that clients must be signed by; None asks for none.
    """

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


class Limits(_Config, frozen=True):
    """How much a server takes on. What goes beyond is refused and counted.

    Attributes:
        body_mb: Largest body of a request, MiB.
        bodies_mb: All bodies together that are being received or answered, MiB.
        connections: Open at once; when full, the one that has waited longest without
            a whole request gives way (``drop_oldest``).
        windows: Largest number of windows, tensor rows or samples in a request.
        queue: Requests that may wait for one model (``drop_newest``).
        inline_ms: A call expected to be shorter runs where it came in; a longer one,
            on the model's own thread. 0 sends all to the thread.
        head_s: From a connection, or a request's first byte, to the end of its head.
        body_s: From there to the end of its body.
        idle_s: An open connection without a new request.
        write_s: A client that does not take its answer.
        request_s: From a request to its answer, waiting included.
        sequences: Streams open at once (``drop_newest``).
        sequence_idle_s: A stream without a request is forgotten.
        linger_s: Time between the wish to stop and the earliest end, in which a load
            balancer notices that this server is not ready.
        drain_s: Longest time for requests in flight at the end.
    """

    body_mb: Megabytes = 16.0
    bodies_mb: Megabytes = 256.0
    connections: Count = 4096
    windows: Count = 65_536
    queue: Count = 64
    inline_ms: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    head_s: Seconds = 10.0
    body_s: Seconds = 30.0
    idle_s: Seconds = 75.0
    write_s: Seconds = 30.0
    request_s: Seconds = 30.0
    sequences: Count = 256
    sequence_idle_s: Seconds = 300.0
    linger_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    drain_s: Seconds = 30.0


class ServeConfig(_Config, frozen=True):
    """A server.

    Attributes:
        schema: Version of this file's format.
        models: What is loaded at the start.
        repository: Folder of bundles that are loaded too, and looked at again by ``load``.
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        token_file: One token a line, mode 0600; a request must bring one of them.
        without_token: Whether it may listen beyond loopback without a token.
        tls: Encryption; None for plain HTTP.
        limits: How much it takes on.
    """

    schema: Literal[1] = 1
    models: tuple[ServedConfig, ...] = ()
    repository: Path | None = None
    host: NotEmpty = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    token_file: Path | None = None
    without_token: bool = False
    tls: TLSConfig | None = None
    limits: Limits = Limits()

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine reach it."""
        return is_loopback(self.host)


def load_serve(path: Path) -> ServeConfig:
    """Read ``serve.yaml``; relative paths in it are relative to the file.

    Raises:
        ConfigError: The file cannot be read or does not fit.
    """
    return load_yaml(path, ServeConfig)


def check_serve(config: ServeConfig) -> tuple[bytes, ...]:
    """Check what can be checked before a model is opened, and return the tokens.

    Raises:
        ConfigError: There is nothing to serve, a file is missing, a secret can be
            read by others, or everybody could ask.
    """
    _check_models(config)
    _check_tls(config.tls)
    tokens = _tokens(config.token_file) if config.token_file else ()
    if not (tokens or config.is_loopback or config.without_token):
        raise ConfigError(
            f"host is {config.host!r} and there is no token: everybody who reaches this "
            "machine could ask, load and unload",
            where="serve",
            expected="a token_file, or a loopback address such as 127.0.0.1",
            remedy="Write a token into a file of mode 0600 and name it with --token-file; "
            "--without-token serves everybody.",
        )
    return tokens


def _check_models(config: ServeConfig) -> None:
    if not config.models and config.repository is None:
        raise ConfigError(
            "there is no model",
            where="serve",
            expected="at least one bundle, or a repository",
            remedy="Name a bundle: edge-runtime serve BUNDLE.",
        )
    if config.repository is not None and not config.repository.is_dir():
        raise ConfigError(
            f"repository is {str(config.repository)!r}, which is no folder",
            where="serve",
            expected="a folder of bundles",
            remedy="Correct the path.",
        )


def _check_tls(tls: TLSConfig | None) -> None:
    if tls is None:
        return
    check_file(tls.cert_file, "tls.cert_file", "serve")
    check_file(tls.key_file, "tls.key_file", "serve", is_secret=True)
    if tls.client_ca_file is not None:
        check_file(tls.client_ca_file, "tls.client_ca_file", "serve")


def _tokens(path: Path) -> tuple[bytes, ...]:
    check_file(path, "token_file", "serve", is_secret=True)
    with path.open("rb") as file:
        lines = file.read(1 << 16).split(b"\n")
    tokens = tuple(line.strip() for line in lines if line.strip())
    lengths = sorted(map(len, tokens))
    if not 1 <= len(tokens) <= _MOST_TOKENS or lengths[0] < _SHORTEST_TOKEN:
        raise ConfigError(
            f"token_file has {len(tokens)} tokens, the shortest of {lengths[:1] or [0]} characters",
            where=str(path),
            expected=f"1 to {_MOST_TOKENS} tokens, one a line, of {_SHORTEST_TOKEN} or more",
            remedy="Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return tokens
