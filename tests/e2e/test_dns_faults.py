"""Everything a DNS server can do wrong, with requests and relayed connections going through the proxy meanwhile.

The rule of all of them: no request fails and none waits while one endpoint is there, a failure takes nothing away and
an absence only when it was said twice, and what happened is in the log, once. Real servers where they do that by
themselves, else one with a script.
"""
from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dns.flags
import pytest

from dnspeers import (
    Act,
    Dnsmasq,
    Knot,
    ScriptedDns,
    addresses,
    altered,
    compression_loop,
    cut_short,
    garbage,
    hangs_up,
    nodata,
    nxdomain,
    records,
    refused,
    servfail,
    silence,
    truncated,
    wrong_id,
    wrong_question,
)
from e2e.pods import QUICK, Pods, Visitors, named
from e2e.program import Edge, StartEdge, free_port
from e2e.waiting import eventually
from e2e.wire import ask

NAME = "web.pods.test"
AGAIN = 6.0
"""Seconds in which a name that has failed up to twice is asked for again, with much to spare."""


@pytest.fixture
def pods() -> Iterator[Pods]:
    opened = Pods()
    yield opened
    opened.close()


@pytest.fixture
def scripted() -> Iterator[ScriptedDns]:
    with ScriptedDns() as server:
        yield server


@dataclass
class Scene:
    """A proxy in use: both ways in have visitors."""

    proxy: Edge
    web: Visitors
    relay: Visitors

    def told(self, text: str) -> int:
        return self.proxy.errors.count(text)

    def until_told(self, text: str, seconds: float = AGAIN) -> None:
        eventually(lambda: text in self.proxy.errors, f"{text!r} in the log", seconds)

    def until_only(self, *who: str, seconds: float = AGAIN) -> None:
        self.web.until_only(*who, seconds=seconds)
        self.relay.until_only(*who, seconds=seconds)

    def serves(self, *who: str) -> None:
        """All of these are in use now, and nobody else."""
        for visitors in (self.web, self.relay):
            assert visitors.seen(visitors.until_more()) == set(who)

    def unharmed(self) -> None:
        """No request failed, and none has waited for DNS: that would have been a timeout of its, two tries long."""
        for visitors in (self.web, self.relay):
            assert not visitors.failed, visitors.failed[:3]
            assert visitors.longest < 0.5, "nothing waits for DNS"


class Stages:
    """Opens scenes; what they need ends with the test."""

    def __init__(self, edge: StartEdge, pods: Pods) -> None:
        self._edge = edge
        self._pods = pods
        self._open: list[Visitors] = []

    def start(self, server: object, port: int, relay: int = 0, resolver: str = QUICK, service: str = ""
              ) -> Edge:
        """Only the proxy."""
        return self._edge(named(port, relay, f"dns: '{NAME}.:{self._pods.port}'{service}", server,
                                resolver))

    def __call__(self, server: object, *who: str, resolver: str = QUICK) -> Scene:
        """With visitors, when all of `who` are in use."""
        port, relay = free_port(), free_port()
        proxy = self.start(server, port, relay, resolver)
        eventually(lambda: ask(port).status == 200, "the name is resolved")
        scene = Scene(proxy, Visitors(port), Visitors(relay, clients=1, new_connections=True))
        for visitors in (scene.web, scene.relay):
            visitors.__enter__()
            self._open.append(visitors)
        if who:
            scene.until_only(*who)
        return scene

    def close(self) -> None:
        for visitors in self._open:
            visitors.stop()


@pytest.fixture
def scene(edge: StartEdge, pods: Pods) -> Iterator[Stages]:
    stages = Stages(edge, pods)
    yield stages
    stages.close()


def two(scripted: ScriptedDns, pods: Pods) -> tuple[str, str]:
    """The name stands for two endpoints, for a second each time; it has no AAAA."""
    pods.start(1, 2)
    scripted.says(NAME, "A", addresses(pods.at(1), pods.at(2), ttl=1))
    scripted.says(NAME, "AAAA", nodata("pods.test", 1, 1))
    return pods.at(1), pods.at(2)


# ---- failures: nobody can say

def _zeros(wire: bytes) -> bytes:
    return wire[:12] + bytes(len(wire) - 12)


FAILURES: dict[str, tuple[Act, str]] = {
    "servfail": (servfail(), "SERVFAIL"),
    "refused": (refused(), "REFUSED"),
    "silence": (silence(), "timeout"),
    "wrong-id": (wrong_id(addresses("127.0.0.9")), "malformed"),
    "wrong-question": (wrong_question(addresses("127.0.0.9")), "malformed"),
    "garbage": (garbage(), "malformed"),
    "zeros": (altered(addresses("127.0.0.9"), _zeros), "malformed"),
    "cut-short": (cut_short(addresses("127.0.0.9")), "malformed"),
    "compression-loop": (compression_loop(), "malformed"),
    "cname-loop": (records(f"{NAME}. 60 CNAME other.pods.test.", f"other.pods.test. 60 CNAME {NAME}."), "CNAME loop"),
    "truncated-then-cut": (truncated(hangs_up()), "truncated"),
}


@pytest.mark.parametrize("fault", FAILURES)
def test_a_failure_takes_nothing_away(scene: Stages, pods: Pods, scripted: ScriptedDns, fault: str, long: bool) -> None:
    act, why = FAILURES[fault]
    one, other = two(scripted, pods)
    seen = scene(scripted, one, other)
    told = len(seen.proxy.errors)
    pods.start(3)
    scripted.says(NAME, "A", addresses(pods.at(3), pods.at(2), ttl=1))
    scripted.always = act
    seen.until_told(f"name {NAME}. is stale: ")
    if long:
        asked = scripted.count()
        eventually(lambda: scripted.count() > asked + 3, "asked again in vain", AGAIN)
    seen.serves(one, other)
    scripted.always = None
    seen.until_told(f"name {NAME}. answers again")
    seen.until_only(pods.at(2), pods.at(3))
    seen.unharmed()
    lines = seen.proxy.errors[told:].splitlines()
    stale = [line for line in lines if "is stale" in line]
    assert len(stale) == 1, stale
    assert why in stale[0] and one in stale[0] and other in stale[0]
    assert [word for line in lines for word in ("is stale", "answers again", "(1 new, 1 gone)") if word in line] \
        == ["is stale", "answers again", "(1 new, 1 gone)"], lines


def test_requests_go_on_while_a_question_hangs(scene: Stages, pods: Pods, scripted: ScriptedDns) -> None:
    one, other = two(scripted, pods)
    seen = scene(scripted, one, other, resolver="timeout: 10s")
    scripted.always = silence()
    asked = scripted.count()
    eventually(lambda: scripted.count() > asked, "a question that gets no answer")
    for visitors in (seen.web, seen.relay):
        assert visitors.seen(visitors.until_more(100)) == {one, other}
    assert scripted.count() <= asked + 2, "one question for each family, both still hang"
    assert "stale" not in seen.proxy.errors
    seen.unharmed()


def test_a_frozen_server_is_waited_for(scene: Stages, pods: Pods, tmp_path: Path) -> None:
    knot = Knot(tmp_path / "knot", "pods.test", [f"web 1 A {pods.at(1)}"])
    try:
        pods.start(1, 2)
        seen = scene(knot, pods.at(1))
        knot.process.send_signal(signal.SIGSTOP)
        seen.until_told("is stale: timeout of")
        seen.serves(pods.at(1))
        knot.process.send_signal(signal.SIGCONT)
        seen.until_told("answers again")
        seen.serves(pods.at(1))
        knot.change([f"web 1 A {pods.at(2)}"])
        seen.until_only(pods.at(2))
        seen.unharmed()
        assert (seen.told("is stale"), seen.told("answers again")) == (1, 1)
    finally:
        knot.process.send_signal(signal.SIGCONT)
        knot.stop()


def test_a_dead_server_and_its_return(scene: Stages, pods: Pods, scripted: ScriptedDns) -> None:
    one, other = two(scripted, pods)
    seen = scene(scripted, one, other)
    scripted.stop()
    seen.until_told(f"is stale: {scripted}: connection refused")
    seen.serves(one, other)
    pods.start(3)
    scripted.says(NAME, "A", addresses(pods.at(3), ttl=1))
    scripted.start()
    seen.until_only(pods.at(3))
    seen.unharmed()
    assert (seen.told("is stale"), seen.told("answers again")) == (1, 1)


@pytest.mark.parametrize("first", ["dead", "silent", "servfail", "refuses-all"])
def test_another_server_answers_instead(scene: Stages, pods: Pods, scripted: ScriptedDns, tmp_path: Path, first: str
                                        ) -> None:
    """A server that fails is passed over: nothing is stale, and nothing is told."""
    with ScriptedDns() as bad:
        real = Dnsmasq(tmp_path / "dnsmasq", "pods.test", [f"{pods.at(1)} {NAME}"], ttl=1)
        try:
            pods.start(1, 2)
            bad.always = {"silent": silence(), "servfail": servfail()}.get(first, refused())
            if first == "dead":
                bad.stop()
            seen = scene([bad, real], pods.at(1))
            real.change([f"{pods.at(2)} {NAME}"])
            seen.until_only(pods.at(2))
            seen.unharmed()
            assert "stale" not in seen.proxy.errors
            assert "cannot be resolved" not in seen.proxy.errors
        finally:
            real.stop()


# ---- truncation

def test_two_hundred_addresses(scene: Stages, pods: Pods, tmp_path: Path) -> None:
    """Of a real server: more than one datagram, so they are had over TCP. All of them take part."""
    def lines(*numbers: int) -> list[str]:
        return [f"web 1 A {pods.at(number)}" for number in numbers]

    knot = Knot(tmp_path / "knot", "pods.test", lines(*range(1, 201)))
    try:
        answer = knot.ask(NAME)
        assert answer is not None and answer.flags & dns.flags.TC, "it is cut over UDP"
        pods.start(*range(1, 202))
        seen = scene(knot)
        seen.web.until_seen(*map(pods.at, range(1, 201)), seconds=10)
        assert "and 195 more" in seen.proxy.errors, seen.proxy.errors
        knot.change(lines(*range(2, 202)))
        seen.until_told("(1 new, 1 gone)")
        seen.web.until_seen(*map(pods.at, range(2, 202)), seconds=10)
        assert seen.web.last_of(pods.at(1)) < seen.web.first_of(pods.at(201))
        assert "stale" not in seen.proxy.errors
        seen.unharmed()
    finally:
        knot.stop()


def test_a_truncated_answer_without_tcp_takes_nothing_away(scene: Stages, pods: Pods, scripted: ScriptedDns) -> None:
    one, other = two(scripted, pods)
    seen = scene(scripted, one, other)
    scripted.says(NAME, "A", truncated(hangs_up()))
    seen.until_told("truncated answer")
    seen.serves(one, other)
    scripted.says(NAME, "A", truncated(addresses(one, ttl=1)))
    seen.until_only(one)
    assert scripted.count(NAME, "A", "tcp") >= 2
    seen.unharmed()


# ---- absence: said twice

@pytest.mark.parametrize(("denial", "why"), [(nxdomain, "no such name"), (nodata, "no address")])
def test_one_denial_takes_nothing_away_two_do(
        scene: Stages, pods: Pods, scripted: ScriptedDns, denial: Callable[[str, int, int], Act], why: str) -> None:
    one, other = two(scripted, pods)
    there = addresses(one, other, ttl=1)
    seen = scene(scripted, one, other)
    asked = scripted.count(NAME, "A")
    scripted.says(NAME, "A", denial("pods.test", 1, 1), there, there)
    eventually(lambda: scripted.count(NAME, "A") >= asked + 2, "denied once", AGAIN)
    seen.serves(one, other)
    seen.unharmed()
    assert "WARNING" not in seen.proxy.errors and "endpoints any more" not in seen.proxy.errors

    asked = scripted.count(NAME, "A")
    scripted.says(NAME, "A", denial("pods.test", 1, 1))
    seen.until_told("has no endpoints any more")
    gone = time.monotonic()
    first, second = [each.at for each in scripted.asked if (each.name, each.type) == (NAME, "A")][asked:asked + 2]
    assert second - first >= 1.0, "not the same gap twice"
    assert f": {why}, answered twice, was " in seen.proxy.errors
    eventually(lambda: seen.web.failed, "requests without an endpoint")
    failed = seen.web.failed
    assert {visit.status for visit in failed} == {503}
    assert all("error=destination_unavailable" in visit.why for visit in failed), failed[0]
    assert min(visit.ended for visit in failed) > second, "all were served until then"
    assert not [visit for visit in seen.web.visits if visit.began > gone + 0.2 and visit.status == 200]

    scripted.says(NAME, "A", there)
    seen.until_only(one, other)
    assert seen.told("has no endpoints any more") == 1


def test_a_denial_by_a_real_server(scene: Stages, pods: Pods, tmp_path: Path) -> None:
    """knotd: NODATA, then NXDOMAIN, with other records in between."""
    knot = Knot(tmp_path / "knot", "pods.test", [f"web 1 A {pods.at(1)}"])
    try:
        pods.start(1, 2)
        seen = scene(knot, pods.at(1))
        knot.change(["web 1 TXT nothing"])
        seen.until_told("has no endpoints any more: no address, answered twice")
        eventually(lambda: seen.web.failed, "requests without an endpoint")
        knot.change([f"web 1 A {pods.at(2)}"])
        seen.until_only(pods.at(2))
        knot.change([])
        seen.until_told("has no endpoints any more: no such name, answered twice")
        eventually(lambda: seen.web.visits[-1].status == 503, "requests without an endpoint")
        assert {visit.status for visit in seen.web.failed} == {503}
        assert all("error=destination_unavailable" in visit.why for visit in seen.web.failed)
    finally:
        knot.stop()


# ---- odd sets

def test_a_ttl_of_0_is_a_second(scene: Stages, pods: Pods, scripted: ScriptedDns) -> None:
    one, other = two(scripted, pods)
    scripted.says(NAME, "A", addresses(one, other, ttl=0))
    seen = scene(scripted, one, other)
    asked, began = scripted.count(NAME, "A"), time.monotonic()
    eventually(lambda: scripted.count(NAME, "A") >= asked + 2, "asked again")
    assert time.monotonic() - began > 0.85, "never more often than each 0.9 s"
    scripted.says(NAME, "A", addresses(other, ttl=0))
    seen.until_only(other, seconds=4)
    seen.unharmed()


def test_a_huge_ttl_is_cut(scene: Stages, pods: Pods, tmp_path: Path) -> None:
    knot = Knot(tmp_path / "knot", "pods.test", [f"web 2147483647 A {pods.at(1)}"])
    try:
        pods.start(1, 2)
        seen = scene(knot, pods.at(1))
        knot.change([f"web 2147483647 A {pods.at(2)}"])
        changed = time.monotonic()
        seen.until_only(pods.at(2), seconds=6)
        assert seen.web.first_of(pods.at(2)) - changed < 2.0 + 1.0, "max_ttl and a second"
        seen.unharmed()
    finally:
        knot.stop()


def test_a_chain_of_sixteen_aliases(scene: Stages, pods: Pods, tmp_path: Path) -> None:
    """Of a real server, which gives it all in one answer; the least TTL of the chain holds."""
    def lines(number: int, links: int = 16) -> list[str]:
        links_ = [f"{f'link{n}' if n else 'web'} {1 if n == 7 else 600} CNAME link{n + 1}" for n in range(links)]
        return [*links_, f"link{links} 600 A {pods.at(number)}"]

    knot = Knot(tmp_path / "knot", "pods.test", lines(1))
    try:
        pods.start(1, 2)
        seen = scene(knot, pods.at(1), resolver="timeout: 300ms, max_ttl: 60s")
        knot.change(lines(2))
        changed = time.monotonic()
        seen.until_only(pods.at(2))
        assert seen.web.first_of(pods.at(2)) - changed < 1.0 + 1.0
        knot.change(lines(3, 17))
        seen.until_told("is stale: CNAME chain of more than 16 links")
        seen.serves(pods.at(2))
        seen.unharmed()
    finally:
        knot.stop()


def test_aliases_over_several_answers(scene: Stages, pods: Pods, scripted: ScriptedDns) -> None:
    """A server that tells each alias alone."""
    pods.start(1, 2)
    for rdtype in ("A", "AAAA"):
        scripted.says(NAME, rdtype, records(f"{NAME}. 1 CNAME a.pods.test."))
        scripted.says("a.pods.test", rdtype, records("a.pods.test. 60 CNAME b.pods.test."))
        scripted.says("b.pods.test", rdtype, nodata("pods.test", 1, 1))
    scripted.says("b.pods.test", "A", addresses(pods.at(1), ttl=60))
    seen = scene(scripted, pods.at(1))
    scripted.says("b.pods.test", "A", addresses(pods.at(2), ttl=60))
    seen.until_only(pods.at(2))
    seen.unharmed()


def test_a_real_loop_of_aliases(scene: Stages, pods: Pods, tmp_path: Path) -> None:
    knot = Knot(tmp_path / "knot", "pods.test", [f"web 1 A {pods.at(1)}"])
    try:
        pods.start(1, 2)
        seen = scene(knot, pods.at(1))
        knot.change(["web 1 CNAME a", "a 1 CNAME b", "b 1 CNAME a"])
        seen.until_told("is stale: CNAME loop")
        seen.serves(pods.at(1))
        knot.change([f"web 1 A {pods.at(2)}"])
        seen.until_only(pods.at(2))
        assert seen.told("is stale") == seen.told("answers again") == 1
        seen.unharmed()
    finally:
        knot.stop()


def test_aaaa_only(scene: Stages, pods: Pods, tmp_path: Path) -> None:
    pods.start("::1", 1)
    knot = Knot(tmp_path / "knot", "pods.test", ["web 1 AAAA ::1"])
    try:
        seen = scene(knot, "::1")
        knot.change(["web 1 AAAA ::1", f"web 1 A {pods.at(1)}"])
        seen.until_only("::1", pods.at(1))
        knot.change(["web 1 AAAA ::1"])
        seen.until_only("::1")
        knot.change([f"web 1 A {pods.at(1)}"])
        seen.until_only(pods.at(1))
        seen.unharmed()
    finally:
        knot.stop()


def test_one_family_fails_alone(scene: Stages, pods: Pods, scripted: ScriptedDns) -> None:
    pods.start("::1", 1, 2)
    scripted.says(NAME, "AAAA", addresses("::1", ttl=1))
    scripted.says(NAME, "A", addresses(pods.at(1), ttl=1))
    seen = scene(scripted, "::1", pods.at(1))
    scripted.says(NAME, "AAAA", silence())
    seen.until_told("(AAAA)")
    scripted.says(NAME, "A", addresses(pods.at(2), ttl=1))
    seen.until_only("::1", pods.at(2))
    assert seen.told("is stale") == 1
    seen.unharmed()


def _passed(moment: float) -> bool:
    return time.monotonic() >= moment


def test_a_set_that_changes_each_second(scene: Stages, pods: Pods, tmp_path: Path) -> None:
    """One endpoint is always there; which one is said anew each second, in both directions."""
    sets = [(1, 2), (2, 3), (3, 1), (1, 2), (2, 3)]
    dnsmasq = Dnsmasq(tmp_path / "dnsmasq", "pods.test", [f"{pods.at(n)} {NAME}" for n in sets[0]], ttl=1)
    try:
        pods.start(1, 2, 3)
        seen = scene(dnsmasq, *map(pods.at, sets[0]))
        began = time.monotonic()
        for second, now in enumerate(sets[1:], 1):
            eventually(partial(_passed, began + second), "the next second")
            dnsmasq.change([f"{pods.at(number)} {NAME}" for number in now])
        seen.until_only(*map(pods.at, sets[-1]))
        seen.unharmed()
        for number in (1, 2, 3):
            assert pods.sockets[pods.at(number)], "each one had its turn"
        changes = seen.told(" new, ")
        assert 1 <= changes <= len(sets), "one line for each change that was seen"
    finally:
        dnsmasq.stop()


def test_another_order_of_the_same_set_changes_nothing(scene: Stages, pods: Pods, scripted: ScriptedDns) -> None:
    one, other = two(scripted, pods)
    seen = scene(scripted, one, other)
    told, sockets = seen.proxy.errors, sum(pods.sockets.values())
    of_relay = len(seen.relay.visits)
    scripted.says(NAME, "A", addresses(other, one, ttl=1), addresses(one, other, one, ttl=1), addresses(other, one, ttl=1))
    asked = scripted.count(NAME, "A")
    eventually(lambda: scripted.count(NAME, "A") >= asked + 3, "asked again", AGAIN)
    seen.serves(one, other)
    assert seen.proxy.errors == told, "nothing is told"
    opened = sum(pods.sockets.values()) - sockets - (len(seen.relay.visits) - of_relay)
    assert opened <= 8, "the connections of requests are kept"
    seen.unharmed()
