"""The endpoint answers before it has the whole request: the answer is delivered whole, then the rest is dealt with."""
from __future__ import annotations

from contextlib import suppress

import pytest

from e2e.backends import StartStage
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial, End

KIB = 1024


def _post(length: int) -> str:
    return f"POST /up HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: {length}\r\n\r\n"


def test_413_while_the_client_still_sends(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.send(_post(200 * KIB) + "x" * KIB)
    channel = endpoint.accept()
    channel.request(body=False)
    channel.answer(b"too large", "413 Content Too Large")
    assert client.response().text == "too large", "before the request is complete"
    client.send("x" * 199 * KIB)
    client.get("/next")
    fresh = endpoint.accept()
    assert fresh.request().target == "/next", "a little rest is drained, and the client's connection goes on"
    fresh.answer(b"next")
    assert client.response().text == "next"
    channel.ending()  # the old channel is not used again
    assert [line["outcome"] for line in proxy.logged(2)] == ["ok", "ok"]


def test_a_long_rest_is_not_awaited(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(_post(1 << 40) + "x" * KIB)
    channel = endpoint.accept()
    channel.request(body=False)
    channel.answer(b"too large", "413 Content Too Large")
    assert client.response().text == "too large"
    with suppress(ConnectionError, TimeoutError):  # it is told by a closed connection at some point
        for _ in range(64 * KIB):
            client.send(b"x" * 64 * KIB)
    assert client.ending()[0] == b""


def test_the_answer_survives_an_endpoint_that_closes_behind_it(
        edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(_post(100 * KIB) + "x" * KIB)
    channel = endpoint.accept()
    channel.request(body=False)
    channel.answer(b"go away", "403 Forbidden", "Connection: close")
    channel.close()
    assert client.response().text == "go away"


@pytest.mark.parametrize("reset", [False, True])
def test_the_answer_survives_an_endpoint_that_stops_reading(
        edge: StartEdge, stage: StartStage, dial: Dial, reset: bool) -> None:
    """The proxy's own write fails because the endpoint is gone, but its answer is there to be read."""
    endpoint, port = stage(small=True), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(_post(4 * KIB * KIB) + "x" * KIB)
    channel = endpoint.accept()
    channel.request(body=False)
    channel.answer(b"enough", "413 Content Too Large", "Connection: close")
    channel.half_close() if not reset else channel.close()  # with bytes unread, close is a RST
    assert client.response().text == "enough"


def test_the_answer_survives_a_reset_that_is_there_already(
        edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    """Answer, reset and more of the request all wait for the proxy at the same moment: it must read before it writes."""
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    for _ in range(5):
        client = dial(port)
        client.send(_post(100 * KIB) + "x" * KIB)
        channel = endpoint.accept()
        channel.request(body=False)
        with proxy.frozen():
            client.send("x" * KIB)
            channel.answer(b"too large", "413 Content Too Large", "Connection: close")
            channel.reset()
            client.send("x" * KIB)
        assert client.response().text == "too large"


def test_a_streamed_early_answer_goes_on_while_the_request_does(
        edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(_post(6) + "one")
    channel = endpoint.accept()
    channel.request(body=False)
    assert channel.exactly(3) == b"one"
    channel.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nONE\r\n")
    client.until(b"ONE\r\n")
    client.send("two")
    assert channel.exactly(3) == b"two", "both directions run at once"
    channel.send("3\r\nTWO\r\n0\r\n\r\n")
    assert client.until(b"0\r\n\r\n") == b"3\r\nTWO\r\n0\r\n\r\n"
    client.get("/next")
    assert channel.request().target == "/next"


def test_the_proxys_own_answer_to_an_unfinished_request(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, route="path: /app"))
    client = dial(port)
    client.send("POST /nowhere HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 6\r\n\r\none")
    assert client.response().status == 404
    client.send("two")
    client.get("/app")
    channel = endpoint.accept()
    assert channel.request().target == "/app"
    channel.answer(b"app")
    assert client.response().text == "app"
    client.half_close()
    assert client.ending() == (b"", End.FIN)
