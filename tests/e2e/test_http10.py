"""HTTP/1.0 clients, and endpoints that end their answer by closing."""
from __future__ import annotations

import pytest

from e2e.backends import Nginx, StartStage
from e2e.program import StartEdge, free_port, web
from e2e.wire import Cut, Dial, End


def test_a_1_0_client_is_served_and_closed(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    edge(web(port, nginx["a"]))
    client = dial(port)
    client.send("GET / HTTP/1.0\r\n\r\n")
    answer = client.response()
    assert (answer.status, answer.text) == (200, "a\n")
    assert client.ending() == (b"", End.FIN)


def test_a_1_0_client_may_keep_the_connection(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    edge(web(port, nginx["a"]))
    client = dial(port)
    for _ in range(3):
        client.send("GET / HTTP/1.0\r\nHost: x.invalid\r\nConnection: keep-alive\r\n\r\n")
        answer = client.response()
        assert answer.text == "a\n"
        assert (answer.get("connection") or "").lower() == "keep-alive"


def test_upstream_it_is_1_1_with_via_1_0(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("GET /old HTTP/1.0\r\nHost: x.invalid\r\n\r\n")
    channel = endpoint.accept()
    request = channel.request()
    assert request.start == "GET /old HTTP/1.1"
    assert request.get("via") == "1.0 edgeproxy"
    assert request.get("host") == "x.invalid"


def test_a_chunked_answer_to_a_1_0_client_ends_by_closing(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("GET / HTTP/1.0\r\nHost: x.invalid\r\nConnection: keep-alive\r\n\r\n")
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")
    answer = client.response()
    assert (answer.get("transfer-encoding"), answer.get("content-length")) == (None, None)
    assert answer.body == b"abcdef"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_a_close_delimited_answer_becomes_chunked(
        edge: StartEdge, stage: StartStage, dial: Dial, version: str) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send(f"{version} 200 OK\r\nX-From: endpoint\r\n\r\nuntil ")
    assert b"chunked" in client.until(b"\r\n\r\n")
    channel.send("close")
    channel.close()
    rest = client.until(b"0\r\n\r\n")
    assert rest.replace(b"\r\n", b"") in (b"6until 5close0", b"buntil close0")
    client.get("/next")
    endpoint.accept().answer(b"next")
    assert client.response().text == "next", "the client's connection lives on"


def test_a_close_delimited_answer_that_is_reset_is_cut(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    for line in ("GET / HTTP/1.1", "GET / HTTP/1.0"):
        client = dial(port)
        client.send(f"{line}\r\nHost: x.invalid\r\n\r\n")
        channel = endpoint.accept()
        channel.request()
        channel.send("HTTP/1.1 200 OK\r\n\r\nuntil ")
        client.until(b"until ")
        channel.reset()
        with pytest.raises(Cut) as cut:
            client.exactly(100)
        if line.endswith("1.0"):
            assert cut.value.end is End.RESET, "FIN would say that this was all"
        assert b"0\r\n" not in cut.value.args[2]
    assert [line["outcome"] for line in proxy.logged(2)] == ["response_cut"] * 2


def test_1_0_has_no_interim_responses(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("POST / HTTP/1.0\r\nHost: x.invalid\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody")
    channel = endpoint.accept()
    assert channel.request().get("expect") is None, "1.0 has no Expect: ignored (RFC 9110 10.1.1)"
    channel.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    channel.answer(b"done")
    assert client.response().status == 200
