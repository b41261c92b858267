"""A device on disk, and system tools that note how they were called."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_runtime.config import DeviceConfig, load_device

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "fan_vibration"


@pytest.fixture
def device_file(tmp_path: Path) -> Path:
    """A device that replays vibrations."""
    path = tmp_path / "fan-1.yaml"
    path.write_text(
        f"""\
device: fan-1
state: state
streams:
  main:
    source:
      kind: csv
      path: {EXAMPLE}/fan_vibration_part.csv
      time: {{start: "2019-01-01T00:00:00Z", step_s: 0.02}}
    model: {{bundle: {EXAMPLE}/bundles/fan-unbalance-1.0.0}}
"""
    )
    return path


@pytest.fixture
def config(device_file: Path) -> DeviceConfig:
    """The same, loaded."""
    return load_device(device_file)


def with_bundle(config: DeviceConfig, bundle: Path) -> DeviceConfig:
    """Return the same device with another model."""
    stream = config.streams["main"]
    model = msgspec.structs.replace(stream.model, bundle=bundle)
    stream = msgspec.structs.replace(stream, model=model)
    return msgspec.structs.replace(config, streams={"main": stream})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The closed home of somebody, and no other home."""
    homes = tmp_path / "homes"
    monkeypatch.setattr("edge_runtime.service.unit._HOMES", (homes,))
    home = homes / "pi"
    home.mkdir(parents=True)
    home.chmod(0o700)
    return home


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for every call of ``systemctl`` and ``useradd``, which do nothing else.

    Where a file ``broken`` lies beside it, both fail.
    """
    tools, noted = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    for name in ("systemctl", "useradd"):
        tool = tools / name
        tool.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {noted}\n'
            f'[ ! -e {tmp_path}/broken ] || {{ echo "it is broken" >&2; exit 3; }}\n'
        )
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    noted.touch()
    return noted
