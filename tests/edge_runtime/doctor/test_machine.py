"""The doctor looks at copies of other machines' files, and finds what hurts."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from edge_runtime.config import SyncConfig
from edge_runtime.doctor import Finding, look_around
from edge_runtime.doctor.board import look_at_board, look_at_heat, look_at_power, look_at_system
from edge_runtime.doctor.buses import look_at_buses
from edge_runtime.doctor.clock import look_at_clock
from edge_runtime.doctor.link import look_at_link
from edge_runtime.doctor.storage import look_at_storage
from edge_runtime.ports import Connected
from edge_runtime.testing import FakeClock
from edge_simulator.broker import Broker
from edge_simulator.secured import SecuredCloud

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _one(findings: Iterable[Finding], topic: str) -> Finding:
    return next(one for one in findings if one.topic == topic)


def test_a_board_is_named_with_what_to_know_about_it(tmp_path: Path) -> None:
    """A note is a warning: it may hurt later."""
    _write(tmp_path, "proc/device-tree/model", "Raspberry Pi Zero 2 W Rev 1.0\0")

    found = _one(look_at_board(tmp_path), "board")
    assert found.state == "warning"
    assert "512 MiB" in found.remedy


@pytest.mark.parametrize(
    ("libc", "state"),
    [(("glibc", "2.36"), "ok"), (("glibc", "2.31"), "problem"), (("", ""), "problem")],
)
def test_the_floor_of_glibc_is_known(tmp_path: Path, libc: tuple[str, str], state: str) -> None:
    """A wheel that installs on an older system fails only when it loads."""
    found = _one(look_at_system(tmp_path, libc), "libc")
    assert found.state == state
    assert (found.remedy != "") == (state == "problem")


@pytest.mark.parametrize(
    ("millidegrees", "state"), [(45_000, "ok"), (72_500, "warning"), (84_000, "problem")]
)
def test_the_hottest_zone_counts(tmp_path: Path, millidegrees: int, state: str) -> None:
    """Zones that cannot be read are passed over."""
    zones = "sys/class/thermal"
    _write(tmp_path, f"{zones}/thermal_zone0/temp", "20000\n")
    _write(tmp_path, f"{zones}/thermal_zone1/temp", f"{millidegrees}\n")
    _write(tmp_path, f"{zones}/thermal_zone1/type", "cpu-thermal\n")
    _write(tmp_path, f"{zones}/thermal_zone2/temp", "garbage\n")

    found = _one(look_at_heat(tmp_path), "heat")
    assert found.state == state
    assert "cpu-thermal" in found.what


@pytest.mark.parametrize(
    ("bits", "state", "words"),
    [
        ("0", "ok", "no under-voltage"),
        ("50000", "warning", "since boot: under-voltage, throttled"),
        ("50005", "problem", "now: under-voltage, throttled"),
    ],
)
def test_the_firmware_tells_of_its_supply(
    tmp_path: Path, bits: str, state: str, words: str
) -> None:
    """Bits 0 to 3 are now, bits 16 to 19 since boot."""
    _write(tmp_path, THROTTLED, f"{bits}\n")

    found = _one(look_at_power(tmp_path), "power")
    assert found.state == state
    assert words in found.what


def test_other_boards_say_nothing_of_their_supply(tmp_path: Path) -> None:
    """No finding is better than a wrong one."""
    assert list(look_at_power(tmp_path)) == []


def test_a_medium_is_written_and_timed(tmp_path: Path) -> None:
    """A folder that is still to be made is looked at where it will be."""
    findings = list(look_at_storage(tmp_path / "not" / "yet"))

    assert " ms, at worst " in _one(findings, "fsync").what
    assert str(tmp_path) in _one(findings, "space").what


@pytest.mark.parametrize(
    ("kind", "options", "state"),
    [("ext4", "rw,noatime", "ok"), ("ext4", "ro", "problem"), ("tmpfs", "rw", "warning")],
)
def test_a_mount_that_loses_rows_is_told(
    tmp_path: Path, kind: str, options: str, state: str
) -> None:
    """Read only, or in memory."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/root / ext4 rw 0 0\n/dev/card {tmp_path} {kind} {options} 0 0\n")

    assert _one(look_at_storage(tmp_path, mounts), "storage").state == state


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    """Rows could not be kept there."""
    tmp_path.chmod(0o500)

    assert _one(look_at_storage(tmp_path), "fsync").state == "problem"


def test_a_clock_that_was_never_set_is_a_problem(tmp_path: Path) -> None:
    """A board without a battery wakes in the past."""
    found = _one(look_at_clock(tmp_path, FakeClock(now_ns=0), "unsynced"), "clock")

    assert found.state == "problem"
    assert "1970" in found.what


def test_a_clock_that_nobody_keeps_right_is_a_warning(tmp_path: Path) -> None:
    """It may be right today."""
    clock = FakeClock(now_ns=1_800_000_000 * 10**9)

    assert _one(look_at_clock(tmp_path, clock, "unsynced"), "clock").state == "warning"
    assert _one(look_at_clock(tmp_path, clock, "ntp"), "clock").state == "ok"


def test_buses_are_found_and_their_absence_has_a_remedy(tmp_path: Path) -> None:
    """A board without I2C can usually be given it."""
    _write(tmp_path, "dev/ttyUSB0", "")
    _write(tmp_path, "dev/snd/pcmC1D0c", "")
    findings = list(look_at_buses(tmp_path))

    assert _one(findings, "serial") == Finding("serial", "ok", "/dev/ttyUSB0")
    assert _one(findings, "microphone").state == "ok"
    assert "do_i2c" in _one(findings, "i2c").remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every node")
def test_a_node_that_may_not_be_opened_names_the_group(tmp_path: Path) -> None:
    """The commonest reason why a sensor does not work."""
    _write(tmp_path, "dev/i2c-1", "")
    (tmp_path / "dev/i2c-1").chmod(0)

    found = _one(look_at_buses(tmp_path), "i2c")
    assert found.state == "problem"
    assert "usermod -aG i2c" in found.remedy


# --- the link ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real broker."""
    with Broker("iotcore", folder=tmp_path_factory.mktemp("broker")) as running:
        yield running.port


def test_a_broker_that_lets_the_device_in_is_fine(broker: int) -> None:
    """Nothing is to be done."""
    found = _one(look_at_link(SyncConfig(port=broker, protocol="3.1.1")), "broker")

    assert (found.state, found.remedy) == ("ok", "")


def test_a_broker_that_speaks_another_version_names_the_option(broker: int) -> None:
    """This one knows MQTT 3.1.1 alone."""
    found = _one(look_at_link(SyncConfig(port=broker, protocol="5")), "broker")

    assert found.state == "problem"
    assert "sync.protocol" in found.remedy


def test_a_port_where_nobody_listens_is_a_problem() -> None:
    """Rows wait until then."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = _one(look_at_link(SyncConfig(port=taken.getsockname()[1]), 1.0), "broker")

    assert found.state == "problem"
    assert "cannot be reached" in found.what


def test_a_server_that_is_no_broker_is_a_problem() -> None:
    """It takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: [server.accept() for _ in range(2)])
        thread.start()
        found = _one(look_at_link(SyncConfig(port=server.getsockname()[1]), 0.3), "broker")
        thread.join()

    assert found.state == "problem"
    assert "no answer" in found.what


def test_a_name_that_does_not_exist_is_a_problem() -> None:
    """The remedy is about names."""
    found = _one(look_at_link(SyncConfig(host="no-such-host.invalid")), "broker")

    assert found.state == "problem"


def test_everything_is_looked_at_at_once(tmp_path: Path) -> None:
    """Every finding but a good one has a remedy, or is unknown."""
    findings = look_around(root=tmp_path)

    topics = {one.topic for one in findings}
    assert {"board", "system", "libc", "heat", "storage", "fsync", "clock", "i2c"} <= topics
    assert all(one.remedy for one in findings if one.state == "problem")


@pytest.mark.mosquitto
def test_a_running_devices_session_is_left_alone(tmp_path: Path) -> None:
    """With a certificate the broker is reached and checked, and nobody logs in as the device."""
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    with SecuredCloud(tmp_path) as cloud:
        link = cloud.enroll("pump-1")
        cloud.broker.start()
        device = cloud.device("pump-1")
        device.open([], None)
        while not isinstance(device.receive(1.0), Connected):
            pass

        found = {one.topic: one for one in look_at_link(cloud.link(link))}
        lost = device.receive(0.3)
        device.close()

    assert found["tls"].state == "ok"
    assert found["broker"].state == "ok"
    assert lost is None


def test_a_plain_link_to_another_machine_is_a_problem() -> None:
    """Doctor says what the device would say when it starts."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        # Another way to write 127.0.0.1, which is no word for this machine.
        link = SyncConfig(host="127.1", port=server.getsockname()[1])

        found = _one(look_at_link(link, 1.0), "tls")

    assert found.state == "problem"
    assert "tls: off" in found.remedy
