"""The endpoints of one service that are found by name: asked for in the background, given out as sets.

    source           asks                                endpoints
    endpoints        hosts file, else A and AAAA         every address, with the entry's port, weight and backup
    dns, type A      A and AAAA                          every address, with its port
    dns, type SRV    SRV, then A and AAAA of each        every address of every record, with the record's port and
                     target as long as it is named       weight; those of the lowest priority serve, others are backups
    external_name    hosts file, else A and AAAA         every address, with its port or the protocol's

Rules: no request waits for any of this. Each record type of a name has a `NameState` and a task of its own: a family
that times out neither takes the other's addresses away nor makes them late, and no fault of one ends another. What
comes within a moment of each other becomes one set and one line (an SRV name brings a hundred answers, and a set may
cost a Maglev table). Sets are compared without order; what is unchanged is given out to nobody. The time is the loop's.
"""
from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from edgeproxy.config import model
from edgeproxy.policy.endpoint import Target, target
from edgeproxy.policy.naming import (
    ABSENT,
    FAILING,
    NO_NEWS,
    RECOVERED,
    SRV,
    Key,
    Manner,
    Mark,
    NameState,
    Pace,
    Source,
    sources_of,
    static_of,
)
from edgeproxy.upstream.events import Events, age
from edgeproxy.upstream.resolver import Reply, Resolver, SrvRecord
from edgeproxy.upstream.roster import UNASKED

_log = logging.getLogger("edgeproxy")

MOMENT = 0.01
"""Seconds; answers so close together become one set."""
HOSTS_EVERY = 5.0
"""Seconds; how often a name that stands in the hosts file is looked up there again, which costs a stat."""
LISTED = 5
"""Addresses in a line."""
HOSTS_FILE = "hosts file"
FAULTS = ("timeout", "SERVFAIL", "REFUSED", "malformed")
"""Words in `Reply.why` that failures are counted by, the first that is there; the rest is `failed`."""


def _address_order(address: str) -> tuple[int, int]:
    parsed = ip_address(address)
    return parsed.version, int(parsed)


def _target_key(record: SrvRecord) -> Key:
    """A target is absolute (RFC 2782): no search list."""
    return Key(record.target.rstrip(".") + ".")


# ---- what is known

class Inquiry:
    """One name and record type."""

    __slots__ = ("state", "task", "queries", "server", "news", "faulty")

    def __init__(self, pace: Pace, now: float) -> None:
        self.state: NameState[Any] = NameState(pace, now)
        """Of addresses, or of SRV records."""
        self.task: asyncio.Task[None] | None = None
        self.queries: dict[str, int] = {}
        """By result."""
        self.server = ""
        """Who answered last."""
        self.news = NO_NEWS
        """What was not told yet."""
        self.faulty = False
        """A fault of ours was told, and it has not worked since."""

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            self.task = None


class Name:
    __slots__ = ("key", "manner", "inquiries", "served", "gone_told")

    def __init__(self, key: Key, manner: Manner) -> None:
        self.key = key
        self.manner = manner
        self.inquiries: dict[str, Inquiry] = {}
        self.served: frozenset[SrvRecord] = frozenset()
        """The records in use: those known, or those before until the targets of the new ones were asked for."""
        self.gone_told = False

    @property
    def records(self) -> frozenset[SrvRecord]:
        return self.inquiries[SRV].state.known

    @property
    def heard(self) -> bool:
        return all(inquiry.state.heard for inquiry in self.inquiries.values())

    @property
    def gone(self) -> bool:
        """Whether it certainly has nothing of any type."""
        return all(inquiry.state.said == ABSENT for inquiry in self.inquiries.values())

    @property
    def error(self) -> str:
        """Why there is nothing; a failure says more than an absence."""
        states = sorted((q.state for q in self.inquiries.values()), key=lambda state: not state.failures)
        return next((state.error for state in states if state.error), "")

    def addresses(self, types: Iterable[str]) -> list[str]:
        found = {a for rdtype in types if rdtype in self.inquiries for a in self.inquiries[rdtype].state.known}
        return sorted(found, key=_address_order)

    def close(self) -> None:
        for inquiry in self.inquiries.values():
            inquiry.close()


class NameView(NamedTuple):
    """One name and record type, for people."""

    name: str
    type: str
    """`A`, `AAAA` or `SRV`."""
    addresses: tuple[str, ...]
    """Of SRV: target and port."""
    ttl_left: float
    """Seconds, as the answer said; 0: it is over."""
    next_in: float
    """Seconds to the next question; 0: it is being asked."""
    failures: int
    """In a row."""
    chain: tuple[str, ...]
    stale: bool
    """What is shown is kept without DNS vouching for it."""
    stale_for: float
    """Seconds since DNS has; 0: it is not stale."""
    error: str
    """Why the last answer was no set; empty if it was one."""
    server: str
    queries: dict[str, int]
    """By result."""


# ---- the work

class Discovery:
    """`supply(targets, unresolved)` is called in the loop with all that is found by name now, whenever it has changed;
    in the constructor already if something is known without asking. `unresolved`: why no name of the service was ever
    resolved; empty if one was, or the service has an address besides. Raises nothing."""

    __slots__ = ("_loop", "_resolver", "_config", "_supply", "_events", "_rng", "_sources", "_static", "_names",
                 "_told", "_resolved", "_supplied", "_ailing", "_timer", "_closed")

    def __init__(self, loop: asyncio.AbstractEventLoop, resolver: Resolver, config: model.Service,
                 supply: Callable[[Sequence[Target], str], None], events: Events, rng: random.Random) -> None:
        self._loop = loop
        self._resolver = resolver
        self._config = config
        self._supply = supply
        self._events = events
        self._rng = rng
        self._sources: list[Source] = []
        self._static: list[Target] = []
        self._names: dict[Key, Name] = {}
        self._told: dict[Mark, list[Target]] = {}
        """Of each source, what a line was written about last."""
        self._resolved: set[Mark] = set()
        """The sources that ever had an address."""
        self._supplied: tuple[frozenset[Target], str] = frozenset(), UNASKED
        self._ailing: set[Key] = set()
        """Targets of SRV records that fail."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.apply(config)

    def apply(self, config: model.Service, resolver_changed: bool = False) -> None:
        """Follow `config`. Names that are not wanted any more are dropped at once; those that are asked for otherwise
        now (all, if `resolver_changed`) are asked for at once, and what is known of them stays until then."""
        self._config = config
        self._static = static_of(config)
        self._sources = sources_of(config, self._resolver.config)
        marks = {source.mark for source in self._sources}
        self._resolved &= marks
        self._told = {mark: told for mark, told in self._told.items() if mark in marks}
        self._attend(resolver_changed)
        self._publish()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for name in self._names.values():
            name.close()

    @property
    def names(self) -> list[NameView]:
        """In the order of the configuration; the targets of SRV records behind their name."""
        now = self._loop.time()
        return [_view(name, rdtype, name.inquiries[rdtype], now) for key in self._wanted()
                if (name := self._names.get(key)) is not None for rdtype in name.manner.types]

    @property
    def trouble(self) -> str:
        """A name that there is nothing of, and why; empty: there is none."""
        return next((f"{name.key.name}: {name.error}" for name in self._names.values() if name.error), "")

    # ---- asking

    def _wanted(self) -> dict[Key, Manner]:
        wanted: dict[Key, Manner] = {}

        def want(key: Key, types: tuple[str, ...], pace: Pace) -> None:
            manner = Manner(types, pace, self._config.nameservers)
            wanted[key] = wanted[key].merged(manner) if key in wanted else manner

        for source in self._sources:
            want(source.key, (SRV,) if source.key.srv else source.types, source.pace)
            name = self._names.get(source.key)
            if source.key.srv and name is not None:
                for key in sorted({_target_key(record) for record in name.served | name.records}):
                    want(key, source.types, source.pace)
        return wanted

    def _attend(self, anew: bool = False) -> None:
        """Ask for the names that are wanted, and for no other. `anew`: for all of them now."""
        wanted = self._wanted()
        for key in self._names.keys() - wanted.keys():
            self._names.pop(key).close()
            self._ailing.discard(key)
        for key, manner in wanted.items():
            name = self._names.get(key)
            if name is None:
                name = self._names[key] = Name(key, manner)
            elif name.manner == manner and not anew:
                continue
            self._begin(name, manner)

    def _begin(self, name: Name, manner: Manner) -> None:
        now = self._loop.time()
        name.manner = manner
        for rdtype in name.inquiries.keys() - set(manner.types):
            name.inquiries.pop(rdtype).close()
        for rdtype in manner.types:
            inquiry = name.inquiries.setdefault(rdtype, Inquiry(manner.pace, now))
            inquiry.close()
            inquiry.state.pace = manner.pace
            inquiry.state.next_at = now
            try:
                self._look_up(name, rdtype, inquiry)
            except Exception:
                self._fault(name, rdtype, inquiry)
            inquiry.task = self._loop.create_task(self._follow(name, rdtype, inquiry))

    async def _follow(self, name: Name, rdtype: str, inquiry: Inquiry) -> None:
        while True:
            pause = inquiry.state.next_at - self._loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
                continue  # a timer may be early by the grain of the loop's clock
            try:
                if not self._look_up(name, rdtype, inquiry):
                    self._take(name, inquiry, await self._ask(name, rdtype))
                inquiry.faulty = False
            except Exception:
                self._fault(name, rdtype, inquiry)
            self._publish_soon()

    async def _ask(self, name: Name, rdtype: str) -> Reply:
        if rdtype == SRV:
            return await self._resolver.services(name.key.name, name.manner.nameservers)
        return await self._resolver.addresses(name.key.name, "AAAA" if rdtype == "AAAA" else "A",
                                              name.manner.nameservers)

    def _look_up(self, name: Name, rdtype: str, inquiry: Inquiry) -> bool:
        """In the hosts file. What stands there for one of the wanted types goes for all of them: as with libc, the
        other is not asked of DNS then."""
        if not name.key.hosts:
            return False
        listed = [(("AAAA" if ":" in address else "A"), address) for address in self._resolver.hosts(name.key.name)]
        if not any(of in name.manner.types for of, _ in listed):
            return False
        inquiry.server = HOSTS_FILE
        known = frozenset(address for of, address in listed if of == rdtype)
        inquiry.news = inquiry.state.answered(known, HOSTS_EVERY, (), self._loop.time(), self._rng) or inquiry.news
        return True

    def _take(self, name: Name, inquiry: Inquiry, reply: Reply) -> None:
        inquiry.server = reply.server
        result = _result(reply)
        inquiry.queries[result] = inquiry.queries.get(result, 0) + 1
        state, now = inquiry.state, self._loop.time()
        # A target of "." says that there decidedly is no such service (RFC 2782).
        found = frozenset(record for record in reply.records
                          if isinstance(record, str) or record.port and record.target.strip("."))
        if reply.kind == "found" and found:
            news = state.answered(found, reply.ttl, reply.chain, now, self._rng)
        elif reply.kind == "failed":
            news = state.failed(reply.why, now)
        else:
            alone = not any(other.state.known for other in name.inquiries.values() if other is not inquiry)
            news = state.absent(reply.why or "no such service", reply.ttl, now, alone)
        inquiry.news = news or inquiry.news

    def _fault(self, name: Name, rdtype: str, inquiry: Inquiry) -> None:
        if not inquiry.faulty:
            _log.exception("service %s: resolving %s (%s) failed by a fault of the proxy, it is tried again; "
                           "please report it", self._config.name, name.key.name, rdtype)
        inquiry.faulty = True
        inquiry.queries["failed"] = inquiry.queries.get("failed", 0) + 1
        news = inquiry.state.failed("a fault of the proxy", self._loop.time())
        inquiry.news = news or inquiry.news

    # ---- giving out

    def _publish_soon(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(MOMENT, self._publish)

    def _publish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            self._renew_records()
            self._attend()
            for name in self._names.values():
                self._tell_news(name)
            self._give_out()
        except Exception:
            _log.exception("service %s: what its names stand for could not be taken into use; please report it",
                           self._config.name)

    def _renew_records(self) -> None:
        """New SRV records take the place of the old ones when all of their targets were asked for, so that the service
        is not without endpoints in between."""
        for name in self._names.values():
            if name.key.srv and all(known is not None and known.heard
                                    for known in map(self._names.get, map(_target_key, name.records))):
                name.served = name.records

    def _give_out(self) -> None:
        found: dict[str, Target] = {each.endpoint.address: each for each in self._static}
        for source in self._sources:
            targets = self._targets(source)
            self._tell_change(source, targets)
            if targets:
                self._resolved.add(source.mark)
            for each in targets:
                found.setdefault(each.endpoint.address, each)
        unresolved = self._unresolved()
        supplied = frozenset(found.values()), unresolved
        if supplied != self._supplied:
            self._supply(tuple(found.values()), unresolved)
            self._supplied = supplied

    def _targets(self, source: Source) -> list[Target]:
        name = self._names[source.key]
        if source.key.srv:
            return self._targets_of(source, name.served) or self._targets_of(source, name.records)
        shown = source.key.name.rstrip(".")  # as certificates and Host fields have it
        return [target(address, source.port, source.weight, source.backup, shown)
                for address in name.addresses(source.types)]

    def _targets_of(self, source: Source, records: frozenset[SrvRecord]) -> list[Target]:
        first = min((record.priority for record in records), default=0)
        found: dict[str, Target] = {}
        for record in sorted(records, key=lambda r: (r.priority, r.target, r.port, r.weight)):
            name = self._names.get(_target_key(record))
            for address in name.addresses(source.types) if name is not None else ():
                each = target(address, record.port, max(1, record.weight), record.priority > first,
                              record.target.rstrip("."))
                found.setdefault(each.endpoint.address, each)
        return list(found.values())

    def _unresolved(self) -> str:
        if self._resolved or self._static or any(not endpoint.named for endpoint in self._config.endpoints):
            return ""
        if not all(name.heard for name in self._names.values()):
            return UNASKED
        why = self.trouble or "no address"
        return why if len(self._names) > 1 else why.partition(": ")[2] or why

    # ---- telling

    def _add(self, name: Name, text: str, level: int = logging.INFO) -> None:
        self._events.add("dns", self._config.name, name.key.name, text, level)

    def _news(self, name: Name) -> dict[tuple[str, str], list[str]]:
        """What is worth a line: (news, why) -> record types, which share it. A type that fails and that the name does
        not have is not, if it has another."""
        lines: dict[tuple[str, str], list[str]] = {}
        fails = False
        for rdtype, inquiry in name.inquiries.items():
            news, inquiry.news = inquiry.news, NO_NEWS
            state = inquiry.state
            if state.said != ABSENT or name.gone:
                fails = fails or state.failures > 0
                if news in (FAILING, RECOVERED):
                    lines.setdefault((news, state.error), []).append(rdtype)
        if any(name.key == source.key for source in self._sources):
            return lines
        # Targets fail by the hundred: the first that fails and the last that recovers speak for all.
        (self._ailing.add if fails else self._ailing.discard)(name.key)
        return {} if self._ailing - {name.key} else lines

    def _tell_news(self, name: Name) -> None:
        """What has happened to a name, besides what it stands for."""
        now = self._loop.time()
        for (news, why), types in self._news(name).items():
            which = "" if len(types) == len(name.inquiries) else f" ({' '.join(types)})"
            states = [name.inquiries[rdtype].state for rdtype in types]
            kept = [state for state in states if state.known]
            if news == RECOVERED:
                past = age(now - min(state.troubled_since for state in states))
                self._add(name, f"answers again{which} after {past}{why and ': ' + why}")
            elif kept:
                past = age(now - min(state.found_at for state in kept))
                self._add(name, f"is stale: {why}{which}; kept, {past} old: {_known(name, types)}", logging.WARNING)
            else:
                self._add(name, f"cannot be resolved: {why}{which}; it is tried again", logging.WARNING)
        self._tell_absence(name)

    def _tell_absence(self, name: Name) -> None:
        gone = name.gone
        if gone and not name.gone_told:
            kept = _known(name, name.inquiries)
            if kept:
                self._add(name, f"is gone: {name.error}, answered twice; kept (on_empty): {kept}", logging.WARNING)
            elif not any(told for mark, told in self._told.items() if mark[0] == name.key):
                self._add(name, f"stands for nothing: {name.error}, answered twice", logging.WARNING)
        name.gone_told = gone

    def _tell_change(self, source: Source, targets: list[Target]) -> None:
        told = self._told.get(source.mark, [])
        new, old = set(targets) - set(told), set(told) - set(targets)
        if not new and not old:
            return
        self._told[source.mark] = targets
        name = self._names[source.key]
        was = f", was {_targets(told)}" if told else ""
        if targets:
            counts = f" ({len(new)} new, {len(old)} gone)" if told else ""
            self._add(name, f"is {_targets(targets)}{was}{counts}")
        else:
            why = f": {name.error}, answered twice" if name.gone else ""
            self._add(name, f"has no endpoints any more{why}{was}", logging.WARNING)


# ---- words

def _result(reply: Reply) -> str:
    if reply.kind != "failed":
        return reply.kind
    return next((word.lower() for word in FAULTS if word in reply.why), "failed")


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return " ".join(words[:LISTED]) + more


def _targets(targets: Sequence[Target]) -> str:
    words = []
    for each in targets:
        marks = [f"weight {each.weight}"] * (each.weight != 1) + ["backup"] * each.backup
        words.append(each.endpoint.address + (f" ({', '.join(marks)})" if marks else ""))
    return _listed(words)


def _words(name: Name, types: Iterable[str]) -> list[str]:
    if name.key.srv:
        return sorted(f"{record.target.rstrip('.')}:{record.port}" for record in name.records)
    return name.addresses(types)


def _known(name: Name, types: Iterable[str]) -> str:
    return _listed(_words(name, types))


def _view(name: Name, rdtype: str, inquiry: Inquiry, now: float) -> NameView:
    state = inquiry.state
    return NameView(name.key.name, rdtype, tuple(_words(name, (rdtype,))), max(0.0, state.ttl_until - now),
                    max(0.0, state.next_at - now), state.failures, state.chain, state.stale,
                    now - state.found_at if state.stale else 0.0, state.error, inquiry.server, dict(inquiry.queries))
