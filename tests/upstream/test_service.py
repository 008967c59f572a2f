"""A service: which member is picked, the queue for a place, what a new configuration keeps, ejection. Invented time."""
from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.upstream import binding, condition, roster
from edgeproxy.upstream import service as service_module
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.service import Service


class Clock:
    """A loop that has timers only, and a time that the test moves."""

    class Timer:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, int, Callable[..., None], tuple[Any, ...], Clock.Timer]] = []
        self.count = 0

    def call_later(self, delay: float, call: Callable[..., None], *args: Any) -> Clock.Timer:
        self.count += 1
        timer = self.Timer()
        self.timers.append((self.now + delay, self.count, call, args, timer))
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            self.timers = sorted((t for t in self.timers if not t[4].cancelled), key=lambda t: t[:2])
            if not self.timers or self.timers[0][0] > end:
                break
            self.now, _, call, args, _ = self.timers.pop(0)
            call(*args)
        self.now = end

    def open(self) -> int:
        return sum(not t[4].cancelled for t in self.timers)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (service_module, condition, roster, binding):
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    return clock


def config(*endpoints: str, **parts: Any) -> model.Service:
    """Names of endpoints: `a`, `a*2` with a weight, `a?` a backup."""
    addresses = []
    for text in endpoints:
        name, _, weight = text.rstrip("?").partition("*")
        addresses.append(model.EndpointAddress(f"::{name}", 80, weight=int(weight or 1), backup=text.endswith("?")))
    return model.Service("back", tuple(addresses), **parts)


def made(clock: Clock, *endpoints: str, **parts: Any) -> Service:
    loop: Any = clock
    return Service(loop, config(*endpoints, **parts), random.Random(1))


def named(service: Service, name: str) -> Member:
    return next(m for m in service.view.members if m.endpoint.host == f"::{name}")


def picks(service: Service, count: int, **parts: Any) -> str:
    return "".join(m.endpoint.host[2:] if (m := service.pick(**parts)) else "-" for _ in range(count))


def ready(member: Member) -> bool:
    """`member.ready`, which a type checker would not believe to change."""
    return member.ready


def limited(per_endpoint: int = 0, queue: int = 0, queue_timeout: float = 5.0) -> dict[str, model.ServiceLimits]:
    return {"limits": model.ServiceLimits(per_endpoint, queue, queue_timeout)}


# ---- picking

def test_all_ready_take_turns(clock: Clock) -> None:
    assert picks(made(clock, "a", "b", "c"), 6) in ("abcabc", "bcabca", "cabcab")


def test_no_endpoint_no_pick(clock: Clock) -> None:
    service = made(clock)
    assert service.pick() is None and service.unavailable().kind is Kind.UNAVAILABLE


def test_weight_nothing_takes_nothing(clock: Clock) -> None:
    assert set(picks(made(clock, "a", "b*0"), 6)) == {"a"}
    service = made(clock, "a*0")
    assert service.pick() is None and service.unavailable().kind is Kind.UNAVAILABLE


def test_the_one_that_is_not_ready_is_passed_over(clock: Clock) -> None:
    service = made(clock, "a", "b", "c")
    named(service, "b").ready = False
    assert sorted(picks(service, 6)) == list("aaaccc")


def test_what_was_tried_is_not_tried_again_while_another_is_left(clock: Clock) -> None:
    service = made(clock, "a", "b", "c")
    a, b, c = (named(service, n) for n in "abc")
    assert set(picks(service, 6, tried=(a, b))) == {"c"}
    assert set(picks(service, 6, tried=(a, b, c))) <= set("abc") and service.pick(0, (a, b, c)) is not None
    c.ready = False
    assert set(picks(service, 6, tried=(a, b))) <= set("ab")


def test_the_one_that_is_full_is_passed_over(clock: Clock) -> None:
    service = made(clock, "a", "b", **limited(2))
    for _ in range(2):
        service.enter(named(service, "a"))
    assert set(picks(service, 4)) == {"b"}
    for _ in range(2):
        service.enter(named(service, "b"))
    assert service.pick() is None and service.unavailable().kind is Kind.QUEUE_FULL
    service.leave(named(service, "a"))
    assert picks(service, 1) == "a"


def test_backups_serve_only_when_no_primary_is_ready(clock: Clock) -> None:
    service = made(clock, "a", "b", "x?", "y?")
    assert set(picks(service, 8)) == {"a", "b"}
    named(service, "a").ready = False
    assert set(picks(service, 4)) == {"b"}
    named(service, "b").ready = False
    assert set(picks(service, 4)) == {"x", "y"}
    named(service, "x").ready = False
    assert set(picks(service, 4)) == {"y"}


def test_full_primaries_are_no_reason_for_backups(clock: Clock) -> None:
    service = made(clock, "a", "x?", **limited(1))
    service.enter(named(service, "a"))
    assert service.pick() is None and service.unavailable().kind is Kind.QUEUE_FULL


def test_a_backup_is_better_than_a_primary_that_was_tried(clock: Clock) -> None:
    service = made(clock, "a", "x?")
    assert picks(service, 1, tried=(named(service, "a"),)) == "x"


def test_only_backups_at_all(clock: Clock) -> None:
    assert set(picks(made(clock, "x?", "y?"), 4)) == {"x", "y"}


# ---- the queue

class Guest:
    """Somebody in the queue; enters where it is let in."""

    def __init__(self, service: Service, name: str, log: list[str]) -> None:
        self.name, self.log, self.service = name, log, service
        self.waiter = service.wait(service.pick, self.called)

    def called(self, place: Member | ProxyError) -> None:
        if isinstance(place, ProxyError):
            self.log.append(f"{self.name}: {place.kind.word}")
        else:
            self.service.enter(place)
            self.log.append(f"{self.name}: {place.endpoint.host[2:]}")


def crowded(clock: Clock, queue: int = 3) -> tuple[Service, list[str], list[Guest]]:
    service = made(clock, "a", **limited(1, queue, 5.0))
    service.enter(named(service, "a"))
    log: list[str] = []
    return service, log, [Guest(service, str(n), log) for n in range(queue)]


def test_first_come_first_served(clock: Clock) -> None:
    service, log, _ = crowded(clock)
    for _ in range(4):
        service.leave(named(service, "a"))
    assert log == ["0: a", "1: a", "2: a"]
    assert named(service, "a").active == 0 and clock.open() == 0


def test_a_full_queue_takes_nobody(clock: Clock) -> None:
    service, log, _ = crowded(clock)
    assert Guest(service, "late", log).waiter is None
    assert made(clock, "a").wait(lambda: None, print) is None, "no queue by default"


def test_who_leaves_gives_the_place_up(clock: Clock) -> None:
    service, log, guests = crowded(clock)
    for guest in (guests[1], guests[0], guests[0]):
        assert guest.waiter is not None
        guest.waiter.cancel()
    assert Guest(service, "new", log).waiter is not None
    service.leave(named(service, "a"))
    service.leave(named(service, "a"))
    assert log == ["2: a", "new: a"] and clock.open() == 0


def test_who_waits_too_long_is_told(clock: Clock) -> None:
    service, log, _ = crowded(clock)
    clock.advance(3.0)
    service.leave(named(service, "a"))
    clock.advance(2.0)
    assert log == ["0: a", "1: queue_timeout", "2: queue_timeout"]
    service.leave(named(service, "a"))
    assert len(log) == 3 and service.pick() is not None


def test_who_waited_in_vain_may_queue_again_at_once(clock: Clock) -> None:
    service = made(clock, "a", **limited(1, 1, 5.0))
    service.enter(named(service, "a"))
    log: list[str] = []

    def again(place: Member | ProxyError) -> None:
        log.append("again")
        assert Guest(service, "new", log).waiter is not None

    assert service.wait(service.pick, again) is not None
    clock.advance(5.0)
    service.leave(named(service, "a"))
    assert log == ["again", "new: a"]


def test_a_new_endpoint_or_a_higher_limit_lets_them_in(clock: Clock) -> None:
    service, log, _ = crowded(clock)
    service.apply(config("a", "b", **limited(1, 3)))
    assert log == ["0: b"]
    service.apply(config("a", "b", **limited(0, 3)))
    assert [line[0] for line in log] == ["0", "1", "2"]


def test_an_endpoint_that_recovers_lets_them_in(clock: Clock) -> None:
    service = made(clock, "a", "b", eject=model.Eject(1, 10.0, 10.0), **limited(1, 3, 60.0))
    service.failed(named(service, "b"), Kind.RESET)
    service.enter(named(service, "a"))
    log: list[str] = []
    Guest(service, "0", log)
    clock.advance(9.0)
    assert log == []
    clock.advance(2.0)
    assert log == ["0: b"]


# ---- a new configuration

def test_endpoints_that_stay_keep_their_state(clock: Clock) -> None:
    service = made(clock, "a", "b", eject=model.Eject(1, 10.0, 10.0))
    a, b = named(service, "a"), named(service, "b")
    service.enter(a)
    service.failed(b, Kind.RESET)
    service.apply(config("b", "c", "a*5", eject=model.Eject(1, 10.0, 10.0)))
    assert named(service, "a") is a and named(service, "b") is b
    assert (a.active, a.weight, b.ready) == (1, 5, False)
    clock.advance(11.0)
    assert b.ready, "its time of ejection goes on"


def test_endpoints_that_leave_are_picked_no_more_and_finish(clock: Clock) -> None:
    service = made(clock, "a", "b", eject=model.Eject(1, 10.0, 10.0))
    a = named(service, "a")
    service.enter(a)
    service.failed(a, Kind.RESET)
    service.apply(config("b"))
    assert set(picks(service, 4)) == {"b"} and clock.open() == 1, "one looks whether it has finished"
    service.leave(a)
    assert a.active == 0
    service.apply(config("a", "b"))
    assert named(service, "a") is a and a.state == "ejected", "it comes back as it left"
    clock.advance(10.1)
    assert ready(a) and clock.open() == 0


def test_what_an_endpoint_that_left_still_does_wrong_is_nobodys_business(
        clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    service = made(clock, "a", "b", eject=model.Eject(1, 10.0, 10.0))
    a = named(service, "a")
    service.apply(config("b", eject=model.Eject(1, 10.0, 10.0)))
    service.failed(a, Kind.RESET)
    assert "ejected" not in caplog.text and clock.open() == 0


def test_a_primary_may_become_a_backup(clock: Clock) -> None:
    service = made(clock, "a", "b")
    service.apply(config("a?", "b"))
    assert set(picks(service, 4)) == {"b"}


# ---- ejection

def test_failures_eject_for_a_while(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    service = made(clock, "a", "b", eject=model.Eject(3, 10.0, 5.0))
    a = named(service, "a")
    for _ in range(2):
        service.failed(a, Kind.CONNECT_REFUSED)
    assert ready(a)
    service.failed(a, Kind.CONNECT_REFUSED)
    assert not ready(a) and set(picks(service, 4)) == {"b"}
    assert "[::a]:80" in caplog.text and "connect_refused" in caplog.text
    clock.advance(4.9)
    assert not ready(a)
    clock.advance(0.2)
    assert ready(a) and set(picks(service, 4)) == {"a", "b"}


def test_the_last_ready_one_is_never_ejected(clock: Clock) -> None:
    service = made(clock, "a", "b", "c*0", eject=model.Eject(1, 10.0, 5.0))
    for _ in range(5):
        service.failed(named(service, "a"), Kind.RESET)
        service.failed(named(service, "b"), Kind.RESET)
    assert sorted((named(service, "a").ready, named(service, "b").ready)) == [False, True]


def test_again_in_a_row_is_for_longer_until_a_success(clock: Clock) -> None:
    service = made(clock, "a", "b", eject=model.Eject(1, 10.0, 5.0))
    a = named(service, "a")
    service.failed(a, Kind.RESET)
    clock.advance(5.1)
    assert ready(a)
    service.failed(a, Kind.RESET)
    clock.advance(5.1)
    assert not ready(a)
    clock.advance(5.0)
    assert ready(a)
    service.succeeded(a)
    service.failed(a, Kind.RESET)
    clock.advance(5.1)
    assert ready(a)


def test_a_timer_that_fires_early_does_not_lose_an_endpoint(clock: Clock) -> None:
    """uvloop counts whole milliseconds: a timer may fire a little before its time. It must look again then."""
    service = made(clock, "a", "b", eject=model.Eject(1, 10.0, 5.0))
    a = named(service, "a")
    service.failed(a, Kind.RESET)
    _, _, call, args, timer = clock.timers.pop()
    clock.now += 4.9995
    call(*args)
    clock.advance(600.0)
    assert ready(a)


@pytest.mark.parametrize("kind", ["source-hash", "hash"])
def test_keyed_services_are_known_as_such(clock: Clock, kind: Any) -> None:
    service = made(clock, "a", "b", "c", balance=model.Balance(kind, "path" if kind == "hash" else None))
    assert service.keyed
    chosen = {key: service.pick(key) for key in range(50)}
    assert all(service.pick(key) is member for key, member in chosen.items())
    assert len(set(chosen.values())) == 3


def test_a_real_loop_restores_too() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(loop, config("a", "b", eject=model.Eject(1, 1.0, 0.02)), random.Random(1))
        service.failed(named(service, "a"), Kind.RESET)
        async with asyncio.timeout(5):
            while not named(service, "a").ready:
                await asyncio.sleep(0)

    asyncio.run(main())
