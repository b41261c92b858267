"""Edge mode on samples that come late, twice, wild or not at all."""

from __future__ import annotations

import http.server
import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_cloud.revisions import current_rows
from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import load_bundle, save_bundle
from edge_runtime.cli import main
from edge_runtime.clock import SystemClock
from edge_runtime.config import load_device
from edge_runtime.config.check import check_device
from edge_runtime.errors import ConfigError
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.modes.idling import Idling
from edge_runtime.spec import GridSpec, WindowSpec
from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.outbox import Outbox
from edge_runtime.testing import FakeClock
from edge_runtime.types import Frame, Table

from .conftest import LENGTH, ROWS, recording  # isort: skip

TIME = "time: {allowed_lateness_s: 1000, revise_s: 20, confirm_rows: 1, clock_back_s: null}"
DEAD_BROKER = "sync: {host: 127.0.0.1, port: 9}"
TUMBLING = WindowSpec(LENGTH, LENGTH, kind="tumbling")


@pytest.fixture
def grid_bundle(bundle: Path) -> Path:
    """The same model, on a grid of one slot a second."""
    loaded = load_bundle(bundle)
    stream = msgspec.structs.replace(loaded.spec.stream, grid=GridSpec())
    spec = msgspec.structs.replace(loaded.spec, stream=stream, window=TUMBLING)
    files = {name: loaded.files[name] for name in ("model.npz", "golden.npz")}
    save_bundle(bundle, spec, files)
    return bundle


@pytest.fixture
def late_device(device_yaml: Callable[..., Path], grid_bundle: Path) -> Callable[..., Path]:
    """Write a device on the recording with its rows out of order; one in seven by up to 90 s."""
    assert grid_bundle.is_dir()

    def write(time: str = TIME, *, extra: str = DEAD_BROKER) -> Path:
        rows = [f"{i},{a},{b}" for i, (a, b) in enumerate(recording().tolist())]
        path = device_yaml(extra, rows=[rows[i] for i in _order()])
        text = path.read_text().replace("    upload: windows", f"    upload: windows\n    {time}")
        path.write_text(text)
        return path

    return write


def _order() -> np.ndarray:
    dice = np.random.default_rng(5)
    late = np.where(dice.random(ROWS) < 1 / 7, dice.integers(1, 90, ROWS), 0)
    return np.argsort(np.arange(ROWS) + late, kind="stable")


def _stored(path: Path, kind: str) -> Table:
    """Everything in the outbox that stands, as a cloud would read it."""
    config = load_device(path)
    outbox = Outbox.open(
        config.state / "outbox.db",
        epoch=10**6,
        incarnation=1,
        config=config.outbox,
        clock=SystemClock(),
    )
    blocks = outbox.pending(limit_bytes=10**9)
    outbox.close()
    tables = [decode_table(block.body).columns for block in blocks if block.kind == kind]
    names = set.union(*(set(table) for table in tables))
    columns = {name: np.concatenate([_column(table, name) for table in tables]) for name in names}
    count = len(columns["index"])
    columns |= {name: np.zeros(count, np.int64) for name in ("epoch", "incarnation")}
    columns |= {"device": np.full(count, "bench-1"), "seq": np.arange(count)}
    return current_rows(Table(columns))


def _column(table: dict[str, np.ndarray], name: str) -> np.ndarray:
    return table.get(name, np.zeros(len(table["index"]), np.bool_))


def _expected(bundle: Path) -> dict[str, object]:
    pipeline = open_pipeline(load_bundle(bundle), upload="windows")
    times = np.arange(ROWS, dtype=np.int64) * 10**9
    output = pipeline.run_many([Frame("main", 0, times, recording())])
    return {
        "index": output.estimates.index.tolist(),
        "score": output.estimates.score.tobytes(),
        "inputs": output.estimates.inputs.tobytes(),
        "decisions": [(d.index, d.edge, d.value) for d in output.decisions],
    }


def _found(path: Path) -> dict[str, object]:
    estimates, decisions = _stored(path, "estimate").columns, _stored(path, "decision").columns
    order = np.argsort(estimates["index"], kind="stable")
    later = np.argsort(decisions["index"], kind="stable")
    rows = (decisions[name][later].tolist() for name in ("index", "edge", "value"))
    return {
        "index": estimates["index"][order].tolist(),
        "score": estimates["score"][order].tobytes(),
        "inputs": estimates["inputs"][order].tobytes(),
        "decisions": list(zip(*rows, strict=True)),
    }


def test_what_stands_in_the_outbox_is_what_the_rows_in_order_give(
    late_device: Callable[..., Path], grid_bundle: Path
) -> None:
    """Revisions and retractions included, nothing is missing and nothing is void."""
    path = late_device()
    device = EdgeDevice(load_device(path))

    device.run(drain_s=0.0)

    discarded = device.status().streams["main"].discarded
    assert (discarded["late"], discarded["future"]) == (0, 0)
    assert _found(path) == _expected(grid_bundle)


def _run_killed(path: Path, times: int) -> int:
    """Run a device that is killed again and again, then to its end; return how often it was."""
    path.write_text(path.read_text().replace("block: 7", "block: 7\n      speed: 300"))
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edge_runtime.config import load_device\n"
        "from edge_runtime.modes.edge import EdgeDevice\n"
        "def tell(name, facts):\n"
        "    if name == 'rows.committed': print(facts['position'], flush=True)\n"
        "EdgeDevice(load_device(Path(sys.argv[1])), on_event=tell).run(drain_s=0.0)\n"
    )
    dice, killed = random.Random(3), 0
    for _ in range(times):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(dice.randint(1, 25)):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        child.stdout.close()
    EdgeDevice(load_device(path)).run(drain_s=0.0)
    return killed


@pytest.mark.slow
def test_killed_anywhere_what_stands_is_the_same(
    late_device: Callable[..., Path], grid_bundle: Path
) -> None:
    """Samples that wait, checkpoints and told answers are part of the one transaction."""
    path = late_device()

    killed = _run_killed(path, 12)

    assert killed > 2
    assert _found(path) == _expected(grid_bundle)


def test_a_recording_of_late_samples_is_replayed_across_kills(
    late_device: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every start goes on with what waited in the one before, and so does its replay."""
    path = late_device(extra="record: {}")

    killed = _run_killed(path, 4)

    capsys.readouterr()
    code = main(["replay", str(load_device(path).recording), "--json"])
    report = json.loads(capsys.readouterr().out)["main"]
    assert killed > 0
    assert code == 0 and report["is_equal"]
    assert report["comparison"]["windows"] >= ROWS // LENGTH
    assert report["comparison"]["absent"] == 0


def test_a_replay_writes_the_revisions_that_the_device_wrote(
    late_device: Callable[..., Path],
) -> None:
    """Revisions and retractions included, and the name of each: the same lines."""
    path = late_device(extra="record: {}\nsinks: [{kind: jsonl, path: out.jsonl}]")
    EdgeDevice(load_device(path)).run(drain_s=0.0)
    again = path.parent / "again.jsonl"

    code = main(["replay", str(load_device(path).recording), "-o", str(again)])

    lines = again.read_bytes()
    assert code == 0
    assert lines == (path.parent / "out.jsonl").read_bytes()
    assert b'"revision":1' in lines


def test_samples_set_aside_reach_a_sink_that_wants_them(late_device: Callable[..., Path]) -> None:
    """Each is a line with its reason, its time and its values; all of them are counted."""
    path = late_device("time: {confirm_rows: 1, clock_back_s: null}", extra=_JSONL)
    device = EdgeDevice(load_device(path))

    device.run(drain_s=0.0)

    lines = [json.loads(line) for line in (path.parent / "out.jsonl").read_text().splitlines()]
    aside = [line for line in lines if line["kind"] == "sample"]
    late = device.status().streams["main"].discarded["late"]
    assert len(aside) == late > 20
    assert aside[0].keys() == {"kind", "device", "stream", "reason", "time_ns", "values"}


class _Hook(http.server.BaseHTTPRequestHandler):
    """Keeps the rows that a webhook brings in the server's ``rows``."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.rows += json.loads(body)["rows"]  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_samples_set_aside_reach_a_sink_that_is_told_at_once(
    late_device: Callable[..., Path],
) -> None:
    """Also where a frame gave nothing but them."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Hook) as server:
        server.rows = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        hook = f"sinks: [{{kind: webhook, url: '{url}', aside: true, every_s: 0}}]"
        path = late_device("time: {confirm_rows: 1, clock_back_s: null}", extra=hook)
        device = EdgeDevice(load_device(path))

        device.run(drain_s=0.0)

        server.shutdown()
        rows = server.rows  # type: ignore[attr-defined]
    aside = [row for row in rows if row["kind"] == "sample"]
    assert len(aside) == device.status().streams["main"].discarded["late"] > 20


_JSONL = "sinks: [{kind: jsonl, path: out.jsonl, estimates: false, aside: true}]"


def test_a_stream_without_a_grid_takes_no_time_options(
    device_yaml: Callable[..., Path],
) -> None:
    """The check says where the key stands and what it needs."""
    path = device_yaml()
    path.write_text(path.read_text().replace("upload: windows", "upload: windows\n    time: {}"))

    with pytest.raises(ConfigError, match="has no grid"):
        check_device(load_device(path))


def test_a_recording_of_another_rate_fits_a_grid(late_device: Callable[..., Path]) -> None:
    """Its samples are put on the slots of the model, whatever their rate."""
    path = late_device()
    path.write_text(path.read_text().replace("block: 7", "block: 7\n      rate_hz: 4"))

    graph = check_device(load_device(path))

    assert graph.streams[0].rate_hz == 1.0


class _Serving:
    idle_s = 10.0


class _Stream:
    serving = _Serving()


def test_a_silent_stream_is_told_so_again_and_again() -> None:
    """First after its bound, then once in each, with the time since its last frame."""
    clock = FakeClock()
    idling = Idling({"main": _Stream()}, clock)  # type: ignore[dict-item]
    idling.note("main")
    told = []

    for seconds in (9.0, 1.0, 5.0, 5.0):
        clock.advance(seconds)
        told += list(idling.due())

    assert told == [("main", 10.0), ("main", 20.0)]


def test_lateness_that_would_fill_the_memory_is_refused(late_device: Callable[..., Path]) -> None:
    """The message says how long it may be at this rate."""
    path = late_device("time: {allowed_lateness_s: 9000000}")

    with pytest.raises(ConfigError, match="allowed_lateness_s"):
        check_device(load_device(path))


def test_check_prints_the_grid_and_how_long_it_waits(
    late_device: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads it knows what becomes of late samples."""
    path = late_device("time: {delay_s: 2, allowed_lateness_s: 60}")

    assert main(["check", str(path)]) == 0

    printed = capsys.readouterr().out
    assert "grid     nearest, skip gaps; waits 2 s, revises 60 s" in printed
    assert f"window   tumbling, {LENGTH} samples every {LENGTH}" in printed
