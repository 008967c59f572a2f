"""Passive health, by an invented clock."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.policy.endpoint import Endpoint, EndpointState
from edgeproxy.policy.health import LONGEST, PassiveHealth


@pytest.fixture
def state() -> EndpointState:
    return EndpointState(Endpoint("10.0.0.1:80"))


@pytest.fixture
def health() -> PassiveHealth:
    return PassiveHealth(failures=3, within=10.0, duration=20.0)


def taken(state: EndpointState) -> bool:
    """Whether it takes traffic (asked anew each time: a type checker would remember the last answer)."""
    return state.ready


def eject(health: PassiveHealth, state: EndpointState, now: float) -> None:
    assert [health.failed(state, now, 1) for _ in range(3)] == [False, False, True]


def test_failures_within_the_time_eject(health: PassiveHealth, state: EndpointState) -> None:
    assert not health.failed(state, 100.0, 1)
    assert not health.failed(state, 105.0, 1) and taken(state)
    assert health.failed(state, 109.9, 1)
    assert not taken(state)
    assert state.ejected_until == pytest.approx(129.9)
    assert (state.reason, state.since, state.ejections) == ("3 failures within 10 s", 109.9, 1)


def test_failures_too_far_apart_do_not(health: PassiveHealth, state: EndpointState) -> None:
    assert not any(health.failed(state, now, 1) for now in (0.0, 5.0, 10.0, 15.0, 20.0, 25.0))
    assert taken(state)


def test_a_success_between_them_changes_nothing(health: PassiveHealth, state: EndpointState) -> None:
    health.failed(state, 1.0, 1)
    health.failed(state, 2.0, 1)
    health.succeeded(state)
    assert health.failed(state, 4.0, 1)


def test_never_when_no_other_is_ready(health: PassiveHealth, state: EndpointState) -> None:
    assert not any(health.failed(state, now / 10, 0) for now in range(50))
    assert taken(state) and len(state.failures) == 3
    assert health.failed(state, 5.0, 1)  # as soon as there is another one, what was remembered counts


def test_zero_failures_means_never(state: EndpointState) -> None:
    never = PassiveHealth(0, 10.0, 10.0)
    assert not any(never.failed(state, 1.0, 5) for _ in range(10)) and state.failures == []


def test_one_failure_may_be_enough(state: EndpointState) -> None:
    assert PassiveHealth(1, 10.0, 10.0).failed(state, 1.0, 5)


def test_back_when_the_time_is_over(health: PassiveHealth, state: EndpointState) -> None:
    eject(health, state, 100.0)
    assert not health.restore(state, 119.99) and not taken(state)
    assert health.restore(state, 120.0)
    assert taken(state) and (state.reason, state.since) == ("its ejection is over", 120.0)
    assert not health.restore(state, 121.0)  # it is in use already


def test_ejections_in_a_row_last_longer_up_to_five_minutes(health: PassiveHealth, state: EndpointState) -> None:
    now, lasted = 0.0, []
    for _ in range(18):
        eject(health, state, now)
        lasted.append(state.ejected_until - now)
        now = state.ejected_until
        assert health.restore(state, now)
    assert lasted == [pytest.approx(min(20.0 * (i + 1), LONGEST)) for i in range(18)]


def test_a_success_ends_the_row(health: PassiveHealth, state: EndpointState) -> None:
    eject(health, state, 0.0)
    health.restore(state, 20.0)
    health.succeeded(state)
    eject(health, state, 30.0)
    assert state.ejected_until == 50.0


def test_what_was_under_way_at_an_ejection_changes_nothing(health: PassiveHealth, state: EndpointState) -> None:
    eject(health, state, 0.0)
    assert not any(health.failed(state, 1.0, 3) for _ in range(5))
    health.succeeded(state)
    assert not taken(state) and (state.ejected_until, state.ejections) == (20.0, 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 8)), max_size=120))
def test_one_is_always_left(events: list[tuple[int, bool, float]]) -> None:
    health = PassiveHealth(2, 10.0, 5.0)
    states = [EndpointState(Endpoint(f"10.0.0.{i}:80")) for i in range(4)]
    now = 0.0
    for i, good, passed in events:
        now += passed
        for state in states:
            health.restore(state, now)
        if good:
            health.succeeded(states[i])
        else:
            health.failed(states[i], now, sum(s.ready for s in states if s is not states[i]))
        assert any(s.ready for s in states)
        assert all(s.ready == (now >= s.ejected_until) for s in states)
