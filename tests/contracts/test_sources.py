"""Every registered source keeps the contract of its port."""

from __future__ import annotations

import os
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime import registry
from edge_runtime.clock import SystemClock
from edge_runtime.ports import LiveSource, Source
from edge_runtime.sources.camera import CameraConfig, CameraSource
from edge_runtime.sources.incoming_images import IncomingImagesConfig, IncomingImagesSource
from edge_runtime.sources.microphone import MicrophoneConfig, MicrophoneSource
from edge_runtime.spec import ChannelSpec, ImageSpec, StreamSpec
from edge_runtime.testing import check_live_source, check_source
from edge_runtime.testing.portaudio import FakeDevice, FakePortAudio
from edge_runtime.testing.v4l2 import FakeVideo

ROWS = 700
NEED = StreamSpec((ChannelSpec("x"), ChannelSpec("y")), 100.0)
LINES = 4
IMAGES = StreamSpec(
    tuple(ChannelSpec(f"c{number}") for number in range(9)), 10.0 * LINES, ImageSpec(LINES, 3)
)
GRID = MappingProxyType({"start": "2013-01-01T00:00:00Z", "step_s": 0.01})


def _samples() -> np.ndarray:
    samples: np.ndarray = np.random.default_rng(1).integers(-9999, 9999, (ROWS, 2), np.int16)
    return samples


def _csv(path: Path) -> Mapping[str, Any]:
    header = "x,y"
    np.savetxt(path, _samples(), "%d", ",", header=header, comments="")
    return {"time": dict(GRID)}


def _npz(path: Path) -> Mapping[str, Any]:
    with path.open("wb") as file:
        np.savez(file, x=_samples()[:, 0], y=_samples()[:, 1])
    return {"time": dict(GRID)}


def _parquet(path: Path) -> Mapping[str, Any]:
    pq.write_table(pa.table({"x": _samples()[:, 0], "y": _samples()[:, 1]}), path)
    return {"time": dict(GRID)}


def _wav(path: Path) -> Mapping[str, Any]:
    with wave.open(str(path), "wb") as file:
        file.setsampwidth(2)
        file.setnchannels(2)
        file.setframerate(100)
        file.writeframes(_samples().astype("<i2").tobytes())
    return {}


RECORDINGS: Mapping[str, Callable[[Path], Mapping[str, Any]]] = {
    "csv": _csv,
    "npz": _npz,
    "parquet": _parquet,
    "wav": _wav,
}


def _camera(_: Path) -> LiveSource:
    def picture(number: int) -> bytes:
        return bytes([number % 256]) * (32 * 16 * 2)

    video = FakeVideo({("YUYV", 32, 16): 10.0}, picture, is_free_running=True)
    return CameraSource(CameraConfig(width=32, height=16), kernel=video)


def _microphone(_: Path) -> LiveSource:
    library = FakePortAudio(
        FakeDevice("mic (hw:1,0)"), play=lambda _, count: np.ones((count, 1), np.int16)
    )
    return MicrophoneSource(MicrophoneConfig(), sounddevice=library)


def _arecord(folder: Path) -> LiveSource:
    program = folder / "arecord"
    program.write_text("#!/bin/sh\nexec yes\n")
    program.chmod(0o755)
    return MicrophoneSource(MicrophoneConfig(through="alsa"), arecord=program)


class _FillingClock(SystemClock):
    """Whenever it is asked for the time, a picture has come into the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def monotonic_ns(self) -> int:
        self._count += 1
        if self._count % 4 == 0:
            path = self._folder / f"{self._count}.png"
            Image.new("RGB", (3, LINES)).save(path)
            os.utime(path, ns=(self._count * 10**8, self._count * 10**8))
        return super().monotonic_ns()


def _incoming(folder: Path) -> LiveSource:
    config = IncomingImagesConfig(path=folder, poll_s=0.05)
    return IncomingImagesSource(config, clock=_FillingClock(folder))


AUDIO = StreamSpec((ChannelSpec("audio"),), 16_000.0)
LIVE: Mapping[str, tuple[Callable[[Path], LiveSource], StreamSpec]] = {
    "camera": (_camera, IMAGES),
    "incoming-images": (_incoming, IMAGES),
    "microphone": (_microphone, AUDIO),
    "microphone through alsa": (_arecord, AUDIO),
}
"""Live sources on stand-ins that deliver, and what they are asked for."""
ELSEWHERE = ("bme280", "iio", "merge", "mpu6050", "mqtt", "serial", "simulated")
"""Those whose stand-ins take more room have a module of their own beside this one."""


def test_every_source_is_checked() -> None:
    """A new source needs a recording here, or a check of its own."""
    live = {kind.partition(" ")[0] for kind in LIVE}
    assert {*RECORDINGS, *live, "images", *ELSEWHERE} == set(registry.names("sources"))


@pytest.mark.parametrize("kind", sorted(RECORDINGS))
@given(st.data())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_source_keeps_its_contract(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """Opened at any index, with any block, a source delivers exactly the rows from there on."""
    path = tmp_path / f"recording.{kind}"
    options = {"path": str(path), **RECORDINGS[kind](path)}
    options["block"] = data.draw(st.integers(1, ROWS + 1))
    options["first_row"] = data.draw(st.sampled_from([0, 0, 13]))
    resume_at = data.draw(st.lists(st.integers(0, ROWS), min_size=1, max_size=3))

    def make() -> Source:
        source: Source = registry.create("sources", kind, options)
        return source

    check_source(make, NEED, resume_at=resume_at)


@given(st.lists(st.integers(0, 5 * LINES), min_size=1, max_size=3), st.sampled_from([0, 0, 2]))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_images_keep_their_contract(tmp_path: Path, resume_at: list[int], first_image: int) -> None:
    """Opened at any line, also within an image, exactly the lines from there on come."""
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    time = {"start": "2013-01-01T00:00:00Z", "step_s": 0.1}
    options = {"path": str(tmp_path), "time": time, "first_image": first_image}

    def make() -> Source:
        source: Source = registry.create("sources", "images", options)
        return source

    check_source(make, IMAGES, resume_at=resume_at)


@pytest.mark.parametrize("kind", sorted(LIVE))
def test_live_source_keeps_its_contract(tmp_path: Path, kind: str) -> None:
    """It delivers, counts, wakes, closes, and can be opened again."""
    make, need = LIVE[kind]

    check_live_source(lambda: make(tmp_path), need)


@given(st.data())
@settings(max_examples=8)
def test_simulated_source_keeps_its_contract(data: st.DataObject) -> None:
    """Noise, faults and lost samples are the same again, wherever a replay begins."""
    faults = [
        {"kind": "noise", "rms": 0.1},
        {"kind": "dropout", "share": 0.1, "leaves": "missing", "active": [{"from_s": 2}]},
    ]
    options = {
        "signal": {"kind": "sine", "channels": [{"name": "x"}, {"name": "y"}]},
        "faults": faults,
        "duration_s": ROWS / 100,
        "speed": "max",
        "block": data.draw(st.integers(1, ROWS + 1)),
    }
    resume_at = data.draw(st.lists(st.integers(0, ROWS), min_size=1, max_size=3))

    def make() -> Source:
        source: Source = registry.create("sources", "simulated", options)
        return source

    check_source(make, NEED, resume_at=resume_at)
