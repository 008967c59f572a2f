"""Peak EWMA: up at once, down slowly; what is unknown is tried, not flooded."""
from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.policy.endpoint import Endpoint, EndpointState
from edgeproxy.policy.latency import DECAY, cost, faster, observe


def state(latency: float = 0.0, active: int = 0, weight: int = 1) -> EndpointState:
    made = EndpointState(Endpoint("10.0.0.1:80"), weight)
    made.latency, made.active = latency, active
    return made


def test_the_first_value_counts_whole() -> None:
    one = state()
    observe(one, 0.2, 100.0)
    assert one.latency == 0.2 and one.latency_at == 100.0


def test_a_peak_counts_at_once() -> None:
    one = state()
    observe(one, 0.01, 0.0)
    observe(one, 3.0, 0.001)
    assert one.latency == 3.0


def test_a_faster_answer_counts_the_more_the_longer_the_last_is_ago() -> None:
    one = state()
    observe(one, 1.0, 0.0)
    observe(one, 0.0, DECAY)
    assert one.latency == pytest.approx(exp(-1), rel=1e-4)
    observe(one, 0.01, DECAY + 1000.0)
    assert one.latency == pytest.approx(0.01)


def test_no_answer_is_so_fast_that_it_looks_unknown() -> None:
    one = state()
    observe(one, 0.0, 5.0)
    assert one.latency > 0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=30))
def test_never_outside_of_what_was_seen(steps: list[tuple[float, float]]) -> None:
    one, now = state(), 0.0
    for passed, seconds in steps:
        now += passed
        observe(one, seconds, now)
        assert one.latency >= max(seconds, 1e-6) * (1 - 1e-9)
    assert one.latency <= max(max(seconds for _, seconds in steps), 1e-6)


def test_cost_is_latency_times_those_in_flight_by_weight() -> None:
    assert cost(state(0.1)) == pytest.approx(0.1)
    assert cost(state(0.1, active=3)) == pytest.approx(0.4)
    assert cost(state(0.1, active=3, weight=4)) == pytest.approx(0.1)


def test_the_unknown_is_tried_once_at_a_time() -> None:
    known = state(0.001)
    assert faster(known, state()) is not known
    assert faster(known, state(active=1)) is known
    idle, busy = state(active=1), state(active=2)
    assert faster(busy, idle) is idle


def test_equals_keep_the_order_of_chance() -> None:
    a, b = state(0.1), state(0.1)
    assert faster(a, b) is a
    assert faster(state(), b) is not b


def test_only_an_idle_loser_fades() -> None:
    fast, idle, busy = state(0.1), state(1.0), state(1.0, active=1)
    faster(fast, idle)
    faster(busy, fast)
    assert (fast.latency, idle.latency, busy.latency) == (0.1, 0.99, 1.0)
