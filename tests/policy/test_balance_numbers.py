"""The promises about shares, as numbers: how exact, how even, and how many clients move when endpoints come and go."""
from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from math import ceil, gcd, sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.policy.endpoint import Endpoint, EndpointState
from edgeproxy.policy.latency import observe
from edgeproxy.policy.picker import Picker, build_picker, hash_key
from edgeproxy.session.hashing import client_key

CLIENTS = [f"198.{18 + i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(10_000)]


def endpoints(*weights: int) -> list[EndpointState]:
    return [EndpointState(Endpoint(f"10.0.0.{i + 1}:80"), weight) for i, weight in enumerate(weights)]


def built(kind: str, states: Sequence[EndpointState], seed: int = 1) -> Picker:
    return build_picker(kind, states, random.Random(seed))


def pick(picker: Picker, key: int = 0) -> EndpointState:
    """As a service does: the first choice, or else the first of the others that is ready."""
    state = picker.first(key)
    return state if state.ready else next(s for s in picker.rest(key) if s.ready)


def limit(free: int, p: float = 0.001) -> float:
    """What chi-square with so many degrees of freedom goes over in `p` of all cases, after Wilson and Hilferty (1931)."""
    return free * (1 - 2 / (9 * free) + NormalDist().inv_cdf(1 - p) * sqrt(2 / (9 * free))) ** 3


def unlikely(counts: Sequence[int], weights: Sequence[float]) -> bool:
    """Whether counts come so far from their weights by chance less often than once in a thousand times."""
    n, total = sum(counts), sum(weights)
    found = sum((count - n * w / total) ** 2 / (n * w / total) for count, w in zip(counts, weights, strict=True))
    return found > limit(len(counts) - 1)


def homes(states: Sequence[EndpointState]) -> list[str]:
    """The endpoint of each client by source-hash."""
    picker = built("source-hash", states)
    return [pick(picker, client_key(client)).address for client in CLIENTS]


def longest_run(order: Sequence[object], what: object) -> int:
    """Of a round that goes on and on: how often `what` comes in a row."""
    longest = run = 0
    for one in [*order, *order]:
        run = run + 1 if one is what else 0
        longest = max(longest, run)
    return min(longest, len(order))


@pytest.mark.parametrize(("free", "known"), [(2, 13.816), (3, 16.266), (4, 18.467), (9, 27.877), (19, 43.820)])
def test_the_limits_are_those_of_the_tables(free: int, known: float) -> None:
    assert limit(free) == pytest.approx(known, rel=0.025)


def test_what_is_unlikely() -> None:
    assert not unlikely([1000, 1030, 970], [1, 1, 1])
    assert unlikely([1000, 1130, 870], [1, 1, 1])
    assert unlikely([2000, 1000, 1000], [1, 1, 1]) and not unlikely([2000, 1000, 1000], [2, 1, 1])


# ---- round robin

def test_five_one_one_exactly_and_interleaved() -> None:
    a, b, c = states = endpoints(5, 1, 1)
    picker = built("round-robin", states)
    assert [picker.first(0) for _ in range(700)] == [a, a, b, a, c, a, a] * 100


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_a_round_is_exact(weights: list[int]) -> None:
    states = endpoints(*weights)
    picker = built("round-robin", states)
    size = sum(weights) // gcd(*weights)
    for _ in range(2):
        counts = Counter(picker.first(0) for _ in range(size))
        assert [counts[s] * gcd(*weights) for s in states] == weights


@given(st.lists(st.integers(1, 40), min_size=2, max_size=8))
def test_no_burst_is_longer_than_it_must_be(weights: list[int]) -> None:
    """Between `others` turns of other endpoints there are as many gaps; the least that the longest run can have is
    weight / gaps, rounded up. Smooth turns may take one more, where two gaps of the round meet."""
    states = endpoints(*weights)
    picker = built("round-robin", states)
    total = sum(weights) // gcd(*weights)
    order = [picker.first(0) for _ in range(total)]
    for state in states:
        own = order.count(state)
        assert longest_run(order, state) <= ceil(own / (total - own)) + 1


@pytest.mark.parametrize("weights", [(5, 1, 1), (1, 1, 1), (1, 2, 3, 4), (7, 3, 2, 2), (100, 1, 1)])
@pytest.mark.parametrize("down", [0, 1, 2])
def test_with_one_down_the_others_get_their_proportion(weights: tuple[int, ...], down: int) -> None:
    states = endpoints(*weights)
    states[down].ready = False
    picker = built("round-robin", states)
    left = sum(weights) - weights[down]
    rounds = 200
    counts = Counter(pick(picker) for _ in range(rounds * sum(weights)))
    for i, (state, weight) in enumerate(zip(states, weights, strict=True)):
        expected = 0.0 if i == down else rounds * sum(weights) * weight / left
        # its own turns are exact, those dealt out anew too, but for the round of them that isn't over
        assert abs(counts[state] - expected) <= (0 if i == down else weight + 1)


# ---- least-conn

@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=9), st.integers(1, 20))
def test_never_one_that_is_more_loaded_than_another(given_: list[tuple[int, int]], picks: int) -> None:
    states = endpoints(*[weight for weight, _ in given_])
    for state, (_, active) in zip(states, given_, strict=True):
        state.active = active
    picker = built("least-conn", states)
    for _ in range(picks):
        state = picker.first(0)
        assert all(state.active * other.weight <= other.active * state.weight for other in states)
        state.active += 1


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_never_as_they_come_and_go(weights: list[int], rng: random.Random) -> None:
    states = endpoints(*weights)
    picker = built("least-conn", states)
    open_: list[EndpointState] = []
    for _ in range(100):
        if open_ and rng.random() < 0.45:
            open_.pop(rng.randrange(len(open_))).active -= 1
            continue
        state = picker.first(0)
        assert all(state.active * other.weight <= other.active * state.weight for other in states)
        state.active += 1
        open_.append(state)


@pytest.mark.parametrize("active", [0, 1, 7])
def test_ties_rotate(active: int) -> None:
    states = endpoints(1, 1, 1, 1)
    for state in states:
        state.active = active
    picker = built("least-conn", states)
    assert [picker.first(0) for _ in range(40)] == states * 10


def test_the_next_least_when_the_least_is_down() -> None:
    a, b, c = states = endpoints(1, 1, 1)
    a.active, b.active, c.active = 0, 1, 2
    a.ready = False
    assert pick(built("least-conn", states)) is b


# ---- by chance

@pytest.mark.parametrize("kind", ["random", "least-latency"])
@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 1, 1), (4, 3, 2, 1), (1,) * 20])
def test_chance_is_fair(kind: str, weights: tuple[int, ...]) -> None:
    states = endpoints(*weights)
    picker = built(kind, states, 3)
    counts = Counter(picker.first(0) for _ in range(30_000))
    assert not unlikely([counts[s] for s in states], weights)


def test_equal_latencies_are_shared_evenly() -> None:
    states = endpoints(*[1] * 10)
    for state in states:
        observe(state, 0.02, 0.0)
    picker, counts = built("least-latency", states, 3), Counter[EndpointState]()
    for i in range(30_000):
        state = picker.first(0)
        counts[state] += 1
        observe(state, 0.02, i / 1000)
    # The winner's latency is measured anew and the loser's fades: if anything, that evens the shares out.
    assert not unlikely([counts[s] for s in states], [1] * 10)


@pytest.mark.parametrize("kind", ["random", "least-latency"])
def test_chance_is_fair_with_one_down(kind: str) -> None:
    states = endpoints(3, 1, 2, 2)
    states[2].ready = False
    picker = built(kind, states, 3)
    counts = Counter(pick(picker) for _ in range(30_000))
    assert counts.pop(states[2], 0) == 0
    assert not unlikely([counts[s] for s in states if s.ready], [3, 1, 2])


# ---- source-hash

_PROGRAM = """
import random, sys
from edgeproxy.policy.endpoint import Endpoint, EndpointState
from edgeproxy.policy.picker import build_picker
from edgeproxy.session.hashing import client_key
states = [EndpointState(Endpoint(a), 1 + int(a[7])) for a in sys.argv[1:]]
picker = build_picker("source-hash", states, random.Random())
for i in range(2000):
    print(picker.first(client_key(f"203.0.{i // 256}.{i % 256}")).address)
"""


def test_every_process_and_every_order_of_the_file_agree() -> None:
    addresses = [f"10.0.0.{i}:80" for i in range(1, 8)]

    def run(seed: str, order: Sequence[str]) -> str:
        found = subprocess.run([sys.executable, "-c", _PROGRAM, *order], env={**os.environ, "PYTHONHASHSEED": seed},
                               capture_output=True, text=True, timeout=60, check=True)
        return found.stdout

    shuffled = random.Random(4).sample(addresses, len(addresses))
    one = run("1", addresses)
    assert one == run("2", shuffled) and len(set(one.split())) == 7


def test_clients_are_spread_evenly_by_weight() -> None:
    states = endpoints(1, 2, 3, 4)
    counts = Counter(homes(states))
    assert not unlikely([counts[s.address] for s in states], [1, 2, 3, 4])


@pytest.mark.parametrize("gone", range(10))
def test_one_of_ten_removed_and_back(gone: int) -> None:
    states = endpoints(*[1] * 10)
    before = homes(states)
    after = homes(states[:gone] + states[gone + 1:])
    own = before.count(states[gone].address)
    moved = sum(a != b for a, b in zip(before, after, strict=True))
    assert own <= moved <= 0.12 * len(CLIENTS)
    assert homes(states) == before


@pytest.mark.parametrize("down", range(10))
def test_one_of_ten_not_ready_moves_its_own_clients_only(down: int) -> None:
    states = endpoints(*[1] * 10)
    before = homes(states)
    states[down].ready = False
    after = homes(states)
    away = Counter(b for a, b in zip(before, after, strict=True) if a == states[down].address)
    assert all(a == b for a, b in zip(before, after, strict=True) if a != states[down].address)
    assert states[down].address not in after
    assert not unlikely([away[s.address] for s in states if s.ready], [1] * 9)
    states[down].ready = True
    assert homes(states) == before


def test_others_that_fall_out_as_well_move_their_own_only() -> None:
    states = endpoints(*[1] * 10)
    last = homes(states)
    for state in states[:7]:
        state.ready = False
        now = homes(states)
        assert all(a == b for a, b in zip(last, now, strict=True) if a != state.address)
        last = now


# ---- whose key

def test_an_ipv6_client_is_its_network() -> None:
    one = client_key("2001:db8:1:2::1", 64)
    assert one == client_key("2001:db8:1:2:ffff:ffff:ffff:ffff", 64) == client_key("2001:0DB8:1:2::9", 64)
    assert one == client_key("2001:db8:1:2::1%eth0", 64)
    assert one != client_key("2001:db8:1:3::1", 64)
    assert client_key("2001:db8:1:2::1", 56) == client_key("2001:db8:1:ff::1", 56) != one
    assert client_key("2001:db8:1:2::1") != client_key("2001:db8:1:2::2")
    assert client_key("2001:db8:1:2::1") == hash_key(b"2001:db8:1:2::1")


def test_an_ipv4_client_is_itself() -> None:
    assert client_key("192.0.2.7", 64) == client_key("192.0.2.7") != client_key("192.0.2.8", 64)
    assert client_key("no address:", 64) == client_key("no address:")


def test_networks_are_spread_evenly() -> None:
    states = endpoints(*[1] * 10)
    picker = built("source-hash", states)
    counts = Counter(picker.first(client_key(f"2001:db8:{i // 256:x}:{i % 256:x}::1", 64)) for i in range(10_000))
    assert not unlikely([counts[s] for s in states], [1] * 10)
