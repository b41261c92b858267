"""A sensor on a serial port as a source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError
from edge_runtime.ports import Clock, SourceHealth
from edge_runtime.registry import closest
from edge_runtime.sources.intake import Block, Intake
from edge_runtime.sources.live import Health, SampleClock
from edge_runtime.sources.serial.config import (
    Binary,
    Delimited,
    JsonLines,
    SerialConfig,
)
from edge_runtime.sources.serial.frames import FrameDecoder
from edge_runtime.sources.serial.lines import (
    DelimitedParser,
    JsonParser,
    KeyValueParser,
    LineDecoder,
)
from edge_runtime.sources.serial.port import (
    Connect,
    ListPorts,
    Port,
    find_port,
    open_port,
    pyserial,
    pyserial_ports,
    vanished,
)
from edge_runtime.sources.serial.sequence import SequenceCheck
from edge_runtime.sources.suspects import Frozen, FullScale, check_scales, note_suspects
from edge_runtime.sources.waiting import Readiness
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame

__all__ = ["SerialSource"]

_MOST_BYTES = 65536
# Half of what Linux keeps of a terminal's input (N_TTY_BUF_SIZE is 4096).
_GATHERED_BYTES = 2048
_BITS_OF_A_BYTE = 10


class SerialSource:
    """Reads messages from a serial port, one sample each.

    Delivery: live; what is lost shows as a jump in the event times, and is counted.
    Samples are float64. Thread: one reads, any may close.

    Args:
        config: Options.
        clock: Tells time.
        list_ports: Lists the machine's ports; pyserial's by default.
        connect: Opens a port; pyserial's by default.
    """

    Config = SerialConfig

    def __init__(
        self,
        config: SerialConfig,
        *,
        clock: Clock | None = None,
        list_ports: ListPorts = pyserial_ports,
        connect: Connect = pyserial,
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._list_ports = list_ports
        self._connect = connect
        self._health = Health()
        self._intake = Intake()

    @property
    def is_exhausted(self) -> bool:
        """A sensor never ends."""
        return False

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Find the port, open it for this program alone, and listen.

        Raises:
            ConfigError: The messages lack a channel, or the port cannot do the settings.
            MissingExtra: pyserial is not installed.
            SourceError: The port is missing or in use, or nobody may open it.
        """
        self.close()
        _check_channels(self._config, need)
        check_scales(self._config.full_scale, self._config.declared_channels or need.names)
        path = find_port(self._config, self._list_ports)
        port = open_port(self._config, path, connect=self._connect, list_ports=self._list_ports)
        listening = _Listening(self._config, path, port, need, self._clock, self._health)
        self._intake.open(listening, stream, index)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the samples that came in, or None if none came within ``timeout_s``.

        Raises:
            SourceError: The port has gone away.
        """
        return self._intake.read(timeout_s)

    def health(self) -> SourceHealth:
        """Return what was noticed so far; callable from any thread."""
        return self._health.report()

    def close(self) -> None:
        """Let others open the port; safe to call twice and from any thread."""
        self._intake.close()


class _Decoder(Protocol):
    def push(self, received: bytes) -> np.ndarray: ...


class _Listening:
    """An open port."""

    def __init__(
        self,
        config: SerialConfig,
        path: str,
        port: Port,
        need: StreamSpec,
        clock: Clock,
        health: Health,
    ) -> None:
        self._path = path
        self._port = port
        self._ready = Readiness(port.fileno())
        self._nap_s = _nap_s(config, need)
        self._channels = len(need.channels)
        self._decoder = _decoder(config, need.names, health)
        self._sequence: SequenceCheck | None = None
        if config.sequence is not None:
            self._sequence = SequenceCheck(config.sequence, need.rate_hz, health)
        self._stamps = SampleClock(need.rate_hz, clock, health)
        self._frozen = Frozen(config.frozen_s, need.rate_hz)
        self._scale = FullScale(config.full_scale, need.names)
        self._health = health

    def read(self, timeout_s: float) -> Block | None:
        """Return the samples of the messages that have become whole."""
        nap_s = self._nap_s if timeout_s > 2 * self._nap_s else 0.0
        if not (self._ready.wait(timeout_s - nap_s) and self._ready.nap(nap_s)):
            return None
        rows = self._decoder.push(self._receive())
        lost = np.zeros(len(rows), np.int64)
        if self._sequence is not None:
            is_new, lost = self._sequence.check(rows[:, -1])
            rows = rows[is_new]
        return self._block(rows[:, : self._channels], lost) if len(rows) else None

    def _receive(self) -> bytes:
        try:
            received = os.read(self._port.fileno(), _MOST_BYTES)
        except OSError as error:
            raise vanished(self._path, error) from error
        # It was ready to be read: nothing means that it has ended.
        if not received:
            raise vanished(self._path)
        return received

    def _block(self, samples: np.ndarray, lost: np.ndarray) -> Block:
        """Give samples their times, with a jump wherever some are missing."""
        starts = [0, *np.flatnonzero(lost[1:]) + 1]
        ends = [*starts[1:], len(samples)]
        parts = [
            self._stamps.stamp(end - start, lost=int(lost[start]))
            for start, end in zip(starts, ends, strict=True)
        ]
        times = np.concatenate([part.time_ns for part in parts])
        step_ns = parts[0].step_ns if len(parts) == 1 else None
        lost[starts] = [part.lost for part in parts]
        quality = note_suspects(
            self._health,
            len(samples),
            saturated=self._scale.find(samples),
            frozen=self._frozen.find(samples),
            lost=lost,
        )
        return Block(times, np.ascontiguousarray(samples), parts[-1].clock, step_ns, quality)

    def wake(self) -> None:
        """Make a waiting `read` return; callable from any thread."""
        self._ready.wake()

    def close(self) -> None:
        """Let others open the port."""
        self._ready.close()
        self._port.close()


def _check_channels(config: SerialConfig, need: StreamSpec) -> None:
    known = config.declared_channels
    missing = [name for name in need.names if known is not None and name not in known]
    if known is not None and missing:
        raise ConfigError(
            f"the messages have no field {missing[0]!r}",
            where="format.fields",
            expected=f"the channels {', '.join(need.names)}, among {', '.join(known)}",
            remedy=f"{closest(missing[0], known)} Name the fields like the model's channels.",
        )


def _nap_s(config: SerialConfig, need: StreamSpec) -> float:
    """Return how long to gather messages; not at all where they come one by one."""
    if need.rate_hz * config.block_s < 2:
        return 0.0
    return min(config.block_s, _GATHERED_BYTES * _BITS_OF_A_BYTE / config.baud)


def _decoder(config: SerialConfig, names: Sequence[str], health: Health) -> _Decoder:
    """Return what reads the channels, and the sequence number after them."""
    wanted = [*names, *([config.sequence.field] if config.sequence else [])]
    form = config.format
    if isinstance(form, Binary):
        return FrameDecoder(form, wanted, health)
    if isinstance(form, Delimited):
        parser: DelimitedParser | KeyValueParser | JsonParser = DelimitedParser(form, wanted)
    else:
        keys = [form.keys.get(name, name) for name in wanted]
        parser = JsonParser(keys) if isinstance(form, JsonLines) else KeyValueParser(form, keys)
    return LineDecoder(parser, len(wanted), most_bytes=form.most_bytes, health=health)
