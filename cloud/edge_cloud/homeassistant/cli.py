"""``edge-runtime homeassistant``: the bridge as a process of its own."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

import msgspec

from edge_cloud.homeassistant.bridge import Bridge
from edge_cloud.homeassistant.discovery import Names
from edge_runtime.clock import SystemClock
from edge_runtime.config import SyncConfig
from edge_runtime.service.draft import broker_of
from edge_runtime.sync.paho import PahoTransport

__all__ = ["HomeAssistant"]

_STEP_S = 1.0


class HomeAssistant:
    """Show devices and their decisions in Home Assistant."""

    name = "homeassistant"
    help = "show devices and their decisions in Home Assistant, until Ctrl-C"
    example = "edge-runtime homeassistant --broker homeassistant.local"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--broker", default="127.0.0.1", metavar="HOST[:PORT]", help="of both sides"
        )
        parser.add_argument("--username", help="name to log in with")
        parser.add_argument("--password-file", type=Path, help="file that holds the password")
        parser.add_argument("--ca-file", type=Path, help="certificates to trust; turns TLS on")
        parser.add_argument("--root", default="er", help="first level of the devices' topics")
        parser.add_argument(
            "--prefix", default="homeassistant", help="where Home Assistant looks for devices"
        )
        parser.add_argument(
            "--json", action="store_true", help="print what was passed on as JSON at the end"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Pass messages on until Ctrl-C."""
        transport = PahoTransport(_link(args), "edge-homeassistant", SystemClock())
        bridge = Bridge(transport, Names(args.root, args.prefix))
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        bridge.open()
        sys.stderr.write("homeassistant running; Ctrl-C ends.\n")
        try:
            while not stop.is_set():
                bridge.step(_STEP_S)
        finally:
            bridge.close()
        stats = msgspec.to_builtins(bridge.stats)
        text = f"{stats['devices']} devices, {stats['states_total']} states"
        sys.stdout.write((json.dumps(stats) if args.json else text) + "\n")
        return 0


def _link(args: argparse.Namespace) -> SyncConfig:
    host, port = broker_of(args.broker, has_tls=args.ca_file is not None)
    return SyncConfig(
        host=host,
        port=port,
        username=args.username,
        password_file=args.password_file,
        ca_file=args.ca_file,
    )
