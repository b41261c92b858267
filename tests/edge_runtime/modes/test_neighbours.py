"""A device between other makers' devices: their topics in, a web server and a pin out."""

from __future__ import annotations

import http.server
import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import publish

from edge_runtime.config import load_device
from edge_runtime.modes.edge import EdgeDevice
from edge_simulator.broker import Broker

PATIENCE_S = 90.0

DEVICE = """\
schema: 1
device: bench-1
state: state
outbox: {{commit_s: 0.001}}
streams:
  main:
    source:
      kind: mqtt
      port: {port}
      channels:
        a: {{topic: plant/+/climate, path: "v[0]"}}
        b: {{topic: plant/+/climate, path: "v[1]"}}
      readings: $.readings
      time: {{path: t, format: unix_s}}
      timing: arrival
    model: {{bundle: bundle}}
sinks:
  - {{kind: webhook, url: "http://127.0.0.1:{web}/", every_s: 0}}
  - {{kind: gpio, factory: mock, pins: [{{pin: 17, label: high}}]}}
"""


@pytest.fixture
def posted() -> Iterator[tuple[int, queue.Queue[dict[str, Any]]]]:
    """A web server and the rows it gets."""
    rows: queue.Queue[dict[str, Any]] = queue.Queue()

    class Taker(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for row in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["rows"]:
                rows.put(row)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Taker) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port, rows
        server.shutdown()


def test_what_somebody_else_measures_reaches_somebody_else(
    tmp_path: Path, bundle: Path, posted: tuple[int, queue.Queue[dict[str, Any]]]
) -> None:
    """Readings of a topic are decided here, and the decision is posted and switches a pin."""
    pytest.importorskip("iotcore")
    pytest.importorskip("gpiozero")
    web, rows = posted
    readings = [{"t": 1_700_000_000 + i, "v": [0.5, float(i > 4)]} for i in range(10)]
    with Broker("iotcore", tmp_path / "broker") as broker:
        (tmp_path / "device.yaml").write_text(DEVICE.format(port=broker.port, web=web))
        device = EdgeDevice(load_device(tmp_path / "device.yaml"))
        running = threading.Thread(target=device.run, kwargs={"drain_s": 0.0})
        running.start()
        while running.is_alive() and not device.status().streams["main"].position:
            publish.single(
                "plant/oven/climate", json.dumps({"readings": readings}), port=broker.port
            )
        decision = rows.get(timeout=PATIENCE_S)
        device.stop()
        running.join(PATIENCE_S)

    assert (decision["label"], decision["edge"]) == ("high", "start")
    assert decision["time_ns"] == 1_700_000_005 * 10**9
    assert decision["id"].startswith("bench-1/main/5/")
    assert not running.is_alive()
    assert device.status().counters["sink_blocks_lost"] == 0
