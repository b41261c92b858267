"""A bare board: the README's commands lead to a decision, and a service that lasts.

One card is used by all tests, in their order, as somebody uses a board: it is set up,
installed as a service, loses its power, is stopped and cleared again.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_cloud.config import CloudConfig
from edge_cloud.service import CloudService
from edge_cloud.store import Gap
from edge_runtime.config import OutboxConfig, SyncConfig
from edge_runtime.types import Table
from edge_simulator.broker import Broker
from edge_simulator.link import LinkProxy

from .accelerometer import Accelerometer  # isort: skip

pytestmark = pytest.mark.arm64

ROOT = Path(__file__).resolve().parents[2]
FAN = ROOT / "examples/fan_vibration"
UNIT = "edge-runtime-fan-1"
# How long the slowest step may take here; a Raspberry Pi takes seconds.
LIMIT_S = 600.0
COMMIT_S = OutboxConfig().commit_s
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
ESTIMATE = TIME + r"  main +now .*\n"
# As the service's user, in its own view of the file system.
TRY_TO_WRITE = (
    "for place in / /etc /usr /opt /var/lib /root /home /home/pi /home/pi/edge "
    "/home/pi/bundles/fan-unbalance-1.0.0 /home/pi/state /home/pi/state/fan-1; "
    "do touch $place/mine 2>/dev/null && echo wrote $place; done; rm -f /home/pi/state/fan-1/mine; "
    "for name in /home/pi/* /home/pi/.*; do echo sees $name; done"
)
DECISION = TIME + r"  main +start +unbalance-[123]  [\d.]+"
HOME = [f"/home/pi/{name}" for name in ("bundles", "edge", "fan-1.yaml", "state", ".", "..")]


class Board:
    """A board on somebody's desk: its card, its console and the sensor in its USB port."""

    def __init__(self, folder: Path, place: Path) -> None:
        self._folder, self._place = folder, place
        self.card = place / "card.img"
        self._boots = 0

    def switch_on(self) -> None:
        """Boot to the prompt, with the sensor plugged in."""
        from console import Console
        from vm import Machine

        self._boots += 1
        log = self._place / f"boot-{self._boots}.log"
        self.machine = Machine(self._folder, self.card, log, is_board=True)
        _wait_for("the console", self.machine.usb.exists)
        self.console = Console(self.machine.console)
        rows = (FAN / "fan_vibration_part.csv").read_text().splitlines()[1:]
        xyz = [",".join(row.split(",")[2:]) for row in rows]
        self.sensor = Accelerometer(self.machine.usb, xyz)
        self.console.wait_for(r"\$ $", LIMIT_S)

    def cut(self) -> None:
        """Take its power away."""
        self.machine.cut()
        self.sensor.unplug()
        self.console.close()

    def run(self, line: str) -> str:
        """Type a command and return what it printed."""
        printed: str = self.console.run(line, LIMIT_S)
        return printed

    def show(self, *properties: str) -> dict[str, str]:
        """Return what systemd says of the unit."""
        names = ",".join(properties)
        printed = self.run(f"systemctl show {UNIT} --property={names}")
        return dict(re.findall(r"^(\w+)=(.*)$", printed, re.M))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where card and logs lie."""
    return tmp_path_factory.mktemp("board")


@pytest.fixture(scope="module")
def board(card_folder: Path, place: Path) -> Iterator[Board]:
    """A board that has just been switched on for the first time."""
    shutil.copy(card_folder / "card.img", place / "card.img")
    board = Board(card_folder, place)
    board.switch_on()
    yield board
    board.cut()


@pytest.fixture(scope="module")
def port(place: Path) -> Iterator[int]:
    """A broker on this machine's loopback, which is 10.0.2.2 for the board."""
    with Broker("iotcore", place / "broker") as broker:
        yield broker.port


@pytest.fixture(scope="module")
def link(port: int) -> Iterator[LinkProxy]:
    """The board's way to the broker, which can be cut."""
    with LinkProxy(target=("127.0.0.1", port)) as link:
        yield link


@pytest.fixture(scope="module")
def cloud(place: Path, port: int) -> Iterator[CloudService]:
    """A cloud on that broker."""
    config = CloudConfig(
        store=place / "store",
        broker=SyncConfig(port=port, protocol="3.1.1"),
        bundles=(FAN / "bundles/fan-unbalance-1.0.0",),
    )
    service = CloudService(config)
    service.start()
    yield service
    service.stop()


def _readme_commands() -> list[str]:
    """Return what the README tells to type on a Raspberry Pi."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"^## On a Raspberry Pi$.*?^```sh\n(.*?)^```$", text, re.M | re.S)
    assert block
    return block[1].splitlines()


def _wait_for(what: str, is_done: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_done():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.2)


def _stored(cloud: CloudService) -> Table:
    """Return the windows that the cloud has."""
    return cloud.store.rows("main", device="fan-1")


def _epochs(cloud: CloudService) -> set[int]:
    rows = _stored(cloud)
    return set(rows.columns["epoch"].tolist()) if len(rows) else set()


def _times(cloud: CloudService) -> list[str]:
    """Return the ends of these windows, as the terminal writes them."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    ends = [epoch + timedelta(milliseconds=ns // 10**6) for ns in _ends(cloud)]
    return [end.strftime("%Y-%m-%d %H:%M:%S.") + f"{end.microsecond // 1000:03}" for end in ends]


def _numbers(gap: Gap) -> range:
    return range(gap.seq0, gap.seq0 + gap.n)


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()


def _ends(cloud: CloudService) -> list[int]:
    rows = _stored(cloud)
    return rows.columns["end_ns"].tolist() if len(rows) else []


def test_the_readme_leads_to_the_first_decision(board: Board) -> None:
    """Four commands, typed as they are written, on a board that has never seen ours."""
    *before, last = _readme_commands()

    for command in before:
        board.run(command)
    board.console.type(last)
    seen = board.console.wait_for(DECISION, LIMIT_S)
    board.console.interrupt()
    board.console.wait_for(r"\$ $", LIMIT_S)

    assert len(before) <= 3
    assert "Traceback" not in seen


def test_the_service_is_watched_and_shut_in(board: Board, link: LinkProxy) -> None:
    """It is up by its own word, and systemd lets it do what it needs and no more."""
    init = _readme_commands()[-2]
    board.run(f"{init} --broker 10.0.2.2:{link.port} --force")
    board.run("sed -i 's/upload: decisions/upload: windows/' fan-1.yaml")
    # The broker of this test has no TLS, and the board must be told that this is meant.
    board.run("sed -i 's/^sync: {/sync: {tls: off, /' fan-1.yaml")
    board.run("sudo edge/bin/edge-runtime device install fan-1.yaml")
    shown = board.show("ActiveState", "StatusText", "Type", "User", "WatchdogUSec")
    board.run(f"systemd-analyze security --no-pager --threshold=30 {UNIT}")
    board.run(f"pid=$(systemctl show --value --property=MainPID {UNIT})")
    process = board.run("grep -E '^(CapEff|NoNewPrivs|Seccomp|Uid):' /proc/$pid/status")
    uid = board.run("id -u edge-runtime").splitlines()[1].strip()
    inside = "nsenter --target $pid --mount setpriv --reuid edge-runtime --regid edge-runtime"
    reached = board.run(f"sudo {inside} --clear-groups sh -c '{TRY_TO_WRITE}'")

    assert shown == {
        **{"ActiveState": "active", "StatusText": "The device runs.", "Type": "notify"},
        **{"User": "edge-runtime", "WatchdogUSec": "2min"},
    }
    assert re.search(rf"Uid:\s+{uid}\s+{uid}\s", process)
    assert re.search(r"CapEff:\s+0+\s", process)
    assert re.search(r"NoNewPrivs:\s+1\s", process)
    assert re.search(r"Seccomp:\s+2\s", process)
    assert re.findall(r"wrote (\S+)", reached.split("\n", 1)[1]) == ["/home/pi/state/fan-1"]
    assert re.findall(r"sees (\S+)", reached.split("\n", 1)[1]) == HOME


def test_a_power_cut_takes_a_group_commit_at_most(
    board: Board, cloud: CloudService, link: LinkProxy
) -> None:
    """The unit starts by itself; what was shown arrives once, but for the commit that was open."""
    _wait_for("the first row", lambda: _epochs(cloud))
    before = _epochs(cloud)
    link.cut()
    board.console.type(f"journalctl -n 0 -fu {UNIT} -o cat")
    seen = [board.console.wait_for(ESTIMATE, LIMIT_S) for _ in range(5)]
    board.cut()

    board.switch_on()
    link.mend()
    *earlier, newest = [re.findall(TIME, line)[-1] for line in seen]
    # Windows are further apart than commits: the newest alone may not have been in one.
    committed = {time for time in earlier if _seconds(newest) - _seconds(time) > COMMIT_S}
    _wait_for("what was committed", lambda: committed <= set(_times(cloud)))
    _wait_for("a window of this boot", lambda: _epochs(cloud) > before)
    state = board.show("ActiveState", "NRestarts")

    rows = _stored(cloud).columns
    assert len(committed) == 4
    assert state == {"ActiveState": "active", "NRestarts": "0"}
    assert len(set(rows["end_ns"].tolist())) == len(rows["end_ns"])


def test_every_number_is_a_row_or_in_a_gap_that_says_why(cloud: CloudService) -> None:
    """None is there twice, none is missing, and the boot after the cut tells what may be gone."""
    rows = _stored(cloud).columns
    gaps = [gap for gap in cloud.store.gaps() if gap.stream == "main"]
    held = [
        *zip(*(rows[name].tolist() for name in ("incarnation", "epoch", "seq")), strict=True),
        *((gap.incarnation, gap.epoch, seq) for gap in gaps for seq in _numbers(gap)),
    ]

    epochs = _epochs(cloud)
    assert len(set(held)) == len(held)
    for epoch in epochs:
        numbers = sorted(seq for _, of, seq in held if of == epoch)
        assert numbers == list(range(len(numbers)))
    assert [(gap.epoch, gap.seq0, gap.reason) for gap in gaps] == [(max(epochs), 0, "restart")]


def test_it_is_stopped_and_removed_without_a_trace(board: Board) -> None:
    """It ends by itself with code 0; the unit goes, the data stay."""
    board.run(f"sudo systemctl stop {UNIT}")
    ended = board.show("ActiveState", "Result", "ExecMainStatus")
    board.run("sudo edge/bin/edge-runtime device uninstall fan-1")
    left = board.run(f"systemctl cat {UNIT} 2>&1; systemctl list-unit-files 'edge-*' || true")
    kept = board.run("sudo ls state/fan-1")

    assert ended == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    assert "No files found" in left
    assert "0 unit files listed" in left
    assert {"outbox.db", "state.db"} <= set(kept.split())
