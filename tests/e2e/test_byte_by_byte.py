"""Bytes that come one by one, or cut anywhere, mean the same; and they cost no more than their number."""
from __future__ import annotations

import time

import pytest

from e2e.backends import StartActor, StartStage, answering
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial

HEAD = ("POST /path?query HTTP/1.1\r\nHost: x.invalid\r\n"
        + "".join(f"X-Field-{n}: value {n}\r\n" for n in range(20)) + "Content-Length: 5\r\n\r\n")


def test_a_request_byte_by_byte(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    for byte in (HEAD + "hello").encode():
        client.send(bytes((byte,)))
    channel = endpoint.accept()
    request = channel.request()
    assert (request.start, request.body) == ("POST /path?query HTTP/1.1", b"hello")
    assert [request.get(f"x-field-{n}") for n in range(20)] == [f"value {n}" for n in range(20)]
    channel.answer(b"done")
    assert client.response().text == "done"


def test_a_response_byte_by_byte(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    for byte in b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" \
                b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX-Trailer: t\r\n\r\n":
        channel.send(bytes((byte,)))
    assert client.response().status == 103
    answer = client.response()
    assert (answer.body, answer.trailers) == (b"hello!", [("X-Trailer", "t")])


@pytest.mark.parametrize("at", range(1, 60, 7))
def test_two_pipelined_requests_cut_anywhere(edge: StartEdge, actor: StartActor, dial: Dial, at: int) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(web(port, endpoint.port))
    data = b"GET /1 HTTP/1.1\r\nHost: x.invalid\r\n\r\n" * 2
    client = dial(port)
    client.send(data[:at])
    whole = 0
    if at < len(data) // 2:
        assert client.quiet(0.02)
    else:
        assert client.response().status == 200, "the first does not wait for the second"
        whole = 1
    client.send(data[at:])
    for _ in range(whole, 2):
        assert client.response().status == 200


def test_a_long_head_in_small_pieces_costs_linear_time(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    """60 KB one byte at a time: a head that were searched from its beginning each time would cost 1.8 GB of looking."""
    endpoint, port = actor(answering("x")), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    data = b"GET / HTTP/1.1\r\nHost: x.invalid\r\n" + b"X-Long: " + b"y" * 60_000 + b"\r\n\r\n"
    before = proxy.cpu
    began = time.monotonic()
    for byte in data:
        client.sock.send(bytes((byte,)))
    assert client.response().status == 200
    assert time.monotonic() - began < 10
    assert proxy.cpu - before < 5


def test_many_fields_in_one_piece(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(web(port, endpoint.port, listener="limits: {headers: 1000}"))
    client = dial(port)
    client.get("/", "x.invalid", *(f"X-{n}: {n}" for n in range(999)))
    assert client.response().status == 200
