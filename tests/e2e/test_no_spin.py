"""A proxy that waits does not burn the CPU, whatever it waits for (level-triggered events bite here)."""
from __future__ import annotations

import resource
import select
from collections.abc import Callable

import pytest

from e2e.backends import BlackHole, StartStage
from e2e.program import Edge, StartEdge, free_port, tcp, web
from e2e.wire import Dial, Wire

LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


def _idle(proxy: Edge, seconds: float = 0.5) -> None:
    before = proxy.cpu
    select.select([], [], [], seconds)
    used = proxy.cpu - before
    assert used <= 0.1 * seconds + 0.02, f"{used:.2f} s of CPU in {seconds} s"


@LOOPS
@pytest.mark.parametrize("state", ["client half-closed", "endpoint half-closed", "endpoint does not read",
                                   "client does not read", "nothing"])
def test_tcp(edge: StartEdge, stage: StartStage, dial: Dial, state: str, loop: str) -> None:
    endpoint, port = stage(small=True), free_port()
    proxy = edge(tcp(port, endpoint.port), {"EDGEPROXY_LOOP": loop})
    client = dial(port, small=True)
    server = endpoint.accept()
    actions: dict[str, Callable[[], object]] = {
        "client half-closed": client.half_close, "endpoint half-closed": server.half_close,
        "endpoint does not read": lambda: _fill(client), "client does not read": lambda: _fill(server),
        "nothing": lambda: None}
    actions[state]()
    _idle(proxy)


def _fill(wire: Wire) -> None:
    wire.sock.settimeout(0.2)
    try:
        while True:
            wire.sock.send(b"x" * 65536)
    except TimeoutError:
        wire.sock.settimeout(5)


@LOOPS
@pytest.mark.parametrize("state", ["keep-alive", "waiting for the endpoint", "pipelined bytes wait", "half a head",
                                   "half a body", "client does not read", "endpoint does not read", "after the error"])
def test_http(edge: StartEdge, stage: StartStage, dial: Dial, state: str, loop: str) -> None:
    endpoint, port = stage(small=True), free_port()
    proxy = edge(web(port, endpoint.port), {"EDGEPROXY_LOOP": loop})
    client = dial(port, small=True)
    if state == "half a head":
        client.send("GET / HTTP/1.1\r\nHost:")
    elif state == "after the error":
        client.send("GET / HTTP/1.1\r\nHost : x\r\n\r\nmore")
    elif state in ("half a body", "endpoint does not read"):
        client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 1000000000\r\n\r\nhalf")
        endpoint.accept().request(body=False)
        if state == "endpoint does not read":
            _fill(client)
    else:
        client.get()
        channel = endpoint.accept()
        channel.request()
        if state == "keep-alive":
            channel.answer()
            client.response()
        elif state == "pipelined bytes wait":
            client.send("GET /2 HTTP/1.1\r\nHost: x.invalid\r\n\r\n" * 10_000)
        elif state == "client does not read":
            channel.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            _fill(channel)
    _idle(proxy)


@LOOPS
def test_at_the_limit_of_descriptors(edge: StartEdge, stage: StartStage, dial: Dial, loop: str) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port), {"EDGEPROXY_LOOP": loop}, before=few)
    for _ in range(300):
        dial(port)
    _idle(proxy)


@LOOPS
def test_at_the_limit_of_connections(edge: StartEdge, stage: StartStage, dial: Dial, loop: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener="limits: {connections: 1}"), {"EDGEPROXY_LOOP": loop})
    for _ in range(10):
        dial(port)
    _idle(proxy)


@LOOPS
def test_while_dialling(edge: StartEdge, dial: Dial, black_hole: BlackHole, loop: str) -> None:
    port = free_port()
    proxy = edge(web(port, black_hole.port, service="timeouts: {connect: 60s}"), {"EDGEPROXY_LOOP": loop})
    client = dial(port)
    client.get()
    _idle(proxy)


@LOOPS
def test_tunnel_half_closed(edge: StartEdge, stage: StartStage, dial: Dial, loop: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port), {"EDGEPROXY_LOOP": loop})
    client = dial(port)
    client.get("/", "x.invalid", "Connection: Upgrade", "Upgrade: custom")
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n")
    assert client.response().status == 101
    client.half_close()
    channel.ending()
    _idle(proxy)
