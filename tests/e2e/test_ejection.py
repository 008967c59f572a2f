"""Passive health: what real traffic tells takes an endpoint out for a while, never the last one."""
from __future__ import annotations

import threading
from itertools import count

from e2e.backends import StartActor, StartStage, answering
from e2e.program import StartEdge, free_port, web
from e2e.waiting import eventually
from e2e.wire import Dial, Wire, ask, connect


def test_a_refusing_endpoint_is_ejected_and_comes_back(edge: StartEdge, actor: StartActor) -> None:
    good = actor(answering("good"))
    port, broken = free_port(), free_port()
    proxy = edge(web(port, good.port, broken, service="eject: {failures: 2, within: 10s, for: 400ms}"))
    assert all(ask(port).text == "good" for _ in range(20)), "every refusal was tried again elsewhere"
    tried = [line["attempts"] for line in proxy.logged(20)]
    refusals = [attempts for attempts in tried if attempts]
    assert refusals == [[{"endpoint": f"127.0.0.1:{broken}", "reason": "connect_refused"}]] * len(refusals)
    assert 2 <= len(refusals) <= 4, "after two failures it is left alone, but for the end of an ejection meanwhile"
    assert "ejected" in proxy.errors

    actor(answering("repaired"), broken)
    eventually(lambda: ask(port).text == "repaired", "the endpoint takes traffic again")
    assert {ask(port).text for _ in range(6)} == {"good", "repaired"}


def test_answers_503_count_but_500_do_not(edge: StartEdge, actor: StartActor) -> None:
    status = {"now": "503 Service Unavailable"}

    def sick(wire: Wire) -> None:
        while True:
            wire.request()
            wire.answer(b"sick", status["now"])

    good, bad = actor(answering("good")), actor(sick)
    port = free_port()
    edge(web(port, good.port, bad.port, service="eject: {failures: 3, within: 10s, for: 60s}"))
    assert [ask(port).text for _ in range(40)].count("sick") == 3
    status["now"] = "500 Internal Server Error"
    second = free_port()
    edge(web(second, good.port, bad.port, service="eject: {failures: 3, within: 10s, for: 60s}"))
    assert [ask(second).text for _ in range(40)].count("sick") == 20


def test_failures_far_apart_do_not_eject(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    one, other, port = stage(), stage(), free_port()
    proxy = edge(web(port, one.port, other.port, service="eject: {failures: 2, within: 100ms, for: 60s}"))
    client = dial(port)
    client.get()
    bad = one.accept()
    bad.request()
    bad.answer(b"warm")
    assert client.response().text == "warm"
    client.get()
    good = other.accept()
    good.request()
    good.answer(b"warm")
    assert client.response().text == "warm"
    for _ in range(4):
        client.get()
        bad.request()
        bad.answer(b"sick", "503 Service Unavailable")
        assert client.response().text == "sick"
        client.get()
        good.request()
        good.answer(b"good")
        assert client.response().text == "good"
        assert client.quiet(0.15), "longer than the window"
    assert "ejected" not in proxy.errors


def test_failures_within_the_window_eject_whatever_succeeds_between_them(
        edge: StartEdge, actor: StartActor) -> None:
    numbers = count()
    lock = threading.Lock()

    def sometimes(wire: Wire) -> None:
        while True:
            wire.request()
            with lock:
                number = next(numbers)
            wire.answer(b"sometimes", "200 OK" if number % 2 else "503 Service Unavailable")

    good, bad, port = actor(answering("good")), actor(sometimes), free_port()
    edge(web(port, good.port, bad.port, service="eject: {failures: 2, within: 10s, for: 60s}"))
    assert [ask(port).text for _ in range(40)].count("sometimes") == 3, "503, 200, 503"


def test_the_last_endpoint_is_never_ejected(edge: StartEdge, actor: StartActor) -> None:
    port, one = free_port(), free_port()
    proxy = edge(web(port, one, service="eject: {failures: 1, for: 60s}"))
    assert [ask(port).status for _ in range(5)] == [502] * 5, "refused each time, not 503"
    actor(answering("back"), one)
    assert ask(port).text == "back"
    assert "ejected" not in proxy.errors


def test_what_the_client_did_is_not_held_against_the_endpoint(edge: StartEdge, actor: StartActor) -> None:
    def reading(wire: Wire) -> None:
        while True:
            request = wire.request()
            wire.answer(b"x" * 10, "200 OK", f"X-Line: {request.start}")

    first, second = actor(reading), actor(reading)
    port = free_port()
    proxy = edge(web(port, first.port, second.port, service="eject: {failures: 1, for: 60s}"))
    for _ in range(6):
        with connect(port) as client:  # leaves in the middle of its own body
            client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 10\r\n\r\nabc")
            client.reset()
    proxy.logged(6, lambda line: line["outcome"] == "client_gone")
    assert "ejected" not in proxy.errors
    assert all(ask(port).status == 200 for _ in range(4))
    endpoints = {line["endpoint"] for line in proxy.logged(4, lambda line: line["status"] == 200)}
    assert endpoints == {f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"}
