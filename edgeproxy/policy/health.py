"""Health: what probes, real traffic, sources and admins say about an endpoint, and the one state that follows from it.

Rules: only this module writes the health fields of `EndpointState`; `state` and `ready` are set by `derive` alone. What
counts as a failure of real traffic is decided by the caller (connect failures, resets before the first byte, timeouts,
502/503/504). Such failures count while they are not older than `within`, whatever succeeded in between: an endpoint
that fails every second request is no good either. A success after an ejection ends the row of ejections.
"""
from __future__ import annotations

from collections.abc import Iterable

from edgeproxy.policy.endpoint import CHECKING, DISABLED, DOWN, DRAINING, EJECTED, UP, EndpointState

LONGEST = 300.0
"""Seconds; an ejection lasts no longer, however many there were before."""


def derive(state: EndpointState, now: float, reason: str = "") -> bool:
    """The one place where `state` and `ready` follow from the evidence. True: the state is another one than before;
    `reason` is why, then."""
    if state.admin == DISABLED:
        word = DISABLED
    elif state.admin == DRAINING or state.left_at:
        word = DRAINING
    elif state.probed and state.proven is False:
        word = DOWN
    elif now < state.ejected_until:
        word = EJECTED
    elif state.probed and state.proven is None:
        word = CHECKING
    else:
        word = UP
    state.ready = word == UP or word == CHECKING and state.trusted
    if word == state.state:
        return False
    state.state = word
    state.reason = reason
    state.since = now
    return True


def leave(state: EndpointState, now: float) -> bool:
    """No source names it any more. True: the state has changed."""
    state.left_at = now
    return derive(state, now, "it is named no more")


def come_back(state: EndpointState, now: float) -> None:
    """It is named, for the first time or again; what is known of it holds."""
    state.left_at = 0.0
    if derive(state, now, "named again") and not state.ready:
        state.reason = "as before it left"


def administer(state: EndpointState, word: str, now: float) -> bool:
    """What an admin wants: DRAINING, DISABLED, or empty for what it is by itself. True: the state has changed."""
    state.admin = word
    return derive(state, now, "by an admin" if word else "an admin took it back")


def keeps_bound(state: EndpointState, now: float, drain: float) -> bool:
    """Whether the clients that are bound to it by affinity stay: it takes work, or it drains, for `drain` seconds if it
    has left, and still serves."""
    if state.state != DRAINING:
        return state.ready
    return state.proven is not False and now >= state.ejected_until and (
        not state.left_at or now < state.left_at + drain)


def longest_ejected(states: Iterable[EndpointState], now: float) -> EndpointState | None:
    """What is held against it is the oldest. None is given back within a second: two that are both dead would take
    turns with every few requests."""
    some = [s for s in states if s.state == EJECTED and s.weight > 0 and now - s.since >= 1.0]
    return min(some, key=lambda s: s.since, default=None)


def unprobed(state: EndpointState, now: float) -> bool:
    """There are no probes for it; what they found is forgotten. True: the state has changed."""
    state.probed = False
    state.proven = None
    state.streak = 0
    return derive(state, now, "not probed any more")


class ActiveHealth:
    """The rule of one service that probes its endpoints."""

    __slots__ = ("_fall", "_rise", "_trusted")

    def __init__(self, fall: int, rise: int, trusted: bool) -> None:
        """`fall` bad probes in a row take an endpoint out, `rise` good ones bring it back. What is not proven yet needs
        one good probe, or `fall` bad ones; until then it takes traffic if `trusted`."""
        self._fall = fall
        self._rise = rise
        self._trusted = trusted

    def begin(self, state: EndpointState, now: float, serving: bool = False) -> bool:
        """There are probes for it from now on. What they found before is kept. `serving`: it has taken traffic without
        probes until now, and goes on with that until they have found something."""
        if not state.probed:
            state.probed = True
            state.trusted = self._trusted or serving
        return derive(state, now, "not probed yet")

    def passed(self, state: EndpointState, now: float) -> bool:
        """Take in a good probe. True: the state has changed."""
        if state.proven is True:
            state.streak = 0
            return False
        state.streak = state.streak + 1 if state.proven is False else self._rise
        if state.streak < self._rise:
            return False
        state.streak = 0
        was_down = state.proven is False
        state.proven = True
        return derive(state, now, f"{_probes(self._rise)} passed" if was_down else "its first probe passed")

    def missed(self, state: EndpointState, now: float, why: str) -> bool:
        """Take in a bad probe. True: the state has changed."""
        if state.proven is False:
            state.streak = 0
            return False
        state.streak += 1
        if state.streak < self._fall:
            return False
        state.streak = 0
        state.proven = False
        return derive(state, now, f"{_probes(self._fall)} failed: {why}")


def _probes(count: int) -> str:
    return "1 probe" if count == 1 else f"{count} probes in a row"


class PassiveHealth:
    """The rule of one service; what it knows is in the endpoints' states."""

    __slots__ = ("_failures", "_within", "_duration")

    def __init__(self, failures: int, within: float, duration: float) -> None:
        """`failures` within `within` seconds eject for `duration` seconds × ejections in a row; 0 failures: never."""
        self._failures = failures
        self._within = within
        self._duration = duration

    def failed(self, state: EndpointState, now: float, others_ready: int, why: str = "") -> bool:
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
        many = "1 failure" if self._failures == 1 else f"{self._failures} failures"
        derive(state, now, f"{many} within {self._within:g} s{why and ', the last: ' + why}")
        return True

    def succeeded(self, state: EndpointState) -> None:
        """Take in a success: the next ejection is the first of a row again. One that began before an ejection is no
        sign of recovery."""
        if state.ready:
            state.ejections = 0

    def unreachable(self, state: EndpointState, now: float) -> None:
        """A draining endpoint could not even be connected to: the clients that are bound to it go elsewhere."""
        state.ejected_until = now + self._duration

    def pardon(self, state: EndpointState, now: float) -> None:
        """Its ejection ends now."""
        state.ejected_until = now

    def restore(self, state: EndpointState, now: float) -> bool:
        """End an ejection whose time is over. True: the endpoint takes traffic again from now on."""
        if state.state != EJECTED or now < state.ejected_until:
            return False
        derive(state, now, "its ejection is over")
        return state.ready
