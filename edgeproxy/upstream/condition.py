"""How the members of a service are doing: what probes, requests and admins say of them, and what follows.

The rules are in `policy/health.py` and `policy/slowstart.py`; here are the clock, the timers, and the telling: every
change of state is one event, with its reason.
"""
from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from time import monotonic

from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError, RetryClass, Side
from edgeproxy.policy.endpoint import DOWN, DRAINING, EJECTED
from edgeproxy.policy.health import (
    ActiveHealth,
    PassiveHealth,
    administer,
    come_back,
    keeps_bound,
    longest_ejected,
    unprobed,
)
from edgeproxy.policy.picker import Picker
from edgeproxy.policy.slowstart import Ramping, SlowStart, ramping
from edgeproxy.upstream.events import Events
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.roster import Roster
from edgeproxy.upstream.tls import ClientTls


class Condition(Roster):
    __slots__ = ("_passive", "_active", "_slow", "_restores", "_ramp", "_before", "_step")

    def __init__(self, loop: asyncio.AbstractEventLoop, config: model.Service, rng: random.Random,
                 tls: ClientTls | None, events: Events) -> None:
        super().__init__(loop, config, rng, tls, events)
        self._passive = PassiveHealth(0, 1.0, 1.0)
        self._active: ActiveHealth | None = None
        self._slow = SlowStart(0.0)
        self._restores: dict[Member, asyncio.TimerHandle] = {}
        self._ramp: Ramping | None = None
        """In front of the picker while some member has not got its full share yet."""
        self._before: Picker | None = None
        """The picker over those that were there when one of them joined."""
        self._step: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """There may be a place for who waits."""
        raise NotImplementedError

    def judge_by(self, config: model.Service) -> None:
        """Follow what `config` says of health. What is known of the members is kept."""
        eject, health = config.eject, config.health
        self._passive = PassiveHealth(eject.failures, eject.within, eject.duration)
        self._slow.seconds = config.slow_start
        now = monotonic()
        self._active = None if health is None else ActiveHealth(health.fall, health.rise, health.initial == "up")
        for member in self.everyone:
            ready = member.ready
            if self._active.begin(member, now, serving=True) if self._active is not None else unprobed(member, now):
                self._changed(member, ready)

    # ---- members come and go

    def arrived(self, member: Member, early: bool, now: float) -> None:
        was, ready = member.state, member.ready
        if self._active is not None:
            self._active.begin(member, now)
        else:
            unprobed(member, now)
        come_back(member, now)
        if now < member.ejected_until:
            self._restore_in(member, member.ejected_until - now)
        if was == DRAINING:
            self._changed(member, ready)
        elif not early:
            fresh = self._ramp is None
            if self._start_slowly(member, now) and fresh:
                self._before = self.view.primary

    def lingers(self, member: Member, was_ready: bool) -> None:
        self._changed(member, was_ready)

    def departed(self, member: Member) -> None:
        timer = self._restores.pop(member, None)
        if timer is not None:
            timer.cancel()
        self._slow.end(member)

    # ---- evidence

    def passed(self, member: Member) -> None:
        """A probe was answered well."""
        ready = member.ready
        if self._active is not None and self._active.passed(member, monotonic()):
            if member.state == EJECTED:
                member.reason = "its probes pass again, but requests have failed"
            self._changed(member, ready)

    def missed(self, member: Member, why: str) -> None:
        """A probe was not."""
        ready = member.ready
        if self._active is not None and self._active.missed(member, monotonic(), why):
            self._changed(member, ready)

    def succeeded(self, member: Member) -> None:
        if member.ejections:
            self._passive.succeeded(member)

    def failed(self, member: Member, kind: Kind, status: int = 0) -> None:
        """Evidence against an endpoint; enough of it takes it out for a while, but never the last one that is ready.
        `status`: of the response, if it is that.

        Where that one fails as others have, it changes places with the one that was ejected the longest ago: that may
        be back, and with each request trying the dead one first the budget for retries would soon be used up.
        """
        now = monotonic()
        if member.state == DRAINING and kind.retry is RetryClass.CONNECT:
            self._passive.unreachable(member, now)
        if kind.side is Side.PROXY or self._known.get(member.address) is not member:
            return  # not its fault; or it has left the configuration, and what it still does is nobody's business
        member.failed += 1
        others = sum(m.ready and m is not member and m.weight > 0 for m in self.view.members)
        spare = longest_ejected(self.view.members, now) if not others else None
        why = f"status {status}" if status else kind.word
        if self._passive.failed(member, now, others + (spare is not None), why):
            self._changed(member, True)
            self._restore_in(member, member.ejected_until - now)
            if spare is not None:
                self._passive.pardon(spare, now)
                self._restore(self._known[spare.address])

    def _restore_in(self, member: Member, seconds: float) -> None:
        timer = self._restores.get(member)
        if timer is not None:
            timer.cancel()
        self._restores[member] = self._loop.call_later(max(0.0, seconds), self._restore, member)

    def _restore(self, member: Member) -> None:
        timer = self._restores.pop(member, None)
        if timer is not None:
            timer.cancel()
        now = monotonic()
        if now < member.ejected_until:  # a loop that counts whole milliseconds may be early
            self._restore_in(member, member.ejected_until - now + 0.001)
            return
        ready = member.ready
        if self._passive.restore(member, now):
            self._changed(member, ready)

    def administer(self, address: str, state: str) -> bool:
        """What an admin wants of an endpoint: DRAINING, DISABLED, or empty for what it is by itself. False: there is
        no such endpoint."""
        member = self.member(address)
        if member is None:
            return False
        ready, now = member.ready, monotonic()
        if administer(member, state, now):
            self._changed(member, ready)
        if now < member.ejected_until:
            self._restore_in(member, member.ejected_until - now)
        return True

    # ---- what follows

    def _changed(self, member: Member, was_ready: bool) -> None:
        """`member` is in another state than before."""
        now = monotonic()
        state = member.state
        bad = state in (DOWN, EJECTED)
        told = f"ejected for {member.ejected_until - now:.0f} s" if state == EJECTED else state
        self.events.add("endpoint", self.name, member.address, f"{told}: {member.reason}" if member.reason else told,
                        logging.WARNING if bad else logging.INFO)
        if member.ready and not was_ready:
            if self._start_slowly(member, now):
                self.install()
            self.wake()

    def none_ready(self) -> ProxyError:
        """Why there is no endpoint to be had; in words that name none."""
        members = self.view.members
        if not members:
            if self.unresolved:
                return ProxyError(Kind.DNS_FAILED, f"no name of the service could be resolved: {self.unresolved}")
            why = self.absence() if self.absence is not None else ""
            return ProxyError(Kind.UNAVAILABLE, f"the service has no endpoints{why and ': ' + why}")
        states = Counter(m.state if m.weight > 0 else "weight 0" for m in members)
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        return ProxyError(Kind.UNAVAILABLE, f"no endpoint is ready: {told}")

    def usable(self, member: Member) -> bool:
        """Whether a client that is bound to it stays."""
        return keeps_bound(member, monotonic(), self.config.drain)

    # ---- slow start

    def _start_slowly(self, member: Member, now: float) -> bool:
        """Whether it does; the picker is to be installed anew then."""
        if not self._slow.begin(member, now):
            return False
        if self._step is None:
            self._step = self._loop.call_later(self._slow.step, self._stepped)
        return True

    def _stepped(self) -> None:
        self._step = None
        now, slow = monotonic(), self._slow
        for state in slow.ramping:
            slow.update(state, now)
        if slow.ramping:
            if self._ramp is not None:
                self._ramp.refresh()
            self._step = self._loop.call_later(slow.step, self._stepped)
        else:
            self._before = None
            self.install()

    def install(self) -> None:
        primary = self.view.primary
        self._ramp = None
        if primary is None:
            self.first = None
        elif self._slow.ramping:
            self._ramp = ramping(primary, self.view.first, self._rng, self._before)
            self.first = self._ramp.first
        else:
            self.first = primary.first
