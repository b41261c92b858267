"""Every device that is declared in ``device_configs`` checks out, and runs on simulated sensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.boards import BOARDS
from edge_runtime.bundle import load_bundle
from edge_runtime.cli import main
from edge_runtime.config import DeviceConfig, StreamConfig, load_device
from edge_runtime.modes.edge import EdgeDevice

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "device_configs").glob("*.yaml"))
NAMES = [path.stem for path in CONFIGS]
WINDOWS = 20


def test_every_board_has_a_device() -> None:
    """Whoever has the board finds one to begin with."""
    assert set(BOARDS) <= set(NAMES)


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_it_checks_out(path: Path) -> None:
    """Source, window, features, model and limits fit each other."""
    needs_hardware = any(
        stream.model.accelerator or stream.model.backend == "tflite-runtime"
        for stream in load_device(path).streams.values()
    )

    assert main(["check", str(path), *(["--no-models"] if needs_hardware else [])]) == 0


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_it_runs_on_simulated_sensors(path: Path, tmp_path: Path) -> None:
    """With its own model, window and budgets; what needs other hardware gives way."""
    device = EdgeDevice(_simulated(load_device(path), tmp_path))
    device.run()

    for name, stream in device.status().streams.items():
        assert stream.estimates >= WINDOWS - 1, name
        assert stream.source.lost_samples == 0


def _simulated(config: DeviceConfig, folder: Path) -> DeviceConfig:
    return msgspec.structs.replace(
        config,
        state=folder / "state",
        streams={name: _on_a_sine(stream) for name, stream in config.streams.items()},
        sinks=(),
        sync=None,
        metrics=None,
    )


def _on_a_sine(stream: StreamConfig) -> StreamConfig:
    spec = load_bundle(stream.model.bundle).spec
    rate_hz = spec.stream.rate_hz
    samples = spec.window.length + WINDOWS * spec.window.hop
    source: dict[str, Any] = {
        "kind": "simulated",
        "signal": {
            "kind": "sine",
            "rate_hz": rate_hz,
            "tone_hz": rate_hz / 10,
            "channels": [{"name": one.name, "unit": one.unit} for one in spec.stream.channels],
        },
        "start": "2026-01-01T00:00:00Z",
        "duration_s": samples / rate_hz,
        "speed": "max",
    }
    backend = None if stream.model.backend == "tflite-runtime" else stream.model.backend
    model = msgspec.structs.replace(stream.model, backend=backend, accelerator=None)
    return msgspec.structs.replace(stream, source=source, model=model)
