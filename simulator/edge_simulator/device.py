"""One real device process whose samples a driver releases: `python -m edge_simulator.device`.

It is `EdgeDevice`, unchanged, behind gated paces. When the driver hangs up,
the device ends cleanly, so that no process outlives its simulation.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.clock import SystemClock
from edge_runtime.config import DeviceConfig, load_device
from edge_runtime.errors import EdgeError
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.sync.paho import PahoTransport
from edge_simulator.control import Channel, Gate, connect, reader
from edge_simulator.disk import Disk
from edge_simulator.fuse import Fuse

__all__ = ["ShiftedClock", "log_to_stderr", "main"]

log = logging.getLogger(__name__)

_STATUS_S = 0.25
_DRAIN_S = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one device under a driver and return its exit code."""
    args = _parser().parse_args(argv)
    log_to_stderr()
    try:
        config = load_device(args.config)
        return _run(config, connect(args.control), ShiftedClock(args.clock_s))
    except EdgeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edge_simulator.device", description=__doc__)
    parser.add_argument("config", type=Path, help="device YAML")
    parser.add_argument("--control", required=True, metavar="127.0.0.1:PORT", help="the driver")
    parser.add_argument(
        "--clock-s", type=float, default=0.0, metavar="S", help="how far its wall clock is ahead"
    )
    return parser


class ShiftedClock(SystemClock):
    """This machine's clock, with a wall time that is off by what a driver says.

    Attributes:
        offset_s: How far wall time is ahead of the machine's; set from any thread.
    """

    def __init__(self, offset_s: float = 0.0) -> None:
        self.offset_s = offset_s

    def now_ns(self) -> int:
        """Wall time as the device sees it, ns since the Unix epoch, UTC."""
        return super().now_ns() + round(self.offset_s * 1e9)


class _Surroundings(msgspec.Struct, frozen=True, eq=False):
    """What a driver may change around a device."""

    gates: Mapping[str, Gate]
    clock: ShiftedClock
    disk: Disk
    fuse: Fuse


def _run(config: DeviceConfig, channel: Channel, clock: ShiftedClock) -> int:
    fuse = Fuse()
    around = _Surroundings(
        {stream: Gate() for stream in config.streams}, clock, Disk(Path(config.state)), fuse
    )

    def tell(event: str, facts: Mapping[str, object]) -> None:
        channel.send({"event": event, **facts})

    device = EdgeDevice(
        config,
        clock=clock,
        paces=around.gates,
        on_event=tell,
        connect=partial(PahoTransport, at_step=fuse.at_step),
        at_step=fuse.at_step,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: device.stop())
    reader(channel, lambda line: _obey(line, around, device, channel), device.stop)
    ended = threading.Event()
    threading.Thread(target=_report, args=(device, channel, ended), daemon=True).start()
    try:
        device.run(drain_s=_DRAIN_S, stays=True)
    finally:
        ended.set()
        channel.send(_status(device) | {"event": "ended"})
        channel.close()
    return 0


def _obey(
    line: Mapping[str, Any], around: _Surroundings, device: EdgeDevice, channel: Channel
) -> None:
    for stream, index in line.get("release", {}).items():
        around.gates[stream].release(index)
    around.clock.offset_s = line.get("clock_s", around.clock.offset_s)
    if "disk_full" in line:
        around.disk.set_full(line["disk_full"])
    around.fuse.obey(line)
    if line.get("status"):
        channel.send(_status(device))
    if line.get("stop"):
        device.stop()


def _report(device: EdgeDevice, channel: Channel, ended: threading.Event) -> None:
    while not ended.wait(_STATUS_S):
        channel.send(_status(device))


def _status(device: EdgeDevice) -> dict[str, object]:
    return {"event": "status", **msgspec.to_builtins(device.status())}


def log_to_stderr() -> None:
    """Log every step, with its facts."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Facts("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _Facts(logging.Formatter):
    """A log line followed by the record's own fields."""

    _STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        facts = {key: value for key, value in vars(record).items() if key not in self._STANDARD}
        return " ".join([super().format(record), *(f"{k}={v}" for k, v in facts.items())])


if __name__ == "__main__":
    sys.exit(main())
