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
from typing import Any

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.metrics import CONTENT_TYPE, Family, Histogram, render

__all__ = ["MetricsServer", "StreamNumbers", "families_of"]

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
    """

    counts: Mapping[str, int]
    discarded: Mapping[str, int]
    push: Histogram
    model: str
    inference: Histogram
    facts: Mapping[str, str]


def families_of(
    streams: Mapping[str, StreamNumbers],
    *,
    device: Mapping[str, str],
    outbox: Mapping[str, float],
    lost: Mapping[str, int],
    link: Mapping[str, int],
    updates: Mapping[str, int],
) -> Iterator[Family]:
    """Arrange everything a device counts.

    Args:
        streams: By name.
        device: Labels of ``device_info``.
        outbox: ``outbox_rows`` and ``outbox_bytes``.
        lost: Rows that made room in the outbox, by reason.
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
    yield _by_stream(
        "push_seconds", "histogram", "From a frame to its results.", streams, _push_times
    )
    yield Family("inference_seconds", "histogram", "A call of the model.", _inferences(streams))
    for name, value in outbox.items():
        yield Family(name, "gauge", _OUTBOX[name], (({}, value),))
    for name, value in link.items():
        yield _of_link(name, value)
    yield Family(
        "update_reports_total",
        "counter",
        "Reports of update jobs, by state.",
        tuple(({"state": state}, count) for state, count in updates.items()),
    )
    yield from _process()


_COUNTED = {
    "frames_received_total": "Frames that a source delivered.",
    "samples_received_total": "Samples in them.",
    "windows_scored_total": "Windows that the model answered.",
    "decisions_made_total": "Labels that started or ended.",
    "source_restarts_total": "Times a source failed and was opened again.",
}
_DISCARDED = "Samples, windows, blocks or rows that gave no result or made room, by reason."
_OUTBOX = {
    "outbox_rows": "Rows that the cloud has not acknowledged.",
    "outbox_bytes": "Bytes of these rows.",
}


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
        found.setdefault(id(one.inference), ({"model": one.model, "stream": stream}, one.inference))
    return tuple(found.values())


def _of_link(name: str, value: int) -> Family:
    """Name a number of the link: those that only grow end in ``_total``."""
    grows = name.endswith("_total") or name.startswith("bytes_")
    full = f"link_{name}" if name.endswith("_total") or not grows else f"link_{name}_total"
    return Family(full, "counter" if grows else "gauge", "See LinkStats.", (({}, value),))


def _process() -> Iterable[Family]:
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
