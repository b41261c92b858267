"""``edge-runtime cloud``: one verb per role and per thing a person does to a store."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edge_cloud.asking import ask
from edge_cloud.boards.cli import add_boards
from edge_cloud.config import CloudConfig, load_cloud
from edge_cloud.devices import device_rows
from edge_cloud.identity.cli import add_device_verbs, add_identity
from edge_cloud.importing import import_frames
from edge_cloud.ingest import Member, replay
from edge_cloud.jobs import Jobs
from edge_cloud.labels import Labels
from edge_cloud.links import ASK, link_of
from edge_cloud.poison import Poison
from edge_cloud.refit.cli import add_refit
from edge_cloud.registry import Registry
from edge_cloud.rescore import OnShard, rescore
from edge_cloud.service import ROLES, CloudService, Role, streams_of
from edge_cloud.signing import SigningKey
from edge_cloud.store import Store
from edge_cloud.verbs import Run, VerbParser, Verbs, tell, verb, with_config
from edge_runtime.bundle import load_bundle
from edge_runtime.cli.progress import Steps
from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError
from edge_runtime.sync.messages import Signed
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.topics import Topics
from edge_runtime.types import check_name

__all__ = ["Cloud"]

_INCONCLUSIVE = 4


class Cloud:
    """Run a cloud, or look after its store."""

    name = "cloud"
    help = "take rows from devices, rescore, compute layers, publish bases"
    example = "edge-runtime cloud up cloud.yaml"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verbs below ``cloud``."""
        verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=VerbParser)
        for add in (
            _add_roles,
            _add_rescore,
            _add_publish,
            add_refit,
            _add_keys,
            _add_labels,
            _add_care,
            _add_poison,
            _add_ask,
            add_boards,
            add_identity,
        ):
            add(verbs)

    def run(self, args: argparse.Namespace) -> int:
        """Do what the verb says."""
        run: Run = args.verb
        return run(args)


def _add_roles(verbs: Verbs) -> None:
    with_config(verb(verbs, "up", "run all roles until Ctrl-C", "up cloud.yaml", _up(ROLES)))
    ingest = with_config(
        verb(verbs, "ingest", "take rows until Ctrl-C", "ingest cloud.yaml", _ingest)
    )
    ingest.add_argument(
        "--member",
        type=int,
        metavar="N",
        help="be number N of several that share the rows, each under a number of its own;"
        " ends with its standard input",
    )
    ingest.add_argument(
        "--alone", action="store_true", help="with --member: take all rows, share nothing"
    )
    with_config(
        verb(
            verbs,
            "registry",
            "send jobs and archives until Ctrl-C",
            "registry cloud.yaml",
            _up(("registry",)),
        )
    )
    with_config(
        verb(
            verbs,
            "identity",
            "sign certificates for devices until Ctrl-C",
            "identity cloud.yaml",
            _up(("identity",)),
        )
    )
    refresh = with_config(
        verb(verbs, "refresh", "compute layers until Ctrl-C", "refresh cloud.yaml", _refresh)
    )
    refresh.add_argument("--once", action="store_true", help="do what is due, then end")


def _add_rescore(verbs: Verbs) -> None:
    parser = with_config(
        verb(
            verbs,
            "rescore",
            "score everything received with one base; goes on where it stopped",
            "rescore cloud.yaml turbine@2",
            _rescore,
        )
    )
    parser.add_argument("base", help="name@version, name@alias or digest")
    parser.add_argument("--stream", action="append", help="only this stream; may come twice")
    parser.add_argument("--backend", help="model runtime; the bundle's preference if not given")
    parser.add_argument("--workers", type=int, default=2, help="threads (default 2)")


def _add_publish(verbs: Verbs) -> None:
    parser = with_config(
        verb(
            verbs,
            "publish",
            "sign a base, keep it, and offer it to devices",
            "publish cloud.yaml turbine-2.zip --key release.key",
            _publish,
        )
    )
    parser.add_argument("bundle", type=Path, help="bundle folder or zip")
    signing = parser.add_mutually_exclusive_group(required=True)
    signing.add_argument("--key", type=Path, help="release key to sign with")
    signing.add_argument(
        "--signed", type=Path, help="statement signed elsewhere, JSON or MessagePack"
    )
    parser.add_argument("--seq", type=int, help="sequence number; one more than the newest's")
    parser.add_argument("--device", action="append", help="only this device; may come twice")
    parser.add_argument("--alias", help="also call it name@ALIAS")


def _add_keys(verbs: Verbs) -> None:
    keys = verbs.add_parser("keys", help="make keys", description="make keys")
    parser = verb(
        keys.add_subparsers(required=True, metavar="VERB"),
        "new",
        "write a new private key (0600) and PATH.pub",
        "keys new release.key",
        _new_key,
    )
    parser.add_argument("path", type=Path, help="where to; an existing file is kept")


def _add_labels(verbs: Verbs) -> None:
    labels = verbs.add_parser("labels", help="import labels", description="import labels")
    parser = verb(
        labels.add_subparsers(required=True, metavar="VERB"),
        "import",
        "add labels from a CSV file; adding them again changes nothing",
        "labels import cloud.yaml labels.csv",
        _import_labels,
    )
    with_config(parser)
    parser.add_argument("file", type=Path, help="device,stream,time_ns,value,known_at_ns")


def _add_care(verbs: Verbs) -> None:
    importing = with_config(
        verb(
            verbs,
            "import",
            "take the rows of a file that `outbox export --format frames` wrote; "
            "taking them again changes nothing",
            "import cloud.yaml pump-1.frames",
            _import,
        )
    )
    importing.add_argument("file", type=Path, help="frames of one device or of several")
    with_config(verb(verbs, "status", "show what is stored and sent", "status cloud.yaml", _status))
    compact = with_config(
        verb(verbs, "compact", "merge small segments", "compact cloud.yaml --by month", _compact)
    )
    compact.add_argument("--by", choices=("day", "month"), default="day", help="one file for each")
    devices = verbs.add_parser(
        "devices",
        help="look after devices; without a verb they are listed",
        description="devices; without a verb they are listed",
    )
    devices.default_verb = "list"
    of_devices = devices.add_subparsers(required=True, metavar="VERB")
    add_device_verbs(of_devices)
    with_config(
        verb(
            of_devices,
            "usage",
            "show what every device sent, lost, and was held back for",
            "devices usage cloud.yaml",
            _usage,
        )
    )
    delete = verb(
        of_devices,
        "delete",
        "delete everything a device ever sent",
        "devices delete cloud.yaml pump-1 --yes",
        _delete,
    )
    with_config(delete)
    delete.add_argument("device", help="device id")
    delete.add_argument("--yes", action="store_true", help="do it; without it nothing is deleted")


def _add_poison(verbs: Verbs) -> None:
    poison = verbs.add_parser(
        "poison", help="look after what could not be read", description="messages set aside"
    )
    below = poison.add_subparsers(required=True, metavar="VERB")
    with_config(verb(below, "ls", "show what was set aside", "poison ls cloud.yaml", _poison_ls))
    for name, text, run in (
        ("show", "show one in full, in hex", _poison_show),
        ("replay", "take it as if it came now; what is stored is no more set aside", _replay),
        ("drop", "forget it", _poison_drop),
    ):
        parser = with_config(
            verb(below, name, text, f"poison {name} cloud.yaml pump-1-0123456789ab", run)
        )
        parser.add_argument("name", nargs=1 if name == "show" else "+", help="as ls shows it")


def _add_ask(verbs: Verbs) -> None:
    parser = with_config(
        verb(
            verbs,
            "ask",
            "ask a device something: status, outbox, log-level",
            "ask cloud.yaml pump-1 log-level level=debug",
            _ask,
        )
    )
    parser.add_argument("device", help="device id")
    parser.add_argument(
        "asked", metavar="command", help="what to do; the device refuses what it does not know"
    )
    parser.add_argument("option", nargs="*", help="NAME=VALUE of the command")
    parser.add_argument(
        "--timeout-s", type=float, default=10.0, help="how long to wait (default 10)"
    )


# --- roles ------------------------------------------------------------------------


def _up(roles: Sequence[Role]) -> Run:
    def run(args: argparse.Namespace) -> int:
        command = partial(_member_command, args.config)
        service = CloudService(load_cloud(args.config), roles=roles, member_command=command)
        return _run(service, ", ".join(roles))

    return run


def _run(service: CloudService, what: str) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.end())
    sys.stderr.write(f"{what} running; Ctrl-C ends.\n")
    service.run()
    return 0


def _member_command(config: Path, member: Member) -> list[str]:
    words = [sys.executable, "-m", "edge_runtime.cli", "cloud", "ingest", str(config)]
    return [*words, "--member", str(member.number), *([] if member.is_sharing else ["--alone"])]


def _ingest(args: argparse.Namespace) -> int:
    roles: tuple[Role, ...] = ("ingest",)
    if args.member is None and args.alone:
        raise ConfigError(
            "--alone is given without --member",
            where="cloud ingest",
            expected="the number of the member that takes all rows",
            remedy="Add --member N; or leave out --alone, and set ingest.processes to 1.",
        )
    if args.member is None:
        return _up(roles)(args)
    member = Member(args.member, is_sharing=not args.alone)
    service = CloudService(load_cloud(args.config), roles=roles, member=member)
    threading.Thread(target=_end_with_input, args=(service,), daemon=True).start()
    return _run(service, f"ingest {member.number}")


def _end_with_input(service: CloudService) -> None:
    """Whoever started this process holds the other end, and lets go of it when it ends."""
    while os.read(0, 4096):
        pass
    service.end()


def _refresh(args: argparse.Namespace) -> int:
    if not args.once:
        return _up(("refresh",))(args)
    refresh: Role = "refresh"
    service = CloudService(load_cloud(args.config), roles=[refresh])
    try:
        made = service.refresh_once()
    finally:
        service.stop()
    return tell(args, {"jobs": made}, f"{made} jobs are ready")


def _rescore(args: argparse.Namespace) -> int:
    store = _store(load_cloud(args.config))
    registry = Registry(store)
    bundle = registry.bundle(registry.find(args.base).digest)
    streams = args.stream or streams_of(bundle.spec.name, Jobs(store), registry)
    if not streams:
        raise ConfigError(
            f"no device is known to run {bundle.spec.name!r}",
            expected="a stream to rescore",
            remedy="Name it: --stream NAME.",
        )
    with _Progress(f"rescore {bundle.ref}") as progress:
        report = rescore(
            store,
            bundle,
            streams=streams,
            backend=args.backend,
            workers=args.workers,
            on_shard=progress,
        )
    left_out = "".join(f"; {n} left out: {why}" for why, n in report.left_out.items())
    text = f"{report.rows} rows in {report.shards - report.resumed} shards{left_out}"
    return tell(args, report, text)


# --- a person's verbs -----------------------------------------------------------------


def _publish(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    store = _store(config)
    registry, jobs = Registry(store), Jobs(store)
    for path in config.bundles:
        registry.add(load_bundle(path))
    bundle = load_bundle(args.bundle)
    if args.signed is not None:
        entry = registry.add(bundle, _read_signed(args.signed))
    else:
        layer_keys = [] if config.keys is None else [SigningKey.load(config.keys.layer).public]
        entry = registry.release(bundle, SigningKey.load(args.key), layer_keys, seq=args.seq)
    if args.alias:
        registry.set_alias(entry.name, args.alias, entry.digest)
    made = jobs.publish(registry, entry.digest, args.device)
    text = f"{bundle.ref} is {entry.digest[:16]}; {len(made)} jobs made"
    return tell(args, {"digest": entry.digest, "seq": entry.seq, "jobs": made}, text)


def _new_key(args: argparse.Namespace) -> int:
    key = SigningKey.generate()
    key.save(args.path)
    return tell(args, {"public": key.public.hex()}, f"public key {key.public.hex()}")


def _import_labels(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    labels = Labels(_store(config), config.labels_inbox)
    added = labels.import_file(args.file)
    missing = labels.without_row()
    text = "".join(f"\n{n} labels of {name} have no row yet" for name, n in missing.items())
    result = {"added": added, "labels_without_row": missing}
    return tell(args, result, f"{added} labels added{text}")


def _status(args: argparse.Namespace) -> int:
    service = CloudService(load_cloud(args.config), roles=())
    status = service.status()
    service.stop()
    store = status.store
    lines = [f"{store.rows} rows in {store.segments} segments, {store.bytes} bytes"]
    lines += [f"{store.gap_rows} rows lost on devices"] if store.gap_rows else []
    for life in status.devices:
        state = "online" if life.is_online else "offline"
        bases = ", ".join(f"{name} {base[:16]}" for name, base in life.base.items())
        lines.append(f"{life.device}: {state}; {bases}")
    lines += [f"jobs {name}: {n}" for name, n in sorted(status.jobs.items())]
    lines += [f"{n} labels of {name} have no row" for name, n in status.labels_without_row.items()]
    return tell(args, status, "\n".join(lines))


def _import(args: argparse.Namespace) -> int:
    store = _store(load_cloud(args.config))
    steps = Steps(quiet_s=2.0)
    try:
        taken = import_frames(store, args.file, steps.tell)
    finally:
        steps.end()
        store.close()
    text = f"{taken.rows} new rows and gaps of {taken.gap_rows} in {taken.frames} frames"
    for name in taken.missing_before:
        text += f"\n{name}: rows before these are missing; they are taken when those are here"
    tell(args, taken, text)
    return 1 if taken.missing_before else 0


def _compact(args: argparse.Namespace) -> int:
    gone = _store(load_cloud(args.config)).compact(by=args.by)
    return tell(args, {"files_merged_away": gone}, f"{gone} files merged away")


def _delete(args: argparse.Namespace) -> int:
    if not args.yes:
        raise ConfigError(
            f"everything of device {args.device!r} would be deleted",
            expected="--yes",
            remedy="There is no way back; say --yes if that is meant.",
        )
    rows = _store(load_cloud(args.config)).delete_device(args.device)
    return tell(args, {"rows": rows}, f"{rows} rows deleted")


def _usage(args: argparse.Namespace) -> int:
    found = device_rows(_store(load_cloud(args.config)))
    lines = [
        f"{one.device}: {'online' if one.is_online else 'offline'}, {one.rows} rows,"
        f" {one.lost_rows} lost, {one.quota_delays} times over its quota"
        for one in found
    ]
    return tell(args, found, "\n".join(lines) or "no device yet")


def _poison_ls(args: argparse.Namespace) -> int:
    entries = Poison(_store(load_cloud(args.config)).folder).entries()
    lines = [f"{one.name}  {one.bytes} bytes  {one.topic}\n  {one.why}" for one in entries]
    return tell(args, entries, "\n".join(lines) or "nothing was set aside")


def _poison_show(args: argparse.Namespace) -> int:
    message = Poison(_store(load_cloud(args.config)).folder).message(args.name[0])
    result = {"topic": message.topic, "payload": message.payload.hex()}
    return tell(args, result, f"{message.topic}\n{message.payload.hex(' ')}")


def _poison_drop(args: argparse.Namespace) -> int:
    poison = Poison(_store(load_cloud(args.config)).folder)
    for name in args.name:
        poison.drop(name)
    return tell(args, {"dropped": args.name}, f"{len(args.name)} dropped")


def _replay(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    outcome = replay(_store(config), args.name, Topics(config.root))
    lines = [f"{name}: {why or 'taken'}" for name, why in outcome.items()]
    tell(args, outcome, "\n".join(lines))
    return 1 if any(outcome.values()) else 0


def _ask(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    clock = SystemClock()
    device, command = check_name(args.device, "device"), check_name(args.asked, "command")
    options = dict(map(_option, args.option))
    with _turn(config.store / "ask.lock"):
        transport = PahoTransport(link_of(config, ASK, clock), ASK, clock)
        if sys.stderr.isatty():
            sys.stderr.write(f"asking {args.device}, for {args.timeout_s:g} s at most …\n")
        answer = ask(
            transport,
            device,
            command,
            options,
            timeout_s=args.timeout_s,
            clock=clock,
            topics=Topics(config.root),
        )
    if answer is None:
        text = f"{args.device} did not answer within {args.timeout_s:g} s"
        tell(args, {"state": "silent", "device": args.device}, text)
        return _INCONCLUSIVE
    result = msgspec.yaml.encode(answer.result).decode() if answer.result else answer.state
    tell(args, answer, answer.reason or result.rstrip())
    return 0 if answer.state == "done" else 1


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Wait until nobody else on this machine asks: a broker ends the older session of a name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"option {text!r} has no value", expected="NAME=VALUE")
    return check_name(name, "option"), value


def _store(config: CloudConfig) -> Store:
    return Store(config.store)


def _read_signed(path: Path) -> Signed:
    content = path.read_bytes()
    codec = msgspec.json if content[:1] == b"{" else msgspec.msgpack
    try:
        signed: Signed = codec.decode(content, type=Signed)
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"no signed statement: {error}",
            where=str(path),
            expected="payload, key and signature",
            remedy="Sign the bundle again.",
        ) from error
    return signed


class _Progress:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> OnShard:
        if sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import Progress
            except ImportError:
                # A bar is a comfort; the work goes on without it.
                return self._advance
            self._bar = Progress(console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=None)
        return self._advance

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _advance(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
