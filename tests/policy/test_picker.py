"""Pickers: exact turns, shares, what happens to the shares when an endpoint falls out."""
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.policy.endpoint import Endpoint, EndpointState
from edgeproxy.policy.latency import observe
from edgeproxy.policy.picker import LONGEST, Picker, build_picker, hash_key, smooth

KINDS = ("round-robin", "least-conn", "source-hash", "random", "least-latency", "hash")


def endpoints(*weights: int) -> list[EndpointState]:
    return [EndpointState(Endpoint(f"10.0.{i // 250}.{i % 250}:80"), weight) for i, weight in enumerate(weights)]


def picker(kind: str, states: Sequence[EndpointState], seed: int = 1) -> Picker:
    return build_picker(kind, states, random.Random(seed))


def pick(picker: Picker, key: int = 0) -> EndpointState:
    """As a service does: the first choice, or else the first of the others that is ready."""
    state = picker.first(key)
    if state.ready:
        return state
    return next(s for s in picker.rest(key) if s.ready)


def shares(states: Sequence[EndpointState], take: Callable[[int], EndpointState], n: int) -> list[int]:
    counts = Counter(take(hash_key(b"client %d" % i)).address for i in range(n))
    return [counts[s.address] for s in states]


def chi_square(counts: Sequence[int], weights: Sequence[float]) -> float:
    n, total = sum(counts), sum(weights)
    return sum((count - n * w / total) ** 2 / (n * w / total) for count, w in zip(counts, weights, strict=True))


# the chi-square distribution's 99.9 % points, by degrees of freedom
LIMIT = {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5, 6: 22.5, 8: 26.1, 9: 27.9}


# ---- what holds for every kind

@pytest.mark.parametrize("kind", KINDS)
@given(weights=st.lists(st.integers(0, 6), min_size=1, max_size=9), key=st.integers(0, 2**64 - 1), data=st.data())
def test_every_endpoint_with_a_weight_once_and_no_other(kind: str, weights: list[int], key: int,
                                                        data: st.DataObject) -> None:
    states = endpoints(*weights)
    some = {s for s in states if s.weight}
    if not some:
        with pytest.raises(ValueError, match="weight"):
            picker(kind, states)
        return
    chosen = picker(kind, states)
    for _ in range(4):
        for state in states:
            state.active = data.draw(st.integers(0, 3))
        assert chosen.first(key) in some
        order = list(chosen.rest(key))
        assert len(order) == len(some) and set(order) == some


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_stay_usable_when_only_the_last_of_many_is_ready(kind: str) -> None:
    states = endpoints(*[1] * 300)
    for state in states[:-1]:
        state.ready = False
    chosen = picker(kind, states)
    assert [pick(chosen, hash_key(b"%d" % i)) for i in range(20)] == [states[-1]] * 20


def test_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="tombola"):
        picker("tombola", endpoints(1))


# ---- round robin

def test_weights_interleave() -> None:
    a, b, c = states = endpoints(5, 1, 1)
    chosen = picker("round-robin", states)
    assert [chosen.first(0) for _ in range(14)] == [a, a, b, a, c, a, a] * 2


def test_equal_weights_take_turns_in_file_order() -> None:
    states = endpoints(4, 4, 4)
    chosen = picker("round-robin", states)
    assert [chosen.first(0) for _ in range(6)] == states * 2


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12))
def test_one_round_is_exact_and_even(weights: list[int]) -> None:
    order = smooth(weights)
    total = sum(weights)
    assert len(order) * weights[0] == total * order.count(0)
    for i, weight in enumerate(weights):
        assert order.count(i) * total == weight * len(order)
        for upto in range(len(order)):  # never far from its share on the way
            assert abs(order[:upto].count(i) - upto * weight / total) < len(weights)


def test_big_weights_are_bounded_in_length() -> None:
    order = smooth([1_000_000, 333_333, 1])
    assert len(order) <= LONGEST + 3
    assert order.count(2) == 1
    assert order.count(0) / len(order) == pytest.approx(0.75, abs=0.001)


def test_a_thousand_various_weights_stay_even() -> None:
    weights = [1 + i % 7 for i in range(1000)]
    order = smooth(weights)
    counts = Counter(order)
    assert [counts[i] for i in range(1000)] == weights
    half = Counter(order[:len(order) // 2])
    assert all(abs(half[i] - w / 2) <= 1 for i, w in enumerate(weights))


# ---- an endpoint falls out: exact shares among the rest

@pytest.mark.parametrize("kind", ["round-robin", "least-conn"])
def test_the_neighbour_of_a_dead_endpoint_gets_no_more_than_others(kind: str) -> None:
    states = endpoints(1, 1, 1, 1)
    states[1].ready = False
    chosen = picker(kind, states)
    assert shares(states, lambda key: pick(chosen), 1200) == [400, 0, 400, 400]


@pytest.mark.parametrize("kind", ["round-robin", "least-conn"])
def test_the_rest_shares_by_weight(kind: str) -> None:
    states = endpoints(5, 1, 1, 7)
    states[3].ready = False
    chosen = picker(kind, states)
    assert shares(states, lambda key: pick(chosen), 1400) == [1000, 200, 200, 0]
    states[3].ready, states[0].ready = True, False
    counts = shares(states, lambda key: pick(chosen), 900)
    assert counts[0] == 0 and counts[1] == counts[2] == pytest.approx(100, abs=2)


def test_only_what_was_considered_is_passed_over() -> None:
    a, b, c = states = endpoints(1, 1, 1)
    chosen = picker("round-robin", states)
    b.ready = False
    assert [next(s for s in chosen.rest(0) if s.ready) for _ in range(6)] == [a, c, a, c, a, c]


@pytest.mark.parametrize("kind", ["random", "least-latency", "source-hash"])
def test_the_rest_shares_evenly_by_chance(kind: str) -> None:
    weights = [3, 1, 2, 2, 2]
    states = endpoints(*weights)
    states[2].ready = False
    chosen = picker(kind, states)
    counts = shares(states, lambda key: pick(chosen, key), 20_000)
    assert counts.pop(2) == 0
    assert chi_square(counts, [3, 1, 2, 2]) < (LIMIT[3] if kind != "source-hash" else 30)  # a table's shares: ± 1 %


def test_a_heavy_one_that_is_down_is_passed_over_at_once() -> None:
    states = endpoints(4000, 1, 1)
    states[0].ready = False
    for kind in ("round-robin", "least-conn"):
        chosen = picker(kind, states)
        looked = Counter(s.address for _ in range(1000) for s in [next(s for s in chosen.rest(0) if s.ready)])
        assert looked == {states[1].address: 500, states[2].address: 500}


# ---- least-conn

def test_the_least_loaded_by_weight_wins() -> None:
    a, b, c = states = endpoints(1, 2, 4)
    a.active, b.active, c.active = 2, 3, 7
    chosen = picker("least-conn", states)
    assert [chosen.first(0) for _ in range(3)] == [b, b, b]
    assert list(chosen.rest(0)) == [b, c, a]


def test_ties_are_broken_by_turns() -> None:
    a, b, c = states = endpoints(1, 1, 1)
    a.active, b.active, c.active = 2, 1, 1
    chosen = picker("least-conn", states)
    assert [chosen.first(0) for _ in range(4)] == [b, c, b, c]


def test_idle_endpoints_take_turns_by_weight() -> None:
    states = endpoints(5, 1, 1)
    chosen = picker("least-conn", states)
    assert shares(states, chosen.first, 70) == [50, 10, 10]


def test_held_connections_end_up_by_weight() -> None:
    states = endpoints(1, 2, 3)
    chosen = picker("least-conn", states)
    for _ in range(600):
        chosen.first(0).active += 1
    assert [s.active for s in states] == [100, 200, 300]


# ---- two choices

def test_random_shares_follow_the_weights() -> None:
    states = endpoints(5, 3, 1, 1)
    assert chi_square(shares(states, picker("random", states).first, 20_000), [5, 3, 1, 1]) < LIMIT[3]


def test_the_less_loaded_of_two_wins() -> None:
    states = endpoints(1, 1)
    states[0].active = 1
    chosen = picker("random", states)
    assert sum(chosen.first(0) is states[1] for _ in range(100)) > 95  # the same one four times in a row is rare


def test_load_is_by_weight() -> None:
    states = endpoints(3, 1)
    states[0].active, states[1].active = 4, 2
    chosen = picker("random", states)
    assert sum(chosen.first(0) is states[0] for _ in range(200)) > 150


def test_two_choices_keep_loads_even() -> None:
    states = endpoints(*[1] * 20)
    chosen = picker("random", states)
    for _ in range(20_000):
        chosen.first(0).active += 1
    assert max(s.active for s in states) - 1000 <= 5


def test_the_same_seed_gives_the_same_choices() -> None:
    states = endpoints(1, 2, 3)
    one, other = picker("random", states, 5), picker("random", states, 5)
    assert [one.first(0) for _ in range(50)] == [other.first(0) for _ in range(50)]


def test_one_endpoint_alone() -> None:
    states = endpoints(3)
    for kind in KINDS:
        chosen = picker(kind, states)
        assert chosen.first(7) is states[0] and list(chosen.rest(7)) == states


def test_the_faster_of_two_wins() -> None:
    states = endpoints(1, 1, 1)
    for state, seconds in zip(states, (0.010, 0.011, 0.100), strict=True):
        observe(state, seconds, 0.0)
    chosen = picker("least-latency", states)
    counts = [0, 0, 0]
    for i in range(3000):
        state = chosen.first(0)
        observe(state, (0.010, 0.011, 0.100)[states.index(state)], i / 100)
        counts[states.index(state)] += 1
    assert counts[2] < 60 < 600 < counts[1] < counts[0]


def test_an_endpoint_that_was_slow_once_is_found_again() -> None:
    states = endpoints(1, 1)
    observe(states[0], 0.010, 0.0)
    observe(states[1], 5.0, 0.0)
    chosen = picker("least-latency", states)
    late = []
    for i in range(3000):
        state = chosen.first(0)
        observe(state, 0.010, i / 10)
        late.append(state)
    assert late.index(states[1]) < 1000
    assert 1000 < late[1000:].count(states[1]) + late[1000:].count(states[0])
    assert late[1500:].count(states[1]) > 300


def test_a_new_endpoint_is_tried_but_not_flooded() -> None:
    states = endpoints(1, 1)
    observe(states[0], 0.010, 0.0)
    chosen = picker("least-latency", states)
    assert chosen.first(0) is states[1]
    states[1].active = 1
    assert sum(chosen.first(0) is states[0] for _ in range(100)) > 90
