"""The lazy timer: early firings, moves to and fro, the horizon. On both loops, and on a clock of our own."""
from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import pytest

from edgeproxy.net import deadline as deadline_module
from edgeproxy.net.deadline import HORIZON, YOUNG, Deadline, Nursery
from net.rig import Run, both_loops, until


class Clock:
    """Time and timers of the test's own: `call_later` as a loop has it, `advance` instead of waiting."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, int, Callable[[], None], Clock.Timer]] = []
        self.armed = 0

    class Timer:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    def call_later(self, delay: float, call: Callable[[], None]) -> Clock.Timer:
        assert delay >= 0.0
        timer = self.Timer()
        self.armed += 1
        self.timers.append((self.now + delay, self.armed, call, timer))
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            self.timers = sorted(t for t in self.timers if not t[3].cancelled)
            if not self.timers or self.timers[0][0] > end:
                break
            self.now, _, call, _ = self.timers.pop(0)
            call()
        self.now = end


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadline_module, "monotonic", lambda: clock.now)
    return clock


def made(clock: Clock) -> tuple[Deadline, list[float]]:
    expired: list[float] = []
    loop: Any = clock
    return Deadline(loop, lambda: expired.append(clock.now)), expired


def test_it_expires_once(clock: Clock) -> None:
    deadline, expired = made(clock)
    deadline.set(clock.now + 2.0)
    clock.advance(1.9)
    assert expired == []
    clock.advance(10.0)
    assert expired == [1002.0]
    assert not clock.timers


def test_it_expires_exactly_though_it_looks_at_the_horizon_first(clock: Clock) -> None:
    deadline, expired = made(clock)
    deadline.set(clock.now + 3 * HORIZON + 1.0)
    clock.advance(100.0)
    assert expired == [1000.0 + 3 * HORIZON + 1.0]


def test_moving_it_to_and_fro_arms_no_timer(clock: Clock) -> None:
    deadline, expired = made(clock)
    for _ in range(1000):
        deadline.set(clock.now + 60.0)
        deadline.set(clock.now + 55.0)
        clock.advance(0.001)
    assert clock.armed <= 2 and expired == []


def test_a_nearer_deadline_is_not_missed(clock: Clock) -> None:
    deadline, expired = made(clock)
    deadline.set(clock.now + 60.0)
    deadline.set(clock.now + 0.5)
    clock.advance(1.0)
    assert expired == [1000.5]


def test_never_is_never_and_can_be_taken_back(clock: Clock) -> None:
    deadline, expired = made(clock)
    deadline.set(clock.now + 1.0)
    deadline.set(inf)
    clock.advance(100.0)
    assert expired == [] and not clock.timers
    deadline.set(clock.now + 1.0)
    clock.advance(2.0)
    assert expired == [1101.0]


def test_it_may_be_set_again_from_its_own_call(clock: Clock) -> None:
    times: list[float] = []
    loop: Any = clock

    def expired() -> None:
        times.append(clock.now)
        if len(times) < 3:
            deadline.set(clock.now + 1.0)

    deadline = Deadline(loop, expired)
    deadline.set(clock.now + 1.0)
    clock.advance(10.0)
    assert times == [1001.0, 1002.0, 1003.0]


def test_nothing_after_close(clock: Clock) -> None:
    deadline, expired = made(clock)
    deadline.set(clock.now + 1.0)
    deadline.close()
    deadline.close()
    clock.advance(10.0)
    assert expired == [] and not clock.timers
    deadline.set(clock.now + 1.0)  # a session that goes on after a tunnel
    clock.advance(10.0)
    assert expired == [1011.0]


def test_the_past_is_now(clock: Clock) -> None:
    deadline, expired = made(clock)
    deadline.set(clock.now - 5.0)
    assert expired == [], "never from within set"
    clock.advance(0.0)
    assert expired == [1000.0]


@both_loops
def test_on_a_real_loop_it_is_never_early(run: Run) -> None:
    async def main() -> None:
        ends: list[float] = []
        deadlines: list[Deadline] = []

        def ended(at: float) -> None:
            ends.append(monotonic() - at)

        for number in range(20):
            at = monotonic() + 0.01 + number * 0.00137
            deadlines.append(Deadline(asyncio.get_running_loop(), partial(ended, at)))
            deadlines[-1].set(at)
        await until(lambda: len(ends) == len(deadlines))
        assert all(0.0 <= late < 2.0 for late in ends)

    run(main)


# ---- the nursery

def young(clock: Clock, nursery: Nursery) -> tuple[Deadline, list[float]]:
    expired: list[float] = []
    loop: Any = clock
    return Deadline(loop, lambda: expired.append(clock.now), nursery), expired


def test_short_lives_share_one_timer(clock: Clock) -> None:
    nursery = Nursery()
    for _ in range(100):
        deadline, _ = young(clock, nursery)
        deadline.set(clock.now + 60.0)
        deadline.set(clock.now + 55.0)
        deadline.close()
    assert clock.armed == 1
    clock.advance(100.0)
    assert clock.armed == 2 and not clock.timers


@pytest.mark.parametrize("after", [0.0, 0.05, YOUNG, 2 * YOUNG, 2 * YOUNG + 0.01, 1.0, 60.0])
@pytest.mark.parametrize("moved", [None, 0.0, 0.05, 0.3, 60.0])
def test_it_expires_at_its_time_wherever_it_grew_up(clock: Clock, after: float, moved: float | None) -> None:
    deadline, expired = young(clock, Nursery())
    clock.advance(0.03)
    deadline.set(clock.now + after)
    at = clock.now + after
    if moved is not None and after > 0.04:
        clock.advance(0.04)
        deadline.set(at := clock.now + moved)
    clock.advance(200.0)
    assert expired == [pytest.approx(at)]


def test_an_ended_one_lets_go_of_its_owner(clock: Clock) -> None:
    class Owner:
        def expired(self) -> None: ...

    owner = Owner()
    gone = weakref.ref(owner)
    loop: Any = clock
    deadline = Deadline(loop, owner.expired, Nursery())
    deadline.set(clock.now + 60.0)
    deadline.end()
    del owner
    assert gone() is None
