"""Slow start: an endpoint that comes back or joins gets a tenth of its share at first, and all of it some seconds later."""
from __future__ import annotations

import time
from collections import Counter

import pytest

from e2e.backends import StartActor, answering
from e2e.patients import Patient, becomes
from e2e.program import StartEdge, free_port, web
from e2e.waiting import eventually
from e2e.wire import Wire, ask, connect

RAMP = 3.0
"""Seconds; long against a few hundred requests."""
PICKERS = ["round-robin", "random", "least-conn"]
"""Those whose shares are even; what least-latency gives is the latencies' to say."""


def _service(balance: str, ramp: float = RAMP) -> str:
    return (f"slow_start: {ramp * 1000:.0f}ms, balance: {balance}, eject: {{failures: 0}}, "
            "health: {http: {}, interval: 50ms, fall: 2, rise: 1}")


def _shares(client: Wire, number: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(number):
        client.get()
        found[client.response().text] += 1
    return found


def _at_most(passed: float, ramp: float = RAMP) -> float:
    """The part of all requests that one which ramps beside another may have after so many seconds, and a little more:
    that the test saw the ramp begin was later than that."""
    share = min(1.0, 0.1 + 0.9 * (passed + 0.3) / ramp)
    return share / (1 + share)


@pytest.mark.parametrize("balance", PICKERS)
def test_who_recovers_begins_with_a_tenth(edge: StartEdge, actor: StartActor, balance: str, long: bool) -> None:
    ramp = 10.0 if long else RAMP
    patients = [Patient("a"), Patient("b")]
    (one, other), port = [actor(patient) for patient in patients], free_port()
    proxy = edge(web(port, one.port, other.port, service=_service(balance, ramp)))
    with connect(port) as client:
        eventually(lambda: proxy.errors.count("its first probe passed") == 2, "both are up")
        assert 60 <= _shares(client, 200)["b"] <= 140, "all at once when all are new"
        patients[1].status = "500 No"
        becomes(proxy, other.port, "down")
        assert _shares(client, 20) == {"a": 20}
        patients[1].status = "200 OK"
        becomes(proxy, other.port, "up")
        began = time.monotonic()
        shares = _shares(client, 300)
        took = time.monotonic() - began
        # A tenth of its share, against the other's whole: 0.1 of 1.1; more with the time that the requests took.
        assert 3 <= shares["b"] <= 300 * _at_most(took, ramp) + 25, (shares, took)
        while time.monotonic() - began < ramp + 0.5:
            share, passed = _shares(client, 100)["b"] / 100, time.monotonic() - began
            assert share <= _at_most(passed, ramp) + 0.2, passed
        assert 60 <= _shares(client, 200)["b"] <= 140, "its whole share in the end"


def test_who_is_ejected_begins_with_a_tenth_again(edge: StartEdge, actor: StartActor) -> None:
    port, closed = free_port(), free_port()
    good = actor(answering("good"))
    proxy = edge(web(port, good.port, closed, service=f"slow_start: {RAMP:g}s, eject: {{failures: 2, for: 300ms}}"))
    with connect(port) as client:
        eventually(lambda: _shares(client, 2) and "ejected" in proxy.errors, "it is ejected")
        actor(answering("back"), closed)
        becomes(proxy, closed, "up")
        began = time.monotonic()
        got = _shares(client, 200)["back"]
        assert 1 <= got <= 200 * _at_most(time.monotonic() - began) + 30


def test_who_joins_by_a_reload_begins_with_a_tenth(edge: StartEdge, actor: StartActor) -> None:
    one, new, port = actor(answering("one")), actor(answering("new")), free_port()
    service = f"slow_start: {RAMP:g}s"
    proxy = edge(web(port, one.port, service=service))
    assert ask(port).text == "one"
    began = time.monotonic()
    proxy.reload(web(port, one.port, new.port, service=service))
    with connect(port) as client:
        got = _shares(client, 200)["new"]
        assert 3 <= got <= 200 * _at_most(time.monotonic() - began) + 30
    proxy.reload(web(port, one.port, new.port))
    with connect(port) as client:
        eventually(lambda: _shares(client, 100) == {"one": 50, "new": 50}, "without slow start all is as ever")


def test_alone_it_gets_everything(edge: StartEdge, actor: StartActor) -> None:
    """A share is relative: nobody waits because the only endpoint has just come back."""
    patient, port = Patient("only"), free_port()
    endpoint = actor(patient)
    proxy = edge(web(port, endpoint.port, service=_service("round-robin")))
    becomes(proxy, endpoint.port, "up")
    patient.status = "500 No"
    becomes(proxy, endpoint.port, "down")
    assert ask(port).status == 503
    patient.status = "200 OK"
    becomes(proxy, endpoint.port, "up")
    with connect(port) as client:
        assert _shares(client, 50) == {"only": 50}
