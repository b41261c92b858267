"""What devices say of their boards is judged, kept apart, bounded, and read by ``convert``."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_cloud.boards.kept import Boards
from edge_cloud.jobs import Jobs
from edge_cloud.publisher import Publisher
from edge_cloud.registry import Registry
from edge_cloud.store import Store
from edge_converters.latency import load_answers
from edge_runtime.bundle import Bundle
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError, StoreError, WireError
from edge_runtime.sync.board_times import BOARDS, DeviceTimes, read_times, spread_of
from edge_runtime.sync.messages import BoardTimes, FileTime, Life, encode
from edge_runtime.sync.topics import Topics
from edge_runtime.testing import FakeClock

TOPICS = Topics()
PI = "raspberry-pi-4"


class Desk:
    """A store that knows one base, and a publisher that hears what devices say."""

    def __init__(self, store: Store, bundle: Bundle) -> None:
        self.store, self.base = store, bundle.digest
        self.sha256 = hashlib.sha256(bundle.files["model.npz"]).hexdigest()
        registry = Registry(store)
        registry.add(bundle)
        self.clock = FakeClock()
        self.publisher = Publisher(
            lambda _: True,
            Jobs(store),
            registry,
            clock=self.clock,
            boards=Boards(store.folder, registry, clock=self.clock),
        )

    def times(self, engine_us: float = 100.0, **changed: Any) -> BoardTimes:
        files = (FileTime(self.sha256, "reference", engine_us),)
        told = BoardTimes(self.base, PI, "0123456789ab", "Cortex-A72", 1, files)
        return msgspec.structs.replace(told, **changed)

    def hears(self, times: BoardTimes, device: str = "pump-1", topic: str = "") -> None:
        life = Life(device, 1, 7, True, base={"main": self.base}, board_times={"main": times})
        address = TOPICS.parse(TOPICS.up(topic or device, "life"))
        self.publisher.handle(address, encode(life))

    def kept(self) -> list[DeviceTimes]:
        return list(read_times(self.store.folder))


@pytest.fixture
def desk(store: Store, bundle: Bundle) -> Desk:
    return Desk(store, bundle)


def test_what_a_board_took_is_kept_once(desk: Desk) -> None:
    """A device says it at every connection; the file is written when it says something else."""
    for _ in range(3):
        desk.hears(desk.times())
        desk.clock.advance(1.0)
    first = desk.kept()
    desk.hears(desk.times(engine_us=90.0))

    (told,) = first
    assert (told.device, told.times, told.refused) == ("pump-1", desk.times(), "")
    (newer,) = desk.kept()
    assert newer.times.files[0].engine_us == 90.0
    assert newer.received_ns > told.received_ns


def test_a_file_that_goes_away_meanwhile_stops_nobody(desk: Desk) -> None:
    """A device may be revoked by another process while it speaks; here a link leads nowhere."""
    folder = desk.store.folder / "boards" / "pump-1"
    folder.mkdir(parents=True)
    (folder / "gone.json").symlink_to(folder / "deleted")

    desk.hears(desk.times())

    assert [told.times for told in desk.kept()] == [desk.times()]


def test_every_machine_of_a_device_has_an_answer_of_its_own(desk: Desk) -> None:
    """After an upgrade of a runtime both answers are there, until there are too many."""
    for number in range(40):
        desk.hears(desk.times(machine=f"{number:012x}"))

    kept = {told.times.machine for told in desk.kept()}

    assert len(kept) == 32
    assert f"{39:012x}" in kept


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"base": "f" * 64}, "but the device runs"),
        ({"board": "raspberry-pi-9"}, "there is no board 'raspberry-pi-9'"),
        ({"board": "\x1b[31mpi"}, r"there is no board '\\x1b\[31mpi'"),
        ({"machine": "../../../etc"}, "12 hex digits"),
        ({"files": ()}, "names 0 files"),
        ({"files": (FileTime("f" * 64, "reference", 9.0),)}, "is none of turbine@1"),
        ({"files": (FileTime("../x", "reference", 9.0),)}, "is none of turbine@1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    desk: Desk, changed: dict[str, Any], why: str
) -> None:
    """It is kept with why it does not count, and the device's life is taken all the same."""
    desk.hears(desk.times(**changed))

    (told,) = desk.kept()

    assert re.search(why, told.refused), told.refused
    assert Jobs(desk.store).life("pump-1") is not None
    assert load_answers([desk.store.folder], PI) == ()


@pytest.mark.parametrize("engine_us", [0.0, -1.0, 1e-9, 1e12, math.nan, math.inf])
def test_a_time_that_no_board_takes_is_refused(desk: Desk, engine_us: float) -> None:
    """Between a hundredth of a microsecond and a minute; anything else is a fault or a lie."""
    desk.hears(desk.times(engine_us))

    (told,) = desk.kept()
    assert "expected 0.01 to 60,000,000" in told.refused


def test_a_backend_must_run_the_file(desk: Desk) -> None:
    """ONNX Runtime has not run an array of weights, and a file is timed once by a runtime."""
    file = FileTime(desk.sha256, "onnx", 9.0)
    desk.hears(desk.times(files=(file,)))
    desk.hears(desk.times(files=(desk.times().files[0],) * 2), "pump-2")

    wrong, twice = desk.kept()

    assert wrong.refused == "backend 'onnx' does not run model.npz"
    assert twice.refused == "it names 2 files; expected one or more, each once"


def test_a_base_that_is_not_here_is_refused_before_a_file_is_looked_for(desk: Desk) -> None:
    """A path in place of a digest opens nothing."""
    base = "../../../secret"
    life = Life(
        "pump-1", 1, 7, True, base={"main": base}, board_times={"main": desk.times(base=base)}
    )

    desk.publisher.handle(TOPICS.parse(TOPICS.up("pump-1", "life")), encode(life))

    (told,) = desk.kept()
    assert "is not in the registry" in told.refused


def test_a_device_cannot_write_anothers_answer(desk: Desk) -> None:
    """What names another device than its topic is refused whole, and nothing changes."""
    desk.hears(desk.times(), "pump-1")

    with pytest.raises(WireError, match="pump-1"):
        desk.hears(desk.times(engine_us=1.0), "pump-1", topic="evil")
    desk.hears(desk.times(engine_us=1.0), "evil")

    by_device = {told.device: told.times.files[0].engine_us for told in desk.kept()}
    assert by_device == {"pump-1": 100.0, "evil": 1.0}


def test_one_that_lies_moves_the_answer_of_many_little(desk: Desk) -> None:
    """Every device has one voice, however many machines it claims to be."""
    for number in range(4):
        desk.hears(desk.times(100.0 + number), f"pump-{number}")
    for number in range(20):
        desk.hears(desk.times(0.5, machine=f"{number:012x}"), "evil")

    runs: dict[str, list[float]] = {}
    for answer in load_answers([desk.store.folder], PI):
        runs.setdefault(answer.device, []).append(answer.engine_us)
    spread = spread_of(runs)

    assert (spread.boards, spread.median_us) == (5, 101.0)
    assert (spread.low_us, spread.high_us) == (100.0, 102.0)


@given(st.lists(st.lists(st.floats(0.01, 6e7), min_size=1, max_size=4), min_size=1, max_size=12))
def test_the_spread_holds_the_median_and_lies_in_what_was_measured(runs: list[list[float]]) -> None:
    """For any number of boards and runs."""
    spread = spread_of({str(number): times for number, times in enumerate(runs)})

    least, most = min(map(min, runs)), max(map(max, runs))
    assert spread.boards == len(runs)
    assert least <= spread.low_us <= spread.median_us <= spread.high_us <= most


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.builds(
        BoardTimes,
        base=st.text(max_size=64),
        board=st.text(max_size=64),
        machine=st.text(max_size=64),
        processor=st.text(max_size=128),
        made_ns=st.integers(-(2**63), 2**63 - 1),
        files=st.lists(
            st.builds(
                FileTime,
                sha256=st.text(max_size=64),
                backend=st.text(max_size=64),
                engine_us=st.floats(),
            ),
            max_size=16,
        ).map(tuple),
    )
)
def test_whatever_a_device_says_stays_in_its_folder(desk: Desk, times: BoardTimes) -> None:
    """Any text and any number: nothing fails, nothing counts, no other file is made."""
    desk.hears(times)

    files = [path for path in (desk.store.folder / BOARDS).rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {"pump-1"}
    assert all(told.refused for told in desk.kept())
    assert len(files) <= 32


def test_what_a_device_said_goes_with_it(desk: Desk) -> None:
    """A device that is deleted leaves no time behind, and the others stay."""
    desk.hears(desk.times(), "pump-1")
    desk.hears(desk.times(), "pump-2")

    desk.store.delete_device("pump-1")

    assert [told.device for told in desk.kept()] == ["pump-2"]


def test_a_damaged_file_is_named(desk: Desk) -> None:
    """The message says which file it is, and that the device brings it again."""
    desk.hears(desk.times())
    (path,) = (desk.store.folder / BOARDS / "pump-1").iterdir()
    path.write_bytes(b"{")

    with pytest.raises(StoreError, match=path.name) as failed:
        desk.kept()
    desk.hears(desk.times())

    assert "says it again" in failed.value.remedy
    assert [told.refused for told in desk.kept()] == [""]


# --- the command ----------------------------------------------------------------------


@pytest.fixture
def config(desk: Desk, tmp_path: Path) -> str:
    """A store with three Pi 4, one of which is odd, and a Pi 3; and the cloud's YAML."""
    for number, engine_us in enumerate([100.0, 120.0, 110.0]):
        desk.hears(desk.times(engine_us), f"pump-{number}")
    desk.hears(desk.times(300.0, board="raspberry-pi-3"), "old-1")
    desk.hears(desk.times(math.nan), "odd-1")
    path = tmp_path / "cloud.yaml"
    path.write_text(f"schema: 1\nstore: {desk.store.folder}\nbroker: {{port: 1}}\n")
    return str(path)


def test_the_table_has_a_line_for_each_file_and_board(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Median and spread over boards; what was refused stands below with the reason."""
    assert main(["cloud", "boards", config]) == 0

    _, slow, quick, odd = capsys.readouterr().out.splitlines()
    assert slow.split()[:2] == ["turbine@1", "raspberry-pi-3"]
    assert quick.split()[1:2] == [PI]
    assert quick.split()[4:] == ["3", "110.0", "100.0", "120.0"]
    assert odd.startswith("refused: odd-1: model.npz took nan µs")


def test_the_export_and_the_store_answer_alike(
    desk: Desk, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``convert --bench`` reads the store where it lies, and elsewhere what the command printed."""
    assert main(["cloud", "boards", config, "--base", "turbine@1", "--json"]) == 0
    exported = tmp_path / "boards.json"
    exported.write_text(capsys.readouterr().out)

    answers = load_answers([exported], PI)

    assert answers == load_answers([desk.store.folder], PI)
    assert sorted(answer.engine_us for answer in answers) == [100.0, 110.0, 120.0]
    assert {answer.device for answer in answers} == {"pump-0", "pump-1", "pump-2"}


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    """The message says what prints one."""
    path = tmp_path / "boards.json"
    path.write_text('[{"device": 1}]')

    with pytest.raises(ConfigError, match="cloud boards --json"):
        load_answers([path], PI)


def test_an_unknown_base_is_a_usage_error(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists what is known."""
    assert main(["cloud", "boards", config, "--base", "turbine@9"]) == 2

    assert "turbine@1" in capsys.readouterr().err


def test_a_store_without_answers_says_so(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An estimate then stays one."""
    path = tmp_path / "cloud.yaml"
    path.write_text(f"schema: 1\nstore: {store.folder}\nbroker: {{port: 1}}\n")

    assert main(["cloud", "boards", str(path)]) == 0

    assert capsys.readouterr().out == "no board has answered\n"
    assert load_answers([store.folder], PI) == ()
