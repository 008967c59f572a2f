"""When endpoints are probed: by a clock of the test's own, with endpoints that answer as it says."""
from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest

from edgeproxy.config import model
from edgeproxy.net.poller import Poller
from edgeproxy.policy.endpoint import CHECKING, DOWN, UP, Endpoint, Target
from edgeproxy.upstream.access import Access
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.probing import Probing, Spacing
from edgeproxy.upstream.service import Service
from fakes import accepted, back, ok
from net.rig import Endpoint as Place
from net.rig import Run, both_loops, until

INTERVAL = 2.0
TCP = model.Health(tcp=model.TcpProbe(), interval=INTERVAL)


class Clock(asyncio.AbstractEventLoop):
    """A loop that has timers only, and a time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self.booked = 0

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
                   ) -> asyncio.TimerHandle:
        assert delay >= 0
        handle = asyncio.TimerHandle(self.now + delay, callback, args, self)
        self.booked += 1
        heapq.heappush(self.timers, (handle.when(), self.booked, handle))
        return handle

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end:
            self.now, _, handle = heapq.heappop(self.timers)
            if not handle.cancelled():
                handle._run()
        self.now = end

    @property
    def waiting(self) -> int:
        return sum(not handle.cancelled() for _, _, handle in self.timers)


class Script:
    """What the endpoints answer, and when they were asked. Stands in for `Questions`."""

    def __init__(self, stage: Stage, health: model.Health, access: Access) -> None:
        self.stage = stage
        self.health = health
        self.access = access

    def begin(self, endpoint: Endpoint, done: Callable[[str | None], None]) -> Asked:
        self.stage.asked.append((self.stage.clock.now, endpoint.address, endpoint.name))
        return Asked(self.stage, done, self.stage.answers.get(endpoint.address, ""))

    def forget(self, endpoint: Endpoint) -> None:
        self.stage.forgotten.append(endpoint.address)


class Asked:
    def __init__(self, stage: Stage, done: Callable[[str | None], None], why: str | None) -> None:
        self.stage = stage
        stage.under_way += 1
        self.over = False
        self.timer = stage.clock.call_later(stage.takes, self._answer, done, why)

    def _answer(self, done: Callable[[str | None], None], why: str | None) -> None:
        self._end()
        done(why)

    def _end(self) -> None:
        assert not self.over
        self.over = True
        self.stage.under_way -= 1

    def cancel(self) -> None:
        self._end()
        self.timer.cancel()


class Stage:
    """A service, its probing, and a clock."""

    def __init__(self, count: int = 1, health: model.Health | None = TCP, takes: float = 0.01, poller: Any = None,
                 spacing: Spacing | None = None, clock: Clock | None = None, **service: Any) -> None:
        self.clock = clock or Clock()
        self.takes = takes
        self.asked: list[tuple[float, str, str]] = []
        self.answers: dict[str, str | None] = {}
        self.forgotten: list[str] = []
        self.composed: list[Script] = []
        self.under_way = 0
        self.began = self.clock.now
        config = model.Service("back", tuple(model.EndpointAddress("10.0.0.1", n + 1) for n in range(count)), health=health,
                               **service)
        self.service = Service(self.clock, config, random.Random(1))
        self.probing = Probing(self.clock, poller, self.service, random.Random(2), spacing, self._compose)
        self.service.followed = self.probing.follow

    def _compose(self, loop: asyncio.AbstractEventLoop, poller: Poller, config: model.Service, access: Access) -> Script:
        assert config.health is not None
        self.composed.append(Script(self, config.health, access))
        return self.composed[-1]

    @property
    def times(self) -> list[float]:
        return [at - self.began for at, _, _ in self.asked]

    def of(self, address: str) -> list[float]:
        return [at - self.began for at, asked, _ in self.asked if asked == address]

    def member(self, port: int = 1) -> Member:
        member = self.service.member(f"10.0.0.1:{port}")
        assert member is not None
        return member

    def reload(self, **parts: Any) -> None:
        self.service.apply(replace(self.service.config, **parts))
        self.probing.follow()


def gaps(times: list[float]) -> list[float]:
    return [b - a for a, b in zip(times, times[1:], strict=False)]


def test_the_first_at_once_then_every_interval_more_or_less() -> None:
    stage = Stage()
    assert stage.asked == [] and stage.member().state == CHECKING
    stage.clock.advance(0)
    assert stage.times == [0.0]
    stage.clock.advance(400.0)
    between = gaps(stage.times)
    assert len(between) > 150 and all(0.9 * INTERVAL <= gap <= 1.1 * INTERVAL for gap in between)
    assert min(between) < 0.92 * INTERVAL and max(between) > 1.08 * INTERVAL
    assert sum(between) / len(between) == pytest.approx(INTERVAL, rel=0.02)
    assert stage.member().state == UP


def test_an_answer_that_takes_long_does_not_slow_them_down() -> None:
    stage = Stage(takes=1.0)
    stage.clock.advance(200.0)
    assert sum(gaps(stage.times)) / len(gaps(stage.times)) == pytest.approx(INTERVAL, rel=0.05)


def test_never_two_at_once_even_if_one_takes_longer_than_the_interval() -> None:
    stage = Stage(takes=5.0)
    for _ in range(1000):
        stage.clock.advance(0.1)
        assert stage.under_way <= 1
    assert all(gap == pytest.approx(5.0) for gap in gaps(stage.times))


@pytest.mark.parametrize(("count", "apart"), [(100, 0.001), (1000, 0.001), (8000, INTERVAL / 8000)])
def test_many_that_come_together_come_one_after_the_other(count: int, apart: float) -> None:
    stage = Stage(count)
    stage.clock.advance(INTERVAL)
    firsts = [stage.of(m.address)[0] for m in stage.service.view.members[:300]]
    assert firsts == pytest.approx([n * apart for n in range(min(count, 300))])
    assert max(at for at in stage.times) <= INTERVAL
    stage.clock.advance(5 * INTERVAL)  # and they do not come together later
    last = sorted(stage.times)[-count // 2:]
    assert sum(1 for gap in gaps(last) if gap == 0) < count / 100


def test_services_that_come_together_take_turns() -> None:
    clock, spacing = Clock(), Spacing()
    stages = [Stage(1, clock=clock, spacing=spacing) for _ in range(20)]
    clock.advance(1.0)
    assert sorted(stage.times[0] for stage in stages) == pytest.approx([n * 0.001 for n in range(20)])


def test_who_would_have_to_wait_longer_than_an_interval_is_spread_over_it() -> None:
    clock, spacing = Clock(), Spacing()
    spacing.take(clock.now, 60.0)  # thousands have come just before
    stage = Stage(200, clock=clock, spacing=spacing)
    stage.clock.advance(INTERVAL)
    firsts = sorted(stage.of(m.address)[0] for m in stage.service.view.members)
    assert firsts[0] < 0.1 * INTERVAL and firsts[-1] > 0.9 * INTERVAL and max(gaps(firsts)) < 0.1 * INTERVAL
    assert len(set(firsts)) == 200


def test_slower_while_it_stays_down_for_the_same_reason() -> None:
    stage = Stage()
    stage.answers["10.0.0.1:1"] = "connection refused"
    stage.clock.advance(5.0)
    assert stage.member().state == DOWN and stage.member().reason == "3 probes in a row failed: connection refused"
    stage.clock.advance(200.0)
    slow = [round(gap / INTERVAL) for gap in gaps(stage.times)]
    assert slow[:9] == [1, 1, 1, 2, 3, 4, 5, 5, 5] and set(slow[9:]) == {5}
    stage.answers["10.0.0.1:1"] = "status 503, wanted 200-399"  # it is coming back
    stage.asked.clear()
    stage.clock.advance(40.0)
    assert [round(gap / INTERVAL) for gap in gaps(stage.times)][:4] == [1, 2, 3, 4]
    stage.answers["10.0.0.1:1"] = ""
    stage.clock.advance(10.0)
    stage.asked.clear()
    stage.clock.advance(20.0)
    assert stage.member().state == UP and {round(gap / INTERVAL) for gap in gaps(stage.times)} == {1}


def test_what_fails_but_is_not_down_is_not_slowed() -> None:
    stage = Stage(health=replace(TCP, fall=1000))
    stage.answers["10.0.0.1:1"] = "no"
    stage.clock.advance(100.0)
    assert {round(gap / INTERVAL) for gap in gaps(stage.times)} == {1} and stage.member().state == CHECKING


def test_a_fault_of_the_proxy_is_nobody_s_evidence() -> None:
    stage = Stage()
    stage.answers["10.0.0.1:1"] = None
    stage.clock.advance(30.0)
    assert stage.member().proven is None and {round(gap / INTERVAL) for gap in gaps(stage.times)} == {1}


def test_members_come_and_go() -> None:
    stage = Stage(2)
    stage.clock.advance(3.0)
    stage.asked.clear()
    stage.service.supply([Target(Endpoint("10.0.0.9:1", "10.0.0.9", 1), 1, False)], "")
    stage.clock.advance(0)
    assert [address for _, address, _ in stage.asked] == ["10.0.0.9:1"]
    stage.service.supply([], "")
    assert stage.forgotten == ["10.0.0.9:1"]
    stage.asked.clear()
    stage.clock.advance(20.0)
    assert {address for _, address, _ in stage.asked} == {"10.0.0.1:1", "10.0.0.1:2"}


def test_who_leaves_with_work_under_way_is_probed_on() -> None:
    stage = Stage(2)
    stage.clock.advance(3.0)
    stage.member(2).active = 1
    stage.reload(endpoints=stage.service.config.endpoints[:1])
    assert list(stage.service.leaving) == ["10.0.0.1:2"]
    stage.asked.clear()
    stage.clock.advance(5.0)
    assert len(stage.of("10.0.0.1:2")) >= 2 and stage.forgotten == []
    stage.service.leaving["10.0.0.1:2"].active = 0
    stage.clock.advance(2.0)
    assert stage.service.leaving == {} and stage.forgotten == ["10.0.0.1:2"]


def test_gone_while_its_probe_is_under_way() -> None:
    stage = Stage(2, takes=0.5)
    stage.clock.advance(0.2)
    assert stage.under_way == 2
    stage.reload(endpoints=stage.service.config.endpoints[:1])
    assert stage.under_way == 1
    stage.clock.advance(1.0)
    assert stage.member().state == UP


def test_an_endpoint_by_another_name_is_asked_anew() -> None:
    stage = Stage(0)
    stage.service.supply([Target(Endpoint("10.0.0.1:1", "10.0.0.1", 1, "", "a"), 1, False)], "")
    stage.clock.advance(0.5)
    stage.service.supply([Target(Endpoint("10.0.0.1:1", "10.0.0.1", 1, "", "b"), 1, False)], "")
    stage.clock.advance(0.1)
    assert [name for _, _, name in stage.asked] == ["a", "b"] and stage.member().state == UP


def test_new_settings_hold_at_once_and_forget_nothing() -> None:
    stage = Stage(2)
    stage.answers["10.0.0.1:2"] = "no"
    stage.clock.advance(60.0)
    assert [stage.member(n).state for n in (1, 2)] == [UP, DOWN]
    stage.asked.clear()
    stage.reload(health=replace(TCP, interval=30.0, http=model.HttpProbe(), tcp=None))
    stage.began = stage.clock.now
    assert [stage.member(n).state for n in (1, 2)] == [UP, DOWN]
    stage.clock.advance(29.0 - 3.0)
    assert stage.times == pytest.approx([0.0, 0.001])
    assert [script.health.interval for script in stage.composed] == [2.0, 30.0]
    stage.clock.advance(400.0)
    assert all(27.0 <= gap <= 33.0 for gap in gaps(stage.of("10.0.0.1:1")))


def test_a_reload_that_changes_nothing_of_it_disturbs_nothing() -> None:
    stage, other, rng = Stage(3), Stage(3), random.Random(3)
    for _ in range(50):
        stage.clock.advance(0.7)
        stage.reload(limits=model.ServiceLimits(per_endpoint=rng.randrange(5)))
    other.clock.advance(35.0)
    assert stage.asked == other.asked and len(stage.composed) == 1


def test_another_protocol_is_asked_by_at_once() -> None:
    stage = Stage()
    stage.clock.advance(0.5)
    stage.reload(protocol="h2c")
    stage.clock.advance(0)
    assert len(stage.asked) == 2 and [s.access.multiplexed for s in stage.composed] == [False, True]


def test_without_probes_and_with_them_again() -> None:
    stage = Stage(2, takes=0.5)
    stage.clock.advance(0.2)
    stage.reload(health=None)
    assert stage.under_way == 0 and stage.clock.waiting == 0 and stage.member().state == UP
    stage.clock.advance(100.0)
    assert len(stage.asked) == 2
    stage.reload(health=TCP)
    assert stage.member().state == CHECKING
    stage.clock.advance(1.0)
    assert len(stage.asked) == 4 and stage.member().state == UP


def test_closed_it_asks_no_more() -> None:
    stage = Stage(3, takes=0.5)
    stage.clock.advance(2.1)
    assert stage.under_way
    stage.probing.close()
    assert (stage.under_way, stage.clock.waiting) == (0, 0)
    stage.probing.close()
    stage.reload(endpoints=())
    stage.probing.follow()
    assert stage.clock.waiting == 0


def test_a_fault_where_a_result_is_told_does_not_end_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()

    def broken(member: Member) -> None:
        raise RuntimeError("a fault of the proxy")

    stage.probing._service = broken_service = _Broken(stage.service, broken)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            stage.clock.advance(3.0)
    assert len(stage.asked) == 3 and broken_service.told == 3


class _Broken:
    def __init__(self, service: Service, broken: Callable[[Member], None]) -> None:
        self.config, self.access, self.view, self.leaving = service.config, service.access, service.view, service.leaving
        self.broken = broken
        self.told = 0

    def passed(self, member: Member) -> None:
        self.told += 1
        self.broken(member)

    def missed(self, member: Member, why: str) -> None:
        raise AssertionError


# ---- with real endpoints

@both_loops
def test_real_probes_of_a_real_service(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        poller = Poller(loop)
        place = Place()
        health = model.Health(http=model.HttpProbe("/ok"), interval=0.02, fall=2, rise=2)
        service = Service(loop, back(place, health=health), random.Random(1))
        probing = Probing(loop, poller, service, random.Random(1))
        service.followed = probing.follow
        member = service.view.members[0]
        for answer, state in ((ok(b""), UP), (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", DOWN), (ok(b""), UP)):
            while member.state != state:
                talk = await accepted(place)
                assert (await talk.serve(answer)).start == "GET /ok HTTP/1.1"
                await talk.ended()
                talk.close()
                await until(lambda: len(probing._rounds) == 1 and probing._rounds[member].probe is None)
        assert (member.active, member.total, member.pool.idle) == (0, 0, [])
        probing.close()
        place.close()
        poller.close()

    run(main)
