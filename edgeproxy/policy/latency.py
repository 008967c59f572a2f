"""How fast an endpoint answers, as least-latency sees it: a moving average that follows peaks at once (peak EWMA, as in
Finagle), and what makes one endpoint cheaper than another.

Only this module writes `EndpointState.latency` and `latency_at`. A latency of 0 means: nothing is known yet.
"""
from __future__ import annotations

from math import exp

from edgeproxy.policy.endpoint import EndpointState

DECAY = 10.0
"""Seconds after which an old value counts for 1/e."""
_SHORTEST = 1e-6
_FADE = 0.99
_UNKNOWN = 1e6


def observe(state: EndpointState, seconds: float, now: float) -> None:
    """Take in one response time. A slower one counts at once, a faster one the more the longer the last one is ago."""
    seconds = max(seconds, _SHORTEST)
    latency = state.latency
    if seconds >= latency:
        state.latency = seconds
    else:
        old = exp((state.latency_at - now) / DECAY)
        state.latency = latency * old + seconds * (1.0 - old)
    state.latency_at = now


def cost(state: EndpointState) -> float:
    """What one more exchange would wait: response time × in flight, by weight. An endpoint not heard of yet is tried
    by one exchange and avoided until that has come back, so that a new endpoint isn't flooded. Each in flight at one
    that starts slowly counts 1 / share times."""
    active = state.active * (1.0 + state.handicap)
    if state.latency:
        return state.latency * (active + 1.0) / state.weight
    return _UNKNOWN * active / state.weight


def faster(a: EndpointState, b: EndpointState) -> EndpointState:
    """The cheaper of two, `a` if they are equal.

    The other one's latency fades a little if it has nothing in flight. Without that an endpoint that was slow once
    would never be asked again, and so never be seen to have recovered; with it one that is twice as slow is asked again
    after about 70 lost choices, one ten times as slow after 230. Fading by time would need the clock at every choice.
    """
    loser = b
    if cost(b) < cost(a):
        a, loser = b, a
    if not loser.active:
        loser.latency *= _FADE
    return a
