"""Connections are used again on both sides, and given up when somebody says so."""
from __future__ import annotations

import pytest

from e2e.backends import Nginx, StartActor, StartStage, answering
from e2e.program import StartEdge, free_port, web
from e2e.waiting import eventually
from e2e.wire import Dial, End, ask


def test_one_client_connection_and_one_channel_carry_everything(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    client = dial(port)
    seen = []
    for _ in range(200):
        client.get()
        answer = client.response()
        assert answer.status == 200 and answer.get("connection") is None
        seen.append((answer.get("x-connection") or "").split(":"))
    assert len({number for number, _ in seen}) == 1, "one connection to nginx"
    assert [int(requests) for _, requests in seen] == list(range(1, 201))
    lines = proxy.logged(200)
    assert [line["reused"] for line in lines] == [False] + [True] * 199
    assert [line["connect_ms"] is None for line in lines] == [False] + [True] * 199


def test_clients_one_after_the_other_share_a_channel(edge: StartEdge, actor: StartActor) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(web(port, endpoint.port))
    for _ in range(50):
        assert ask(port).get("connection") == "close"
    assert endpoint.connections == 1


def test_the_pool_keeps_as_many_as_it_is_told(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, service="pool: {idle: 1}"))
    clients = [dial(port) for _ in range(3)]
    channels = []
    for client in clients:
        client.get()
        channels.append(endpoint.accept())
        channels[-1].request()
    for client, channel in zip(clients, channels, strict=True):
        channel.answer()
        assert client.response().status == 200
    assert [channel.quiet() for channel in channels].count(True) == 1, "the others are closed"


@pytest.mark.parametrize("word", ["close", "Close", "foo, close"])
def test_the_client_says_close(edge: StartEdge, nginx: Nginx, dial: Dial, word: str) -> None:
    port = free_port()
    edge(web(port, nginx["a"]))
    client = dial(port)
    client.get("/", "x.invalid", f"Connection: {word}")
    assert client.response().get("connection") == "close"
    assert client.ending() == (b"", End.FIN)


def test_the_endpoint_says_close(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    for number in range(3):
        client.get(f"/{number}")
        channel = endpoint.accept()
        assert channel.request().target == f"/{number}"
        channel.answer(b"x", "200 OK", "Connection: close")
        answer = client.response()
        assert answer.body == b"x"
        assert answer.get("connection") is None, "the client's connection is another matter"
        assert channel.ending() == (b"", End.FIN)


def test_an_idle_client_is_closed_after_its_time(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    edge(web(port, nginx["a"], listener="timeouts: {idle: 200ms}"))
    silent, asked = dial(port), dial(port)
    asked.get()
    assert asked.response().status == 200
    assert asked.ending() == (b"", End.FIN)
    assert silent.ending() == (b"", End.FIN), "one that never asked, too, and without an answer"


def test_an_idle_channel_is_closed_after_its_time(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, service="timeouts: {idle: 200ms}"))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.answer()
    assert client.response().status == 200
    assert channel.ending() == (b"", End.FIN)
    client.get()
    fresh = endpoint.accept()
    fresh.request()
    fresh.answer(b"fresh")
    assert client.response().text == "fresh"


def test_bytes_on_an_idle_channel_never_reach_a_client(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/1")
    channel = endpoint.accept()
    channel.request()
    channel.answer(b"one")
    assert client.response().text == "one"
    channel.answer(b"nobody asked for this")
    channel.ending()  # FIN or RST: unread bytes make it the latter
    channel.ending()  # FIN or RST: unread bytes make it the latter
    client.get("/2")
    fresh = endpoint.accept()
    assert fresh.request().target == "/2"
    fresh.answer(b"two")
    assert client.response().text == "two"


def test_bytes_behind_a_response_end_the_channel(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/1")
    channel = endpoint.accept()
    channel.request()
    channel.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert client.response().text == "one"
    client.get("/2")
    fresh = endpoint.accept()
    fresh.request()
    fresh.answer(b"two")
    assert client.response().text == "two"
    eventually(lambda: client.quiet(), "nothing more")


@pytest.mark.parametrize("size", [2 ** n for n in range(10, 19)])
def test_bytes_behind_a_response_never_answer_the_next_request(
        edge: StartEdge, stage: StartStage, dial: Dial, size: int) -> None:
    """However the reads fall: the next request waits already, and the response ends where a buffer may be full."""
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/1")
    client.get("/2")
    channel = endpoint.accept()
    channel.request()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %06d\r\n\r\n"
    body = size - len(head % 0)
    with proxy.frozen():
        channel.send(head % body + b"x" * body + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert len(client.response().body) == body
    fresh = endpoint.accept()
    assert fresh.request().target == "/2"
    fresh.answer(b"good")
    assert client.response().text == "good"
