"""``edge-runtime cloud boards``: what boards took, for people and for ``convert --bench``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge_cloud.config import load_cloud
from edge_cloud.registry import Registry
from edge_cloud.store import Store
from edge_cloud.verbs import Verbs, tell, verb, with_config
from edge_runtime.cli.table import table
from edge_runtime.sync.board_times import DeviceTimes, read_times, spread_of

__all__ = ["add_boards"]

_HEADER = ("base", "board", "file", "runtime", "boards", "median µs", "least", "most")


def add_boards(verbs: Verbs) -> None:
    """Add ``boards``."""
    parser = with_config(
        verb(
            verbs,
            "boards",
            "show what boards took for each model file; --json is what convert --bench reads",
            "boards cloud.yaml --board raspberry-pi-4",
            _boards,
        )
    )
    parser.add_argument("--board", metavar="NAME", help="of this kind alone")
    parser.add_argument("--base", metavar="REF", help="name@version, name@alias or digest")


def _boards(args: argparse.Namespace) -> int:
    store = Store(load_cloud(args.config).store)
    registry = Registry(store)
    digest = None if args.base is None else registry.find(args.base).digest
    told = [
        one
        for one in read_times(store.folder)
        if args.board in (None, one.times.board) and digest in (None, one.times.base)
    ]
    return tell(args, told, _drawn(told, registry))


def _drawn(told: Sequence[DeviceTimes], registry: Registry) -> str:
    rows = _rows([one for one in told if not one.refused], registry)
    lines = [table(_HEADER, rows, right=" ".join(_HEADER[4:]))] if rows else []
    lines += [f"refused: {one.device}: {one.refused}" for one in told if one.refused]
    return "\n".join(lines) or "no board has answered"


def _rows(told: Sequence[DeviceTimes], registry: Registry) -> list[tuple[str, ...]]:
    runs: dict[tuple[str, str, str, str], dict[str, list[float]]] = {}
    for one in told:
        for file in one.times.files:
            key = (_ref(one.times.base, registry), one.times.board, file.sha256[:12], file.backend)
            runs.setdefault(key, {}).setdefault(one.device, []).append(file.engine_us)
    return [(*key, *_cells(runs[key])) for key in sorted(runs)]


def _cells(runs: dict[str, list[float]]) -> tuple[str, ...]:
    spread = spread_of(runs)
    times = (spread.median_us, spread.low_us, spread.high_us)
    return (str(spread.boards), *(f"{one:.1f}" for one in times))


def _ref(digest: str, registry: Registry) -> str:
    entry = registry.entry(digest)
    return digest[:16] if entry is None else f"{entry.name}@{entry.version}"
