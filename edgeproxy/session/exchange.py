"""One request and its response, between any client version and any channel.

Two half-machines. The client half is told by the session what the client does; the upstream half goes from NONE over
ACQUIRING (a queue place, a dial) and AWAITING (the response's head) to BODY and ENDED. `finish` is called exactly once.

    stimulus                   stage                  action
    acquire or send fails      <= AWAITING            try again on another endpoint if policy allows, else answer
    client gone                any                    give the place, the dial or the channel up; no evidence against
                                                      the endpoint
    upstream fails             BODY                   cut the client: a cut body must never look complete
    response ends              request still coming   an early answer: it is whole; the session drains the request
    one side is full           BODY                   pause the opposite source only
    both done                                         the channel goes back to its pool if it can carry another
    101                        AWAITING               the session becomes a tunnel, what both sides sent before first

On the warm path (route known, endpoint with an idle channel) this makes no task, no timer and no exception.
"""
from __future__ import annotations

import asyncio
import socket
from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Final

from edgeproxy.codec._leaf import RequestHead, ResponseHead
from edgeproxy.codec.h1 import CHUNKED
from edgeproxy.errors import OK, Kind, Outcome, Phase, ProxyError, RetryClass, status_for
from edgeproxy.policy.latency import observe
from edgeproxy.policy.retry import IDEMPOTENT, decide
from edgeproxy.session.client import Client
from edgeproxy.session.hashing import exchange_key
from edgeproxy.session.record import ExchangeRecord
from edgeproxy.session.reply import Reply, error_reply, options_reply, route_reply
from edgeproxy.session.upload import Upload
from edgeproxy.snapshot import Snapshot
from edgeproxy.upstream.channel import Channel
from edgeproxy.upstream.connector import Dial
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.service import Service, Waiter

if TYPE_CHECKING:
    from edgeproxy.router import Route

CONNECT_TIMEOUT = 3.0
EVIDENCE = frozenset({502, 503, 504})  # statuses that count against an endpoint (balancing.md, passive health)

_rng = Random()


# Plain numbers, not an enum: the compiled code compares them in an instruction.
_NONE: Final = 0
_ACQUIRING: Final = 1
_AWAITING: Final = 2
_BODY: Final = 3
_TUNNEL: Final = 4
_ENDED: Final = 5
_PHASES = (Phase.ROUTE, Phase.CONNECT, Phase.WAIT, Phase.BODY, Phase.TUNNEL, Phase.DONE)  # by stage


class Exchange(ExchangeRecord):
    __slots__ = ("session", "continued", "_snapshot", "_route", "_service", "_member", "_channel", "_pending", "_timer",
                 "_tries", "_stage", "_upload", "_target", "_since")

    def __init__(self, session: Client, listener: str, head: RequestHead | None, started: float, client: str,
                 request_id: str) -> None:
        self.session = session
        self.listener = listener
        self.head = head
        self.started = started
        self.client = client
        self.request_id = request_id
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.queue_s = -1.0
        self.connect_s = -1.0
        self.first_byte_s = -1.0
        self.route = ""
        self.service = ""
        self.endpoint = ""
        self.attempts = ()
        self.reused = False
        self.outcome = OK
        self.cause = ""
        self.continued = False
        """The client was told to go on with its body (100)."""
        self._member: Member | None = None
        self._channel: Channel | None = None
        self._pending: Dial | Waiter | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tries: tuple[Member, ...] = ()
        self._stage = _NONE
        self._upload: Upload | None = None
        """Of a request that has a body."""
        self._target: bytes | None = None

    # ---- the request

    def take_body(self, payload: bytes, done: bool, trailers: bytes) -> None:
        """Before `start`, of a request that has a body: what came of it with the head."""
        upload = self._upload = Upload(payload, self.head.length == CHUNKED)  # type: ignore[union-attr]
        self.bytes_in = len(payload)
        if done:
            upload.end(trailers)

    def start(self, snapshot: Snapshot) -> None:
        """Route the request and bring it under way."""
        head = self.head
        assert head is not None
        self._snapshot = snapshot
        router = snapshot.routers.get(self.listener)
        if router is None:  # a reload has removed the listener between this request's first byte and its last
            self._answer_error(ProxyError(Kind.DRAINING, "the listener is going away"))
            return
        route = router.find(head.host, head.path, head.method, head)
        if head.path == "*":  # OPTIONS * asks the proxy itself
            self._answer(options_reply(), OK)
            return
        if route is None:
            self._answer_error(ProxyError(Kind.NO_ROUTE, "no route for this host and path"))
            return
        self._route = route
        self.route = route.name
        name = route.service
        if name is None or route.rewrites or route.total_timeout:
            try:
                name = self._prepare(route, head)
            except ProxyError as error:
                self._answer_error(error)
                return
            if name is None:
                return
        self.service = name
        service = self._service = snapshot.services[name]
        now = self.started
        budget = service.budget  # here and below: calls written out, because each costs as much as ten lines
        if now >= budget.second_ends:
            budget.turn(now)
        budget.requests += 1
        member = service.pick(exchange_key(self, service) if service.keyed else 0)
        if member is None:
            self._queue(service)
            return
        idle = member.pool.idle
        if not idle or head.method not in IDEMPOTENT or not self.session.poller.turning:
            self._use(service, member, False, now)
            return
        self._member = member
        self.endpoint = member.address
        member.active += 1
        member.total += 1
        self.reused = True
        self._send(idle.pop(), now)

    def _prepare(self, route: Route, head: RequestHead) -> str | None:
        """What few routes ask for; the name of the service, None if the request was answered. Raises ProxyError."""
        reply = route_reply(route, head, "http", self.session.port)
        if reply is not None:
            self._answer(reply, OK)
            return None
        if route.total_timeout:
            self._timer = self.session.loop.call_later(route.total_timeout, self._total_expired)
        if route.rewrites:
            self._target = route.target_for(head.path, head.query, head.target)
        name = route.service if route.split is None else route.split.choose(_rng)
        if name is None:
            raise ProxyError(Kind.NO_WEIGHT, "every service of the route has weight 0")
        return name

    def request_data(self, payload: bytes, done: bool, trailers: bytes) -> None:
        """More of the request's body."""
        upload, channel = self._upload, self._channel
        assert upload is not None
        self.bytes_in += len(payload)
        if done:
            upload.end(trailers)
        upload.hold(payload, channel is not None)
        if channel is None:
            if upload.full and not done:
                self.session.pause_request()
            return
        if payload:
            channel.send_body(payload)
        if done:
            channel.send_end(trailers)

    @property
    def _request_done(self) -> bool:
        return self._upload is None or self._upload.done

    # ---- an endpoint and a channel

    def _queue(self, service: Service) -> None:
        """No endpoint can be had now: wait for a place if that is allowed."""
        error = service.unavailable()
        if error.kind is Kind.QUEUE_FULL:
            self._since = monotonic()
            self._stage = _ACQUIRING
            key = exchange_key(self, service) if service.keyed else 0
            self._pending = service.wait(key, (), self._placed)
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
            assert self._service is not None
            self._use(self._service, place, False, now)

    def _use(self, service: Service, member: Member, fresh: bool, now: float) -> None:
        """Take a place at `member` and a channel to it: an idle one unless `fresh`."""
        self._member = member
        self.endpoint = member.address
        member.active += 1
        member.total += 1
        idle = member.pool.idle
        if idle and not fresh:
            channel = member.pool.take_quiet()
            if channel is not None:
                self.reused = True
                self._send(channel, now)
                return
        self.reused = False
        self._stage = _ACQUIRING
        self._since = now
        timeout = service.config.timeouts.connect
        self._pending = Dial(self.session.loop, member.endpoint, CONNECT_TIMEOUT if timeout is None else timeout,
                             self._dialed)

    def _dialed(self, sock: socket.socket | None, kind: Kind | None) -> None:
        self._pending = None
        now = monotonic()
        self.connect_s = now - self._since
        if sock is None:
            self._upstream_failed(ProxyError(kind or Kind.CONNECT_FAILED, "could not connect to the endpoint"))
            return
        assert self._member is not None
        self._send(Channel(self.session.loop, self.session.poller, sock, self._member), now)

    def _send(self, channel: Channel, now: float) -> None:
        head, route = self.head, self._route
        assert head is not None and route is not None
        edits = None if route.request_edits is None else self._snapshot.edits[route.name][0]
        host = route.rewrite_host
        if not head.minor and not head.authority and host is None:  # HTTP/1.0 may lack one, HTTP/1.1 may not
            host = channel.member.address.encode() if not channel.member.endpoint.path else b"localhost"
        data = head.outbound(self.session.forward, self.request_id.encode(), self._target, host, edits)
        self._channel = channel
        self._stage = _AWAITING
        self._since = now
        if head.length == 0:
            channel.send(self, head, data, True, route.response_timeout or inf, now)
            return
        upload = self._upload
        assert upload is not None
        channel.send(self, head, data + upload.encoded(), upload.done, route.response_timeout or inf, now)
        upload.trim()
        if not upload.done and not channel.full:
            self.session.resume_request()

    # ---- the response (called by the channel)

    def interim(self, head: ResponseHead) -> None:
        if head.status == 100:
            self.continued = True
        if self.head.minor:  # type: ignore[union-attr]  # RFC 9110 §15.2: never to a 1.0 client
            self.session.respond_interim(head)

    def response(self, head: ResponseHead, payload: bytes, done: bool) -> None:
        now = monotonic()
        self.first_byte_s = now - self._since
        status = head.status
        service, member, route = self._service, self._member, self._route
        assert service is not None and member is not None and route is not None
        if status in EVIDENCE:
            service.failed(member, Kind.STATUS)
            if self._retried(ProxyError(Kind.STATUS, f"status {status}"), status):
                return
        elif member.ejections:
            service.succeeded(member)
        if service.least_latency:
            observe(member, self.first_byte_s, now)
        self.status = status
        self._stage = _BODY
        self.bytes_out = len(payload)
        edits = None if route.response_edits is None else self._snapshot.edits[route.name][1]
        channel = self._channel
        assert channel is not None
        self.session.respond(head, payload, done, edits, channel.decoder.trailers if done else b"")
        if done:
            self._complete(channel, now)

    def response_data(self, payload: bytes, done: bool) -> None:
        self.bytes_out += len(payload)
        channel = self._channel
        assert channel is not None
        self.session.respond_data(payload, done, channel.decoder.trailers if done else b"")
        if done:
            self._complete(channel, monotonic())

    def _complete(self, channel: Channel, now: float) -> None:
        """As `_leave` and `_finish`, for the good end."""
        head, service, member, session = self.head, self._service, self._member, self.session
        assert head is not None and service is not None and member is not None
        self._channel = None
        channel.release(now, self._upload is None or self._upload.done and (self.continued or not head.expect))
        self._member = None
        member.active -= 1
        if service.waiting:
            service.wake()
        self._stage = _ENDED
        self.ended = now
        if self._timer is not None:
            self._timer.cancel()
        trace = head.get(b"traceparent")
        self.traceparent = trace.decode("latin-1") if trace else ""
        session.log(self)
        session.finished()

    def upgraded(self, head: ResponseHead, rest: bytes) -> None:
        channel, self._channel = self._channel, None
        assert channel is not None and self._route is not None
        if not self._request_done:  # RFC 9110 §7.8: the old protocol ends with the whole request
            channel.reset()
            self._leave()  # no evidence: a client can bring any such endpoint to this
            self._answer_error(ProxyError(Kind.RESPONSE_BROKEN, "101 before the end of the request"))
            return
        self.status = 101
        self.first_byte_s = monotonic() - self._since
        self._stage = _TUNNEL
        edits = None if self._route.response_edits is None else self._snapshot.edits[self._route.name][1]
        if self._timer is not None:
            self._timer.cancel()
        self.session.upgrade(head, edits, channel.transport, rest, self._tunnel_ended)

    def _tunnel_ended(self, outcome: Outcome, bytes_in: int, bytes_out: int) -> None:
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self._leave()
        self._finish(outcome, monotonic(), told=False)

    # ---- flow

    def channel_full(self) -> None:
        """The endpoint takes no more of the request."""
        self.session.pause_request()

    def channel_ready(self) -> None:
        if not self._request_done:
            self.session.resume_request()

    def client_full(self) -> None:
        """The client takes no more of the response."""
        if self._channel is not None and self._stage == _BODY:
            self._channel.pause()

    def client_ready(self) -> None:
        if self._channel is not None and self._stage == _BODY:
            self._channel.resume()

    # ---- failure

    def channel_failed(self, error: ProxyError) -> None:
        self._channel = None
        self._upstream_failed(error)

    def _upstream_failed(self, error: ProxyError) -> None:
        """The try is over; its channel is gone."""
        service, member = self._service, self._member
        assert service is not None and member is not None
        if error.kind is not Kind.STALE:  # an idle connection that was closed says nothing about the endpoint
            service.failed(member, error.kind)
        if self._stage == _BODY:
            self._leave()
            self.cause = error.cause
            self._finish(Outcome(error.kind.word, Phase.BODY), monotonic(), cut=True)
        elif not self._retried(error, 0):
            self.attempts = (*self.attempts, (member.address, error.kind.word))
            self._leave()
            self._answer_error(error)

    def _retried(self, error: ProxyError, status: int) -> bool:
        """Start another try if the policy allows one; the present one is given up then."""
        head, route, service, member = self.head, self._route, self._service, self._member
        assert head is not None and route is not None and service is not None and member is not None
        upload = self._upload
        if not decide(route.retry, error, status=status, method=head.method, tries=len(self._tries) + 1,
                      replayable=upload is None or upload.replayable, written=error.retry is not RetryClass.CONNECT,
                      idempotency_key=head.get(b"idempotency-key") is not None):
            return False
        stale = error.kind is Kind.STALE
        now = monotonic()
        if not stale and not service.budget.allow(now):
            return False
        member.active -= 1  # its place is this exchange's to take again; the waiters are told when that is settled
        tries = self._tries if stale else (*self._tries, member)
        again = member if stale else service.pick(exchange_key(self, service) if service.keyed else 0, tries)
        if again is None:
            member.active += 1
            return False
        self._tries = tries
        self.attempts = (*self.attempts, (member.address, error.kind.word if not status else str(status)))
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.release(now, self._request_done)
        self._use(service, again, stale, now)
        if service.waiting:  # only now: a waiter must not get the place that `again` was picked for
            service.wake()
        return True

    def client_gone(self, kind: Kind = Kind.CLIENT_GONE) -> None:
        """The client left, or (DRAINING) is being left: nothing it started goes on."""
        if self._stage == _ENDED:
            return
        phase = self._phase()
        self._give_up()
        self.status = self.status or kind.status
        self._finish(Outcome(kind.word, phase), monotonic(), told=False)

    def request_failed(self, error: ProxyError) -> None:
        """The client broke the protocol or a limit within its body, or was too slow."""
        if self._stage == _ENDED:
            return
        phase = self._phase()
        self._give_up()
        if phase is Phase.BODY:
            self.cause = error.cause
            self._finish(Outcome(error.kind.word, Phase.BODY), monotonic(), cut=True)
        else:
            self._answer_error(error, Phase.HEAD if phase is Phase.ROUTE else phase)

    def _phase(self) -> Phase:
        stage = self._stage
        if stage == _ACQUIRING and isinstance(self._pending, Waiter):
            return Phase.QUEUE
        if stage == _AWAITING and not self._request_done:
            return Phase.SEND
        return _PHASES[stage]

    def _give_up(self) -> None:
        """Let go of the place in the queue, the dial or the channel."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.reset()
        self._leave()

    def _total_expired(self) -> None:
        self._timer = None
        if self._stage != _ENDED:
            self.request_failed(ProxyError(Kind.TOTAL_TIMEOUT, "the exchange took longer than the route allows"))

    def _leave(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            self._service.leave(member)

    # ---- the end

    def refuse(self, error: ProxyError) -> None:
        """Answer a request that was never routed: its head broke the rules."""
        self._answer_error(error, Phase.HEAD)

    def _answer_error(self, error: ProxyError, phase: Phase | None = None) -> None:
        self.cause = error.cause
        reply = error_reply(error, status_for(error), self.head, self.request_id)
        self._answer(reply, Outcome(error.kind.word, phase or self._phase()))

    def _answer(self, reply: Reply, outcome: Outcome) -> None:
        self.status = reply.status
        self.bytes_out = self.session.respond_local(reply)
        self._finish(outcome, monotonic())

    def _finish(self, outcome: Outcome, now: float, cut: bool = False, told: bool = True) -> None:
        assert self._stage != _ENDED
        self._stage = _ENDED
        self.outcome = outcome
        self.ended = now
        if self._timer is not None:
            self._timer.cancel()
        trace = self.head.get(b"traceparent") if self.head is not None else None
        self.traceparent = trace.decode("latin-1") if trace else ""
        session = self.session
        session.log(self)
        if cut:
            session.respond_cut()
        elif told:
            session.finished()
