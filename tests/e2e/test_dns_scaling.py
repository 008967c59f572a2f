"""A headless name that is scaled up and down under load, as a rolling deployment does it, with a real nameserver.

An endpoint ends only after its name has been without it for as long as a proxy may need to notice; until then it works,
and from then on nobody may miss it.
"""
from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from dnspeers import Dnsmasq, Knot
from e2e.pods import Pods, Visitors, named
from e2e.program import StartEdge, free_port
from e2e.waiting import eventually
from e2e.wire import Wire, connect

NAME = "web.pods.test"
TTL = 1.0
SEEN = TTL + 1.0
"""Seconds after a change of the zone in which it must be in use."""
SLACK = 0.4
"""Seconds for a busy machine."""


def _knot(stack: ExitStack, folder: Path, *addresses: str) -> Knot:
    server = Knot(folder / "knot", "pods.test", [f"web 1 A {address}" for address in addresses])
    stack.callback(server.stop)
    return server


def _lines(pods: Pods, numbers: range) -> list[str]:
    return [f"web 1 A {pods.at(number)}" for number in numbers]


def _pass(seconds: float) -> None:
    until = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= until, "time passes", seconds + 1)


def _in_use(visitors: Visitors, pods: Pods, numbers: range, changed: float) -> float:
    """Wait until exactly these answer; how long after `changed` the last of the new ones had its first request, and
    the last of the old ones its last."""
    wanted = {pods.at(number) for number in numbers}
    visitors.until_only(*wanted)
    first = max(visitors.first_of(who, changed) for who in wanted)
    others = {visit.who for visit in visitors.visits if visit.status == 200} - wanted
    return max([first, *(visitors.last_of(who) for who in others)]) - changed


def test_3_1_0_5(edge: StartEdge, pods: Pods, stack: ExitStack, tmp_path: Path) -> None:
    pods.start(1, 2, 3)
    knot = _knot(stack, tmp_path, *map(pods.at, (1, 2, 3)))
    port = free_port()
    proxy = edge(named(port, 0, f"dns: '{NAME}.:{pods.port}'", knot))
    with Visitors(port, clients=4) as visitors:
        visitors.until_only(*map(pods.at, (1, 2, 3)))

        knot.change(_lines(pods, range(1, 2)))
        changed = time.monotonic()
        assert _in_use(visitors, pods, range(1, 2), changed) < SEEN + SLACK
        _pass(changed + SEEN + SLACK - time.monotonic())
        pods.stop(2, 3)
        _pass(0.3)
        assert not visitors.failed, visitors.failed[:3]

        emptied = time.monotonic()
        knot.change([])
        eventually(lambda: visitors.failed, "requests without an endpoint")
        emptied_after = visitors.failed[0].began - emptied
        assert emptied_after < SEEN + 1.0 + SLACK, "an absence is confirmed by a second answer"
        _pass(0.3)
        pods.stop(1)
        _pass(1.0)
        at_zero = time.monotonic()
        assert visitors.seen(at_zero - 0.5, at_zero) == {"HTTP/1.1 503 Service Unavailable"}

        pods.start(*range(11, 16))
        knot.change(_lines(pods, range(11, 16)))
        changed = time.monotonic()
        visitors.until_only(*map(pods.at, range(11, 16)))
        firsts = [visitors.first_of(pods.at(number)) - changed for number in range(11, 16)]
        assert max(firsts) < SEEN + SLACK, firsts
        again = time.monotonic()
        _pass(0.3)
    failed = visitors.failed
    assert failed[0].ended > emptied + 1.0, "not at the first answer"
    assert failed[-1].began < changed + SEEN + SLACK < again + SEEN
    assert {visit.status for visit in failed} == {503}
    assert all("error=destination_unavailable" in visit.why for visit in failed), failed[0]
    assert "has no endpoints any more: no such name, answered twice" in proxy.errors


@pytest.mark.parametrize("server", ["knot", "dnsmasq"])
def test_a_rolling_deployment(edge: StartEdge, pods: Pods, stack: ExitStack, tmp_path: Path, server: str) -> None:
    """One endpoint after the other is replaced by a new one, over http and tcp; nobody notices."""
    pods.start(1, 2, 3)
    numbers = [1, 2, 3]
    if server == "knot":
        knot = _knot(stack, tmp_path, *map(pods.at, numbers))
    else:
        dnsmasq = Dnsmasq(tmp_path / "dnsmasq", "pods.test", [f"{pods.at(n)} {NAME}" for n in numbers], ttl=1)
        stack.callback(dnsmasq.stop)
    port, relay = free_port(), free_port()
    edge(named(port, relay, f"dns: '{NAME}.:{pods.port}'", knot if server == "knot" else dnsmasq))
    with Visitors(port) as web, Visitors(relay, clients=2, new_connections=True) as relayed:
        web.until_only(*map(pods.at, numbers))
        for new in (4, 5):
            pods.start(new)
            old = numbers.pop(0)
            numbers.append(new)
            if server == "knot":
                knot.change([f"web 1 A {pods.at(number)}" for number in numbers])
            else:
                dnsmasq.change([f"{pods.at(number)} {NAME}" for number in numbers])
            changed = time.monotonic()
            web.until_seen(pods.at(new))
            assert web.first_of(pods.at(new)) - changed < SEEN + SLACK
            _pass(changed + SEEN + SLACK - time.monotonic())
            pods.stop(old)
            assert max(web.last_of(pods.at(old)), relayed.last_of(pods.at(old))) - changed < SEEN + SLACK
        web.until_only(*map(pods.at, numbers))
        relayed.until_only(*map(pods.at, numbers))
    assert not web.failed and not relayed.failed, (web.failed[:3], relayed.failed[:3])


def _slow_at(stack: ExitStack, port: int, who: str) -> Wire:
    """A request that is half answered by that endpoint."""
    for _ in range(20):
        client = stack.enter_context(connect(port))
        client.get("/slow")
        head = client.until(b"\r\n\r\n")
        if f"X-Pod: {who}\r\n".encode() in head:
            assert client.exactly(len(who)) == who.encode()
            return client
        client.close()
    raise AssertionError(f"{who} gets nothing")


def _relayed_to(stack: ExitStack, port: int, who: str) -> Wire:
    for _ in range(20):
        client = stack.enter_context(connect(port))
        if client.until(b"\n") == f"{who}\n".encode():
            return client
        client.close()
    raise AssertionError(f"{who} gets nothing")


def test_what_is_under_way_at_a_removed_endpoint_finishes(
        edge: StartEdge, pods: Pods, stack: ExitStack, tmp_path: Path) -> None:
    echoes = Pods(greeting=True)
    stack.callback(echoes.close)
    pods.start(1, 2)
    echoes.start(pods.at(1), pods.at(2))
    knot = _knot(stack, tmp_path, pods.at(1), pods.at(2))
    port, relay = free_port(), free_port()
    text = named(port, relay, f"dns: '{NAME}.:{pods.port}'", knot,
                 more=f"  echo: {{dns: '{NAME}.:{echoes.port}'}}\n").replace(
        "protocol: tcp, service: app", "protocol: tcp, service: echo")
    proxy = edge(text)
    eventually(lambda: proxy.errors.count(f"name {NAME}. is ") == 2, "both services have their endpoints")
    slow = _slow_at(stack, port, pods.at(1))
    kept = _relayed_to(stack, relay, pods.at(1))
    with Visitors(port, clients=2) as visitors:
        visitors.until_only(pods.at(1), pods.at(2))
        knot.change([f"web 1 A {pods.at(2)}"])
        visitors.until_only(pods.at(2))
        assert pods.served[pods.at(1)]
        # the idle connections are closed; a request and a relay are left
        eventually(lambda: proxy.errors.count("(0 new, 1 gone)") == 2, "both services know")
        pods.stop(1)
        kept.send(b"still there")
        assert kept.exactly(11) == b"still there"
        assert slow.quiet(0.2)
        for _ in range(4):
            assert _relayed_to(stack, relay, pods.at(2))
        pods.release()
        assert slow.exactly(len(pods.at(1)) + 1) == f"+{pods.at(1)}".encode(), "whole"
        kept.send(b"and on")
        assert kept.exactly(6) == b"and on"
        kept.half_close()
        assert kept.ending()[0] == b""
    assert not visitors.failed, visitors.failed[:3]


def test_an_endpoint_that_returns_is_the_same(edge: StartEdge, pods: Pods, stack: ExitStack, tmp_path: Path) -> None:
    """Ejected, gone, and back within the time of its ejection: it is still ejected."""
    pods.start(2)
    knot = _knot(stack, tmp_path, pods.at(1), pods.at(2))
    port = free_port()
    proxy = edge(named(port, 0, f"dns: '{NAME}.:{pods.port}', eject: {{failures: 1, for: 60s}}", knot))
    with Visitors(port) as visitors:
        visitors.until_only(pods.at(2))
        eventually(lambda: f"endpoint {pods.at(1)}:{pods.port} ejected" in proxy.errors, "ejected")
        knot.change([f"web 1 A {pods.at(2)}"])
        eventually(lambda: "(0 new, 1 gone)" in proxy.errors, "it is gone")
        pods.start(1)
        knot.change([f"web 1 A {pods.at(1)}", f"web 1 A {pods.at(2)}"])
        eventually(lambda: "(1 new, 0 gone)" in proxy.errors, "it is back")
        visitors.until_only(pods.at(2))
    assert not visitors.failed
    assert not pods.served[pods.at(1)]
