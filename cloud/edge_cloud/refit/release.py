"""New weights become a base: the conversion library does the work, this keeps the record."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edge_cloud.jobs import Jobs
from edge_cloud.refit.windows import stored_windows
from edge_cloud.registry import Entry, Registry
from edge_cloud.signing import SigningKey
from edge_cloud.store import Store
from edge_runtime.bundle import load_bundle
from edge_runtime.clock import SystemClock
from edge_runtime.ports import Clock
from edge_runtime.sync.board_times import read_times

if TYPE_CHECKING:
    from edge_converters import Outcome, Request

__all__ = ["RefitRow", "RefitWish", "read_refits", "release_refit"]


class RefitWish(msgspec.Struct, frozen=True, kw_only=True):
    """New weights for a base.

    Attributes:
        base: What devices have: ``name@version``, ``name@alias`` or digest.
        model: Float model with the new weights, of the same network.
        calib: Windows; None takes what devices uploaded, else the base's golden ones.
        eval: Windows with labels that the verdict is made on.
        metric: ``accuracy``, ``auc``, ``f1`` or ``mae``; needs ``eval``.
        max_drop: How much int8 may lose of it.
        version: Of the new base; None is one more than the old one's.
        target: Kind of board it is for; None is the one that most devices have answered
            from for the old base, or a desktop where none has.
    """

    base: str
    model: Path
    calib: Path | None = None
    eval: Path | None = None
    metric: str | None = None
    max_drop: float = 0.005
    version: str | None = None
    target: str | None = None


class RefitRow(msgspec.Struct, frozen=True):
    """What became of new weights: a part of the record of every job that brings them.

    Attributes:
        base: Digest of the new base; jobs name it in ``requires``.
        before: Digest of the base it was refitted from.
        ref: The new base, ``name@version``.
        keeps_scales: Whether the integers have the scales of the base before.
        clipped: Share of the new weights that these would clip, 0 to 1.
        snr_db: Output of the new file against the new float model, dB; None where equal.
        verdict: What the conversion says of it, in words.
        metric: What it was judged by; ``snr`` without labels.
        float_value: That of the new float model.
        value: That of the new file.
        delta_bytes: Compressed difference of the model files.
        anew_delta_bytes: The same with scales made anew.
        windows: ``given``, ``uploaded`` or ``golden``.
        latency: What one window takes on the target, and how that is known, in words; empty
            in records of before it was kept, and where nobody knows.
        left_out: Files of the base before, in other formats, that the new one lacks: devices
            that run nothing else stay on the old base.
    """

    base: str
    before: str
    ref: str
    keeps_scales: bool
    clipped: float
    snr_db: float | None
    verdict: str
    metric: str | None
    float_value: float | None
    value: float | None
    delta_bytes: int
    anew_delta_bytes: int
    windows: str
    latency: str = ""
    left_out: tuple[str, ...] = ()


def release_refit(
    wish: RefitWish,
    *,
    store: Store,
    key: SigningKey,
    layer_keys: Sequence[bytes] = (),
    clock: Clock | None = None,
) -> tuple[Entry, RefitRow]:
    """Quantise new weights, prove them, sign the bundle and keep it with its record.

    The scales of the base before are kept where the weights fit them, so that deltas stay
    small; the golden vectors are made and proven anew. Nothing is kept of what fails.

    Args:
        wish: What is to be done.
        store: Where the base is, and where the new one goes.
        key: Release key.
        layer_keys: Raw public keys that may sign layers for it.
        clock: For the time of making.

    Raises:
        ConfigError: The base is unknown, or the data do not fit.
        BundleError: The base does not tell its scales, or the model is another network.
        ModelError: The new file loses more than it may.
        MissingExtra: The extra ``convert`` is not installed.
    """
    registry, jobs = Registry(store), Jobs(store)
    before = registry.find(wish.base)
    with tempfile.TemporaryDirectory(prefix="edge-refit-") as folder:
        request, source = _request(wish, before, store, registry, jobs, Path(folder))
        outcome = _converted(request)
        bundle = load_bundle(request.output)
    entry = registry.release(bundle, key, layer_keys)
    files = [one.file for one in registry.bundle(before.digest).spec.artefacts[1:]]
    row = _row(before, entry, outcome, source, tuple(files))
    _note(store, row, (clock or SystemClock()).now_ns())
    return entry, row


def read_refits(store: Store) -> list[RefitRow]:
    """Return every refit that was released, oldest first."""
    rows = store.database.rows("SELECT report FROM refit ORDER BY made_ns")
    return [msgspec.msgpack.decode(report, type=RefitRow) for (report,) in rows]


def _request(
    wish: RefitWish, before: Entry, store: Store, registry: Registry, jobs: Jobs, folder: Path
) -> tuple[Request, str]:
    # Here and below: a cloud that never refits needs none of this.
    from edge_converters import Request

    calib, source = wish.calib, "given"
    if calib is None:
        windows = stored_windows(store, registry, jobs, registry.bundle(before.digest).spec)
        source = "golden" if windows is None else "uploaded"
        if windows is not None:
            calib = folder / "windows.npz"
            np.savez(calib, inputs=windows)
    request = Request(
        model=str(wish.model),
        output=folder / "bundle",
        refresh=registry.archive(before.digest),
        calib=calib,
        eval=wish.eval,
        metric=wish.metric,
        max_drop=wish.max_drop,
        version=wish.version,
        target=wish.target or _usual_board(store, before.digest),
        bench=(store.folder,),
    )
    return request, source


def _usual_board(store: Store, base: str) -> str:
    """Return the kind of board that most devices have answered from for a base."""
    devices = {
        (one.device, one.times.board)
        for one in read_times(store.folder)
        if not one.refused and one.times.base == base
    }
    counted = Counter(board for _, board in sorted(devices))
    return counted.most_common(1)[0][0] if counted else "desktop"


def _converted(request: Request) -> Outcome:
    from edge_converters import convert

    return convert(request)


def _row(
    before: Entry, entry: Entry, outcome: Outcome, source: str, left_out: tuple[str, ...]
) -> RefitRow:
    told, chosen = outcome.refit, outcome.candidates[-1]
    assert told is not None  # noqa: S101 - every refresh has one
    verdict = chosen.verdict
    return RefitRow(
        base=entry.digest,
        before=before.digest,
        ref=f"{entry.name}@{entry.version}",
        keeps_scales=told.keeps_scales,
        clipped=told.clipped,
        snr_db=told.kept_db if told.keeps_scales else told.anew_db,
        verdict=f"{outcome.choice.verdict}: {outcome.choice.why}; {told.why}",
        metric=verdict.metric if verdict else None,
        float_value=verdict.float_value if verdict else None,
        value=verdict.value if verdict else None,
        delta_bytes=(told.kept_delta_bytes if told.keeps_scales else told.anew_delta_bytes) or 0,
        anew_delta_bytes=told.anew_delta_bytes or 0,
        windows=source,
        latency="" if chosen.target is None else str(chosen.target),
        left_out=left_out,
    )


def _note(store: Store, row: RefitRow, now_ns: int) -> None:
    with store.database.transaction() as connection:
        connection.execute(
            "INSERT OR REPLACE INTO refit VALUES (?,?,?,?)",
            (row.base, row.before, msgspec.msgpack.encode(row), now_ns),
        )
