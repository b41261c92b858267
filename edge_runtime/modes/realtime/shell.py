"""The Open Inference Protocol over HTTP: paths to answers, errors to status codes.

Source: Open Inference Protocol v2, "HTTP/REST"; Triton's extensions ``model_repository``,
``sequence``, ``binary_tensor_data`` and ``parameters``.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from edge_runtime.errors import EdgeError, Refusal, RequestError, ShapeError
from edge_runtime.metrics import CONTENT_TYPE, Family, render
from edge_runtime.modes.realtime.codec import Asked, decode, encode
from edge_runtime.modes.realtime.http import Exchange, Pending, Response, error_response
from edge_runtime.modes.realtime.repository import Repository
from edge_runtime.modes.realtime.request import Answer
from edge_runtime.modes.realtime.served import ServedModel
from edge_runtime.ports import Clock
from edge_runtime.version import __version__

__all__ = ["EXTENSIONS", "Shell"]

log = logging.getLogger(__name__)

EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters", "sequence")
"""What this server has beyond the core of the protocol."""

_STATUS: dict[Refusal, int] = {
    "invalid": 400,
    "unauthorised": 401,
    "forbidden": 403,
    "unknown": 404,
    "too_large": 413,
    "late": 504,
    "busy": 503,
    "failed": 500,
}
_LENGTH = b"inference-header-content-length"
_OPEN_PATHS = (b"/v2/health/live", b"/v2/health/ready")


class _LoadBody(msgspec.Struct, frozen=True):
    parameters: dict[str, Any] = {}


class Shell:
    """Answers HTTP requests; event loop only.

    Args:
        repository: The models.
        tokens: A request must bring one of them; empty lets everybody ask.
        request_s: Longest time for an answer.
        families: Collects what the server counts.
        clock: Tells the time.

    Attributes:
        is_stopping: Whether the server says that it is not ready.
        refused: Requests that reached no model, by reason.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        tokens: Sequence[bytes],
        request_s: float,
        families: Callable[[], Sequence[Family]],
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._tokens = [b"Bearer " + token for token in tokens]
        self._request_s = request_s
        self._families = families
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_stopping = False
        self.refused: dict[str, int] = {}

    def answer(self, exchange: Exchange) -> Response | Pending:
        """Answer a request, now or later; never raises."""
        try:
            self._check_client(exchange)
            return self._routed(exchange)
        except Exception as error:
            return self._failed(error)

    def _check_client(self, exchange: Exchange) -> None:
        headers = exchange.headers
        if self._tokens:
            given = headers.get(b"authorization", b"")
            # Every token is compared, each in constant time.
            matches = [hmac.compare_digest(given, token) for token in self._tokens]
            if not any(matches) and exchange.path not in _OPEN_PATHS:
                raise RequestError(
                    "there is no token that is known here",
                    kind="unauthorised",
                    where="Authorization",
                    expected="Bearer TOKEN, with a token of the server's token_file",
                )
        elif b"origin" in headers:
            # A page in somebody's browser reaches loopback too.
            raise RequestError(
                "the request comes from a web page",
                kind="forbidden",
                where="Origin",
                expected="a program",
                remedy="Give the server a token_file, and the page a token.",
            )

    def _routed(self, exchange: Exchange) -> Response | Pending:
        parts = _steps(exchange.path)
        match parts:
            case ["v2", "models", name, "infer"]:
                return self._post(exchange, lambda: self._infer(exchange, name, ""))
            case ["v2", "models", name, "versions", version, "infer"]:
                return self._post(exchange, lambda: self._infer(exchange, name, version))
            case ["v2", "repository", *rest]:
                return self._post(exchange, lambda: self._repository_call(exchange, rest))
            case ["v2", *rest]:
                return self._get(exchange, lambda: self._about(rest))
            case ["metrics"]:
                return self._get(exchange, self._metrics)
        raise self._no_route(parts)

    # --- asking a model ---------------------------------------------------------------

    def _infer(self, exchange: Exchange, name: str, version: str) -> Response | Pending:
        model = self._repository.find(name, version)
        try:
            asked = decode(exchange.body, _header_length(exchange))
            answer = model.infer(asked.request)
        except Exception as error:
            return self._failed(error, model)
        if isinstance(answer, Answer):
            return self._answered(answer, asked, model, exchange)
        wish_s = asked.request.parameters.timeout / 1e6
        self._limit(answer, min(wish_s or self._request_s, self._request_s))

        def finish(future: asyncio.Future[Answer]) -> Response:
            try:
                return self._answered(future.result(), asked, model, exchange)
            except Exception as error:
                return self._failed(error, model)

        return Pending(answer, finish)

    def _answered(
        self, answer: Answer, asked: Asked, model: ServedModel, exchange: Exchange
    ) -> Response:
        body, header_length = encode(answer, asked)
        counts = model.counts
        counts.answered += 1
        counts.times.note(self._clock.monotonic_ns() - exchange.began_ns)
        if header_length is None:
            return Response(200, body)
        extra = b"Inference-Header-Content-Length: %d\r\n" % header_length
        return Response(200, body, b"application/octet-stream", extra)

    def _limit(self, future: asyncio.Future[Any], seconds: float) -> None:
        """Let a future fail when it takes too long."""

        def give_up() -> None:
            if not future.done():
                future.set_exception(
                    RequestError(
                        f"there was no answer within {seconds:g} s",
                        kind="late",
                        where="model",
                        expected="an answer in time",
                        remedy="Ask for fewer windows at once, or raise limits.request_s.",
                    )
                )

        timer = asyncio.get_running_loop().call_later(seconds, give_up)
        future.add_done_callback(lambda _: timer.cancel())

    # --- everything else --------------------------------------------------------------

    def _about(self, parts: Sequence[str]) -> Response:
        match parts:
            case []:
                return _json(
                    {"name": "edge-runtime", "version": __version__, "extensions": EXTENSIONS}
                )
            case ["health", "live"]:
                return _json({"live": True})
            case ["health", "ready"]:
                return _truth("ready", not self.is_stopping and self._repository.is_ready)
            case ["models", name]:
                return self._metadata(self._repository.find(name))
            case ["models", name, "versions", version]:
                return self._metadata(self._repository.find(name, version))
            case ["models", name, "ready"]:
                return self._model_ready(name, "")
            case ["models", name, "versions", version, "ready"]:
                return self._model_ready(name, version)
        raise self._no_route(["v2", *parts])

    def _metadata(self, model: ServedModel) -> Response:
        versions = [one.version for one in self._repository if one.name == model.name]
        facts: dict[str, Any] = {"version": model.version, **model.facts()}
        return _json(
            {
                "name": model.name,
                "versions": versions,
                "platform": f"edge-runtime_{model.backend}",
                "inputs": model.inputs,
                "outputs": model.outputs,
                "parameters": facts,
            }
        )

    def _model_ready(self, name: str, version: str) -> Response:
        model = self._repository.find(name, version)
        is_ready = not self.is_stopping and not model.lane.is_stuck(self._request_s)
        return _truth("ready", is_ready, name=name)

    def _metrics(self) -> Response:
        return Response(200, render(self._families()).encode(), CONTENT_TYPE.encode())

    def _repository_call(self, exchange: Exchange, parts: Sequence[str]) -> Response | Pending:
        match parts:
            case ["index"]:
                wants_ready = b'"ready"' in exchange.body and b"true" in exchange.body
                entries = self._repository.index()
                return _json([one for one in entries if not wants_ready or one.state == "READY"])
            case ["models", name, "load"]:
                _check_load(exchange.body)
                return self._task(self._repository.load(name))
            case ["models", name, "unload"]:
                self._repository.unload(name)
                return _json({})
        raise self._no_route(["v2", "repository", *parts])

    def _task(self, work: Coroutine[Any, Any, None]) -> Pending:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A client that goes away must not leave a model half loaded.
        return Pending(asyncio.shield(task), self._finished)

    def _finished(self, future: asyncio.Future[None]) -> Response:
        try:
            future.result()
        except Exception as error:
            return self._failed(error)
        return _json({})

    # --- refusing ---------------------------------------------------------------------

    def _get(self, exchange: Exchange, answer: Callable[[], Response]) -> Response:
        if exchange.method not in (b"GET", b"HEAD"):
            return _wrong_method(b"GET")
        return answer()

    def _post(
        self, exchange: Exchange, answer: Callable[[], Response | Pending]
    ) -> Response | Pending:
        return answer() if exchange.method == b"POST" else _wrong_method(b"POST")

    def _no_route(self, parts: Sequence[str]) -> RequestError:
        return RequestError(
            "there is nothing",
            kind="unknown",
            where="/" + "/".join(parts)[:80],
            expected="a path of the Open Inference Protocol, such as /v2/models/NAME/infer",
            remedy="GET /v2 names the extensions.",
        )

    def _failed(self, error: Exception, model: ServedModel | None = None) -> Response:
        """Count and tell a fault; one that nobody foresaw is logged with its trace."""
        kind = _kind_of(error)
        counted = self.refused if model is None else model.counts.refused
        counted[kind] = counted.get(kind, 0) + 1
        if not isinstance(error, EdgeError):
            log.error("request.failed", exc_info=error)
            return error_response(500, "an unforeseen fault; the server's log has the trace")
        extra = b"Retry-After: 1\r\n" if kind == "busy" else b""
        if kind == "unauthorised":
            extra = b"WWW-Authenticate: Bearer\r\n"
        return error_response(_STATUS[kind], str(error), extra)


def _kind_of(error: Exception) -> Refusal:
    kind: Refusal = "invalid" if isinstance(error, ShapeError) else "failed"
    return error.kind if isinstance(error, RequestError) else kind


def _steps(path: bytes) -> list[str]:
    if b"%" in path:
        path = unquote_to_bytes(path)
    return path.decode(errors="replace").strip("/").split("/")


def _header_length(exchange: Exchange) -> int | None:
    text = exchange.headers.get(_LENGTH)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 10:
        raise RequestError(
            f"Inference-Header-Content-Length is {text[:20]!r}",
            where="header",
            expected="a number of bytes",
            remedy="Send the length of the JSON part of the body.",
        )
    return int(text)


def _check_load(body: bytes) -> None:
    try:
        given = msgspec.json.decode(body, type=_LoadBody).parameters if body else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body does not decode: {error}", where="load") from error
    if given:
        raise RequestError(
            f"the parameters are {', '.join(sorted(given)[:8])}",
            where="load",
            expected="none: a model comes from the server's own disk, as its bundle says",
            remedy="Put the bundle into the repository's folder, then load it by name.",
        )


def _json(content: object) -> Response:
    return Response(200, msgspec.json.encode(content))


def _truth(word: str, is_true: bool, **more: str) -> Response:
    return Response(200 if is_true else 503, msgspec.json.encode({**more, word: is_true}))


def _wrong_method(allowed: bytes) -> Response:
    return error_response(
        405, f"this path takes {allowed.decode()}", b"Allow: " + allowed + b"\r\n"
    )
