"""What is tried again, where, and how often; and that nothing is done twice that must not be."""
from __future__ import annotations

from collections import Counter

import pytest

from e2e.backends import BlackHole, StartActor, StartStage, answering
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial, Wire, ask, connect

NEVER_EJECT = "eject: {failures: 0}"


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_a_refused_connection_is_tried_elsewhere_whatever_the_method(
        edge: StartEdge, actor: StartActor, dial: Dial, method: str) -> None:
    good, closed, port = actor(answering("good")), free_port(), free_port()
    proxy = edge(web(port, closed, good.port, service=NEVER_EJECT))
    client = dial(port)
    client.send(f"{method} /1 HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 4\r\n\r\nbody")
    assert client.response().text == "good"
    line = proxy.entry()
    assert line["attempts"] == [{"endpoint": f"127.0.0.1:{closed}", "reason": "connect_refused"}]
    assert line["endpoint"] == f"127.0.0.1:{good.port}" and line["outcome"] == "ok"


def test_a_body_on_its_way_survives_a_refusal(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    good, closed, port = stage(), free_port(), free_port()
    edge(web(port, closed, good.port, service=NEVER_EJECT))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    client.send("6\r\nsecond\r\n")
    channel = good.accept()
    channel.request(body=False)
    client.send("0\r\n\r\n")
    rest = channel.until(b"0\r\n\r\n")
    assert b"first" in rest and b"second" in rest
    channel.answer()
    assert client.response().status == 200


def test_a_dial_that_gets_no_answer_is_tried_elsewhere(
        edge: StartEdge, actor: StartActor, black_hole: BlackHole) -> None:
    good, port = actor(answering("good")), free_port()
    proxy = edge(web(port, black_hole.port, good.port, service=f"{NEVER_EJECT}, timeouts: {{connect: 200ms}}"))
    assert ask(port).text == "good"
    assert proxy.entry()["attempts"] == [{"endpoint": f"127.0.0.1:{black_hole.port}", "reason": "connect_timeout"}]


@pytest.mark.parametrize(("method", "fields", "again"), [
    ("GET", "", True), ("HEAD", "", True), ("PUT", "", True), ("DELETE", "", True), ("OPTIONS", "", True),
    ("POST", "", False), ("PATCH", "", False), ("BREW", "", False), ("POST", "Idempotency-Key: 7\r\n", True)])
def test_a_reset_is_tried_again_if_the_method_bears_it(
        edge: StartEdge, stage: StartStage, dial: Dial, method: str, fields: str, again: bool) -> None:
    first, second, port = stage(), stage(), free_port()
    proxy = edge(web(port, first.port, second.port, service=NEVER_EJECT))
    client = dial(port)
    client.send(f"{method} /x HTTP/1.1\r\nHost: x.invalid\r\n{fields}Content-Length: 3\r\n\r\nabc")
    channel = first.accept()
    assert channel.request().body == b"abc"
    channel.reset()
    if again:
        other = second.accept()
        request = other.request()
        assert (request.method, request.body) == (method, b"abc")
        other.answer(b"" if method == "HEAD" else b"done")
    answer = client.response(head_only=method == "HEAD")
    assert answer.status == (200 if again else 502)
    line = proxy.entry()
    assert line["attempts"] == [{"endpoint": f"127.0.0.1:{first.port}", "reason": "reset"}]
    assert line["outcome"] == ("ok" if again else "reset")
    assert second.untouched(0.02)


@pytest.mark.parametrize("limits", ["limits: {per_endpoint: 0}", "limits: {per_endpoint: 1}"])
def test_a_lone_endpoint_is_tried_again(edge: StartEdge, stage: StartStage, dial: Dial, limits: str) -> None:
    """Never the same endpoint while others are ready; but none is. The place of the first try is free for the second."""
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, service=f"{NEVER_EJECT}, {limits}"))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.reset()
    again = endpoint.accept()
    again.request()
    again.answer(b"again")
    assert client.response().text == "again"


def test_no_second_try_once_a_byte_was_passed_on(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    first, second, port = stage(), stage(), free_port()
    edge(web(port, first.port, second.port))
    client = dial(port)
    client.get()
    channel = first.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    client.until(b"abc")
    channel.reset()
    client.ending()
    assert second.untouched()


def test_a_body_over_64_kib_is_not_sent_twice(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    first, second, port = stage(), stage(), free_port()
    edge(web(port, first.port, second.port))
    client = dial(port)
    size = 200 * 1024
    client.send(f"PUT / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: {size}\r\n\r\n" + "x" * size)
    channel = first.accept()
    assert len(channel.request().body) == size
    channel.reset()
    assert client.response().status == 502
    assert second.untouched()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_status_that_is_named(edge: StartEdge, actor: StartActor, method: str) -> None:
    def busy(wire: Wire) -> None:
        while True:
            wire.request()
            wire.answer(b"busy", "503 Service Unavailable")

    first, second, port = actor(busy), actor(answering("good")), free_port()
    proxy = edge(web(port, first.port, second.port, route="retry: {when: [connect, 503]}", service=NEVER_EJECT))
    number = 3 if method == "GET" else 10  # few, because retries have a budget
    answers = Counter(ask(port, "/", "x.invalid", "Content-Length: 0", method=method).text for _ in range(number))
    lines = proxy.logged(number)
    if method == "GET":
        assert answers == {"good": number}
        assert [{"endpoint": f"127.0.0.1:{first.port}", "reason": "503"}] in [line["attempts"] for line in lines]
    else:
        assert answers["busy"] >= 4, "a POST was carried out, whatever the status says"
        assert all(line["attempts"] == [] for line in lines)


def test_a_status_that_is_not_named_is_the_answer(edge: StartEdge, actor: StartActor) -> None:
    def busy(wire: Wire) -> None:
        while True:
            wire.request()
            wire.answer(b"busy", "503 Service Unavailable")

    first, second, port = actor(busy), actor(busy), free_port()
    edge(web(port, first.port, second.port, route="retry: {when: [connect, 502]}"))
    answer = ask(port)
    assert (answer.status, answer.text, answer.get("proxy-status")) == (503, "busy", None)


def test_attempts_are_all_there_are(edge: StartEdge) -> None:
    ports = [free_port() for _ in range(5)]
    port = free_port()
    proxy = edge(web(port, *ports, route="retry: {attempts: 3}", service=NEVER_EJECT))
    assert ask(port).status == 502
    line = proxy.entry()
    tried = [attempt["endpoint"] for attempt in line["attempts"]]
    assert len(tried) == len(set(tried)) == 3, "never the same while others are left"


def test_the_last_answer_is_passed_on_when_every_try_gets_503(edge: StartEdge, actor: StartActor) -> None:
    def busy(wire: Wire) -> None:
        while True:
            wire.request()
            wire.answer(b"busy", "503 Service Unavailable")

    first, second, port = actor(busy), actor(busy), free_port()
    edge(web(port, first.port, second.port, route="retry: {when: [503]}", service=NEVER_EJECT))
    answer = ask(port)
    assert (answer.status, answer.text) == (503, "busy")


def test_a_timeout_is_tried_again_only_if_named(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    first, second, port = stage(), stage(), free_port()
    proxy = edge(web(port, first.port, second.port, service=NEVER_EJECT,
                     route="retry: {when: [timeout]}, timeouts: {response: 200ms}"))
    client = dial(port)
    client.get()
    first.accept().request()
    other = second.accept()
    other.request()
    other.answer(b"other")
    assert client.response().text == "other"
    assert [a["reason"] for a in proxy.entry()["attempts"]] == ["response_timeout"]


def test_retries_have_a_budget(edge: StartEdge, actor: StartActor) -> None:
    """At most 20 % of the requests of the last 10 s, and at least 3 a second, are tried again: no storm."""
    def killer(wire: Wire) -> None:
        wire.request()
        wire.reset()

    first, second, port = actor(killer), actor(killer), free_port()
    proxy = edge(web(port, first.port, second.port, service=NEVER_EJECT, route="retry: {attempts: 2, when: [reset]}"))
    number = 300
    with connect(port) as client:
        for _ in range(number):
            client.get()
            assert client.response().status == 502
    tries = sum(len(line["attempts"]) for line in proxy.logged(number))
    assert first.connections + second.connections == tries
    assert 3 <= tries - number <= number * 0.2 + 30 + 3
