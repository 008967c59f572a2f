"""tcp listeners: RST is passed on as RST, in every phase; and what was sent before it is not lost."""
from __future__ import annotations

import select

import pytest

from e2e.backends import StartStage
from e2e.program import StartEdge, free_port, tcp
from e2e.waiting import eventually
from e2e.wire import Dial, End


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("who", ["client", "endpoint"])
def test_a_reset_is_passed_on(edge: StartEdge, stage: StartStage, dial: Dial, who: str, loop: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port), {"EDGEPROXY_LOOP": loop})
    client = dial(port)
    client.send(b"hello")
    server = endpoint.accept()
    assert server.exactly(5) == b"hello"
    server.send(b"world")
    assert client.exactly(5) == b"world"
    one, other = (client, server) if who == "client" else (server, client)
    one.reset()
    assert other.ending() == (b"", End.RESET)
    line = proxy.entry()
    assert (line["outcome"], line["phase"]) == ("client_gone" if who == "client" else "reset", "tunnel")
    assert (line["bytes_in"], line["bytes_out"]) == (5, 5)


@pytest.mark.parametrize("who", ["client", "endpoint"])
def test_a_reset_after_half_close(edge: StartEdge, stage: StartStage, dial: Dial, who: str) -> None:
    endpoint, port = stage(), free_port()
    edge(tcp(port, endpoint.port))
    client = dial(port)
    server = endpoint.accept()
    one, other = (client, server) if who == "client" else (server, client)
    other.half_close()
    assert one.ending() == (b"", End.FIN)
    one.reset()
    with pytest.raises(ConnectionResetError):
        other.sock.recv(1)


def test_a_reset_before_the_endpoint_is_there(edge: StartEdge, dial: Dial) -> None:
    port = free_port()
    proxy = edge(tcp(port, free_port(), free_port(), service="eject: {failures: 0}"))
    before = proxy.descriptors
    for _ in range(20):
        client = dial(port)
        client.send(b"x")
        client.reset()
    eventually(lambda: proxy.descriptors == before, "nothing is left")
    assert {line["outcome"] for line in proxy.logged(20)} <= {"client_gone", "connect_refused"}


def test_a_reset_while_the_other_side_does_not_read(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(small=True), free_port()
    proxy = edge(tcp(port, endpoint.port))
    client = dial(port)
    server = endpoint.accept()
    client.sock.setblocking(False)
    sent = 0
    while client.sock in select.select([], [client.sock], [], 0.2)[1]:
        sent += client.sock.send(b"x" * 65536)
    assert sent > 16 * 1024
    server.reset()
    client.sock.settimeout(5)
    assert client.ending()[1] is End.RESET
    assert proxy.entry()["outcome"] == "reset"
