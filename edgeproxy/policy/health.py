"""Passive health: what real traffic says about an endpoint, and the one bit that follows from it.

Rules: only this module writes the health fields of `EndpointState`; `ready` is set by `_derive` alone. What counts as a
failure is decided by the caller (connect failures, resets before the first byte, timeouts, 502/503/504). Failures count
while they are not older than `within`, whatever succeeded in between: an endpoint that fails every second request is
no good either. A success after an ejection ends the row of ejections.
"""
from __future__ import annotations

from edgeproxy.policy.endpoint import EndpointState

LONGEST = 300.0
"""Seconds; an ejection lasts no longer, however many there were before."""


class PassiveHealth:
    """The rule of one service; what it knows is in the endpoints' states."""

    __slots__ = ("_failures", "_within", "_duration")

    def __init__(self, failures: int, within: float, duration: float) -> None:
        """`failures` within `within` seconds eject for `duration` seconds × ejections in a row; 0 failures: never."""
        self._failures = failures
        self._within = within
        self._duration = duration

    def failed(self, state: EndpointState, now: float, others_ready: int) -> bool:
        """Take in a failure. True: the endpoint was ejected just now, until `state.ejected_until`.

        Never when no other endpoint of the service is ready (`others_ready` is 0): a doubtful one is better than none.
        What is still under way when an endpoint is ejected may fail too; that says nothing new.
        """
        if not self._failures or not state.ready:
            return False
        recent = [at for at in state.failures if at > now - self._within]
        recent.append(now)
        state.failures = recent[-self._failures:]
        if len(recent) < self._failures or others_ready <= 0:
            return False
        state.failures = []
        state.ejections += 1
        state.ejected_until = now + min(self._duration * state.ejections, LONGEST)
        _derive(state, now, f"{self._failures} failures within {self._within:g} s")
        return True

    def succeeded(self, state: EndpointState, now: float) -> None:
        """Take in a success: the next ejection is the first of a row again. One that began before an ejection is no
        sign of recovery."""
        if state.ready:
            state.ejections = 0

    def restore(self, state: EndpointState, now: float) -> bool:
        """End an ejection whose time is over. True: the endpoint takes traffic again from now on."""
        if state.ready or now < state.ejected_until:
            return False
        _derive(state, now, "")
        return True


def _derive(state: EndpointState, now: float, reason: str) -> None:
    """The one place where `ready` follows from the evidence."""
    state.ready = now >= state.ejected_until
    state.reason = reason
    state.since = now
