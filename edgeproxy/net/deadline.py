"""One lazy timer for each connection.

`call_later` and `cancel` for every request cost more than the request's routing, so a deadline is only a number; the
timer that looks at it is armed again when it fires early. It never looks further ahead than HORIZON, so that moving
the deadline to and fro (60 s for a response, 55 s idle, 60 s …) does not re-arm it. A connection of one request is
over before it needs a timer of its own: see `Nursery`.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final, Protocol

HORIZON: Final = 5.0
YOUNG: Final = 0.1


class Young(Protocol):
    def grow_up(self) -> None:
        """Live on with a timer, unless it is over."""


class Nursery:
    """Gives a connection a timer of its own only when it has lived for a while: most do not.

    Who was born is looked at once, YOUNG to 2 × YOUNG seconds later. A timer for each, set and cancelled, would cost a
    short connection 1.4 µs of 45.
    """

    __slots__ = ("_born", "_young", "_timer", "_loop")

    def __init__(self) -> None:
        self._born: list[Young] = []
        self._young: list[Young] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    def add(self, young: Young, loop: asyncio.AbstractEventLoop) -> None:
        self._born.append(young)
        if self._timer is None:
            self._loop = loop
            self._timer = loop.call_later(YOUNG, self._look)

    def _look(self) -> None:
        grown, self._young, self._born = self._young, self._born, []
        self._timer = self._loop.call_later(YOUNG, self._look) if self._young else None
        for young in grown:
            young.grow_up()


def _nothing() -> None:
    """What an ended deadline would call: it must not keep its owner alive."""


class Deadline:
    """Calls `expired()` once when the time in `at` (monotonic seconds) has come; `inf` is never.

    On the warm path `set` is written out by its users: `d.at = at`, and `d.arm(at)` if `at < d.fires`.
    """

    __slots__ = ("_loop", "_expired", "at", "fires", "_handle", "_nursery")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None],
                 nursery: Nursery | None = None) -> None:
        """With a `nursery` the timer comes later, unless the deadline is nearer than that."""
        self._loop = loop
        self._expired = expired
        self.at = inf
        self.fires = inf
        """When the timer looks next; `inf` if it is not armed."""
        self._handle: asyncio.TimerHandle | None = None
        self._nursery = nursery

    def set(self, at: float) -> None:
        self.at = at
        if at < self.fires:
            self.arm(at)

    def arm(self, at: float) -> None:
        """Look again at `at`, or at the horizon if that is nearer."""
        if self._handle is not None:
            self._handle.cancel()
        now = monotonic()
        if self._nursery is not None:
            nursery, self._nursery = self._nursery, None
            if at >= now + 2 * YOUNG:
                nursery.add(self, self._loop)
                self.fires = now + 2 * YOUNG
                return
        self.fires = min(at, now + HORIZON)
        self._handle = self._loop.call_later(max(0.0, self.fires - now), self._fired)

    def grow_up(self) -> None:
        if self._handle is None:
            self.fires = inf
            if self.at < inf:
                self.arm(self.at)

    def _fired(self) -> None:
        self._handle = None
        self.fires = inf
        if self.at == inf:
            return
        if monotonic() < self.at:
            self.arm(self.at)
        else:
            self.at = inf
            self._expired()

    def close(self) -> None:
        """No call after this one."""
        self.at = inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            self.fires = inf

    def end(self) -> None:
        """Close for good, and let go of who is called: no cycle is left for the garbage collector."""
        self.close()
        self._expired = _nothing
