"""SIGTERM and HTTP/2: GOAWAY in two steps (RFC 9113 §6.8), and every stream finishes; reloads touch no connection."""
from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

from e2e.backends import Nginx, StartStage
from e2e.certs import Authority
from e2e.h2peers import NO_ERROR, H2Client
from e2e.program import StartEdge, free_port, web
from e2e.tlspeers import NAME, DialTls, h2load, secure
from e2e.wire import Dial, refused

NOTICE = (2**31 - 1, NO_ERROR)
FRONTS = ["h2c", "h2"]
Connect = Callable[[str, int], H2Client]


def listening(front: str, port: int, authority: Authority, *endpoints: int) -> str:
    return web(port, *endpoints) if front == "h2c" else secure(port, [authority.server(NAME)], *endpoints)


@pytest.fixture
def connected(dial: Dial, dial_tls: DialTls) -> Connect:
    def open_one(front: str, port: int) -> H2Client:
        client = H2Client(dial(port), NAME, "http") if front == "h2c" else H2Client(dial_tls(port, "h2"), NAME)
        client.started()
        return client

    return open_one


@pytest.mark.parametrize("front", FRONTS)
def test_two_steps(edge: StartEdge, stage: StartStage, authority: Authority, connected: Connect, front: str) -> None:
    port, endpoint = free_port(), stage()
    proxy = edge(listening(front, port, authority, endpoint.port))
    client = connected(front, port)
    early = client.request("/early")
    first = endpoint.accept()
    first.request()
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    client.until(lambda: client.answers[early].body == b"half")
    proxy.signal(signal.SIGTERM)
    client.until(lambda: bool(client.goaways))
    assert client.goaways == [NOTICE], "first only a word that no more should come"
    first.send("half")
    answer = client.answer(early)
    assert (answer.body, answer.ended) == (b"halfhalf", True)
    client.ending()
    assert client.goaways == [NOTICE, (early, NO_ERROR)]
    assert proxy.wait() == 0
    assert [line["outcome"] for line in proxy.lines()] == ["ok"]


@pytest.mark.parametrize("front", FRONTS)
def test_streams_that_were_on_their_way_are_served(edge: StartEdge, stage: StartStage, authority: Authority, connected: Connect,
                                                   front: str) -> None:
    """They were opened before the client could know: the first GOAWAY lets them in."""
    port, endpoint = free_port(), stage()
    proxy = edge(listening(front, port, authority, endpoint.port))
    client = connected(front, port)
    early = client.request("/early")
    first = endpoint.accept()
    first.request()
    with proxy.frozen():
        late = client.request("/late")
        proxy.signal(signal.SIGTERM)
    second = endpoint.accept()
    assert second.request().target == "/late"
    client.until(lambda: bool(client.goaways))
    second.answer(b"late")
    first.answer(b"early")
    assert (client.answer(late).body, client.answer(early).body) == (b"late", b"early")
    client.ending()
    assert client.goaways[0] == NOTICE and client.goaways[-1] == (late, NO_ERROR)
    assert proxy.wait() == 0


@pytest.mark.parametrize("front", FRONTS)
def test_an_idle_connection_ends_at_once(edge: StartEdge, nginx: Nginx, authority: Authority, connected: Connect,
                                         front: str) -> None:
    port = free_port()
    proxy = edge(listening(front, port, authority, nginx["a"]))
    client = connected(front, port)
    assert client.ask().status == 200
    proxy.signal(signal.SIGTERM)
    client.ending()
    assert client.goaways[-1] == (1, NO_ERROR)
    assert proxy.wait(3) == 0
    assert refused(port)


def test_under_load_nothing_is_cut(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    """Clients that ask one stream after the other until they are told to stop."""
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    clients = [H2Client(dial(port), NAME, "http") for _ in range(8)]
    for client in clients:
        assert client.ask().status == 200
    proxy.signal(signal.SIGTERM)
    for client in clients:
        streams = []
        try:
            while not client.goaways:
                streams.append(client.request())
                client.answer(streams[-1])
            client.ending()
        except ConnectionError:
            client.ending()
        last = client.goaways[-1][0]
        for stream in streams:
            if stream <= last:
                assert client.answers[stream].status == 200, "told that it was taken, so it was answered"
    assert proxy.wait() == 0


@pytest.mark.parametrize("front", FRONTS)
def test_reloads_touch_no_connection(edge: StartEdge, stage: StartStage, nginx: Nginx, authority: Authority, connected: Connect,
                                     front: str) -> None:
    """A stream that is under way and a connection that is idle live through; new streams see the new routes."""
    port, endpoint = free_port(), stage()
    proxy = edge(listening(front, port, authority, endpoint.port))
    client, idle = (connected(front, port) for _ in range(2))
    early = client.request("/early")
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    client.until(lambda: client.answers[early].body == b"half")
    for number in range(5):
        assert "configuration reloaded" in proxy.reload(
            listening(front, port, authority, nginx["b"]) + f"# {number}\n")
        assert (client.ask("/new").body, idle.ask("/new").body) == (b"b\n", b"b\n")
    channel.send("half")
    assert client.answer(early).body == b"halfhalf"
    assert client.goaways == [] == idle.goaways


def test_reloads_under_h2load(edge: StartEdge, nginx: Nginx, authority: Authority) -> None:
    port = free_port()

    def text(number: int) -> str:
        return secure(port, [authority.server(NAME)], nginx["ab"[number % 2]])

    proxy = edge(text(0))
    counted: dict[str, int] = {}
    url, to = f"https://{NAME}:{port}/", f"--connect-to=127.0.0.1:{port}"
    thread = threading.Thread(target=lambda: counted.update(h2load(url, "-n20000", "-c8", "-m8", to)))
    thread.start()
    number = 0
    while thread.is_alive():
        number += 1
        assert "configuration reloaded" in proxy.reload(text(number))
    thread.join()
    assert (counted["succeeded"], counted["2xx"]) == (20_000, 20_000), counted
    assert number > 3
