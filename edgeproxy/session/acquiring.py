"""The half of an exchange that gets a channel: an endpoint, a place at it, a connection, and all of these again for
another try.

    NONE        an endpoint with an idle channel    the request is sent at once: no task, no timer, no exception
    NONE        every endpoint is at its limit      ACQUIRING: a place in the service's queue
    any         a member, no idle channel           ACQUIRING: a dial, of its own or (HTTP/2) shared with others
    ACQUIRING   a channel                           the request is sent
    ACQUIRING   the queue or the dial fails         another endpoint if policy allows, else the answer is an error
"""
from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from edgeproxy.errors import Kind, Phase, ProxyError
from edgeproxy.net.transport import Receiver, SocketTransport
from edgeproxy.policy.retry import IDEMPOTENT, decide
from edgeproxy.session.client import Client
from edgeproxy.session.hashing import exchange_key
from edgeproxy.session.peer import Peer
from edgeproxy.session.record import ExchangeRecord
from edgeproxy.session.upload import Upload
from edgeproxy.upstream.channel import Channel
from edgeproxy.upstream.http1 import Http1Channel
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.reach import Reach
from edgeproxy.upstream.service import Service, Waiter
from edgeproxy.upstream.shared import Seat, Shared
from edgeproxy.upstream.stream import Http2Stream

if TYPE_CHECKING:
    from edgeproxy.router import Route

CONNECT_TIMEOUT: Final = 3.0

# Plain numbers, not an enum: the compiled code compares them in an instruction.
NONE: Final = 0
ACQUIRING: Final = 1
AWAITING: Final = 2
BODY: Final = 3
TUNNEL: Final = 4
ENDED: Final = 5


class Acquiring(ExchangeRecord):
    __slots__ = ("session", "_route", "_service", "_member", "_channel", "_pending", "_tries", "_stage", "_upload",
                 "_since", "_peer")

    session: Client
    _peer: Peer
    _route: Route
    _service: Service
    _member: Member | None
    _channel: Channel | None
    _pending: Reach | Seat | Waiter | None
    _tries: tuple[Member, ...]
    _stage: int
    _upload: Upload | None
    """Of a request that has a body."""
    _since: float

    # ---- what the rest of the exchange does

    def _send(self, channel: Channel, now: float) -> None:
        raise NotImplementedError

    def _upstream_failed(self, error: ProxyError) -> None:
        raise NotImplementedError

    def _answer_error(self, error: ProxyError, phase: Phase | None = None) -> None:
        raise NotImplementedError

    # ---- a place

    def _key(self, service: Service) -> int:
        return exchange_key(self, service) if service.keyed else 0

    def _choose(self, service: Service, tried: tuple[Member, ...]) -> Member | None:
        """An endpoint for this request, where the request or its client has a part in the choice."""
        return service.pick_for(self.client, self.head, self._key(service), tried)

    def _queue(self, service: Service) -> None:
        """No endpoint can be had now: wait for a place if that is allowed."""
        error = service.unavailable()
        if service.worth_waiting(error):
            self._since = monotonic()
            self._stage = ACQUIRING
            self._pending = service.wait(lambda: self._choose(service, ()), self._placed)
            if self._pending is not None:
                return
            self._answer_error(error, Phase.QUEUE)
        else:
            self._answer_error(error)

    def _placed(self, place: Member | ProxyError) -> None:
        """The queue has an endpoint for this exchange, or the wait was in vain."""
        self._pending = None
        now = monotonic()
        self.queue_s = now - self._since
        if isinstance(place, ProxyError):
            self._answer_error(place, Phase.QUEUE)
        else:
            self._use(self._service, place, False, now)

    # ---- a channel

    def _use(self, service: Service, member: Member, fresh: bool, now: float) -> None:
        """Take a place at `member` and a channel to it: one that is open already unless `fresh`."""
        self._member = member
        self.endpoint = member.address
        member.active += 1
        member.total += 1
        pool = member.pool
        timeout = service.config.timeouts.connect
        if timeout is None:
            timeout = CONNECT_TIMEOUT
        if isinstance(pool, Shared):
            head = self.head
            stream = pool.take(fresh, head is None or head.method not in IDEMPOTENT)
            if stream is not None:
                self._send_at_once(stream, stream.reused, now)
                return
            self._dialing(now)
            self._pending = pool.wait(self.session.loop, self.session.poller, timeout, self._seated, self._unreached)
            return
        if pool.idle and not fresh:
            channel = pool.take_quiet()
            if channel is not None:
                self._send_at_once(channel, True, now)
                return
        self._dialing(now)
        header = self._peer.announcement(pool.access.announces) if pool.access.announces else b""
        self._pending = Reach(self.session.loop, self.session.poller, member.endpoint, pool, header, timeout,
                              self._opened, self._unreached)

    def _send_at_once(self, channel: Channel, reused: bool, now: float) -> None:
        self.reused = reused
        self._send(channel, now)

    def _dialing(self, now: float) -> None:
        self.reused = False
        self._stage = ACQUIRING
        self._since = now

    def _connected(self) -> float:
        self._pending = None
        now = monotonic()
        self.connect_s = now - self._since
        return now

    def _opened(self, transport: SocketTransport) -> Receiver:
        reach = self._pending
        assert isinstance(reach, Reach)
        now = self._connected()
        channel = Http1Channel(self.session.loop, self.session.poller, transport, reach.pool)
        self._send(channel, now)
        return channel

    def _seated(self, stream: Http2Stream) -> None:
        self._send(stream, self._connected())

    def _unreached(self, error: ProxyError) -> None:
        self._connected()
        self._upstream_failed(error)

    # ---- another try

    def _retried(self, error: ProxyError, status: int) -> bool:
        """Start another try if the policy allows one; the present one is given up then."""
        head, service, member, upload = self.head, self._service, self._member, self._upload
        assert head is not None and member is not None
        if not decide(self._route.retry, error, status=status, method=head.method, tries=len(self._tries) + 1,
                      replayable=upload is None or upload.replayable, written=self._stage != ACQUIRING,
                      idempotency_key=head.get(b"idempotency-key") is not None):
            return False
        stale = error.kind is Kind.STALE
        now = monotonic()
        # A connection that ends politely may leave out any number at once, and none of them has cost the endpoint much.
        if not stale and error.kind is not Kind.GOAWAY and not service.budget.allow(now):
            return False
        member.active -= 1  # its place is this exchange's to take again; the waiters are told when that is settled
        tries = self._tries if stale else (*self._tries, member)
        again = member if stale else self._choose(service, tries)
        if again is None:
            member.active += 1
            return False
        self._tries = tries
        self.attempts = (*self.attempts, (member.address, error.kind.word if not status else str(status)))
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.release(now, upload is None or upload.done)
        self._use(service, again, stale, now)
        if service.waiting:  # only now: a waiter must not get the place that `again` was picked for
            service.wake()
        return True

    # ---- letting go

    def _give_up(self) -> None:
        """Let go of the place in the queue, the dial or the channel."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.reset()
        self._leave()

    def _leave(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            self._service.leave(member)
