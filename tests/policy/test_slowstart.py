"""Slow start: the ramp, and that an endpoint which ramps gets its share and no more, whatever the picker."""
from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.policy.endpoint import Endpoint, EndpointState
from edgeproxy.policy.latency import observe
from edgeproxy.policy.picker import Picker, build_picker, hash_key, load
from edgeproxy.policy.slowstart import Ramping, SlowStart, ramping

BY_CHANCE = ("round-robin", "least-conn", "random", "least-latency")
KEYED = ("source-hash", "hash")
# the chi-square distribution's 99.9 % points, by degrees of freedom
LIMIT = {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5, 9: 27.9}


def endpoints(*weights: int) -> list[EndpointState]:
    return [EndpointState(Endpoint(f"10.0.0.{i}:80"), weight) for i, weight in enumerate(weights)]


def at_share(state: EndpointState, share: float) -> None:
    state.handicap = (1 - share) / share


def wrapped(kind: str, states: Sequence[EndpointState], seed: int = 2, before: Picker | None = None) -> Ramping:
    rng = random.Random(seed)
    return ramping(build_picker(kind, states, rng), states, rng, before)


def counts(picker: Picker, states: Sequence[EndpointState], n: int) -> list[int]:
    taken = Counter(picker.first(hash_key(b"client %d" % i)).address for i in range(n))
    return [taken[s.address] for s in states]


def chi_square(found: Sequence[int], weights: Sequence[float]) -> float:
    n, total = sum(found), sum(weights)
    return sum((count - n * w / total) ** 2 / (n * w / total) for count, w in zip(found, weights, strict=True))


# ---- the ramp

def test_from_a_tenth_to_all_in_a_straight_line() -> None:
    slow, (state,) = SlowStart(30.0), endpoints(1)
    assert slow.begin(state, 100.0) and slow.ramping == (state,)
    shares = []
    for passed in (0.0, 10.0, 20.0, 29.99):
        assert slow.update(state, 100.0 + passed)
        shares.append(1 / (1 + state.handicap))
    assert shares == pytest.approx([0.1, 0.4, 0.7, 0.9997])
    assert not slow.update(state, 130.0)
    assert state.handicap == 0.0 and not slow.ramping


def test_without_slow_start() -> None:
    slow, (state,) = SlowStart(0.0), endpoints(1)
    assert not slow.begin(state, 100.0)
    assert state.handicap == 0.0 and not slow.ramping


def test_one_that_did_not_begin() -> None:
    slow, (state,) = SlowStart(30.0), endpoints(1)
    assert not slow.update(state, 100.0) and state.handicap == 0.0


def test_begun_again() -> None:
    slow, (state,) = SlowStart(10.0), endpoints(1)
    slow.begin(state, 0.0)
    slow.update(state, 9.0)
    slow.begin(state, 9.0)
    assert state.handicap == pytest.approx(9.0)
    slow.end(state)
    assert state.handicap == 0.0 and not slow.update(state, 9.5)


def test_a_reload_changes_the_time_of_ramps_under_way() -> None:
    slow, (state,) = SlowStart(10.0), endpoints(1)
    slow.begin(state, 0.0)
    slow.seconds = 100.0
    assert slow.update(state, 50.0) and state.handicap == pytest.approx(1 / 0.55 - 1)
    slow.seconds = 0.0
    assert not slow.update(state, 50.0) and state.handicap == 0.0


@given(st.floats(0.01, 3600.0), st.lists(st.floats(-5, 500), max_size=30))
def test_never_less_than_a_tenth_nor_falling(seconds: float, steps: list[float]) -> None:
    slow, (state,) = SlowStart(seconds), endpoints(1)
    now = last = 0.0
    slow.begin(state, now)
    for step in steps:
        now += step
        slow.update(state, now)
        share = 1 / (1 + state.handicap)
        assert 0.1 - 1e-9 <= share <= 1.0
        assert step < 0 or share >= last - 1e-9
        last = share
    assert 0.05 <= slow.step <= 1.0


# ---- shares

@pytest.mark.parametrize("kind", BY_CHANCE)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_share_times_weight(kind: str, share: float) -> None:
    weights = [3, 2, 1, 2]
    states = endpoints(*weights)
    at_share(states[1], share)
    found = counts(wrapped(kind, states), states, 20_000)
    effective = [3, 2 * share, 1, 2]
    if kind == "least-conn":  # all idle: its turns among the others are exact
        total = sum(effective)
        assert found == pytest.approx([20_000 * w / total for w in effective], rel=0.09)
    assert chi_square(found, effective) < LIMIT[3]


@pytest.mark.parametrize("kind", BY_CHANCE)
def test_two_that_ramp_beside_one_that_does_not(kind: str) -> None:
    states = endpoints(1, 1, 1)
    at_share(states[0], 0.2)
    at_share(states[2], 0.6)
    assert chi_square(counts(wrapped(kind, states), states, 20_000), [0.2, 1, 0.6]) < LIMIT[2]


@pytest.mark.parametrize("kind", [*BY_CHANCE, *KEYED])
def test_where_all_have_just_begun_none_is_spared(kind: str) -> None:
    states = endpoints(2, 1, 1)
    for state in states:
        at_share(state, 0.1)
    limit = 40 if kind in KEYED else LIMIT[2]  # a table's shares: within 1 %
    assert chi_square(counts(wrapped(kind, states), states, 20_000), [2, 1, 1]) < limit


@pytest.mark.parametrize("kind", [*BY_CHANCE, *KEYED])
def test_one_that_ramps_alone_gets_all(kind: str) -> None:
    states = endpoints(1, 0)
    at_share(states[0], 0.1)
    assert counts(wrapped(kind, states), states, 50) == [50, 0]


def test_a_heavy_one_beside_a_light_one_does_not_cost_without_end() -> None:
    states = endpoints(4000, 1)
    at_share(states[0], 0.1)
    found = counts(wrapped("round-robin", states), states, 2000)
    assert found[1] <= 20


def test_round_robin_keeps_the_turns_of_the_others() -> None:
    a, b, c, d = states = endpoints(1, 1, 1, 1)
    at_share(b, 0.1)
    picker = wrapped("round-robin", states)
    others = [s for s in (picker.first(0) for _ in range(400)) if s is not b]
    assert others == [[a, c, d][i % 3] for i in range(len(others))]


@pytest.mark.parametrize("kind", [*BY_CHANCE, *KEYED])
def test_the_rest_is_whole(kind: str) -> None:
    states = endpoints(1, 2, 3, 0)
    at_share(states[1], 0.1)
    order = list(wrapped(kind, states).rest(hash_key(b"x")))
    assert len(order) == 3 and set(order) == set(states[:3])


# ---- with work in flight

def in_flight(kind: str, share: float, concurrency: int, n: int = 10) -> float:
    """What one that ramps holds on average, as part of what each of the others holds."""
    states = endpoints(*[1] * n)
    for state in states:
        observe(state, 0.01, 0.0)
    at_share(states[0], share)
    picker, rng = wrapped(kind, states), random.Random(7)
    open_: deque[EndpointState] = deque()
    held = 0.0
    steps = 20_000
    for step in range(steps):
        if len(open_) >= concurrency:
            at = rng.randrange(len(open_))
            open_[at].active -= 1
            observe(open_[at], 0.01, step / 1000)
            open_[at] = open_[-1]
            open_.pop()
        state = picker.first(0)
        state.active += 1
        open_.append(state)
        if step >= steps // 5:
            held += state is states[0]
    others = (steps * 4 // 5 - held) / (n - 1)
    return held / others


@pytest.mark.parametrize("concurrency", [1, 5, 20, 100, 1000])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_least_conn_gives_a_share_at_any_load(share: float, concurrency: int) -> None:
    assert 0.5 * share <= in_flight("least-conn", share, concurrency) <= 1.6 * share


@pytest.mark.parametrize("kind", ["random", "least-latency"])
@pytest.mark.parametrize("concurrency", [1, 20, 100, 1000])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_two_choices_give_at_most_twice_the_share(kind: str, share: float, concurrency: int) -> None:
    assert 0.5 * share <= in_flight(kind, share, concurrency) <= 2.1 * share


def test_load_counts_what_one_more_would_be() -> None:
    (state,) = endpoints(2)
    assert load(state) == 0.0
    at_share(state, 0.1)
    assert load(state) == pytest.approx(4.5)
    state.active = 9
    assert load(state) == pytest.approx(99 / 2)


# ---- hashing

def where(picker: Picker, n: int = 5000) -> list[EndpointState]:
    return [picker.first(hash_key(b"client %d" % i)) for i in range(n)]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_of_the_keys(share: float) -> None:
    states = endpoints(1, 1, 1, 1, 1)
    plain = where(build_picker("source-hash", states, random.Random(1)))
    at_share(states[2], share)
    ramp = where(wrapped("source-hash", states))
    own = sum(s is states[2] for s in plain)
    assert sum(s is states[2] for s in ramp) / own == pytest.approx(share, abs=0.05)
    assert all(a is b for a, b in zip(plain, ramp, strict=True) if a is not states[2])  # nobody else moves
    away = Counter(b.address for a, b in zip(plain, ramp, strict=True) if a is states[2] is not b)
    assert len(away) == 4 and chi_square(list(away.values()), [1, 1, 1, 1]) < LIMIT[3]


def test_a_client_comes_back_once_and_stays() -> None:
    states = endpoints(1, 1, 1, 1)
    back = states[1]
    plain = build_picker("source-hash", states, random.Random(1))
    down = [next(s for s in plain.rest(hash_key(b"client %d" % i)) if s is not back) if home is back else home
            for i, home in enumerate(where(plain))]
    slow = SlowStart(10.0)
    slow.begin(back, 0.0)
    picker = ramping(plain, states, random.Random(1))
    last = down
    for step in range(101):
        slow.update(back, step / 10)
        picker.refresh()
        now = where(picker)
        for one, other in zip(last, now, strict=True):
            assert one is other or other is back  # from where it was while that was down, to its own, and no further
        last = now
    assert last == where(plain)


def test_a_client_of_one_that_joins_stays_until_it_moves_there() -> None:
    states = endpoints(1, 1, 1, 1)
    new = states[3]
    old = build_picker("source-hash", states[:3], random.Random(1))
    plain = build_picker("source-hash", states, random.Random(1))
    final = where(plain)
    at_share(new, 0.1)
    during = where(ramping(plain, states, random.Random(1), old))
    for before, now, after in zip(where(old), during, final, strict=True):
        if after is new:
            assert now in (before, new)
        else:
            assert now is after


def test_a_client_goes_back_to_nobody_that_has_left_or_starts_slowly_itself() -> None:
    """One joins beside another that ramps; one of those that were there before has left since."""
    ramps, steady, left, new = states = endpoints(1, 1, 1, 1)
    old = build_picker("source-hash", [ramps, steady, left], random.Random(1))
    now = [ramps, steady, new]
    plain = where(build_picker("source-hash", now, random.Random(1)))
    at_share(ramps, 0.1)
    at_share(new, 0.1)
    during = where(ramping(build_picker("source-hash", now, random.Random(1)), now, random.Random(1), old))
    assert left not in during and left in where(old)
    moved = [(home, here) for home, here in zip(plain, during, strict=True) if home is not here]
    assert {home for home, _ in moved} == {ramps, new}
    found = Counter(here.address for here in during)
    for state in (ramps, new):
        assert found[state.address] < 0.2 * plain.count(state), "a tenth of its own, and a tenth of what others lack"
    assert sum(found.values()) == len(plain) and set(found) == {s.address for s in states if s is not left}


def test_every_process_moves_the_same_keys() -> None:
    states = endpoints(1, 1, 1)
    at_share(states[0], 0.3)
    assert where(wrapped("source-hash", states, 1)) == where(wrapped("source-hash", states[::-1], 2))
