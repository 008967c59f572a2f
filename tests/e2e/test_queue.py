"""limits.per_endpoint: what is over it waits in line, for a place or in vain."""
from __future__ import annotations

import pytest

from e2e.backends import StartStage
from e2e.program import StartEdge, free_port, tcp, web
from e2e.waiting import eventually
from e2e.wire import Dial, End

LIMITS = "limits: {per_endpoint: 1, queue: 2, queue_timeout: %s}"


def test_a_request_waits_until_there_is_a_place(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, service=LIMITS % "10s"))
    first, second, third = dial(port), dial(port), dial(port)
    first.get("/1")
    channel = endpoint.accept()
    assert channel.request().target == "/1"
    second.get("/2")
    third.get("/3")
    assert endpoint.untouched(), "nobody is let in beyond the limit"
    channel.answer(b"one")
    assert first.response().text == "one"
    assert channel.request().target == "/2", "in the order they came"
    channel.answer(b"two")
    assert second.response().text == "two"
    assert channel.request().target == "/3"
    channel.answer(b"three")
    assert third.response().text == "three"
    waited = {line["path"]: line["queue_ms"] for line in proxy.logged(3)}
    assert waited["/1"] is None and waited["/2"] >= 20 and waited["/3"] >= waited["/2"]


def test_a_full_queue_is_503_at_once(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, service=LIMITS % "10s"))
    clients = [dial(port) for _ in range(4)]
    clients[0].get("/0")
    channel = endpoint.accept()
    channel.request()
    clients[1].get("/1")
    clients[2].get("/2")
    assert clients[1].quiet() and clients[2].quiet()
    clients[3].get("/3")
    answer = clients[3].response()
    assert answer.status == 503
    assert answer.get("retry-after") == "1"
    assert "error=connection_limit_reached" in (answer.get("proxy-status") or "")
    line = proxy.entry()
    assert (line["path"], line["status"], line["outcome"]) == ("/3", 503, "queue_full")


def test_the_wait_has_an_end(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, service=LIMITS % "200ms"))
    first, second = dial(port), dial(port)
    first.get("/1")
    channel = endpoint.accept()
    channel.request()
    second.get("/2")
    answer = second.response()
    assert answer.status == 503
    line = proxy.entry()
    assert (line["outcome"], line["phase"]) == ("queue_timeout", "queue")
    assert 195 <= line["queue_ms"] < 2000
    channel.answer(b"fine")
    assert first.response().text == "fine", "the one inside is not disturbed"
    second.get("/again")
    assert channel.request().target == "/again", "and the connection of the other goes on"


def test_a_client_that_leaves_gives_its_place_up(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, service=LIMITS % "10s"))
    inside, leaves, stays, late = (dial(port) for _ in range(4))
    inside.get("/inside")
    channel = endpoint.accept()
    channel.request()
    leaves.get("/leaves")
    assert leaves.quiet()
    stays.get("/stays")
    assert stays.quiet()
    leaves.reset()
    assert proxy.logged(1, lambda line: line["path"] == "/leaves")[0]["outcome"] == "client_gone"
    late.get("/late")
    assert late.quiet(), "there is room for it now"
    channel.answer()
    assert inside.response().status == 200
    assert channel.request().target == "/stays"
    channel.answer()
    assert channel.request().target == "/late"
    channel.answer()
    assert late.response().status == 200


def test_two_endpoints_share_one_queue(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    left, right, port = stage(), stage(), free_port()
    edge(web(port, left.port, right.port, service=LIMITS % "10s"))
    clients = [dial(port) for _ in range(3)]
    for number, client in enumerate(clients[:2]):
        client.get(f"/{number}")
    one, two = left.accept(), right.accept()
    taken = {one.request().target: one, two.request().target: two}
    clients[2].get("/2")
    assert clients[2].quiet()
    taken["/1"].answer(b"done")
    assert clients[1].response().text == "done"
    assert taken["/1"].request().target == "/2", "whoever is free first takes it"


def test_a_retry_elsewhere_leaves_its_place_to_who_waits(
        edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    primary, backup, port = stage(), stage(), free_port()
    edge(web(port, primary.port, f"{{address: '127.0.0.1:{backup.port}', backup: true}}",
             service=f"{LIMITS % '10s'}, eject: {{failures: 0}}"))
    first, second = dial(port), dial(port)
    first.get("/1")
    channel = primary.accept()
    channel.request()
    second.get("/2")
    assert second.quiet()
    channel.reset()
    elsewhere = backup.accept()
    assert elsewhere.request().target == "/1"
    freed = primary.accept()
    assert freed.request().target == "/2", "and it did not wait for the end of the first"
    elsewhere.answer(b"one")
    freed.answer(b"two")
    assert [first.response().text, second.response().text] == ["one", "two"]


def test_connections_of_a_tcp_listener_wait_too(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(tcp(port, endpoint.port, service="limits: {per_endpoint: 1, queue: 1, queue_timeout: 10s}"))
    first = dial(port)
    first.send("one")
    inside = endpoint.accept()
    assert inside.exactly(3) == b"one"
    second = dial(port)
    second.send("two")
    assert endpoint.untouched()
    with pytest.raises(ConnectionResetError):  # no place in the queue
        dial(port).sock.recv(1)
    first.close()
    assert inside.ending() == (b"", End.FIN)
    inside.close()
    waited = endpoint.accept()
    assert waited.exactly(3) == b"two", "nothing that was sent meanwhile is lost"
    eventually(lambda: second.quiet(0.05), "the second is connected")
