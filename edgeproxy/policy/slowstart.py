"""Slow start: an endpoint that joins or comes back gets a tenth of its share at first, all of it some seconds later.

Rules: `SlowStart` alone writes `EndpointState.handicap`, (1 - share) / share, so 1 + handicap is 1 / share and 0 is the
ordinary case. The pickers of `picker.py` don't know of shares. While some endpoint ramps, one of the pickers here
stands before the ordinary one and thins what that endpoint would get; afterwards it is taken away, so that the
ordinary case costs nothing. Shares are relative: where all endpoints have just begun, none is spared.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from edgeproxy.policy.endpoint import EndpointState
from edgeproxy.policy.maglev import hash_key, rehash
from edgeproxy.policy.picker import LeastConn, Maglev, Picker, TwoChoices, load

FIRST: Final = 0.1
"""The share to begin with."""
_DRAWS: Final = 64
"""Draws for one choice. A tenth refused so often in a row (0.1 %) is taken all the same: when a heavy one ramps beside
light ones, its turns come in long rows."""


class SlowStart:
    """The ramps of one service's endpoints."""

    __slots__ = ("seconds", "_began")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """How long a ramp takes; may be changed at any time. 0: there are none."""
        self._began: dict[EndpointState, float] = {}

    @property
    def ramping(self) -> tuple[EndpointState, ...]:
        return tuple(self._began)

    @property
    def step(self) -> float:
        """Seconds between two updates that make the ramp smooth: some 2 % of the share each, at most one in 50 ms."""
        return min(max(self.seconds / 50, 0.05), 1.0)

    def begin(self, state: EndpointState, now: float) -> bool:
        """It has just joined others that serve, or recovered. False: there is no slow start."""
        self._began[state] = now
        return self.update(state, now)

    def update(self, state: EndpointState, now: float) -> bool:
        """Set its handicap to what it is by now. True: it still ramps."""
        began = self._began.get(state)
        if began is None:
            return False
        passed = max(now - began, 0.0)
        if passed >= self.seconds:
            self.end(state)
            return False
        share = FIRST + (1.0 - FIRST) * passed / self.seconds
        state.handicap = (1.0 - share) / share
        return True

    def end(self, state: EndpointState) -> None:
        """It has its full share from now on, or has gone down or left."""
        self._began.pop(state, None)
        state.handicap = 0.0


class Ramping:
    """A picker before another one, that was built over the same `states`. Of round robin: a turn of an endpoint that
    ramps is passed on to the next as often as it lacks of its share. That leaves share × weight / sum for each, in the
    order of the turns."""

    __slots__ = ("_picker", "_states", "_random", "_most")

    def __init__(self, picker: Picker, states: Sequence[EndpointState], rng: Random) -> None:
        self._picker = picker
        self._states = [s for s in states if s.weight > 0]
        self._random = rng.random
        self._most = 1.0
        """1 / the greatest share of all."""
        self.refresh()

    def refresh(self) -> bool:
        """To be called after each round of updates. False: none ramps any more, `picker` will do."""
        handicaps = [s.handicap for s in self._states]
        self._most = 1.0 + min(handicaps)
        return any(handicaps)

    def first(self, key: int, /) -> EndpointState:
        state = self._picker.first(key)
        for _ in range(_DRAWS):
            if not state.handicap or self._random() * (1.0 + state.handicap) < self._most:
                return state
            state = self._picker.first(key)
        return state

    def rest(self, key: int, /) -> Iterator[EndpointState]:
        """As without: who is left over when the first choice fails is needed whole."""
        return self._picker.rest(key)


class RampingLeast(Ramping):
    """Of least-conn: `load` counts the handicap, so a ramping endpoint holds its share of what the others hold. An idle
    one beside others with next to nothing would never be the least loaded, and so get nothing at first and all at once
    at the end: it gets its share of the choices by chance."""

    __slots__ = ("_turns", "_sum")

    def __init__(self, picker: LeastConn, states: Sequence[EndpointState], rng: Random) -> None:
        self._turns = picker.turns
        self._sum = 0.0
        super().__init__(picker, states, rng)

    def refresh(self) -> bool:
        self._sum = sum([s.weight / (1.0 + s.handicap) for s in self._states])
        return super().refresh()

    def first(self, key: int, /) -> EndpointState:
        place = self._random() * self._sum
        for state in self._states:
            if state.handicap and not state.active:
                place -= state.weight / (1.0 + state.handicap)
                if place < 0.0:
                    return state
        turns = self._turns
        state = turns.peek()
        if state.active or state.handicap:
            least = min([load(s) for s in self._states])
            while load(state) > least:
                state = turns.skip()
        return turns.take()


class RampingChoices(Ramping):
    """Of the random kinds: the two candidates are thinned, before they are compared. Thinning the better one would
    do nothing against its being the better one nearly always, with nothing in flight."""

    __slots__ = ("_order", "_better")

    def __init__(self, picker: TwoChoices, states: Sequence[EndpointState], rng: Random) -> None:
        super().__init__(picker, states, rng)
        self._order = picker.order
        self._better = picker.better

    def first(self, key: int, /) -> EndpointState:
        one, other = self._candidate(), self._candidate()  # drawn until it differs, it would be the ramping one of two
        return one if other is one else self._better(one, other)

    def _candidate(self) -> EndpointState:
        order, draw = self._order, self._random
        size = len(order)
        state = order[int(draw() * size)]
        for _ in range(_DRAWS):
            if not state.handicap or draw() * (1.0 + state.handicap) < self._most:
                return state
            state = order[int(draw() * size)]
        return state


class RampingKeys(Ramping):
    """Of the hashing kinds: the key says from which share on it belongs to a ramping endpoint, so a client moves there
    once and stays. Until then it is where it was: where `before` has it, the picker without the endpoint that has
    joined; or, when an endpoint has come back, where it went while that was down."""

    __slots__ = ("_before", "_settled")

    def __init__(self, picker: Maglev, states: Sequence[EndpointState], rng: Random, before: Picker | None) -> None:
        self._before = before
        self._settled: frozenset[EndpointState] = frozenset()
        super().__init__(picker, states, rng)

    def refresh(self) -> bool:
        self._settled = frozenset([s for s in self._states if not s.handicap])
        return super().refresh()

    def first(self, key: int, /) -> EndpointState:
        state = self._picker.first(key)
        if not state.handicap or self._admits(state, key):
            return state
        if self._before is not None:
            last = self._before.first(key)
            if last in self._settled:
                return last
        for other in self._picker.rest(key):
            if other is not state and (not other.handicap or self._admits(other, key)):
                return other
        return state

    def _admits(self, state: EndpointState, key: int) -> bool:
        at = rehash(key, hash_key(b"share " + state.address.encode())) / 2.0**64
        return at * (1.0 + state.handicap) < self._most


def ramping(picker: Picker, states: Sequence[EndpointState], rng: Random, before: Picker | None = None) -> Ramping:
    """What stands before `picker`, of `build_picker` over the same `states`, while some of them ramp. `before`: the
    picker there was until an endpoint joined, for the hashing kinds; None if the set of endpoints is the same."""
    if isinstance(picker, LeastConn):
        return RampingLeast(picker, states, rng)
    if isinstance(picker, TwoChoices):
        return RampingChoices(picker, states, rng)
    if isinstance(picker, Maglev):
        return RampingKeys(picker, states, rng, before)
    return Ramping(picker, states, rng)
