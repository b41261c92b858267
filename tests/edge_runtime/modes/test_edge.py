"""Edge mode: what a device does with a recording, a broker, a crash and a Ctrl-C."""

from __future__ import annotations

import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.asking import ask
from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import load_bundle
from edge_runtime.clock import SystemClock
from edge_runtime.config import load_device
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.messages import Life, decode
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.topics import Topics
from edge_runtime.testing.transport import MemoryBroker
from edge_runtime.types import Frame, Output

from .conftest import HOP, LENGTH, ROWS, recording  # isort: skip

DEAD_BROKER = "sync: {host: 127.0.0.1, port: 9}"
WINDOWS = (ROWS - LENGTH) // HOP + 1


def _run(path: Path, **options: object) -> EdgeDevice:
    device = EdgeDevice(load_device(path), **options)  # type: ignore[arg-type]
    device.run(drain_s=0.0)
    return device


def _kept(path: Path) -> dict[str, np.ndarray]:
    """Return the estimates in the outbox, in order."""
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
    tables = [decode_table(block.body).columns for block in blocks if block.kind == "estimate"]
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _expected(bundle: Path) -> Output:
    loaded = load_bundle(bundle)
    pipeline = open_pipeline(loaded, upload="windows")
    times = np.arange(ROWS, dtype=np.int64) * 10**9
    return pipeline.run_many([Frame("main", 0, times, recording())])


def test_offline_is_a_normal_state(device_yaml: Callable[..., Path], bundle: Path) -> None:
    """Without a broker every window is decided and kept, byte-equal to a vectorised run."""
    path = device_yaml(DEAD_BROKER)

    device = _run(path)

    kept, expected = _kept(path), _expected(bundle).estimates
    assert kept["index"].tolist() == list(range(LENGTH - 1, ROWS))
    assert kept["score"].tobytes() == expected.score.tobytes()
    assert kept["inputs"].tobytes() == expected.inputs.tobytes()
    assert device.status().backlog_rows >= WINDOWS


def test_a_second_run_makes_nothing_twice(device_yaml: Callable[..., Path]) -> None:
    """A recording that was read to its end yields nothing when the device starts again."""
    path = device_yaml(DEAD_BROKER)
    _run(path)

    again = _run(path)

    assert again.status().streams["main"].estimates == 0
    assert len(_kept(path)["index"]) == WINDOWS


def test_killed_anywhere_nothing_is_lost_or_doubled(
    device_yaml: Callable[..., Path], bundle: Path
) -> None:
    """SIGKILL at random instants leaves every window once in the outbox, and once in a file."""
    path = device_yaml(f"{DEAD_BROKER}\nsinks: [{{kind: jsonl, path: out.jsonl}}]")
    path.write_text(path.read_text().replace("block: 7", "block: 7\n      speed: 400"))
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edge_runtime.config import load_device\n"
        "from edge_runtime.modes.edge import EdgeDevice\n"
        "def tell(name, facts):\n"
        "    if name == 'rows.committed': print(facts['position'], flush=True)\n"
        "EdgeDevice(load_device(Path(sys.argv[1])), on_event=tell).run(drain_s=0.0)\n"
    )
    dice = random.Random(3)
    killed = 0

    for _ in range(40):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(dice.randint(1, 12)):
            if not child.stdout.readline():
                break
        child.kill()
        child.wait()
        child.stdout.close()
        killed += child.returncode == -signal.SIGKILL
        if child.returncode == 0:
            break
    _run(path)

    kept, expected = _kept(path), _expected(bundle)
    assert killed >= 5
    assert kept["index"].tolist() == list(range(LENGTH - 1, ROWS))
    assert kept["value"].tobytes() == expected.estimates.value.tobytes()
    lines = [json.loads(line) for line in (path.parent / "out.jsonl").read_text().splitlines()]
    shown = [line["value"] for line in lines if line["kind"] == "estimate"]
    assert shown == expected.estimates.value.tolist()
    assert len(lines) - len(shown) == len(expected.decisions)


def test_ctrl_c_flushes_and_ends_cleanly(device_yaml: Callable[..., Path]) -> None:
    """SIGINT ends `edge-runtime run` with code 0, and all that was read is committed."""
    path = device_yaml(DEAD_BROKER)
    path.write_text(path.read_text().replace("block: 7", "block: 7\n      speed: 50"))
    child = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.cli", "run", str(path), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    state = load_device(path).state
    _wait_for(lambda: _has_blocks(state / "outbox.db"))

    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=90)

    position = json.loads(out.splitlines()[-1])["streams"]["main"]["position"]
    assert child.returncode == 0
    assert 0 < position < ROWS
    assert _kept(path)["index"].tolist() == list(range(LENGTH - 1, position))


def test_bad_rows_are_counted_and_the_rest_goes_on(device_yaml: Callable[..., Path]) -> None:
    """NaN, a gap and rows out of order are discards with a reason, never silent."""
    rows = [f"{i},{a},{b}" for i, (a, b) in enumerate(recording().tolist())]
    rows[100] = "100,,1.0"
    rows[200], rows[201] = rows[201], rows[200]
    del rows[300:310]
    path = device_yaml(DEAD_BROKER, rows=rows)

    status = _run(path).status().streams["main"]

    assert status.discarded["not_finite"] == LENGTH
    assert status.discarded["out_of_order"] == 1
    assert status.estimates == len(_kept(path)["index"])
    assert status.position == len(rows)


def test_a_wrong_source_fails_the_start(device_yaml: Callable[..., Path]) -> None:
    """A missing file is an error that names it, and no thread is left behind."""
    path = device_yaml()
    (path.parent / "recording.csv").unlink()
    before = threading.active_count()

    with pytest.raises((SourceError, ConfigError), match=r"recording\.csv"):
        _run(path)

    assert threading.active_count() == before


def test_a_failing_sink_does_not_stop_the_device(
    device_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    """A sink that cannot write is counted; records and position are kept all the same."""
    path = device_yaml(f"{DEAD_BROKER}\nsinks: [{{kind: jsonl, path: /dev/full}}]")

    device = _run(path)

    assert len(_kept(path)["index"]) == WINDOWS
    assert device.status().counters["sink_blocks_lost"] > 0


def _has_blocks(path: Path) -> bool:
    """Look into a database that another process is writing."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return bool(connection.execute("SELECT count(*) FROM block").fetchone()[0])
    except sqlite3.OperationalError:
        return False


def _wait_for(condition: Callable[[], bool], limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.02)


def test_the_metrics_of_a_device_add_up(device_yaml: Callable[..., Path]) -> None:
    """Every sample, window and call of the model of a whole recording stands on the page."""
    path = device_yaml(f"{DEAD_BROKER}\nmetrics: {{port: 0}}")
    pages, ports = [], []

    def note(name: str, facts: Mapping[str, object]) -> None:
        if name == "metrics.served":
            ports.append(facts["port"])
        elif name == "rows.committed" and facts["position"] == ROWS:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/metrics") as page:
                pages.append(page.read().decode())

    _run(path, on_event=note)

    found = dict(re.findall(r'^(\w+)\{stream="main"\} (\d+)$', pages[-1], re.MULTILINE))
    assert int(found["samples_received_total"]) == ROWS
    assert int(found["windows_scored_total"]) == WINDOWS
    assert int(found["frames_received_total"]) == -(-ROWS // 7)
    assert 0 < int(found["push_seconds_count"]) <= int(found["frames_received_total"])
    assert int(re.search(r"^inference_seconds_count.* (\d+)$", pages[-1], re.M)[1]) > 0  # type: ignore[index]


def test_a_running_device_answers_what_it_is_asked(
    device_yaml: Callable[..., Path], bundle: Path
) -> None:
    """Over the link: its status, its outbox, and the log level; and it says what it runs."""
    bundle_labels = load_bundle(bundle).spec.labels
    broker = MemoryBroker()
    device = EdgeDevice(
        load_device(device_yaml(DEAD_BROKER)),
        connect=lambda _config, client, _clock: broker.transport(client),
    )
    running = threading.Thread(target=device.run, kwargs={"stays": True})
    running.start()
    topic = Topics().up("bench-1", "life")
    _wait_for(lambda: broker.retained(topic) is not None)

    answers = {
        name: ask(
            broker.transport("cloud-ask"),
            "bench-1",
            name,
            {},
            timeout_s=30.0,
            clock=SystemClock(),
        )
        for name in ("status", "outbox", "log-level")
    }
    device.stop()
    running.join()

    assert [answer and answer.state for answer in answers.values()] == ["done", "done", "refused"]
    assert answers["status"].result["device"] == "bench-1"  # type: ignore[union-attr]
    assert "rows" in answers["outbox"].result  # type: ignore[union-attr]
    life = decode(broker.retained(topic).payload, Life)  # type: ignore[union-attr]
    assert life.streams["main"].labels == bundle_labels


@pytest.mark.usefixtures("one_by_one")
def test_an_alarm_is_committed_at_once_while_its_neighbour_waits(
    device_yaml: Callable[..., Path],
) -> None:
    """``durable: full`` is a stream's: each of its answers is a commit, others are grouped."""
    path = device_yaml(DEAD_BROKER)
    head, main = path.read_text().split("  main:\n")
    body, tail = main.split("sync:")
    alarm = f"  alarm:\n{body}    outbox: {{durable: full}}\n"
    head = head.replace("commit_s: 0.001", "commit_s: 60")
    path.write_text(f"{head}  main:\n{body}{alarm}sync:{tail}")
    committed: dict[str, list[object]] = {"main": [], "alarm": []}

    def note(name: str, facts: Mapping[str, object]) -> None:
        if name == "rows.committed":
            committed[str(facts["stream"])].append(facts["position"])

    _run(path, on_event=note)

    # Frames of 7 rows; the first whole window needs 5.
    assert committed["alarm"] == [*range(7, ROWS, 7), ROWS]
    # 200 answers are enough for a commit, and the end is one.
    assert len(committed["main"]) <= WINDOWS // 200 + 1
