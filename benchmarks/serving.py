"""Requests over HTTP: ours, MLServer and other server libraries, on the same model and load.

Servers are processes of their own; what counts is the processor time of a server's
whole process tree over the requests it answered.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np
from cases import KWS, keyword_features, stream
from device import installed, usage_of, wait_for
from load import Loaded, http_request, load
from measure import median_ratio
from results import Ratio, Row, Skipped

__all__ = ["PARTS"]

_PEERS = Path(__file__).parent / "peers"
_REPOSITORY = Path(__file__).parents[1]
_PATH = "/v2/models/keywords/infer"
_BARS_US = {"json": 230.0, "binary": 180.0}
# MLServer, JSON, on the machine that the bars come from: what makes them hold on any other.
_MLSERVER_THERE_US = 665.0
_REQUESTS = 500
_MANY = 16
_TOLERANCE = 1e-6
_LIBRARIES = (
    "uvicorn",
    "uvicorn-uvloop",
    "aiohttp",
    "granian-rsgi",
    "granian-asgi",
    "hypercorn",
)


class _Seen(msgspec.Struct, frozen=True):
    """One round: CPU per request, and what the load saw."""

    cpu_us: float
    loaded: Loaded


def against_mlserver(*, rounds: int) -> list[Row]:
    """JSON and binary requests with one window; MLServer answers the JSON ones."""
    note = "" if _has("mlserver") else "mlserver: not installed here (make bench PEERS=1)"
    with ExitStack() as stack:
        servers = {"ours": stack.enter_context(_ours())}
        if not note:
            servers["MLServer"] = stack.enter_context(_mlserver())
        seen = _measured(servers, _times(rounds))
    rows = []
    for form, bar in _BARS_US.items():
        ours, peer = _cpu(seen["ours", form, _MANY]), seen.get(("MLServer", "json", _MANY))
        peers = {"ours, 1 connection us": statistics.median(_cpu(seen["ours", form, 1]))}
        ratios = []
        if peer is not None:
            peers["MLServer, JSON us"] = statistics.median(_cpu(peer))
            over = median_ratio(_cpu(peer), ours)
            ratios = [Ratio("MLServer over ours", over, at_least=_MLSERVER_THERE_US / bar)]
        value = statistics.median(ours)
        name = f"oip_{form}_cpu_us"
        rows.append(Row.of(name, value, "us", bar=bar, peers=peers, ratios=ratios, note=note))
    return [*rows, _latency_row(seen)]


def on_a_thread(*, rounds: int) -> list[Row]:
    """What it costs to hand a small model's calls to a thread."""
    with _ours() as inline, _ours("limits: {inline_ms: 0}") as thread:
        seen = _measured({"inline": inline, "thread": thread}, _times(rounds), forms=("binary",))
    beyond = {
        count: statistics.median(_cpu(seen["thread", "binary", count]))
        - statistics.median(_cpu(seen["inline", "binary", count]))
        for count in (1, _MANY)
    }
    peers = {"1 connection us": beyond[1]}
    return [Row.of("oip_thread_us", beyond[_MANY], "us", bar=None, peers=peers)]


def libraries(*, rounds: int) -> list[Row]:
    """The same protocol code under other server libraries."""
    if not _has("servers"):
        raise Skipped("the server libraries are not installed here (make bench PEERS=1)")
    with ExitStack() as stack:
        servers = {"ours": stack.enter_context(_ours())}
        servers |= {name: stack.enter_context(_library(name)) for name in _LIBRARIES}
        seen = _measured(servers, _times(rounds))
    rows = []
    for name in servers:
        figures = {
            f"{form}, {count} at once, over ours x": median_ratio(
                _cpu(seen[name, form, count]), _cpu(seen["ours", form, count])
            )
            for form in _BARS_US
            for count in (1, _MANY)
        }
        value = statistics.median(_cpu(seen[name, "json", _MANY]))
        row = f"server_library_{name.replace('-', '_')}_us"
        rows.append(Row.of(row, value, "us", bar=None, peers=figures))
    return rows


PARTS = {
    "oip_json_cpu_us oip_binary_cpu_us oip_p99_16_us": against_mlserver,
    "oip_thread_us": on_a_thread,
    "server_library": libraries,
}


# --- measuring ----------------------------------------------------------------------

_Key = tuple[str, str, int]


def _measured(
    servers: Mapping[str, tuple[int, int]],
    times: int,
    forms: Sequence[str] = ("json", "binary"),
) -> dict[_Key, list[_Seen]]:
    """Load all servers in turn; the first round of each is not kept."""
    requests, is_right = _requests()
    found: dict[_Key, list[_Seen]] = {}
    order = list(servers.items())
    for number in range(times + 1):
        # Every other round backwards, so that nobody always follows the same one.
        for name, (pid, port) in order if number % 2 == 0 else reversed(order):
            for form in forms if name != "MLServer" else ("json",):
                for connections in (1, _MANY):
                    seen = _round(pid, port, requests[form], connections, is_right[form])
                    if number:
                        found.setdefault((name, form, connections), []).append(seen)
    return found


def _round(
    pid: int, port: int, request: bytes, connections: int, is_right: Callable[[bytes], bool]
) -> _Seen:
    before = usage_of(pid).cpu_ns
    loaded = load(port, request, count=_REQUESTS, connections=connections, is_right=is_right)
    return _Seen((usage_of(pid).cpu_ns - before) / _REQUESTS / 1e3, loaded)


def _requests() -> tuple[dict[str, bytes], dict[str, Callable[[bytes], bool]]]:
    """Return the requests by form, and what tells whether an answer is right."""
    window = keyword_features(1)[0]
    tensor = {"name": "window", "shape": list(window.shape), "datatype": "FP32"}
    plain = {
        "inputs": [{**tensor, "data": window.ravel().tolist()}],
        "outputs": [{"name": "value"}],
    }
    size = {"parameters": {"binary_data_size": window.nbytes}}
    header = json.dumps(
        {
            "inputs": [{**tensor, **size}],
            "outputs": [{"name": "value", "parameters": {"binary_data": True}}],
        }
    ).encode()
    length = f"Inference-Header-Content-Length: {len(header)}"
    requests = {
        "json": http_request(_PATH, json.dumps(plain).encode()),
        "binary": http_request(_PATH, header + window.tobytes(), length),
    }
    frames = stream(window[0], len(window[0]), KWS.spec)
    (expected,) = KWS.pipeline().run_many(frames).estimates.value

    def is_json_right(body: bytes) -> bool:
        found = json.loads(body)["outputs"][0]["data"]
        return bool(np.allclose(found, expected, atol=_TOLERANCE))

    return requests, {
        "json": is_json_right,
        "binary": lambda body: body.endswith(expected.tobytes()),
    }


def _cpu(rounds: Sequence[_Seen]) -> list[float]:
    return [one.cpu_us for one in rounds]


def _latency_row(seen: Mapping[_Key, Sequence[_Seen]]) -> Row:
    def p99_us(name: str, form: str) -> float:
        return statistics.median(one.loaded.quantile_us(0.99) for one in seen[name, form, _MANY])

    peers = {"ours, binary us": p99_us("ours", "binary")}
    if ("MLServer", "json", _MANY) in seen:
        peers["MLServer, JSON us"] = p99_us("MLServer", "json")
    return Row.of("oip_p99_16_us", p99_us("ours", "json"), "us", bar=None, peers=peers)


def _times(rounds: int) -> int:
    return max(3, rounds // 20)


# --- servers ------------------------------------------------------------------------


@contextmanager
def _ours(extra: str = "") -> Iterator[tuple[int, int]]:
    with tempfile.TemporaryDirectory() as name:
        bundle = KWS.save(Path(name) / "bundle", keyword_features(4)[0])
        config = Path(name) / "serve.yaml"
        port = _free_port()
        config.write_text(f"port: {port}\nmodels: [{{bundle: {bundle}}}]\n{extra}\n")
        command = [sys.executable, "-m", "edge_runtime.cli", "serve", "--config", str(config)]
        with _started(command, port) as pid:
            yield pid, port


@contextmanager
def _mlserver() -> Iterator[tuple[int, int]]:
    port, grpc_port = _free_port(), _free_port()
    command = [
        str(_python("mlserver")),
        str(_PEERS / "drive_mlserver.py"),
        str(port),
        str(grpc_port),
        str(KWS.files["litert"]),
    ]
    with _started(command, port) as pid:
        yield pid, port


@contextmanager
def _library(name: str) -> Iterator[tuple[int, int]]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = KWS.save(Path(folder) / "bundle", keyword_features(4)[0])
        port = _free_port()
        script = str(_PEERS / "drive_servers.py")
        command = [str(_python("servers")), script, name, str(port), str(bundle)]
        with _started(command, port) as pid:
            yield pid, port


@contextmanager
def _started(command: Sequence[str], port: int) -> Iterator[int]:
    """Run a server until the block ends, and give its process id once it listens."""
    environment = {**installed(), "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(
            list(command), env=environment, stdout=subprocess.DEVNULL, stderr=words
        ) as process,
    ):

        def last_words() -> str:
            words.seek(0)
            return words.read().decode(errors="replace")[-300:]

        def listens() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"a server ended: {last_words()}")
            with socket.socket() as link:
                return link.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_for(listens, last_words)
            yield process.pid
        finally:
            # Not all of them end when asked while a connection is open.
            process.kill()


def _has(peer: str) -> bool:
    return _python(peer).exists()


def _python(peer: str) -> Path:
    return _PEERS / ".venvs" / peer / "bin" / "python"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
