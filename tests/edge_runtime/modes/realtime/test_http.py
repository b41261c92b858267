"""Connections: clients that are slow, silent, wrong, vanishing or too many."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BODY = b'{"inputs":[{"name":"window","shape":[1,4,1],"datatype":"FP32","data":[1,1,1,1]}]}'
HEAD = b"POST /v2/models/mean/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
REQUEST = HEAD + BODY
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def quick(serve: Any, make_mean: Callable[..., Path]) -> Any:
    """A server that soon loses patience."""
    limits = "{head_s: 0.3, body_s: 0.3, idle_s: 0.3, write_s: 0.3, body_mb: 1}"
    return serve(make_mean(), extra=f"limits: {limits}")


def closed(server: Any, reason: str) -> float:
    return float(server.metric(f'connections_closed_total{{reason="{reason}"}}'))


def test_a_silent_client_is_let_go(quick: Any) -> None:
    """A connection without a byte ends; others are served meanwhile."""
    with quick.connect() as link:
        served = quick.infer([1] * 4).status
        rest = quick.rest(link)

    assert (served, rest) == (200, b"")
    assert closed(quick, "idle") >= 1


@pytest.mark.parametrize(
    ("sent", "part"), [(HEAD[:40], "head"), (HEAD + BODY[:20], "body"), (b"P", "head")]
)
def test_a_request_that_stops_in_the_middle_is_told(quick: Any, sent: bytes, part: str) -> None:
    """Half a head or half a body: 408, then the end."""
    with quick.connect() as link:
        link.sendall(sent)
        rest = quick.rest(link)

    assert rest.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in rest
    assert f"the {part} did not come in time".encode() in rest
    assert closed(quick, f"slow_{part}") == 1


def test_a_client_that_drips_does_not_hold_on(quick: Any) -> None:
    """A byte now and then does not renew the patience."""
    with quick.connect() as link:
        link.settimeout(0.02)
        found = b""
        for byte in REQUEST * 20:
            try:
                link.sendall(bytes([byte]))
                found += link.recv(4096)
                break
            except TimeoutError:
                continue
            except OSError:
                break
        rest = found or quick.rest(link)

    assert rest.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_never_takes_its_answers_is_let_go(
    serve: Any, make_mean: Callable[..., Path]
) -> None:
    """What it leaves unread is bounded, and the connection ends."""
    server = serve(make_mean(), extra="limits: {write_s: 0.3, idle_s: 20}")
    data = ",".join(["1"] * 4 * 20_000)
    body = (
        f'{{"inputs":[{{"name":"window","shape":[20000,4,1],"datatype":"FP32","data":[{data}]}}]}}'
    ).encode()
    request = (
        b"POST /v2/models/mean/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", server.port))
        sender = threading.Thread(target=_send_all, args=(link, request * 40))
        sender.start()
        server.until(lambda: closed(server, "write") == 1)
        sender.join(30)

    assert server.infer([1] * 4).status == 200
    assert server.metric("bodies_bytes") == 0


def _send_all(link: socket.socket, content: bytes) -> None:
    try:
        link.sendall(content)
    except OSError:
        return


def test_a_body_that_is_too_large_is_refused_before_it_comes(quick: Any) -> None:
    """The answer comes after the head, whether the body follows or not."""
    with quick.connect() as link:
        link.sendall(b"POST /v2/models/mean/infer HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
        rest = quick.rest(link)

    assert rest.startswith(b"HTTP/1.1 413 ")
    assert b"at most 1048576" in rest


def test_a_client_that_sends_on_still_sees_why_it_was_refused(quick: Any) -> None:
    """The refusal is not lost in a reset."""
    body = b"x" * (4 << 20)

    reply = quick.ask("POST", "/v2/models/mean/infer", body)

    assert (reply.status, "at most 1048576" in reply.error) == (413, True)


def test_a_chunked_body_is_counted_as_it_comes(quick: Any) -> None:
    """A body without a length is taken up to the limit, and not beyond."""
    head = b"POST /v2/models/mean/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    small = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    with quick.connect() as link:
        link.sendall(head + small)
        first = link.recv(4096)
        _send_all(link, head + b"100000\r\n" + b"x" * 0x100000 + b"\r\n9\r\n123456789\r\n")
        rest = quick.rest(link)

    assert first.startswith(b"HTTP/1.1 200 ")
    assert rest.startswith(b"HTTP/1.1 413 ")
    assert quick.metric("bodies_bytes") == 0


def test_all_bodies_together_are_bounded(serve: Any, make_mean: Callable[..., Path]) -> None:
    """Half-sent bodies cannot fill the memory: the next request is told to come again."""
    server = serve(make_mean(), extra="limits: {body_mb: 1, bodies_mb: 1}")
    half = (
        b"POST /v2/models/mean/infer HTTP/1.1\r\nContent-Length: 1048576\r\n\r\n" + b"x" * 600_000
    )
    links = [server.connect() for _ in range(2)]
    for link in links:
        link.sendall(half)
    server.until(lambda: server.server._hub.held_bytes == 1_200_000)

    refused = server.infer([1] * 4)
    for link in links:
        link.close()
    server.until(lambda: server.server._hub.held_bytes == 0)

    assert refused.status == 503
    assert server.infer([1] * 4).status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"HELLO\r\n\r\n", 400),
        (b"GET /v2 HTTP/9.9\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\n" + b"X-Long: " + b"a" * 100_000, 431),
        (b"GET /" + b"a" * 100_000, 431),
        (
            b"POST /v2 HTTP/1.1\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}",
            415,
        ),
    ],
)
def test_what_is_no_request_is_refused(quick: Any, sent: bytes, status: int) -> None:
    """Garbage, smuggling and endless heads get an answer and an end."""
    with quick.connect() as link:
        _send_all(link, sent)
        rest = quick.rest(link)

    assert rest.startswith(b"HTTP/1.1 %d " % status), rest[:200]
    assert quick.infer([1] * 4).status == 200


def test_requests_sent_ahead_are_answered_in_order(mean: Any) -> None:
    """Each gets its own answer, though they came in one piece."""
    second = REQUEST.replace(b"[1,1,1,1]", b"[2,2,2,2]")
    with mean.connect() as link:
        link.sendall(REQUEST + LIVE + second.replace(b"Host: a", b"Connection: close"))
        answers = mean.rest(link)

    places = [answers.index(part) for part in (b'"data":[1.0]', b'"live"', b'"data":[2.0]')]
    assert answers.count(b"HTTP/1.1 200 ") == 3
    assert places == sorted(places)


def test_too_many_requests_sent_ahead_are_refused(mean: Any, gated: ModuleType) -> None:
    """Those before are answered, then the connection ends."""
    slow = REQUEST.replace(b"[1,1,1,1]", b"[13,0,0,0]").replace(
        b"Content-Length: %d" % len(BODY), b"Content-Length: %d" % (len(BODY) + 1)
    )
    with mean.connect() as link:
        link.sendall(slow + LIVE * 40)
        gated.entered.wait(30)
        gated.gate.set()
        answers = mean.rest(link)

    # The first one waits no more if the others came in another packet.
    assert answers.count(b"HTTP/1.1 200 ") in (16, 17)
    assert answers.count(b"HTTP/1.1 400 ") == 1


def test_a_request_in_single_bytes_is_the_same_request(mean: Any) -> None:
    """How the bytes are spread over packets does not matter."""
    with mean.connect() as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in REQUEST:
            link.sendall(bytes([byte]))
        answer = link.recv(4096)

    assert b'"data":[1.0]' in answer


def test_a_client_may_ask_before_it_sends_a_body(mean: Any) -> None:
    """``Expect: 100-continue`` is answered first."""
    head = HEAD.replace(b"Host: a\r\n", b"Host: a\r\nExpect: 100-continue\r\n")
    with mean.connect() as link:
        link.sendall(head)
        first = link.recv(4096)
        link.sendall(BODY)
        second = link.recv(4096)

    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert second.startswith(b"HTTP/1.1 200 ")


def test_an_old_client_gets_its_answer_and_the_end(mean: Any) -> None:
    """HTTP/1.0 and ``Connection: close`` end the connection behind the answer."""
    for request in (
        b"GET /v2/health/live HTTP/1.0\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nConnection: close\r\n\r\n",
    ):
        with mean.connect() as link:
            link.sendall(request)
            answer = mean.rest(link)

        assert answer.endswith(b'{"live":true}')


def test_head_has_no_body(mean: Any) -> None:
    """A probe by HEAD sees the same head, and the connection stays in step."""
    with mean.connect() as link:
        last = LIVE.replace(b"Host: a", b"Connection: close")
        link.sendall(LIVE.replace(b"GET", b"HEAD") + last)
        answers = mean.rest(link)

    assert answers.count(b"Content-Length: 13") == 2
    assert answers.count(b'{"live":true}') == 1


def test_when_full_the_longest_wait_gives_way(serve: Any, make_mean: Callable[..., Path]) -> None:
    """Connections that are opened and left keep nobody out."""
    server = serve(make_mean(), extra="limits: {connections: 8}")
    links = [server.connect() for _ in range(50)]

    reply = server.infer([1] * 4)

    assert reply.status == 200
    assert closed(server, "full") >= 42
    assert server.metric("connections_open") <= 8
    for link in links:
        link.close()


def test_a_request_that_is_being_answered_never_gives_way(
    serve: Any, make_mean: Callable[..., Path], gated: ModuleType
) -> None:
    """However many come, it keeps its connection."""
    server = serve(make_mean(), extra="limits: {connections: 4, inline_ms: 0}")
    found: list[Any] = []
    slow = threading.Thread(target=lambda: found.append(server.infer([13, 0, 0, 0])))
    slow.start()
    gated.entered.wait(30)
    links = [server.connect() for _ in range(20)]
    server.until(lambda: closed(server, "full") >= 10)

    gated.gate.set()
    slow.join(30)

    assert found[0].status == 200
    for link in links:
        link.close()
