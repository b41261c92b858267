"""One function for each mode: it takes the rows its own way and returns what was answered."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import asdict

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle
from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig, dump_yaml
from edge_runtime.modes.batch import BatchJob, run_batch
from edge_runtime.modes.batch.block import with_proven_block
from edge_runtime.modes.parity.answers import Answers
from edge_runtime.modes.parity.children import run_killed
from edge_runtime.modes.parity.client import Client, served
from edge_runtime.modes.parity.rows import SAMPLES, TIMES, Rows
from edge_runtime.pipeline import AnyPipeline, TimedPipeline
from edge_runtime.ports import Choice, Timing
from edge_runtime.spec import Layer, PriorLayer
from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.outbox import Outbox
from edge_runtime.types import Output

__all__ = ["Setting", "batch", "edge", "hybrid", "realtime", "stream"]

_NOBODY = {"host": "127.0.0.1", "port": 9}
_LONGEST_FRAME = 512
_COMMIT_S = 0.005
_QUOTA_MB = 4096


class Setting(msgspec.Struct, frozen=True, eq=False):
    """What all modes are given.

    Attributes:
        bundle: The base.
        bundle_path: Folder or zip file it was read from.
        choice: How the model is run.
        rows: What they are shown.
        recording: The same as an archive, see `Rows.save`.
        folder: For what a mode keeps; each has one of its own in it.
        kills: How often a process is killed.
        timing: How long rows on a grid are waited for; None as usual.
        dice: Decides where frames end, and where processes and snapshots are cut.
    """

    bundle: Bundle
    bundle_path: Path
    choice: Choice
    rows: Rows
    recording: Path
    folder: Path
    kills: int
    timing: Timing | None
    dice: np.random.Generator

    @property
    def labels(self) -> int:
        """Answers of a window."""
        return len(self.bundle.spec.labels)


def edge(setting: Setting) -> tuple[Answers, str]:
    """Run a device without a broker, kill it, and read what waits in its outbox."""
    folder = setting.folder / "edge"
    config = folder / "device.yaml"
    folder.mkdir()
    config.write_text(dump_yaml(_device(setting, folder)))
    killed = run_killed(
        ["run", "--no-supervisor", "--drain-s", "0", str(config)],
        folder / "state" / "outbox.db",
        _targets(setting),
    )
    estimates, decisions = _waiting(folder / "state" / "outbox.db")
    answers = Answers.of_tables(estimates, decisions, setting.labels)
    return answers, f"a device's process, killed {killed} times; rows of its outbox"


def stream(setting: Setting) -> tuple[Answers, str]:
    """Stream into a file, in other frames, killed and resumed."""
    folder = setting.folder / "stream"
    folder.mkdir()
    block = int(setting.dice.integers(1, _LONGEST_FRAME))
    source = f"npz:path={setting.recording},array={SAMPLES},block={block},time={_TIME_WORDS}"
    words = ["stream", str(setting.bundle_path), "--source", source]
    words += ["--sink", f"jsonl:path={folder / 'out.jsonl'}", "--state", str(folder / "state")]
    words += ["--snapshot-s", str(_COMMIT_S), *_choice_words(setting)]
    killed = run_killed(words, folder / "state" / "outbox.db", _targets(setting))
    with (folder / "out.jsonl").open("rb") as lines:
        answers = Answers.of_lines(lines, setting.labels)
    return answers, f"frames of {block} rows, killed {killed} times; lines of a file"


def realtime(setting: Setting) -> tuple[Answers, str]:
    """Ask a server, one request for each frame of a sequence; binary tensors over HTTP."""
    spec, answers = setting.bundle.spec, []
    bounds = _bounds(setting, set())
    with served(setting.bundle_path, _choice_words(setting)) as port, Client(port) as client:
        for first, last in itertools.pairwise(bounds.tolist()):
            frame = setting.rows.frame(first, last)
            inputs = {"samples": frame.samples, "time_ns": frame.time_ns}
            asked = {"sequence_id": 1, "decisions": True}
            asked["sequence_start"] = first == 0
            asked["sequence_end"] = last == len(setting.rows)
            answers.append(client.infer(spec.name, inputs, asked))
    count = len(bounds) - 1
    return Answers.of_tensors(answers, setting.labels), f"{count} requests over HTTP, one sequence"


def batch(setting: Setting) -> tuple[Answers, str]:
    """Score the archive as a whole into a file."""
    output = setting.folder / "batch.csv"
    has_decisions = bool(setting.bundle.spec.limits)
    job = BatchJob(
        input=setting.recording,
        output=output,
        array=SAMPLES,
        time=TIMES,
        time_format="unix_ns",
        has_decisions=has_decisions,
        timing=setting.timing,
        choice=with_proven_block(setting.bundle, setting.choice, SystemClock()),
    )
    report = run_batch(job, setting.bundle)
    answers = _scored(output, setting.labels, has_decisions=has_decisions)
    return answers, f"blocks of {report.block} windows; lines of a file"


def hybrid(setting: Setting) -> tuple[Answers, str]:
    """Push through a pipeline with a prior that says nothing, restored again and again."""
    prior = PriorLayer((0.0,) * setting.labels, (0.0,) * setting.labels)
    layer = Layer(
        body=prior,
        requires=setting.bundle.digest,
        seq=1,
        made_ns=int(setting.rows.time_ns.min()),
        half_life_s=3600.0,
    )
    restored = 0

    def pushed() -> Iterator[Output]:
        nonlocal restored
        pipeline = _opened(setting, layer)
        cuts = set(setting.dice.integers(0, len(setting.rows), setting.kills).tolist())
        for frame in setting.rows.frames(_bounds(setting, cuts)):
            if frame.index in cuts:
                snapshot, pipeline = pipeline.snapshot(), _opened(setting, layer)
                pipeline.restore(snapshot)
                restored += 1
            yield pipeline.push(frame)
        if isinstance(pipeline, TimedPipeline):
            yield pipeline.finish()

    answers = Answers.of_outputs(pushed(), setting.labels)
    return answers, f"a neutral prior; random frames, {restored} times restored from a snapshot"


# --- what they share ---------------------------------------------------------------

_TIME = {"column": TIMES, "format": "unix_ns"}
_TIME_WORDS = f"{{column: {TIMES}, format: unix_ns}}"


def _device(setting: Setting, folder: Path) -> dict[str, Any]:
    choice = setting.choice
    model = {"backend": choice.backend, "threads": choice.threads}
    source = {"kind": "npz", "path": str(setting.recording), "array": SAMPLES, "time": _TIME}
    return {
        "device": "parity",
        "state": str(folder / "state"),
        "outbox": {"commit_s": _COMMIT_S, "quota_mb": _QUOTA_MB},
        "streams": {
            "main": {
                "source": {**source, "block": int(setting.dice.integers(1, _LONGEST_FRAME))},
                "model": {"bundle": str(setting.bundle_path.absolute())}
                | {key: value for key, value in model.items() if value is not None},
                "upload": "features",
                **({} if setting.timing is None else {"time": asdict(setting.timing)}),
            }
        },
        # Nobody listens there: what the device makes stays in its outbox.
        "sync": _NOBODY,
    }


def _choice_words(setting: Setting) -> list[str]:
    words, choice = [], setting.choice
    if setting.timing is not None:
        told = {k: msgspec.json.encode(v).decode() for k, v in asdict(setting.timing).items()}
        words += ["--time", ",".join(f"{key}={value}" for key, value in told.items())]
    if choice.backend is not None:
        words += ["--backend", choice.backend]
    if choice.threads is not None:
        words += ["--threads", str(choice.threads)]
    return words


def _targets(setting: Setting) -> list[int]:
    return sorted(setting.dice.integers(1, max(2, len(setting.rows)), setting.kills).tolist())


def _waiting(path: Path) -> tuple[list[Any], list[Any]]:
    outbox = Outbox.open(
        path, epoch=1 << 40, incarnation=1, config=OutboxConfig(), clock=SystemClock()
    )
    with closing(outbox):
        blocks = outbox.pending(limit_bytes=1 << 40)
        while more := outbox.pending(blocks[-1].id, limit_bytes=1 << 40) if blocks else []:
            blocks += more
    tables: dict[str, list[Any]] = {"estimate": [], "decision": [], "gap": []}
    for block in blocks:
        if block.kind != "gap":
            tables[block.kind].append(decode_table(block.body))
    return tables["estimate"], tables["decision"]


def _scored(path: Path, labels: int, *, has_decisions: bool) -> Answers:
    rows = _cells(path)
    # Behind index, start_ns and end_ns; an empty cell is a value that is not a number.
    values = [[float(cell or "nan") for cell in row[3 : 3 + labels]] for row in rows]
    decided = _cells(path.with_suffix(".decisions.csv")) if has_decisions else []
    return Answers(
        np.array([row[0] for row in rows], np.int64),
        np.array(values, np.float64).reshape(-1, labels),
        tuple(_decided(row) for row in decided),
    )


def _decided(row: list[str]) -> tuple[int, int, str, str, float]:
    index, time_ns, _, label, edge, value = row[:6]
    return int(index), int(time_ns), label, edge, float(value)


def _cells(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def _opened(setting: Setting, layer: Layer) -> AnyPipeline:
    return open_pipeline(setting.bundle, setting.choice, layers=[layer], timing=setting.timing)


def _bounds(setting: Setting, cuts: set[int]) -> np.ndarray:
    """Return where frames begin: at random places, and at every cut."""
    count = len(setting.rows)
    steps = setting.dice.integers(1, _LONGEST_FRAME, count)
    inner = np.cumsum(steps)
    inside = set(inner[inner < count].tolist()) | {cut for cut in cuts if 0 < cut < count}
    return np.array(sorted({0, count} | inside))
