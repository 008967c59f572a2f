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
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic

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
    Pace,
    Source,
    sources_of,
    static_of,
)
from edgeproxy.upstream.events import Events, age
from edgeproxy.upstream.names import Inquiry, Name, NameView, address_order, shown, unusable, view, written
from edgeproxy.upstream.resolver import Reply, Resolver, SrvRecord
from edgeproxy.upstream.roster import UNASKED

_log = logging.getLogger("edgeproxy")

MOMENT = 0.01
"""Seconds; answers so close together become one set."""
SHARE = 20.0
"""And so many times as long as giving one out took: whatever DNS says, it takes 5 % of the loop at most."""
AT_ONCE = 16
"""Questions of one service at the same time, so that its dead names do not hold up those of others."""
# What is left out of a set is what sorts last, so that it is the same each time.
MOST_ADDRESSES = 1000
MOST_RECORDS = 200
MOST_ENDPOINTS = 4096
"""Of one service, by all of its names."""
HOSTS_EVERY = 5.0
"""Seconds; how often a name that stands in the hosts file is looked up there again, which costs a stat."""
HOSTS_FILE = "hosts file"
FAULTS = ("timeout", "SERVFAIL", "REFUSED", "malformed")
"""Words in `Reply.why` that failures are counted by, the first that is there; the rest is `failed`."""


def _target_key(record: SrvRecord) -> Key:
    """A target is absolute (RFC 2782): no search list."""
    return Key(record.target.rstrip(".") + ".")


def _result(reply: Reply) -> str:
    if reply.kind != "failed":
        return reply.kind
    return next((word.lower() for word in FAULTS if word in reply.why), "failed")


def within_bounds(found: frozenset[str | SrvRecord]) -> frozenset[str | SrvRecord]:
    """As many as are used of one answer."""
    records = sorted(record for record in found if isinstance(record, SrvRecord))  # by priority first
    addresses = sorted((address for address in found if isinstance(address, str)), key=address_order)
    return frozenset((*records[:MOST_RECORDS], *addresses[:MOST_ADDRESSES]))


class Discovery:
    """`supply(targets, unresolved)` is called in the loop with all that is found by name now, whenever it has changed;
    in the constructor already if something is known without asking. `unresolved`: why no name of the service was ever
    resolved; empty if one was, or the service has an address besides. Raises nothing."""

    __slots__ = ("_loop", "_resolver", "_config", "_supply", "_events", "_rng", "_sources", "_static", "_names",
                 "_own", "_places", "_took", "_left_out",
                 "_told", "_resolved", "_supplied", "_ailing", "_timer", "_closed")

    def __init__(self, loop: asyncio.AbstractEventLoop, resolver: Resolver, config: model.Service,
                 supply: Callable[[Sequence[Target], str], None], events: Events, rng: random.Random,
                 own: Callable[[str, int], bool] = lambda host, port: False) -> None:
        """`own`: whether this proxy itself listens there."""
        self._loop = loop
        self._resolver = resolver
        self._config = config
        self._supply = supply
        self._events = events
        self._rng = rng
        self._own = own
        self._places = asyncio.Semaphore(AT_ONCE)
        self._took = 0.0
        self._left_out: dict[Mark, Counter[str]] = {}
        """Of each source, how many addresses were not taken, by reason."""
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
        self._left_out = {mark: left for mark, left in self._left_out.items() if mark in marks}
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
        return [view(name, rdtype, name.inquiries[rdtype], now) for key in self._wanted()
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
        async with self._places:
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
        if len(found) > MOST_RECORDS:
            used = within_bounds(found)
            if inquiry.cut != len(found) - len(used):
                inquiry.cut = len(found) - len(used)
                self._add(name, f"has {len(found)} records; {len(used)} are used", logging.WARNING)
            found = used
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
            self._timer = self._loop.call_later(max(MOMENT, SHARE * self._took), self._publish)

    def _publish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        began = monotonic()
        try:
            self._renew_records()
            self._attend()
            for name in self._names.values():
                self._tell_news(name)
            self._give_out()
        except Exception:
            _log.exception("service %s: what its names stand for could not be taken into use; please report it",
                           self._config.name)
        self._took = monotonic() - began

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
            for each in targets[:max(0, MOST_ENDPOINTS - len(found))]:
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
        called = source.key.name.rstrip(".")  # as certificates and Host fields have it
        return self._fit(source, [target(address, source.port, source.weight, source.backup, called)
                                  for address in name.addresses(source.types)])

    def _targets_of(self, source: Source, records: frozenset[SrvRecord]) -> list[Target]:
        first = min((record.priority for record in records), default=0)
        found: dict[str, Target] = {}
        for record in sorted(records, key=lambda r: (r.priority, r.target, r.port, r.weight)):
            name = self._names.get(_target_key(record))
            for address in name.addresses(source.types) if name is not None else ():
                each = target(address, record.port, max(1, record.weight), record.priority > first,
                              record.target.rstrip("."))
                found.setdefault(each.endpoint.address, each)
        return self._fit(source, list(found.values()))

    def _fit(self, source: Source, targets: list[Target]) -> list[Target]:
        """Those that can be endpoints. Whoever answers for a name must not make this proxy talk to itself: one
        connection would become as many as there are descriptors."""
        left: Counter[str] = Counter()
        fit: list[Target] = []
        for each in targets:
            host = each.endpoint.host
            if unusable(host):
                left["cannot be an endpoint"] += 1
            elif self._own(host, each.endpoint.port):
                left["is where this proxy listens"] += 1
            elif len(fit) >= MOST_ENDPOINTS:
                left[f"is beyond the {MOST_ENDPOINTS} that a service may have"] += 1
            else:
                fit.append(each)
        if left and left != self._left_out.get(source.mark):
            told = ", ".join(f"{count} that {why}" for why, count in left.items())
            self._add(self._names[source.key], f"stands for addresses that are left out: {told}", logging.WARNING)
        self._left_out[source.mark] = left
        return fit

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
                self._add(name, f"is stale: {why}{which}; kept, {past} old: {shown(name, types)}", logging.WARNING)
            else:
                self._add(name, f"cannot be resolved: {why}{which}; it is tried again", logging.WARNING)
        self._tell_absence(name)

    def _tell_absence(self, name: Name) -> None:
        gone = name.gone
        if gone and not name.gone_told:
            kept = shown(name, name.inquiries)
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
        was = f", was {written(told)}" if told else ""
        if targets:
            counts = f" ({len(new)} new, {len(old)} gone)" if told else ""
            self._add(name, f"is {written(targets)}{was}{counts}")
        else:
            why = f": {name.error}, answered twice" if name.gone else ""
            self._add(name, f"has no endpoints any more{why}{was}", logging.WARNING)
