"""``edge-runtime cloud``: one verb per role and per thing a person does to a store."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_cloud.config import CloudConfig, load_cloud
from edge_cloud.jobs import Jobs
from edge_cloud.labels import Labels
from edge_cloud.registry import Registry
from edge_cloud.rescore import OnShard, rescore
from edge_cloud.service import ROLES, CloudService, Role, streams_of
from edge_cloud.signing import SigningKey, sign_base
from edge_cloud.store import Store
from edge_runtime.bundle import load_bundle
from edge_runtime.errors import ConfigError
from edge_runtime.sync.messages import Signed

__all__ = ["Cloud"]

_Run = Callable[[argparse.Namespace], int]


class Cloud:
    """Run a cloud, or look after its store."""

    name = "cloud"
    help = "take rows from devices, rescore, compute layers, publish bases"
    example = "edge-runtime cloud up cloud.yaml"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verbs below ``cloud``."""
        verbs = parser.add_subparsers(required=True, metavar="VERB")
        for add in (_add_roles, _add_rescore, _add_publish, _add_keys, _add_labels, _add_care):
            add(verbs)

    def run(self, args: argparse.Namespace) -> int:
        """Do what the verb says."""
        verb: _Run = args.verb
        return verb(args)


_Verbs = Any  # argparse's type for this is private


def _verb(verbs: _Verbs, name: str, text: str, example: str, run: _Run) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  edge-runtime cloud {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(verb=run)
    return parser


def _with_config(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("config", type=Path, help="cloud YAML")
    return parser


def _add_roles(verbs: _Verbs) -> None:
    _with_config(_verb(verbs, "up", "run all roles until Ctrl-C", "up cloud.yaml", _up(ROLES)))
    _with_config(
        _verb(verbs, "ingest", "take rows until Ctrl-C", "ingest cloud.yaml", _up(("ingest",)))
    )
    _with_config(
        _verb(
            verbs,
            "registry",
            "send jobs and archives until Ctrl-C",
            "registry cloud.yaml",
            _up(("registry",)),
        )
    )
    refresh = _with_config(
        _verb(verbs, "refresh", "compute layers until Ctrl-C", "refresh cloud.yaml", _refresh)
    )
    refresh.add_argument("--once", action="store_true", help="do what is due, then end")


def _add_rescore(verbs: _Verbs) -> None:
    parser = _with_config(
        _verb(
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


def _add_publish(verbs: _Verbs) -> None:
    parser = _with_config(
        _verb(
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


def _add_keys(verbs: _Verbs) -> None:
    keys = verbs.add_parser("keys", help="make keys", description="make keys")
    parser = _verb(
        keys.add_subparsers(required=True, metavar="VERB"),
        "new",
        "write a new private key (0600) and PATH.pub",
        "keys new release.key",
        _new_key,
    )
    parser.add_argument("path", type=Path, help="where to; an existing file is kept")


def _add_labels(verbs: _Verbs) -> None:
    labels = verbs.add_parser("labels", help="import labels", description="import labels")
    parser = _verb(
        labels.add_subparsers(required=True, metavar="VERB"),
        "import",
        "add labels from a CSV file; adding them again changes nothing",
        "labels import cloud.yaml labels.csv",
        _import_labels,
    )
    _with_config(parser)
    parser.add_argument("file", type=Path, help="device,stream,time_ns,value,known_at_ns")


def _add_care(verbs: _Verbs) -> None:
    _with_config(
        _verb(verbs, "status", "show what is stored and sent", "status cloud.yaml", _status)
    )
    compact = _with_config(
        _verb(verbs, "compact", "merge small segments", "compact cloud.yaml --by month", _compact)
    )
    compact.add_argument("--by", choices=("day", "month"), default="day", help="one file for each")
    devices = verbs.add_parser("devices", help="look after devices", description="devices")
    delete = _verb(
        devices.add_subparsers(required=True, metavar="VERB"),
        "delete",
        "delete everything a device ever sent",
        "devices delete cloud.yaml pump-1 --yes",
        _delete,
    )
    _with_config(delete)
    delete.add_argument("device", help="device id")
    delete.add_argument("--yes", action="store_true", help="do it; without it nothing is deleted")


# --- roles ------------------------------------------------------------------------


def _up(roles: Sequence[Role]) -> _Run:
    def run(args: argparse.Namespace) -> int:
        service = CloudService(load_cloud(args.config), roles=roles)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: service.end())
        sys.stderr.write(f"{', '.join(roles)} running; Ctrl-C ends.\n")
        service.run()
        return 0

    return run


def _refresh(args: argparse.Namespace) -> int:
    if not args.once:
        return _up(("refresh",))(args)
    refresh: Role = "refresh"
    service = CloudService(load_cloud(args.config), roles=[refresh])
    try:
        made = service.refresh_once()
    finally:
        service.stop()
    return _tell(args, {"jobs": made}, f"{made} jobs are ready")


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
    return _tell(args, report, text)


# --- a person's verbs -----------------------------------------------------------------


def _publish(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    store = _store(config)
    registry, jobs = Registry(store), Jobs(store)
    for path in config.bundles:
        registry.add(load_bundle(path))
    bundle = load_bundle(args.bundle)
    if args.signed is not None:
        signed = _read_signed(args.signed)
    else:
        layer_keys = [] if config.keys is None else [SigningKey.load(config.keys.layer).public]
        seq = args.seq or 1 + max((e.seq for e in registry.entries(bundle.spec.name)), default=0)
        signed = sign_base(SigningKey.load(args.key), bundle, layer_keys, seq)
    entry = registry.add(bundle, signed)
    if args.alias:
        registry.set_alias(entry.name, args.alias, entry.digest)
    made = jobs.publish(registry, entry.digest, args.device)
    text = f"{bundle.ref} is {entry.digest[:16]}; {len(made)} jobs made"
    return _tell(args, {"digest": entry.digest, "seq": entry.seq, "jobs": made}, text)


def _new_key(args: argparse.Namespace) -> int:
    key = SigningKey.generate()
    key.save(args.path)
    return _tell(args, {"public": key.public.hex()}, f"public key {key.public.hex()}")


def _import_labels(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    labels = Labels(_store(config), config.labels_inbox)
    added = labels.import_file(args.file)
    missing = labels.without_row()
    text = "".join(f"\n{n} labels of {name} have no row yet" for name, n in missing.items())
    result = {"added": added, "labels_without_row": missing}
    return _tell(args, result, f"{added} labels added{text}")


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
    return _tell(args, status, "\n".join(lines))


def _compact(args: argparse.Namespace) -> int:
    gone = _store(load_cloud(args.config)).compact(by=args.by)
    return _tell(args, {"files_merged_away": gone}, f"{gone} files merged away")


def _delete(args: argparse.Namespace) -> int:
    if not args.yes:
        raise ConfigError(
            f"everything of device {args.device!r} would be deleted",
            expected="--yes",
            remedy="There is no way back; say --yes if that is meant.",
        )
    rows = _store(load_cloud(args.config)).delete_device(args.device)
    return _tell(args, {"rows": rows}, f"{rows} rows deleted")


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


def _tell(args: argparse.Namespace, result: object, text: str) -> int:
    encoded = msgspec.json.encode(result).decode()
    sys.stdout.write((encoded if args.json else text) + "\n")
    return 0


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
