"""Who may ask, over what, and how a server ends."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.modes.realtime import Limits, ServeConfig, ServedConfig, TLSConfig
from edge_runtime.modes.realtime.config import check_serve, load_serve

TOKEN = "a-token-of-more-than-16"  # noqa: S105 - of this test alone


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Two tokens, for their owner alone."""
    path = tmp_path / "tokens"
    path.write_text(f"another-token-entirely\n{TOKEN}\n")
    path.chmod(0o600)
    return path


def test_without_a_token_nobody_is_answered_but_probes(
    serve: Any, make_mean: Callable[..., Path], token_file: Path
) -> None:
    """Any token of the file opens everything; none, a wrong one or a part of one nothing."""
    server = serve(make_mean(), extra=f"token_file: {token_file}")

    def status(path: str, authorization: str | None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        return int(server.ask("GET", path, None, headers).status)

    wrong = (None, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "é")
    assert {status("/v2/models/mean", one) for one in wrong} == {401}
    assert status("/metrics", None) == 401
    assert status("/v2/models/mean", f"Bearer {TOKEN}") == 200
    assert status("/v2/models/mean", "Bearer another-token-entirely") == 200
    assert [status(f"/v2/health/{one}", None) for one in ("live", "ready")] == [200, 200]


def test_a_refusal_never_shows_a_token(
    serve: Any, make_mean: Callable[..., Path], token_file: Path
) -> None:
    """Neither the known ones nor the given one stand in the answer."""
    server = serve(make_mean(), extra=f"token_file: {token_file}")

    reply = server.ask("GET", "/v2", None, {"Authorization": "Bearer something-secret-given"})

    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in reply.error and "something-secret-given" not in reply.error


def test_a_web_page_cannot_ask_a_server_without_a_token(mean: Any) -> None:
    """A browser says where a request comes from; loopback is no protection from it."""
    reply = mean.ask("POST", "/v2/repository/index", b"", {"Origin": "https://example.org"})

    assert (reply.status, "web page" in reply.error) == (403, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "device.example"])  # noqa: S104
def test_beyond_loopback_a_token_is_needed(host: str, token_file: Path) -> None:
    """Unless somebody says that everybody may ask."""
    models = (ServedConfig(bundle=Path("b")),)

    with pytest.raises(ConfigError, match="everybody who reaches"):
        check_serve(ServeConfig(models=models, host=host))

    assert check_serve(ServeConfig(models=models, host=host, without_token=True)) == ()
    assert len(check_serve(ServeConfig(models=models, host=host, token_file=token_file))) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.1"])
def test_on_loopback_none_is(host: str) -> None:
    """Only programs of this machine reach it."""
    assert check_serve(ServeConfig(models=(ServedConfig(bundle=Path("b")),), host=host)) == ()


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (TOKEN, 0o644, "mode 0644"),
        ("tiny", 0o600, "16 or more"),
        ("", 0o600, "0 tokens"),
        ("\n".join([TOKEN] * 17), 0o600, "17 tokens"),
    ],
)
def test_a_token_file_that_protects_nothing_is_refused(
    token_file: Path, content: str, mode: int, words: str
) -> None:
    """The message says what is wrong and never what stands in the file."""
    token_file.write_text(content)
    token_file.chmod(mode)

    with pytest.raises(ConfigError, match=words) as error:
        check_serve(ServeConfig(models=(ServedConfig(bundle=Path("b")),), token_file=token_file))

    assert not content or content not in str(error.value)


def test_a_configuration_without_models_is_refused(tmp_path: Path) -> None:
    """There must be something to serve, and a repository must be a folder."""
    with pytest.raises(ConfigError, match="there is no model"):
        check_serve(ServeConfig())
    with pytest.raises(ConfigError, match="no folder"):
        check_serve(ServeConfig(repository=tmp_path / "none"))


def test_a_file_is_read_strictly(tmp_path: Path) -> None:
    """Unknown keys have a place and a suggestion; paths are relative to the file."""
    path = tmp_path / "serve.yaml"
    path.write_text("models: [{bundle: pump}]\nlimits: {body_mb: 4}\n")

    config = load_serve(path)

    assert config.models[0].bundle == tmp_path / "pump"
    assert config.limits == Limits(body_mb=4.0)
    path.write_text("limits: {body_bm: 4}\n")
    with pytest.raises(ConfigError, match=r"serve.yaml:1:10: unknown key 'limits.body_bm'"):
        load_serve(path)


# --- TLS ----------------------------------------------------------------------------


def _tls(authority: Any, client_ca: Path | None = None) -> str:
    authority.key_file.chmod(0o600)
    more = f", client_ca_file: {client_ca}" if client_ca else ""
    return f"tls: {{cert_file: {authority.cert_file}, key_file: {authority.key_file}{more}}}"


def _context(authority: Any, *, identity: Any = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca_file)
    if identity is not None:
        context.load_cert_chain(identity.cert_file, identity.key_file)
    return context


def test_answers_are_encrypted(
    serve: Any, make_mean: Callable[..., Path], authority: Any, stranger: Any
) -> None:
    """A client that trusts the authority is answered; others, and plain HTTP, are not."""
    server = serve(make_mean(), extra=_tls(authority) + "\nlimits: {head_s: 0.5}")

    reply = server.ask("GET", "/v2", context=_context(authority))

    assert reply.json["name"] == "edge-runtime"
    with pytest.raises(ssl.SSLError):
        server.ask("GET", "/v2", context=_context(stranger))
    with pytest.raises((http.client.HTTPException, OSError)):
        server.ask("GET", "/v2")
    with server.connect() as link:
        assert server.rest(link) == b""
    assert server.ask("GET", "/v2", context=_context(authority)).status == 200


def test_handshakes_that_never_end_keep_nobody_out(
    serve: Any, make_mean: Callable[..., Path], authority: Any
) -> None:
    """They are bounded, and the oldest gives way."""
    server = serve(make_mean(), extra=_tls(authority) + "\nlimits: {connections: 4}")
    links = [server.connect() for _ in range(30)]

    reply = server.ask("GET", "/v2", context=_context(authority))

    assert reply.status == 200
    assert len(server.server._adopting) <= 4
    for link in links:
        link.close()


def test_a_client_without_a_certificate_is_refused_where_one_is_asked_for(
    serve: Any, make_mean: Callable[..., Path], authority: Any
) -> None:
    """Certificates of the named authority alone open the door."""
    server = serve(make_mean(), extra=_tls(authority, authority.ca_file))

    known = server.ask("GET", "/v2", context=_context(authority, identity=authority))

    assert known.status == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.ask("GET", "/v2", context=_context(authority))


def test_a_key_that_others_can_read_or_that_does_not_fit_is_refused(
    serve: Any, make_mean: Callable[..., Path], authority: Any, stranger: Any
) -> None:
    """Secrets are for their owner alone, and a certificate needs its own key."""
    bundle, extra = make_mean(), _tls(authority)
    _tls(stranger)
    mixed = extra.replace(str(authority.key_file), str(stranger.key_file))

    with pytest.raises(ConfigError, match="cannot be used"):
        serve(bundle, extra=mixed)
    authority.key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        serve(bundle, extra=extra)


def test_a_key_is_named_with_its_certificate() -> None:
    """Both files are needed."""
    with pytest.raises(TypeError):
        TLSConfig(cert_file=Path("c"))  # type: ignore[call-arg]


# --- the end ------------------------------------------------------------------------


def test_what_is_in_flight_is_answered_before_the_end(mean: Any, gated: ModuleType) -> None:
    """While the server drains it is not ready, and still answers what comes."""
    found: list[Any] = []
    slow = threading.Thread(target=lambda: found.append(mean.infer([13, 0, 0, 0])))
    slow.start()
    gated.entered.wait(30)
    idle = mean.connect()

    mean.server.stop()
    mean.until(lambda: mean.ask("GET", "/v2/health/ready").status == 503)
    live = mean.ask("GET", "/v2/health/live")
    gated.gate.set()
    slow.join(30)
    mean.stop()

    assert (live.status, live.headers["Connection"]) == (200, "close")
    assert found[0].tensor("value") == [3.25]
    assert mean.rest(idle) == b""
    with pytest.raises(ConnectionRefusedError):
        mean.connect()


def test_a_drain_has_an_end(serve: Any, make_mean: Callable[..., Path], gated: ModuleType) -> None:
    """A model that hangs does not keep the server for ever."""
    server = serve(make_mean(), extra="limits: {inline_ms: 0, drain_s: 0.2}")
    with server.connect() as link:
        body = b'{"inputs":[{"name":"window","shape":[1,4,1],"datatype":"FP32","data":[13,0,0,0]}]}'
        head = b"POST /v2/models/mean/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        link.sendall(head + body)
        gated.entered.wait(30)

        server.stop()

        assert server.rest(link) == b""
    assert not server.is_running


def test_a_port_that_is_taken_is_told(mean: Any, tmp_path: Path) -> None:
    """The message names the port and what to do."""
    from edge_runtime.modes.realtime import RealtimeServer

    config = ServeConfig(repository=tmp_path, port=mean.port)

    with pytest.raises(ConfigError, match=rf"127.0.0.1:{mean.port}.*in use"):
        RealtimeServer(config)
