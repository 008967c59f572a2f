"""Endpoints that speak TLS: verified unless told otherwise, named, shown a certificate; and what is said when it fails."""
from __future__ import annotations

import threading
from pathlib import Path

import pytest

from e2e.backends import Nginx, StartActor, StartStage
from e2e.certs import Authority
from e2e.frames import echo, open_websocket, websocket_echo
from e2e.program import StartEdge, free_port, web
from e2e.tlspeers import ORIGIN
from e2e.wire import Dial, ask

PROTOCOLS = [("https", "tls", "HTTP/1.1"), ("h2", "h2", "HTTP/2.0")]


def service(protocol: str, authority: Authority, more: str = "", name: str = ORIGIN) -> str:
    return f"protocol: {protocol}, tls: {{ca: '{authority.pem}', server_name: {name}{more}}}"


@pytest.mark.parametrize(("protocol", "server", "spoken"), PROTOCOLS)
def test_verified(edge: StartEdge, origin: Nginx, authority: Authority, protocol: str, server: str, spoken: str) -> None:
    port = free_port()
    proxy = edge(web(port, origin[server], service=service(protocol, authority)))
    answer = ask(port)
    assert (answer.status, answer.text) == (200, f"{server}\n")
    assert (answer.get("x-protocol"), answer.get("x-sni")) == (spoken, ORIGIN)
    line = proxy.entry()
    assert (line["status"], line["outcome"]) == (200, "ok")


@pytest.mark.parametrize(("protocol", "server", "spoken"), PROTOCOLS)
def test_channels_are_kept(edge: StartEdge, origin: Nginx, authority: Authority, protocol: str, server: str,
                           spoken: str) -> None:
    port = free_port()
    proxy = edge(web(port, origin[server], service=service(protocol, authority)))
    connections = {(ask(port).get("x-connection") or "").split(":")[0] for _ in range(10)}
    assert len(connections) == 1
    assert [line["reused"] for line in proxy.logged(10)] == [False] + [True] * 9


@pytest.mark.parametrize(("protocol", "server", "_"), PROTOCOLS)
@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_what_is_not_verified_is_502(edge: StartEdge, origin: Nginx, authority: Authority, tmp_path: Path,
                                     protocol: str, server: str, wrong: str, _: str) -> None:
    port = free_port()
    trusted = authority if wrong == "name" else Authority(tmp_path / "other", "somebody else")
    name = "not-the-origin.test" if wrong == "name" else ORIGIN
    proxy = edge(web(port, origin[server], service=service(protocol, trusted, name=name)))
    answer = ask(port)
    assert answer.status == 502
    status = answer.get("proxy-status") or ""
    assert "error=tls_certificate_error" in status, status
    line = proxy.entry()
    assert line["status"] == 502 and line["outcome"].startswith("tls_certificate"), line
    reason = line["detail"].lower()
    assert ("not-the-origin.test" in reason or "hostname" in reason) if wrong == "name" else \
        ("self-signed" in reason or "issuer" in reason), reason
    assert str(origin[server]) not in status, "no addresses of endpoints for clients"


@pytest.mark.parametrize(("protocol", "server", "_"), PROTOCOLS)
def test_verified_by_the_systems_store_by_default(edge: StartEdge, origin: Nginx, protocol: str, server: str,
                                                  _: str) -> None:
    port = free_port()
    edge(web(port, origin[server], service=f"protocol: {protocol}, tls: {{server_name: {ORIGIN}}}"))
    answer = ask(port)
    assert answer.status == 502 and "tls_certificate_error" in (answer.get("proxy-status") or "")


@pytest.mark.parametrize(("protocol", "server", "_"), PROTOCOLS)
def test_not_verified_if_so_wished(edge: StartEdge, origin: Nginx, protocol: str, server: str, _: str) -> None:
    port = free_port()
    edge(web(port, origin[server], service=f"protocol: {protocol}, tls: {{verify: false}}"))
    assert ask(port).status == 200


def test_an_expired_certificate(edge: StartEdge, authority: Authority, tmp_path: Path) -> None:
    old, port = authority.expired(ORIGIN), free_port()
    ours = free_port()
    server = Nginx(tmp_path / "expired", ("plain",), f"server {{ listen 127.0.0.1:{ours} ssl; ssl_certificate {old.cert}; "
                   f"ssl_certificate_key {old.key}; location / {{ return 200; }} }}", {"expired": ours})
    try:
        proxy = edge(web(port, ours, service=service("https", authority)))
        answer = ask(port)
    finally:
        server.stop()
    assert answer.status == 502 and "tls_certificate_error" in (answer.get("proxy-status") or "")
    assert "expired" in proxy.entry()["detail"]


def test_a_client_certificate(edge: StartEdge, origin: Nginx, authority: Authority) -> None:
    port, pair = free_port(), authority.client("edgeproxy")
    edge(web(port, origin["strict"], service=service("https", authority, f", client_cert: {pair.yaml}")))
    answer = ask(port)
    assert (answer.status, answer.get("x-client")) == (200, "CN=edgeproxy")


def test_without_the_client_certificate_the_endpoint_says_no(edge: StartEdge, origin: Nginx, authority: Authority) -> None:
    port = free_port()
    edge(web(port, origin["strict"], service=service("https", authority)))
    assert ask(port).status == 400, "nginx's own answer, passed on"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_endpoint_takes_it(edge: StartEdge, origin: Nginx, authority: Authority, method: str) -> None:
    """Nothing of the request was sent where the handshake failed, so any method may be tried elsewhere."""
    port = free_port()
    proxy = edge(web(port, origin["plain"], origin["tls"], service=service("https", authority)))
    assert [ask(port, method=method).status for _ in range(4)] == [200] * 4
    assert any(line["attempts"] for line in proxy.logged(4))


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28"])
def test_an_endpoint_that_speaks_no_tls_is_502(edge: StartEdge, stage: StartStage, authority: Authority,
                                               garbage: bytes) -> None:
    port, endpoint = free_port(), stage()
    proxy = edge(web(port, endpoint.port, service=service("https", authority), route="retry: {attempts: 1}"))

    def play() -> None:
        with endpoint.accept() as channel:
            channel.more()
            channel.send(garbage)
            channel.ending()

    thread = threading.Thread(target=play)
    thread.start()
    answer = ask(port)
    thread.join(10)
    assert answer.status == 502
    assert "error=tls_" in (answer.get("proxy-status") or ""), answer.get("proxy-status")
    assert proxy.entry()["detail"]


def test_an_endpoint_that_never_shakes_hands_is_504(edge: StartEdge, stage: StartStage, authority: Authority) -> None:
    port, endpoint = free_port(), stage()
    edge(web(port, endpoint.port, service=service("https", authority) + ", timeouts: {connect: 300ms}",
             route="retry: {attempts: 1}"))
    answer = ask(port)
    assert answer.status == 504, answer.raw


def test_sessions_are_resumed(edge: StartEdge, origin: Nginx, authority: Authority) -> None:
    port = free_port()
    edge(web(port, origin["tls"], service=service("https", authority) + ", pool: {idle: 0}"))
    reused = [ask(port).get("x-reused") for _ in range(4)]
    assert reused[0] in (".", None, "") and "r" in reused[1:], reused


def test_names_share_no_channel(edge: StartEdge, origin: Nginx, authority: Authority) -> None:
    """Two services at one address: what was verified for one name is not used for the other."""
    port, address = free_port(), origin["tls"]
    edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\n"
         "routes: [{path: /good, service: good}, {path: /bad, service: bad}]\nservices:\n"
         f"  good: {{endpoints: ['127.0.0.1:{address}'], {service('https', authority)}}}\n"
         f"  bad: {{endpoints: ['127.0.0.1:{address}'], {service('https', authority, name='other.test')}}}\n")
    assert [ask(port, path).status for path in ("/good", "/bad", "/good", "/bad")] == [200, 502, 200, 502]


def test_websocket_over_tls_to_the_endpoint(edge: StartEdge, actor: StartActor, dial: Dial, authority: Authority,
                                             tmp_path: Path) -> None:
    """The relay behind a 101 is encrypted too."""
    pair, port, ours = authority.server(ORIGIN), free_port(), free_port()
    behind = actor(websocket_echo)
    server = Nginx(tmp_path / "tls", ("plain",), f"server {{ listen 127.0.0.1:{ours} ssl; ssl_certificate {pair.cert}; "
                   f"ssl_certificate_key {pair.key}; location / {{ proxy_pass http://127.0.0.1:{behind.port}; "
                   "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
                   "proxy_set_header Connection $upgrading; } }", {"tls": ours})
    try:
        edge(web(port, ours, service=service("https", authority)))
        client = dial(port)
        open_websocket(client)
        for size in (0, 1, 70_000, 1_000_000):
            echo(client, bytes(size), kind=2)
    finally:
        server.stop()
