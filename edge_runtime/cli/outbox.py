"""``edge-runtime outbox``: what waits for the cloud, and a way out for it without a network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from edge_runtime.cli.progress import Steps
from edge_runtime.cli.quantities import seconds
from edge_runtime.cli.table import table
from edge_runtime.clock import SystemClock
from edge_runtime.config import DeviceConfig, OutboxConfig, load_device
from edge_runtime.errors import ConfigError, StoreError
from edge_runtime.sync.blocks import Block
from edge_runtime.sync.coalesce import parcels
from edge_runtime.sync.hold import hold
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.parcel_file import write_payloads
from edge_runtime.sync.reading import OutboxReader, StreamWait, Wait, rows_of
from edge_runtime.sync.state import StateStore
from edge_runtime.types import check_name

__all__ = ["OutboxCommand"]

T = TypeVar("T")

_EXAMPLES = {
    "ls": "ls pump-1.yaml",
    "stat": "stat /var/lib/edge-runtime/pump-1",
    "export": "export pump-1.yaml --format frames -o /media/stick/pump-1.frames",
    "drop": "drop pump-1.yaml --stream vibration --older-than-s 604800",
}
# Blocks that are joined into frames at a time.
_JOINED_BLOCKS = 256
_MIB = 1 << 20


class OutboxCommand:
    """List, measure, export and drop what waits for the cloud."""

    name = "outbox"
    help = "look at what waits for the cloud, carry it away in a file, or drop it"
    example = "edge-runtime outbox stat pump-1.yaml"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verbs below ``outbox``."""
        verbs = parser.add_subparsers(required=True, metavar="VERB")
        _verb(verbs, "ls", "list what waits, by stream, kind and process start", _ls)
        _verb(verbs, "stat", "say how full it is, what was lost, and what it writes a day", _stat)
        _configure_export(
            _verb(verbs, "export", "write what waits to a file, and leave it where it is", _export)
        )
        _configure_drop(_verb(verbs, "drop", "turn rows that wait into gaps, for good", _drop))

    def run(self, args: argparse.Namespace) -> int:
        """Do what the verb says."""
        verb: Callable[[argparse.Namespace], int] = args.verb
        return verb(args)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    do: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  edge-runtime outbox {_EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("device", type=Path, metavar="DEVICE", help="device YAML or state folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(verb=do)
    return parser


def _configure_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("jsonl", "frames"),
        default="jsonl",
        help="a line of JSON for each row, or what `edge-runtime cloud import` takes",
    )
    parser.add_argument("--stream", action="append", default=[], help="only this one; may repeat")
    parser.add_argument("--name", help="device id, where DEVICE is a state folder")
    parser.add_argument("-o", "--output", type=Path, help="file to write; - or none for stdout")


def _configure_drop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stream", action="append", default=[], help="only this one; may repeat")
    parser.add_argument("--kind", choices=("estimate", "decision"), help="only these rows")
    parser.add_argument(
        "--older-than-s",
        type=seconds,
        metavar="S",
        help="only rows for which the device has run longer than this",
    )
    parser.add_argument("--all", action="store_true", help="everything that waits")
    parser.add_argument("--yes", action="store_true", help="do not ask")


# --- looking ------------------------------------------------------------------------------


def _ls(args: argparse.Namespace) -> int:
    with _read(args.device) as reader:
        streams = reader.streams()
    header = ("stream", "kind", "epoch", "blocks", "rows", "bytes", "numbers", "committed", "why")
    rows = [_listed(one) for one in streams]
    text = table(header, rows, right="epoch blocks rows bytes") if rows else "nothing waits"
    return _tell(args, streams, text)


def _listed(one: StreamWait) -> tuple[str, ...]:
    return (
        one.stream,
        one.kind,
        str(one.epoch),
        str(one.blocks),
        str(one.rows),
        str(one.bytes),
        f"{one.first_seq}-{one.upto_seq - 1}",
        f"{_time(one.oldest_ns)} to {_time(one.newest_ns)}",
        one.reasons,
    )


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _stat(args: argparse.Namespace) -> int:
    config = _config(args.device)
    with _read(args.device) as reader:
        wait = reader.wait()
    quota_mb = None if config is None else config.outbox.quota_mb
    return _tell(args, {**msgspec.to_builtins(wait), "quota_mb": quota_mb}, _told(wait, quota_mb))


def _told(wait: Wait, quota_mb: int | None) -> str:
    quota = "" if quota_mb is None else f", {wait.bytes / (quota_mb * _MIB):.0%} of {quota_mb} MiB"
    wear = (
        "not known before it has run a minute"
        if wait.wear_bytes_per_day is None
        else f"{wait.wear_bytes_per_day / _MIB:.1f} MiB a day over {wait.wear_ran_s / 3600:.1f} h"
    )
    rows = [
        ("waits", f"{wait.rows} rows and gaps of {wait.gap_rows}, {wait.bytes} bytes{quota}"),
        ("files", f"{wait.file_bytes} bytes"),
        ("wear", wear),
        ("device", "runs" if wait.is_running else "does not run"),
    ]
    rows += [("set aside", name) for name in wait.set_aside]
    rows += [
        ("lost", f"{n} rows of {stream}: {reason}")
        for stream, reasons in wait.discarded.items()
        for reason, n in reasons.items()
    ]
    return "\n".join(f"{name:9}  {what}" for name, what in rows)


# --- carrying away ------------------------------------------------------------------------


def _export(args: argparse.Namespace) -> int:
    device = _name(args) if args.format == "frames" else ""
    _check_output(args)
    steps = Steps(quiet_s=2.0)
    with _read(args.device) as reader, _output(args.output) as file:
        total = max(1, sum(one.blocks for one in reader.streams()))
        blocks = _counted(reader.blocks(args.stream), total, steps)
        if args.format == "frames":
            count = write_payloads(file, _payloads(device, blocks))
        else:
            count = sum(file.write(line) > 0 for line in _lines(blocks))
    steps.end()
    if _is_stdout(args.output):
        return 0
    what = "frames" if args.format == "frames" else "lines"
    text = f"{count} {what[:-1] if count == 1 else what}: {args.output}"
    return _tell(args, {what: count, "path": str(args.output)}, text)


def _check_output(args: argparse.Namespace) -> None:
    if args.format == "frames" and _is_stdout(args.output) and sys.stdout.isatty():
        raise ConfigError(
            "frames are bytes, and standard output is a terminal",
            where="outbox export",
            expected="a file, or a pipe",
            remedy="Name a file with -o, or leave out --format for lines of JSON.",
        )


def _counted(blocks: Iterable[Block], total: int, steps: Steps) -> Iterator[Block]:
    for number, block in enumerate(blocks):
        steps.tell("export", f"{number} of {total} blocks", number / total)
        yield block


def _lines(blocks: Iterable[Block]) -> Iterator[bytes]:
    for block in blocks:
        for row in rows_of(block):
            yield msgspec.json.encode(row) + b"\n"


def _payloads(device: str, blocks: Iterable[Block]) -> Iterator[bytes]:
    together: list[Block] = []
    for block in blocks:
        together.append(block)
        if len(together) == _JOINED_BLOCKS:
            yield from _joined(device, together)
            together = []
    yield from _joined(device, together)


def _joined(device: str, blocks: list[Block]) -> Iterator[bytes]:
    # A row that is too large for any frame is a gap once the device sends it.
    return (parcel.payload for parcel in parcels(device, blocks, {}) if parcel.payload)


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Write a file that is whole under its name, or to stdout."""
    if _is_stdout(path):
        yield sys.stdout.buffer
        return
    assert path is not None  # noqa: S101 - else it is stdout
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise StoreError(
            f"cannot write: {error.strerror}",
            where=str(path),
            expected="a folder with room",
            remedy="Free some space, or name another file with -o.",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _is_stdout(path: Path | None) -> bool:
    return path is None or str(path) == "-"


# --- dropping -----------------------------------------------------------------------------


def _drop(args: argparse.Namespace) -> int:
    if not (args.stream or args.kind or args.older_than_s or args.all):
        raise ConfigError(
            "nothing says what is to go",
            where="outbox drop",
            expected="--stream, --kind, --older-than-s or --all",
            remedy="Say what: the rows are lost, and the cloud is told so.",
        )

    def chosen(stream: str, kind: str, age_s: float) -> bool:
        return (
            (not args.stream or stream in args.stream)
            and args.kind in (None, kind)
            and age_s >= (args.older_than_s or 0.0)
        )

    folder = _folder(args.device)
    with hold(folder), _opened(folder, _config(args.device)) as outbox:
        if not (args.yes or _agreed(outbox.rows)):
            return _tell(args, {"dropped": 0}, "nothing was dropped")
        dropped = outbox.drop(chosen)
    text = f"{dropped} rows dropped; the cloud is told of a gap"
    return _tell(args, {"dropped": dropped}, text if dropped else "nothing that waits was chosen")


def _agreed(rows: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(
            "nobody can be asked",
            where="outbox drop",
            expected="--yes",
            remedy="There is no way back; say --yes if that is meant.",
        )
    answer = input(f"Of {rows} rows, drop for good what was chosen? [y/N]: ")
    return answer.strip().lower() in ("y", "yes")


@contextmanager
def _opened(folder: Path, config: DeviceConfig | None) -> Iterator[Outbox]:
    with _read(folder):
        pass  # A folder without an outbox is not to get one.
    clock = SystemClock()
    with closing(StateStore(folder / "state.db", clock)) as state:
        outbox = Outbox.open(
            folder / "outbox.db",
            epoch=state.epoch,
            incarnation=state.incarnation,
            config=OutboxConfig() if config is None else config.outbox,
            clock=clock,
        )
    with closing(outbox):
        yield outbox


# --- the device ---------------------------------------------------------------------------


def _config(device: Path) -> DeviceConfig | None:
    return None if device.is_dir() else load_device(device)


def _folder(device: Path) -> Path:
    config = _config(device)
    return device if config is None else Path(config.state)


@contextmanager
def _read(device: Path) -> Iterator[OutboxReader]:
    with closing(OutboxReader(_folder(device))) as reader:
        yield reader


def _name(args: argparse.Namespace) -> str:
    config = _config(args.device)
    if config is not None:
        return config.device
    if args.name is None:
        raise ConfigError(
            "a state folder does not say whose it is",
            where="outbox export",
            expected="--name DEVICE",
            remedy="Name the device, or give its YAML instead of the folder.",
        )
    return check_name(args.name, "device id")


def _tell(args: argparse.Namespace, facts: object, text: str) -> int:
    sys.stdout.write((msgspec.json.encode(facts).decode() if args.json else text) + "\n")
    return 0
