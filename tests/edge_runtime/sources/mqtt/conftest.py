"""A source whose messages a test puts into its inbox itself, under a clock to hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edge_runtime.registry import decode_path
from edge_runtime.sources.mqtt import MqttConfig, MqttSource
from edge_runtime.sources.mqtt.inbox import Arrival, Inbox
from edge_runtime.spec import ChannelSpec, GridSpec, StreamSpec
from edge_runtime.testing import FakeClock


class Bench:
    """A source, its clock, and the other end of its inbox."""

    def __init__(
        self,
        options: dict[str, Any],
        *names: str,
        rate_hz: float = 1.0,
        grid: GridSpec | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.topics: tuple[str, ...] = ()
        config = msgspec.convert(options, MqttConfig, dec_hook=decode_path)
        self.source = MqttSource(config, clock=self.clock, link=self._link)
        self.need = StreamSpec(tuple(ChannelSpec(name) for name in names), rate_hz, grid=grid)
        self.source.open("s", self.need, 0)

    def _link(self, topics: tuple[str, ...], inbox: Inbox) -> Bench:
        self.topics, self.inbox = topics, inbox
        return self

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def publish(self, topic: str, payload: object) -> None:
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.inbox.put(Arrival(topic, raw, self.clock.monotonic_ns()))

    @property
    def faults(self) -> dict[str, int]:
        return self.source.health().faults


@pytest.fixture(scope="session")
def bench() -> Callable[..., Bench]:
    return Bench
