"""One real ingest process under a driver: `python -m edge_simulator.ingest`.

It is `CloudService` with the role ``ingest``, unchanged. When the driver hangs up, it
ends, so that no process outlives its simulation.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_cloud.config import load_cloud
from edge_cloud.ingest import Member
from edge_cloud.service import CloudService, Role
from edge_runtime.errors import EdgeError
from edge_simulator.control import connect, reader
from edge_simulator.device import log_to_stderr
from edge_simulator.fuse import Fuse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Take rows until told to end, and return the exit code."""
    args = _parser().parse_args(argv)
    log_to_stderr()
    try:
        return _run(args.config, args.control, args.member)
    except EdgeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edge_simulator.ingest", description=__doc__)
    parser.add_argument("config", type=Path, help="cloud YAML")
    parser.add_argument("--member", type=int, help="number of one of several that share the rows")
    parser.add_argument("--control", required=True, metavar="127.0.0.1:PORT", help="the driver")
    return parser


def _run(config: Path, control: str, number: int | None) -> int:
    fuse = Fuse()
    channel = connect(control)
    roles: tuple[Role, ...] = ("ingest",)
    member = None if number is None else Member(number)
    service = CloudService(load_cloud(config), roles=roles, member=member, at_step=fuse.at_step)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.end())
    reader(channel, lambda line: _obey(line, fuse, service), service.end)
    channel.send({"event": "up"})
    service.run()
    channel.close()
    return 0


def _obey(line: Mapping[str, Any], fuse: Fuse, service: CloudService) -> None:
    fuse.obey(line)
    if line.get("stop"):
        service.end()


if __name__ == "__main__":
    sys.exit(main())
