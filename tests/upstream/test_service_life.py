"""The life of a service's members: found, probed, draining, bound to, back again. Invented time."""
from __future__ import annotations

import logging
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from edgeproxy.codec._leaf import RequestHead, parse_request
from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.policy.endpoint import target
from edgeproxy.upstream import binding
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.service import Service
from upstream.test_service import Clock, clock, config, limited, made, named, picks, ready

__all__ = ["clock"]  # the fixture

PROBED = model.Health(tcp=model.TcpProbe())
BY_ADDRESS = model.Affinity(client_ip=model.ClientIp(timeout=100.0))
BY_COOKIE = model.Affinity(cookie=model.AffinityCookie(secret="a secret", ttl=3600.0))
NAME = model.DnsSource("web.example", 80)


def found(*names: str) -> list[Any]:
    return [target(f"::{name}", 80) for name in names]


def headless(clock: Clock, *names: str, **parts: Any) -> Service:
    service = made(clock, dns=(NAME,), **parts)
    if names:
        service.supply(found(*names), "")
    return service


def member(service: Service, name: str) -> Member:
    known = service.member(f"[::{name}]:80")
    assert known is not None
    return known


def states(service: Service) -> dict[str, str]:
    return {m.endpoint.host[2:]: m.state for m in service.everyone}


def asked(cookie: bytes = b"") -> RequestHead:
    """A request with what Set-Cookie has said before."""
    pair = cookie.split(b";")[0]
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"Cookie: x=1; " + pair + b"\r\n" if pair else b"") + b"\r\n",
                         65536, 100)
    assert head is not None
    return head


# ---- found by name

def test_members_are_those_of_the_file_and_of_dns(clock: Clock) -> None:
    service = made(clock, "a", dns=(NAME,))
    service.supply(found("b", "c", "a"), "")
    assert sorted(picks(service, 3)) == ["a", "b", "c"]
    service.supply(found("c"), "")
    assert sorted(picks(service, 4)) == ["a", "a", "c", "c"]


def test_the_same_answer_in_another_order_is_no_other_set(clock: Clock) -> None:
    service = headless(clock, "a", "b")
    a = member(service, "a")
    service.supply(found("b", "a"), "")
    assert member(service, "a") is a and a.state == "up"


def test_what_left_finishes_and_gets_nothing_new(clock: Clock) -> None:
    service = headless(clock, "a", "b")
    a = member(service, "a")
    service.enter(a)
    service.supply(found("b"), "")
    assert states(service) == {"b": "up", "a": "draining"} and picks(service, 2) == "bb"
    clock.advance(100.0)
    assert states(service) == {"b": "up", "a": "draining"}, "its work is under way"
    service.leave(a)
    clock.advance(1.1)
    assert states(service) == {"b": "up"} and clock.open() == 0
    assert [e.text for e in service.events.ring] == ["draining: it is named no more", "gone: nothing left to do"]


def test_the_end_of_the_time_to_drain_is_told_once(clock: Clock) -> None:
    service = headless(clock, "a", "b", affinity=BY_ADDRESS, drain=5.0)
    service.supply(found("b"), "")
    clock.advance(20.0)
    assert [e.text for e in service.events.ring] == ["draining: it is named no more", "gone: its time to drain is over"]


def test_who_comes_back_is_the_same(clock: Clock) -> None:
    service = headless(clock, "a", "b", eject=model.Eject(1, 10.0, 5.0))
    a = member(service, "a")
    service.enter(a)
    service.leave(a)
    service.failed(a, Kind.RESET)
    for _ in range(3):  # a name that flaps
        service.supply(found("b"), "")
        service.supply(found("a", "b"), "")
    assert member(service, "a") is a and a.total == 1 and a.failed == 1
    assert a.state == "ejected" and picks(service, 2) == "bb"
    clock.advance(5.1)
    assert a.state == "up" and clock.open() == 0


def test_who_comes_back_while_draining_goes_on(clock: Clock) -> None:
    service = headless(clock, "a", "b")
    a = member(service, "a")
    service.enter(a)
    service.supply(found("b"), "")
    service.supply(found("a", "b"), "")
    assert a.state == "up" and not service.leaving and sorted(picks(service, 2)) == ["a", "b"]


def test_no_endpoint_has_a_reason(clock: Clock) -> None:
    service = headless(clock)
    service.supply((), "no answer from 10.0.0.1")
    error = service.unavailable()
    assert error.kind is Kind.DNS_FAILED and "no answer from 10.0.0.1" in error.cause
    service.supply((), "")
    error = service.unavailable()
    assert error.kind is Kind.UNAVAILABLE and error.cause == "the service has no endpoints"
    service.absence = lambda: "web.example: no such name"
    error = service.unavailable()
    assert error.kind is Kind.UNAVAILABLE and error.cause == "the service has no endpoints: web.example: no such name"


def test_the_first_answer_is_waited_for(clock: Clock) -> None:
    service = headless(clock)
    log: list[str] = []

    def told(place: Member | ProxyError) -> None:
        log.append(place.kind.word if isinstance(place, ProxyError) else place.endpoint.host)

    assert service.worth_waiting(service.unavailable())
    assert service.wait(service.pick, told) is not None
    service.supply(found("a"), "")
    assert log == ["::a"] and not service.worth_waiting(ProxyError(Kind.UNAVAILABLE))


@pytest.mark.parametrize("late", [False, True])
def test_the_first_answer_is_not_waited_for_for_ever(clock: Clock, late: bool) -> None:
    service = headless(clock)
    log: list[str] = []
    for _ in range(2):
        assert service.wait(service.pick, lambda place: log.append(place.kind.word)) is not None  # type: ignore[union-attr]
    if late:
        clock.advance(3.1)
    else:
        service.supply((), "no such name")
    assert log == ["dns_failed"] * 2 and clock.open() == 0


# ---- probes and admins

def test_probes_take_out_and_bring_back(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    service = made(clock, "a", "b", health=PROBED)
    a = named(service, "a")
    assert states(service) == {"a": "checking", "b": "checking"} and len(set(picks(service, 4))) == 2
    service.passed(a)
    service.passed(named(service, "b"))
    for _ in range(3):
        service.missed(a, "connection refused")
    assert states(service) == {"a": "down", "b": "up"} and picks(service, 3) == "bbb"
    service.missed(a, "connection refused")
    service.passed(a)
    service.missed(a, "connection refused")
    service.passed(a)
    assert a.state == "down", "two in a row are asked for"
    service.passed(a)
    assert a.state == "up" and len(set(picks(service, 4))) == 2
    told = [line for line in caplog.text.splitlines() if "[::a]:80" in line]
    assert len(told) == 3 and "down: 3 probes in a row failed: connection refused" in told[1]
    assert [e.text for e in service.events.ring if e.subject == "[::a]:80"][-1] == "up: 2 probes in a row passed"


def test_initial_down_waits_for_the_first_probe(clock: Clock) -> None:
    service = made(clock, "a", "b", health=replace(PROBED, initial="down"))
    assert picks(service, 2) == "--" and service.unavailable().cause == "no endpoint is ready: 2 checking"
    service.passed(named(service, "b"))
    assert picks(service, 2) == "bb"


def test_all_down_is_told_at_once_unless_panic(clock: Clock) -> None:
    for panic in (False, True):
        service = made(clock, "a", "b", "c?", health=PROBED, panic=panic)
        for m in service.view.members:
            for _ in range(3):
                service.missed(m, "no answer")
        assert service.unavailable().cause == "no endpoint is ready: 3 down"
        assert set(picks(service, 4)) == ({"a", "b"} if panic else {"-"})


def test_panic_is_not_for_what_an_admin_took_out(clock: Clock) -> None:
    service = made(clock, "a", "b", panic=True, health=PROBED)
    service.administer("[::a]:80", "disabled")
    for _ in range(3):
        service.missed(named(service, "b"), "no answer")
    assert picks(service, 3) == "bbb"


def test_probes_forgotten_when_they_are_left_out(clock: Clock) -> None:
    service = made(clock, "a", health=PROBED)
    for _ in range(3):
        service.missed(named(service, "a"), "no answer")
    service.apply(config("a"))
    assert states(service) == {"a": "up"} and picks(service, 1) == "a"


def test_what_an_admin_says_stands_above_all(clock: Clock) -> None:
    service = made(clock, "a", "b", health=PROBED)
    assert service.administer("[::a]:80", "draining") and not service.administer("[::z]:80", "draining")
    service.passed(named(service, "a"))
    assert states(service)["a"] == "draining" and picks(service, 2) == "bb"
    service.administer("[::a]:80", "disabled")
    assert states(service)["a"] == "disabled"
    service.apply(config("a", "b", health=PROBED))
    assert states(service)["a"] == "disabled", "a reload does not take it back"
    service.administer("[::a]:80", "")
    assert states(service)["a"] == "up" and ready(named(service, "a"))


def test_followers_hear_of_every_change(clock: Clock) -> None:
    service = headless(clock, "a")
    seen: list[dict[str, str]] = []
    service.followed = lambda: seen.append(states(service))
    service.enter(member(service, "a"))
    service.supply(found("b"), "")
    service.leave(member(service, "a"))
    clock.advance(1.1)
    assert seen == [{"b": "up", "a": "draining"}, {"b": "up"}]


# ---- who is better than nobody

def test_the_status_that_ejects_is_told(clock: Clock) -> None:
    service = made(clock, "a", "b", eject=model.Eject(1, 10.0, 10.0))
    service.failed(named(service, "a"), Kind.STATUS, 503)
    assert named(service, "a").reason == "1 failure within 10 s, the last: status 503"


def test_who_was_ejected_is_tried_before_the_same_one_again(clock: Clock) -> None:
    service = made(clock, "a", "b", eject=model.Eject(1, 10.0, 10.0))
    a, b = named(service, "a"), named(service, "b")
    service.failed(a, Kind.CONNECT_REFUSED)
    assert service.pick() is b and service.pick(tried=(b,)) is a and service.pick(tried=(a, b)) is b


def test_the_last_one_that_fails_changes_places_with_who_was_ejected_first(clock: Clock) -> None:
    service = made(clock, "a", "b", "c", eject=model.Eject(3, 10.0, 10.0))
    a, b, c = (named(service, name) for name in "abc")
    for victim in (a, b):
        for _ in range(3):
            service.failed(victim, Kind.CONNECT_REFUSED)
        clock.advance(0.1)
    for _ in range(9):
        service.failed(c, Kind.CONNECT_REFUSED)
    assert states(service) == {"a": "ejected", "b": "ejected", "c": "up"}, "not within a second"
    clock.advance(1.0)
    service.failed(c, Kind.CONNECT_REFUSED)
    assert states(service) == {"a": "up", "b": "ejected", "c": "ejected"} and picks(service, 2) == "aa"
    clock.advance(30.0)
    assert set(states(service).values()) == {"up"} and clock.open() == 0


def test_a_draining_endpoint_that_dies_lets_its_clients_go(clock: Clock) -> None:
    for evidence in ("probes", "requests"):
        service = headless(clock, "a", "b", affinity=BY_ADDRESS, health=PROBED)
        homes = {bound(service, client): client for client in ("1", "2")}
        a = member(service, "a")
        service.supply(found("b"), "")
        assert bound(service, homes["a"]) == "a"
        if evidence == "probes":
            for _ in range(3):
                service.missed(a, "connection refused")
        else:
            service.failed(a, Kind.CONNECT_REFUSED)
        assert a.state == "draining" and bound(service, homes["a"]) == "b"


# ---- affinity

def bound(service: Service, client: str, head: RequestHead | None = None, tried: tuple[Member, ...] = ()) -> str:
    m = service.pick_for(client, head, 0, tried)
    return m.endpoint.host[2:] if m is not None else "-"


def test_a_client_comes_back_to_its_endpoint(clock: Clock) -> None:
    service = made(clock, "a", "b", "c", affinity=BY_ADDRESS)
    homes = {client: bound(service, client) for client in ("1", "2", "3")}
    assert sorted(homes.values()) == ["a", "b", "c"] and not service.plain
    for _ in range(5):
        clock.advance(99.0)  # sliding
        assert {client: bound(service, client) for client in homes} == homes
    assert service.binding is not None and len(service.binding) == 3


def test_a_client_that_stayed_away_is_anybody(clock: Clock) -> None:
    service = made(clock, "a", "b", affinity=BY_ADDRESS)
    homes = []
    for _ in range(4):
        homes.append(bound(service, "1"))
        clock.advance(101.0)
    assert len(set(homes)) == 2


def test_a_bound_client_stays_while_its_endpoint_drains(clock: Clock) -> None:
    service = headless(clock, "a", "b", affinity=BY_ADDRESS, drain=30.0)
    homes = {bound(service, client): client for client in ("1", "2")}
    service.supply(found("b"), "")
    for _ in range(29):
        clock.advance(1.0)
        assert bound(service, homes["a"]) == "a" and bound(service, "new") == "b"
    clock.advance(2.0)
    assert bound(service, homes["a"]) == "b" and not service.leaving


def test_a_bound_client_moves_for_good_when_its_endpoint_fails(clock: Clock) -> None:
    service = made(clock, "a", "b", affinity=BY_ADDRESS)
    homes = {bound(service, client): client for client in ("1", "2")}
    client, a = homes["a"], named(service, "a")
    assert bound(service, client, tried=(a,)) == "b", "it could not be connected to"
    assert bound(service, client) == "b"
    service.administer("[::b]:80", "disabled")
    assert bound(service, client) == "a"


def test_a_full_endpoint_keeps_its_clients(clock: Clock) -> None:
    service = made(clock, "a", "b", affinity=BY_ADDRESS, **limited(1))
    home = bound(service, "1")
    service.enter(member(service, home))
    assert bound(service, "1") != home
    service.leave(member(service, home))
    assert bound(service, "1") == home


def test_a_reload_keeps_who_is_bound(clock: Clock) -> None:
    service = made(clock, "a", "b", "c", affinity=BY_ADDRESS)
    homes = {str(n): bound(service, str(n)) for n in range(9)}
    longer = model.Affinity(client_ip=model.ClientIp(timeout=500.0))
    service.apply(config("a", "b", "c", affinity=longer))
    clock.advance(400.0)
    assert {client: bound(service, client) for client in homes} == homes
    service.apply(config("a", "b", "c"))
    assert service.plain and service.binding is None


def test_a_cookie_binds(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "time", lambda: clock.now)
    service = headless(clock, "a", "b", "c", affinity=BY_COOKIE)
    first = service.pick_for("1", asked(), 0)
    assert first is not None
    cookie = service.cookie_for(asked(), first, (), True)
    assert cookie.startswith(b"edge=") and b"HttpOnly" in cookie and b"Secure" in cookie and b"SameSite=Lax" in cookie
    assert first.endpoint.host.encode() not in cookie
    for _ in range(5):
        assert service.pick_for("2", asked(cookie), 0) is first, "whatever the address"
        assert service.cookie_for(asked(cookie), first, (), True) == b"", "it has one"
    other = headless(clock, "c", "b", "a", affinity=BY_COOKIE)
    again = other.pick_for("1", asked(cookie), 0)
    assert again is not None and again.address == first.address, "another process, the same secret"
    clock.advance(1900.0)
    assert service.cookie_for(asked(cookie), first, (), True) != b"", "due for a new one"
    clock.advance(1800.0)
    assert {service.pick_for("2", asked(cookie), 0) for _ in range(3)} != {first}, "over"


def test_a_cookie_of_a_draining_endpoint_holds(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "time", lambda: clock.now)
    service = headless(clock, "a", "b", affinity=BY_COOKIE)
    a = member(service, "a")
    cookie = service.cookie_for(asked(), a, (), False)
    assert b"Secure" not in cookie
    service.supply(found("b"), "")
    assert service.pick_for("1", asked(cookie), 0) is a
    assert service.cookie_for(asked(cookie), a, (), False) == b""
    clock.advance(31.5)
    b = service.pick_for("1", asked(cookie), 0)
    assert b is member(service, "b") and service.cookie_for(asked(cookie), b, (), False)


def test_a_forged_cookie_is_none(clock: Clock) -> None:
    service = made(clock, "a", "b", affinity=BY_COOKIE)
    for value in (b"edge=", b"edge=AAAA", b"edge=" + b"A" * 4000, b"edge=\xff\xfe", b"edge"):
        assert service.pick_for("1", asked(value), 0) is not None
        assert service.cookie_for(asked(value), named(service, "a"), (), False)


# ---- slow start

def shares(service: Service, count: int = 3000) -> dict[str, float]:
    return {name: number / count for name, number in Counter(picks(service, count)).items()}


@pytest.mark.parametrize("kind", ["round-robin", "random", "source-hash"])
def test_a_new_endpoint_starts_slowly(clock: Clock, kind: Any) -> None:
    service = headless(clock, "a", "b", slow_start=100.0, balance=model.Balance(kind))
    assert min(shares_by_key(service).values()) > 0.4, "the first ones are all alike"
    service.supply(found("a", "b", "c"), "")
    got = shares_by_key(service)
    assert 0.02 < got["c"] < 0.08 and abs(got["a"] - got["b"]) < 0.06
    clock.advance(50.5)
    assert 0.16 < shares_by_key(service)["c"] < 0.27
    clock.advance(50.0)
    assert 0.29 < shares_by_key(service)["c"] < 0.38 and clock.open() == 0


def shares_by_key(service: Service, count: int = 3000) -> dict[str, float]:
    rng = random.Random(5)
    chosen = Counter(m.endpoint.host[2:] for _ in range(count) if (m := service.pick(rng.getrandbits(64))))
    return {name: number / count for name, number in chosen.items()}


def test_a_recovered_endpoint_starts_slowly(clock: Clock) -> None:
    service = made(clock, "a", "b", slow_start=100.0, eject=model.Eject(1, 10.0, 5.0))
    service.failed(named(service, "a"), Kind.RESET)
    clock.advance(5.1)
    assert shares(service)["a"] < 0.15
    clock.advance(101.0)
    assert abs(shares(service)["a"] - 0.5) < 0.01


# ---- found by review

def test_who_was_down_when_it_left_is_up_when_nobody_probes_any_more(clock: Clock) -> None:
    service = made(clock, "a", "b", health=PROBED)
    for _ in range(3):
        service.missed(named(service, "a"), "connection refused")
    service.apply(config("b", health=PROBED))
    service.apply(config("b"))
    service.apply(config("a", "b"))
    assert states(service) == {"a": "up", "b": "up"}


def test_an_ejection_that_an_admin_has_covered_ends_too(clock: Clock) -> None:
    service = made(clock, "a", "b", affinity=BY_ADDRESS, eject=model.Eject(3, 10.0, 10.0))
    service.administer("[::a]:80", "draining")
    service.failed(named(service, "a"), Kind.CONNECT_REFUSED)
    service.administer("[::a]:80", "")
    assert states(service)["a"] == "ejected"
    clock.advance(10.1)
    assert states(service)["a"] == "up" and clock.open() == 0


def test_the_time_to_drain_is_over_though_one_connection_lasts(clock: Clock) -> None:
    service = headless(clock, "a", "b", affinity=BY_ADDRESS, drain=5.0)
    homes = {bound(service, client): client for client in ("1", "2")}
    a = member(service, "a")
    service.administer(a.address, "draining")
    clock.advance(90.0)
    assert bound(service, homes["a"]) == "a", "an admin's drain has no end"
    service.enter(a)
    service.supply(found("b"), "")
    clock.advance(4.0)
    assert bound(service, homes["a"]) == "a", "the time begins when it leaves"
    clock.advance(2.0)
    assert bound(service, homes["a"]) == "b" and states(service)["a"] == "draining"
    service.leave(a)
    clock.advance(1.1)
    assert states(service) == {"b": "up"} and clock.open() == 0


def test_a_full_backup_is_waited_for_rather_than_asking_who_was_ejected(clock: Clock) -> None:
    service = made(clock, "a", "b", "c?", health=PROBED, eject=model.Eject(1, 10.0, 10.0), **limited(1, 1))
    service.failed(named(service, "a"), Kind.RESET)
    for _ in range(3):
        service.missed(named(service, "b"), "no answer")
    assert picks(service, 1) == "c"
    service.enter(named(service, "c"))
    assert service.pick() is None and service.unavailable().kind is Kind.QUEUE_FULL


def test_beginning_to_probe_is_told(clock: Clock) -> None:
    service = made(clock, "a")
    service.apply(config("a", health=PROBED))
    assert [event.text for event in service.events.ring] == ["checking: not probed yet"]


def test_no_ramp_no_picker_of_before(clock: Clock) -> None:
    service = headless(clock, "a", "b", balance=model.Balance("source-hash"))
    service.supply(found("a", "b", "c"), "")
    service.apply(config(dns=(NAME,), balance=model.Balance("source-hash"), slow_start=10.0))
    service.supply(found("a", "b", "c", "d"), "")
    assert set(shares_by_key(service)) >= {"a", "b", "c"}


def test_a_name_that_stands_for_others_each_second_leaves_few_behind(clock: Clock) -> None:
    service = headless(clock, "a", affinity=BY_ADDRESS, drain=1000.0)
    for n in range(30):
        service.supply([target(f"10.0.{n}.{k}", 80) for k in range(50)], "")
        clock.advance(1.0)
    assert len(service.leaving) <= 150
    assert clock.open() == 1


def test_a_retired_service_judges_nobody(clock: Clock) -> None:
    service = made(clock, "a", "b", eject=model.Eject(1, 10.0, 10.0))
    a = named(service, "a")
    service.enter(a)
    service.retire()
    service.failed(a, Kind.RESET)
    service.leave(a)
    assert clock.open() == 0
