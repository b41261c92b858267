"""``edge-runtime run``: edge mode on this machine.

The program that is started supervises, and the device is a child of it. So
nothing heavy is imported here before it is known which of the two this is.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.plural import counted

if TYPE_CHECKING:
    from edge_runtime.config import DeviceConfig
    from edge_runtime.modes.edge import DeviceStatus, EdgeDevice
    from edge_runtime.modes.keyed import KeyedStream
    from edge_runtime.modes.status import StreamStatus

__all__ = ["Run", "stop_on_signals", "summary_of"]


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
            "--record",
            type=Path,
            metavar="FOLDER",
            help="keep the raw frames of every stream here, for replay and explain",
        )
        parser.add_argument(
            "--accelerator",
            metavar="NAME",
            help="run every model on this execution provider or delegate, see doctor",
        )
        parser.add_argument(
            "--no-supervisor",
            action="store_true",
            help="one process, for a service manager that starts it again by itself",
        )
        parser.add_argument("--json", action="store_true", help="print the final status as JSON")
        # For the supervisor: descriptors of its page and its tie, and what happened before.
        parser.add_argument("--supervised", help=argparse.SUPPRESS)
        parser.add_argument("--crashed", default="{}", help=argparse.SUPPRESS)

    def run(self, args: argparse.Namespace) -> int:
        """Run, then say what was done and what still waits for the cloud."""
        if args.no_supervisor or args.supervised or not args.is_program:
            return _run_device(args)
        from edge_runtime.modes.supervisor import supervise

        return supervise(["run", str(args.config), *_passed_on(args)])


def _passed_on(args: argparse.Namespace) -> list[str]:
    flags = {"--stay": args.stay, "--json": args.json, "--verbose": args.verbose}
    accelerator = ["--accelerator", args.accelerator] if args.accelerator else []
    record = ["--record", str(args.record)] if args.record else []
    return [
        "--drain-s",
        str(args.drain_s),
        *accelerator,
        *record,
        *(flag for flag, is_set in flags.items() if is_set),
    ]


# --- the device ---------------------------------------------------------------------


def _run_device(args: argparse.Namespace) -> int:
    import msgspec

    from edge_runtime.config import load_device
    from edge_runtime.config.check import check_device
    from edge_runtime.modes.edge import EdgeDevice
    from edge_runtime.modes.vitals import Crash, Vitals

    config = _recorded(_accelerated(load_device(args.config), args.accelerator), args.record)
    check_device(config)
    page, tie = map(int, args.supervised.split(",")) if args.supervised else (None, None)
    device = EdgeDevice(
        config,
        vitals=None if page is None else Vitals(page),
        crashes={name: Crash(*crash) for name, crash in msgspec.json.decode(args.crashed).items()},
    )
    stop_on_signals(device, tie)
    device.run(drain_s=args.drain_s, stays=args.stay)
    status = device.status()
    text = msgspec.json.encode(status).decode() if args.json else summary_of(status)
    sys.stdout.write(text + "\n")
    return 0


def stop_on_signals(device: EdgeDevice | KeyedStream, tie: int | None = None) -> None:
    """End cleanly when asked to, and when the supervisor is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGIO):
        signal.signal(number, lambda *_: device.stop())
    if tie is not None:
        # The kernel sends SIGIO when the other end, which only the supervisor has, is closed.
        fcntl.fcntl(tie, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(tie, fcntl.F_SETFL, fcntl.fcntl(tie, fcntl.F_GETFL) | os.O_ASYNC)


def _accelerated(config: DeviceConfig, name: str | None) -> DeviceConfig:
    if name is None:
        return config
    from msgspec.structs import replace

    streams = {
        stream: replace(one, model=replace(one.model, accelerator=name))
        for stream, one in config.streams.items()
    }
    return replace(config, streams=streams)


def _recorded(config: DeviceConfig, folder: Path | None) -> DeviceConfig:
    if folder is None:
        return config
    from msgspec.structs import replace

    from edge_runtime.config import RecordConfig

    return replace(config, record=replace(config.record or RecordConfig(), folder=folder))


def summary_of(status: DeviceStatus) -> str:
    """Say in lines for people what was done, and what still waits."""
    lines = [
        f"{name}: {counted(stream.position, 'sample')} read, "
        f"{counted(stream.estimates, 'window')}, {counted(stream.decisions, 'decision')}, "
        f"effective {stream.effective_id}"
        + "".join(
            f", {count} {reason}" for reason, count in sorted(stream.discarded.items()) if count
        )
        + "".join(
            f", {counted(count, 'window')} {what}" for what, count in sorted(stream.suspect.items())
        )
        + _noticed(stream)
        for name, stream in status.streams.items()
    ]
    if status.backlog_rows:
        waiting = status.backlog_rows
        lines.append(
            "1 row waits for the cloud; it is kept."
            if waiting == 1
            else f"{waiting} rows wait for the cloud; they are kept."
        )
    return "\n".join(lines)


def _noticed(stream: StreamStatus) -> str:
    """Say what was wrong with the sensor; nothing where nothing was."""
    told = [f"{count} {reason}" for reason, count in sorted(stream.source.faults.items()) if count]
    if stream.source.lost_samples:
        told.append(f"{counted(stream.source.lost_samples, 'sample')} lost")
    if stream.restarts:
        told.append(f"opened again {counted(stream.restarts, 'time')}")
    return f"; of its sensor: {', '.join(told)}" if told else ""
