"""Labelled recordings, scored window by window as batch mode does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError
from edge_runtime.modes.batch import BatchJob
from edge_runtime.modes.batch.readers import Block, open_reader
from edge_runtime.modes.batch.readers.block import grid_of
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Session
from edge_runtime.sources.instants import TimeFormat
from edge_runtime.spec import ModelSpec
from edge_runtime.thresholds.truth import Event, Named, column_events, label_codes, read_events
from edge_runtime.types import Frame

__all__ = ["OnShare", "Recording", "Rows", "score_recordings"]

_BLOCK_ROWS = 1 << 16
_NS_PER_S = 1e9

OnShare = Callable[[str, float], None]
"""Told the recording at hand, and the share of all recordings that lies behind."""


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """Where rows and events of recordings are found.

    Attributes:
        files: ``.parquet``, ``.csv``, ``.tsv``, ``.npz`` or ``.jsonl``, one a recording.
        columns: Column of each channel that is not named like it.
        time: Column with event times; None takes the model's rate.
        time_format: How it writes them, and how ``events`` does then.
        array: Array of shape (n, channels) in an ``.npz``.
        label_column: Column that names the label of each row.
        events: CSV file of intervals; the other way to say what happened.
        names: Label for each word of these two that is not a label itself.
    """

    files: tuple[Path, ...]
    columns: dict[str, str] = {}
    time: str | None = None
    time_format: TimeFormat = "iso"
    array: str | None = None
    label_column: str | None = None
    events: Path | None = None
    names: dict[str, str] = {}

    def __post_init__(self) -> None:
        if (self.label_column is None) == (self.events is None):
            raise ConfigError(
                "neither --label-column nor --events is given, or both are",
                expected="one of the two",
                remedy="Say what happened in the recordings, by a column or by a file of "
                "intervals.",
            )


class Recording(msgspec.Struct, frozen=True, eq=False):
    """What a bundle answers to one recording, and what happened in it.

    Attributes:
        name: Of its file.
        score: Shape (n, labels), float64, one row a window.
        end_ns: End of each window, shape (n,), int64.
        events: In order; those of one label do not overlap.
        window_s: Time from one window to the next.
    """

    name: str
    score: np.ndarray
    end_ns: np.ndarray
    events: tuple[Event, ...]
    window_s: float


def score_recordings(
    rows: Rows, bundle: Bundle, session: Session, *, block: int, on_share: OnShare | None = None
) -> list[Recording]:
    """Score every recording, each as a stream of its own.

    Args:
        rows: Where they are.
        bundle: The base, without layers.
        session: Its model.
        block: Windows it answers at once.
        on_share: Told after every block of rows.

    Raises:
        ConfigError: A column or file is not there, or events name an unknown recording.
        EdgeError: A recording cannot be read, or the model fails.
    """
    named = _named(rows, bundle.spec)
    found = []
    for number, path in enumerate(rows.files):
        pipeline = Pipeline(bundle.spec, session, base=bundle.digest, block=block)
        tell = _share_teller(on_share, path.name, number, len(rows.files))
        found.append(_scored(path, rows, pipeline, named, tell))
    return found


def _share_teller(
    on_share: OnShare | None, name: str, number: int, of: int
) -> Callable[[float], None]:
    def tell(share: float) -> None:
        if on_share is not None:
            on_share(name, (number + share) / of)

    return tell


def _named(rows: Rows, spec: ModelSpec) -> Named:
    """Read the file of intervals, and check that each belongs to a recording."""
    unknown = sorted(set(rows.names.values()) - set(spec.labels))
    if unknown:
        raise ConfigError(
            f"--event names the label {unknown[0]!r}",
            expected=f"one of {', '.join(spec.labels)}",
            remedy="Write --event WORD=LABEL.",
        )
    if rows.events is None:
        return {}
    time_format = rows.time_format if rows.time is not None else None
    named = read_events(rows.events, spec.labels, rows.names, time_format)
    names = [path.name for path in rows.files]
    strangers = [name for name in named if name is not None and name not in names]
    if strangers or (None in named and len(names) > 1):
        raise ConfigError(
            f"an event is of the recording {strangers[0] if strangers else ''!r}",
            where=str(rows.events),
            expected=f"one of {', '.join(names)}",
            remedy="Name the file of each event in the column recording.",
        )
    return named


def _scored(
    path: Path, rows: Rows, pipeline: Pipeline, named: Named, tell: Callable[[float], None]
) -> Recording:
    spec = pipeline.spec
    none = np.empty(0, np.int64)
    scores, ends = [np.empty((0, len(spec.labels)))], [none]
    codes, times = [none], [none]
    for first, block in _blocks(path, rows, spec):
        time_ns = block.time_ns
        if time_ns is None:
            time_ns = grid_of(spec.stream).grid(len(block), first)
        estimates = pipeline.push(Frame(pipeline.stream, first, time_ns, block.samples)).estimates
        scores.append(estimates.score)
        ends.append(estimates.end_ns)
        if rows.label_column is not None:
            codes.append(label_codes(block.kept[rows.label_column], spec.labels, rows.names))
            times.append(time_ns)
        tell(block.share)
    return Recording(
        path.name,
        np.concatenate(scores),
        np.concatenate(ends),
        named.get(path.name, named.get(None, ()))
        or column_events(np.concatenate(codes), np.concatenate(times), spec.labels),
        spec.window.hop * spec.stream.period_ns / _NS_PER_S,
    )


def _blocks(path: Path, rows: Rows, spec: ModelSpec) -> Iterator[tuple[int, Block]]:
    """Yield blocks of rows, each with the row it begins with."""
    job = BatchJob(
        input=path,
        output=path,
        columns=rows.columns,
        time=rows.time,
        time_format=rows.time_format,
        array=rows.array,
        keep=() if rows.label_column is None else (rows.label_column,),
    )
    with contextlib.closing(open_reader(job, spec.stream)) as reader:
        first = 0
        for block in reader.blocks(0, _BLOCK_ROWS):
            yield first, block
            first += len(block)
