"""PROXY protocol: from who is listed, for every kind of listener; and to endpoints. Against HAProxy too, where it is."""
from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from codec.hellos import alpn, hello, real, server_name
from e2e.backends import Nginx, StartActor, StartStage, answering, echoing
from e2e.certs import Authority
from e2e.program import StartEdge, addresses, free_port, tcp, web
from e2e.tlspeers import NAME, client_context, connect_tls, curl, secure
from e2e.waiting import eventually
from e2e.wire import Dial, End, Wire, connect, refused
from edgeproxy.codec.proxyproto import LOCAL_V1, LOCAL_V2, encode_v1, encode_v2

CLIENT, SERVER = ("192.0.2.7", 51000), ("198.51.100.1", 8443)
LISTED, UNLISTED = "127.0.0.2", "127.0.0.3"
FROM = f"proxy_protocol: {{from: ['{LISTED}']}}"
HEADERS = pytest.mark.parametrize("header", [encode_v1(CLIENT, SERVER), encode_v2(CLIENT, SERVER, b"h2", NAME)],
                                  ids=["v1", "v2"])


def passed(port: int, *endpoints: int, listener: str = "", service: str = "") -> str:
    return (f"listeners: {{pass: {{bind: '127.0.0.1:{port}', protocol: tls, sni: {{'*': app}}{listener}}}}}\n"
            f"services: {{app: {{endpoints: {addresses(*endpoints)}{service}}}}}\n")


# ---- in

@HEADERS
def test_http_knows_the_original_client(edge: StartEdge, stage: StartStage, dial: Dial, header: bytes) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener=FROM))
    client = dial(port, source=LISTED)
    client.send(header)
    client.get("/", "a.example", "X-Forwarded-For: 10.9.9.9")
    behind = endpoint.accept()
    request = behind.request()
    assert (request.get("X-Forwarded-For"), request.get("X-Forwarded-Port")) == (CLIENT[0], str(SERVER[1]))
    behind.answer(b"ok")
    assert client.response().body == b"ok"
    assert proxy.entry()["client"] == CLIENT[0]


@HEADERS
def test_https_after_the_header(edge: StartEdge, stage: StartStage, authority: Authority, header: bytes) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(secure(port, [authority.server(NAME)], endpoint.port, listener=FROM))
    wire = connect(port, source=LISTED)
    wire.send(header)
    with client_context(authority).wrap_socket(wire.sock, server_hostname=NAME) as sock:
        client = Wire(sock)
        client.get("/", NAME)
        behind = endpoint.accept()
        assert behind.request().get("X-Forwarded-For") == CLIENT[0]
        behind.answer(b"ok")
        assert client.response().body == b"ok"
    assert proxy.entry()["client"] == CLIENT[0]


@HEADERS
def test_tcp_and_tls_after_the_header(edge: StartEdge, actor: StartActor, dial: Dial, header: bytes) -> None:
    endpoint, port, other = actor(echoing), free_port(), free_port()
    for proxy, number, said in ((edge(tcp(port, endpoint.port, listener=FROM)), port, b"hello"),
                                (edge(passed(other, endpoint.port, listener=f", {FROM}")), other, real("a.example"))):
        client = dial(number, source=LISTED)
        for at in range(len(header)):
            client.send(header[at:at + 1])
        client.send(said)
        client.half_close()
        assert client.ending() == (said, End.FIN)
        line = proxy.entry()
        assert (line["client"], line["bytes_in"]) == (CLIENT[0], len(said))


@pytest.mark.parametrize("header", [LOCAL_V1, LOCAL_V2])
def test_a_proxy_s_own_connection(edge: StartEdge, actor: StartActor, dial: Dial, header: bytes) -> None:
    endpoint, port = actor(answering("a")), free_port()
    proxy = edge(web(port, endpoint.port, listener=FROM))
    client = dial(port, source=LISTED)
    client.send(header)
    client.get()
    assert client.response().text == "a"
    assert proxy.entry()["client"] == LISTED


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", real("a.example"), b"PROXY TCP4 1.2.3.4\r\n", b"\r\n\r\nx"])
def test_a_listed_peer_must_send_one(edge: StartEdge, stage: StartStage, dial: Dial, said: bytes) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port, listener=FROM))
    client = dial(port, source=LISTED)
    client.send(said)
    assert client.ending()[0] == b""
    assert endpoint.untouched()
    line = proxy.entry()
    assert (line["outcome"], line["phase"], line["client"]) == ("bad_proxy_header", "handshake", LISTED)
    assert line["detail"]


@HEADERS
def test_anybody_else_cannot_say_who_he_is(edge: StartEdge, stage: StartStage, dial: Dial, header: bytes) -> None:
    endpoint, port, other = stage(), free_port(), free_port()
    proxy = edge(tcp(port, endpoint.port, listener=FROM))
    client = dial(port, source=UNLISTED)
    client.send(header)
    client.half_close()
    behind = endpoint.accept()
    assert behind.ending() == (header, End.FIN)  # bytes like others
    behind.close()
    assert proxy.entry()["client"] == UNLISTED
    edge(web(other, endpoint.port, listener=FROM))
    client = dial(other, source=UNLISTED)
    client.send(header + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.response().status == 400
    assert endpoint.untouched()


def test_a_listed_peer_that_says_nothing(edge: StartEdge, dial: Dial) -> None:
    port = free_port()
    proxy = edge(web(port, free_port(), listener=f"{FROM}, timeouts: {{handshake: 200ms}}"))
    client = dial(port, source=LISTED)
    assert client.ending() == (b"", End.FIN)
    assert proxy.entry()["outcome"] == "handshake_timeout"


def test_the_original_client_chooses_the_endpoint(edge: StartEdge, actor: StartActor) -> None:
    endpoints, port = [actor(answering(name)) for name in "abcd"], free_port()
    edge(web(port, *(e.port for e in endpoints), listener=FROM, service="balance: source-hash"))
    chosen: dict[str, set[str]] = {}
    for number in range(16):
        address = f"203.0.113.{number}"
        for _ in range(3):
            with connect(port, source=LISTED) as client:
                client.send(encode_v1((address, 1000 + number), SERVER))
                client.get()
                chosen.setdefault(address, set()).add(client.response().text)
    assert all(len(names) == 1 for names in chosen.values())
    assert len(set.union(*chosen.values())) > 1


def test_a_reload_lists_another(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(answering("a")), free_port()
    proxy = edge(web(port, endpoint.port))
    for listed in (True, False):
        assert "reloaded" in proxy.reload(web(port, endpoint.port, listener=FROM if listed else ""))
        client = dial(port, source=LISTED)
        client.send(LOCAL_V1)
        client.get()
        assert client.response().status == (200 if listed else 400)


# ---- out

@pytest.mark.parametrize("version", ["v1", "v2"])
def test_endpoints_of_tcp_are_told(edge: StartEdge, stage: StartStage, dial: Dial, version: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, free_port(), free_port(), endpoint.port,
                     service=f"send_proxy_protocol: {version}, eject: {{failures: 0}}"))
    encode = encode_v1 if version == "v1" else encode_v2
    for _ in range(3):
        client = dial(port, source=UNLISTED)
        expected = encode(client.sock.getsockname(), client.sock.getpeername())
        behind = endpoint.accept()
        assert behind.exactly(len(expected)) == expected  # before the client has said anything, and on each try
        client.send(b"hello")
        client.half_close()
        assert behind.ending() == (b"hello", End.FIN)
        behind.close()
        assert client.ending() == (b"", End.FIN)
    assert {line["bytes_in"] for line in proxy.logged(3)} == {5}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_original_client_is_passed_on(edge: StartEdge, stage: StartStage, dial: Dial, version: str) -> None:
    endpoint, port = stage(), free_port()
    edge(passed(port, endpoint.port, listener=f", {FROM}", service=f", send_proxy_protocol: {version}"))
    client, said = dial(port, source=LISTED), hello(server_name(b"a.example"), alpn(b"h2"))
    client.send(encode_v1(CLIENT, SERVER) + said)
    expected = (encode_v1(CLIENT, SERVER) if version == "v1" else encode_v2(CLIENT, SERVER, b"h2", "a.example")) + said
    assert endpoint.accept().exactly(len(expected)) == expected


def test_two_of_us_in_a_row(edge: StartEdge, stage: StartStage, authority: Authority) -> None:
    """A tls listener passes TLS on to an https listener, which still knows the client."""
    endpoint, front, back = stage(), free_port(), free_port()
    edge(passed(front, back, service=", send_proxy_protocol: v2"))
    edge(secure(back, [authority.server(NAME)], endpoint.port, listener="proxy_protocol: {from: ['127.0.0.1']}"))
    with connect(front, source=UNLISTED) as wire, \
            client_context(authority).wrap_socket(wire.sock, server_hostname=NAME) as sock:
        client = Wire(sock)
        client.get("/", NAME)
        behind = endpoint.accept()
        request = behind.request()
        assert (request.get("X-Forwarded-For"), request.get("X-Forwarded-Port")) == (UNLISTED, str(front))
        behind.answer(b"ok")
        assert client.response().body == b"ok"


# ---- HAProxy

PROGRAM = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
needs_haproxy = pytest.mark.skipif(PROGRAM is None, reason="haproxy is not here (Debian: apt-get install haproxy)")


class HaProxy:
    def __init__(self, folder: Path, *sections: str) -> None:
        assert PROGRAM
        text = "defaults\n mode tcp\n timeout connect 2s\n timeout client 20s\n timeout server 20s\n" + "\n".join(sections)
        (folder / "haproxy.cfg").write_text(text + "\n")
        self.process = subprocess.Popen([PROGRAM, "-db", "-f", str(folder / "haproxy.cfg")], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listens(self, *ports: int) -> None:
        eventually(lambda: self.process.poll() is not None or not any(refused(port) for port in ports), "haproxy listens")
        assert self.process.poll() is None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[list[HaProxy]]:
    """To be filled; what is in it is stopped with the test."""
    started: list[HaProxy] = []
    yield started
    for one in started:
        one.stop()


@needs_haproxy
@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2",
                                     "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl"])
def test_haproxy_in_front(edge: StartEdge, nginx: Nginx, stage: StartStage, tmp_path: Path, haproxy: list[HaProxy],
                          options: str) -> None:
    endpoint, front, port = stage(), free_port(), free_port()
    edge(web(port, endpoint.port, listener="proxy_protocol: {from: ['127.0.0.1']}"))
    haproxy.append(HaProxy(tmp_path, f"listen front\n bind 127.0.0.1:{front}\n unique-id-format %ci:%cp",
                           f" server edge 127.0.0.1:{port} {options}"))
    haproxy[0].listens(front)
    with connect(front, source=UNLISTED) as client:
        client.get()
        behind = endpoint.accept()
        request = behind.request()
        assert (request.get("X-Forwarded-For"), request.get("X-Forwarded-Port")) == (UNLISTED, str(front))
        behind.answer(b"ok")
        assert client.response().body == b"ok"


@needs_haproxy
def test_haproxy_in_front_of_https(edge: StartEdge, nginx: Nginx, authority: Authority, tmp_path: Path,
                                   haproxy: list[HaProxy]) -> None:
    front, port = free_port(), free_port()
    proxy = edge(secure(port, [authority.server(NAME)], nginx["a"], listener="proxy_protocol: {from: ['127.0.0.1']}"))
    haproxy.append(HaProxy(tmp_path, f"listen front\n bind 127.0.0.1:{front}\n server edge 127.0.0.1:{port} send-proxy-v2"))
    haproxy[0].listens(front)
    got = curl(f"https://{NAME}:{front}/", authority, "--interface", UNLISTED)
    assert (got.status, got.body) == (200, "a\n")
    assert proxy.logged(1, lambda line: line["kind"] == "http")[0]["client"] == UNLISTED


@needs_haproxy
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_haproxy_behind(edge: StartEdge, authority: Authority, tmp_path: Path, haproxy: list[HaProxy], version: str
                        ) -> None:
    pair, back, port = authority.server(NAME), free_port(), free_port()
    (tmp_path / "both.pem").write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    haproxy.append(HaProxy(
        tmp_path, f"frontend back\n bind 127.0.0.1:{back} accept-proxy ssl crt {tmp_path}/both.pem\n mode http",
        " http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port] %[dst]:%[dst_port] "
        "%[fc_pp_authority]\""))
    haproxy[0].listens(back)
    edge(passed(port, free_port(), back, service=f", send_proxy_protocol: {version}"))
    with connect_tls(port, client_context(authority)) as client:
        client.get("/", NAME)
        own = ":".join(map(str, client.sock.getsockname()))
        assert client.response().text == f"{own} 127.0.0.1:{port} {NAME if version == 'v2' else ''}"
