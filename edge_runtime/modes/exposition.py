"""The metrics of a running device, and the page from which Prometheus takes them.

Nothing is collected until somebody asks: components keep plain counts, and a
request reads them. The page is served by the standard library on a thread of its
own, which sleeps between requests.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.metrics import CONTENT_TYPE, Family, Histogram, render
from edge_runtime.modes.models import TimedSession, stage_times
from edge_runtime.modes.serving import Serving
from edge_runtime.modes.status import Made
from edge_runtime.pipeline import TimedPipeline
from edge_runtime.tape import Recorder

__all__ = [
    "STAGES_ANSWERED",
    "MetricsServer",
    "StreamNumbers",
    "families_of",
    "numbers_of",
    "process_families",
]

log = logging.getLogger(__name__)

_PATH = "/metrics"
_REQUEST_S = 5.0


class StreamNumbers(msgspec.Struct, frozen=True):
    """What one stream counts.

    Attributes:
        counts: By name of the metric, ``frames_received_total`` and so on.
        discarded: What gave no result, by reason.
        push: Time from a frame to its results.
        model: Reference of the base, for people.
        inference: Time of a call of the model; streams that share it share this.
        facts: Labels of ``stream_info``.
        faults: Faults of the sensor, by reason.
        suspect: Windows scored with something suspect, by what it is.
        jitter_s: How far blocks of a live source come early or late.
        stages: Of a cascade, windows by the stage that answered them.
        inferences: Of a cascade, time of a call by stage; those without a model take none.
    """

    counts: Mapping[str, int]
    discarded: Mapping[str, int]
    push: Histogram
    model: str
    inference: Histogram
    facts: Mapping[str, str]
    faults: Mapping[str, int] = {}
    suspect: Mapping[str, int] = {}
    jitter_s: float = 0.0
    stages: Mapping[str, int] = {}
    inferences: Mapping[str, Histogram] = {}


def numbers_of(made: Made, serving: Serving, lost: Mapping[str, int]) -> StreamNumbers:
    """Return what a stream counts; ``lost`` is what gave no result for want of a model."""
    pipeline = serving.pipeline
    spec, session = pipeline.spec, cast(TimedSession, pipeline.scorer.session)
    health = made.health()
    return StreamNumbers(
        counts={
            "frames_received_total": made.frames,
            "samples_received_total": serving.samples,
            "windows_scored_total": made.estimates,
            "decisions_made_total": made.decisions,
            "decisions_withheld_total": sum(pipeline.withheld.values()),
            "source_restarts_total": made.restarts,
            "samples_lost_total": health.lost_samples,
            "slots_bridged_total": pipeline.bridged if isinstance(pipeline, TimedPipeline) else 0,
        },
        discarded={**pipeline.discarded, **lost},
        push=serving.pushes,
        model=f"{spec.name}@{spec.version}",
        inference=session.answers,
        facts={"base": pipeline.base, "effective_id": pipeline.effective_id},
        faults=health.faults,
        suspect=made.suspect,
        jitter_s=health.jitter_s,
        stages=pipeline.answered,
        inferences=stage_times(spec, session),
    )


def families_of(
    streams: Mapping[str, StreamNumbers],
    *,
    device: Mapping[str, str],
    outbox: Mapping[str, float],
    lost: Mapping[str, int],
    tapes: Mapping[str, Recorder],
    link: Mapping[str, int],
    updates: Mapping[str, int],
) -> Iterator[Family]:
    """Arrange everything a device counts.

    Args:
        streams: By name.
        device: Labels of ``device_info``.
        outbox: ``outbox_rows``, ``outbox_bytes`` and what the device's files wrote.
        lost: Rows that made room in the outbox, by reason.
        tapes: What records the raw frames, by stream.
        link: As the link counts it; empty without a broker.
        updates: Reports of jobs, by their state.
    """
    yield Family("device_info", "gauge", "The device.", ((device, 1),))
    yield _by_stream("stream_info", "gauge", "What a stream runs.", streams, _facts)
    for name, text in _COUNTED.items():
        yield Family(
            name,
            "counter",
            text,
            tuple(({"stream": stream}, one.counts[name]) for stream, one in streams.items()),
        )
    yield Family("records_discarded_total", "counter", _DISCARDED, tuple(_discards(streams, lost)))
    yield Family("sensor_faults_total", "counter", _FAULTS, tuple(_faults(streams)))
    yield Family("windows_suspect_total", "counter", _SUSPECT, tuple(_suspicions(streams)))
    yield Family("windows_answered_total", "counter", STAGES_ANSWERED, tuple(_stages(streams)))
    yield _by_stream("source_jitter_seconds", "gauge", _JITTER, streams, _jitter)
    yield _by_stream("push_seconds", "histogram", _PUSHES, streams, _push_times)
    yield Family("inference_seconds", "histogram", "A call of the model.", _inferences(streams))
    for name, value in outbox.items():
        yield _of_disk(name, value)
    if tapes:
        yield from _taped(tapes)
    for name, value in link.items():
        yield _of_link(name, value)
    yield Family(
        "update_reports_total",
        "counter",
        "Reports of update jobs, by state.",
        tuple(({"state": state}, count) for state, count in updates.items()),
    )
    yield from process_families()


_COUNTED = {
    "frames_received_total": "Frames that a source delivered.",
    "samples_received_total": "Samples in them.",
    "windows_scored_total": "Windows that the model answered.",
    "decisions_made_total": "Labels that started or ended.",
    "decisions_withheld_total": "Windows that were too uncertain to start or end a label.",
    "source_restarts_total": "Times a source failed and was opened again.",
    "samples_lost_total": "Samples that were due and never came.",
    "slots_bridged_total": "Slots of the grid that the gap policy gave a value.",
}
_FAULTS = "Times something was wrong with a sensor, by reason."
_SUSPECT = "Windows that the model answered though a sample was suspect, by what it was."
STAGES_ANSWERED = "Windows of a cascade, by the stage that answered them."
_PUSHES = "From a frame to its results; frames answered at once count as one."
_JITTER = "How far blocks of a live source come early or late, root mean square."
_DISCARDED = "Samples, windows, blocks or rows that gave no result or made room, by reason."
_OUTBOX = {
    "outbox_rows": "Rows that the cloud has not acknowledged.",
    "outbox_bytes": "Bytes of these rows.",
    "outbox_written_bytes_total": "Bytes written to the disk for them, log and file.",
    "state_written_bytes_total": "Bytes written to the disk for what must not be forgotten.",
}


def _of_disk(name: str, value: float) -> Family:
    kind: Any = "counter" if name.endswith("_total") else "gauge"
    return Family(name, kind, _OUTBOX[name], (({}, value),))


def _by_stream(
    name: str,
    kind: Any,
    text: str,
    streams: Mapping[str, StreamNumbers],
    sample: Callable[[str, StreamNumbers], tuple[Mapping[str, str], float | Histogram]],
) -> Family:
    return Family(name, kind, text, tuple(sample(key, one) for key, one in streams.items()))


def _facts(stream: str, one: StreamNumbers) -> tuple[Mapping[str, str], float]:
    return {"stream": stream, "model": one.model, **one.facts}, 1


def _jitter(stream: str, one: StreamNumbers) -> tuple[Mapping[str, str], float]:
    return {"stream": stream}, one.jitter_s


def _faults(streams: Mapping[str, StreamNumbers]) -> Iterator[tuple[Mapping[str, str], float]]:
    for stream, one in streams.items():
        for reason, count in one.faults.items():
            yield {"stream": stream, "reason": reason}, count


def _suspicions(
    streams: Mapping[str, StreamNumbers],
) -> Iterator[tuple[Mapping[str, str], float]]:
    for stream, one in streams.items():
        for quality, count in one.suspect.items():
            yield {"stream": stream, "quality": quality}, count


def _stages(streams: Mapping[str, StreamNumbers]) -> Iterator[tuple[Mapping[str, str], float]]:
    for stream, one in streams.items():
        for stage, count in one.stages.items():
            yield {"stream": stream, "stage": stage}, count


def _push_times(stream: str, one: StreamNumbers) -> tuple[Mapping[str, str], Histogram]:
    return {"stream": stream}, one.push


def _discards(
    streams: Mapping[str, StreamNumbers], lost: Mapping[str, int]
) -> Iterator[tuple[Mapping[str, str], float]]:
    for stream, one in streams.items():
        for reason, count in one.discarded.items():
            yield {"stream": stream, "reason": reason}, count
    for reason, count in lost.items():
        yield {"reason": reason}, count


def _inferences(
    streams: Mapping[str, StreamNumbers],
) -> tuple[tuple[Mapping[str, str], Histogram], ...]:
    """Return each loaded model once, named by its base and the first stream that runs it."""
    found: dict[int, tuple[Mapping[str, str], Histogram]] = {}
    for stream, one in streams.items():
        labels = {"model": one.model, "stream": stream}
        for stage, times in one.inferences.items():
            found.setdefault(id(times), ({**labels, "stage": stage}, times))
        found.setdefault(id(one.inference), (labels, one.inference))
    return tuple(found.values())


def _taped(tapes: Mapping[str, Recorder]) -> Iterator[Family]:
    sizes = tuple(({"stream": name}, tape.size_bytes) for name, tape in tapes.items())
    yield Family("tape_bytes", "gauge", "Raw frames on the disk.", sizes)
    kept = tuple(({"stream": name}, tape.frames) for name, tape in tapes.items())
    yield Family("tape_frames_total", "counter", "Raw frames that were kept.", kept)
    lost = tuple(
        ({"stream": name, "reason": reason}, count)
        for name, tape in tapes.items()
        for reason, count in dict(tape.discarded).items()
    )
    text = "Raw frames that were not kept, by reason."
    yield Family("tape_frames_discarded_total", "counter", text, lost)


def _of_link(name: str, value: int) -> Family:
    """Name a number of the link: those that only grow end in ``_total``."""
    grows = name.endswith("_total") or name.startswith("bytes_")
    full = f"link_{name}" if name.endswith("_total") or not grows else f"link_{name}_total"
    return Family(full, "counter" if grows else "gauge", "See LinkStats.", (({}, value),))


def process_families() -> Iterable[Family]:
    """Tell the processor time and the memory of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = usage.ru_utime + usage.ru_stime
    yield Family("process_cpu_seconds_total", "counter", "Processor time.", (({}, seconds),))
    status = Path("/proc/self/statm")
    if status.exists():
        resident = int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        yield Family("process_resident_memory_bytes", "gauge", "Memory.", (({}, resident),))


class MetricsServer:
    """Serves ``/metrics`` over HTTP.

    Args:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        families: Collects, on the thread that answers a request.

    Attributes:
        port: Where it listens.

    Raises:
        ConfigError: Nobody can listen there.
    """

    def __init__(self, host: str, port: int, families: Callable[[], Iterable[Family]]) -> None:
        handler = type("Handler", (_Handler,), {"families": staticmethod(families)})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be served on {host}:{port}: {error.strerror or error}",
                where="metrics",
                expected="a free port on an address of this machine",
                remedy="Choose another metrics.port, or end the program that has it.",
            ) from error
        self._server.daemon_threads = True
        self._host = str(self._server.server_address[0])
        self.port: int = self._server.server_address[1]
        self._stopping = threading.Event()

    def run(self) -> None:
        """Answer requests until `stop`; no timer wakes this thread."""
        with self._server:
            while not self._stopping.is_set():
                self._server.handle_request()

    def stop(self) -> None:
        """End `run`; callable from any thread."""
        self._stopping.set()
        # The thread waits for a connection: here is one.
        with suppress(OSError):
            socket.create_connection((self._host, self.port), _REQUEST_S).close()


class _Handler(BaseHTTPRequestHandler):
    """Answers GET /metrics."""

    families: Callable[[], Iterable[Family]]
    timeout = _REQUEST_S
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send the page, or say where it is."""
        if self.path.partition("?")[0] != _PATH:
            self._send(404, "text/plain; charset=utf-8", f"The metrics are at {_PATH}\n")
            return
        self._send(200, CONTENT_TYPE, render(self.families()))

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Keep requests out of standard error."""
        log.debug("metrics.requested", extra={"request": format % args})
