"""Two things at one moment: the process is stopped, both happen, it goes on and finds them together.

Whatever it looks at first, nothing is lost, nothing is mixed up and nothing is left open. On both loops, because they
tell of events in different order.
"""
from __future__ import annotations

import pytest

from e2e.backends import Stage, StartStage
from e2e.program import StartEdge, free_port, tcp, web
from e2e.waiting import eventually
from e2e.wire import Cut, Dial, End, Wire

ENV = pytest.mark.parametrize("env", [{"EDGEPROXY_LOOP": "uvloop"}, {"EDGEPROXY_LOOP": "asyncio"}],
                              ids=["uvloop", "asyncio"])
UPGRADE = ("/", "x.invalid", "Connection: Upgrade", "Upgrade: custom")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n"
LARGE = b"0123456789" * 5_000  # what a receive buffer holds, so all of it is there


def _relayed(client: Wire, endpoint: Stage) -> Wire:
    """The endpoint's side of a tcp connection, as soon as bytes have gone both ways."""
    client.send(b"a")
    server = endpoint.accept()
    assert server.exactly(1) == b"a"
    server.send(b"b")
    assert client.exactly(1) == b"b"
    return server


@ENV
@pytest.mark.parametrize("end", list(End), ids=["fin", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_whole_answer_and_the_end_of_its_channel(
        edge: StartEdge, stage: StartStage, dial: Dial, end: End, framing: str, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port), env)
    bare = proxy.sockets
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    with proxy.frozen():
        if framing == "length":
            channel.answer(b"whole")
        else:
            channel.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n")
        channel.close() if end is End.FIN else channel.reset()
    assert client.response().text == "whole"
    eventually(lambda: proxy.sockets == bare + 1, "a dead channel is not kept")
    client.get("/next", "x.invalid", "Content-Length: 0", method="POST")
    fresh = endpoint.accept()
    fresh.request()
    fresh.answer(b"next")
    assert client.response().text == "next"


@ENV
def test_a_large_close_delimited_answer_and_its_end(
        edge: StartEdge, stage: StartStage, dial: Dial, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port), env)
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    with proxy.frozen():
        channel.send(b"HTTP/1.1 200 OK\r\n\r\n" + LARGE)
        channel.close()
    assert client.response().body == LARGE


@ENV
def test_part_of_an_answer_and_its_end(edge: StartEdge, stage: StartStage, dial: Dial, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port), env)
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    with proxy.frozen():
        channel.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + LARGE)
        channel.close()
    with pytest.raises(Cut):
        client.response()
    assert proxy.entry()["outcome"] == "response_cut"


@ENV
@pytest.mark.parametrize("end", list(End), ids=["fin", "reset"])
def test_a_request_and_the_end_of_its_client(
        edge: StartEdge, stage: StartStage, dial: Dial, end: End, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port), env)
    bare = proxy.sockets
    client = dial(port)
    eventually(lambda: proxy.sockets == bare + 1, "it is accepted")
    with proxy.frozen():
        client.get()
        client.close() if end is End.FIN else client.reset()
    eventually(lambda: proxy.sockets == bare, "nothing is left")
    assert {line["outcome"] for line in proxy.lines()} <= {"client_gone"}


@ENV
def test_an_answer_and_the_end_of_the_client(
        edge: StartEdge, stage: StartStage, dial: Dial, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, service="eject: {failures: 1}"), env)
    bare = proxy.sockets
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    with proxy.frozen():
        channel.answer(b"for nobody")
        client.reset()
    assert proxy.entry()["outcome"] in ("ok", "client_gone")
    other = dial(port)
    other.get("/other")
    wire = channel if not channel.quiet(0.05) and channel.more() else endpoint.accept()
    assert wire.request().target == "/other"
    wire.answer(b"for the other")
    assert other.response().text == "for the other"
    other.close()
    channel.close()
    wire.close()
    eventually(lambda: proxy.sockets == bare, "nothing is left")


@ENV
def test_an_answer_and_a_pipelined_request(
        edge: StartEdge, stage: StartStage, dial: Dial, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port), env)
    client = dial(port)
    client.get("/0")
    channel = endpoint.accept()
    for number in range(10):
        assert channel.request().target == f"/{number}"
        with proxy.frozen():
            if number % 2:
                channel.answer(b"%d" % number)
                client.get(f"/{number + 1}")
            else:
                client.get(f"/{number + 1}")
                channel.answer(b"%d" % number)
        assert client.response().text == str(number)


@ENV
def test_a_free_place_and_the_end_of_who_waits_for_it(
        edge: StartEdge, stage: StartStage, dial: Dial, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, service="limits: {per_endpoint: 1, queue: 5, queue_timeout: 20s}"), env)
    inside, leaves, stays = dial(port), dial(port), dial(port)
    inside.get("/inside")
    channel = endpoint.accept()
    channel.request()
    leaves.get("/leaves")
    assert leaves.quiet()
    stays.get("/stays")
    assert stays.quiet()
    with proxy.frozen():
        channel.answer()
        leaves.reset()
    assert inside.response().status == 200
    wire = channel
    while True:  # /leaves may have been sent on before its client's end was seen
        try:
            request = wire.request()
        except Cut:
            wire = endpoint.accept()
            continue
        if request.target == "/stays":
            break
    wire.answer(b"stayed")
    assert stays.response().text == "stayed", "the place was not lost"


@ENV
@pytest.mark.parametrize("end", list(End), ids=["fin", "reset"])
def test_switching_protocols_with_bytes_and_the_end(
        edge: StartEdge, stage: StartStage, dial: Dial, end: End, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port), env)
    bare = proxy.sockets
    client = dial(port)
    client.get(*UPGRADE)
    channel = endpoint.accept()
    channel.request()
    with proxy.frozen():
        channel.send(SWITCH + LARGE)
        channel.close() if end is End.FIN else channel.reset()
    assert client.response().status == 101
    data, ended = client.ending()
    assert ended is end
    if end is End.FIN:
        assert data == LARGE
    client.close()
    eventually(lambda: proxy.sockets == bare, "nothing is left")


@ENV
@pytest.mark.parametrize("who", ["client", "endpoint"])
@pytest.mark.parametrize("end", list(End), ids=["fin", "reset"])
def test_tcp_bytes_and_the_end(
        edge: StartEdge, stage: StartStage, dial: Dial, who: str, end: End, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port), env)
    bare = proxy.sockets
    client = dial(port)
    server = _relayed(client, endpoint)
    one, other = (client, server) if who == "client" else (server, client)
    with proxy.frozen():
        one.send(LARGE)
        one.close() if end is End.FIN else one.reset()
    data, ended = other.ending()
    assert (len(data), ended) == (len(LARGE), end), "what was sent before the end goes first"
    other.close()
    eventually(lambda: proxy.sockets == bare, "nothing is left")


@ENV
def test_tcp_both_sides_finish_together(edge: StartEdge, stage: StartStage, dial: Dial, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port), env)
    bare = proxy.sockets
    client = dial(port)
    server = _relayed(client, endpoint)
    with proxy.frozen():
        client.send(LARGE)
        client.half_close()
        server.send(LARGE)
        server.half_close()
    assert client.ending() == (LARGE, End.FIN)
    assert server.ending() == (LARGE, End.FIN)
    eventually(lambda: proxy.sockets == bare, "nothing is left")
    assert proxy.entry()["outcome"] == "ok"


@ENV
def test_tcp_one_finishes_and_the_other_resets(
        edge: StartEdge, stage: StartStage, dial: Dial, env: dict[str, str]) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port), env)
    bare = proxy.sockets
    client = dial(port)
    server = _relayed(client, endpoint)
    with proxy.frozen():
        client.half_close()
        server.reset()
    assert client.ending() == (b"", End.RESET)
    eventually(lambda: proxy.sockets == bare, "nothing is left")


@ENV
def test_tcp_all_in_one_moment(edge: StartEdge, stage: StartStage, dial: Dial, env: dict[str, str]) -> None:
    """Connections that were made, used and closed before the proxy looked at any of them."""
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port), env)
    bare = proxy.sockets
    with proxy.frozen():
        for number in range(20):
            client = dial(port)
            client.send(b"%d" % number)
            client.half_close()
    got = set()
    for _ in range(20):
        data, end = endpoint.accept().ending()
        assert end is End.FIN
        got.add(int(data))
    assert got == set(range(20))
    endpoint.stop()
    eventually(lambda: proxy.sockets == bare, "nothing is left")


@ENV
@pytest.mark.parametrize("who", ["client", "endpoint"])
@pytest.mark.parametrize("order", ["bytes first", "reset first"])
def test_tcp_last_bytes_and_reset_while_the_other_side_sends(
        edge: StartEdge, stage: StartStage, dial: Dial, who: str, order: str, env: dict[str, str]) -> None:
    """Writing to the one that was reset fails; what it had sent before still goes to the other."""
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port), env)
    bare = proxy.sockets
    client = dial(port)
    server = _relayed(client, endpoint)
    one, other = (client, server) if who == "client" else (server, client)
    with proxy.frozen():
        if order == "bytes first":
            other.send(b"x")
        one.send(LARGE)
        one.reset()
        if order == "reset first":
            other.send(b"x")
    data, end = other.ending()
    assert (len(data), end) == (len(LARGE), End.RESET)
    eventually(lambda: proxy.sockets == bare, "nothing is left")
