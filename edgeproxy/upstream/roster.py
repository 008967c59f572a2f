"""Who the members of a service are: what the configuration and DNS name, what drains, and what is remembered.

    a target of the configuration or of DNS    a member, with pickers over all of them
    named no more, work under way              leaving: it finishes, and with affinity the clients bound to it stay for
                                               `drain` seconds
    named no more, nothing left to do          remembered: if it is named again it is the same member, health and
                                               counters and all

The set is swapped as one `ServiceView`, by one assignment, so that members and pickers never disagree.
"""
from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import inf
from time import monotonic

from edgeproxy.config import model
from edgeproxy.policy.endpoint import Endpoint, EndpointState, Target
from edgeproxy.policy.health import leave
from edgeproxy.policy.picker import Picker, build_picker
from edgeproxy.upstream.access import Access
from edgeproxy.upstream.events import Events
from edgeproxy.upstream.pool import Member, Pool
from edgeproxy.upstream.shared import Shared
from edgeproxy.upstream.tls import ClientTls

REMEMBERED = 1000
"""Members that have left; the oldest are forgotten."""
UNASKED = "DNS has not answered yet"
"""Why a service that has just begun has no endpoints."""
SWEEP = 1.0
"""Seconds between two looks at those that are leaving."""


class ServiceView:
    """One set of endpoints with the pickers built over it."""

    __slots__ = ("members", "first", "primary", "backup")

    def __init__(self, members: tuple[Member, ...], kind: str, rng: random.Random) -> None:
        self.members = members
        self.first = first = [m for m in members if not m.backup and m.weight > 0]
        """The primaries that take something."""
        second = [m for m in members if m.backup and m.weight > 0]
        self.primary: Picker | None = build_picker(kind, first, rng) if first else None
        self.backup: Picker | None = build_picker(kind, second, rng) if second else None


def written_down(config: model.Service) -> list[Target]:
    """The endpoints that need no DNS."""
    return [Target(Endpoint(e.address, e.host, e.port, e.path), e.weight, e.backup)
            for e in config.endpoints if not e.named]


def is_named(config: model.Service) -> bool:
    """Whether any of its endpoints are found by name."""
    return bool(config.dns) or config.external_name is not None or any(e.named for e in config.endpoints)


class Roster:
    __slots__ = ("name", "config", "access", "view", "leaving", "unresolved", "followed", "absence", "events", "first",
                 "_loop", "_rng", "_known", "_found", "_past", "_sweeping")

    first: Callable[[int], EndpointState] | None
    """The picker's choice among the primaries."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: model.Service, rng: random.Random,
                 tls: ClientTls | None, events: Events) -> None:
        self.name = config.name
        self.config = config
        self.access = Access(config, tls)
        self.view = ServiceView((), config.balance.kind, rng)
        self.leaving: dict[str, Member] = {}
        """Named no more, but there is work under way, or clients are bound to them."""
        self.unresolved = UNASKED if is_named(config) else ""
        """Why no name of the service was ever resolved; empty if one was, or there is none."""
        self.followed: Callable[[], None] | None = None
        """Called when the members are others than before, those that are leaving too."""
        self.absence: Callable[[], str] | None = None
        """What DNS said of a name that there is nothing of; empty: of none."""
        self.events = events
        self.first = None
        self._loop = loop
        self._rng = rng
        self._known: dict[str, Member] = {}
        self._found: Sequence[Target] = ()
        self._past: dict[str, Member] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    # ---- what the rest of the service does

    def arrived(self, member: Member, early: bool, now: float) -> None:
        """It is named for the first time, or again. `early`: with the first members that the service ever had."""
        raise NotImplementedError

    def lingers(self, member: Member, was_ready: bool) -> None:
        """It is leaving, but there is something left to do."""
        raise NotImplementedError

    def departed(self, member: Member) -> None:
        """It gets nothing new from now on, unless it comes back."""
        raise NotImplementedError

    def install(self) -> None:
        """Take `view` into use."""
        raise NotImplementedError

    # ---- members

    def member(self, address: str) -> Member | None:
        """The one with this address, be it leaving."""
        return self._known.get(address) or self.leaving.get(address)

    @property
    def everyone(self) -> Iterable[Member]:
        """Those that are leaving too."""
        return chain(self.view.members, self.leaving.values())

    def supply(self, found: Sequence[Target], unresolved: str) -> None:
        """What DNS has for the service now: all of it, whatever it was before; and see `unresolved`."""
        self.unresolved = unresolved
        if found != self._found:
            self._found = found
            self.gather()

    def gather(self) -> None:
        """Make the members those that the configuration and DNS name. Who is named twice is what it was named first."""
        now = monotonic()
        early = not self._known
        members: dict[str, Member] = {}
        for target in chain(written_down(self.config), self._found):
            address = target.endpoint.address
            if address not in members:
                members[address] = self._join(target, early, now)
        left = [member for address, member in self._known.items() if address not in members]
        self._known = members
        self.view = ServiceView(tuple(members.values()), self.config.balance.kind, self._rng)
        for member in left:
            self._leave_off(member, now)
        self._hurry(now)
        self.install()
        if self.followed is not None:
            self.followed()

    def _join(self, target: Target, early: bool, now: float) -> Member:
        endpoint = target.endpoint
        address = endpoint.address
        member = self._known.get(address)
        if member is None:
            member = self.leaving.pop(address, None) or self._past.pop(address, None)
            fresh = member is None
            if member is None:
                member = Member(endpoint, target.weight, target.backup, self._pool(endpoint))
            self.arrived(member, early or not fresh, now)
        if member.endpoint != endpoint:  # found by another name now, which TLS asks for
            if self.access.tls is not None:
                self.access.tls.forget(member.endpoint)
            member.endpoint = endpoint
            member.pool.set(0, 0.0)
            member.pool = self._pool(endpoint)
        member.weight = target.weight
        member.backup = target.backup
        member.pool.set(self._kept, self._idle_timeout)
        return member

    def _leave_off(self, member: Member, now: float) -> None:
        ready = member.ready
        self.leaving[member.address] = member
        if self.config.affinity is None:
            member.pool.set(0, 0.0)
        self.departed(member)
        changed = leave(member, now)
        if not self._gone(member, now):
            if changed:
                self.lingers(member, ready)
            self._sweep_in()

    def _hurry(self, now: float) -> None:
        """A name that stands for others each second must not leave thousands behind for the clients bound to them."""
        most = max(100, 2 * len(self._known))
        for member in list(self.leaving.values())[:max(0, len(self.leaving) - most)]:
            if not member.active:
                member.left_at = now - self.config.drain
                self._gone(member, now)

    def _gone(self, member: Member, now: float) -> bool:
        """Whether a member that is leaving has nothing left to do; it is remembered only, then."""
        if member.active or self.config.affinity is not None and now < member.left_at + self.config.drain:
            return False
        self.leaving.pop(member.address, None)
        self._forget(member)
        self._past[member.address] = member
        if len(self._past) > REMEMBERED:
            del self._past[next(iter(self._past))]
        return True

    def _forget(self, member: Member) -> None:
        member.pool.set(0, 0.0)
        if self.access.tls is not None:
            self.access.tls.forget(member.endpoint)

    def _sweep_in(self) -> None:
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = monotonic()
        gone = [member for member in list(self.leaving.values()) if self._gone(member, now)]
        why = "nothing left to do" if self.config.affinity is None else "its time to drain is over"
        for member in gone:
            self.events.add("endpoint", self.name, member.address, f"gone: {why}")
        if self.leaving:
            self._sweep_in()
        if gone and self.followed is not None:
            self.followed()

    def disband(self) -> None:
        """The configuration names the service no more: what is under way finishes, nothing is kept."""
        for member in list(self.everyone):
            self.departed(member)
            self._forget(member)
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._known = {}  # what the last exchanges find out is nobody's business

    # ---- pools

    def _speak(self, config: model.Service, tls: ClientTls | None) -> None:
        """Follow what `config` says of connections: where they are opened otherwise now, none of before is used."""
        access = Access(config, tls)
        if not access.same(self.access):
            self.access = access
            for member in chain(self.everyone, self._past.values()):
                member.pool.set(0, 0.0)
                member.pool = self._pool(member.endpoint)

    def _pool(self, endpoint: Endpoint) -> Pool:
        if self.access.multiplexed:
            return Shared(endpoint, self._kept, self._idle_timeout, self.access)
        return Pool(self._kept, self._idle_timeout, self.access)

    @property
    def _kept(self) -> int:
        """Idle connections for each endpoint; a connection that was announced as one client's is for nobody else."""
        return 0 if self.access.announces else self.config.pool.idle

    @property
    def _idle_timeout(self) -> float:
        return self.config.timeouts.idle or inf
