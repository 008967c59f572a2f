"""A service: which of its endpoints a request or a connection gets, and the queue for a place.

The object lives as long as the configuration names the service. Who its members are is in `roster.py`, how they are
doing in `condition.py`.
"""
from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from math import inf
from time import monotonic

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.policy.endpoint import DOWN, EJECTED, EndpointState, Target
from edgeproxy.policy.retry import RetryBudget
from edgeproxy.upstream.binding import Binding, ClientBinding, CookieBinding, build_binding
from edgeproxy.upstream.condition import Condition
from edgeproxy.upstream.events import Events
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.roster import UNASKED
from edgeproxy.upstream.tls import ClientTls

_log = logging.getLogger("edgeproxy")

_LATE = ProxyError(Kind.QUEUE_TIMEOUT, "no endpoint had a place in time")
KEYED = frozenset({"source-hash", "hash"})


FIRST_ANSWER = 3.0
"""Seconds that requests wait for the first answer of DNS about a new service, and how many of them do."""
FIRST_PLACES = 1000


class Waiter:
    """One place in a service's queue."""

    __slots__ = ("choose", "callback", "error", "timer", "_queue")

    def __init__(self, choose: Callable[[], Member | None], callback: Callable[[Member | ProxyError], None],
                 error: ProxyError, queue: deque[Waiter]) -> None:
        """`error`: what the wait was for in vain."""
        self.choose = choose
        self.callback = callback
        self.error = error
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
        self.callback(self.error)


class Service(Condition):
    __slots__ = ("budget", "keyed", "plain", "least_latency", "limit", "host", "binding", "sets_cookie",
                 "waiting", "_waking")

    def __init__(self, loop: asyncio.AbstractEventLoop, config: model.Service, rng: random.Random,
                 tls: ClientTls | None = None, events: Events | None = None) -> None:
        """`tls`: what `build_tls` made of the configuration."""
        super().__init__(loop, config, rng, tls, events if events is not None else Events())
        self.budget = RetryBudget(monotonic())
        self.waiting: deque[Waiter] = deque()
        self._waking = False
        self.binding: Binding | None = build_binding(config.name, config.affinity)
        self.apply(config, tls)

    # ---- configuration

    def apply(self, config: model.Service, tls: ClientTls | None = None) -> None:
        """Follow `config`: endpoints that stay keep their state; their pools too, unless they are spoken to otherwise
        now. What left drains."""
        before, self.config = self.config, config
        self._speak(config, tls)
        self._bind_by(config.affinity, before.affinity)
        self.keyed = config.balance.kind in KEYED
        self.plain = not self.keyed and self.binding is None
        """Neither the request nor its client has a part in the choice."""
        self.sets_cookie = isinstance(self.binding, CookieBinding)
        self.least_latency = config.balance.kind == "least-latency"
        self.limit: float = config.limits.per_endpoint or inf
        sent = config.host_sent
        self.host = sent.encode() if sent is not None else None
        """In place of the client's Host."""
        self.judge_by(config)
        self.gather()
        self.wake()

    def _bind_by(self, config: model.Affinity | None, before: model.Affinity | None) -> None:
        """Who is bound stays bound, unless it is by something else now."""
        if config == before:
            return
        if config is not None and config.client_ip is not None and isinstance(self.binding, ClientBinding):
            self.binding.table.timeout = config.client_ip.timeout
        else:
            self.binding = build_binding(self.name, config)

    def gather(self) -> None:
        super().gather()
        if self.binding is not None:
            self.binding.follow([member.address for member in self.everyone])

    def retire(self) -> None:
        """The configuration names this service no more: what is under way finishes, nothing is kept."""
        self.disband()

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
                if not member.ready:
                    continue
                ready = True
                if member.active >= self.limit:
                    full = True
                elif member not in tried:
                    return member  # type: ignore[return-value]
                else:
                    again = again or member  # type: ignore[assignment]
        if full:
            return again
        # Who was ejected may well be back by now: better than nobody, and than the same one again.
        spare = self._pick_unready(EJECTED, choice, key, tried)
        if spare is None and not ready and self.config.panic:
            spare = self._pick_unready(DOWN, choice, key, tried)
        return spare if spare is not None and (again is None or spare not in tried) else again

    def _pick_unready(self, state: str, choice: Member | None, key: int, tried: Collection[Member]) -> Member | None:
        """One that is not ready because it is in this state."""
        view = self.view
        again: Member | None = None
        order: Iterable[EndpointState] = () if choice is None else (choice,)
        for picker in (view.primary, view.backup):
            if picker is not None:
                order = chain(order, picker.rest(key))
        for member in order:
            if member.state == state and member.active < self.limit:
                if member not in tried:
                    return member  # type: ignore[return-value]
                again = again or member  # type: ignore[assignment]
        return again

    def pick_for(self, client: str, head: RequestHead | None, key: int, tried: Collection[Member] = ()
                 ) -> Member | None:
        """As `pick`, for a client that may be bound to an endpoint: it stays there while that can be used."""
        binding = self.binding
        if binding is None:
            return self.pick(key, tried)
        address = binding.find(client, head)
        bound = self.member(address) if address is not None else None
        if bound is not None and bound not in tried and self.usable(bound):
            if bound.active < self.limit:
                return bound
            return self.pick(key, (*tried, bound))  # full: somebody else serves for once
        member = self.pick(key, tried)
        if member is not None:
            binding.bind(client, member.address)
        return member

    def cookie_for(self, head: RequestHead | None, member: Member, tried: Collection[Member], secure: bool) -> bytes:
        """Set-Cookie for an answer of `member`, which binds the client to it; empty if none is needed."""
        binding = self.binding
        if not isinstance(binding, CookieBinding) or head is None:
            return b""
        known = binding.read(head)
        if known is not None:
            bound = self.member(known[0])
            if bound is member:
                return binding.cookie(member.address, secure) if known[1] else b""
            if bound is not None and bound not in tried and self.usable(bound):
                return b""  # it was full: the client stays bound to it
        return binding.cookie(member.address, secure)

    @property
    def affinity_size(self) -> int:
        """Clients whose endpoint is remembered here; cookies remember themselves."""
        return len(self.binding) if self.binding is not None else 0

    def unavailable(self) -> ProxyError:
        """Why `pick` gave nothing."""
        if any(m.ready and m.weight > 0 for m in self.view.members):
            return ProxyError(Kind.QUEUE_FULL, "every endpoint is at its limit")
        return self.none_ready()

    # ---- places

    def worth_waiting(self, error: ProxyError) -> bool:
        """Whether what `unavailable` said may be otherwise soon: a place, or the first answer of DNS."""
        return error.kind is Kind.QUEUE_FULL or self.unresolved == UNASKED

    def wait(self, choose: Callable[[], Member | None], callback: Callable[[Member | ProxyError], None]
             ) -> Waiter | None:
        """Queue for a place; `choose` is asked when there may be one, and `callback` gets the member (enter it at once)
        or the error. None: the queue is full."""
        limits = self.config.limits
        places, seconds, error = limits.queue, limits.queue_timeout, _LATE
        if self.unresolved == UNASKED:
            places, seconds, error = FIRST_PLACES, FIRST_ANSWER, self.none_ready()
        if len(self.waiting) >= places:
            return None
        waiter = Waiter(choose, callback, error, self.waiting)
        waiter.timer = self._loop.call_later(seconds, waiter.expire)
        self.waiting.append(waiter)
        return waiter

    def supply(self, found: Sequence[Target], unresolved: str) -> None:
        super().supply(found, unresolved)
        if self.waiting:
            self.wake()
            if unresolved not in ("", UNASKED) and not self.view.members:
                for waiter in list(self.waiting):
                    waiter.error = self.none_ready()
                    waiter.expire()

    def wake(self) -> None:
        """Give free places to who waits. Flat: a callback that gives its place back at once is seen by this loop."""
        if self._waking:
            return
        self._waking = True
        try:
            while self.waiting:
                waiter = self.waiting[0]
                member = waiter.choose()
                if member is None:
                    return
                waiter.cancel()
                try:
                    waiter.callback(member)
                except Exception:  # it must not fall on the stranger whose end has freed the place
                    _log.exception("a request was ended by a fault of the proxy; please report it")
        finally:
            self._waking = False

    def enter(self, member: Member) -> None:
        member.active += 1
        member.total += 1

    def leave(self, member: Member) -> None:
        member.active -= 1
        if self.waiting:
            self.wake()
