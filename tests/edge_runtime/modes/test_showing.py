"""Results reach the sinks: at once, or with their commit; a failing sink disturbs nobody."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.config import load_device
from edge_runtime.errors import Rejected, Transient
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.modes.showing import Files, Shower
from edge_runtime.sinks.terminal import TerminalSink
from edge_runtime.types import Estimates, Output

from .conftest import LENGTH, ROWS  # isort: skip

PATIENCE_S = 90.0


class Ledger:
    """A resumable sink in memory, whose mark is the number of blocks it has."""

    def __init__(self) -> None:
        self.blocks: list[Output] = []
        self.fails_with: Exception | None = None

    def open(self, device: str) -> None: ...

    def write(self, output: Output) -> None:
        if self.fails_with:
            raise self.fails_with
        self.blocks.append(output)

    def close(self) -> None: ...

    def mark(self, *, is_durable: bool) -> bytes:
        if self.fails_with:
            raise self.fails_with
        return f"{len(self.blocks)} {is_durable}".encode()

    def resume(self, mark: bytes) -> None:
        del self.blocks[int(mark.split()[0]) :]


def output_of(index: int) -> Output:
    at, value = np.array([index]), np.zeros((1, 1))
    return Output("main", Estimates(at, at, at, value, value, None, "0" * 16), ())


def test_files_go_back_to_their_own_mark() -> None:
    """What a commit does not know of is taken back, from that file alone."""
    one, other = Ledger(), Ledger()
    files = Files({"0": one, "1": other}, is_durable=True)
    marks = files.write([output_of(1), output_of(2)])
    files.write([output_of(3)])

    files.resume({"0": marks["0"]})

    assert marks == {"0": b"2 True", "1": b"2 True"}
    assert (len(one.blocks), len(other.blocks)) == (2, 3)


@pytest.mark.parametrize("error", [Transient("full"), Rejected("gone")])
def test_a_file_that_fails_keeps_its_old_mark(error: Exception) -> None:
    """Its blocks are counted as lost, and the other file gets them."""
    one, other = Ledger(), Ledger()
    one.fails_with = error
    files = Files({"0": one, "1": other}, is_durable=False)

    marks = files.write([output_of(1), output_of(2)])

    assert marks == {"1": b"2 False"}
    assert files.blocks_lost == 2


def test_a_slow_sink_holds_up_only_when_its_queue_is_full() -> None:
    """Nothing is lost, and whoever has to wait is told so."""
    sink, entered, let_go = Ledger(), threading.Event(), threading.Event()
    waits = threading.Semaphore(0)

    class Slow(Ledger):
        def write(self, output: Output) -> None:
            entered.set()
            let_go.wait(PATIENCE_S)
            sink.write(output)

    shower = Shower([Slow()], waits.release)
    showing = threading.Thread(target=shower.run)
    giving = threading.Thread(target=lambda: [shower.put(output_of(i)) for i in range(300)])
    showing.start()
    giving.start()

    assert entered.wait(PATIENCE_S)
    assert waits.acquire(timeout=PATIENCE_S)
    assert giving.is_alive()
    let_go.set()
    giving.join(PATIENCE_S)
    shower.finish()
    showing.join(PATIENCE_S)

    assert [int(output.estimates.index[-1]) for output in sink.blocks] == list(range(300))
    assert shower.blocks_lost == 0


_DIES = """
import os, signal, sys
from pathlib import Path
from edge_runtime.config import load_device
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.sync.outbox import Outbox
Outbox.commit_all = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
EdgeDevice(load_device(Path(sys.argv[1]))).run(drain_s=0.0)
"""


def test_killed_before_the_very_first_commit_no_line_is_there_twice(
    device_yaml: Callable[..., Path],
) -> None:
    """Lines were written, and nothing but the start knows where the file began."""
    path = device_yaml("sinks: [{kind: jsonl, path: out.jsonl}]")
    out = path.parent / "out.jsonl"
    out.write_text("of an earlier year\n")

    killed = subprocess.run([sys.executable, "-c", _DIES, str(path)], check=False).returncode
    written = out.read_text().count("\n")
    EdgeDevice(load_device(path)).run(drain_s=0.0)

    first, *lines = out.read_text().splitlines()
    index = [row["index"] for row in map(json.loads, lines) if row["kind"] == "estimate"]
    assert killed == -signal.SIGKILL
    assert written > 1
    assert first == "of an earlier year"
    assert index == list(range(LENGTH - 1, ROWS))


def test_a_decision_is_shown_before_its_commit_is_due(
    device_yaml: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches or switches something does not wait for the disk."""
    seen = threading.Event()
    monkeypatch.setattr(TerminalSink, "write", lambda *_: seen.set())
    path = device_yaml("sinks: [{kind: terminal}]")
    text = path.read_text().replace("block: 7", "block: 7\n      speed: 5")
    path.write_text(text.replace("commit_s: 0.001", "commit_s: 60"))
    committed: list[str] = []
    device = EdgeDevice(
        load_device(path),
        on_event=lambda name, _: committed.append(name) if name == "rows.committed" else None,
    )
    running = threading.Thread(target=device.run, kwargs={"drain_s": 0.0})

    running.start()
    was_seen = seen.wait(PATIENCE_S)
    before = list(committed)
    device.stop()
    running.join(PATIENCE_S)

    assert was_seen
    assert before == []
    assert committed
