"""Draft the YAML of a new device from a handful of answers."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from edge_runtime import registry
from edge_runtime.boards import BOARDS, Board, board_here
from edge_runtime.config.hosts import is_loopback
from edge_runtime.errors import ConfigError
from edge_runtime.types import check_name

__all__ = ["Draft", "broker_of", "default_name", "draft_text", "option_of", "required_options"]

_MQTT, _MQTT_TLS = 1883, 8883


class Draft(msgspec.Struct, frozen=True):
    """What a new device is made of.

    Attributes:
        name: Device id.
        board: Where it runs.
        source: Kind of source.
        options: Options of that source.
        bundle: Folder or zip file of the model.
        broker: Host and port; None keeps everything on the device.
        ca_file: Certificates to trust; the link is encrypted when it is set.
        backend: Model runtime, where the board prefers none; None leaves it to the bundle.
        state: Folder for everything the device keeps.
    """

    name: str
    board: Board
    source: str
    options: dict[str, Any]
    bundle: Path
    broker: tuple[str, int] | None
    state: Path
    ca_file: Path | None = None
    backend: str | None = None


def default_name() -> str:
    """Return this machine's name as a device id."""
    name = re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().split(".")[0].lower())
    return name.strip("-_")[:63] or "device-1"


def required_options(source: str) -> dict[str, str]:
    """Return the options without a default of a kind of source, with their types in words.

    Raises:
        ConfigError: There is no such source.
    """
    config = getattr(registry.find("sources", source), "Config", None)
    fields = msgspec.structs.fields(config) if config is not None else ()
    return {field.encode_name: _words(field.type) for field in fields if field.required}


def option_of(text: str) -> tuple[str, Any]:
    """Read ``key=value``; the value is YAML.

    Raises:
        ConfigError: It has another form.
    """
    key, equals, value = text.partition("=")
    try:
        if equals and key.strip():
            return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise ConfigError(
        f"--set is {text!r}",
        where="device init",
        expected="KEY=VALUE with a value in YAML, such as --set address=0x68",
        remedy="Give one option of the source for each --set.",
    )


def broker_of(text: str, *, has_tls: bool | None) -> tuple[str, int]:
    """Read ``HOST`` or ``HOST:PORT``.

    Args:
        text: What was typed.
        has_tls: Whether the link is encrypted; None for yes where it leaves this machine.

    Raises:
        ConfigError: The port is no number from 1 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        is_encrypted = not is_loopback(text) if has_tls is None else has_tls
        return text, _MQTT_TLS if is_encrypted else _MQTT
    if port.isdecimal() and host and 1 <= int(port) <= 65535:
        return host, int(port)
    raise ConfigError(
        f"the broker is {text!r}",
        where="--broker",
        expected="HOST or HOST:PORT",
        remedy="Name the machine on which the MQTT broker runs.",
    )


def draft_text(draft: Draft) -> str:
    """Return the YAML, with a comment on what may want changing.

    Raises:
        ConfigError: The name may not stand in a topic.
    """
    check_name(draft.name, "device id")
    board = draft.board
    lines = [
        f"# {draft.name}: {board.title}. Check it: edge-runtime check THIS.yaml",
        *([f"# {board.note}"] if board.note else []),
        "schema: 1",
        f"device: {draft.name}",
        f"state: {_flow(str(draft.state))}",
        "streams:",
        "  main:",
        f"    source: {_flow({'kind': draft.source, **draft.options})}",
        f"    model: {_flow(_model(draft))}",
        "    upload: decisions   # or none, features, windows: what may leave the device",
        "sinks:",
        "  - {kind: terminal}   # as a service: the journal",
        f"outbox: {_flow({'quota_mb': board.quota_mb, 'ballast_mb': board.ballast_mb})}",
    ]
    if draft.broker is None:
        lines.append("# sync: {host: broker.example, port: 8883, ca_file: ca.pem}")
    else:
        lines.append(f"sync: {_flow(_sync(draft.broker, draft.ca_file))}")
    return "\n".join(lines) + "\n"


def _model(draft: Draft) -> dict[str, Any]:
    board = draft.board
    wishes = {
        "backend": board.backend or draft.backend,
        "threads": board.threads if board.threads > 1 else None,
        "accelerator": board.accelerator,
    }
    return {"bundle": str(draft.bundle), **{k: v for k, v in wishes.items() if v is not None}}


def _sync(broker: tuple[str, int], ca_file: Path | None) -> dict[str, Any]:
    tls = {} if ca_file is None else {"ca_file": str(ca_file)}
    return {"host": broker[0], "port": broker[1], **tls}


def _flow(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _words(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind).replace("typing.", "")


Ask = Callable[[str, str], str]
"""Asks a question that has a default answer; returns the answer."""


def asked(given: Mapping[str, str | None], ask: Ask) -> dict[str, str]:
    """Return the five answers, asking for those that were not given."""
    questions = {
        "name": ("Name of the device", default_name()),
        "board": (f"Board ({', '.join(BOARDS)})", board_here().name),
        "sensor": (f"Sensor ({', '.join(registry.names('sources'))})", ""),
        "model": (f"Model: a bundle, or one of {', '.join(registry.names('bundles'))}", ""),
        "broker": ("MQTT broker, HOST or HOST:PORT; empty for none", ""),
    }
    return {
        key: known if (known := given.get(key)) is not None else ask(*question)
        for key, question in questions.items()
    }
