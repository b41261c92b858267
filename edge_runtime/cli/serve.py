"""``edge-runtime serve``: bundles behind the Open Inference Protocol."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.cli.pairs import timing_of
from edge_runtime.cli.quantities import count
from edge_runtime.errors import ConfigError
from edge_runtime.modes.realtime import (
    RealtimeServer,
    ServeConfig,
    ServedConfig,
    TLSConfig,
    load_serve,
)
from edge_runtime.plural import counted

__all__ = ["Serve"]


class Serve:
    """Serve models until Ctrl-C or SIGTERM."""

    name = "serve"
    help = "answer requests for scores and decisions over HTTP (Open Inference Protocol v2)"
    example = "edge-runtime serve examples/gas_turbine/bundles/turbine-nox-1.0.0 --port 8000"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("bundles", type=Path, nargs="*", metavar="BUNDLE", help="folder or zip file")
        add("--config", type=Path, metavar="YAML", help="everything below, and all limits")
        add("--repository", type=Path, metavar="DIR", help="folder of bundles, for load by name")
        add("--host", help="address to listen on (default 127.0.0.1)")
        add("--port", type=int, help="TCP port, 0 for a free one (default 8000)")
        add("--token-file", type=Path, metavar="FILE", help="tokens, one a line, mode 0600")
        add(
            "--without-token",
            action="store_true",
            default=None,
            help="listen beyond loopback and answer everybody",
        )
        add("--tls-cert", type=Path, metavar="PEM", help="certificate chain: serve https")
        add("--tls-key", type=Path, metavar="PEM", help="its private key, mode 0600")
        add("--backend", metavar="NAME", help="model runtime for the BUNDLEs named here")
        add("--threads", type=count, metavar="N", help="threads inside one call")
        add("--accelerator", metavar="NAME", help="execution provider or delegate")
        add("--isolation", choices=("thread", "process"), default="thread", help="where models run")
        add("--layers", type=Path, metavar="FILE", help="book of layers by sequence_id")
        add("--time", metavar="KEY=VALUE,…", help="how long sequences on a grid wait for samples")
        add("--json", action="store_true", help="print one JSON line at the start and at the end")

    def run(self, args: argparse.Namespace) -> int:
        """Serve; 0 after a wished end, however it was wished."""
        server = RealtimeServer(_config(args))
        asyncio.run(_served(server, is_json=args.json))
        answered = server.answered
        told = f"{counted(answered, 'request')} answered"
        _say(args.json, told, {"event": "ended", "answered": answered})
        return 0


async def _served(server: RealtimeServer, *, is_json: bool) -> None:
    with _stopping(server):
        _say(is_json, _greeting(server), {"event": "listening", **_facts(server)})
        await server.run()


@contextmanager
def _stopping(server: RealtimeServer) -> Iterator[None]:
    """Make the first Ctrl-C or SIGTERM a wish; a second Ctrl-C breaks off."""
    loop = asyncio.get_running_loop()

    def wish() -> None:
        server.stop()
        loop.remove_signal_handler(signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, wish)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _config(args: argparse.Namespace) -> ServeConfig:
    """Return the file's configuration, changed and extended by the flags."""
    base = ServeConfig() if args.config is None else load_serve(args.config)
    named = tuple(
        ServedConfig(
            bundle=path,
            backend=args.backend,
            threads=args.threads,
            accelerator=args.accelerator,
            isolation=args.isolation,
            layers=args.layers,
            time=timing_of(args.time, "--time"),
        )
        for path in args.bundles
    )
    flags = {
        "repository": args.repository,
        "host": args.host,
        "port": args.port,
        "token_file": args.token_file,
        "without_token": args.without_token,
        "tls": _tls(args),
    }
    given: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
    config = msgspec.structs.replace(base, models=base.models + named, **given)
    if not 0 <= config.port <= 65535:
        raise ConfigError(f"--port is {config.port}", expected="0 to 65535")
    return config


def _tls(args: argparse.Namespace) -> TLSConfig | None:
    if (args.tls_cert is None) != (args.tls_key is None):
        raise ConfigError(
            "one of --tls-cert and --tls-key is missing",
            expected="both, or none",
            remedy="Name the certificate and its private key.",
        )
    return (
        None if args.tls_cert is None else TLSConfig(cert_file=args.tls_cert, key_file=args.tls_key)
    )


def _facts(server: RealtimeServer) -> dict[str, Any]:
    models = [model.bundle.ref for model in server.repository]
    return {"url": server.url, "models": models}


def _greeting(server: RealtimeServer) -> str:
    lines = [f"listening on {server.url}/v2"]
    for model in server.repository:
        shape = "[n, " + ", ".join(map(str, model.inputs[0].shape[1:])) + "]"
        lines.append(
            f"  {model.bundle.ref}: window {model.inputs[0].datatype} {shape}, "
            f"{model.lane.window_ns / 1e3:.0f} µs a window, {server.url}/v2/models/{model.name}"
        )
    return "\n".join(lines)


def _say(is_json: bool, text: str, facts: dict[str, Any]) -> None:
    line = msgspec.json.encode(facts).decode() if is_json else text
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
