"""The five modes side by side, measured on this machine with one bundle and one recording."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle
from edge_runtime.clock import SystemClock
from edge_runtime.config import device_of, dump_yaml
from edge_runtime.config.document import parse_document
from edge_runtime.errors import SourceError
from edge_runtime.modes.batch import BatchJob, BatchReport, run_batch
from edge_runtime.modes.batch.block import with_proven_block
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.modes.parity import Rows
from edge_runtime.modes.parity.client import Client, served
from edge_runtime.modes.parity.rows import SAMPLES, TIMES
from edge_runtime.ports import Choice
from edge_runtime.sources import Pace
from edge_runtime.spec import Layer, PriorLayer
from edge_runtime.sync.transport import MemoryBroker

__all__ = ["MODES", "Measured", "measure_modes"]

_MEASURED_S = 1.5
# So many windows are timed, each after the answer to the one before.
_TIMED_WINDOWS = 300
_BATCH_ROWS = 2_000_000
_CONNECTIONS = 16
# Rows of a frame where all may come at once.
_BLOCK = 256


class Measured(msgspec.Struct, frozen=True):
    """One mode.

    Attributes:
        mode: Its name.
        p50_ms: Median time from a window's last sample to its answer, ms; None where
            nobody waits for a single window.
        p99_ms: The time that one in a hundred exceeds.
        rate: How many ``unit`` a second, as fast as it can.
        unit: Of what.
        network: What it needs of the network.
        purpose: What it is for.
    """

    mode: str
    p50_ms: float | None
    p99_ms: float | None
    rate: float
    unit: str
    network: str
    purpose: str


class _Setting(msgspec.Struct, frozen=True, eq=False):
    bundle: Bundle
    bundle_path: Path
    choice: Choice
    rows: Rows
    folder: Path


_Times = tuple[list[float], float]
"""Seconds that single windows took, and what is done in a second."""


def measure_modes(
    bundle: Bundle,
    bundle_path: Path,
    rows: Rows,
    *,
    choice: Choice,
    on_mode: Callable[[str], None] = lambda _: None,
) -> list[Measured]:
    """Run a bundle in every mode for a second or two each.

    Args:
        bundle: The base.
        bundle_path: Folder or zip file it was read from; processes open it anew.
        rows: What the modes are shown, again and again where they are few; rows with a
            missing value are left out, and gaps in time closed.
        choice: How the model is run, in all modes alike.
        on_mode: Told the name of each mode before it begins.

    Raises:
        EdgeError: A mode failed.
    """
    with tempfile.TemporaryDirectory(prefix="modes-") as name:
        setting = _Setting(bundle, bundle_path, choice, _enough(rows, bundle), Path(name))
        measured = []
        for mode in MODES:
            on_mode(mode)
            measured.append(MODES[mode](setting))
    return measured


def _enough(rows: Rows, bundle: Bundle) -> Rows:
    """Return rows that all answer: whole ones, repeated if they are few, without a gap."""
    window, period_ns = bundle.spec.window, bundle.spec.stream.period_ns
    is_whole = np.isfinite(rows.samples).all(axis=1)
    if not is_whole.any():
        raise SourceError(
            "no row has a value for every channel",
            where="the rows",
            expected="some to measure with",
            remedy="Name another file.",
        )
    whole = rows.samples[is_whole]
    count = max(len(whole), window.length + _TIMED_WINDOWS * window.hop)
    time_ns = rows.time_ns[0] + np.arange(count, dtype=np.int64) * period_ns
    return Rows(np.resize(whole, (count, whole.shape[1])), time_ns)


# --- edge and streaming ---------------------------------------------------------------


class _Release:
    """A pace that lets the samples of one window go, and notes when."""

    def __init__(self, length: int, hop: int) -> None:
        self._length, self._hop = length, hop
        self._told = threading.Semaphore(1)
        self._released_s = 0.0

    def answered(self) -> float:
        """Let the next window go and return how long this one took."""
        took_s = time.perf_counter() - self._released_s
        self._told.release()
        return took_s

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:  # noqa: ARG002
        """Wait until the window before is answered, or never will be; see `Pace`."""
        self._told.acquire(timeout=timeout_s)
        self._released_s = time.perf_counter()
        return self._length if index == 0 else self._hop


def _edge(setting: _Setting) -> Measured:
    # It never has a link: what the device makes stays in its outbox.
    further = {"sync": {"host": "127.0.0.1", "port": 9}}
    return _measured(
        "edge",
        *_device(setting, "edge", further),
        "windows/s",
        network="none; what is kept goes out when there is a link",
        purpose="decide next to the sensor, offline for as long as it must be",
    )


def _streaming(setting: _Setting) -> Measured:
    path = setting.folder / "streaming.jsonl"
    return _measured(
        "streaming",
        *_device(setting, "streaming", {"sinks": [{"kind": "jsonl", "path": str(path)}]}),
        "windows/s",
        network="only what its source and sinks need",
        purpose="events and windows without an end, late data included",
    )


def _device(setting: _Setting, name: str, further: dict[str, Any]) -> _Times:
    """Time single windows through a whole device, then many as fast as it can."""
    times = _timed(setting, name, further)
    rows = _affordable(setting, float(np.median(times)))
    marks: list[float] = []
    device = _opened(setting, f"{name}-whole", rows, further, on_estimates=marks.append)
    device.run(drain_s=0.0)
    windows = device.status().streams["main"].estimates
    return times, windows / max(marks[-1] - marks[0], 1e-9)


def _timed(setting: _Setting, name: str, further: dict[str, Any]) -> list[float]:
    window = setting.bundle.spec.window
    pace = _Release(window.length, window.hop)
    times: list[float] = []

    def note(_: float) -> None:
        times.append(pace.answered())
        if len(times) > _TIMED_WINDOWS:
            device.stop()

    device = _opened(setting, f"{name}-timed", setting.rows, further, on_estimates=note, pace=pace)
    device.run(drain_s=0.0)
    # The first one pays for what is done once.
    return times[1:] or times


def _opened(
    setting: _Setting,
    name: str,
    rows: Rows,
    further: dict[str, Any],
    *,
    on_estimates: Callable[[float], None],
    pace: Pace | None = None,
) -> EdgeDevice:
    # A window that is let go comes as one frame.
    block = _BLOCK if pace is None else min(65536, setting.bundle.spec.window.length)
    recording = setting.folder / f"{name}.npz"
    rows.save(recording)
    source = {"kind": "npz", "path": str(recording), "array": SAMPLES, "block": block}
    time_of = {"column": TIMES, "format": "unix_ns"}
    declared = {
        "device": "modes",
        "state": str(setting.folder / name),
        "streams": {"main": {"source": {**source, "time": time_of}, "model": _model(setting)}},
        **further,
    }
    config = device_of(parse_document(dump_yaml(declared), "modes"), setting.folder)

    def on_event(event: str, _: object) -> None:
        if event == "estimates.made":
            on_estimates(time.perf_counter())

    nowhere = MemoryBroker()
    nowhere.cut(config.device)
    return EdgeDevice(
        config,
        paces={} if pace is None else {"main": pace},
        on_event=on_event,
        connect=lambda _sync, client, _clock: nowhere.transport(client),
    )


def _model(setting: _Setting) -> dict[str, Any]:
    choice = {"backend": setting.choice.backend, "threads": setting.choice.threads}
    model = {"bundle": str(setting.bundle_path.absolute()), **choice}
    return {key: value for key, value in model.items() if value is not None}


def _affordable(setting: _Setting, window_s: float) -> Rows:
    """Return as many rows as take about `_MEASURED_S`."""
    window = setting.bundle.spec.window
    windows = max(_TIMED_WINDOWS, int(_MEASURED_S / max(window_s, 1e-6)))
    count = min(len(setting.rows), window.length + windows * window.hop)
    return Rows(setting.rows.samples[:count], setting.rows.time_ns[:count])


# --- real-time --------------------------------------------------------------------------


def _realtime(setting: _Setting) -> Measured:
    window = _windows(setting)[:1]
    name = setting.bundle.spec.name
    with served(setting.bundle_path) as port:
        with Client(port) as client:
            times = [
                _seconds(lambda: client.infer(name, {"window": window}, {}))
                for _ in range(_TIMED_WINDOWS)
            ]
        rate = _asked_at_once(port, name, window)
    return _measured(
        "real-time",
        times[1:],
        rate,
        "requests/s",
        network="from the client to here",
        purpose="one question, one answer, for other programs",
    )


def _asked_at_once(port: int, name: str, window: np.ndarray) -> float:
    """Ask over 16 connections and return the answers a second."""
    until = time.perf_counter() + _MEASURED_S
    counts = [0] * _CONNECTIONS

    def ask(number: int) -> None:
        with Client(port) as client:
            while time.perf_counter() < until:
                client.infer(name, {"window": window}, {})
                counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(_CONNECTIONS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun)


# --- batch ------------------------------------------------------------------------------


def _batch(setting: _Setting) -> Measured:
    window = setting.bundle.spec.window
    count = window.length + _TIMED_WINDOWS * window.hop
    report = _scored(setting, count)
    # Until opening files and model is a small part of it.
    while report.seconds < _MEASURED_S / 2 and count < _BATCH_ROWS:
        count = min(8 * count, _BATCH_ROWS)
        report = _scored(setting, count)
    return Measured(
        "batch",
        None,
        None,
        report.rows_per_s,
        "rows/s",
        network="from the file to here",
        purpose="millions of rows at once, answers ahead of the question",
    )


def _scored(setting: _Setting, count: int) -> BatchReport:
    path = setting.folder / f"batch-{count}.npz"
    shape = (count, *setting.rows.samples.shape[1:])
    arrays: dict[str, Any] = {SAMPLES: np.resize(setting.rows.samples, shape)}
    np.savez(path, **arrays)
    job = BatchJob(
        input=path,
        output=path.with_suffix(".parquet"),
        array=SAMPLES,
        choice=with_proven_block(setting.bundle, setting.choice, SystemClock()),
    )
    return run_batch(job, setting.bundle)


# --- hybrid -----------------------------------------------------------------------------


def _hybrid(setting: _Setting) -> Measured:
    labels = len(setting.bundle.spec.labels)
    prior = Layer(
        body=PriorLayer((0.5,) * labels, (0.0,) * labels),
        requires=setting.bundle.digest,
        seq=1,
        made_ns=int(setting.rows.time_ns.min()),
        half_life_s=86400.0,
    )
    pipeline = open_pipeline(setting.bundle, setting.choice, layers=[prior])
    window = setting.bundle.spec.window
    bounds = [0, *range(window.length, len(setting.rows) + 1, window.hop)]
    frames = [setting.rows.frame(a, b) for a, b in itertools.pairwise(bounds[: _TIMED_WINDOWS + 1])]
    times = [_seconds(partial(pipeline.push, frame)) for frame in frames]
    rows = _affordable(setting, float(np.median(times)))
    fresh = open_pipeline(setting.bundle, setting.choice, layers=[prior])
    begun = time.perf_counter()
    windows = len(fresh.push(rows.frame(0, len(rows))).estimates)
    return _measured(
        "hybrid",
        times[1:],
        windows / (time.perf_counter() - begun),
        "windows/s",
        network="layers come when there is a link; no answer waits for one",
        purpose="batch answers computed ahead, refined live by fresh samples",
    )


# --- what they share ----------------------------------------------------------------------


def _windows(setting: _Setting) -> np.ndarray:
    golden: np.ndarray = setting.bundle.golden().inputs
    return golden.astype(np.float32) if golden.dtype.kind == "f" else golden


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _measured(
    mode: str, times: Sequence[float], rate: float, unit: str, *, network: str, purpose: str
) -> Measured:
    p50, p99 = (1e3 * float(np.quantile(times, q)) for q in (0.5, 0.99))
    return Measured(mode, p50, p99, rate, unit, network, purpose)


MODES: Mapping[str, Callable[[_Setting], Measured]] = {
    "edge": _edge,
    "streaming": _streaming,
    "real-time": _realtime,
    "batch": _batch,
    "hybrid": _hybrid,
}
"""By name, in the order they are measured."""
