"""A TCP proxy that breaks the link on purpose: cut, reset, delay, throttle, silence, damage.

It stands between a device and any real broker, so faults need neither root
nor a special broker. Loopback only, on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from edge_runtime.config.hosts import is_loopback
from edge_runtime.errors import ConfigError, SourceError
from edge_simulator.link.flow import Chances, Flow, Hits, Unit

__all__ = ["LinkCounts", "LinkProxy"]

_READ_BYTES = 16 * 1024
_QUEUE_BLOCKS = 16
_CALL_S = 10.0

Mode = Literal["up", "cut", "half_open"]
_Block = tuple[float, bytes] | None


class LinkCounts(msgspec.Struct, frozen=True):
    """What went through a link so far.

    Attributes:
        bytes_up: Payload bytes delivered to the target.
        bytes_down: Payload bytes delivered to the clients.
        connections: Connections that reached the target.
        refused: Connections closed at once because the link was cut or the target absent.
        swallowed: Bytes taken and thrown away while half open.
        resets: Connections reset, by a cut too.
        dropped: Units lost.
        duplicated: Units that came twice.
        reordered: Units that came late.
        truncated: Packets without their end.
        corrupted: Bits flipped.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 0
    refused: int = 0
    swallowed: int = 0
    resets: int = 0
    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0
    truncated: int = 0
    corrupted: int = 0


class LinkProxy:
    """Forward connections to ``target`` and misbehave when told to.

    One thread of its own runs an event loop; every method may be called from
    any thread. Buffers are bounded (256 KiB per direction and connection;
    when full, the sender waits).

    Args:
        listen_port: Port on 127.0.0.1; 0 picks a free one.
        target: Host and port of the real broker; loopback only.
        delay_s: One-way delay added to every byte, in both directions.
        jitter_s: Most of the further delay that varies; the order of bytes stays.
        bytes_per_s: Bandwidth of each direction, over all connections; None for no limit.
        chances: What happens to single units; may be replaced at any time.
        unit: Whether stretches of bytes or whole MQTT PUBLISH packets are hit.
        seed: Decides which units are hit, and the jitter.

    Raises:
        ConfigError: The target is not on this machine.
    """

    def __init__(
        self,
        listen_port: int = 0,
        target: tuple[str, int] = ("127.0.0.1", 1883),
        *,
        delay_s: float = 0.0,
        jitter_s: float = 0.0,
        bytes_per_s: float | None = None,
        chances: Chances | None = None,
        unit: Unit = "bytes",
        seed: int = 0,
    ) -> None:
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.bytes_per_s = bytes_per_s
        self.chances = chances or Chances()
        self._unit: Unit = unit
        self._seed = seed
        self._jitter = random.Random(seed)  # noqa: S311 - repeatable faults, no secrets
        self._hits = Hits()
        self._resets = 0
        self.port = listen_port
        self._target = _loopback(target)
        self._mode: Mode = "up"
        self._up, self._down = _Direction(), _Direction()
        self._connections = self._refused = self._swallowed = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)

    def start(self) -> Self:
        """Listen and forward; returns when ``port`` accepts connections.

        Raises:
            SourceError: The port is taken.
        """
        self._thread.start()
        try:
            self._call(self._listen())
        except OSError as error:
            self.stop()
            raise SourceError(
                f"cannot listen: {error}",
                where=f"127.0.0.1:{self.port}",
                expected="a free port",
                remedy="Choose another port; 0 takes a free one.",
            ) from error
        return self

    def stop(self) -> None:
        """Close everything and end the thread; safe to call twice."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._call(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CALL_S)
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def is_up(self) -> bool:
        """Whether bytes are forwarded at present."""
        return self._mode == "up"

    def cut(self) -> None:
        """Reset every connection, and close new ones as they come, until `mend`."""
        self._call(self._switch("cut"))

    def half_open(self) -> None:
        """Keep accepting connections and bytes, but swallow them, until `mend`.

        This is the worst kind of dead link: nothing fails, nothing arrives.
        """
        self._call(self._switch("half_open"))

    def mend(self) -> None:
        """Forward again; connections that lost bytes while half open are reset."""
        self._call(self._switch("up"))

    def reset(self) -> None:
        """Reset every connection (RST) once; they may be made again at once."""
        self._call(self._reset_all())

    def counts(self) -> LinkCounts:
        """Return the counters as they are now."""
        return LinkCounts(
            bytes_up=self._up.bytes,
            bytes_down=self._down.bytes,
            connections=self._connections,
            refused=self._refused,
            swallowed=self._swallowed,
            resets=self._resets,
            **msgspec.structs.asdict(self._hits),
        )

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_S)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=_READ_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._switch("cut")

    async def _switch(self, mode: Mode) -> None:
        was, self._mode = self._mode, mode
        if mode == "cut" or (was == "half_open" and mode == "up"):
            await self._reset_all()

    async def _reset_all(self) -> None:
        for writer in self._writers:
            _reset(writer)
        self._resets += len(self._writers) // 2
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server runs every handler in a task
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "cut":
            self._refused += 1
            writer.transport.abort()
        elif self._mode == "half_open":
            await self._swallow(reader)
        else:
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # asyncio sets TCP_NODELAY on both sockets; without it small packets wait 40 ms.
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=_READ_BYTES)
        except OSError:
            self._refused += 1
            raise
        self._connections += 1
        self._writers.add(far_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, far_writer, self._up, self._flow("up")))
                group.create_task(self._carry(far_reader, writer, self._down, self._flow("down")))
        except* OSError:
            writer.transport.abort()
        finally:
            self._writers.discard(far_writer)
            far_writer.transport.abort()

    def _flow(self, way: str) -> Flow:
        return Flow(self._unit, f"{self._seed}/{self._connections}/{way}", self._hits)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: _Direction,
        flow: Flow,
    ) -> None:
        queue: asyncio.Queue[_Block] = asyncio.Queue(_QUEUE_BLOCKS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take(reader, queue))
            group.create_task(self._give(queue, writer, way, flow))

    async def _take(self, reader: asyncio.StreamReader, queue: asyncio.Queue[_Block]) -> None:
        due = 0.0
        while block := await reader.read(_READ_BYTES):
            late_s = self.delay_s + self.jitter_s * self._jitter.random()
            due = max(due, self._loop.time() + late_s)
            await queue.put((due, block))
        await queue.put(None)

    async def _give(
        self,
        queue: asyncio.Queue[_Block],
        writer: asyncio.StreamWriter,
        way: _Direction,
        flow: Flow,
    ) -> None:
        while entry := await queue.get():
            due, block = entry
            await self._sleep_until(due)
            await self._deliver(block, writer, way, flow)
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def _deliver(
        self, block: bytes, writer: asyncio.StreamWriter, way: _Direction, flow: Flow
    ) -> None:
        for piece in self._pieces(block):
            await self._sleep_until(way.reserve(self._loop.time(), len(piece), self.bytes_per_s))
            if self._mode == "half_open":
                self._swallowed += len(piece)
                continue
            if writer.is_closing():
                raise ConnectionResetError
            arrives = b"".join(flow.push(piece, self.chances))
            way.bytes += len(arrives)
            writer.write(arrives)
            await writer.drain()

    def _pieces(self, block: bytes) -> list[bytes]:
        # Twenty pieces a second keep a throttled link smooth.
        size = max(1, int(self.bytes_per_s / 20)) if self.bytes_per_s else len(block)
        return [block[first : first + size] for first in range(0, len(block), size)]

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        while block := await reader.read(_READ_BYTES):
            self._swallowed += len(block)

    async def _sleep_until(self, due: float) -> None:
        wait_s = due - self._loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)


class _Direction:
    """One way through the link: its counter and bandwidth."""

    def __init__(self) -> None:
        self.bytes = 0
        self._free_at = 0.0

    def reserve(self, now: float, size: int, bytes_per_s: float | None) -> float:
        """Return when ``size`` bytes may go, and keep the line busy until they are through."""
        if not bytes_per_s:
            return now
        start = max(now, self._free_at)
        self._free_at = start + size / bytes_per_s
        return self._free_at


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the peer gets RST: nothing that waits is sent."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _loopback(target: tuple[str, int]) -> tuple[str, int]:
    host, port = target
    if not is_loopback(host):
        raise ConfigError(
            f"the link's target is {host}:{port}",
            where="LinkProxy",
            expected="a loopback address such as 127.0.0.1",
            remedy="The proxy breaks links on purpose; run the broker on this machine.",
        )
    return host, port
