"""The source of MQTT topics keeps its contract, on a real broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import registry
from edge_runtime.clock import SystemClock
from edge_runtime.config import SyncConfig
from edge_runtime.ports import LiveSource, Message
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.testing import check_live_source
from edge_simulator.broker import Broker

NEED = StreamSpec((ChannelSpec("x"), ChannelSpec("y")), 100.0)


@contextmanager
def _mqtt(folder: Path) -> Iterator[Mapping[str, Any]]:
    """A broker to which somebody publishes all the time."""
    pytest.importorskip("iotcore")
    with Broker("iotcore", folder) as broker:
        config = SyncConfig(port=broker.port, protocol="3.1.1")
        transport = PahoTransport(config, "sensor", SystemClock())
        transport.open([], None)
        ended = threading.Event()

        def publish() -> None:
            number = 0
            while not ended.wait(0.005):
                number += 1
                for name in "xy":
                    transport.publish(Message(f"plant/{name}", b"%d" % number, qos=0))

        publisher = threading.Thread(target=publish)
        publisher.start()
        channels = {name: {"topic": f"plant/{name}"} for name in "xy"}
        yield {"port": broker.port, "channels": channels}
        ended.set()
        publisher.join()
        transport.close()


def test_topics_keep_the_contract_of_live_sources(tmp_path: Path) -> None:
    """What cannot be replayed has growing times, counts what it lost, and can be woken."""
    with _mqtt(tmp_path) as options:

        def make() -> LiveSource:
            source: LiveSource = registry.create("sources", "mqtt", options)
            return source

        check_live_source(make, NEED)
