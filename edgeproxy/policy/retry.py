"""Whether a failed exchange is tried again: what may be (`decide`), and how much of it there may be (`RetryBudget`).

The caller asks both, in this order, and only while no byte of a response was passed on to the client.
"""
from __future__ import annotations

from typing import NamedTuple

from edgeproxy.config import model
from edgeproxy.errors import ProxyError, RetryClass

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 §9.2.2."""


class Rule(NamedTuple):
    """What a retry class asks for, beside attempts left and a request that can be sent once more."""

    allowed: bool
    named: str | None = None
    """The word that the route's `when` must hold; None: no word is asked for."""
    idempotent: bool = True
    """The request was perhaps carried out: the method must bear that twice."""
    counted: bool = True
    """It is one of the route's attempts."""
    excused: bool = True
    """…unless nothing of it had been written yet, or it has an Idempotency-Key."""


RULES = {
    RetryClass.NEVER: Rule(False),
    RetryClass.CONNECT: Rule(True, named="connect", idempotent=False),
    # Not a fault of the endpoint: it closed an idle connection as the request was on its way. So no word is needed.
    RetryClass.STALE: Rule(True, counted=False),
    RetryClass.RESET: Rule(True, named="reset"),
    RetryClass.TIMEOUT: Rule(True, named="timeout"),
    RetryClass.STATUS: Rule(True, named="status", excused=False),
}


def decide(policy: model.Retry, error: ProxyError, *, status: int, method: str, tries: int, replayable: bool,
           written: bool, idempotency_key: bool) -> bool:
    """Whether the request is sent once more. A stale channel's retry goes to a fresh channel, the others to another
    endpoint while one is ready.

    `status`: of the response, for RetryClass.STATUS; else 0. `tries`: how many there were, the failed one included.
    `replayable`: the request has no body, or all of what was read of it is still buffered. `written`: some byte of the
    request was given to the channel. `idempotency_key`: the request has that field.
    """
    rule = RULES[error.retry]
    if not rule.allowed or (rule.counted and tries >= policy.attempts) or (written and not replayable):
        return False
    if rule.named is not None and (status if rule.named == "status" else rule.named) not in policy.when:
        return False
    if not rule.idempotent or method in IDEMPOTENT:
        return True
    return rule.excused and (idempotency_key or not written)


class RetryBudget:
    """Retries of a service: at most 20 % of the requests of the last 10 s, but 3 in any second always.

    Without it every failure would be multiplied by the attempts just when the endpoints are overloaded. The 10 s are
    the running second and the nine before it, counted by second.
    """

    __slots__ = ("second_ends", "requests", "_retries", "_past")

    SECONDS = 10
    SHARE = 0.2
    ALWAYS = 3

    def __init__(self, now: float) -> None:
        self.second_ends = now + 1.0
        self.requests = 0
        self._retries = 0
        self._past: list[tuple[int, int]] = []
        """(requests, retries) of the whole seconds before this one, oldest first, at most nine."""

    def request(self, now: float) -> None:
        """Count a request of a client, not its retries. (`Exchange.start` has these lines written out.)"""
        if now >= self.second_ends:
            self.turn(now)
        self.requests += 1

    def allow(self, now: float) -> bool:
        """Whether one more retry is within the budget; if so it is counted."""
        if now >= self.second_ends:
            self.turn(now)
        if self._retries >= self.ALWAYS:
            requests = self.requests + sum(entry[0] for entry in self._past)
            retries = self._retries + sum(entry[1] for entry in self._past)
            if retries + 1 > requests * self.SHARE:
                return False
        self._retries += 1
        return True

    def turn(self, now: float) -> None:
        """Begin the second that `now` lies in."""
        passed = int(now - self.second_ends) + 1
        empty = min(passed, self.SECONDS) - 1
        self._past = [*self._past, (self.requests, self._retries), *[(0, 0)] * empty][-(self.SECONDS - 1):]
        self.requests = self._retries = 0
        self.second_ends += passed
