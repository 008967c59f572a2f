"""Names: which ones a service's configuration wants asked for, and how (`sources_of`); what is known of one name and
record type, and when it is asked for again (`NameState`).

    what DNS says            what is kept                              asked again after
    a set                    that set                                  its TTL within [min_ttl, max_ttl], or `refresh`,
                                                                       less up to 10 %
    no such name, no address what there was                            1 s: once may be a gap in a deployment
    the same again, >= 1 s   nothing; with `keep` what there was       the least of the negative TTL, the last TTL and
                                                                       5 s, but at least min_ttl; if the name has
                                                                       addresses of the other family: the negative TTL
    nothing of use           what there was: a failure is no absence   1, 2, 4 .. 30 s

Rules: a failure never takes anything away, and it neither begins nor ends a doubt; only two absences with no set in
between do, in whatever time. (Envoy empties a cluster on one NXDOMAIN, nginx drops the peers of the name.)
Times are seconds of a clock that never jumps.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import inf
from random import Random
from typing import Final, Generic, NamedTuple, TypeVar

from edgeproxy.config import model
from edgeproxy.policy.endpoint import Target, target

T = TypeVar("T")

SRV: Final = "SRV"
TYPES: Final[dict[str, tuple[str, ...]]] = {"v4": ("A",), "v6": ("AAAA",), "both": ("A", "AAAA")}

CONFIRM: Final = 1.0
"""Seconds between an absence and the second one that confirms it, at least."""
LONGEST_ABSENT: Final = 5.0
"""Seconds; a name that is absent is asked for again no later, so that what comes back is soon found."""
LONGEST_FAILING: Final = 30.0
"""Seconds; the back-off goes no further."""
JITTER: Final = 0.1
"""The part of a TTL that chance may take off: names that were asked for together do not stay together."""

# What was said last, failures left out.
UNASKED: Final = "unasked"
FOUND: Final = "found"
DOUBTED: Final = "doubted"
ABSENT: Final = "absent"

# What an answer brought that is worth a line, besides another set.
NO_NEWS: Final = ""
FAILING: Final = "failing"
RECOVERED: Final = "recovered"
GONE: Final = "gone"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often is asked, and what absence means."""

    min_ttl: float = 1.0
    max_ttl: float = 60.0
    refresh: float | None = None
    """In place of the TTL."""
    keep: bool = False
    """A confirmed absence takes nothing away."""


class NameState(Generic[T]):
    """`T` is an address, or an SRV record."""

    __slots__ = ("pace", "known", "said", "failures", "error", "chain", "next_at", "ttl_until", "found_at",
                 "troubled_since", "_doubted_at", "_pause")

    def __init__(self, pace: Pace, now: float) -> None:
        self.pace = pace
        """May be another one at any time; it holds from the next answer on."""
        self.known: frozenset[T] = frozenset()
        self.said: str = UNASKED
        self.failures = 0
        """In a row."""
        self.error = ""
        """Why the last answer was no set; empty if it was one."""
        self.chain: tuple[str, ...] = ()
        """The CNAMEs on the way to what is known."""
        self.next_at = now
        self.ttl_until = now
        """As the answer said, not as it is clamped."""
        self.found_at = now
        """When what is known was said the last time."""
        self.troubled_since = now
        """When the first of `failures` was, or the absence that was confirmed."""
        self._doubted_at = now
        self._pause = inf

    @property
    def stale(self) -> bool:
        """Whether something is kept that DNS does not vouch for at present."""
        return bool(self.known) and (self.failures > 0 or self.said == ABSENT)

    @property
    def heard(self) -> bool:
        """Whether it was asked for at least once, with whatever result."""
        return self.said != UNASKED or self.failures > 0

    def answered(self, targets: frozenset[T], ttl: float, chain: tuple[str, ...], now: float,
                 rng: Random) -> str:
        """Take in a set. RECOVERED if there was something to recover from; whether the set is another one the caller
        sees. An empty set is taken at its word: it comes of a source that needs no second answer."""
        news = RECOVERED if self.failures or self.stale else NO_NEWS
        self.known = targets
        self.said = FOUND
        self.failures = 0
        self.error = ""
        self.chain = chain
        self.found_at = now
        self.ttl_until = now + ttl
        self._pause = self.pace.refresh or min(max(ttl, self.pace.min_ttl), self.pace.max_ttl)
        self.next_at = now + self._pause * (1.0 - JITTER * rng.random())
        return news

    def absent(self, why: str, negative_ttl: float, now: float, alone: bool = True) -> str:
        """Take in that there is nothing ("no such name", "no address"). GONE when that is certain now; RECOVERED if it
        was before, with failures since. `alone`: nothing else is known of the name, so what comes back is waited for;
        not so the AAAA of a name that has A."""
        self.error = why
        if self.said != ABSENT:
            if self.said != DOUBTED:
                self.said = DOUBTED
                self._doubted_at = now
            if now < self._doubted_at + CONFIRM:
                self.next_at = self._doubted_at + CONFIRM
                return NO_NEWS
            self.said = ABSENT
            self.troubled_since = self._doubted_at
            news = GONE
        else:
            news = RECOVERED if self.failures else NO_NEWS
        self.failures = 0
        if not self.pace.keep:
            self.known = frozenset()
            self.chain = ()
        pace = self.pace
        soon = min(pace.refresh or self._pause, LONGEST_ABSENT) if alone else pace.refresh or pace.max_ttl
        pause = min(negative_ttl, soon)
        self.next_at = now + max(pause, self.pace.min_ttl)
        return news

    def failed(self, why: str, now: float) -> str:
        """Take in that there was no answer, or none of use. FAILING for the first in a row."""
        self.error = why
        self.failures += 1
        self.next_at = now + min(2.0 ** min(self.failures - 1, 10), LONGEST_FAILING)
        if self.failures > 1:
            return NO_NEWS
        self.troubled_since = now
        return FAILING


# ---- what is asked for

class Key(NamedTuple):
    """A name as it is asked for. One that the hosts file may speak for is another than one that it may not."""

    name: str
    srv: bool = False
    hosts: bool = False


Mark = tuple[Key, int, tuple[str, ...], int, bool]


class Manner(NamedTuple):
    """How it is asked for. Where two sources share a name: all types, the shorter refresh, and `keep` if one has it."""

    types: tuple[str, ...]
    pace: Pace
    nameservers: tuple[model.Nameserver, ...]

    def merged(self, other: Manner) -> Manner:
        both = [pace.refresh for pace in (self.pace, other.pace) if pace.refresh is not None]
        pace = Pace(self.pace.min_ttl, self.pace.max_ttl, min(both, default=None), self.pace.keep or other.pace.keep)
        return Manner(tuple(sorted({*self.types, *other.types})), pace, self.nameservers)


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of the configuration."""

    key: Key
    port: int
    types: tuple[str, ...]
    """Of the addresses that it takes."""
    pace: Pace
    weight: int = 1
    backup: bool = False

    @property
    def mark(self) -> Mark:
        """What it is across configurations."""
        return self.key, self.port, self.types, self.weight, self.backup


def sources_of(config: model.Service, resolver: model.Resolver) -> list[Source]:
    """In the order in which their endpoints are given out."""
    def pace(refresh: float | None, on_empty: str | None) -> Pace:
        return Pace(resolver.min_ttl, resolver.max_ttl, refresh or config.refresh,
                    (on_empty or config.on_empty) == "keep")

    types = TYPES[config.family]
    found = [Source(Key(e.host, hosts=True), e.port, types, pace(None, None), e.weight, e.backup)
             for e in config.endpoints if e.named]
    found += [Source(Key(d.name, d.type == SRV), d.port or config.usual_port, TYPES[d.family or config.family],
                     pace(d.refresh, d.on_empty)) for d in config.dns]
    external = config.external_name
    if external is not None and not external.is_address:
        found.append(Source(Key(external.name, hosts=True), external.port or config.usual_port, types,
                            pace(None, None)))
    return found


def static_of(config: model.Service) -> list[Target]:
    """An external name that is an address."""
    external = config.external_name
    if external is None or not external.is_address:
        return []
    return [target(external.name, external.port or config.usual_port)]
