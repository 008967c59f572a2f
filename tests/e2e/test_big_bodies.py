"""1 GiB each way, through http and tcp: every byte in its place, at constant memory."""
from __future__ import annotations

import threading

import pytest

from e2e.backends import Nginx, StartActor
from e2e.program import Edge, StartEdge, free_port, tcp, web
from e2e.streams import read_stream, send_stream
from e2e.wire import Dial, Wire

pytestmark = pytest.mark.alone

GIB = 1 << 30
MOST = 20 << 20
"""Growth of the proxy's resident memory."""


class Flood:
    """An endpoint that takes a stream, or gives one, as the path says (`/up`, `/down`, `/chunked`)."""

    def __init__(self) -> None:
        self.checksum = -1
        self.ended = threading.Event()

    def __call__(self, wire: Wire) -> None:
        request = wire.request(body=False)
        if request.target == "/up":
            self.checksum = read_stream(wire, GIB)
            wire.answer(b"thanks")
        elif request.target == "/down":
            wire.send(f"HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n")
            self.checksum = send_stream(wire, GIB)
        else:  # one chunk of 1 GiB
            wire.send(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{GIB:x}\r\n")
            self.checksum = send_stream(wire, GIB)
            wire.send("\r\n0\r\n\r\n")
        self.ended.set()
        wire.ending()


def _bounded(proxy: Edge, before: int) -> None:
    assert proxy.peak_memory - before < MOST, f"{(proxy.peak_memory - before) >> 20} MiB more"


def _start(proxy: Edge) -> int:
    """Its memory now; the peak counts from here."""
    proxy.forget_peak()
    return proxy.memory


def test_down(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    flood = Flood()
    port = free_port()
    proxy = edge(web(port, actor(flood).port))
    before = _start(proxy)
    client = dial(port)
    client.get("/down")
    head = client.until(b"\r\n\r\n")
    assert f"Content-Length: {GIB}".encode() in head
    checksum = read_stream(client, GIB)
    assert flood.ended.wait(5) and checksum == flood.checksum
    _bounded(proxy, before)
    assert proxy.entry()["bytes_out"] == GIB


def test_up(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    flood = Flood()
    port = free_port()
    proxy = edge(web(port, actor(flood).port))
    before = _start(proxy)
    client = dial(port)
    client.send(f"PUT /up HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: {GIB}\r\n\r\n")
    sent = send_stream(client, GIB)
    assert client.response().text == "thanks"
    assert flood.checksum == sent
    _bounded(proxy, before)
    assert proxy.entry()["bytes_in"] == GIB


def test_chunked_down(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    """Re-framed on the way: only the sum of the chunks' contents is the same."""
    flood = Flood()
    port = free_port()
    proxy = edge(web(port, actor(flood).port))
    before = _start(proxy)
    client = dial(port)
    client.send("GET /chunked HTTP/1.0\r\nHost: x.invalid\r\n\r\n")  # for 1.0 it ends by closing: nothing to parse here
    client.until(b"\r\n\r\n")
    checksum = read_stream(client, GIB)
    assert flood.ended.wait(5) and checksum == flood.checksum
    assert client.sock.recv(1) == b""
    _bounded(proxy, before)


def test_a_file_of_nginx(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    target = nginx.file("big", GIB // 4)
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    before = _start(proxy)
    client = dial(port)
    client.get(target)
    client.until(b"\r\n\r\n")
    read_stream(client, GIB // 4)
    client.get("/")
    assert client.response().text == "a\n", "and the connections are in step"
    _bounded(proxy, before)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_tcp(edge: StartEdge, actor: StartActor, dial: Dial, direction: str) -> None:
    result: dict[str, int] = {}
    ended = threading.Event()

    def script(wire: Wire) -> None:
        result["endpoint"] = read_stream(wire, GIB) if direction == "up" else send_stream(wire, GIB)
        ended.set()

    port = free_port()
    proxy = edge(tcp(port, actor(script).port))
    before = _start(proxy)
    client = dial(port)
    mine = send_stream(client, GIB) if direction == "up" else read_stream(client, GIB)
    assert ended.wait(5) and mine == result["endpoint"]
    _bounded(proxy, before)
    client.close()
    line = proxy.entry()
    assert (line["bytes_in"], line["bytes_out"]) == ((GIB, 0) if direction == "up" else (0, GIB))
