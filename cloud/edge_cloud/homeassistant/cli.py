"""``edge-runtime homeassistant``: the bridge as a process of its own."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_cloud.config import CloudConfig, load_cloud
from edge_cloud.homeassistant.bridge import Bridge
from edge_cloud.homeassistant.discovery import Names
from edge_cloud.links import BRIDGE, link_of
from edge_runtime.clock import SystemClock
from edge_runtime.config import SyncConfig
from edge_runtime.config.hosts import is_loopback
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.ports import Clock
from edge_runtime.service.draft import broker_of
from edge_runtime.sync.paho import PahoTransport

__all__ = ["HomeAssistant"]

log = logging.getLogger(__name__)

_STEP_S = 1.0
# What the cloud's YAML says, where there is one.
_DECLARED = (
    *("broker", "tls", "username", "password_file", "ca_file", "cert_file", "key_file"),
    *("root", "prefix"),
)


class HomeAssistant:
    """Show devices and their decisions in Home Assistant."""

    name = "homeassistant"
    help = "show devices and their decisions in Home Assistant, until Ctrl-C"
    example = "edge-runtime homeassistant --broker homeassistant.local --ca-file ca.pem"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--config", type=Path, help="cloud YAML, in place of the options down to --prefix"
        )
        parser.add_argument(
            "--broker", metavar="HOST[:PORT]", help="of both sides (default 127.0.0.1)"
        )
        parser.add_argument(
            "--tls", choices=("on", "off"), help="whether the link is encrypted; on with a file"
        )
        parser.add_argument("--username", help="name to log in with")
        parser.add_argument("--password-file", type=Path, help="file that holds the password")
        parser.add_argument("--ca-file", type=Path, help="certificates to trust; turns TLS on")
        parser.add_argument("--cert-file", type=Path, help="certificate to show; turns TLS on")
        parser.add_argument("--key-file", type=Path, help="its private key, mode 0600")
        parser.add_argument("--root", help="first level of the devices' topics (default er)")
        parser.add_argument(
            "--prefix", help="where Home Assistant looks for devices (default homeassistant)"
        )
        parser.add_argument(
            "--json", action="store_true", help="print what was passed on as JSON at the end"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Pass messages on until Ctrl-C."""
        clock = SystemClock()
        setup = _typed(args) if args.config is None else _declared(args, clock)
        transport = PahoTransport(setup.link, BRIDGE, clock)
        bridge = Bridge(transport, setup.names)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        bridge.open()
        sys.stderr.write("homeassistant running; Ctrl-C ends.\n")
        try:
            while not stop.is_set():
                bridge.step(_STEP_S)
                setup.renew()
        finally:
            bridge.close()
        stats = msgspec.to_builtins(bridge.stats)
        text = f"{stats['devices']} devices, {stats['states_total']} states"
        sys.stdout.write((json.dumps(stats) if args.json else text) + "\n")
        return 0


class _Setup(NamedTuple):
    """What a bridge is made of.

    Attributes:
        link: To the broker.
        names: Its topics.
        renew: Keeps the certificate of the link young; called again and again.
    """

    link: SyncConfig
    names: Names
    renew: Callable[[], None]


def _declared(args: argparse.Namespace, clock: Clock) -> _Setup:
    """Take everything from the cloud's YAML."""
    typed = [_option(name) for name in _DECLARED if getattr(args, name) is not None]
    if typed:
        raise ConfigError(
            f"{', '.join(typed)} is given beside --config",
            where="homeassistant",
            expected="the YAML or options, not both",
            remedy="The YAML says where the broker is and what topics are called; change it there.",
        )
    config = load_cloud(args.config)
    if config.homeassistant is None:
        raise ConfigError(
            "the cloud does not say that Home Assistant is a client of its broker",
            where=f"{args.config}: homeassistant",
            expected="homeassistant: {}",
            remedy="Add it; where the broker has an access list, run broker-config again.",
        )
    link = link_of(config, BRIDGE, clock)
    return _Setup(link, config.homeassistant.names(config.root), _Renewal(config, clock).step)


def _typed(args: argparse.Namespace) -> _Setup:
    """Take everything from the options."""
    if args.key_file is not None and args.cert_file is None:
        raise ConfigError(
            f"--key-file is {str(args.key_file)!r}, and there is no --cert-file",
            where="homeassistant",
            expected="the certificate that belongs to the key",
            remedy=f"Add it; both are made by: edge-runtime cloud ca issue CLOUD.yaml {BRIDGE}.",
        )
    host, port = _broker(args)
    link = SyncConfig(
        host=host,
        port=port,
        username=args.username,
        password_file=args.password_file,
        tls=args.tls,
        ca_file=args.ca_file,
        cert_file=args.cert_file,
        key_file=args.key_file,
    )
    given = {name: getattr(args, name) for name in ("root", "prefix")}
    names = Names(**{name: value for name, value in given.items() if value is not None})
    return _Setup(link, names, lambda: None)


def _broker(args: argparse.Namespace) -> tuple[str, int]:
    """Return host and port; a link to another machine is encrypted, or said not to be."""
    has_file = args.ca_file is not None or args.cert_file is not None
    has_tls = args.tls == "on" if args.tls is not None else has_file or None
    host, port = broker_of(args.broker or "127.0.0.1", has_tls=has_tls)
    if has_tls is None and not is_loopback(host):
        raise ConfigError(
            f"the link to {host} would not be encrypted",
            where="homeassistant",
            expected="--ca-file, --cert-file or --tls",
            remedy="Name the authority of the broker's certificate with --ca-file; say --tls on if "
            "it is a public one, or --tls off to send everything in the clear.",
        )
    return host, port


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class _Renewal:
    """Looks now and then whether the certificate of the bridge has grown old.

    Args:
        config: Of the cloud, whose authority signs it.
        clock: Says when to look.
    """

    def __init__(self, config: CloudConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._looked_ns = clock.monotonic_ns()

    def step(self) -> None:
        """Replace it where it has; the link moves over by itself."""
        identity, now_ns = self._config.identity, self._clock.monotonic_ns()
        if identity is None or now_ns - self._looked_ns < identity.renew_s * 1e9:
            return
        self._looked_ns = now_ns
        try:
            link_of(self._config, BRIDGE, self._clock)
        except (EdgeError, OSError) as error:
            # The present one is good for a third of its life; the next look is well before.
            log.warning("homeassistant.not_renewed", extra={"why": str(error)})
