"""The server: listens, accepts, keeps time, and ends without dropping a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from collections.abc import Iterator

from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError
from edge_runtime.metrics import Family
from edge_runtime.modes.realtime.config import ServeConfig, TLSConfig, check_serve
from edge_runtime.modes.realtime.http import Connection, Hub
from edge_runtime.modes.realtime.numbers import server_families
from edge_runtime.modes.realtime.repository import Repository
from edge_runtime.modes.realtime.shell import Shell
from edge_runtime.ports import Clock

__all__ = ["RealtimeServer"]

log = logging.getLogger(__name__)

_BACKLOG = 1024
_SPARE_FILES = 128
_LONGEST_SWEEP_S, _SHORTEST_SWEEP_S = 1.0, 0.02
_DRAIN_LOOK_S = 0.02
_NO_FILES_S = 0.05


class RealtimeServer:
    """Serves the models of a configuration until it is told to stop.

    Everything but slow models runs on the event loop of `run`.

    Args:
        config: What to serve, where and to whom.
        clock: Tells deadlines.

    Attributes:
        repository: The models.
        port: Where it listens.

    Raises:
        ConfigError: The configuration does not hold together, or nobody can listen there.
        EdgeError: A model does not load.
        MissingExtra: The HTTP parser is not installed.
    """

    def __init__(self, config: ServeConfig, *, clock: Clock | None = None) -> None:
        tokens = check_serve(config)
        self._config = config
        self._clock = clock or SystemClock()
        self._tls = None if config.tls is None else _context(config.tls)
        self._hub = Hub(config.limits, lambda exchange: self._shell.answer(exchange), self._clock)
        self.repository = Repository(config, clock=self._clock)
        self._shell = Shell(
            self.repository,
            tokens=tokens,
            request_s=config.limits.request_s,
            families=self._families,
            clock=self._clock,
        )
        self.repository.open_all()
        self._sockets = _listen(config.host, config.port)
        self.port: int = self._sockets[0].getsockname()[1]
        self._most = _room_for(config.limits.connections)
        self._adopting: dict[asyncio.Task[None], None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wish = asyncio.Event()
        self._is_wished = False

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        return f"http{'s' if self._tls else ''}://{host}:{self.port}"

    @property
    def answered(self) -> int:
        """Requests that models have answered."""
        return self.repository.answered

    def stop(self) -> None:
        """Wish for an end: requests in flight are answered first; callable from any thread."""
        self._is_wished = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wish.set)

    async def run(self) -> None:
        """Serve until `stop`, then drain."""
        self._loop = asyncio.get_running_loop()
        if self._is_wished:
            self._wish.set()
        accepting = [asyncio.create_task(self._accept(listener)) for listener in self._sockets]
        sweeping = asyncio.create_task(self._sweep())
        try:
            await self._wish.wait()
            await self._drain()
        finally:
            for task in [*accepting, sweeping, *self._adopting]:
                task.cancel()
            await asyncio.gather(*accepting, sweeping, *self._adopting, return_exceptions=True)
            for listener in self._sockets:
                listener.close()
            self._hub.end_all()
            self.repository.close()
            # Lets the transports close their sockets.
            await asyncio.sleep(0)

    def _families(self) -> list[Family]:
        return list(server_families(self.repository, self._hub, self._shell.refused))

    # --- connections ------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        """Take clients in; where there are too many, the longest wait gives way."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                # No file is left, or the client has gone already.
                log.debug("connection.not_accepted", extra={"why": str(error)})
                self._hub.evict()
                await asyncio.sleep(_NO_FILES_S)
                continue
            if len(self._hub) >= self._most and not self._hub.evict():
                self._hub.note_closed("full")
                client.close()
            elif self._tls is None:
                await self._adopt(client)
            else:
                self._shake_hands(client)
                # Accepting does not give way by itself where clients wait already.
                await asyncio.sleep(0)

    def _shake_hands(self, client: socket.socket) -> None:
        """Adopt a client beside others; of too many at it, the longest gives way."""
        if len(self._adopting) >= self._most:
            self._hub.note_closed("full")
            oldest = next(iter(self._adopting))
            self._adopting.pop(oldest)
            oldest.cancel()
        task = asyncio.create_task(self._adopt(client))
        self._adopting[task] = None
        task.add_done_callback(lambda done: self._adopting.pop(done, None))

    async def _adopt(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        client.setblocking(False)
        handshake_s = self._config.limits.head_s if self._tls else None
        try:
            await loop.connect_accepted_socket(
                lambda: Connection(self._hub),
                client,
                ssl=self._tls,
                ssl_handshake_timeout=handshake_s,
            )
        except (OSError, ssl.SSLError):
            self._hub.note_closed("handshake")
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise

    async def _sweep(self) -> None:
        limits = self._config.limits
        shortest = min(limits.head_s, limits.body_s, limits.idle_s, limits.write_s)
        pause_s = min(_LONGEST_SWEEP_S, max(_SHORTEST_SWEEP_S, shortest / 4))
        while True:
            await asyncio.sleep(pause_s)
            self._hub.sweep()
            self.repository.sequences.expire()

    # --- the end ----------------------------------------------------------------------

    async def _drain(self) -> None:
        """Say that it is not ready, answer what is in flight and what still comes, then end."""
        limits = self._config.limits
        self._shell.is_stopping = self._hub.is_draining = True
        log.info("server.draining", extra={"connections": len(self._hub)})
        start_ns = self._clock.monotonic_ns()
        while True:
            passed_s = (self._clock.monotonic_ns() - start_ns) / 1e9
            if passed_s >= limits.linger_s and self._hub.is_quiet and not self._adopting:
                return
            if passed_s >= limits.linger_s + limits.drain_s:
                log.warning("server.not_drained", extra={"connections": len(self._hub)})
                return
            await asyncio.sleep(_DRAIN_LOOK_S)


def _context(tls: TLSConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
        if tls.client_ca_file is not None:
            context.load_verify_locations(tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificate cannot be used: {error.strerror or error}",
            where="tls",
            expected="PEM files, and a key without a password that belongs to the certificate",
            remedy="Check tls.cert_file, tls.key_file and tls.client_ca_file.",
        ) from error
    return context


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a name; with port 0, all on the same free one."""
    listeners: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            chosen = listeners[0].getsockname()[1] if listeners else port
            listener = socket.create_server(
                (address, chosen), family=family, backlog=_BACKLOG, reuse_port=False
            )
            listener.setblocking(False)
            listeners.append(listener)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ConfigError(
            f"nobody can listen on {host}:{port}: {error.strerror or error}",
            where="serve",
            expected="a free port on an address of this machine",
            remedy="Choose another --port, or end the program that has it.",
        ) from error
    return listeners


def _addresses(host: str, port: int) -> Iterator[tuple[socket.AddressFamily, str]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, *_, address in dict.fromkeys(found):
        yield family, str(address[0])


def _room_for(connections: int) -> int:
    """Return how many connections this process can have, after asking for as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # As many again may be in the middle of a handshake.
    wanted = 2 * connections + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    log.warning("connections.fewer", extra={"wanted": connections, "files": soft})
    return max(1, (soft - _SPARE_FILES) // 2)
