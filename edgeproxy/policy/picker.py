"""Candidates among the endpoints of a service, in the order to try them.

Rules: a picker is built once for a set of endpoints and is blind: it sees weights and loads, never readiness; its user
takes the first candidate that it can use (`Service.pick`). `first` is the common case and costs next to nothing; `rest`
is for when that choice can't be used, and gives every endpoint once, in a fresh order that may hold that choice again.
An endpoint of weight 0 is never given. Primaries and backups are two sets with a picker each.

Shares stay even among the others when an endpoint falls out: what would have been its share is dealt out by a turn of
its own, in weighted order, and that turn moves only past endpoints that were really considered. Going on with the next
one in the first order instead would load the neighbour of a dead endpoint with twice its share.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import cycle, groupby
from math import gcd, log
from random import Random
from typing import Protocol

from edgeproxy.policy.endpoint import EndpointState
from edgeproxy.policy.latency import faster
from edgeproxy.policy.maglev import SIZE, hash_key, rehash, table_for

__all__ = ["Picker", "build_picker", "hash_key", "smooth"]

LONGEST = 8192
"""Places in a sequence of turns. A share is exact when the weights, divided by what they have in common, add up to no
more; else it is right to one place in 8192, except that every endpoint has at least one place."""
_MOST_STEPS = 200_000  # ≈ 15 ms while the set of endpoints changes


class Picker(Protocol):
    def first(self, key: int, /) -> EndpointState:
        """The choice for one request or connection. `key`: see `hash_key`; only the hashing pickers look at it."""

    def rest(self, key: int, /) -> Iterator[EndpointState]:
        """Every endpoint once, in the order to try them when `first` gave one that can't be used."""


# ---- turns

def smooth(weights: Sequence[int]) -> list[int]:
    """Indexes of `weights` in one round of turns: each as often as its weight says, spread evenly.

    Smooth weighted round robin as nginx does it: 5:1:1 gives 0 0 1 0 2 0 0. That takes rounds × endpoints steps; where
    these are too many (some hundred endpoints of various weights) each endpoint's turns are laid out at equal distances
    and merged, which takes n log n and is nearly as even.
    """
    counts = _scaled(weights)
    size = sum(counts)
    if size == len(counts):
        return list(range(size))
    if size * len(counts) > _MOST_STEPS:
        n = len(counts)
        places = sorted(((turn + (i + 0.5) / n) / count, i) for i, count in enumerate(counts) for turn in range(count))
        return [i for _, i in places]
    credit = [0] * len(counts)
    order = []
    for _ in range(size):
        credit = list(map(int.__add__, credit, counts))
        most = credit.index(max(credit))
        credit[most] -= size
        order.append(most)
    return order


def _scaled(weights: Sequence[int]) -> list[int]:
    """The weights in smallest whole numbers, none below 1, adding up to about `LONGEST` at most."""
    common = gcd(*weights)
    counts = [w // common for w in weights]
    size = sum(counts)
    longest = max(LONGEST, len(counts))
    if size <= longest:
        return counts
    return [max(1, round(w * longest / size)) for w in counts]


class Turns:
    """A cursor over a round of turns that is moved by what is taken."""

    __slots__ = ("_order", "_at", "_beyond")

    def __init__(self, order: Sequence[EndpointState]) -> None:
        self._order = order
        self._at = 0
        # Where the next other endpoint is: with weights of 1000:1 a heavy one that is down is not stepped over by ones.
        self._beyond = [0] * len(order)
        for at in range(len(order) - 2, -1, -1):
            self._beyond[at] = self._beyond[at + 1] if order[at] is order[at + 1] else at + 1

    def peek(self) -> EndpointState:
        return self._order[self._at]

    def take(self) -> EndpointState:
        at = self._at
        self._at = (at + 1) % len(self._order)
        return self._order[at]

    def skip(self) -> EndpointState:
        """Pass over all the turns in a row that the endpoint has here; gives the next one, not taken yet."""
        self._at = self._beyond[self._at]
        return self._order[self._at]

    def deal(self, among: Collection[EndpointState]) -> Iterator[EndpointState]:
        """Each of `among` once, as their turns come; the cursor stays behind the last one that was asked for."""
        seen: set[EndpointState] = set()
        while len(seen) < len(among):
            state = self.peek()
            if state in among and state not in seen:
                seen.add(state)
                yield self.take()
            else:
                self.skip()


def _round(states: Sequence[EndpointState]) -> list[EndpointState]:
    return [states[i] for i in smooth([s.weight for s in states])]


# ---- the kinds

class RoundRobin:
    """Smooth weighted round robin, laid out once."""

    __slots__ = ("_all", "_next", "_others")

    def __init__(self, states: Sequence[EndpointState]) -> None:
        order = _round(states)
        self._all = frozenset(states)
        self._next = cycle(order).__next__
        self._others = Turns(order)

    def first(self, key: int, /) -> EndpointState:
        return self._next()

    def rest(self, key: int, /) -> Iterator[EndpointState]:
        return self._others.deal(self._all)


def load(state: EndpointState) -> float:
    """In flight by weight. Of one that starts slowly each counts 1 / share times, beginning with the next one: beside
    others that have ten in flight one with a tenth of its share has one."""
    return (state.active + state.handicap * (state.active + 1)) / state.weight


class LeastConn:
    """Fewest in flight by weight, ties by round robin.

    Looks at all the endpoints unless the next in turn is idle; loads change with every exchange, and a heap kept up to
    date by everybody who uses an endpoint would cost more for the ten or so endpoints that a service has.
    """

    __slots__ = ("_states", "turns", "_others")

    def __init__(self, states: Sequence[EndpointState]) -> None:
        order = _round(states)
        self._states = states
        self.turns = Turns(order)
        self._others = Turns(order)

    def first(self, key: int, /) -> EndpointState:
        turns = self.turns
        state = turns.peek()
        if state.active:
            least = min([s.active / s.weight for s in self._states])
            while state.active / state.weight > least:
                state = turns.skip()
        return turns.take()

    def rest(self, key: int, /) -> Iterator[EndpointState]:
        for _, equal in groupby(sorted(self._states, key=load), key=load):
            yield from self._others.deal(frozenset(equal))


class TwoChoices:
    """Two endpoints at random by weight, and the better of them: nearly as even as looking at all, without a herd
    running to the same one (Mitzenmacher 2001)."""

    __slots__ = ("_states", "order", "better", "_random")

    def __init__(self, states: Sequence[EndpointState], rng: Random,
                 better: Callable[[EndpointState, EndpointState], EndpointState]) -> None:
        self._states = states
        self.order = _round(states)  # one place at random is a choice by weight
        self.better = better
        """Gives the better of two, the first one if they are equal."""
        self._random = rng.random

    def first(self, key: int, /) -> EndpointState:
        order, draw = self.order, self._random
        size = len(order)
        one = order[int(draw() * size)]
        for _ in range(4):  # a second, other one; with weights of 1000:1 not at any price
            other = order[int(draw() * size)]
            if other is not one:
                return self.better(one, other)
        return one

    def rest(self, key: int, /) -> Iterator[EndpointState]:
        seen: set[EndpointState] = set()
        for _ in range(2 * len(self._states)):
            state = self.first(key)
            if state not in seen:
                seen.add(state)
                yield state
        left = [s for s in self._states if s not in seen]
        left.sort(key=lambda s: self._random() ** (1 / s.weight), reverse=True)
        yield from left


def _less_loaded(a: EndpointState, b: EndpointState) -> EndpointState:
    """One that starts slowly is a candidate less often (`slowstart.py`), and each in flight there counts 1 / share."""
    return b if b.active * (1.0 + b.handicap) / b.weight < a.active * (1.0 + a.handicap) / a.weight else a


class Maglev:
    """The same key, the same endpoint (`maglev.py`)."""

    __slots__ = ("_states", "_table")

    def __init__(self, states: Sequence[EndpointState]) -> None:
        self._states = sorted(states, key=lambda s: s.address)
        addresses = tuple(s.address for s in self._states)
        self._table = table_for(addresses, tuple(smooth([s.weight for s in self._states])))

    def first(self, key: int, /) -> EndpointState:
        return self._states[self._table[key % SIZE]]

    def rest(self, key: int, /) -> Iterator[EndpointState]:
        """The key is hashed again and again, so the keys of an endpoint that falls out spread over all the others by
        weight, each always to the same one, and no other key moves."""
        seen: set[EndpointState] = set()
        for attempt in range(1, 17):
            state = self._states[self._table[rehash(key, attempt) % SIZE]]
            if state not in seen:
                seen.add(state)
                yield state
        # So many in vain: most are down. Weighted rendezvous orders the others, at the cost of a hash for each.
        left = [(_distance(key, s), s.address, s) for s in self._states if s not in seen]
        yield from (s for _, _, s in sorted(left, key=lambda entry: entry[:2]))


def _distance(key: int, state: EndpointState) -> float:
    """Exponentially distributed by weight: the least of them is each endpoint's as often as its weight says."""
    return -log((rehash(key, hash_key(state.address.encode())) + 1) / 2.0**64) / state.weight


def build_picker(balance_kind: str, states: Sequence[EndpointState], rng: Random) -> Picker:
    """The picker of a `model.BalanceKind`. Raises ValueError if no endpoint has a weight, or for an unknown kind."""
    some = [s for s in states if s.weight > 0]
    if not some:
        raise ValueError("no endpoint has a weight")
    match balance_kind:
        case "round-robin":
            return RoundRobin(some)
        case "least-conn":
            return LeastConn(some)
        case "random":
            return TwoChoices(some, rng, _less_loaded)
        case "least-latency":
            return TwoChoices(some, rng, faster)
        case "source-hash" | "hash":
            return Maglev(some)
    raise ValueError(f"unknown balance kind {balance_kind!r}")
