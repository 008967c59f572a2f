"""Pipelined requests are answered in order, one at a time."""
from __future__ import annotations

from e2e.backends import Nginx, StartActor, StartStage, answering
from e2e.program import StartEdge, free_port, web
from e2e.wire import CRLF, Dial, End


def _get(target: str) -> str:
    return f"GET {target} HTTP/1.1\r\nHost: x.invalid\r\n\r\n"


def test_a_thousand_at_once_are_answered_in_order(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("".join(_get(f"/{n}") for n in range(1000)))
    for number in range(1000):
        assert client.response().get("x-line") == f"GET /{number} HTTP/1.1"
    assert endpoint.connections == 1


def test_one_at_a_time(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(_get("/1") + _get("/2"))
    channel = endpoint.accept()
    assert channel.request().target == "/1"
    assert channel.quiet() and endpoint.untouched(), "the second waits for the first"
    channel.answer(b"one")
    assert channel.request().target == "/2"
    channel.answer(b"two")
    assert [client.response().text, client.response().text] == ["one", "two"]


def test_bodies_and_answers_of_the_proxy_keep_their_places(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(web(port, endpoint.port, route="path: /app"))
    client = dial(port)
    client.send(_get("/app/1")
                + "POST /app/2 HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 26\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
                + _get("/nowhere")
                + "POST /app/3 HTTP/1.1\r\nHost: x.invalid\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                + _get("/app/4"))
    answers = [client.response() for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 404, 200, 200]
    assert [answer.get("x-line") for answer in answers] == [
        "GET /app/1 HTTP/1.1", "POST /app/2 HTTP/1.1", None, "POST /app/3 HTTP/1.1", "GET /app/4 HTTP/1.1"]
    assert client.quiet()


def test_nothing_behind_a_bad_request_is_served(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(_get("/1") + "GET /2 HTTP/1.1\r\nHost : x.invalid\r\n\r\n" + _get("/3"))
    channel = endpoint.accept()
    assert channel.request().target == "/1"
    channel.answer(b"one")
    assert client.response().text == "one"
    refusal = client.response()
    assert (refusal.status, refusal.get("connection")) == (400, "close")
    assert client.ending() == (b"", End.FIN)
    assert channel.quiet() and endpoint.untouched()


def test_nothing_behind_connection_close_is_served(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("GET /1 HTTP/1.1\r\nHost: x.invalid\r\nConnection: close\r\n\r\n" + _get("/2"))
    channel = endpoint.accept()
    assert channel.request().target == "/1"
    channel.answer(b"one")
    assert client.response().text == "one"
    assert client.ending() == (b"", End.FIN), "FIN although there was more to read: a RST could destroy the answer"
    assert channel.quiet() and endpoint.untouched()


def test_blank_lines_between_requests(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    edge(web(port, nginx["a"]))
    client = dial(port)
    for _ in range(3):
        client.send(CRLF + _get("/").encode())
        assert client.response().status == 200
