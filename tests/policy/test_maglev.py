"""Maglev: the same everywhere, even, and calm when an endpoint comes, goes or is down."""
from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter

import pytest

from edgeproxy.policy.endpoint import Endpoint, EndpointState
from edgeproxy.policy.maglev import SIZE, hash_key, rehash, table_for
from edgeproxy.policy.picker import Picker, build_picker

ROOT = Path(__file__).resolve().parents[2]
KEYS = [hash_key(b"10.%d.%d.%d" % (i >> 16, i >> 8 & 255, i & 255)) for i in range(20_000)]


def endpoints(count: int, weight: int = 1) -> list[EndpointState]:
    return [EndpointState(Endpoint(f"10.0.{i // 250}.{i % 250}:80"), weight) for i in range(count)]


def maglev(states: list[EndpointState]) -> Picker:
    return build_picker("source-hash", states, random.Random(1))


def placed(states: list[EndpointState]) -> list[str]:
    chosen = maglev(states)
    return [chosen.first(key).address for key in KEYS]


def pick(picker: Picker, key: int) -> EndpointState:
    state = picker.first(key)
    return state if state.ready else next(s for s in picker.rest(key) if s.ready)


def moved(before: list[str], after: list[str]) -> float:
    return sum(a != b for a, b in zip(before, after, strict=True)) / len(before)


PROGRAM = """
import random
from edgeproxy.policy.endpoint import Endpoint, EndpointState
from edgeproxy.policy.picker import build_picker, hash_key
states = [EndpointState(Endpoint(f"10.0.0.{i}:80"), 1 + i % 3) for i in range(10)]
random.shuffle(states)
picker = build_picker("source-hash", states, random.Random())
states[4].ready = False
for i in range(500):
    key = hash_key(b"client %d" % i)
    print(key, picker.first(key).address, *[s.address for s in picker.rest(key)])
"""


def test_two_processes_agree() -> None:
    told = [subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True,
                           env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")]
    assert told[0] == told[1] and told[0].count("\n") == 500


def test_hashes_are_these_for_ever() -> None:
    assert hash_key(b"10.0.0.1") == 16574176683607101011
    assert rehash(0, 1) == 0xE220A8397B1DCDAF  # the published first value of splitmix64 from seed 0
    assert len({hash_key(b"%d" % i) for i in range(10_000)}) == 10_000


def test_the_order_in_the_file_does_not_matter() -> None:
    states = endpoints(10)
    assert placed(states) == placed(states[::-1])


def test_weights_in_proportion_are_the_same_table() -> None:
    assert placed(endpoints(5, 1)) == placed(endpoints(5, 12))


def test_shares_of_the_table_are_exact() -> None:
    weights = (5, 3, 1, 1)
    turns = (0, 0, 1, 0, 2, 1, 0, 3, 1, 0)
    counts = Counter(table_for(("a", "b", "c", "d"), turns))
    for i, weight in enumerate(weights):
        assert abs(counts[i] - SIZE * weight / 10) <= 10


def test_shares_of_clients() -> None:
    states = endpoints(10)
    counts = Counter(placed(states))
    assert all(abs(counts[s.address] - 2000) < 150 for s in states)


@pytest.mark.parametrize("gone", [0, 4, 9])
def test_removing_one_of_ten_moves_little_more_than_its_clients(gone: int) -> None:
    states = endpoints(10)
    before, after = placed(states), placed(states[:gone] + states[gone + 1:])
    assert 0.08 < moved(before, after) <= 0.12
    others = [(a, b) for a, b in zip(before, after, strict=True) if a != states[gone].address]
    assert sum(a != b for a, b in others) / len(others) < 0.02


def test_adding_one_to_ten_moves_little_more_than_its_share() -> None:
    states = endpoints(11)
    assert moved(placed(states[:10]), placed(states)) <= 0.12


def test_when_one_is_down_nobody_else_moves_and_the_others_share_its_clients() -> None:
    states = endpoints(10)
    chosen = maglev(states)
    before = [chosen.first(key) for key in KEYS]
    states[3].ready = False
    after = [pick(chosen, key) for key in KEYS]
    assert all(a is b for a, b in zip(before, after, strict=True) if a.ready)
    counts = Counter(b for a, b in zip(before, after, strict=True) if not a.ready)
    assert len(counts) == 9 and max(counts.values()) < 1.4 * min(counts.values())
    assert [pick(chosen, key) for key in KEYS] == after
    states[7].ready = False  # a second one: its clients move, those that moved already stay
    later = [pick(chosen, key) for key in KEYS]
    assert all(a is b for a, b in zip(after, later, strict=True) if a is not states[7])


def test_when_nearly_all_are_down_the_others_share_by_weight() -> None:
    states = endpoints(60)
    for state in states[2:]:
        state.ready = False
    states[0].weight = 3
    counts = Counter(pick(picker, key).address for picker in (maglev(states),) for key in KEYS[:4000])
    assert counts[states[0].address] / 4000 == pytest.approx(0.75, abs=0.04)


def test_a_thousand_endpoints_are_laid_out_in_less_than_a_second() -> None:
    table_for.cache_clear()
    start = perf_counter()
    chosen = maglev(endpoints(1000))
    assert perf_counter() - start < 1.0
    assert len({chosen.first(key) for key in KEYS}) == 1000


def test_more_than_a_table_can_name() -> None:
    with pytest.raises(ValueError, match="too many"):
        table_for(tuple(map(str, range(70_000))), (0,))
