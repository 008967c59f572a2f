"""Client certificates: required, optional, what the endpoint is told of them, and no way around them."""
from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.backends import Nginx, StartActor, StartStage, answering
from e2e.certs import Authority, Pair
from e2e.h2peers import H2Client
from e2e.program import StartEdge, addresses, free_port
from e2e.tlspeers import NAME, client_context, connect_tls, curl, curl_try, https, s_client, secure
from e2e.wire import Wire, connect

REQUEST = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
FIELD = "x-forwarded-client-cert"


@pytest.fixture
def clients(tmp_path: Path) -> Authority:
    """Who signs client certificates here: not the one who signs the servers'."""
    return Authority(tmp_path / "clients", "clients")


def asking(clients: Authority, mode: str) -> str:
    return f"client_auth: {{ca: '{clients.pem}', mode: {mode}}}"


def shows(pair: Pair) -> tuple[str, ...]:
    return "--cert", str(pair.cert), "--key", str(pair.key)


@pytest.mark.parametrize("http", ["--http1.1", "--http2"])
def test_required(edge: StartEdge, authority: Authority, clients: Authority, nginx: Nginx,
                  http: str) -> None:
    port = free_port()
    proxy = edge(secure(port, [authority.server(NAME)], nginx["a"], tls=asking(clients, "require")))
    assert curl(f"https://{NAME}:{port}/", authority, http, *shows(clients.client("bob"))).status == 200
    for version in ("1.2", "1.3"):
        done = curl_try(f"https://{NAME}:{port}/", authority, http, "--tlsv" + version, "--tls-max", version)
        assert done.returncode != 0 and done.stdout == "", done
    proxy.logged(1, lambda line: line["kind"] == "http")
    refused = proxy.logged(2, lambda line: line["kind"] == "tcp")
    assert {(line["outcome"], line["sni"]) for line in refused} == {("handshake_failed", NAME)}


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("which", ["of another authority", "expired", "a server's"])
def test_a_bad_certificate_is_refused(edge: StartEdge, authority: Authority, clients: Authority, nginx: Nginx,
                                      which: str, version: str) -> None:
    port = free_port()
    edge(secure(port, [authority.server(NAME)], nginx["a"], tls=asking(clients, "optional")))
    pair = {"of another authority": authority.client("mallory"), "expired": clients.client("late", days=-1),
            "a server's": clients.server("not-a-client.test")}[which]
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        with connect_tls(port, client_context(authority, "http/1.1", pair=pair, version=version)) as wire:
            wire.get("/", NAME)
            assert not wire.more(), f"an answer: {wire.buffer!r}"
            raise EOFError


def test_optional(edge: StartEdge, stage: StartStage, authority: Authority, clients: Authority) -> None:
    port, endpoint = free_port(), stage()
    edge(secure(port, [authority.server(NAME)], endpoint.port, tls=asking(clients, "optional")))
    for pair in (None, clients.client("bob")):
        with connect_tls(port, client_context(authority, "http/1.1", pair=pair)) as wire:
            wire.get("/", NAME)
            channel = endpoint.accept()
            told = channel.request().get(FIELD)
            channel.answer(b"ok")
            assert wire.response().status == 200
            channel.close()
        assert (told is None) == (pair is None), told


def _through_http1(wire: Wire, fields: list[str]) -> None:
    wire.get("/", NAME, *fields)


def _through_http2(wire: Wire, fields: list[str]) -> None:
    H2Client(wire).request(fields=[(name.lower(), value) for name, value in (line.split(": ", 1) for line in fields)])


@pytest.mark.parametrize(("alpn", "send"), [("http/1.1", _through_http1), ("h2", _through_http2)])
@pytest.mark.parametrize("trusted", [False, True])
def test_what_the_endpoint_is_told(edge: StartEdge, stage: StartStage, authority: Authority, clients: Authority,
                                   alpn: str, send: Callable[[Wire, list[str]], None], trusted: bool) -> None:
    """A field that the client sends is removed, whoever the client is."""
    port, endpoint, pair = free_port(), stage(), clients.client("bob")
    edge(secure(port, [authority.server(NAME)], endpoint.port, tls=asking(clients, "require"),
                listener="trusted_proxies: [127.0.0.0/8]" if trusted else ""))
    forged = ["X-Forwarded-Client-Cert: Hash=00;Subject=\"CN=root\"", "x-FORWARDED-client-cert: forged"]
    with connect_tls(port, client_context(authority, alpn, pair=pair)) as wire:
        send(wire, forged)
        request = endpoint.accept().request()
    told = request.get(FIELD)
    assert told is not None and "root" not in told and "forged" not in told
    assert pair.fingerprint in told.lower() and "bob" in told, told


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_forged_field_is_removed_where_nobody_is_asked(edge: StartEdge, stage: StartStage, authority: Authority,
                                                         scheme: str) -> None:
    port, plain, endpoint = free_port(), free_port(), stage()
    edge(secure(port, [authority.server(NAME)], endpoint.port,
                more=f", web: {{bind: '127.0.0.1:{plain}', protocol: http, trusted_proxies: [127.0.0.1]}}"))
    with connect_tls(port, client_context(authority, "http/1.1")) if scheme == "https" else connect(plain) as client:
        client.get("/", NAME, "X-Forwarded-Client-Cert: forged")
        request = endpoint.accept().request()
    assert request.get(FIELD) is None


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_session_of_one_listener_opens_no_other(edge: StartEdge, nginx: Nginx, authority: Authority,
                                                  clients: Authority, tmp_path: Path, version: str) -> None:
    """What is resumed skips the client's certificate (as in CVE-2025-23419)."""
    open_port, closed_port, session = free_port(), free_port(), str(tmp_path / "session.pem")
    pair = authority.server(NAME)
    edge(secure(open_port, [pair], nginx["a"],
                more=f", strict: {https(closed_port, [pair], asking(clients, 'require'))}"))
    options = ("-servername", NAME, version)
    first = s_client(open_port, *options, "-sess_out", session, send=REQUEST)
    assert "200 OK" in first.text
    again = s_client(open_port, *options, "-sess_in", session, send=REQUEST)
    assert again.find(r"^(Reused), "), "it can be resumed where it came from"
    refused = s_client(closed_port, *options, "-sess_in", session, send=REQUEST)
    assert "200 OK" not in refused.text and "alert" in refused.text, refused.text


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_resumed_session_still_knows_its_client(edge: StartEdge, stage: StartStage, authority: Authority,
                                                  clients: Authority, tmp_path: Path, version: str) -> None:
    """Either it is not resumed and the certificate is shown again, or the endpoint is told of it all the same."""
    port, endpoint, pair = free_port(), stage(), clients.client("bob")
    edge(secure(port, [authority.server(NAME)], endpoint.port, tls=asking(clients, "require")))
    session = str(tmp_path / "session.pem")
    options = ("-servername", NAME, version, "-cert", str(pair.cert), "-key", str(pair.key))
    for saved in ("-sess_out", "-sess_in"):
        told: list[str | None] = []

        def answer(told: list[str | None] = told) -> None:
            with endpoint.accept() as channel:
                told.append(channel.request().get(FIELD))
                channel.answer(b"ok", "200 OK", "Connection: close")

        thread = threading.Thread(target=answer)
        thread.start()
        said = s_client(port, *options, saved, session, send=REQUEST)
        thread.join(10)
        assert "200 OK" in said.text, said.text
        assert told[0] is not None and pair.fingerprint in told[0].lower()


def test_refused_handshakes_are_in_nobodys_way(edge: StartEdge, actor: StartActor, authority: Authority, clients: Authority) -> None:
    port = free_port()
    proxy = edge(secure(port, [authority.server(NAME)], actor(answering("ok")).port, tls=asking(clients, "require")))
    for _ in range(20):
        assert curl_try(f"https://{NAME}:{port}/", authority).returncode != 0
    assert curl(f"https://{NAME}:{port}/", authority, *shows(clients.client("bob"))).body == "ok"
    assert proxy.logged(1, lambda line: line["kind"] == "http")[0]["status"] == 200


def test_a_name_that_needs_a_certificate_is_not_reached_from_a_listener_that_does_not_ask(
        edge: StartEdge, nginx: Nginx, authority: Authority, clients: Authority) -> None:
    """SNI of one listener, Host of another one's: the route belongs to the strict listener only."""
    port, strict = free_port(), free_port()
    edge(f"listeners:\n  open: {https(port, [authority.server('open.test')])}\n"
         f"  strict: {https(strict, [authority.server('strict.test')], asking(clients, 'require'))}\n"
         "routes:\n  - {host: open.test, service: app, listeners: [open]}\n"
         "  - {host: strict.test, service: app, listeners: [strict]}\n"
         f"services: {{app: {{endpoints: {addresses(nginx['a'])}}}}}\n")
    for alpn in ("http/1.1", "h2"):
        with connect_tls(port, client_context(authority, alpn), "open.test") as wire:
            if alpn == "h2":
                assert H2Client(wire).ask(authority="strict.test").status in (404, 421)
            else:
                wire.get("/", "strict.test")
                assert wire.response().status in (404, 421)
