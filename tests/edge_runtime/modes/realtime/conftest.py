"""A real server on loopback, and a model that waits until a test lets it answer."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_runtime import registry
from edge_runtime.bundle import Golden, save_bundle, write_arrays, write_golden
from edge_runtime.config import parse_yaml
from edge_runtime.modes.realtime import RealtimeServer, ServeConfig
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    ModelSpec,
    StreamSpec,
    WindowSpec,
)

PATIENCE_S = 90.0
LENGTH = 4

GATED = '''
import threading
import numpy as np
from edge_runtime.errors import ModelError
from edge_runtime.types import TensorSpec

gate = threading.Event()
entered = threading.Event()
asked = []

class Gated:
    """Answers the mean of a window; 13 waits for the gate, 99 fails."""
    name = "gated"
    def probe(self):
        return "1"
    def load(self, model, options):
        return Session(model)

class Session:
    state_kind = "stateless"
    def __init__(self, model):
        self.add = float(model)
        self.inputs = (TensorSpec("x", (1, 4, 1), "float32"),)
        self.outputs = (TensorSpec("y", (1, 1), "float32"),)
    def run(self, batch):
        first = float(batch[0, 0, 0])
        asked.append(first)
        if first == 13:
            entered.set()
            gate.wait(60)
        if first == 99:
            raise ModelError("the model failed: out of luck")
        if first == 98:
            raise ZeroDivisionError("nobody foresaw this")
        return (batch.mean(axis=(1, 2))[:, None] + self.add).astype(np.float32)
    def reset(self): pass
    def fork(self): return self
    def state(self): return b""
    def restore(self, state): pass
    def close(self): pass
'''


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Install that model runtime; its module has the gate."""
    site = tmp_path / "gated-site"
    facts = site / "gated-1.dist-info"
    facts.mkdir(parents=True)
    (site / "gated_backend.py").write_text(GATED)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: gated\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[edge_runtime.backends]\ngated = gated_backend:Gated\n"
    )
    monkeypatch.syspath_prepend(str(site))
    # Children that admit a bundle look there too.
    monkeypatch.setenv("PYTHONPATH", str(site))
    registry._entries.cache_clear()
    sys.modules.pop("gated_backend", None)
    import gated_backend

    yield gated_backend
    gated_backend.gate.set()
    registry._entries.cache_clear()


def mean_bundle(
    folder: Path,
    *,
    name: str = "mean",
    version: str = "1",
    add: float = 0.0,
    backend: str = "gated",
) -> Path:
    """Write a bundle: the mean of four samples, ``high`` from 3 on."""
    spec = ModelSpec(
        name=name,
        version=version,
        kind="regressor",
        stream=StreamSpec((ChannelSpec("a"),), rate_hz=10.0),
        window=WindowSpec(length=LENGTH, hop=1),
        artefacts=(ArtefactSpec(backend, "model", "float32"),),
        labels=("high",),
        limits=(Limit("high", on=3.0, off=1.0),),
        tolerance=1e-5,
    )
    inputs = np.arange(3 * LENGTH, dtype=np.float32).reshape(3, LENGTH, 1)
    golden = Golden(inputs, inputs.mean(axis=1).astype(np.float64) + add)
    model = str(add).encode()
    if backend == "reference":
        weights = np.full((LENGTH, 1), 0.25, np.float32)
        model = write_arrays({"w0": weights, "b0": np.full(1, add, np.float32)})
    if backend == "misbehaving":
        # It counts: each answer is the sum of all windows so far.
        model = json.dumps({"do": "count", "size": LENGTH}).encode()
        golden = Golden(inputs, inputs.sum(axis=1).cumsum(axis=0).astype(np.float64))
    save_bundle(folder, spec, {"model": model, "golden.npz": write_golden(golden)})
    return folder


class Reply:
    """One answer over HTTP."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])

    def tensor(self, name: str) -> list[Any]:
        """Return the data of a JSON output."""
        (found,) = [one["data"] for one in self.json["outputs"] if one["name"] == name]
        return list(found)


class Running:
    """A server on its own thread."""

    def __init__(self, config: ServeConfig) -> None:
        self.server = RealtimeServer(config)
        self.port = self.server.port
        self._thread = threading.Thread(target=asyncio.run, args=(self.server.run(),))
        self._thread.start()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Reply:
        """Send one request over a connection of its own; a body that is no bytes goes as JSON."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        link = (
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
            if context is None
            else http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=PATIENCE_S, context=context
            )
        )
        try:
            link.request(method, path, content, headers or {})
            return Reply(link.getresponse())
        finally:
            link.close()

    def infer(self, data: list[float], model: str = "mean", **more: Any) -> Reply:
        """Ask about windows of one channel, four samples each."""
        shape = [len(data) // LENGTH, LENGTH, 1]
        window = {"name": "window", "shape": shape, "datatype": "FP32", "data": data}
        return self.ask("POST", f"/v2/models/{model}/infer", {"inputs": [window], **more})

    def push(self, data: list[float], *, model: str = "mean", **parameters: Any) -> Reply:
        """Send samples of a sequence."""
        samples = {"name": "samples", "shape": [len(data), 1], "datatype": "FP32", "data": data}
        body = {"inputs": [samples], "parameters": parameters}
        return self.ask("POST", f"/v2/models/{model}/infer", body)

    def metric(self, line: str) -> float:
        """Return the value of a line of the metrics; 0 where there is none."""
        for found in self.ask("GET", "/metrics").body.decode().splitlines():
            if found.startswith(line + " "):
                return float(found.split()[-1])
        return 0.0

    def connect(self) -> socket.socket:
        """Open a connection and send nothing."""
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def stop(self) -> None:
        """Wish for the end, and wait for it."""
        self.server.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    @staticmethod
    def until(is_so: Callable[[], object]) -> None:
        """Look again until it is so; the look itself takes the time."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline, "it never came to be"

    @staticmethod
    def rest(link: socket.socket) -> bytes:
        """Return what comes until the other side closes; a reset is an end too."""
        link.settimeout(PATIENCE_S)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := link.recv(1 << 16):
                found += part
        return found


Serve = Callable[..., Running]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers from YAML lines; port 0 and the bundles given."""
    pytest.importorskip("httptools")
    running: list[Running] = []

    def start(*bundles: Path, extra: str = "", models: str = "") -> Running:
        gated = ", ".join(f"{{bundle: {bundle}, backend: gated}}" for bundle in bundles)
        text = f"schema: 1\nport: 0\nmodels: {models or f'[{gated}]'}\n{extra}\n"
        config = parse_yaml(text, ServeConfig, str(tmp_path / "serve.yaml"))
        running.append(Running(config))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def make_mean(gated: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """Write bundles of the mean; by default ``mean`` 1."""
    return lambda folder="mean", **more: mean_bundle(tmp_path / folder, **more)


@pytest.fixture
def mean(serve: Serve, make_mean: Callable[..., Path]) -> Running:
    """A server of the mean, which answers on the model's own thread."""
    return serve(make_mean(), extra="limits: {inline_ms: 0}")
