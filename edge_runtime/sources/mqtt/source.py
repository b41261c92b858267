"""Topics of a broker as channels of a stream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge_runtime.clock import SystemClock
from edge_runtime.config.check import check_file
from edge_runtime.errors import ConfigError
from edge_runtime.ports import Clock, SourceHealth
from edge_runtime.registry import closest
from edge_runtime.sources.live import Health
from edge_runtime.sources.mqtt.config import MqttConfig
from edge_runtime.sources.mqtt.inbox import Inbox
from edge_runtime.sources.mqtt.link import Link
from edge_runtime.sources.mqtt.timing import ArrivalTiming, GridTiming, Setting, Timing
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame

__all__ = ["MqttSource", "Subscription"]


class Subscription(Protocol):
    """What fills the inbox."""

    def start(self) -> None:
        """Start in the background."""
        ...

    def stop(self) -> None:
        """Stop soon."""
        ...


class MqttSource:
    """Delivers what other makers' devices publish over MQTT, as float64.

    Delivery: live, at most once; what is published while the link is down, or does not
    fit the queue, is lost and counted. Thread: one reads, any may close; one more for
    the network.

    Args:
        config: Options.
        clock: Tells time.
        link: Makes the subscription, from the topics and the inbox to fill; for tests.
    """

    Config = MqttConfig

    def __init__(
        self,
        config: MqttConfig,
        *,
        clock: Clock | None = None,
        link: Callable[[tuple[str, ...], Inbox], Subscription] | None = None,
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._make_link = link or self._subscribed
        self._health = Health()
        self._closed = threading.Event()
        self._stream = ""
        self._index = 0
        self._inbox: Inbox | None = None
        self._link: Subscription | None = None
        self._timing: Timing | None = None

    @property
    def is_exhausted(self) -> bool:
        """Never: a topic has no end."""
        return False

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Start to subscribe in the background; whether the broker answers, `read` will tell.

        Raises:
            ConfigError: Channels do not fit, or a file cannot be used.
        """
        self._check_channels(need)
        self._check_key(need)
        self._check_files()
        self._stream, self._index = stream, index
        self._closed.clear()
        inbox = self._inbox = Inbox(self._config.queue, self._health)
        topics = {self._config.channels[name].topic for name in need.names}
        link = self._make_link(tuple(sorted(topics)), inbox)
        is_grid = self._config.timing == "grid"
        setting = Setting(self._config, need, inbox, self._clock, self._health, self._closed)
        self._timing = GridTiming(setting) if is_grid else ArrivalTiming(setting)
        self._link = link
        link.start()

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next samples, or None if none came within ``timeout_s``.

        Raises:
            SourceError: The broker refuses this client, and no waiting will mend that.
        """
        timing = self._timing
        if timing is None or self._closed.is_set():
            return None
        block = timing.read(timeout_s)
        if block is None or self._closed.is_set():
            return None
        frame = Frame(
            self._stream,
            self._index,
            block.time_ns,
            block.samples,
            clock=block.clock,
            step_ns=block.step_ns,
            quality=block.quality,
            keys=block.keys,
        )
        self._index += len(frame)
        return frame

    def close(self) -> None:
        """Wake a waiting read and disconnect; safe to call twice and from any thread."""
        self._closed.set()
        if self._inbox is not None:
            self._inbox.close()
        link, self._link = self._link, None
        if link is not None:
            link.stop()

    def health(self) -> SourceHealth:
        """Return what was noticed since the source was made."""
        return self._health.report()

    def _subscribed(self, topics: tuple[str, ...], inbox: Inbox) -> Link:
        path = self._config.password_file
        password = None if path is None else path.read_text().strip()
        return Link(self._config, topics, inbox, self._clock, password=password)

    def _check_channels(self, need: StreamSpec) -> None:
        known = self._config.declared_channels
        missing = [name for name in need.names if name not in known]
        if missing:
            raise ConfigError(
                f"channels leaves out {', '.join(missing)}",
                where=f"mqtt://{self._config.host}",
                expected=f"the channels {', '.join(need.names)}",
                remedy=f"Say which topic it is. {closest(missing[0], known)}",
            )

    def _check_key(self, need: StreamSpec) -> None:
        topics = sorted({self._config.channels[name].topic for name in need.names})
        if self._config.key is not None and len(topics) > 1 and need.grid is None:
            raise ConfigError(
                f"the channels of a device come from {', '.join(topics)}",
                where=f"mqtt://{self._config.host}",
                expected="one topic, or a model with stream.grid, which brings channels together",
                remedy="Add 'grid: {gaps: hold, longest_gap_s: …}' to the model's stream.",
            )

    def _check_files(self) -> None:
        files: tuple[tuple[str, Path | None], ...] = (
            ("password_file", self._config.password_file),
            ("ca_file", self._config.ca_file),
        )
        for what, path in files:
            if path is not None:
                is_secret = what == "password_file"
                check_file(path, what, f"mqtt://{self._config.host}", is_secret=is_secret)
