"""``edge-runtime run``: edge mode on this machine."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import msgspec

from edge_runtime.config import DeviceConfig, load_device
from edge_runtime.config.check import check_device
from edge_runtime.modes.edge import DeviceStatus, EdgeDevice

__all__ = ["Run"]


class Run:
    """Run a device until its recordings end or Ctrl-C."""

    name = "run"
    help = "run a device: sources in, decisions out, records kept until the cloud has them"
    example = "edge-runtime run device_configs/pump.yaml"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        parser.add_argument("config", type=Path, help="device YAML")
        parser.add_argument(
            "--drain-s",
            type=float,
            default=10.0,
            metavar="S",
            help="wait so long for the cloud's acknowledgements at the end (default 10)",
        )
        parser.add_argument(
            "--stay", action="store_true", help="keep syncing after the recordings have ended"
        )
        parser.add_argument(
            "--accelerator",
            metavar="NAME",
            help="run every model on this execution provider or delegate, see doctor",
        )
        parser.add_argument("--json", action="store_true", help="print the final status as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Run, then say what was done and what still waits for the cloud."""
        config = _accelerated(load_device(args.config), args.accelerator)
        check_device(config)
        device = EdgeDevice(config)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: device.stop())
        device.run(drain_s=args.drain_s, stays=args.stay)
        status = device.status()
        text = msgspec.json.encode(status).decode() if args.json else _summary(status)
        sys.stdout.write(text + "\n")
        return 0


def _accelerated(config: DeviceConfig, name: str | None) -> DeviceConfig:
    if name is None:
        return config
    replace = msgspec.structs.replace
    streams = {
        stream: replace(one, model=replace(one.model, accelerator=name))
        for stream, one in config.streams.items()
    }
    return replace(config, streams=streams)


def _summary(status: DeviceStatus) -> str:
    lines = [
        f"{name}: {stream.position} samples read, {stream.estimates} windows, "
        f"{stream.decisions} decisions, effective {stream.effective_id}"
        + "".join(
            f", {count} {reason}" for reason, count in sorted(stream.discarded.items()) if count
        )
        for name, stream in status.streams.items()
    ]
    if status.backlog_rows:
        lines.append(f"{status.backlog_rows} rows wait for the cloud; they are kept.")
    return "\n".join(lines)
