"""Memory, start and idling of whole device processes, seen from outside."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from device import Broker, Device, broker, device_yaml, installed
from measure import median_ratio, seconds
from results import Ratio, Row

__all__ = ["PARTS"]

_START = Path(__file__).parent / "children" / "start.py"
_WINDOWS = 500
_ROWS = 49
_RSS_BARS_MB = {"litert": 56.0, "onnx": 74.0}
_STREAMS_BAR_MB = 120.0
_START_RATIO = 1.6
_IDLE_BARS = (0.1, 3.0)
_SETTLE_S = 3.0


def memory(backend: str, *, rounds: int) -> list[Row]:
    """Resident memory with MQTT and outbox, after 500 windows of keywords."""
    del rounds
    with _broker() as (folder, link):
        path = device_yaml(folder, link, backend=backend, windows=_WINDOWS)
        with Device(path, link) as device:
            device.wait_for(_WINDOWS * _ROWS)
            rss_mb = device.rss_mb()
    _, libraries_mb = _started("bare", backend)
    name = "rss_litert_mb" if backend == "litert" else "rss_ort_mb"
    peers = {"numpy, engine and paho alone MB": libraries_mb}
    return [Row.of(name, rss_mb, "MB", bar=_RSS_BARS_MB[backend], peers=peers)]


def many_streams(*, rounds: int) -> list[Row]:
    """32 streams of one bundle in one process."""
    del rounds
    names = [f"s{number}" for number in range(32)]
    windows = 20
    with _broker() as (folder, link):
        path = device_yaml(folder, link, windows=windows, streams=names)
        with Device(path, link) as device:
            device.wait_for(windows * _ROWS, names)
            rss_mb = device.rss_mb()
    return [Row.of("streams_32_rss_mb", rss_mb, "MB", bar=_STREAMS_BAR_MB, peers={})]


def start(*, rounds: int) -> list[Row]:
    """Processor time from process start to the first answer, over the libraries alone."""
    ours, bare = [], []
    with _broker() as (folder, link):
        for number in range(max(3, rounds // 25)):
            place = folder / str(number)
            place.mkdir()
            path = device_yaml(place, link, windows=4)
            bare.append(_started("bare", "litert")[0])
            ours.append(_started("ours", str(path))[0])
    ours_ms, bare_ms = statistics.median(ours), statistics.median(bare)
    ratio = Ratio("ours over the libraries alone", median_ratio(ours, bare), at_most=_START_RATIO)
    peers = {"numpy, engine and paho alone ms": bare_ms}
    return [Row.of("start_cpu_ms", ours_ms, "ms", bar=None, ratios=[ratio], peers=peers)]


def idle(*, rounds: int) -> list[Row]:
    """Connected, a source that is silent, nothing to do."""
    with _broker() as (folder, link):
        path = device_yaml(folder, link, windows=1, pause_s=3600.0)
        with Device(path, link) as device:
            device.wait_for(_ROWS)
            time.sleep(_SETTLE_S)
            before = device.usage()
            time.sleep(seconds(rounds, 12.0))
            after = device.usage()
    passed_s = (after.at_ns - before.at_ns) / 1e9
    core = 100 * (after.cpu_ns - before.cpu_ns) / (after.at_ns - before.at_ns)
    wakeups = (after.switches - before.switches) / passed_s
    peers = {"watched s": passed_s}
    return [
        Row.of("idle_core", core, "% of a core", bar=_IDLE_BARS[0], peers=peers),
        Row.of("idle_wakeups", wakeups, "/s", bar=_IDLE_BARS[1], peers=peers),
    ]


PARTS = {
    "rss_litert_mb": partial(memory, "litert"),
    "rss_ort_mb": partial(memory, "onnx"),
    "streams_32_rss_mb": many_streams,
    "start_cpu_ms": start,
    "idle_core idle_wakeups": idle,
}


@contextmanager
def _broker() -> Iterator[tuple[Path, Broker]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with broker(folder) as link:
            yield folder, link


def _started(*arguments: str) -> tuple[float, float]:
    """Return CPU ms to the first answer and the resident memory then, MB."""
    done = subprocess.run(
        [sys.executable, str(_START), *arguments],
        capture_output=True,
        text=True,
        env=installed(),
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    cpu_ms, rss_mb = map(float, done.stdout.split()[:2])
    return cpu_ms, rss_mb
