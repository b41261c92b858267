"""A job gives the same answers whatever comes in, goes out, or goes wrong in between."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import Bundle, save_bundle
from edge_runtime.errors import ConfigError, EdgeError, SourceError, StoreError
from edge_runtime.modes.batch import BatchJob, Disk, Progress, run_batch
from edge_runtime.ports import Choice

INPUTS = (".csv", ".jsonl", ".npz", ".parquet")
OUTPUTS = (".csv", ".duckdb", ".parquet", ".sqlite")

Write = Callable[[Path, Any], Path]
Read = Callable[..., dict[str, list[Any]]]


class Crash(BaseException):
    """The process dies here."""


class CrashingDisk(Disk):
    """Dies at the n-th step, before it or after it; a write gets half way.

    Args:
        at: Which step.
        is_after: Whether that step still happens.
    """

    def __init__(self, at: int, *, is_after: bool = False) -> None:
        self._left = at
        self._is_after = is_after

    def write(self, file: BinaryIO, content: bytes) -> None:
        self._step(lambda: super(CrashingDisk, self).write(file, content), file, content)

    def sync(self, file: BinaryIO) -> None:
        self._step(lambda: super(CrashingDisk, self).sync(file))

    def rename(self, path: Path, to: Path) -> None:
        self._step(lambda: super(CrashingDisk, self).rename(path, to))

    def _step(self, do: Callable[[], None], *torn: Any) -> None:
        self._left -= 1
        if self._left == 0 and not self._is_after:
            if torn:
                super().write(torn[0], torn[1][: len(torn[1]) // 2])
            raise Crash
        do()
        if self._left == 0:
            raise Crash


class CrashingRename(Disk):
    """Dies before the n-th rename."""

    def __init__(self, at: int) -> None:
        self._left = at

    def rename(self, path: Path, to: Path) -> None:
        self._left -= 1
        if self._left == 0:
            raise Crash
        super().rename(path, to)


class FullDisk(Disk):
    """Has no room for the n-th write."""

    def __init__(self, at: int) -> None:
        self._left = at

    def write(self, file: BinaryIO, content: bytes) -> None:
        self._left -= 1
        if self._left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(file, content)


def crash_at(shard: int) -> Callable[[Progress], None]:
    """Return what dies after so many shards."""
    count = itertools.count(1)

    def on_progress(_: Progress) -> None:
        if next(count) == shard:
            raise Crash

    return on_progress


@pytest.fixture
def job(tmp_path: Path, make_rows: Callable[..., Any], write: Write) -> BatchJob:
    """Give a job in order: times with a gap, decisions, kept columns."""
    return BatchJob(
        input=write(tmp_path / "in.parquet", make_rows()),
        output=tmp_path / "out.parquet",
        time="t",
        time_format="unix_ns",
        keep=("machine",),
        has_decisions=True,
        shard_rows=32,
    )


def results_of(job: BatchJob, read: Read) -> list[Any]:
    """Return everything that a job made: bytes of files, rows of databases."""
    tables = ("estimates", "decisions") if job.has_decisions else ("estimates",)
    if job.output.suffix in (".sqlite", ".duckdb"):
        return [read(job.output, table) for table in tables]
    paths = [job.output, job.output.with_suffix(f".decisions{job.output.suffix}")]
    return [path.read_bytes() for path in paths[: len(tables)]]


# --- every input, every output ---------------------------------------------------------


@pytest.mark.parametrize("suffix", INPUTS)
def test_every_input_gives_the_same_answers(
    suffix: str, tmp_path: Path, make_bundle: Any, make_rows: Any, write: Write, read: Read
) -> None:
    """Parquet, CSV, NPZ and JSON lines with the same rows differ in nothing."""
    rows = make_rows()
    bundle = make_bundle()

    found = []
    for number, kind in enumerate((".npz", suffix)):
        job = BatchJob(
            input=write(tmp_path / f"in{kind}", rows),
            output=tmp_path / f"{number}.csv",
            time="t",
            time_format="unix_ns",
            keep=("machine",),
            shard_rows=64,
        )
        report = run_batch(job, bundle)
        found.append((read(job.output), report.discarded, report.rows))

    assert found[0] == found[1]
    assert found[0][1] == {"gap": 0, "not_finite": 3, "out_of_order": 1}
    assert len(found[0][0]["index"]) == 300 - 3 - 1


@pytest.mark.parametrize("suffix", OUTPUTS)
@pytest.mark.parametrize("length", [1, 4])
def test_every_output_holds_the_same_rows(
    suffix: str, length: int, job: BatchJob, make_bundle: Any, read: Read
) -> None:
    """Files and databases keep estimates and decisions to the last bit."""
    bundle = make_bundle(length, max(1, length // 2))
    job = msgspec.structs.replace(job, output=job.output.with_suffix(suffix))
    other = msgspec.structs.replace(job, output=job.output.with_name("other.parquet"))

    run_batch(other, bundle)
    report = run_batch(job, bundle)

    decided = job.output
    if suffix in (".csv", ".parquet"):
        decided = job.output.with_suffix(f".decisions{suffix}")
    assert read(job.output) == read(other.output)
    assert read(decided, "decisions") == read(other.output.with_suffix(".decisions.parquet"))
    assert report.decisions > 0 and report.windows == len(read(job.output)["index"])
    assert list(read(job.output)) == [
        *("index", "start_ns", "end_ns", "score_ok", "score_worn", "machine")
    ]
    assert not job.output.with_name(f"{job.output.name}.parts").exists()


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_an_empty_input_gives_an_empty_output(
    suffix: str, tmp_path: Path, make_bundle: Any, make_rows: Any, write: Write, read: Read
) -> None:
    """No rows are no error: the output has its columns and nothing in them."""
    rows = {name: column[:0] for name, column in make_rows().items()}
    job = BatchJob(input=write(tmp_path / "in.parquet", rows), output=tmp_path / f"out{suffix}")

    report = run_batch(job, make_bundle())

    assert (report.rows, report.windows, report.is_complete) == (0, 0, True)
    assert read(job.output) == {"index": [], "score_ok": [], "score_worn": []}


def test_workers_change_nothing(
    tmp_path: Path, make_bundle: Any, make_rows: Any, write: Write
) -> None:
    """Independent shards give one file, whoever scores them."""
    source = write(tmp_path / "in.parquet", make_rows())
    jobs = [
        BatchJob(input=source, output=tmp_path / f"{n}.parquet", workers=n, shard_rows=16)
        for n in (1, 3)
    ]

    reports = [run_batch(job, make_bundle()) for job in jobs]

    assert [report.workers for report in reports] == [1, 3]
    assert jobs[0].output.read_bytes() == jobs[1].output.read_bytes()


def test_columns_can_be_mapped(
    tmp_path: Path, make_bundle: Any, make_rows: Any, write: Write, read: Read
) -> None:
    """A channel may come from a column of another name, and one array may hold all."""
    rows = make_rows(is_clean=True)
    renamed = {"x" if name == "a" else name: column for name, column in rows.items()}
    array = {"all": np.stack([rows["a"], rows["b"], rows["c"]], axis=1)}
    plain = BatchJob(input=write(tmp_path / "p.npz", rows), output=tmp_path / "p.csv")
    mapped = BatchJob(
        input=write(tmp_path / "m.jsonl", renamed), output=tmp_path / "m.csv", columns={"a": "x"}
    )
    joined = BatchJob(
        input=write(tmp_path / "j.npz", array), output=tmp_path / "j.csv", array="all"
    )

    for job in (plain, mapped, joined):
        run_batch(job, make_bundle())

    assert read(plain.output) == read(mapped.output) == read(joined.output)


# --- dying and going on ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OUTPUTS)
@pytest.mark.parametrize("length", [1, 4])
@settings(
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    deaths=st.lists(
        st.tuples(st.sampled_from(["before", "after", "shard"]), st.integers(1, 20)),
        min_size=1,
        max_size=4,
    ),
    commit_s=st.sampled_from([0.0, 1e9]),
)
def test_dying_anywhere_loses_and_doubles_nothing(
    suffix: str,
    length: int,
    deaths: list[tuple[str, int]],
    commit_s: float,
    job: BatchJob,
    make_bundle: Any,
    read: Read,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """However often a run dies, at any write, sync, rename or shard: the same result."""
    folder = tmp_path_factory.mktemp("runs")
    bundle = make_bundle(length, max(1, length // 2))
    whole = msgspec.structs.replace(job, output=folder / f"whole{suffix}", shard_rows=64)
    torn = msgspec.structs.replace(whole, output=folder / f"torn{suffix}")
    run_batch(whole, bundle)

    for kind, at in deaths:
        disk = Disk() if kind == "shard" else CrashingDisk(at, is_after=kind == "after")
        on_progress = crash_at(at) if kind == "shard" else None
        with contextlib.suppress(Crash):
            run_batch(
                torn,
                bundle,
                disk=disk,
                on_progress=on_progress,
                commit_s=commit_s,
                may_overwrite=True,
            )
    run_batch(torn, bundle, may_overwrite=True)

    assert results_of(torn, read) == results_of(whole, read)
    assert sorted(path.suffix for path in folder.iterdir()) == sorted(
        [suffix] * (4 if suffix in (".csv", ".parquet") else 2)
    )


_KILLED = """
import os, signal, sys
from pathlib import Path
import msgspec
from edge_runtime.bundle import load_bundle
from edge_runtime.modes.batch import BatchJob, run_batch
count = 0
def on_progress(_):
    global count
    count += 1
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
job = msgspec.json.decode(sys.argv[2], type=BatchJob, dec_hook=lambda kind, value: kind(value))
run_batch(job, load_bundle(sys.argv[1]), on_progress=on_progress, commit_s=0.0)
"""


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_a_killed_process_goes_on_where_it_was(
    suffix: str, job: BatchJob, make_bundle: Any, read: Read, tmp_path: Path
) -> None:
    """SIGKILL after the fourth shard: the next run begins there and ends up the same."""
    bundle: Bundle = make_bundle(4, 2)
    others = {name: content for name, content in bundle.files.items() if name != "bundle.yaml"}
    saved = save_bundle(tmp_path / "bundle", bundle.spec, others)
    whole = msgspec.structs.replace(job, output=tmp_path / f"whole{suffix}")
    torn = msgspec.structs.replace(job, output=tmp_path / f"torn{suffix}")
    text = msgspec.json.encode(torn, enc_hook=str).decode()
    run_batch(whole, saved)

    died = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "bundle"), text])
    report = run_batch(torn, saved)

    assert died.returncode == -9
    assert (report.resumed_from, report.rows) == (4 * 32, 300)
    assert results_of(torn, read) == results_of(whole, read)


def test_a_stopped_run_says_so_and_goes_on(job: BatchJob, make_bundle: Any) -> None:
    """Asked to stop, a run commits the shard at hand and leaves no output."""
    stopped = run_batch(job, make_bundle(), is_stopping=lambda: True)
    done = run_batch(job, make_bundle())

    assert (stopped.rows, stopped.is_complete, stopped.outputs) == (32, False, ())
    assert (done.resumed_from, done.rows, done.is_complete) == (32, 300, True)


def test_another_block_goes_on(job: BatchJob, make_bundle: Any, tmp_path: Path) -> None:
    """Blocks, threads and workers change no byte, so a run may go on with others."""
    whole = msgspec.structs.replace(job, output=tmp_path / "whole.parquet")
    run_batch(whole, make_bundle())
    other = Choice(block=7, threads=2)

    run_batch(job, make_bundle(), is_stopping=lambda: True)
    report = run_batch(msgspec.structs.replace(job, choice=other, workers=2), make_bundle())

    assert report.resumed_from == 32
    assert job.output.read_bytes() == whole.output.read_bytes()


# --- refusing -------------------------------------------------------------------------------


def test_another_bundle_does_not_go_on(job: BatchJob, make_bundle: Any) -> None:
    """Half of a file by one model and half by another is refused, unless started afresh."""
    run_batch(job, make_bundle(), is_stopping=lambda: True)

    with pytest.raises(
        ConfigError, match=r"(?s)unfinished run had the bundle pump@1.*--fresh"
    ) as told:
        run_batch(job, make_bundle(4, 2))
    report = run_batch(job, make_bundle(4, 2), is_fresh=True)

    assert told.value.exit_code == 2
    assert (report.resumed_from, report.is_complete) == (0, True)


def test_a_changed_input_does_not_go_on(
    job: BatchJob, make_bundle: Any, make_rows: Any, write: Write
) -> None:
    """The input may not change between the runs of one job."""
    run_batch(job, make_bundle(), is_stopping=lambda: True)
    write(job.input, make_rows(301))

    with pytest.raises(ConfigError, match="the input"):
        run_batch(job, make_bundle())


def test_an_input_that_changes_while_it_is_read_is_an_error(
    job: BatchJob, make_bundle: Any
) -> None:
    """Nobody can say what the answers are about, so no output appears."""

    def on_progress(_: Progress) -> None:
        job.input.touch()

    with pytest.raises(SourceError, match="changed while it was read"):
        run_batch(job, make_bundle(), on_progress=on_progress)

    assert not job.output.exists()


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_an_output_that_exists_stays(
    suffix: str, job: BatchJob, make_bundle: Any, tmp_path: Path, read: Read
) -> None:
    """A finished output is only replaced when asked for, and by a complete one."""
    job = msgspec.structs.replace(job, output=tmp_path / f"out{suffix}")
    job.output.write_bytes(b"precious")

    with pytest.raises(ConfigError, match=r"(?s)the output exists.*--overwrite"):
        run_batch(job, make_bundle())
    run_batch(job, make_bundle(), may_overwrite=True, is_stopping=lambda: True)
    before = job.output.read_bytes()
    run_batch(job, make_bundle(), may_overwrite=True)

    assert before == b"precious"
    assert len(read(job.output)["index"]) > 200


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_full_disk_loses_nothing(
    suffix: str, job: BatchJob, make_bundle: Any, tmp_path: Path, read: Read
) -> None:
    """No room is said in four parts; with room again the job goes on."""
    whole = msgspec.structs.replace(job, output=tmp_path / f"whole{suffix}")
    full = msgspec.structs.replace(job, output=tmp_path / f"full{suffix}")
    run_batch(whole, make_bundle())

    with pytest.raises(StoreError, match=r"(?s)No space left on device.*goes on where") as told:
        run_batch(full, make_bundle(), disk=FullDisk(8), commit_s=0.0)
    report = run_batch(full, make_bundle())

    assert told.value.exit_code == 1 and told.value.where and told.value.expected
    assert report.resumed_from > 0
    assert results_of(full, read) == results_of(whole, read)


def _remove(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"something else")


@pytest.mark.parametrize("suffix", OUTPUTS)
@pytest.mark.parametrize("harm", [_remove, _replace])
def test_an_output_that_goes_away_is_noticed(
    suffix: str, harm: Callable[[Path], None], job: BatchJob, make_bundle: Any, tmp_path: Path
) -> None:
    """A file or database removed or replaced in the middle is an error, not a loss."""
    job = msgspec.structs.replace(job, output=tmp_path / f"out{suffix}")
    growing = tmp_path / f"out{suffix}.parts" / f"out{suffix}"
    count = itertools.count()

    def on_progress(_: Progress) -> None:
        if next(count) == 3:
            harm(growing)

    with pytest.raises(StoreError, match=r"(?s)removed or replaced.*--fresh"):
        run_batch(job, make_bundle(), on_progress=on_progress, commit_s=0.0)
    assert not job.output.exists()
    run_batch(job, make_bundle(), is_fresh=True)

    assert job.output.exists()


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".csv", "manifest.db"), (".parquet", "manifest.db"), (".sqlite", ""), (".duckdb", "")],
)
def test_a_damaged_manifest_is_an_error(
    suffix: str, name: str, job: BatchJob, make_bundle: Any, tmp_path: Path
) -> None:
    """What an earlier run has done cannot be told: only starting over helps."""
    job = msgspec.structs.replace(job, output=tmp_path / f"out{suffix}")
    run_batch(job, make_bundle(), is_stopping=lambda: True)
    manifest = tmp_path / f"out{suffix}.parts" / (name or f"out{suffix}")
    manifest.write_bytes(bytes(len(manifest.read_bytes()) - 1) + b"x")

    with pytest.raises(StoreError, match="--fresh"):
        run_batch(job, make_bundle())

    assert run_batch(job, make_bundle(), is_fresh=True).is_complete


@pytest.mark.parametrize("table", ["estimates", "decisions"])
def test_a_file_put_there_before_the_last_rename_stays(
    table: str, job: BatchJob, make_bundle: Any
) -> None:
    """Somebody else's file under the output's name is not overwritten by a late rename."""
    decided = job.output.with_suffix(".decisions.parquet")
    with contextlib.suppress(Crash):
        run_batch(job, make_bundle(), disk=CrashingRename(2 if table == "decisions" else 1))
    theirs = decided if table == "decisions" else job.output
    theirs.write_bytes(b"theirs")

    with pytest.raises(ConfigError, match="the output exists"):
        run_batch(job, make_bundle())

    assert theirs.read_bytes() == b"theirs"
    theirs.unlink()
    assert run_batch(job, make_bundle()).is_complete
    assert job.output.exists() and decided.exists()


@pytest.mark.parametrize("suffix", [".csv", ".sqlite"])
def test_two_runs_at_once_are_refused(
    suffix: str, job: BatchJob, make_bundle: Any, tmp_path: Path
) -> None:
    """A second run of a job that is under way fails and harms nothing."""
    job = msgspec.structs.replace(job, output=tmp_path / f"out{suffix}")
    failures: list[EdgeError] = []

    def on_progress(_: Progress) -> None:
        if not failures:
            with pytest.raises(StoreError, match="locked") as told:
                run_batch(job, make_bundle())
            failures.append(told.value)

    report = run_batch(job, make_bundle(), on_progress=on_progress)

    assert len(failures) == 1 and report.is_complete


def test_a_database_somebody_else_locks_is_an_error(
    job: BatchJob, make_bundle: Any, tmp_path: Path
) -> None:
    """A locked database ends the run; unlocked again, it goes on."""
    job = msgspec.structs.replace(job, output=tmp_path / "out.sqlite")
    run_batch(job, make_bundle(), is_stopping=lambda: True)
    other = sqlite3.connect(tmp_path / "out.sqlite.parts" / "out.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    with pytest.raises(StoreError, match="locked"):
        run_batch(job, make_bundle())
    other.close()

    assert run_batch(job, make_bundle()).resumed_from == 32


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", INPUTS)
def test_a_missing_column_is_named(
    suffix: str, tmp_path: Path, make_bundle: Any, make_rows: Any, write: Write
) -> None:
    """A channel without a column is a mistake in the command, with the columns there are."""
    rows = make_rows()
    del rows["b"]
    job = BatchJob(input=write(tmp_path / f"in{suffix}", rows), output=tmp_path / "out.csv")

    with pytest.raises(ConfigError, match="no column 'b'; expected one of a, c") as told:
        run_batch(job, make_bundle())

    assert told.value.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"in{suffix}"]


@pytest.mark.parametrize(
    ("suffix", "kept"),
    # Nothing at all is a sound file of JSON lines.
    [*itertools.product(INPUTS, (0.4, 0.9)), *((one, 0.0) for one in INPUTS if one != ".jsonl")],
)
def test_a_truncated_input_is_an_error(
    suffix: str, kept: float, tmp_path: Path, make_bundle: Any, make_rows: Any, write: Write
) -> None:
    """Half a file is never taken for a whole one, where its format can tell."""
    source = write(tmp_path / f"in{suffix}", make_rows())
    content = source.read_bytes()
    cut = int(len(content) * kept)
    # A cut inside the last cell of a line leaves a sound CSV file.
    source.write_bytes(content[: max(0, content.rfind(b",", 0, cut))])

    with pytest.raises(SourceError) as told:
        run_batch(BatchJob(input=source, output=tmp_path / "out.csv", shard_rows=32), make_bundle())

    assert told.value.exit_code == 1 and told.value.remedy
    assert not (tmp_path / "out.csv").exists()


def test_a_truncated_parquet_with_a_sound_footer_is_an_error(
    tmp_path: Path, make_bundle: Any, make_rows: Any, write: Write
) -> None:
    """Pages that are damaged are found when they are read."""
    source = write(tmp_path / "in.parquet", make_rows())
    content = bytearray(source.read_bytes())
    content[200:1200] = bytes(1000)
    source.write_bytes(content)

    with pytest.raises(SourceError, match="cannot be read"):
        run_batch(BatchJob(input=source, output=tmp_path / "out.csv"), make_bundle())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"input": Path("in.xlsx")}, "suffix is '.xlsx'"),
        ({"output": Path("out.xlsx")}, "suffix is '.xlsx'"),
        ({"output": Path("nowhere/out.csv")}, "no such folder"),
        ({"columns": {"z": "a"}}, "--map names 'z'"),
        ({"keep": ("nothing",)}, "no column 'nothing'"),
        ({"time": "when"}, "no column 'when'"),
        ({"array": "all"}, "--array is 'all'"),
    ],
)
def test_wrong_usage_is_a_config_error(
    change: dict[str, Any], match: str, job: BatchJob, make_bundle: Any
) -> None:
    """What a person typed wrong is named, with what would be right."""
    with pytest.raises(ConfigError, match=match) as told:
        run_batch(msgspec.structs.replace(job, **change), make_bundle())

    assert told.value.expected and told.value.remedy


def test_the_input_is_never_the_output(job: BatchJob, make_bundle: Any) -> None:
    """Not even to overwrite: the rows would be gone."""
    job = msgspec.structs.replace(job, output=job.input)

    with pytest.raises(ConfigError, match="the output is the input"):
        run_batch(job, make_bundle(), may_overwrite=True)


def test_a_missing_input_is_a_source_error(job: BatchJob, make_bundle: Any) -> None:
    """A path that leads nowhere."""
    job = msgspec.structs.replace(job, input=Path("missing.csv"))

    with pytest.raises(SourceError, match="No such file"):
        run_batch(job, make_bundle())


def test_a_bad_line_of_json_is_named_by_number(
    tmp_path: Path, make_bundle: Any, make_rows: Any, write: Write
) -> None:
    """The line and what was wrong with it stand in the message."""
    source = write(tmp_path / "in.jsonl", make_rows())
    lines = source.read_text().splitlines()
    lines[41] = '{"a": "high", "b": 1, "c": 2}'
    source.write_text("\n".join(lines))

    with pytest.raises(SourceError, match=r"in.jsonl:42: Expected `float"):
        run_batch(BatchJob(input=source, output=tmp_path / "out.csv"), make_bundle())


def test_a_model_that_fails_ends_the_run(job: BatchJob, make_bundle: Any) -> None:
    """A backend that the bundle has no file for is an error before anything is written."""
    job = msgspec.structs.replace(job, choice=Choice(backend="onnx"))

    with pytest.raises(EdgeError, match="onnx"):
        run_batch(job, make_bundle())

    assert not job.output.with_name("out.parquet.parts").exists()
