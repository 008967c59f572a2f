"""A proxy that waits does not burn the CPU, whatever it waits for (level-triggered events bite here).

All states at once in one process: which one spins is found by taking the others away.
"""
from __future__ import annotations

import resource
import select
from collections.abc import Callable

import pytest

from e2e.backends import BlackHole, Stage, StartStage
from e2e.program import Edge, StartEdge, free_port, tcp, web
from e2e.wire import Dial, Wire

pytestmark = pytest.mark.alone

LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


def _idle(proxy: Edge, seconds: float = 0.5) -> None:
    before = proxy.cpu
    select.select([], [], [], seconds)
    used = proxy.cpu - before
    assert used <= 0.1 * seconds + 0.02, f"{used:.2f} s of CPU in {seconds} s"


def _fill(wire: Wire) -> None:
    wire.sock.settimeout(0.1)
    try:
        while True:
            wire.sock.send(b"x" * 65536)
    except TimeoutError:
        wire.sock.settimeout(5)


@LOOPS
def test_tcp(edge: StartEdge, stage: StartStage, dial: Dial, loop: str) -> None:
    endpoint, port = stage(small=True), free_port()
    proxy = edge(tcp(port, endpoint.port), {"EDGEPROXY_LOOP": loop})
    states: list[Callable[[Wire, Wire], None]] = [
        lambda client, server: None,
        lambda client, server: client.half_close(),
        lambda client, server: server.half_close(),
        lambda client, server: _fill(client),
        lambda client, server: _fill(server),
    ]
    for reach in states:
        client = dial(port, small=True)
        reach(client, endpoint.accept())
    _idle(proxy)


HEAD = "GET / HTTP/1.1\r\nHost: x.invalid\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 1000000000\r\n\r\nhalf"


@LOOPS
def test_http(edge: StartEdge, stage: StartStage, dial: Dial, loop: str) -> None:
    endpoint, port = stage(small=True), free_port()
    proxy = edge(web(port, endpoint.port, service="pool: {idle: 0}"), {"EDGEPROXY_LOOP": loop})
    dial(port)  # says nothing
    dial(port, small=True).send("GET / HTTP/1.1\r\nHost:")
    dial(port, small=True).send("GET / HTTP/1.1\r\nHost : x\r\n\r\nmore")  # lingers after its 400
    kept, channel = _asked(dial(port), endpoint)
    channel.answer()
    assert kept.response().status == 200
    waiting, _ = _asked(dial(port), endpoint)
    pipelined, _ = _asked(dial(port, small=True), endpoint)
    pipelined.send(HEAD * 10_000)
    slow_reader, channel = _asked(dial(port, small=True), endpoint)
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    _fill(channel)
    uploading = dial(port)
    uploading.send(POST)
    endpoint.accept().request(body=False)
    blocked = dial(port)
    blocked.send(POST)
    endpoint.accept().request(body=False)
    _fill(blocked)
    tunnel = dial(port)
    tunnel.get("/", "x.invalid", "Connection: Upgrade", "Upgrade: custom")
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n")
    assert tunnel.response().status == 101
    tunnel.half_close()
    channel.ending()
    _idle(proxy)


def _asked(client: Wire, endpoint: Stage) -> tuple[Wire, Wire]:
    client.send(HEAD)
    channel = endpoint.accept()
    channel.request()
    return client, channel


@LOOPS
@pytest.mark.parametrize("limit", ["descriptors", "connections"])
def test_at_a_limit(edge: StartEdge, stage: StartStage, dial: Dial, loop: str, limit: str) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    port = free_port()
    if limit == "descriptors":
        proxy = edge(web(port, stage().port), {"EDGEPROXY_LOOP": loop}, before=few)
    else:
        proxy = edge(web(port, stage().port, listener="limits: {connections: 1}"), {"EDGEPROXY_LOOP": loop})
    for _ in range(200):
        dial(port)
    _idle(proxy)


@LOOPS
def test_while_dialling(edge: StartEdge, dial: Dial, black_hole: BlackHole, loop: str) -> None:
    port = free_port()
    proxy = edge(web(port, black_hole.port, service="timeouts: {connect: 60s}"), {"EDGEPROXY_LOOP": loop})
    dial(port).get()
    _idle(proxy)
