"""Installing and removing a service, with tools that note how they were called."""

from __future__ import annotations

import getpass
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.config import DeviceConfig
from edge_runtime.errors import ConfigError
from edge_runtime.service import install, uninstall

from .conftest import with_bundle  # isort: skip

ME = getpass.getuser()


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The folder of the units."""
    folder = tmp_path / "units"
    folder.mkdir()
    return folder


def _install(config: DeviceConfig, path: Path, units: Path, **options: Any) -> list[str]:
    said: list[str] = []
    options = {"user": ME, **options}
    install(config, path, program=Path("/bin/true"), say=said.append, units=units, **options)
    return said


def test_a_service_is_written_enabled_and_started(
    config: DeviceConfig, device_file: Path, units: Path, calls: Path
) -> None:
    """The unit is read again before it is started."""
    said = _install(config, device_file, units)

    unit = units / "edge-runtime-fan-1.service"
    assert f"User={ME}" in unit.read_text()
    assert calls.read_text().splitlines() == [
        "systemctl daemon-reload",
        f"systemctl enable {unit.name}",
        f"systemctl restart {unit.name}",
    ]
    assert (Path(config.state)).is_dir()
    assert any("journalctl" in line for line in said)


def test_a_service_can_wait_for_the_next_boot(
    config: DeviceConfig, device_file: Path, units: Path, calls: Path
) -> None:
    """Then it is enabled and not started."""
    _install(config, device_file, units, starts=False)

    assert "restart" not in calls.read_text()


def test_what_was_installed_is_removed_and_the_data_stay(
    config: DeviceConfig, device_file: Path, units: Path, calls: Path
) -> None:
    """Rows that wait for the cloud outlive the service."""
    _install(config, device_file, units)
    kept = Path(config.state) / "outbox.db"
    kept.write_bytes(b"rows")
    uninstall("fan-1", say=lambda _: None, units=units)

    assert list(units.iterdir()) == []
    assert "systemctl disable --now edge-runtime-fan-1.service" in calls.read_text()
    assert kept.read_bytes() == b"rows"


@pytest.mark.usefixtures("calls")
def test_removing_what_is_not_there_names_what_is(
    config: DeviceConfig, device_file: Path, units: Path
) -> None:
    """A name is soon mistyped."""
    _install(config, device_file, units)

    with pytest.raises(ConfigError, match=r"edge-runtime-fan-1\.service"):
        uninstall("fan-2", say=lambda _: None, units=units)


@pytest.mark.usefixtures("calls")
def test_a_tool_that_fails_is_quoted(
    config: DeviceConfig, device_file: Path, units: Path, tmp_path: Path
) -> None:
    """What it said is what helps."""
    (tmp_path / "broken").touch()

    with pytest.raises(ConfigError, match="code 3: it is broken"):
        _install(config, device_file, units)


@pytest.mark.usefixtures("calls")
def test_a_folder_with_foreign_files_does_not_change_hands(
    config: DeviceConfig, device_file: Path, units: Path
) -> None:
    """A state folder that is somebody's home must stay his."""
    Path(config.state).mkdir()
    (Path(config.state) / "letter.txt").touch()

    with pytest.raises(ConfigError, match="not a device's"):
        _install(config, device_file, units)


@pytest.mark.usefixtures("calls")
def test_a_service_that_could_not_read_its_files_is_not_started(
    config: DeviceConfig, device_file: Path, units: Path
) -> None:
    """The message names the file and the user."""
    device_file.chmod(0)

    with pytest.raises(ConfigError, match=f"may not read {device_file}"):
        _install(config, device_file, units, user="nobody" if ME == "root" else ME)


@pytest.mark.usefixtures("calls")
def test_a_closed_home_is_in_nobodys_way(
    config: DeviceConfig, device_file: Path, units: Path, home: Path
) -> None:
    """The unit shows the files elsewhere; they themselves must be open to others."""
    open_file, bundle = home / "fan-1.yaml", home / "bundles/fan"
    shutil.copy(device_file, open_file)
    shutil.copytree(config.streams["main"].model.bundle, bundle)
    config = with_bundle(config, bundle)
    user = "nobody" if ME == "root" else ME

    _install(config, open_file, units, user=user)
    bundle.chmod(0o700 if ME == "root" else 0)

    with pytest.raises(ConfigError, match=f"may not read {bundle}"):
        _install(config, open_file, units, user=user)
