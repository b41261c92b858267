"""What waits can be looked at while a device runs, carried away in a file, and dropped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.store import Store
from edge_runtime.cli import main
from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig
from edge_runtime.sync.hold import hold
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.types import Table

ROOT = Path(__file__).resolve().parents[3]
RUN = """
import sys
from edge_runtime.config import load_device
from edge_runtime.modes.edge import EdgeDevice
device = EdgeDevice(load_device(sys.argv[1]), on_event=lambda name, _: print(name, flush=True))
device.run(drain_s=0.0, stays=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder with 300 estimates of two starts, five decisions and a gap."""
    for first in (0, 200):
        with opened(tmp_path / "state") as outbox:
            outbox.begin()
            put(outbox, "pump", np.arange(first, first + 200 - first // 2))
            outbox.end()
    with opened(tmp_path / "state", starts=False) as outbox:
        put(outbox, "pump-decisions", np.arange(5), kind="decision")
        gap = Batch("pump", "gap", Table({}), lost=7, reason="restart")
        outbox.commit_all({}, [gap])
    return tmp_path / "state"


def opened(folder: Path, *, starts: bool = True) -> closing[Outbox]:
    with closing(StateStore(folder / "state.db", SystemClock())) as state:
        if starts:
            state.start()
        epoch, incarnation = state.epoch, state.incarnation
    return closing(
        Outbox.open(
            folder / "outbox.db",
            epoch=epoch,
            incarnation=incarnation,
            config=OutboxConfig(ballast_mb=0),
            clock=SystemClock(),
        )
    )


def put(outbox: Outbox, stream: str, x: np.ndarray, kind: str = "estimate") -> None:
    table = Table({"x": x, "end_ns": x})
    outbox.commit_all({}, [Batch(stream, kind, table)])


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a verb and return what it printed."""

    def run(*words: object, code: int = 0) -> str:
        assert main(["outbox", *map(str, words)]) == code
        return capsys.readouterr().out

    return run


@pytest.fixture
def cloud_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "cloud.yaml"
    path.write_text("schema: 1\nstore: store\n")
    return path


@pytest.fixture
def device_yaml(tmp_path: Path) -> Path:
    """A device on a recording that lasts, whose broker is gone."""
    fan = ROOT / "examples" / "fan_vibration"
    path = tmp_path / "device.yaml"
    path.write_text(f"""\
schema: 1
device: fan-1
state: state
outbox: {{commit_s: 0.01, ballast_mb: 0}}
sync: {{host: 127.0.0.1, port: 9}}
streams:
  vibration:
    source:
      kind: csv
      path: {fan}/fan_vibration_part.csv
      time: {{start: "2019-01-01T00:00:00Z", step_s: 0.02}}
      speed: 1
    model: {{bundle: {fan}/bundles/fan-unbalance-1.0.0}}
    upload: windows
""")
    return path


@pytest.fixture
def running(device_yaml: Path) -> Iterator[Path]:
    """The YAML of a device that runs in a process of its own, and has committed something."""
    command = [sys.executable, "-c", RUN, str(device_yaml)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as device:
        assert device.stdout is not None
        while device.stdout.readline().strip() != "rows.committed":
            assert device.poll() is None
        yield device_yaml
        device.kill()


def test_everything_that_waits_is_listed(folder: Path, said: Callable[..., str]) -> None:
    """By stream, kind and process start, with its numbers and why rows are lost."""
    listed = json.loads(said("ls", folder, "--json"))

    found = {(each["stream"], each["kind"], each["epoch"]): each for each in listed}
    assert {key: each["rows"] for key, each in found.items()} == {
        ("pump", "estimate", 1): 200,
        ("pump", "estimate", 2): 100,
        ("pump", "gap", 2): 7,
        ("pump-decisions", "decision", 2): 5,
    }
    assert found["pump", "gap", 2]["reasons"] == "restart"
    assert "0-199" in said("ls", folder)


def test_stat_says_how_full_it_is_and_what_was_lost(folder: Path, said: Callable[..., str]) -> None:
    """Rows, gaps and losses by stream and reason; wear only once it has run for a while."""
    stat = json.loads(said("stat", folder, "--json"))

    assert (stat["rows"], stat["gap_rows"]) == (305, 7)
    assert stat["discarded"] == {"pump": {"restart": 7}}
    assert stat["wear_bytes_per_day"] is None
    assert stat["is_running"] is False
    assert "7 rows of pump: restart" in said("stat", folder)


def test_a_corrupt_file_that_was_set_aside_is_shown(folder: Path, said: Callable[..., str]) -> None:
    """Nobody finds it otherwise."""
    (folder / "outbox.db").write_bytes(b"garbage" * 1000)
    with opened(folder):
        pass

    stat = json.loads(said("stat", folder, "--json"))

    assert [name.partition("-")[0] for name in stat["set_aside"]] == ["outbox.db.corrupt"]
    assert stat["rows"] == 0


def test_looking_leaves_nothing_behind(folder: Path, said: Callable[..., str]) -> None:
    """Whoever looks may be another user than the device, which must open its files again."""
    before = {path.name for path in folder.iterdir()}

    said("ls", folder)
    said("stat", folder)
    said("export", folder)

    assert {path.name for path in folder.iterdir()} == before


def test_rows_are_exported_as_lines_of_json(
    folder: Path, tmp_path: Path, said: Callable[..., str]
) -> None:
    """Each with its identity; a gap is one line with its number and reason."""
    out = tmp_path / "rows.jsonl"

    told = json.loads(said("export", folder, "--stream", "pump", "-o", out, "--json"))

    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert told == {"lines": 301, "path": str(out)}
    assert [line["x"] for line in lines if "x" in line] == list(range(300))
    assert [line["seq"] for line in lines] == [*range(200), *range(101)]
    assert lines[-1]["n"] == 7


def test_frames_reach_the_cloud_on_a_stick_once(
    folder: Path, cloud_yaml: Path, tmp_path: Path, said: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Importing the same file again changes nothing, and nothing left the device."""
    out = tmp_path / "stick.frames"
    said("export", folder, "--format", "frames", "--name", "pump-1", "-o", out)
    command = ["cloud", "import", str(cloud_yaml), str(out), "--json"]

    codes = [main(command), main(command)]

    first, again = map(json.loads, capsys.readouterr().out.splitlines())
    assert codes == [0, 0]
    assert (first["rows"], first["gap_rows"]) == (305, 7)
    assert (again["rows"], again["gap_rows"]) == (0, 0)
    with closing(Store(tmp_path / "store")) as store:
        assert sorted(store.rows("pump").columns["x"].tolist()) == list(range(300))
    assert json.loads(said("stat", folder, "--json"))["rows"] == 305


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"x" * 99, "no file of frames"), (b"edge-runtime frames 1\n\0\0\1\0abc", "cut off")],
)
def test_a_file_that_is_none_is_refused(
    cloud_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes,
    message: str,
) -> None:  # fmt: skip
    """A stick that was pulled out too early says so."""
    (tmp_path / "bad.frames").write_bytes(content)

    code = main(["cloud", "import", str(cloud_yaml), str(tmp_path / "bad.frames")])

    assert code == 1
    assert message in capsys.readouterr().err


def test_rows_before_those_of_a_file_are_missed(
    folder: Path, cloud_yaml: Path, tmp_path: Path, said: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Nothing is stored behind a hole: the file is taken once what comes before is there."""
    out = tmp_path / "later.frames"
    with opened(folder, starts=False) as outbox:
        outbox.acknowledge({(outbox.incarnation, 1, "pump"): 200})
        put(outbox, "fan", np.arange(3))
        put(outbox, "fan", np.arange(3, 6))
        outbox.acknowledge({(outbox.incarnation, 2, "fan"): 3})
    said("export", folder, "--format", "frames", "--name", "pump-1", "-o", out)

    code = main(["cloud", "import", str(cloud_yaml), str(out), "--json"])

    assert code == 1
    assert json.loads(capsys.readouterr().out)["missing_before"] == ["pump-1/fan"]


def test_dropped_rows_are_gaps_that_say_who_did_it(folder: Path, said: Callable[..., str]) -> None:
    """By stream and kind; what was not chosen stays."""
    told = json.loads(said("drop", folder, "--stream", "pump", "--yes", "--json"))

    found = {(each["stream"], each["kind"]) for each in json.loads(said("ls", folder, "--json"))}
    assert told == {"dropped": 300}
    assert found == {("pump", "gap"), ("pump-decisions", "decision")}
    assert json.loads(said("stat", folder, "--json"))["discarded"]["pump"] == {
        "dropped_by_operator": 300,
        "restart": 7,
    }


def test_a_choice_that_fits_nothing_is_told(folder: Path, said: Callable[..., str]) -> None:
    """A name that is spelt wrong does not read as if rows had gone."""
    told = said("drop", folder, "--stream", "pmup", "--yes")

    assert told == "nothing that waits was chosen\n"


def test_frames_are_not_written_to_a_terminal(folder: Path) -> None:
    """They are bytes that would garble it; a file or a pipe takes them."""
    words = ["outbox", "export", str(folder), "--name", "pump-1", "--format", "frames"]
    command = [sys.executable, "-m", "edge_runtime.cli", *words]
    terminal, end = os.openpty()

    shown = subprocess.run(command, stdout=end, stderr=subprocess.PIPE, check=False, timeout=120)
    piped = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=120)
    for descriptor in (terminal, end):
        os.close(descriptor)

    assert (shown.returncode, piped.returncode) == (2, 0)
    assert b"standard output is a terminal" in shown.stderr
    assert piped.stdout.startswith(b"edge-runtime frames 1\n")


def test_age_is_how_long_the_device_has_run_since(folder: Path, said: Callable[..., str]) -> None:
    """Rows of a moment ago are not a week old, whatever the wall clock says."""
    told = json.loads(said("drop", folder, "--older-than-s", "604800", "--yes", "--json"))

    assert told == {"dropped": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [((), "nothing says what is to go"), (("--all",), "nobody can be asked")],
)
def test_nothing_is_dropped_by_accident(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    """Without a choice, or without somebody to ask, it is a usage error."""
    assert main(["outbox", "drop", str(folder), *words]) == 2

    assert message in capsys.readouterr().err


def test_a_folder_without_an_outbox_gets_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong path is an error, also for `drop`, and leaves nothing behind."""
    for verb in (["ls"], ["drop", "--all", "--yes"]):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main(["outbox", verb[0], str(tmp_path / "empty"), *verb[1:]]) == 2

    assert "there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "empty" / "outbox.db").exists()


def test_a_running_device_can_be_looked_at_but_not_robbed(
    running: Path, said: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading works meanwhile; dropping, and a second device, are refused."""
    stat = json.loads(said("stat", running, "--json"))
    lines = said("export", running).splitlines()

    assert stat["is_running"] is True
    assert len(lines) >= stat["rows"] > 0
    assert main(["outbox", "drop", str(running), "--all", "--yes"]) == 1
    assert main(["run", "--no-supervisor", str(running)]) == 1
    assert capsys.readouterr().err.count("another process runs on this folder") == 2


def test_a_folder_is_let_go_when_its_process_is_killed(tmp_path: Path) -> None:
    """Nobody has to remove a lock after a power cut."""
    script = (
        "import sys, time; from pathlib import Path; from edge_runtime.sync.hold import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OSError, match="another process"), hold(tmp_path):
            pass
        other.kill()

    with hold(tmp_path):
        pass
