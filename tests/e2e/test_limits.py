"""What is too much: heads, fields, targets, bodies; and connections."""
from __future__ import annotations

from contextlib import suppress

import pytest

from e2e.backends import StartActor, StartStage, answering
from e2e.program import Edge, StartEdge, free_port, web
from e2e.wire import Dial, End, Response, Wire

KIB = 1024


def _refused(client: Wire, proxy: Edge, status: int, word: str) -> Response:
    """The answer, then FIN (not RST, that could destroy it), and the same in the log."""
    answer = client.response()
    assert (answer.status, answer.get("connection")) == (status, "close")
    assert "error=http_request_error" in (answer.get("proxy-status") or "")
    client.half_close()
    assert client.ending() == (b"", End.FIN)
    line = proxy.entry()
    assert (line["status"], line["outcome"]) == (status, word)
    return answer


def test_a_head_over_the_limit_is_431(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener="limits: {header: 4KiB}"))
    client = dial(port)
    client.get("/", "x.invalid", "X-Long: " + "y" * 5 * KIB)
    _refused(client, proxy, 431, "head_too_large")
    assert endpoint.untouched()


def test_a_head_without_end_is_431(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.send("GET / HTTP/1.1\r\nHost: x.invalid\r\n")
    with suppress(ConnectionError):
        for _ in range(100):
            client.send("X-More: " + "y" * 1000 + "\r\n")
    answer = client.response()
    assert answer.status == 431
    assert proxy.entry()["outcome"] == "head_too_large"
    assert endpoint.untouched()


def test_a_head_at_the_limit_is_served(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(answering("fine")), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/", "x.invalid", "X-Long: " + "y" * 60 * KIB)
    assert client.response().text == "fine"


@pytest.mark.parametrize(("number", "status"), [(10, 200), (11, 431)])
def test_the_number_of_fields(edge: StartEdge, actor: StartActor, dial: Dial, number: int, status: int) -> None:
    endpoint, port = actor(answering("fine")), free_port()
    edge(web(port, endpoint.port, listener="limits: {headers: 10}"))
    client = dial(port)
    client.get("/", "x.invalid", *(f"X-{n}: y" for n in range(number - 1)))
    assert client.response().status == status


@pytest.mark.parametrize(("length", "status"), [(16 * KIB, 200), (16 * KIB + 1, 414)])
def test_the_target(edge: StartEdge, actor: StartActor, dial: Dial, length: int, status: int) -> None:
    endpoint, port = actor(answering("fine")), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/" + "a" * (length - 1))
    if status == 200:
        assert client.response().text == "fine"
    else:
        _refused(client, proxy, 414, "target_too_long")


def test_a_target_without_end_is_414_before_it_ends(edge: StartEdge, dial: Dial) -> None:
    port = free_port()
    proxy = edge(web(port, free_port()))
    client = dial(port)
    client.send("GET /" + "a" * 20 * KIB)
    _refused(client, proxy, 414, "target_too_long")


def test_a_length_over_the_limit_is_413_without_the_endpoint(
        edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener="limits: {body: 1KiB}"))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 1025\r\n\r\n" + "x" * 1025)
    _refused(client, proxy, 413, "body_too_large")
    assert endpoint.untouched()


def test_the_refusal_reaches_a_client_that_goes_on_sending(
        edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    """Closing with bytes unread would be a RST, and that can overtake the answer (RFC 9112 9.6)."""
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, listener="limits: {body: 1KiB}"))
    client = dial(port)
    client.send(f"POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: {200 * KIB}\r\n\r\n")
    assert not client.quiet(1), "it is refused by its length"
    for _ in range(20):
        client.send("x" * 10 * KIB)
    client.half_close()
    assert client.response().status == 413
    assert client.ending() == (b"", End.FIN)


def test_a_chunked_body_that_grows_over_the_limit_is_413(
        edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener="limits: {body: 1KiB}"))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nTransfer-Encoding: chunked\r\n\r\n")
    channel = endpoint.accept()
    channel.request(body=False)
    client.send(f"{KIB:x}\r\n" + "x" * KIB + "\r\n")
    assert channel.until(b"x\r\n").startswith(b"400\r\n")
    client.send("1\r\ny\r\n0\r\n\r\n")
    _refused(client, proxy, 413, "body_too_large")
    assert b"0\r\n\r\n" not in channel.ending()[0], "the endpoint must not take the part for the whole"


def test_bodies_at_the_limit_are_served(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(answering("fine")), free_port()
    edge(web(port, endpoint.port, listener="limits: {body: 1KiB}"))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 1024\r\n\r\n" + "x" * KIB)
    assert client.response().text == "fine"
    client.send(f"POST / HTTP/1.1\r\nHost: x.invalid\r\nTransfer-Encoding: chunked\r\n\r\n{KIB:x}\r\n" + "x" * KIB
                + "\r\n0\r\n\r\n")
    assert client.response().text == "fine"


def test_413_with_expect_comes_before_the_body(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, listener="limits: {body: 1KiB}"))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n")
    assert client.response().status == 413
    assert endpoint.untouched()


@pytest.mark.parametrize(("start", "status"), [
    ("CONNECT x.invalid:443 HTTP/1.1", 405), ("TRACE / HTTP/1.1", 405), ("GET / HTTP/2.0", 505),
    ("GET / HTTP/3.1", 505), ("PRI * HTTP/2.0", 505), ("GET /a#b HTTP/1.1", 400), ("GET  / HTTP/1.1", 400), ("GET /../x HTTP/1.1", 400),
    ("get http://other.invalid/ HTTP/1.1", 400)])
def test_request_lines_that_are_refused(
        edge: StartEdge, stage: StartStage, dial: Dial, start: str, status: int) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.send(f"{start}\r\nHost: x.invalid\r\n\r\n")
    answer = client.response()
    assert answer.status == status
    if status == 405:
        assert "GET" in (answer.get("allow") or "")
    assert proxy.entry()["status"] == status
    assert endpoint.untouched()


def test_tls_on_a_plain_listener(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2)
    data, _ = client.ending()
    assert data.startswith(b"HTTP/1.1 400 ") or not data
    assert endpoint.untouched()


def test_options_of_the_server_itself(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("*", method="OPTIONS")
    answer = client.response()
    assert answer.status == 204 and "GET" in (answer.get("allow") or "")
    assert endpoint.untouched()


def test_absolute_form(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send("GET http://x.invalid/path?q HTTP/1.1\r\nHost: x.invalid\r\n\r\n")
    assert client.response().get("x-line") == "GET /path?q HTTP/1.1"


def test_connections_over_the_limit_wait_in_the_kernel(
        edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(web(port, endpoint.port, listener="limits: {connections: 2}"))
    one, two, three = dial(port), dial(port), dial(port)
    for client in (one, two):
        client.get()
        assert client.response().status == 200
    three.get()
    assert three.quiet()
    one.close()
    assert three.response().status == 200
