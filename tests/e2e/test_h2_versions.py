"""Any version before the proxy with any version behind it, by real peers: curl before it, nginx behind it."""
from __future__ import annotations

from pathlib import Path

import pytest

from e2e.backends import Nginx, StartStage
from e2e.certs import Authority
from e2e.h2peers import WINDOW_UPDATE, H2Client, frame
from e2e.h2peers import number as window
from e2e.program import StartEdge, addresses, free_port, web
from e2e.tlspeers import NAME, ORIGIN, curl, https
from e2e.wire import Dial

FRONTS = {"http/1.1": ("http", "--http1.1", "1.1"), "h2c": ("http", "--http2-prior-knowledge", "2"),
          "https/1.1": ("https", "--http1.1", "1.1"), "h2": ("https", "--http2", "2")}
BACKS = {"plain": ("http", "HTTP/1.1"), "h2c": ("h2c", "HTTP/2.0"), "tls": ("https", "HTTP/1.1"), "h2": ("h2", "HTTP/2.0")}


def text(plain: int, secure: int, origin: Nginx, authority: Authority) -> str:
    """All fronts and all backs: a path for each endpoint."""
    services = ""
    for name, (protocol, _) in BACKS.items():
        tls = f", tls: {{ca: '{authority.pem}', server_name: {ORIGIN}}}" if name in ("tls", "h2") else ""
        services += f"  {name}: {{endpoints: {addresses(origin[name])}, protocol: {protocol}{tls}}}\n"
    routes = "".join(f"  - {{path: /{name}, service: {name}, rewrite: {{prefix: /}}}}\n" for name in BACKS)
    return (f"listeners:\n  web: {{bind: '127.0.0.1:{plain}', protocol: http, limits: {{body: 0}}}}\n"
            f"  secure: {https(secure, [authority.server(NAME)], listener='limits: {body: 0}')}\n"
            f"routes:\n{routes}services:\n{services}")


@pytest.mark.parametrize("front", FRONTS)
def test_every_pair(edge: StartEdge, origin: Nginx, authority: Authority, front: str, tmp_path: Path) -> None:
    plain, secure = free_port(), free_port()
    proxy = edge(text(plain, secure, origin, authority))
    scheme, option, version = FRONTS[front]
    base = f"{scheme}://{NAME}:{plain if scheme == 'http' else secure}"
    target, size = origin.file("pairs", 3_000_000), 3_000_000
    for back, (_, spoken) in BACKS.items():
        answer = curl(f"{base}/{back}/", authority, option)
        assert (answer.status, answer.version, answer.body) == (200, version, f"{back}\n"), back
        assert answer.get("x-protocol") in (spoken, None), "the plain server does not tell"
        got = tmp_path / back
        assert curl(f"{base}/{back}{target}", authority, option, "-o", got).status == 200
        assert got.stat().st_size == size
        assert curl(f"{base}/{back}/", authority, option, "--head").status == 200
    assert {line["outcome"] for line in proxy.logged(3 * len(BACKS))} == {"ok"}


def test_many_streams_share_one_connection_to_an_endpoint(edge: StartEdge, origin: Nginx, authority: Authority,
                                                          dial: Dial) -> None:
    plain, secure = free_port(), free_port()
    edge(text(plain, secure, origin, authority))
    client = H2Client(dial(plain), NAME, "http")
    streams = [client.request("/h2c/") for _ in range(50)]
    connections = {(client.answer(stream).get("x-connection") or "").split(":")[0] for stream in streams}
    assert len(connections) <= 2, connections


def test_http_2_becomes_http_1_on_the_wire(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    """What an endpoint sees of an HTTP/2 request: Host first, one Cookie, names in lower case, chunked if need be."""
    port, endpoint = free_port(), stage()
    edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\nroutes: [{{service: app}}]\n"
         f"services: {{app: {{endpoints: {addresses(endpoint.port)}}}}}\n")
    client = H2Client(dial(port), "Shop.Test", "http")
    stream = client.request("/a?b=c", "POST", [("cookie", "a=1"), ("x-one", "1"), ("cookie", "b=2"), ("te", "trailers")],
                            ended=False)
    channel = endpoint.accept()
    request = channel.request(body=False)
    assert request.start == "POST /a?b=c HTTP/1.1"
    assert (request.get("host"), request.get("cookie"), request.get("x-one")) == ("Shop.Test", "a=1; b=2", "1")
    assert (request.get("transfer-encoding"), request.get("content-length")) == ("chunked", None)
    assert (request.get("te"), request.get("via")) == ("trailers", "2.0 edgeproxy")
    client.send(stream, b"hello")
    assert channel.until(b"hello") == b"5\r\nhello"
    client.send_trailers(stream, [("x-checksum", "42")])
    assert channel.until(b"\r\n\r\n") == b"\r\n0\r\nx-checksum: 42\r\n\r\n"
    channel.send("HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
                 "Connection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")
    answer = client.answer(stream)
    assert [dict(fields)[":status"] for fields in answer.interim] == ["103"]
    assert (answer.status, answer.body, answer.trailers) == (200, b"hi", [("x-sum", "7")])
    assert (answer.get("x-end"), answer.get("x-hop"), answer.get("connection")) == ("2", None, None)
    assert answer.get("transfer-encoding") is None


def test_a_body_that_the_endpoint_cuts_resets_the_stream(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    """Never a clean end; the connection and its other streams go on."""
    port, endpoint = free_port(), stage()
    edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\nroutes: [{{service: app}}]\n"
         f"services: {{app: {{endpoints: {addresses(endpoint.port)}}}}}\n")
    client = H2Client(dial(port), "x.test", "http")
    cut = client.request("/cut")
    first = endpoint.accept()
    first.request()
    whole = client.request("/whole")
    second = endpoint.accept()
    second.request()
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    client.until(lambda: client.answers[cut].body == b"half")
    first.close()
    assert client.answer(cut).reset is not None
    second.answer(b"whole")
    assert (client.answer(whole).body, client.goaways) == (b"whole", [])


def test_back_pressure(edge: StartEdge, origin: Nginx, authority: Authority, dial: Dial) -> None:
    """Streams whose client does not read hold no more than their windows and the proxy's own buffers."""
    plain, secure = free_port(), free_port()
    proxy = edge(text(plain, secure, origin, authority))
    target = origin.file("pressure", 64 << 20)
    before = proxy.memory
    client = H2Client(dial(plain), NAME, "http", reading=False)
    streams = [client.request(f"/{back}{target}") for back in ("plain", "h2c", "tls", "h2") for _ in range(5)]
    for stream in streams:
        client.head(stream)
    client.until(lambda: sum(len(client.answers[stream].body) for stream in streams) == 65535)
    client.ping()
    assert client.wire.quiet(0.3), "the connection's window is full"
    assert proxy.memory - before < 20 * (512 << 10) + (8 << 20), "≤ 512 KiB a stream and what a process grows by itself"
    client.open_windows(1 << 20)
    client.until(lambda: all(len(client.answers[stream].body) >= 65536 for stream in streams))


@pytest.mark.parametrize("engine", ["ngh2", "h2"])
def test_streams_share_what_the_client_takes(edge: StartEdge, nginx: Nginx, dial: Dial, engine: str) -> None:
    """A client that reads slowly gets a little of every answer: a long one does not hold up the others."""
    port, number, turn = free_port(), 10, 256 << 10
    edge(web(port, nginx["a"]), {"EDGEPROXY_H2": engine})
    target = nginx.file("shared", 64 << 20)
    client = H2Client(dial(port), NAME, "http", window=1 << 30, reading=False)
    streams = [client.request(target) for _ in range(number)]
    total = 65535
    for _ in range(20):
        client.until(lambda: sum(len(client.answers[stream].body) for stream in streams) == total)  # noqa: B023
        client.ping()
        client.wire.send(frame(WINDOW_UPDATE, 0, 0, window(turn)))
        total += turn
    shares = [len(client.answers[stream].body) for stream in streams]
    assert min(shares) > sum(shares) / number / 4, shares
