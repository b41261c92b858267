"""``edge-runtime cloud refit``: new weights for devices, quantised and proven."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from edge_cloud.config import load_cloud
from edge_cloud.jobs import Jobs
from edge_cloud.refit.release import RefitRow, RefitWish, read_refits, release_refit
from edge_cloud.registry import Registry
from edge_cloud.signing import SigningKey
from edge_cloud.store import Store
from edge_cloud.verbs import Verbs, tell, verb, with_config

__all__ = ["add_refit"]


def add_refit(verbs: Verbs) -> None:
    """Add ``refit`` and ``refits``."""
    parser = with_config(
        verb(
            verbs,
            "refit",
            "quantise new weights in the scales that devices have, prove, sign and offer them",
            "refit cloud.yaml turbine@1 new.onnx --key release.key",
            _refit,
        )
    )
    add = parser.add_argument
    add("base", help="what devices have: name@version, name@alias or digest")
    add("model", type=Path, help="float model with the new weights, of the same network")
    add("--key", type=Path, required=True, help="release key to sign with")
    add("--calib", type=Path, metavar="DATA", help="windows; what devices uploaded by default")
    add("--eval", type=Path, metavar="DATA", help=".npz with inputs and labels for the verdict")
    add("--metric", choices=("accuracy", "auc", "f1", "mae"), help="what it is judged by")
    add("--max-drop", type=float, default=0.005, metavar="X", help="what int8 may lose (0.005)")
    add("--target", metavar="BOARD", help="kind of board (the one most devices answered from)")
    add("--bundle-version", metavar="VERSION", help="of the new base (one more)")
    add("--device", action="append", help="offer it to this device alone; may come twice")
    add("--alias", help="also call it name@ALIAS")
    with_config(
        verb(verbs, "refits", "show what became of new weights", "refits cloud.yaml", _refits)
    )


def _refit(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    store = Store(config.store)
    registry, jobs = Registry(store), Jobs(store)
    entry, row = release_refit(
        RefitWish(
            base=args.base,
            model=args.model,
            calib=args.calib,
            eval=args.eval,
            metric=args.metric,
            max_drop=args.max_drop,
            version=args.bundle_version,
            target=args.target,
        ),
        store=store,
        key=SigningKey.load(args.key),
        layer_keys=[] if config.keys is None else [SigningKey.load(config.keys.layer).public],
    )
    if args.alias:
        registry.set_alias(entry.name, args.alias, entry.digest)
    made = jobs.publish(registry, entry.digest, args.device)
    told = msgspec.to_builtins(row) | {"seq": entry.seq, "jobs": made}
    return tell(args, told, f"{_line(row)}\n{len(made)} jobs made")


def _refits(args: argparse.Namespace) -> int:
    rows = read_refits(Store(load_cloud(args.config).store))
    return tell(args, rows, "\n".join(map(_line, rows)) or "no weights were refitted")


def _line(row: RefitRow) -> str:
    parity = "equal" if row.snr_db is None else f"{row.snr_db:.1f} dB"
    return (
        f"{row.ref} is {row.base[:16]}, from {row.before[:16]}: {row.verdict};"
        f" int8 against float {parity} on {row.windows} windows;"
        f" delta {row.delta_bytes} bytes, {row.anew_delta_bytes} with new scales"
        f"{'; ' if row.latency else ''}{row.latency}{_left_out(row)}"
    )


def _left_out(row: RefitRow) -> str:
    """Say which devices get nothing."""
    if not row.left_out:
        return ""
    return f"; without {', '.join(row.left_out)}: devices that run nothing else stay on the old one"
