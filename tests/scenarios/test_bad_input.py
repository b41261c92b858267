"""Bad input met by a whole device and a whole cloud: told plainly, counted, nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.signing import SigningKey, sign_base, sign_layer
from edge_runtime.bundle import load_bundle
from edge_runtime.cli import main
from edge_runtime.spec import Layer, ResidualLayer
from edge_runtime.sync import outbox as outbox_module
from edge_runtime.update.slots import signed_path, write_signed

from .conftest import (  # isort: skip
    BENCH, DAY, DEVICE, FIRST_ROW, LENGTH, TURBINE, Bench, Gate, Loop, PortBroker,
    hour_ns, make_bundle, recorded_lines, recording, write_recording,
)  # fmt: skip

Run = Callable[..., tuple[int, str, str]]
MakeBench = Callable[..., Bench]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run ``edge-runtime`` here; gives exit code, standard output and standard error."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def _has_four_parts(message: str) -> bool:
    """Where and what; what was expected; on a line of its own, what to do."""
    head, _, remedy = message.partition("\n  ")
    is_expected_said = re.search(r"expected | needs |unknown key", head) is not None
    return ": " in head and is_expected_said and bool(remedy.strip())


# --- configuration and files ------------------------------------------------------------


def _is_input(path: Path) -> bool:
    return path.is_file() and "state" not in path.parts


def _rewrite(bench: Bench, old: str, new: str) -> None:
    assert old in bench.yaml.read_text()
    bench.yaml.write_text(bench.yaml.read_text().replace(old, new))


def _unknown_key(bench: Bench) -> None:
    _rewrite(bench, "upload:", "uplaod:")


def _wrong_type(bench: Bench) -> None:
    _rewrite(bench, "commit_s: 0.01", "commit_s: soon")


def _other_rate(bench: Bench) -> None:
    bench.declare(source=", rate_hz: 50")


def _other_channels(bench: Bench) -> None:
    bench.declare(source=", columns: {a: a, c: b}")


def _column_not_in_file(bench: Bench) -> None:
    bench.declare(source=", columns: {a: a, b: pressure}")


def _no_bundle(bench: Bench) -> None:
    _rewrite(bench, "bundle: sum-1", "bundle: sum-9")


def _no_recording(bench: Bench) -> None:
    (bench.folder / "recording.csv").unlink()


def _empty_recording(bench: Bench) -> None:
    (bench.folder / "recording.csv").write_bytes(b"")


def _binary_recording(bench: Bench) -> None:
    (bench.folder / "recording.csv").write_bytes(bytes(range(256)) * 8)


def _truncated_recording(bench: Bench) -> None:
    bench.declare()
    arrays = bench.folder / "recording.npz"
    np.savez(arrays, a=recording(64)[:, 0], b=recording(64)[:, 1], t=np.arange(64))
    arrays.write_bytes(arrays.read_bytes()[:-40])
    _rewrite(bench, "kind: csv, path: recording.csv", "kind: npz, path: recording.npz")


def _text_in_a_cell(bench: Bench) -> None:
    lines = recorded_lines(bench.rows)
    lines[7] = "7,warm,0.1"
    write_recording(bench.folder / "recording.csv", bench.rows, lines)


def _no_model(bench: Bench) -> None:
    (bench.folder / "sum-1/model.npz").unlink()


def _empty_model(bench: Bench) -> None:
    (bench.folder / "sum-1/model.npz").write_bytes(b"")


def _truncated_model(bench: Bench) -> None:
    model = bench.folder / "sum-1/model.npz"
    model.write_bytes(model.read_bytes()[:200])


def _picture_for_a_model(bench: Bench) -> None:
    (bench.folder / "sum-1/model.npz").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))


def _truncated_bundle(bench: Bench) -> None:
    archive = bench.folder / "sum-1.zip"
    packed = shutil.make_archive(str(bench.folder / "whole"), "zip", bench.folder / "sum-1")
    archive.write_bytes(Path(packed).read_bytes()[:300])
    _rewrite(bench, "bundle: sum-1", "bundle: sum-1.zip")


def _bundle_for_a_newer_runtime(bench: Bench) -> None:
    manifest = bench.folder / "sum-1/bundle.yaml"
    lines = [line for line in manifest.read_text().splitlines() if "requires_runtime" not in line]
    manifest.write_text("\n".join([*lines, "requires_runtime: '99.0'"]) + "\n")


def _no_release_key(bench: Bench) -> None:
    (bench.folder / "release.pub").unlink()


def _garbage_for_a_release_key(bench: Bench) -> None:
    (bench.folder / "release.pub").write_text("not a key\n")


@pytest.mark.parametrize(
    ("harm", "code", "says"),
    [
        (_unknown_key, 2, r"device\.yaml:\d+:\d+.*'?uplaod'?(.|\n)*upload"),
        (_wrong_type, 2, r"device\.yaml:\d+:\d+.*commit_s"),
        (_other_rate, 2, r"device\.yaml:\d+:\d+.*50.*needs 1 Hz"),
        (_other_channels, 2, r"channel"),
        (_column_not_in_file, 2, r"pressure"),
        (_no_bundle, 2, r"sum-9"),
        (_no_release_key, 2, r"release\.pub"),
        (_garbage_for_a_release_key, 2, r"release\.pub"),
        (_no_recording, 1, r"recording\.csv"),
        (_empty_recording, 1, r"recording\.csv"),
        (_binary_recording, 1, r"recording\.csv"),
        (_truncated_recording, 1, r"recording\.npz"),
        (_text_in_a_cell, 1, r"recording\.csv:9:\d+.*warm"),
        (_no_model, 1, r"model\.npz"),
        (_empty_model, 1, r"sum@1|sum-1"),
        (_truncated_model, 1, r"sum@1|sum-1"),
        (_picture_for_a_model, 1, r"sum@1|sum-1"),
        (_truncated_bundle, 1, r"sum-1\.zip"),
        (_bundle_for_a_newer_runtime, 1, r"sum-1.*needs edge-runtime 99\.0"),
    ],
)
def test_a_device_that_cannot_start_says_why_and_keeps_what_it_has(
    bench: Bench, run: Run, harm: Callable[[Bench], None], code: int, says: str
) -> None:
    """Each harm ends `run` with its code and four parts; kept rows stay and go out later."""
    assert run("run", bench.yaml, "--drain-s", "0")[0] == 0
    healthy = {path: path.read_bytes() for path in bench.folder.rglob("*") if _is_input(path)}
    harm(bench)

    ended, _, message = run("run", bench.yaml, "--drain-s", "0")

    assert ended == code, message
    assert re.search(says, message), message
    assert _has_four_parts(message), message
    for path, content in healthy.items():
        path.write_bytes(content)
    bench.start_cloud()
    bench.start_device()
    bench.wait_for("an empty outbox", lambda: bench.stored() == bench.windows)


# --- data -----------------------------------------------------------------------------


def test_bad_rows_are_counted_in_the_summary_and_the_rest_is_stored(bench: Bench, run: Run) -> None:
    """NaN, a gap and a swapped pair cost what they touch and no more, and are counted by name."""
    lines = recorded_lines(bench.rows)
    lines[100] = "100,,1.0"
    lines[200], lines[201] = lines[201], lines[200]
    del lines[3:10]
    write_recording(bench.folder / "recording.csv", bench.rows, lines)

    code, out, _ = run("run", bench.yaml, "--drain-s", "0")

    bench.start_cloud()
    device = bench.start_device()
    bench.wait_for("rows", lambda: device.status().is_connected)
    bench.wait_for("an empty outbox", lambda: device.status().backlog_rows == 0)
    assert code == 0
    assert f"{LENGTH} not_finite" in out
    assert "1 out_of_order" in out
    assert "3 gap" in out
    windows = int(re.search(r"(\d+) windows", out)[1])  # type: ignore[index]
    assert len(bench.stored()) == len(set(bench.stored())) == windows


def test_labels_for_unknown_rows_are_kept_and_shown(bench: Bench, run: Run) -> None:
    """A label whose row is not stored is imported, counted by stream, and waits for its row."""
    config = bench.folder / "cloud.yaml"
    config.write_text("store: store\n")
    lines = [f"{BENCH},main,{second * 10**9},1.5,{second * 10**9}" for second in (4, 5, 9999)]
    labels = bench.folder / "labels.csv"
    labels.write_text("device,stream,time_ns,value,known_at_ns\n" + "\n".join(lines) + "\n")

    early = run("cloud", "labels", "import", config, labels, "--json")
    bench.start_cloud()
    bench.start_device()
    bench.drained()
    bench.close()
    late = run("cloud", "status", config, "--json")

    assert (early[0], late[0]) == (0, 0)
    assert json.loads(early[1]) == {"added": 3, "labels_without_row": {f"{BENCH}/main": 3}}
    assert json.loads(late[1])["labels"] == 3
    assert json.loads(late[1])["labels_without_row"] == {f"{BENCH}/main": 1}


def test_a_wrong_label_file_is_refused_as_a_whole(bench: Bench, run: Run) -> None:
    """One bad line of a label file ends the import with code 2 and keeps none of its labels."""
    config = bench.folder / "cloud.yaml"
    config.write_text("store: store\n")
    labels = bench.folder / "labels.csv"
    labels.write_text(f"device,stream,time_ns,value,known_at_ns\n{BENCH},main,4,1,4\n,,x,,\n")

    code, _, message = run("cloud", "labels", "import", config, labels)

    assert code == 2
    assert "labels.csv" in message
    assert _has_four_parts(message), message
    assert json.loads(run("cloud", "status", config, "--json")[1])["labels"] == 0


# --- trust ------------------------------------------------------------------------------


def _sign(bench: Bench) -> None:
    signed = sign_base(bench.release_key, load_bundle(bench.folder / "sum-1"), [], 1)
    write_signed(signed_path(bench.folder / "sum-1"), signed)


def _change_a_file(bench: Bench) -> None:
    make_bundle(bench.folder / "sum-1", version="1", factor=3.0)


def _change_the_statement(bench: Bench) -> None:
    path = signed_path(bench.folder / "sum-1")
    statement = json.loads(path.read_text())
    last = statement["signature"][10]
    flipped = "A" if last != "A" else "B"
    statement["signature"] = statement["signature"][:10] + flipped + statement["signature"][11:]
    path.write_text(json.dumps(statement))


def _change_the_key(bench: Bench) -> None:
    (bench.folder / "release.pub").write_text(SigningKey.generate().public.hex())


@pytest.mark.parametrize("harm", [_change_a_file, _change_the_statement, _change_the_key])
def test_a_bundle_that_is_not_what_was_signed_is_not_trusted(
    bench: Bench, run: Run, harm: Callable[[Bench], None]
) -> None:
    """A wrong digest, signature or key ends `bundle verify` with code 3; the right ones with 0."""
    _sign(bench)
    verify = "bundle", "verify", bench.folder / "sum-1", "--key", bench.folder / "release.pub"
    assert run(*verify)[0] == 0
    harm(bench)

    code, _, message = run(*verify)

    assert code == 3, message
    assert _has_four_parts(message), message


@pytest.fixture
def quiet_loop(tmp_path: Path) -> Iterator[Loop]:
    """A device and a cloud that makes no layers of its own."""
    made = Loop(tmp_path, is_refreshing=False)
    try:
        made.start_device()
        made.release_days(2)
        made.wait_for("rows stored", lambda: len(made.stored_rows()) == 2 * DAY)
        yield made
    finally:
        made.close()


def _offer_residual(loop: Loop, *, seq: int, requires: str, intercept: float) -> None:
    body = ResidualLayer(intercept=intercept, weights=(0.0,) * 9)
    made_ns = hour_ns(FIRST_ROW + DAY)
    loop.cloud.jobs.offer(
        device=DEVICE,
        stream="turbine",
        model="turbine-nox",
        layers=(sign_layer(loop.layer_key, Layer(body, requires, seq, made_ns)),),
        requires=load_bundle(loop.base).digest,
    )


def test_a_layer_for_another_base_is_refused(quiet_loop: Loop) -> None:
    """A layer whose `requires` names another base is refused with that reason; rows go on."""
    loop = quiet_loop
    other = load_bundle(TURBINE / "bundles/turbine-nox-2.0.0").digest
    before = loop.device.status().streams["turbine"].effective_id

    _offer_residual(loop, seq=1, requires=other, intercept=0.5)
    loop.wait_for("the refusal", lambda: bool(loop.named("update.refused")))
    loop.release_days(3)
    loop.wait_for("rows stored", lambda: len(loop.stored_rows()) == 3 * DAY)

    assert "requires" in str(loop.named("update.refused")[0]["reason"])
    assert loop.device.status().streams["turbine"].effective_id == before


def test_a_replayed_old_layer_is_refused(quiet_loop: Loop) -> None:
    """A layer that was good once is refused after a newer one, also after a restart."""
    loop = quiet_loop
    digest = load_bundle(loop.base).digest
    for seq in (1, 2):
        _offer_residual(loop, seq=seq, requires=digest, intercept=seq / 10)
        loop.wait_for("the layer", lambda n=seq: len(loop.named("layers.activated")) == n)
    newest = loop.device.status().streams["turbine"].effective_id

    loop.stop_device()
    loop.start_device()
    _offer_residual(loop, seq=1, requires=digest, intercept=0.1)
    loop.wait_for("the refusal", lambda: bool(loop.named("update.refused")))

    assert "floor" in str(loop.named("update.refused")[0]["reason"])
    assert loop.device.status().streams["turbine"].effective_id == newest


# --- disks ------------------------------------------------------------------------------


def _fill(folder: Path) -> Path:
    """Take every byte that is left."""
    hog = folder / "hog"
    with hog.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return hog


@pytest.mark.slow
def test_a_full_disk_under_the_device_is_told_in_gaps(
    make_bench: MakeBench, small_disk: Path
) -> None:
    """What a full disk costs arrives as gaps: rows made are rows stored and rows in gaps."""
    bench = make_bench(rows=90_000, state=small_disk / "state")
    gate = Gate()
    device = bench.start_device(gate)
    gate.release(1000)
    bench.wait_for("rows that can make way", lambda: bench.committed == 1000)

    hog = _fill(small_disk)
    # Room for the largest commit, once older rows have made way.
    os.truncate(hog, hog.stat().st_size - (1 << 17))
    gate.release(bench.rows)
    bench.wait_for("the end of the recording", lambda: bench.position == bench.rows)
    bench.wait_for("the last commit", lambda: bench.committed == bench.rows)
    cloud = bench.start_cloud()
    bench.wait_for("an empty outbox", lambda: device.status().backlog_rows == 0)
    hog.unlink()
    bench.wait_for("the gaps", lambda: bench.stored_or_lost() == len(bench.windows))

    gaps = cloud.store.gaps()
    assert {gap.reason for gap in gaps} == {"disk_full"}
    assert len(set(bench.stored())) == len(bench.stored())
    assert 0 < sum(gap.n for gap in gaps) < len(bench.windows)
    assert bench.stored()[-1] == bench.rows - 1


def test_a_full_disk_under_the_cloud_acknowledges_nothing(
    make_bench: MakeBench, small_disk: Path
) -> None:
    """While the store has no space every row stays on the device; later each is stored once."""
    bench = make_bench(rows=3000, store=small_disk / "store")
    cloud = bench.start_cloud()
    hog = _fill(small_disk)
    device = bench.start_device()
    bench.wait_for("a failed store", lambda: cloud.status().ingest.store_failures_total > 0)
    bench.wait_for("the last commit", lambda: bench.committed == bench.rows)
    kept, stored = device.status().backlog_rows, bench.stored()

    hog.unlink()
    bench.wait_for("an empty outbox", lambda: device.status().backlog_rows == 0)

    assert kept + len(stored) == len(bench.windows)
    assert bench.stored() == bench.windows


@pytest.mark.parametrize("name", ["outbox.db", "state.db"])
@pytest.mark.parametrize("damage", ["overwritten", "truncated"])
def test_a_corrupt_database_is_set_aside_and_no_row_is_missing(
    bench: Bench, name: str, damage: str
) -> None:
    """The device goes on in a new epoch or incarnation, and the cloud gets every row once."""
    gate = Gate()
    bench.start_device(gate)
    gate.release(300)
    bench.wait_for("half of the rows", lambda: bench.committed == 300)
    bench.stop_device()
    database = bench.state / name
    size = database.stat().st_size
    database.write_bytes(b"\xff" * size if damage == "overwritten" else bytes(size // 2 + 100))

    bench.start_cloud()
    bench.start_device()
    bench.drained()

    assert bench.stored() == bench.windows
    assert len(list(bench.state.glob(f"{name}.corrupt-*"))) == 1


# --- schemas ----------------------------------------------------------------------------


def test_an_outbox_of_an_older_schema_is_migrated_with_its_rows(
    bench: Bench, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade that changes the schema, kept rows arrive, and a backup stays beside it."""
    run("run", bench.yaml, "--drain-s", "0")
    newer = (*outbox_module.OUTBOX_MIGRATIONS, "CREATE TABLE added_later (n INTEGER)")
    monkeypatch.setattr(outbox_module, "OUTBOX_MIGRATIONS", newer)

    bench.start_cloud()
    bench.start_device()
    bench.wait_for("every row", lambda: bench.stored() == bench.windows)

    backup = bench.state / f"outbox.db.v{len(newer) - 1}"
    assert _rows_in(backup) == len(bench.windows)


def test_an_outbox_of_a_newer_schema_is_refused_untouched(bench: Bench, run: Run) -> None:
    """An older program does not guess: code 1, and the newer one later delivers every row."""
    run("run", bench.yaml, "--drain-s", "0")
    version = len(outbox_module.OUTBOX_MIGRATIONS)
    _set_version(bench.state / "outbox.db", version + 1)

    code, _, message = run("run", bench.yaml, "--drain-s", "0")

    assert code == 1
    assert "outbox.db" in message
    assert _has_four_parts(message), message
    _set_version(bench.state / "outbox.db", version)
    bench.start_cloud()
    bench.start_device()
    bench.wait_for("every row", lambda: bench.stored() == bench.windows)


def _set_version(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()


def _rows_in(path: Path) -> int:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT sum(n) FROM block WHERE kind = 'estimate'").fetchone()[0]
    connection.close()
    return int(rows)


# --- brokers ----------------------------------------------------------------------------


def test_no_broker_is_no_failure(bench: Bench, run: Run) -> None:
    """`run` ends with code 0 where nothing listens, and says how many rows it keeps."""
    code, out, _ = run("run", bench.yaml, "--drain-s", "0")

    assert code == 0
    assert f"{len(bench.windows)} rows wait for the cloud; they are kept." in out


def test_a_broker_that_appears_later_gets_everything_once(
    make_bench: MakeBench, port_broker: PortBroker
) -> None:
    """A device and a cloud that wait for the same broker find each other when it comes up."""
    bench = make_bench(port=port_broker.port)
    device = bench.start_device()
    bench.start_cloud()
    bench.wait_for("the last commit", lambda: bench.committed == bench.rows)
    kept = device.status().backlog_rows

    port_broker.start()
    bench.wait_for("an empty outbox", lambda: device.status().backlog_rows == 0, 60)

    assert kept == len(bench.windows)
    assert bench.stored() == bench.windows


# --- killed at the swap -------------------------------------------------------------------

KILLED = """
import os, signal, sqlite3, sys, threading
from pathlib import Path
import msgspec
from edge_runtime.config import load_device
from edge_runtime.modes.edge import EdgeDevice

config = load_device(Path(sys.argv[1]))
kills_when, digest = sys.argv[2], sys.argv[3]

def is_committed():
    with sqlite3.connect(f"file:{config.state}/state.db?mode=ro", uri=True) as state:
        rows = state.execute("SELECT encoded FROM value WHERE key = 'update/main'").fetchall()
    return msgspec.msgpack.decode(rows[0][0])["active"] == digest

def tell(name, facts):
    if name == "rows.committed":
        print(facts["position"], flush=True)
    if name == "base.activated":
        # The pipeline thread waits here: no row is committed after the swap.
        waits = threading.Event()
        for _ in range(500 if kills_when == "committed" else 0):
            if is_committed():
                break
            waits.wait(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

EdgeDevice(config, on_event=tell).run(stays=True)
"""


@pytest.mark.parametrize("port_broker", ["iotcore"], indirect=True)
@pytest.mark.parametrize(
    ("kills", "is_new_base_kept"),
    [(("swapped",), True), (("committed",), True), (("swapped", "swapped"), False)],
)
def test_a_kill_right_after_a_swap_loses_and_doubles_no_window(
    make_bench: MakeBench,
    port_broker: PortBroker,
    kills: tuple[str, ...],
    is_new_base_kept: bool,
) -> None:
    """Killed between swap and commit, or between the swap's commit and the rows', rows go on.

    The last snapshot is then of the other base, in the middle of a window of five.
    A base that twice took the device down with it is not tried a third time.
    """
    bench = make_bench(rows=3000, port=port_broker.port)
    bench.declare(source=", speed: 100", commit_s=0.4)
    new = make_bundle(bench.folder / "sum-2", version="2", factor=2.0)
    port_broker.start()
    cloud = bench.start_cloud()
    cloud.registry.add(new, sign_base(bench.release_key, new, [], 2))

    exits = []
    for when in kills:
        child = _started(bench, when, new.digest)
        if not exits:
            assert child.stdout is not None
            assert child.stdout.readline().strip().isdigit()
            cloud.jobs.publish(cloud.registry, new.digest)
        exits.append(_ended(child))
    bench.declare()
    device = bench.start_device()
    bench.wait_for("the end", lambda: bench.committed == bench.rows)
    bench.wait_for("the verdict", lambda: _is_settled(bench, is_new_base_kept))
    bench.wait_for("an empty outbox", lambda: device.status().backlog_rows == 0)

    base = device.status().streams["main"].base
    stored = bench.stored_columns("index", "value", "effective_id")
    assert exits == [-signal.SIGKILL] * len(kills)
    assert sorted(stored["index"].tolist()) == bench.windows
    assert base == (new.digest if is_new_base_kept else bench.factory.digest)
    assert _factors(stored, bench.rows) == ([1.0, 2.0] if is_new_base_kept else [1.0])


def _started(bench: Bench, when: str, digest: str) -> subprocess.Popen[str]:
    """Start a device process that will kill itself when a base has gone live."""
    command = [sys.executable, "-c", KILLED, str(bench.yaml), when, digest]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _ended(child: subprocess.Popen[str]) -> int:
    try:
        child.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise
    return child.returncode


def _is_settled(bench: Bench, is_new_base_kept: bool) -> bool:
    assert bench.device is not None
    base = bench.device.status().streams["main"].base
    if is_new_base_kept:
        return base != bench.factory.digest
    return bool(bench.named("update.refused"))


def _factors(stored: dict[str, np.ndarray], rows: int) -> list[float]:
    """Return by which factor each base, in order of its identity, answers in all of its rows."""
    samples = recording(rows).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(samples, LENGTH, axis=0)
    sums = windows.sum(axis=(1, 2))[stored["index"] - (LENGTH - 1)]
    values = stored["value"].reshape(-1)
    found = []
    for effective in np.unique(stored["effective_id"]):
        mine = stored["effective_id"] == effective
        fits = [f for f in (1.0, 2.0) if np.allclose(values[mine], f * sums[mine], atol=1e-4)]
        assert len(fits) == 1
        found += fits
    return sorted(found)
