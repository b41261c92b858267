"""A light MQTT 3.1.1 client on asyncio, so that one process can be a thousand devices.

It knows what the load needs: CONNECT, SUBSCRIBE, PUBLISH at QoS 1 both ways, PINGREQ.
Source: OASIS MQTT 3.1.1, sections 2 and 3.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

__all__ = ["Client"]

_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
_DISCONNECT = b"\xe0\x00"
_QOS_1 = 0x02
_KEEPALIVE_S = 600


class Client(asyncio.Protocol):
    """One connection; ``on_message`` is called with topic and payload.

    Args:
        client_id: Its id.
        on_message: Told about everything that comes.
    """

    def __init__(self, client_id: str, on_message: Callable[[str, bytes], None]) -> None:
        self._client_id = client_id
        self._on_message = on_message
        self._buffer = bytearray()
        self._mid = 0
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    @classmethod
    async def open(
        cls, port: int, client_id: str, topic: str, on_message: Callable[[str, bytes], None]
    ) -> Client:
        """Connect to 127.0.0.1 and subscribe to one topic."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(
            lambda: cls(client_id, on_message), "127.0.0.1", port
        )
        await client.subscribe(topic)
        return client

    async def subscribe(self, topic: str) -> None:
        """Receive what is published to a topic, once the broker has said hello."""
        await self._greeted
        self._send(_SUBSCRIBE, self._next_mid() + _text(topic) + b"\x01")
        await self._subscribed

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message at QoS 1."""
        self._send(_PUBLISH | _QOS_1, _text(topic) + self._next_mid() + payload)

    def close(self) -> None:
        """Disconnect cleanly."""
        self._transport.write(_DISCONNECT)
        self._transport.close()

    # --- asyncio's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = _text("MQTT") + struct.pack(">BBH", 4, 0x02, _KEEPALIVE_S)
        self._send(_CONNECT, hello + _text(self._client_id))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever still waits."""
        for waiting in (self._greeted, self._subscribed):
            if not waiting.done():
                waiting.set_exception(exc or ConnectionResetError(self._client_id))

    def data_received(self, data: bytes) -> None:
        """Take packets apart."""
        self._buffer += data
        while (packet := self._next_packet()) is not None:
            self._on_packet(*packet)

    def _next_packet(self) -> tuple[int, bytes] | None:
        length, shift, at = 0, 0, 1
        while True:
            if at >= len(self._buffer):
                return None
            length |= (self._buffer[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if not self._buffer[at - 1] & 0x80:
                break
        if len(self._buffer) < at + length:
            return None
        kind, body = self._buffer[0], bytes(self._buffer[at : at + length])
        del self._buffer[: at + length]
        return kind, body

    def _on_packet(self, kind: int, body: bytes) -> None:
        if kind == _CONNACK:
            self._greeted.set_result(None)
        elif kind == _SUBACK:
            self._subscribed.set_result(None)
        elif kind & 0xF0 == _PUBLISH:
            self._on_publish(kind, body)

    def _on_publish(self, kind: int, body: bytes) -> None:
        end = 2 + int.from_bytes(body[:2], "big")
        topic, rest = body[2:end].decode(), body[end:]
        if kind & 0x06:
            self._send(_PUBACK, rest[:2])
            rest = rest[2:]
        self._on_message(topic, rest)

    def _send(self, kind: int, body: bytes) -> None:
        self._transport.write(bytes([kind]) + _length(len(body)) + body)

    def _next_mid(self) -> bytes:
        self._mid = self._mid % 65535 + 1
        return self._mid.to_bytes(2, "big")


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def _length(size: int) -> bytes:
    packed = bytearray()
    while True:
        size, low = divmod(size, 128)
        packed.append(low | (0x80 if size else 0))
        if not size:
            return bytes(packed)
