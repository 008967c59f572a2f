"""The client leaves, in each phase: its endpoint connection is closed at once, nothing is counted against the endpoint."""
from __future__ import annotations

import pytest

from e2e.backends import BlackHole, StartStage
from e2e.program import Edge, StartEdge, free_port, web
from e2e.waiting import eventually
from e2e.wire import Dial, Wire


def _leave(client: Wire, how: str) -> None:
    client.reset() if how == "reset" else client.close()


def _logged(proxy: Edge, phase: str) -> None:
    line = proxy.entry()
    assert (line["outcome"], line["phase"], line["status"] in (200, 499)) == ("client_gone", phase, True)
    assert "ejected" not in proxy.errors


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_while_its_body_comes(edge: StartEdge, stage: StartStage, dial: Dial, how: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 100\r\n\r\npart")
    channel = endpoint.accept()
    channel.request(body=False)
    assert channel.exactly(4) == b"part"
    _leave(client, how)
    assert channel.ending()[0] == b"", "no made-up rest"
    _logged(proxy, "send")


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_while_its_chunked_body_comes(edge: StartEdge, stage: StartStage, dial: Dial, how: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
    channel = endpoint.accept()
    channel.request(body=False)
    assert channel.until(b"part\r\n") == b"4\r\npart\r\n"
    _leave(client, how)
    assert channel.ending()[0] == b"", "no last chunk: it must not look complete"
    _logged(proxy, "send")


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_while_it_waits_for_the_answer(edge: StartEdge, stage: StartStage, dial: Dial, how: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    _leave(client, how)
    channel.ending()
    _logged(proxy, "wait")


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_within_the_answer(edge: StartEdge, stage: StartStage, dial: Dial, how: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
    client.until(b"part")
    _leave(client, how)
    channel.ending()
    _logged(proxy, "body")
    assert proxy.lines()[0]["status"] == 200


def test_while_it_is_dialled_for(edge: StartEdge, dial: Dial, black_hole: BlackHole) -> None:
    port = free_port()
    proxy = edge(web(port, black_hole.port, service="timeouts: {connect: 60s}"))
    before = proxy.descriptors
    client = dial(port)
    client.get()
    eventually(lambda: proxy.descriptors == before + 2, "the client and the dial")
    client.reset()
    _logged(proxy, "connect")
    eventually(lambda: proxy.descriptors == before, "both are gone")


def test_within_a_head_nothing_is_dialled(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("GET / HTTP/1.1\r\nHost: x.inva")
    client.reset()
    assert endpoint.untouched()


def test_an_unfinished_head_at_fin_is_400(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("GET / HTTP/1.1\r\nHost: x.inva")
    client.half_close()
    assert client.response().status == 400
    assert endpoint.untouched()


def test_the_channel_of_one_who_left_is_not_used_again(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/secret")
    channel = endpoint.accept()
    channel.request()
    client.reset()
    channel.ending()
    other = dial(port)
    other.get("/mine")
    fresh = endpoint.accept()
    assert fresh.request().target == "/mine"
    fresh.answer(b"mine")
    assert other.response().text == "mine"


def test_many_leave_at_once(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    before = proxy.descriptors
    clients = [dial(port) for _ in range(100)]
    for client in clients:
        client.get()
    channels = [endpoint.accept() for _ in clients]
    for channel in channels:
        channel.request()
    for client in clients:
        client.reset()
    for channel in channels:
        channel.ending()
    eventually(lambda: proxy.descriptors == before, "every descriptor is given back")
    assert {line["outcome"] for line in proxy.logged(100)} == {"client_gone"}
