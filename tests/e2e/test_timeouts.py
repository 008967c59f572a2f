"""Everything has its time: heads, bodies, dials, answers, the whole."""
from __future__ import annotations

import time

import pytest

from e2e.backends import BlackHole, StartStage
from e2e.program import StartEdge, free_port, web
from e2e.wire import Cut, Dial, End


def test_a_head_has_its_time_in_all(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    """Bytes that trickle in do not prolong it (slowloris)."""
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener="timeouts: {header: 400ms}"))
    client = dial(port)
    began = time.monotonic()
    client.send("GET / HTTP/1.1\r\nHost: x.invalid\r\nX-Slow: ")
    while client.quiet(0.05):
        client.send("a")
        assert time.monotonic() - began < 3
    answer = client.response()
    assert (answer.status, answer.get("connection")) == (408, "close")
    assert 0.35 < time.monotonic() - began < 2
    client.half_close()
    assert client.ending() == (b"", End.FIN)
    line = proxy.entry()
    assert (line["status"], line["outcome"], line["phase"]) == (408, "request_timeout", "head")
    assert endpoint.untouched()


def test_the_second_head_too(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, listener="timeouts: {header: 300ms}"))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.answer()
    assert client.response().status == 200
    client.send("GET /second HTTP/1.1\r\n")
    assert client.response().status == 408


def test_a_body_that_stops_is_408(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener="timeouts: {body: 400ms}"))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 100\r\n\r\npart")
    channel = endpoint.accept()
    channel.request(body=False)
    answer = client.response()
    assert (answer.status, answer.get("connection")) == (408, "close")
    assert proxy.entry()["outcome"] == "request_timeout"
    assert channel.ending()[0] == b"part"


def test_a_body_that_goes_on_is_not(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, listener="timeouts: {body: 400ms}", route="timeouts: {response: 300ms}"))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 12\r\n\r\n")
    channel = endpoint.accept()
    channel.request(body=False)
    for _ in range(12):  # 1.2 s in all: longer than either time
        client.send("x")
        assert channel.exactly(1) == b"x"
        assert client.quiet(0.1)
    channel.answer(b"thanks")
    assert client.response().text == "thanks"


def test_no_answer_is_504(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, route="timeouts: {response: 300ms}"))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    answer = client.response()
    assert answer.status == 504
    assert "error=http_response_timeout" in (answer.get("proxy-status") or "")
    channel.ending()
    line = proxy.entry()
    assert (line["outcome"], line["phase"]) == ("response_timeout", "wait")
    assert 290 <= line["duration_ms"] <= 2000
    client.get("/next")
    fresh = endpoint.accept()
    assert fresh.request().target == "/next", "the client's connection goes on"


def test_an_answer_that_stops_is_cut(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, route="timeouts: {response: 300ms}"))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
    client.until(b"part")
    with pytest.raises(Cut):
        client.exactly(1)
    channel.ending()
    line = proxy.entry()
    assert (line["status"], line["outcome"], line["phase"]) == (200, "response_timeout", "body")


def test_an_answer_that_goes_on_is_not(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, route="timeouts: {response: 300ms}"))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
    client.until(b"\r\n\r\n")
    for _ in range(8):
        channel.send("x")
        assert client.exactly(1) == b"x"
        assert client.quiet(0.1)


def test_a_dial_without_answer_is_504(edge: StartEdge, dial: Dial, black_hole: BlackHole) -> None:
    port = free_port()
    proxy = edge(web(port, black_hole.port, service="timeouts: {connect: 300ms}", route="retry: {attempts: 1}"))
    client = dial(port)
    client.get()
    answer = client.response()
    assert answer.status == 504
    assert "error=connection_timeout" in (answer.get("proxy-status") or "")
    line = proxy.entry()
    assert (line["outcome"], line["phase"]) == ("connect_timeout", "connect")
    assert 290 <= line["connect_ms"] <= 2000


@pytest.mark.parametrize("begun", [False, True])
def test_the_whole_exchange(edge: StartEdge, stage: StartStage, dial: Dial, begun: bool) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, route="timeouts: {total: 400ms}"))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    if begun:
        channel.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        client.until(b"\r\n\r\n")
        with pytest.raises((Cut, ConnectionError)):
            while True:  # bytes that come do not prolong it
                channel.send("x")
                client.exactly(1)
                client.quiet(0.05)
        assert client.ending()[0] == b""
    else:
        assert client.response().status == 504
    channel.ending()
    assert proxy.entry()["outcome"] == "total_timeout"


def test_a_client_that_takes_nothing_is_given_up(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener="timeouts: {body: 400ms}"))
    client = dial(port, small=True)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    try:
        for _ in range(1600):
            channel.send(b"x" * 65536)
    except ConnectionError:
        pass
    else:
        raise AssertionError("the proxy took 100 MB that nobody reads")
    line = proxy.entry()
    assert (line["outcome"], line["phase"]) == ("client_gone", "body")
