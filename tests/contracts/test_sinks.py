"""Every registered sink keeps the contract of its port."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import registry
from edge_runtime.ports import Sink
from edge_runtime.testing import check_sink
from edge_runtime.types import Decision, Estimates, Output


@contextmanager
def _jsonl(folder: Path) -> Iterator[Mapping[str, Any]]:
    yield {"path": str(folder / "out.jsonl")}


@contextmanager
def _terminal(_: Path) -> Iterator[Mapping[str, Any]]:
    yield {}


class _Taker(http.server.BaseHTTPRequestHandler):
    """Takes whatever is posted."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def _webhook(_: Path) -> Iterator[Mapping[str, Any]]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Taker) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield {"url": f"http://127.0.0.1:{server.server_port}/", "estimates": True, "every_s": 0}
        server.shutdown()


@contextmanager
def _gpio(_: Path) -> Iterator[Mapping[str, Any]]:
    pytest.importorskip("gpiozero")
    yield {"pins": [{"pin": 17, "label": "worn"}], "factory": "mock"}


OPTIONS: Mapping[str, Callable[[Path], AbstractContextManager[Mapping[str, Any]]]] = {
    "gpio": _gpio,
    "jsonl": _jsonl,
    "terminal": _terminal,
    "webhook": _webhook,
}


def _output(rows: int, decisions: int) -> Output:
    index = np.arange(rows)
    value = np.full((rows, 2), np.nan)
    estimates = Estimates(index, index, index, value, value, None, "0" * 16)
    decision = Decision("s", 1, 1, "m", "worn", "end", -0.0, "0" * 16)
    return Output("s", estimates, (decision,) * decisions)


def test_every_sink_is_checked() -> None:
    """A new sink needs options here."""
    assert set(OPTIONS) == set(registry.names("sinks"))


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_sink_keeps_its_contract(tmp_path: Path, kind: str) -> None:
    """A sink takes empty and full blocks, closes twice and opens again."""
    with OPTIONS[kind](tmp_path) as options:

        def make() -> Sink:
            sink: Sink = registry.create("sinks", kind, options)
            return sink

        check_sink(make, [_output(0, 0), _output(3, 0), _output(0, 2), _output(500, 1)])
