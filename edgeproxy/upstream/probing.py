"""When the endpoints of a service are probed, and who is told what came of it.

    a new endpoint     at once; many that come together one after the other, a millisecond apart, and closer if that
                       would take longer than the interval
    then               every interval, from beginning to beginning, give or take 10 %, so that they do not beat together
    down, and the same reason as the last time      after 2, 3, 4, 5 intervals, and so on every 5
    another reason, or a probe that passed          after one interval again

Endpoints that drain are probed too: clients may be bound to them. What probes found is kept by the service; here is
only the schedule, so that new settings hold at once and forget nothing.
"""
from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from edgeproxy.config import model
from edgeproxy.net.poller import Poller
from edgeproxy.policy.endpoint import Endpoint
from edgeproxy.upstream.access import Access
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.probe import Done, Questions
from edgeproxy.upstream.roster import ServiceView

APART: Final = 0.001
JITTER: Final = 0.1
SLOWEST: Final = 5


class Probed(Protocol):
    """Of a `Service`, what is used here."""

    config: model.Service
    access: Access
    view: ServiceView

    @property
    def leaving(self) -> Mapping[str, Member]: ...
    def passed(self, member: Member) -> None: ...
    def missed(self, member: Member, why: str) -> None: ...


class UnderWay(Protocol):
    """A probe under way."""

    def cancel(self) -> None: ...


class Asking(Protocol):
    """Of `Questions`, what is used here."""

    def begin(self, endpoint: Endpoint, done: Done) -> UnderWay: ...
    def forget(self, endpoint: Endpoint) -> None: ...


Compose = Callable[[asyncio.AbstractEventLoop, Poller, model.Service, Access], Asking]


class Spacing:
    """Who comes at the same time gets turns one after the other; one object for all services keeps them apart too."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free = 0.0

    def take(self, now: float, apart: float) -> float:
        """How long to wait, in seconds."""
        turn = max(self._free, now)
        self._free = turn + apart
        return turn - now


class Round:
    """The probes of one endpoint."""

    __slots__ = ("member", "endpoint", "timer", "probe", "began", "why", "slow")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.endpoint = member.endpoint
        self.timer: asyncio.TimerHandle | None = None
        self.probe: UnderWay | None = None
        self.began = 0.0
        self.why = ""
        """What the last one found."""
        self.slow = 1
        """Intervals until the next one."""

    def stop(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()
        probe, self.probe = self.probe, None
        if probe is not None:
            probe.cancel()


class Probing:
    __slots__ = ("_loop", "_poller", "_service", "_rng", "_spacing", "_compose", "_questions", "_access", "_config",
                 "_interval", "_rounds", "_closed")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, service: Probed, rng: random.Random,
                 spacing: Spacing | None = None, compose: Compose = Questions) -> None:
        """It begins at once, with the members that the service has. `spacing`: shared by the services of a proxy."""
        self._loop = loop
        self._poller = poller
        self._service = service
        self._rng = rng
        self._spacing = spacing if spacing is not None else Spacing()
        self._compose = compose
        self._questions: Asking | None = None
        self._access: Access | None = None
        self._config: tuple[object, ...] = ()
        self._interval = 0.0
        self._rounds: dict[Member, Round] = {}
        self._closed = False
        self.follow()

    # ---- the service changes

    def follow(self) -> None:
        """Follow the service's members, and its configuration if that has changed."""
        service = self._service
        if self._closed:
            return
        if service.config.health is None:
            self._stop()
            return
        anew: list[Round] = []
        if self._renew(service.config, service.config.health):
            anew += self._rounds.values()
            for stale in anew:
                stale.stop()
                stale.slow = 1
        # Not sets: the order of the configuration is that of the first probes.
        members = dict.fromkeys((*service.view.members, *service.leaving.values()))
        for gone in [member for member in self._rounds if member not in members]:
            self._forget(self._rounds.pop(gone))
        for member in members:
            known = self._rounds.get(member)
            if known is None:
                self._rounds[member] = known = Round(member)
                anew.append(known)
            elif known.endpoint is not member.endpoint:  # it goes by another name now
                self._forget(known)
                known.endpoint = member.endpoint
                anew.append(known)
        self._begin([each for each in dict.fromkeys(anew) if each.member in members])

    def _renew(self, config: model.Service, health: model.Health) -> bool:
        """Take on what is asked. False: it is as before."""
        settings = (health, config.external_name)
        if self._questions is not None and self._access is self._service.access and self._config == settings:
            return False
        self._access = self._service.access
        self._config = settings
        self._interval = health.interval
        self._questions = self._compose(self._loop, self._poller, config, self._access)
        return True

    def _begin(self, rounds: list[Round]) -> None:
        if not rounds:
            return
        now = self._loop.time()
        apart = min(APART, self._interval / len(rounds))
        for round in rounds:
            wait = self._spacing.take(now, apart)  # longer than an interval if other services have just come as well
            self._book(round, wait if wait < self._interval else self._interval * self._rng.random())

    def _forget(self, round: Round) -> None:
        round.stop()
        if self._questions is not None:
            self._questions.forget(round.endpoint)

    def _stop(self) -> None:
        for round in self._rounds.values():
            self._forget(round)
        self._rounds.clear()
        self._questions = None

    def close(self) -> None:
        """No probe is under way, and none comes any more."""
        self._closed = True
        self._stop()

    # ---- one probe after the other

    def _book(self, round: Round, wait: float) -> None:
        round.timer = self._loop.call_later(wait, self._due, round)

    def _due(self, round: Round) -> None:
        questions = self._questions
        assert questions is not None
        round.timer = None
        round.began = self._loop.time()
        round.probe = questions.begin(round.endpoint, lambda why: self._answered(round, why))

    def _answered(self, round: Round, why: str | None) -> None:
        round.probe = None
        member = round.member
        was_down = member.proven is False
        try:
            if why:
                self._service.missed(member, why)
            elif why is not None:
                self._service.passed(member)
        finally:
            # What it told may have led to other members, or to another configuration, by now.
            if self._rounds.get(member) is round and round.timer is None and round.probe is None:
                self._go_on(round, why, was_down)

    def _go_on(self, round: Round, why: str | None, was_down: bool) -> None:
        if why is not None:
            same = why == round.why and why != ""
            round.slow = min(round.slow + 1, SLOWEST) if same and was_down else 1
            round.why = why
        pause = self._interval * round.slow * (1 + JITTER * (2 * self._rng.random() - 1))
        self._book(round, max(0.0, round.began + pause - self._loop.time()))
