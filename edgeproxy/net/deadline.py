"""One lazy timer for each connection.

`call_later` and `cancel` for every request cost more than the request's routing, so a deadline is only a number; the
timer that looks at it is armed again when it fires early. It never looks further ahead than HORIZON, so that moving
the deadline to and fro (60 s for a response, 55 s idle, 60 s …) does not re-arm it.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

HORIZON: Final = 5.0


class Deadline:
    """Calls `expired()` once when the time in `at` (monotonic seconds) has come; `inf` is never.

    On the warm path `set` is written out by its users: `d.at = at`, and `d.arm(at)` if `at < d.fires`.
    """

    __slots__ = ("_loop", "_expired", "at", "fires", "_handle")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self.at = inf
        self.fires = inf
        """When the timer looks next; `inf` if it is not armed."""
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        self.at = at
        if at < self.fires:
            self.arm(at)

    def arm(self, at: float) -> None:
        """Look again at `at`, or at the horizon if that is nearer."""
        if self._handle is not None:
            self._handle.cancel()
        now = monotonic()
        self.fires = min(at, now + HORIZON)
        self._handle = self._loop.call_later(max(0.0, self.fires - now), self._fired)

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
