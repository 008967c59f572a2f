"""Responses that have no body by the rules: to HEAD, 204, 304; and requests without one."""
from __future__ import annotations

import pytest

from e2e.backends import Nginx, StartStage
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial


def test_head_keeps_the_length_and_the_connection(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    target = nginx.file("head", 12345)
    port = free_port()
    edge(web(port, nginx["a"]))
    client = dial(port)
    for _ in range(3):
        client.get(target, method="HEAD")
        answer = client.response(head_only=True)
        assert (answer.status, answer.get("content-length")) == (200, "12345")
        client.get(target)
        assert len(client.response().body) == 12345


def test_head_of_a_chunked_answer(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/", method="HEAD")
    channel = endpoint.accept()
    assert channel.request().method == "HEAD"
    channel.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.response(head_only=True).status == 200
    client.get("/next")
    assert channel.request().target == "/next", "the channel is still in step"
    channel.answer(b"next")
    assert client.response().text == "next"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("framing", ["", "Content-Length: 5\r\n", "ETag: \"x\"\r\n"])
def test_204_and_304(edge: StartEdge, stage: StartStage, dial: Dial, status: str, framing: str) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/", "x.invalid", 'If-None-Match: "x"')
    channel = endpoint.accept()
    assert channel.request().get("if-none-match") == '"x"'
    channel.send(f"HTTP/1.1 {status}\r\n{framing}\r\n")
    answer = client.response()
    assert answer.status == int(status[:3])
    assert answer.get("transfer-encoding") is None
    if status.startswith("204"):
        assert answer.get("content-length") is None, "RFC 9110 8.6"
    if status.startswith("204") and framing.startswith("Content-Length"):  # a body may follow: the channel is given up
        assert channel.ending()[0] == b""
        client.get("/next")
        channel = endpoint.accept()
    else:
        client.get("/next")
    assert channel.request().target == "/next"
    channel.answer(b"next")
    assert client.response().text == "next"


def test_a_post_without_a_body_says_so(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("POST /empty HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 0\r\n\r\n")
    channel = endpoint.accept()
    assert channel.request().get("content-length") == "0"
    channel.answer()
    assert client.response().status == 200


def test_a_get_with_a_body_is_passed_on(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("GET /search HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 5\r\n\r\nquery")
    channel = endpoint.accept()
    assert channel.request().body == b"query"
    channel.answer()
    assert client.response().status == 200
