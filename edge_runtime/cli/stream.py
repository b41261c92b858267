"""``edge-runtime stream``: any source to any sink, with snapshots."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.cli.pairs import kind_and_pairs, pairs
from edge_runtime.cli.quantities import count, seconds
from edge_runtime.cli.run import stop_on_signals, summary_of
from edge_runtime.errors import ConfigError
from edge_runtime.plural import counted

if TYPE_CHECKING:
    from edge_runtime.config import DeviceConfig
    from edge_runtime.modes.keyed import KeyedStatus

__all__ = ["Stream"]

_WHERE = "the command line"


class Stream:
    """Run one source through one bundle into sinks, without outbox, link or updates."""

    name = "stream"
    help = "run one source through a bundle into sinks; snapshots make it go on where it was"
    example = (
        "edge-runtime stream examples/gas_turbine/bundles/turbine-nox-1.0.0"
        ' --source "csv:path=examples/gas_turbine/gas_turbine_2011_2015.csv,'
        'time={start: 2011-01-01T00:00:00Z,step_s: 3600}"'
        " --sink jsonl:path=out.jsonl --state out.state"
    )

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("bundle", type=Path, help="folder or zip file")
        add("--source", required=True, metavar="KIND:KEY=VALUE,…", help="where samples come from")
        add(
            "--sink",
            action="append",
            metavar="KIND:KEY=VALUE,…",
            help="where results go; may be repeated (default: terminal)",
        )
        add(
            "--time",
            metavar="KEY=VALUE,…",
            help="how long to wait for samples, such as delay_s=2,allowed_lateness_s=60",
        )
        add("--state", type=Path, metavar="FOLDER", help="keeps snapshots, to go on from there")
        add("--snapshot-s", type=seconds, default=1.0, metavar="S", help="time between two of them")
        add("--name", default="main", help="of the stream, in the results (default main)")
        add("--device", default="stream", help="of the device, in the results (default stream)")
        add("--backend", metavar="NAME", help="model runtime; the bundle's preference by default")
        add("--threads", type=count, metavar="N", help="threads inside one call")
        add("--accelerator", metavar="NAME", help="execution provider or delegate")
        add("--metrics", type=int, metavar="PORT", help="serve counts for Prometheus on loopback")
        add("--json", action="store_true", help="print the final status as JSON")
        many = parser.add_argument_group("many devices in one source")
        add = many.add_argument
        add(
            "--key",
            metavar="COLUMN",
            help="what names the device of a row: a column; of mqtt a level of the topic or a path",
        )
        add("--live", type=count, metavar="N", help="devices in memory (default 1000)")
        add("--most-keys", type=count, metavar="N", help="devices altogether (default 1000000)")

    def run(self, args: argparse.Namespace) -> int:
        """Run until the source ends or Ctrl-C."""
        with ExitStack() as stack:
            folder = args.state or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            config = _checked(args, folder)
            text = _run_one(config, args) if args.key is None else _run_many(config, args)
        # Results may go to the standard output; what is said about them does not.
        (sys.stdout if args.json else sys.stderr).write(text + "\n")
        return 0


def _run_one(config: DeviceConfig, args: argparse.Namespace) -> str:
    from edge_runtime.modes.edge import EdgeDevice

    device = EdgeDevice(config)
    stop_on_signals(device)
    device.run(drain_s=0.0)
    status = device.status()
    return msgspec.json.encode(status).decode() if args.json else summary_of(status)


def _run_many(config: DeviceConfig, args: argparse.Namespace) -> str:
    from edge_runtime.modes.keyed import KeyedLimits, KeyedStream

    given = {"live": args.live, "keys": args.most_keys}
    told = {key: value for key, value in given.items() if value is not None}
    stream = KeyedStream(config, limits=KeyedLimits(**told))
    stop_on_signals(stream)
    stream.run()
    status = stream.status()
    return msgspec.json.encode(status).decode() if args.json else _summary(status)


def _summary(status: KeyedStatus) -> str:
    counts = {**status.discarded, **{f"windows {what}": n for what, n in status.suspect.items()}}
    return (
        f"{status.stream}: {counted(status.position, 'sample')} read of "
        f"{counted(status.devices, 'device')}, {counted(status.estimates, 'window')}, "
        f"{counted(status.decisions, 'decision')}, effective {status.effective_id}, "
        f"{counted(status.live, 'device')} in memory"
        + "".join(f", {count} {what}" for what, count in sorted(counts.items()) if count)
    )


def _checked(args: argparse.Namespace, folder: Path) -> DeviceConfig:
    """Return the device that the options declare, checked across its parts.

    Raises:
        ConfigError: It does not fit; in the words of the options, for nobody wrote a file.
    """
    from edge_runtime.config.check import check_device

    try:
        config = _config(args, folder)
        check_device(config, is_keyed=args.key is not None)
    except ConfigError as error:
        if not error.where.startswith(_WHERE):
            raise
        what, expected, remedy = (
            _in_options(text, args.name) for text in (error.what, error.expected, error.remedy)
        )
        raise ConfigError(what, where=_WHERE, expected=expected, remedy=remedy) from error
    return config


def _in_options(text: str, name: str) -> str:
    """Say with options what a message says with keys of a file."""
    for option in ("source", "time"):
        text = text.replace(f"streams.{name}.{option}", f"--{option}")
    return re.sub(r"sinks\[(\d+)\]", lambda found: f"--sink {int(found[1]) + 1}", text)


def _config(args: argparse.Namespace, folder: Path) -> DeviceConfig:
    """Write down the device that the options declare, and read it as any other."""
    from edge_runtime.config import device_of
    from edge_runtime.config.check import check_keyed
    from edge_runtime.config.document import dump_yaml, parse_document

    model = {"bundle": str(args.bundle.absolute())}
    for key in ("backend", "threads", "accelerator"):
        if (value := getattr(args, key)) is not None:
            model[key] = value
    source = kind_and_pairs(args.source, "--source")
    if args.key is not None:
        check_keyed(source["kind"])
        source["key"] = int(args.key) if args.key.isdecimal() else args.key
    stream = {"source": source, "model": model}
    if args.time is not None:
        stream["time"] = pairs(args.time, "--time")
    declared = {
        "device": args.device,
        "state": str(folder.absolute()),
        "streams": {args.name: stream},
        "sinks": [kind_and_pairs(text, "--sink") for text in args.sink or ["terminal"]],
        # Nothing waits here for a cloud: the outbox holds snapshots alone.
        "outbox": {
            "commit_s": args.snapshot_s,
            "position_s": args.snapshot_s,
            "quota_mb": 1,
            "ballast_mb": 0,
        },
        **({} if args.metrics is None else {"metrics": {"port": args.metrics}}),
    }
    return device_of(parse_document(dump_yaml(declared), _WHERE), Path.cwd())
