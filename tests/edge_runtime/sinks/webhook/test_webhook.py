"""The webhook against a real HTTP server on loopback that misbehaves as told."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import registry
from edge_runtime.backoff import Backoff
from edge_runtime.config import parse_yaml
from edge_runtime.errors import ConfigError, Rejected
from edge_runtime.registry import decode_path
from edge_runtime.sinks.webhook import WebhookConfig, WebhookSink
from edge_runtime.sinks.webhook.post import _retry_after_s
from edge_runtime.types import Output, SideRows

PATIENCE_S = 60.0
PAGE = Path(__file__).parents[4] / "docs" / "reference" / "sinks" / "webhook.md"
Step = int | tuple[int, Mapping[str, str]] | str


class Server(http.server.ThreadingHTTPServer):
    """Answers each request with the next step: a status, with headers, or a misbehaviour.

    Steps: ``hang`` answers when the test allows it, ``drip`` answers byte by byte and
    never ends, ``cut`` closes the connection. After the last one it answers 200.
    """

    daemon_threads = True

    def __init__(self, steps: Sequence[Step], context: Any = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.steps = list(steps)
        self.seen: queue.Queue[tuple[str, Mapping[str, str], bytes]] = queue.Queue()
        self.release = threading.Event()
        self.scheme = "http"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/hook?k=1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what these tests are about."""

    def take(self) -> tuple[str, Mapping[str, str], dict[str, Any]]:
        path, headers, body = self.seen.get(timeout=PATIENCE_S)
        return path, headers, json.loads(body)

    def rows(self) -> list[dict[str, Any]]:
        found = []
        while not self.seen.empty():
            found += self.take()[2]["rows"]
        return found


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        step = self.server.steps.pop(0) if self.server.steps else 200
        self.server.seen.put((self.path, dict(self.headers), body))
        if step == "hang":
            self.server.release.wait(PATIENCE_S)
        if step == "drip":
            while not self.server.release.wait(0.01):
                self.wfile.write(b"H")
        if step == "cut":
            self.close_connection = True
            return
        status, headers = step if isinstance(step, tuple) else (step, {})
        self.send_response(status if isinstance(status, int) else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made = []

    def make(*steps: Step, **options: Any) -> Server:
        made.append(Server(steps, **options))
        return made[-1]

    yield make
    for server in made:
        server.release.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def post() -> Iterator[Callable[..., WebhookSink]]:
    """Open sinks that try again at once."""
    made = []

    def make(server: Server | str, **options: Any) -> WebhookSink:
        url = server if isinstance(server, str) else server.url
        fields = {"url": url, "every_s": 0.0, "close_s": PATIENCE_S, **options}
        config = msgspec.convert(fields, WebhookConfig, dec_hook=decode_path)
        made.append(WebhookSink(config, backoff=Backoff(0.0, 0.0)))
        made[-1].open("pump-1")
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def _numbered(output: Output, number: int) -> Output:
    decisions = tuple(msgspec.structs.replace(d, index=number) for d in output.decisions)
    return msgspec.structs.replace(output, decisions=decisions)


def test_a_decision_is_posted_with_its_identity(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output
) -> None:
    """A row carries every field of the decision and an id that no other row has."""
    server = serve()
    sink = post(server)

    sink.write(output)
    path, headers, body = server.take()
    sink.close()

    assert path == "/hook?k=1"
    assert headers["Content-Type"] == "application/json"
    assert body == {
        "device": "pump-1",
        "rows": [
            {
                "id": "pump-1/pump/7/7000000000/bearing/worn/start/edge/0",
                "result": "pump-1/0/pump/7/bearing/worn/start",
                "kind": "decision",
                "device": "pump-1",
                "stream": "pump",
                "index": 7,
                "time_ns": 7_000_000_000,
                "model": "bearing",
                "label": "worn",
                "edge": "start",
                "value": 0.912345,
                "effective_id": "0123456789abcdef",
                "tier": "edge",
                "revision": 0,
            }
        ],
    }
    assert (sink.sent, sink.discarded) == (1, {})


def test_revisions_and_samples_set_aside_have_ids_of_their_own(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output
) -> None:
    """Whoever keeps a row once per id keeps every revision, and every late sample."""
    server = serve()
    sink = post(server, estimates=True, aside=True)
    first, again = (
        msgspec.structs.replace(output.estimates, revision=np.full(2, number)) for number in (0, 1)
    )
    gone = msgspec.structs.replace(output.estimates, revision=np.full(2, 2))
    times = np.array([3, 3, 4], np.int64)
    side = SideRows("late", times, np.array([[1.0], [2.0], [2.0]]))

    sink.write(Output("pump", first, ()))
    sink.write(Output("pump", again, (), gone, (side,)))
    sink.close()

    rows = server.rows()
    assert len(rows) == len({row["id"] for row in rows}) == 9
    assert {row["kind"] for row in rows} == {"estimate", "sample"}
    assert all(("result" in row) == (row["kind"] == "estimate") for row in rows)


def test_a_suspect_decision_says_why_and_keeps_its_identity(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output
) -> None:
    """The receiver learns about the sensor in the same row."""
    server = serve()
    sink = post(server)
    decision = msgspec.structs.replace(output.decisions[0], quality=3)

    sink.write(msgspec.structs.replace(output, decisions=(decision,)))
    _, _, body = server.take()
    sink.close()

    (row,) = body["rows"]
    assert row["quality"] == ["saturated", "frozen"]
    assert row["id"] == "pump-1/pump/7/7000000000/bearing/worn/start/edge/0"


def test_estimates_are_posted_when_wanted(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output
) -> None:
    """Estimates come before the decisions of their block; NaN is null."""
    server = serve()
    sink = post(server, estimates=True)

    sink.write(output)
    sink.close()

    rows = server.rows()
    assert [row["kind"] for row in rows] == ["estimate", "estimate", "decision"]
    assert rows[1]["value"] == [None, 1 / 3]
    assert len({row["id"] for row in rows}) == 3


def test_what_comes_during_a_post_goes_together(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output
) -> None:
    """Rows are gathered in batches, in order, and each is sent once."""
    server = serve("hang")
    sink = post(server, batch=4)
    sink.write(_numbered(output, 0))
    first = server.take()[2]
    for number in range(1, 8):
        sink.write(_numbered(output, number))
    server.release.set()
    sink.close()

    batches = [server.take()[2]["rows"] for _ in range(2)]
    assert [row["index"] for row in first["rows"]] == [0]
    assert [[row["index"] for row in rows] for rows in batches] == [[1, 2, 3, 4], [5, 6, 7]]
    assert sink.sent == 8


def test_a_server_that_hangs_never_holds_up_the_writer(
    serve: Callable[..., Server],
    post: Callable[..., WebhookSink],
    output: Output,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The queue lets the oldest go, counts every row and says so once."""
    server = serve("hang")
    sink = post(server, queue=3)
    sink.write(_numbered(output, 0))
    server.take()
    for number in range(1, 11):
        sink.write(_numbered(output, number))
    server.release.set()
    sink.close()

    assert [row["index"] for row in server.rows()] == [8, 9, 10]
    assert sink.discarded == {"queue_full": 7}
    assert [r.message for r in caplog.records].count("webhook.overflowed") == 1


@pytest.mark.parametrize(
    "trouble", [500, 503, 429, 408, 425, "cut", (503, {"Retry-After": "0"})], ids=str
)
def test_a_trouble_that_passes_is_tried_again(
    serve: Callable[..., Server],
    post: Callable[..., WebhookSink],
    output: Output,
    caplog: pytest.LogCaptureFixture,
    trouble: Step,
) -> None:
    """The same body comes again under the same key, until the server takes it."""
    caplog.set_level(logging.INFO)
    server = serve(trouble, trouble)
    sink = post(server)

    sink.write(output)
    seen = [server.seen.get(timeout=PATIENCE_S) for _ in range(3)]
    sink.close()

    assert len({body for _, _, body in seen}) == 1
    assert len({headers["Idempotency-Key"] for _, headers, _ in seen}) == 1
    assert (sink.sent, sink.discarded) == (1, {})
    assert [r.message for r in caplog.records] == ["webhook.failed", "webhook.recovered"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, 0), ("7", 7), ("86400", 300), ("-1", 0), ("soon", 0), ("9" * 99, 0), ("²", 0)],
)
def test_a_server_may_ask_for_a_bounded_pause(text: str | None, seconds: float) -> None:
    """Seconds count up to five minutes; anything else is no pause."""
    assert _retry_after_s(text) == seconds


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
def test_what_the_server_refuses_is_not_tried_again(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output, status: int
) -> None:
    """The row is counted, and the next one gets its chance."""
    server = serve(status)
    sink = post(server)

    sink.write(_numbered(output, 1))
    server.take()
    sink.write(_numbered(output, 2))
    sink.close()

    assert [row["index"] for row in server.rows()] == [2]
    assert (sink.sent, sink.discarded) == (1, {"refused": 1})


def test_a_redirect_is_not_followed(
    serve: Callable[..., Server],
    post: Callable[..., WebhookSink],
    output: Output,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither rows nor signature go where the configuration does not send them."""
    other = serve()
    server = serve((307, {"Location": other.url}))
    sink = post(server)

    sink.write(output)
    sink.close()

    assert other.seen.empty()
    assert sink.discarded == {"refused": 1}
    assert "redirects are not followed" in str(caplog.records[0].__dict__["why"])


def test_after_enough_attempts_rows_are_dropped_and_counted(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output
) -> None:
    """A batch that no attempt gets through does not hold up those behind it."""
    server = serve(500, 500, 500)
    sink = post(server, attempts=3, batch=1)
    sink.write(_numbered(output, 1))
    sink.write(_numbered(output, 2))

    posted = [server.take()[2]["rows"] for _ in range(4)]
    sink.close()

    assert [row["index"] for rows in posted for row in rows] == [1, 1, 1, 2]
    assert (sink.sent, sink.discarded) == (1, {"unreachable": 1})


@pytest.mark.parametrize("step", ["hang", "drip"])
def test_a_slow_server_gets_no_more_than_its_time(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output, step: str
) -> None:
    """Silence, and an answer byte by byte without end, both count as no answer."""
    server = serve(step)
    sink = post(server, timeout_s=0.1)

    sink.write(output)
    server.take()
    server.take()
    sink.close()

    assert sink.sent == 1


def test_closing_does_not_wait_longer_than_it_may(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output
) -> None:
    """A server that hangs is cut off; what is left is counted."""
    server = serve("hang")
    sink = post(server, close_s=0.0)
    sink.write(_numbered(output, 1))
    server.take()
    sink.write(_numbered(output, 2))

    sink.close()

    assert sink.discarded == {"closed": 1, "unreachable": 1}
    assert not [t for t in threading.enumerate() if t.name == "webhook"]


def test_a_server_that_is_not_there_is_tried_once_more_at_close(
    post: Callable[..., WebhookSink], output: Output
) -> None:
    """Closing does not go through all attempts, and drops nothing silently."""
    sink = post("http://127.0.0.1:1/", attempts=100)
    for number in range(5):
        sink.write(_numbered(output, number))
    sink.close()

    assert sum(sink.discarded.values()) == 5
    assert sink.sent == 0


def test_a_signature_proves_the_body(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output, tmp_path: Path
) -> None:
    """The header is HMAC-SHA256 of the exact bytes with the key of the secret file."""
    secret = tmp_path / "secret"
    secret.write_text("key\n")
    secret.chmod(0o600)
    server = serve()
    sink = post(server, secret_file=str(secret))

    sink.write(output)
    _, headers, body = server.seen.get(timeout=PATIENCE_S)

    wanted = hmac.new(b"key", body, hashlib.sha256).hexdigest()
    assert headers["X-Signature-256"] == f"sha256={wanted}"


def test_tls_with_an_authority_of_its_own(
    serve: Callable[..., Server], post: Callable[..., WebhookSink], output: Output, authority: Any
) -> None:
    """A certificate that the CA file vouches for is trusted."""
    server = serve(context=authority.server_context())
    sink = post(server, ca_file=str(authority.ca_file))

    sink.write(output)
    sink.close()

    assert sink.sent == 1


def test_a_server_that_is_not_trusted_gets_nothing(
    serve: Callable[..., Server],
    post: Callable[..., WebhookSink],
    output: Output,
    authority: Any,
    stranger: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither with another authority nor with the system's."""
    server = serve(context=authority.server_context())
    for options in ({}, {"ca_file": str(stranger.ca_file)}):
        sink = post(server, attempts=1, **options)
        sink.write(output)
        sink.close()
        assert sink.sent == 0

    assert server.seen.empty()
    assert "is not trusted" in str(caplog.records[0].__dict__["why"])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"secret_file": "open"}, "mode"),
        ({"secret_file": "missing"}, "no file"),
        ({"secret_file": "empty"}, "is empty"),
        ({"ca_file": "missing"}, "no file"),
        ({"ca_file": "open", "url": "https://x/"}, "cannot be used"),
    ],
)
def test_files_are_checked_when_it_opens(
    tmp_path: Path, options: dict[str, str], what: str
) -> None:
    """A secret that others can read or that is empty stops the start."""
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "empty").touch(0o600)
    files = {k: v if k == "url" else str(tmp_path / v) for k, v in options.items()}
    sink = registry.create("sinks", "webhook", {"url": "http://x/"} | files)

    with pytest.raises(ConfigError, match=what) as caught:
        sink.open("pump-1")

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/",
        "http:///x",
        "http://user:pw@x/",
        "x/y",
        "http://x/#a",
        "http://x:99999/",
        "http://x/a b",
        "http://x/\r\nY: z",
        "http://ü/",
    ],
)
def test_what_is_no_url_is_refused_without_showing_a_secret(url: str) -> None:
    """Also one that would smuggle in a header."""
    with pytest.raises(ConfigError, match="url begins with") as caught:
        WebhookConfig(url=url)

    assert "pw" not in caught.value.remedy


@given(st.text(max_size=30))
def test_any_url_is_usable_or_refused(text: str) -> None:
    """Nothing else is ever raised."""
    for url in (text, f"https://{text}"):
        try:
            parts = WebhookConfig(url=url).parts
        except ConfigError:
            continue
        assert parts.hostname


def test_writing_before_open_is_rejected(output: Output) -> None:
    """A sink that is not open takes nothing."""
    sink = WebhookSink(WebhookConfig(url="http://x/"))
    sink.close()

    with pytest.raises(Rejected, match="is not open"):
        sink.write(output)


def test_the_page_shows_what_works_and_leaves_nothing_out() -> None:
    """The example is one, and every option and count stands on the page."""
    text = PAGE.read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (options,) = parse_yaml(example, dict[str, Any], "webhook.md")["sinks"]

    assert options.pop("kind") == "webhook"
    assert isinstance(registry.create("sinks", "webhook", options), WebhookSink)
    names = [
        *WebhookConfig.__struct_fields__,
        *("queue_full", "refused", "unreachable", "closed"),
        *("Idempotency-Key", "X-Signature-256"),
    ]
    assert [name for name in names if f"`{name}`" not in text] == []
