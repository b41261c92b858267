"""The unit file of a device."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.config import DeviceConfig
from edge_runtime.errors import ConfigError
from edge_runtime.service import unit_of

from .conftest import with_bundle  # isort: skip

PROGRAM = Path("/opt/edge/bin/edge-runtime")


def _unit(config: DeviceConfig, **changes: Any) -> list[str]:
    config = msgspec.structs.replace(config, **changes)
    path = Path("/etc/edge-runtime/fan-1.yaml")
    return unit_of(config, path, program=PROGRAM, user="edge-runtime").splitlines()


def test_a_unit_starts_the_device_and_watches_it(config: DeviceConfig) -> None:
    """It notifies, is restarted for ever, and waits neither for a network nor for the time."""
    unit = _unit(config)

    assert f"ExecStart={PROGRAM} run --stay /etc/edge-runtime/fan-1.yaml" in unit
    assert {"Type=notify", "WatchdogSec=120", "Restart=always"} <= set(unit)
    assert "StartLimitIntervalSec=0" in unit
    assert not any("network" in line or "time-sync" in line for line in unit)


def test_a_device_may_write_its_state_alone(config: DeviceConfig) -> None:
    """Everything else is read only."""
    unit = _unit(config)

    assert "ProtectSystem=strict" in unit
    written = [line for line in unit if line.startswith("ReadWritePaths=")]
    assert written == [f"ReadWritePaths={Path(config.state).resolve()}"]


@pytest.mark.usefixtures("home")
def test_nobodys_home_is_seen_by_a_device_that_lies_elsewhere(config: DeviceConfig) -> None:
    """It does not even find out who has one."""
    assert "ProtectHome=yes" in _unit(config, state=Path("/var/lib/edge-runtime/fan-1"))


def test_of_a_home_a_device_sees_what_it_needs(config: DeviceConfig, home: Path) -> None:
    """Program, YAML, model and recording, read only, and its state; a folder once."""
    state, bundle, rows = home / "state", home / "bundles/fan", home / "rows.csv"
    for place in (bundle, state):
        place.mkdir(parents=True)
    rows.touch()
    path, program = home / "fan-1.yaml", home / "edge/bin/edge-runtime"
    program.parent.mkdir(parents=True)
    path.touch()
    config = with_bundle(config, bundle)
    config.streams["main"].source["path"] = str(rows)
    config = msgspec.structs.replace(config, state=state)
    unit = unit_of(config, path, program=program, user="edge-runtime").splitlines()

    shown = {line.partition("=")[2] for line in unit if line.startswith("BindReadOnlyPaths=")}
    assert f"TemporaryFileSystem={home.parent}:ro /run/user:ro" in unit
    assert shown == {str(place) for place in (home / "edge", bundle, path, rows)}
    assert [line for line in unit if line.startswith("BindPaths=")] == [f"BindPaths={state}"]


def test_a_device_may_ask_whether_the_clock_is_right(config: DeviceConfig) -> None:
    """A live source does, and would be killed for it."""
    unit = _unit(config)

    (allowed,) = (line for line in unit if line.startswith("SystemCallFilter="))
    assert {"adjtimex", "clock_adjtime"} <= set(allowed.split())
    assert not any(line.startswith("ProtectClock") for line in unit)


def test_a_device_without_sensors_sees_no_device_nodes(config: DeviceConfig) -> None:
    """A recording needs none."""
    assert "PrivateDevices=yes" in _unit(config)


def test_a_device_sees_the_nodes_of_its_own_sensors(config: DeviceConfig) -> None:
    """A sensor on I2C opens the bus and nothing else."""
    stream = msgspec.structs.replace(config.streams["main"], source={"kind": "mpu6050"})
    unit = _unit(config, streams={"main": stream})

    assert "DevicePolicy=closed" in unit
    assert [line for line in unit if line.startswith("DeviceAllow")] == ["DeviceAllow=char-89 rw"]
    assert "PrivateDevices=yes" not in unit


def test_a_driver_without_a_number_of_its_own_is_loaded_first(config: DeviceConfig) -> None:
    """Its name means nothing to systemd before that, and would be forbidden for good."""
    stream = msgspec.structs.replace(config.streams["main"], source={"kind": "iio"})
    unit = _unit(config, streams={"main": stream})

    assert "Wants=modprobe@industrialio.service" in unit
    assert "After=local-fs.target systemd-udevd.service modprobe@industrialio.service" in unit


def test_an_accelerator_brings_nodes_of_its_own(config: DeviceConfig) -> None:
    """Which they are depends on its driver."""
    stream = config.streams["main"]
    model = msgspec.structs.replace(stream.model, accelerator="edgetpu")
    stream = msgspec.structs.replace(stream, model=model)

    assert "DevicePolicy=auto" in _unit(config, streams={"main": stream})


def test_a_path_that_systemd_would_misread_is_refused(config: DeviceConfig) -> None:
    """A percent sign is a specifier, and a space ends a word."""
    for name in ("a b.yaml", "a%n.yaml", "a$b.yaml"):
        with pytest.raises(ConfigError, match="has a space"):
            unit_of(config, Path("/etc") / name, program=PROGRAM, user="edge-runtime")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_itself_finds_nothing_wrong(config: DeviceConfig, tmp_path: Path) -> None:
    """Its own checker knows every key, and calls the exposure low."""
    program = shutil.which("true") or ""
    text = unit_of(config, Path("/etc/fan-1.yaml"), program=Path(program), user="root")
    unit = tmp_path / "edge-runtime-fan-1.service"
    unit.write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (verified.returncode, verified.stderr) == (0, "")
    assert judged.returncode == 0, judged.stdout[-300:]
