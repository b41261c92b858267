"""What a batch job is, and how one run knows the job of an earlier one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.ports import Choice, Timing
from edge_runtime.quality import MASK
from edge_runtime.sources.instants import TimeFormat
from edge_runtime.spec import ModelSpec
from edge_runtime.types import Table

__all__ = [
    "BatchJob",
    "Schema",
    "decision_schema",
    "estimate_schema",
    "identity",
    "quality_schema",
]

Schema = dict[str, str]
"""Columns of a table in order, each with ``int64``, ``float32``, …, ``bool`` or ``text``."""

_HEAD_BYTES = 1 << 16


class BatchJob(msgspec.Struct, frozen=True, kw_only=True):
    """Score one file with one bundle.

    Attributes:
        input: ``.parquet``, ``.csv``, ``.tsv``, ``.npz`` or ``.jsonl``.
        output: ``.parquet``, ``.csv``, ``.sqlite`` or ``.duckdb``.
        columns: Column of each channel that is not named like it.
        time: Column with event times; None takes the model's rate, and no times go out.
        time_format: How it writes them.
        array: Array of shape (n, channels) in an ``.npz``; None takes one for each channel.
        keep: Input columns to pass through; of each window's last row. On a grid a window
            ends at a slot and not at a row, so that there is nothing to pass through.
        timing: How long rows of a bundle with a grid are waited for, and which stamps are
            believed; None takes what is usual.
        has_decisions: Whether decisions go out too.
        choice: How the model is run.
        workers: Threads that score, where shards do not depend on each other.
        shard_rows: About how many rows a shard has; None takes what suits the channels.
    """

    input: Path
    output: Path
    columns: dict[str, str] = {}
    time: str | None = None
    time_format: TimeFormat = "iso"
    array: str | None = None
    keep: tuple[str, ...] = ()
    timing: Timing | None = None
    has_decisions: bool = False
    choice: Choice = Choice()
    workers: int = 1
    shard_rows: int | None = None


def identity(job: BatchJob, bundle: Bundle, shard_rows: int) -> dict[str, str]:
    """Return all that decides the output's bytes, by name.

    Threads, workers and the block are not among it: they change no byte.

    Raises:
        SourceError: The input cannot be read.
    """
    try:
        status = job.input.stat()
        with job.input.open("rb") as file:
            head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()[:16]
    except OSError as error:
        raise SourceError(
            f"cannot be read ({error.strerror})",
            where=str(job.input),
            expected="a Parquet, CSV, NPZ or JSON lines file",
            remedy="Check the path and its permissions.",
        ) from error
    choice = job.choice
    columns = {"map": job.columns, "time": job.time, "format": job.time_format, "array": job.array}
    waits = {} if job.timing is None else {"timing": msgspec.json.encode(job.timing).decode()}
    return {
        "bundle": f"{bundle.ref} {bundle.digest}",
        "input": f"{job.input.resolve()}, {status.st_size} bytes, {status.st_mtime_ns}, {head}",
        "columns": msgspec.json.encode([columns, job.keep, job.has_decisions]).decode(),
        "model": " ".join(filter(None, (choice.backend, choice.artefact, choice.accelerator))),
        "shard_rows": str(shard_rows),
        **waits,
    }


def estimate_schema(job: BatchJob, spec: ModelSpec, kept: Schema) -> Schema:
    """Return the columns of the estimates: position, times, an answer per label, kept ones.

    A classifier or scorer answers ``score_<label>``, a regressor ``value``, or
    ``value_<label>`` where it has several. A label with a reject band has
    ``uncertain_<label>`` too, and a cascade ``stage``. Where a gap policy makes up values,
    ``quality`` says so.

    Raises:
        ConfigError: A kept column has the name of another, or there is a grid.
    """
    _check_kept(job, spec, kept)
    times = {"start_ns": "int64", "end_ns": "int64"} if job.time is not None else {}
    marks = dict.fromkeys(map(uncertain_name, rejecting(spec)), "bool")
    stage = {"stage": "uint8"} if spec.cascade else {}
    answers = dict.fromkeys(answer_names(spec), "float64")
    columns = {**answers, **marks, **quality_schema(spec), **stage}
    schema = {"index": "int64", **times, **columns}
    taken = [name for name in kept if name in schema]
    if taken:
        raise ConfigError(
            f"--keep names the column {taken[0]!r}",
            where=str(job.input),
            expected=f"names other than {', '.join(schema)}",
            remedy="Rename the column in the input.",
        )
    return schema | kept


def _check_kept(job: BatchJob, spec: ModelSpec, kept: Schema) -> None:
    if kept and spec.stream.grid is not None:
        raise ConfigError(
            f"--keep names {', '.join(map(repr, kept))}, and the model puts rows on a grid",
            where=str(job.input),
            expected="no columns to pass through: a window ends at a slot, not at a row",
            remedy="Leave it out, and join the output by end_ns.",
        )


def quality_schema(spec: ModelSpec) -> Schema:
    """Return the column that says what was made up, where a gap policy does that.

    A file has no marks of its own, so that nothing else can be suspect.
    """
    grid = spec.stream.grid
    bridges = grid is not None and grid.gaps in ("hold", "fill")
    return {"quality": MASK.name} if bridges else {}


def answer_names(spec: ModelSpec) -> tuple[str, ...]:
    """Return the columns of the answers, in label order."""
    if spec.kind == "regressor" and len(spec.labels) == 1:
        return ("value",)
    prefix = "value" if spec.kind == "regressor" else "score"
    return tuple(f"{prefix}_{label}" for label in spec.labels)


def rejecting(spec: ModelSpec) -> tuple[str, ...]:
    """Return the labels that have a reject band, in label order."""
    found = {limit.label for limit in spec.limits if limit.reject is not None}
    return tuple(label for label in spec.labels if label in found)


def uncertain_name(label: str) -> str:
    """Return the column that says whether the answer for a label is uncertain."""
    return f"uncertain_{label}"


def decision_schema(table: Table, spec: ModelSpec) -> Schema:
    """Return the columns of a table of decisions."""
    columns = {
        name: "text" if column.dtype.kind == "U" else column.dtype.name
        for name, column in table.columns.items()
    }
    return columns | quality_schema(spec)
