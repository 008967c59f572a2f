"""A service: its members, the pickers over them, their passive health, and the queue for a place.

The object lives as long as the configuration names the service; a new configuration or a new set of endpoints swaps
one `ServiceView`, by one assignment, so that members and pickers never disagree.
"""
from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Collection
from itertools import chain
from math import inf
from time import monotonic

from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError, Side
from edgeproxy.policy.endpoint import Endpoint
from edgeproxy.policy.health import PassiveHealth
from edgeproxy.policy.picker import Picker, build_picker
from edgeproxy.policy.retry import RetryBudget
from edgeproxy.upstream.access import Access
from edgeproxy.upstream.pool import Member, Pool
from edgeproxy.upstream.shared import Shared
from edgeproxy.upstream.tls import ClientTls

_log = logging.getLogger("edgeproxy")

KEYED = frozenset({"source-hash", "hash"})


class ServiceView:
    """One set of endpoints with the pickers built over it."""

    __slots__ = ("members", "primary", "backup")

    def __init__(self, members: tuple[Member, ...], kind: str, rng: random.Random) -> None:
        self.members = members
        first = [m for m in members if not m.backup and m.weight > 0]
        second = [m for m in members if m.backup and m.weight > 0]
        self.primary: Picker | None = build_picker(kind, first, rng) if first else None
        self.backup: Picker | None = build_picker(kind, second, rng) if second else None


class Waiter:
    """One place in a service's queue."""

    __slots__ = ("key", "tried", "callback", "timer", "_queue")

    def __init__(self, key: int, tried: Collection[Member], callback: Callable[[Member | ProxyError], None],
                 queue: deque[Waiter]) -> None:
        self.key = key
        self.tried = tried
        self.callback = callback
        self.timer: asyncio.TimerHandle | None = None
        self._queue = queue

    def cancel(self) -> None:
        """Give the place up; the callback is not called any more."""
        if self.timer is not None:
            self.timer.cancel()
        if self in self._queue:
            self._queue.remove(self)

    def expire(self) -> None:
        self.cancel()
        self.callback(ProxyError(Kind.QUEUE_TIMEOUT, "no endpoint had a place in time"))


class Service:
    __slots__ = ("name", "config", "view", "budget", "keyed", "least_latency", "_loop", "_rng", "_health", "first",
                 "limit", "access", "waiting", "_waking", "_known", "_restores")

    def __init__(self, loop: asyncio.AbstractEventLoop, config: model.Service, rng: random.Random,
                 tls: ClientTls | None = None) -> None:
        """`tls`: what `build_tls` made of the configuration."""
        self.name = config.name
        self.budget = RetryBudget(monotonic())
        self._loop = loop
        self._rng = rng
        self.waiting: deque[Waiter] = deque()
        self._waking = False
        self._known: dict[str, Member] = {}
        self._restores: dict[Member, asyncio.TimerHandle] = {}
        self.access = Access(config, tls)
        self.apply(config, tls)

    # ---- configuration

    def apply(self, config: model.Service, tls: ClientTls | None = None) -> None:
        """Follow `config`: endpoints that stay keep their state; their pools too, unless they are spoken to otherwise
        now. What left drains."""
        self.config = config
        access = Access(config, tls)
        if not access.same(self.access):
            self.access = access
            for member in self._known.values():
                member.pool.set(0, 0.0)
                member.pool = self._pool(member.endpoint)
        self.keyed = config.balance.kind in KEYED
        self.least_latency = config.balance.kind == "least-latency"
        self.limit: float = config.limits.per_endpoint or inf
        eject = config.eject
        self._health = PassiveHealth(eject.failures, eject.within, eject.duration)
        members = tuple(self._member(address) for address in config.endpoints)
        left = self._known.keys() - {m.address for m in members}
        self._swap(ServiceView(members, config.balance.kind, self._rng))
        for address in left:
            self._retire(self._known.pop(address))
        self.wake()

    def _member(self, address: model.EndpointAddress) -> Member:
        member = self._known.get(address.address)
        if member is None:
            endpoint = Endpoint(address.address, address.host, address.port, address.path)
            member = Member(endpoint, address.weight, address.backup, self._pool(endpoint))
            self._known[address.address] = member
        else:
            member.weight = address.weight
            member.backup = address.backup
            member.pool.set(self._kept, self._idle_timeout)
        return member

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

    def _swap(self, view: ServiceView) -> None:
        self.view = view
        self.first = view.primary.first if view.primary is not None else None

    def _retire(self, member: Member) -> None:
        member.pool.set(0, 0.0)
        if self.access.tls is not None:
            self.access.tls.forget(member.endpoint)
        timer = self._restores.pop(member, None)
        if timer is not None:
            timer.cancel()

    def retire(self) -> None:
        """The configuration names this service no more: what is under way finishes, nothing is kept."""
        for member in self._known.values():
            self._retire(member)

    # ---- picking

    def pick(self, key: int = 0, tried: Collection[Member] = ()) -> Member | None:
        """The endpoint to use: ready, with a place, and not tried before while another is left. None: none now."""
        first = self.first
        if first is not None:
            member = first(key)
            if member.ready and not tried and member.active < self.limit:
                return member  # type: ignore[return-value]  # pickers give back what they were built over
            return self.pick_else(member, key, tried)  # type: ignore[arg-type]
        return self.pick_else(None, key, tried)

    def pick_else(self, choice: Member | None, key: int, tried: Collection[Member]) -> Member | None:
        view = self.view
        again: Member | None = None
        ready = full = False
        if view.primary is not None and choice is not None:
            for member in chain((choice,), view.primary.rest(key)):
                if not member.ready:
                    continue
                ready = True
                if member.active >= self.limit:
                    full = True
                elif member not in tried:
                    return member  # type: ignore[return-value]
                else:
                    again = again or member  # type: ignore[assignment]
        # Backups serve when no primary is ready. One that was just tried in vain is as good as not ready.
        if view.backup is not None and (not ready or again is not None and not full):
            for member in chain((view.backup.first(key),), view.backup.rest(key)):
                if not member.ready or member.active >= self.limit:
                    continue
                if member not in tried:
                    return member  # type: ignore[return-value]
                again = again or member  # type: ignore[assignment]
        return again

    def unavailable(self) -> ProxyError:
        """Why `pick` gave nothing."""
        if any(m.ready and m.weight > 0 for m in self.view.members):
            return ProxyError(Kind.QUEUE_FULL, "every endpoint is at its limit")
        return ProxyError(Kind.UNAVAILABLE, "no endpoint is ready")

    def wait(self, key: int, tried: Collection[Member], callback: Callable[[Member | ProxyError], None]
             ) -> Waiter | None:
        """Queue for a place; `callback` gets the member (enter it at once) or the error. None: the queue is full."""
        limits = self.config.limits
        if len(self.waiting) >= limits.queue:
            return None
        waiter = Waiter(key, tried, callback, self.waiting)
        waiter.timer = self._loop.call_later(limits.queue_timeout, waiter.expire)
        self.waiting.append(waiter)
        return waiter

    def wake(self) -> None:
        """Give free places to who waits. Flat: a callback that gives its place back at once is seen by this loop."""
        if self._waking:
            return
        self._waking = True
        try:
            while self.waiting:
                waiter = self.waiting[0]
                member = self.pick(waiter.key, waiter.tried)
                if member is None:
                    return
                waiter.cancel()
                try:
                    waiter.callback(member)
                except Exception:  # it must not fall on the stranger whose end has freed the place
                    _log.exception("a request was ended by a fault of the proxy; please report it")
        finally:
            self._waking = False

    # ---- use and health

    def enter(self, member: Member) -> None:
        member.active += 1
        member.total += 1

    def leave(self, member: Member) -> None:
        member.active -= 1
        if self.waiting:
            self.wake()

    def succeeded(self, member: Member) -> None:
        if member.ejections:
            self._health.succeeded(member, monotonic())

    def failed(self, member: Member, kind: Kind) -> None:
        """Evidence against an endpoint; enough of it takes it out for a while, but never the last one that is ready."""
        if kind.side is Side.PROXY or self._known.get(member.address) is not member:
            return  # not its fault; or it has left the configuration, and what it still does is nobody's business
        others = sum(m.ready and m is not member and m.weight > 0 for m in self.view.members)
        if not self._health.failed(member, monotonic(), others):
            return
        seconds = max(0.0, member.ejected_until - monotonic())
        _log.warning("service %s: endpoint %s ejected for %.0f s: %s", self.name, member.address, seconds, kind.word)
        self._restore_in(member, seconds)

    def _restore_in(self, member: Member, seconds: float) -> None:
        self._restores[member] = self._loop.call_later(seconds, self._restore, member)

    def _restore(self, member: Member) -> None:
        self._restores.pop(member, None)
        now = monotonic()
        if self._health.restore(member, now):
            _log.info("service %s: endpoint %s takes traffic again", self.name, member.address)
            self.wake()
        elif now < member.ejected_until:  # a loop that counts whole milliseconds may be early
            self._restore_in(member, member.ejected_until - now + 0.001)
