"""Server libraries around our own protocol code: drive_servers.py LIBRARY PORT BUNDLE.

Every library gets the same work: read the body, `decode`, ask the model, `encode`.
What differs is HTTP alone.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_runtime.clock import SystemClock
from edge_runtime.modes.realtime.codec import decode, encode
from edge_runtime.modes.realtime.config import Limits, ServeConfig, ServedConfig
from edge_runtime.modes.realtime.repository import Repository
from edge_runtime.modes.realtime.request import Answer

_LENGTH = "inference-header-content-length"
_JSON, _BINARY = "application/json", "application/octet-stream"

Answerer = Callable[[bytes, str | None], tuple[bytes, list[tuple[str, str]]]]


def answerer(bundle: str) -> Answerer:
    """Return what makes an answer of a body and the length of its JSON header."""
    served = ServedConfig(bundle=Path(bundle))
    config = ServeConfig(models=(served,), limits=Limits(inline_ms=1000.0))
    repository = Repository(config, clock=SystemClock())
    repository.open_all()
    model = next(iter(repository))

    def answer(body: bytes, length: str | None) -> tuple[bytes, list[tuple[str, str]]]:
        asked = decode(body, None if length is None else int(length))
        answered = model.infer(asked.request)
        if not isinstance(answered, Answer):
            raise TypeError("the model was not asked at once")
        content, header_length = encode(answered, asked)
        if header_length is None:
            return content, [("content-type", _JSON)]
        return content, [("content-type", _BINARY), (_LENGTH, str(header_length))]

    return answer


def asgi(answer: Answerer) -> Callable[..., Any]:
    """Return an ASGI application."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        length = dict(scope["headers"]).get(_LENGTH.encode())
        content, headers = answer(body, length and length.decode())
        lines = [(name.encode(), value.encode()) for name, value in headers]
        lines.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": lines})
        await send({"type": "http.response.body", "body": content})

    return application


def uvicorn(answer: Answerer, port: int, loop: str) -> None:
    """Uvicorn with httptools."""
    import uvicorn

    uvicorn.run(
        asgi(answer),
        port=port,
        loop=loop,  # type: ignore[arg-type]
        http="httptools",
        lifespan="off",
        log_level="error",
        access_log=False,
    )


def hypercorn(answer: Answerer, port: int) -> None:
    """Hypercorn."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.loglevel = "error"
    asyncio.run(serve(asgi(answer), config))


def aiohttp(answer: Answerer, port: int) -> None:
    """The server of aiohttp."""
    from aiohttp import web

    async def infer(request: web.Request) -> web.Response:
        content, headers = answer(await request.read(), request.headers.get(_LENGTH))
        return web.Response(body=content, headers=dict(headers))

    application = web.Application()
    application.router.add_post("/{path:.*}", infer)
    web.run_app(application, host="127.0.0.1", port=port, access_log=None, print=None)


def granian(answer: Answerer, port: int, interface: str) -> None:
    """Granian, one worker in this process."""
    from granian.constants import Interfaces
    from granian.server.embed import Server

    async def rsgi(scope: Any, protocol: Any) -> None:
        content, headers = answer(await protocol(), scope.headers.get(_LENGTH))
        protocol.response_bytes(200, headers, content)

    target = rsgi if interface == "rsgi" else asgi(answer)
    server = Server(target, port=port, interface=Interfaces(interface), log_enabled=False)
    asyncio.run(server.serve())


def main() -> None:
    """Serve until killed."""
    library, port, bundle = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    answer = answerer(bundle)
    {
        "uvicorn": lambda: uvicorn(answer, port, "asyncio"),
        "uvicorn-uvloop": lambda: uvicorn(answer, port, "uvloop"),
        "hypercorn": lambda: hypercorn(answer, port),
        "aiohttp": lambda: aiohttp(answer, port),
        "granian-rsgi": lambda: granian(answer, port, "rsgi"),
        "granian-asgi": lambda: granian(answer, port, "asgi"),
    }[library]()


if __name__ == "__main__":
    main()
