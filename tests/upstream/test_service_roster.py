"""Members that leave and come back: what is kept of them and what is not; and who is picked among those that are full,
ejected or down. Invented time."""
from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from edgeproxy.config import model
from edgeproxy.errors import Kind
from edgeproxy.policy.endpoint import Endpoint, target
from edgeproxy.upstream import binding, roster
from edgeproxy.upstream.service import Service
from edgeproxy.upstream.shared import Shared
from edgeproxy.upstream.tls import build_tls
from upstream.test_service import Clock, clock, config, limited, made, named, picks
from upstream.test_service_life import (
    BY_ADDRESS,
    BY_COOKIE,
    NAME,
    PROBED,
    asked,
    found,
    headless,
    member,
    shares,
    states,
)

__all__ = ["clock"]  # the fixture

EJECT = model.Eject(1, 10.0, 10.0)
BY_SOURCE = model.Balance("source-hash")


class Opened:
    """A connection with a session of TLS."""

    session = object()


def by_name(*names: str) -> list[Any]:
    """One address, found by each of these names in turn."""
    return [target("::a", 80, name=name) for name in names]


# ---- slow start

def homes(service: Service, count: int = 400) -> list[str]:
    rng = random.Random(7)
    chosen = [service.pick(rng.getrandbits(64)) for _ in range(count)]
    return [m.endpoint.host[2:] for m in chosen if m is not None]


@pytest.mark.parametrize("joining", ["d", "de"])
def test_a_client_stays_where_it_was_until_it_moves_once(clock: Clock, joining: str) -> None:
    """That of a hashing service, when others join. Who does not go to one of those is where it will be at once."""
    before, after = "abc", "abc" + joining
    final = homes(headless(clock, *after, balance=BY_SOURCE))
    service = headless(clock, *before, slow_start=100.0, balance=BY_SOURCE)
    last = homes(service)
    service.supply(found(*after), "")
    for _ in range(102):
        now = homes(service)
        for was, here, there in zip(last, now, final, strict=True):
            assert here == there or here == was and there in joining
        last = now
        clock.advance(1.0)
    assert last == final and set(joining) < set(final) and clock.open() == 0


def test_who_leaves_while_it_starts_slowly_begins_anew_when_it_comes_back(clock: Clock) -> None:
    service = headless(clock, "a", "b", slow_start=100.0)
    service.supply(found("a", "b", "c"), "")
    c = member(service, "c")
    clock.advance(50.5)
    assert 0.0 < c.handicap < 1.0 and 0.16 < shares(service)["c"] < 0.27
    service.supply(found("a", "b"), "")
    assert c.handicap == 0.0
    clock.advance(1.1)
    assert clock.open() == 0, "nobody starts slowly any more"
    service.supply(found("a", "b", "c"), "")
    assert member(service, "c") is c and shares(service)["c"] < 0.1
    clock.advance(101.5)
    assert abs(shares(service)["c"] - 1 / 3) < 0.01 and c.handicap == 0.0 and clock.open() == 0


# ---- probes

def test_probes_that_a_reload_begins_take_nobody_out_that_has_served(clock: Clock) -> None:
    probed = replace(PROBED, initial="down")
    service = made(clock, "a", "b")
    service.apply(config("a", "b", health=probed))
    assert states(service) == {"a": "checking", "b": "checking"} and set(picks(service, 4)) == {"a", "b"}
    service.apply(config("a", "b", "c", health=probed))
    assert states(service)["c"] == "checking" and set(picks(service, 6)) == {"a", "b"}, "it has not served yet"


def test_who_is_ejected_still_when_its_probes_pass_again_has_a_reason(clock: Clock) -> None:
    service = made(clock, "a", "b", health=PROBED, eject=EJECT)
    a = named(service, "a")
    service.failed(a, Kind.CONNECT_REFUSED)
    for _ in range(3):
        service.missed(a, "connection refused")
    assert a.state == "down"
    for _ in range(2):
        service.passed(a)
    assert (a.state, a.reason) == ("ejected", "its probes pass again, but requests have failed")
    assert service.events.ring[-1].text == "ejected for 10 s: its probes pass again, but requests have failed"


# ---- who has left

def test_only_so_many_that_have_left_are_remembered(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "REMEMBERED", 3)
    service = headless(clock, *"12345f")
    old = {name: member(service, name) for name in "12345f"}
    service.supply(found("f"), "")
    service.supply(found(*"12345f"), "")
    assert [name for name in "12345f" if member(service, name) is old[name]] == list("345f"), "the oldest are forgotten"


@pytest.mark.parametrize("affinity", [None, BY_ADDRESS], ids=["without", "with"])
def test_the_idle_connections_of_who_leaves_are_for_those_that_are_bound_to_it(
        clock: Clock, affinity: model.Affinity | None) -> None:
    service = headless(clock, "a", "b", affinity=affinity, drain=30.0)
    a = member(service, "a")
    service.enter(a)
    service.supply(found("b"), "")
    assert service.leaving and a.pool.limit == (0 if affinity is None else 64)
    service.leave(a)
    clock.advance(32.0)
    assert not service.leaving and a.pool.limit == 0


def test_an_address_found_by_another_name_is_connected_to_anew(clock: Clock) -> None:
    settings = config(dns=(NAME,), protocol="https")
    tls = build_tls(settings, {})
    loop, opened = (each for each in (clock, Opened()))  # type: Any, Any
    assert tls is not None
    service = Service(loop, settings, random.Random(1), tls)
    service.supply(by_name("one.example"), "")
    a = member(service, "a")
    pool = a.pool
    tls.opened(a.endpoint, opened)
    service.supply(by_name("one.example"), "")
    assert a.pool is pool and tls.session_for(a.endpoint) is opened.session, "the same name"
    service.supply(by_name("two.example"), "")
    assert member(service, "a") is a and a.endpoint == Endpoint("[::a]:80", "::a", 80, "", "two.example")
    assert a.pool is not pool and (pool.limit, pool.idle) == (0, []), "what is in use is not kept"
    assert a.pool.limit == 64 and tls.session_for(a.endpoint) is None


def test_who_comes_back_is_spoken_to_as_is_said_now(clock: Clock) -> None:
    service = made(clock, "a", "b", "c")
    b, c = named(service, "b"), named(service, "c")
    service.enter(c)
    service.apply(config("a"))
    service.apply(config("a", protocol="h2c"))
    service.apply(config("a", "b", "c", protocol="h2c"))
    assert named(service, "b") is b and named(service, "c") is c
    for each in service.view.members:
        assert isinstance(each.pool, Shared) and each.pool.access is service.access and each.pool.limit == 64


# ---- who is full

def test_a_place_is_waited_for_rather_than_asking_who_was_ejected(clock: Clock) -> None:
    service = made(clock, "a", "b", "c", eject=EJECT, **limited(1))
    a, b, c = (named(service, name) for name in "abc")
    service.failed(c, Kind.RESET)
    service.enter(a)
    assert service.pick(tried=(b,)) is b, "one that is full may be free soon"
    service.enter(b)
    assert service.pick() is None and service.unavailable().kind is Kind.QUEUE_FULL
    service.leave(a)
    assert service.pick() is a


def test_the_limit_holds_for_who_was_ejected(clock: Clock) -> None:
    service = made(clock, "a", "b", eject=EJECT, **limited(2))
    a, b = named(service, "a"), named(service, "b")
    for _ in range(2):
        service.enter(a)
    service.failed(a, Kind.RESET)
    assert service.pick(tried=(b,)) is b
    service.leave(a)
    assert service.pick(tried=(b,)) is a


def test_the_limit_holds_in_a_panic(clock: Clock) -> None:
    service = made(clock, "a", "b", health=PROBED, panic=True, **limited(1))
    a, b = named(service, "a"), named(service, "b")
    for each in (a, b):
        for _ in range(3):
            service.missed(each, "no answer")
    service.enter(a)
    assert set(picks(service, 4)) == {"b"}
    service.enter(b)
    assert service.pick() is None


def test_a_full_endpoint_keeps_the_clients_that_have_its_cookie(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "time", lambda: clock.now)
    service = made(clock, "a", "b", affinity=BY_COOKIE, **limited(1))
    a, b = named(service, "a"), named(service, "b")
    cookie = service.cookie_for(asked(), a, (), False)
    service.enter(a)
    assert service.pick_for("1", asked(cookie), 0) is b
    assert service.cookie_for(asked(cookie), b, (), False) == b"", "for once"
    service.leave(a)
    assert service.pick_for("1", asked(cookie), 0) is a
    assert service.cookie_for(asked(cookie), b, (a,), False).startswith(b"edge="), "it failed: the client moves"
    service.administer(a.address, "disabled")
    assert service.cookie_for(asked(cookie), b, (), False).startswith(b"edge=")
