"""Minutes of samples through the real sources, none lost: `python benchmarks/soak.py`.

Each source reads a stand-in that delivers in real time: a kernel with a 3.2 kHz
accelerometer of three axes, a sound card at 16 kHz, a camera at 10 images a second
whose JPEG images of 640 x 480 become 96 x 96 RGB. The sources run side by side, each
in a process of its own; what is told is the processor time of the thread that reads.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.ports import LiveSource
from edge_runtime.spec import ChannelSpec, ImageSpec, StreamSpec

__all__ = ["main"]

_TICK_S = 0.05


class Soaked(msgspec.Struct, frozen=True):
    """What became of one source.

    Attributes:
        source: Its kind.
        rate_hz: Samples a second that it was asked for.
        seconds: From the first sample to the last.
        samples: Delivered.
        lost: Counted as lost.
        off: Share by which delivered samples differ from rate times seconds.
        core: Processor time of the reading thread, share of a core.
        jitter_ms: How far blocks came early or late.
    """

    source: str
    rate_hz: float
    seconds: float
    samples: int
    lost: int
    off: float
    core: float
    jitter_ms: float


@contextmanager
def _iio(folder: Path) -> Iterator[tuple[LiveSource, StreamSpec]]:
    from edge_runtime.sources.iio import IioConfig, IioSource
    from edge_runtime.testing.iio import FakeIio

    axes = dict.fromkeys("xyz", "le:s13/16>>0")
    kernel = FakeIio(folder, elements=axes, rates_hz=(3200.0,))
    config = IioConfig(device="adxl345", root=kernel.root, nodes=kernel.nodes)
    need = StreamSpec(tuple(ChannelSpec(axis) for axis in "xyz"), 3200.0)
    with kernel.playing(3200.0, block=64):
        yield IioSource(config, kernel=kernel), need
    kernel.close()


@contextmanager
def _microphone(_: Path) -> Iterator[tuple[LiveSource, StreamSpec]]:
    from edge_runtime.sources.microphone import MicrophoneConfig, MicrophoneSource
    from edge_runtime.testing.portaudio import FakeDevice, FakePortAudio

    began = time.monotonic()

    def play(number: int, count: int) -> np.ndarray:
        """A block comes when its last sample has been heard."""
        time.sleep(max(0.0, began + (number + 1) * count / 16_000 - time.monotonic()))
        return np.full((count, 1), number % 1000, np.int16)

    library = FakePortAudio(FakeDevice("mic (hw:1,0)"), play=play)
    source = MicrophoneSource(MicrophoneConfig(), sounddevice=library)
    yield source, StreamSpec((ChannelSpec("audio"),), 16_000.0)


@contextmanager
def _camera(_: Path) -> Iterator[tuple[LiveSource, StreamSpec]]:
    from PIL import Image

    from edge_runtime.sources.camera import CameraConfig, CameraSource
    from edge_runtime.testing.v4l2 import FakeVideo

    jpeg = io.BytesIO()
    noise = np.random.default_rng(7).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).resize((640, 480)).save(jpeg, "JPEG")
    video = FakeVideo({("MJPG", 640, 480): 10.0}, lambda _: jpeg.getvalue())
    stop = threading.Event()

    def expose() -> None:
        began, number = time.monotonic(), 0
        while not stop.wait(max(0.0, began + number / 10 - time.monotonic())):
            number += 1
            if video.is_streaming:
                video.take_picture()

    shutter = threading.Thread(target=expose)
    shutter.start()
    channels = tuple(ChannelSpec(f"p{number}") for number in range(288))
    need = StreamSpec(channels, 960.0, image=ImageSpec(height=96, width=96))
    try:
        yield CameraSource(CameraConfig(width=640, height=480), kernel=video), need
    finally:
        stop.set()
        shutter.join()


_SOURCES: dict[str, Callable[[Path], AbstractContextManager[tuple[LiveSource, StreamSpec]]]] = {
    "iio": _iio,
    "microphone": _microphone,
    "camera": _camera,
}


def _soak(kind: str, wanted_s: float) -> Soaked:
    """Read one source for so long, on this thread."""
    with (
        tempfile.TemporaryDirectory() as name,
        _SOURCES[kind](Path(name)) as (source, need),
    ):
        source.open("soak", need, 0)
        first_ns = last_ns = samples = 0
        end, cpu_ns = time.monotonic() + wanted_s, time.thread_time_ns()
        while time.monotonic() < end:
            frame = source.read(_TICK_S)
            if frame is not None:
                first_ns = first_ns or int(frame.time_ns[0])
                last_ns = int(frame.time_ns[-1])
                samples += len(frame)
        cpu_ns = time.thread_time_ns() - cpu_ns
        health = source.health()
        source.close()
    seconds = (last_ns - first_ns) / 1e9 + 1 / need.rate_hz
    return Soaked(
        kind,
        need.rate_hz,
        seconds,
        samples,
        health.lost_samples,
        samples / (need.rate_hz * seconds) - 1,
        cpu_ns / 1e9 / wanted_s,
        health.jitter_s * 1e3,
    )


def main() -> int:
    """Soak all sources side by side; 1 if one of them lost a sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--only", choices=sorted(_SOURCES), help="one source, in this process")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    if args.only:
        sys.stdout.buffer.write(msgspec.json.encode(_soak(args.only, args.seconds)) + b"\n")
        return 0
    command = [sys.executable, __file__, "--seconds", str(args.seconds), "--only"]
    children = [subprocess.Popen([*command, kind], stdout=subprocess.PIPE) for kind in _SOURCES]
    found = [msgspec.json.decode(child.communicate()[0], type=Soaked) for child in children]
    for one in found:
        if args.json:
            sys.stdout.buffer.write(msgspec.json.encode(one) + b"\n")
        else:
            print(
                f"{one.source:11} {one.samples} samples in {one.seconds:.1f} s, {one.lost} lost, "
                f"{100 * one.core:.1f} % of a core, jitter {one.jitter_ms:.2f} ms"
            )
    is_whole = all(one.lost == 0 and abs(one.off) < 1e-3 for one in found)
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
