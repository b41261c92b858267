"""What waits for a commit, and what the storage writer lets out of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.config import OutboxConfig
from edge_runtime.modes.serving import Commit, Serving
from edge_runtime.modes.showing import Files
from edge_runtime.modes.writer import Writer, batches_of
from edge_runtime.sync.outbox import Outbox
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Decision, Estimates, Frame, Output, Upload
from edge_simulator.disk import Disk, can_fill


class Answers:
    """A pipeline that gives ready outputs, one for each frame."""

    stream, base = "main", "base"

    def __init__(self, *outputs: Output) -> None:
        self._outputs = iter(outputs)

    def push(self, _: Frame) -> Output:
        return next(self._outputs)

    def snapshot(self) -> bytes:
        return b"snapshot"


def commit_of(*outputs: Output, **options: bool) -> Commit:
    serving = Serving(Answers(*outputs), position=0, commit_s=1.0, clock=FakeClock(), **options)
    for i in range(len(outputs)):
        serving.push(Frame("main", i, np.array([i]), np.zeros((1, 1))))
    return serving.take()


def output(index: int, *, labels: int = 1, effective_id: str = "one") -> Output:
    """One window, whose values tell its index, and a decision on it."""
    at = np.array([index])
    values = np.full((1, labels), index / 2)
    estimates = Estimates(at, at * 10, at * 10 + 9, values, values, None, effective_id)
    decision = Decision("main", index, index * 10 + 9, "toy", "a", "start", 0.5, effective_id)
    return Output("main", estimates, (decision,))


def test_the_windows_of_a_commit_are_one_block_of_rows() -> None:
    """They stay in order, and so do their decisions in a stream of their own."""
    estimates, decisions = batches_of(commit_of(output(3), output(5), output(8)), "features")

    assert (estimates.stream, estimates.kind) == ("main", "estimate")
    assert estimates.table.columns["index"].tolist() == [3, 5, 8]
    assert estimates.table.columns["score"].tolist() == [[1.5], [2.5], [4.0]]
    assert estimates.table.columns["effective_id"].tolist() == ["one"] * 3
    assert (decisions.stream, decisions.kind) == ("main-decisions", "decision")
    assert decisions.table.columns["index"].tolist() == [3, 5, 8]


def test_a_base_that_answers_in_another_shape_begins_a_block() -> None:
    """A commit may hold windows of the base before and of the one that replaced it."""
    commit = commit_of(output(1), output(2), output(3, labels=2, effective_id="two"))

    before, after, _ = batches_of(commit, "features")

    assert before.table.columns["score"].shape == (2, 1)
    assert after.table.columns["score"].shape == (1, 2)
    assert after.table.columns["effective_id"].tolist() == ["two"]


def due_after(labels: int, **options: Any) -> int:
    """Return how many windows make a commit due while no time passes."""
    outputs = (msgspec.structs.replace(output(i, labels=labels), decisions=()) for i in range(9999))
    serving = Serving(Answers(*outputs), position=0, commit_s=1.0, clock=FakeClock(), **options)
    while not serving.is_due:
        serving.push(Frame("main", serving.samples, np.array([0]), np.zeros((1, 1))))
    return serving.samples


def test_a_commit_is_due_by_the_memory_it_takes() -> None:
    """A quarter MiB: many windows with one value, few with many, fewer with objects or frames."""
    assert due_after(labels=1) == -(-(1 << 18) // (3 * 8 + 2 * 8))
    assert due_after(labels=512) == -(-(1 << 18) // (3 * 8 + 2 * 8 * 512))
    assert 200 < due_after(labels=1, keeps_outputs=True) < 256
    assert due_after(labels=1, stand=lambda *_: None) == 199


def test_a_commit_is_due_by_time_however_little_waits_for_it() -> None:
    """One window is enough; before any there is nothing to commit."""
    clock = FakeClock()
    serving = Serving(Answers(output(1)), position=0, commit_s=1.0, clock=clock)
    before = serving.due_ns
    serving.push(Frame("main", 0, np.array([0]), np.zeros((1, 1))))

    was_due = serving.is_due
    clock.advance(1.0)

    assert (before, was_due, serving.is_due) == (None, False, True)


@pytest.mark.parametrize(("upload", "kinds"), [("none", []), ("decisions", ["decision"])])
def test_privacy_holds_back_what_it_names(upload: Upload, kinds: list[str]) -> None:
    """Nothing, or decisions alone."""
    assert [batch.kind for batch in batches_of(commit_of(output(1)), upload)] == kinds


def test_outputs_are_kept_for_sinks_alone() -> None:
    """As they came; where nobody takes them they do not wait in memory."""
    outputs = [output(1), output(2)]

    assert commit_of(*outputs).outputs == ()
    assert commit_of(*outputs, keeps_outputs=True).outputs == tuple(outputs)


def test_a_position_alone_waits_longer_than_results() -> None:
    """Where nothing is kept of an answer, the disk is left in peace; a kept one is due soon."""
    clock = FakeClock()

    def due_s(upload: Upload, commit_s: float) -> float:
        serving = Serving(
            Answers(output(1)), position=0, commit_s=commit_s, clock=clock, upload=upload
        )
        serving.push(Frame("main", 0, np.array([0]), np.zeros((1, 1))))
        assert serving.due_ns is not None
        return (serving.due_ns - clock.monotonic_ns()) / 1e9

    assert due_s("decisions", 0.25) == 0.25
    assert due_s("none", 0.25) == 10.0
    assert due_s("windows", 0.0) == 0.0


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    """An empty outbox."""
    opened = Outbox.open(
        tmp_path / "outbox.db",
        epoch=1,
        incarnation=7,
        config=OutboxConfig(quota_mb=8, ballast_mb=0),
        clock=FakeClock(),
    )
    yield opened
    opened.close()


def writer_of(outbox: Outbox, durable: list[Commit]) -> Writer:
    return Writer(
        outbox, Files({}, is_durable=True), {"main": "windows"}, durable.append, lambda: False
    )


def test_commits_that_wait_already_become_durable_together(outbox: Outbox) -> None:
    """They are told in order, none before all are safe, and the last says where to go on."""
    commits = [commit_of(output(index)) for index in range(5)]
    seen: list[int] = []
    durable: list[Commit] = []
    writer = Writer(
        outbox,
        Files({}, is_durable=True),
        {"main": "windows"},
        lambda commit: (durable.append(commit), seen.append(outbox.rows)),
        lambda: False,
    )
    for commit in commits:
        writer.put(commit, lambda: None)
    writer.finish()

    writer.run()

    assert durable == commits
    assert seen == [10] * 5


@pytest.mark.slow
def test_rows_for_which_no_room_is_found_become_a_gap(outbox: Outbox, tmp_path: Path) -> None:
    """After some tries the device goes on: the disk of somebody else must not stop it."""
    if not can_fill():
        pytest.skip("SQLite's system calls cannot be replaced here")
    disk = Disk(tmp_path)
    durable: list[Commit] = []
    writer = writer_of(outbox, durable)
    writer.put(commit_of(*(output(index, labels=64) for index in range(1000))), lambda: None)
    disk.set_full(True)
    try:
        running = threading.Thread(target=writer.run)
        running.start()
        while not durable and running.is_alive():
            running.join(0.1)
    finally:
        disk.set_full(False)
    writer.finish()
    running.join(60)

    assert len(durable) == 1
    lost = sum(block.n for block in outbox.pending() if block.kind == "gap")
    assert 0 < lost == outbox.stats().discarded["disk_full"]
    assert lost + outbox.rows == 2000
