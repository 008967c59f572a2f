"""One request and its response, between any client version and any channel.

Two half-machines. The client half is told by the session what the client does; the upstream half goes from NONE over
ACQUIRING (`acquiring.py`) and AWAITING (the response's head) to BODY and ENDED. `finish` is called exactly once.

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
from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING

from edgeproxy.codec._leaf import Edits, RequestHead, ResponseHead
from edgeproxy.errors import OK, Kind, Outcome, Phase, ProxyError, status_for
from edgeproxy.net.transport import SocketTransport
from edgeproxy.policy.latency import observe
from edgeproxy.policy.retry import IDEMPOTENT
from edgeproxy.session.acquiring import ACQUIRING, AWAITING, BODY, ENDED, NONE, TUNNEL, Acquiring
from edgeproxy.session.client import Client
from edgeproxy.session.record import grpc_number, grpc_status
from edgeproxy.session.reply import Reply, error_reply, options_reply, route_reply
from edgeproxy.session.upload import Upload
from edgeproxy.snapshot import Snapshot
from edgeproxy.upstream.channel import Channel
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.service import Service, Waiter

if TYPE_CHECKING:
    from edgeproxy.router import Route

EVIDENCE = frozenset({502, 503, 504})  # statuses that count against an endpoint (balancing.md, passive health)
# An endpoint may close what is idle, and decline what is new.
BLAMELESS = frozenset({Kind.STALE, Kind.GOAWAY, Kind.NOT_PROCESSED})

_PHASES = (Phase.ROUTE, Phase.CONNECT, Phase.WAIT, Phase.BODY, Phase.TUNNEL, Phase.DONE)  # by stage

_rng = Random()


class Exchange(Acquiring):
    __slots__ = ("continued", "_snapshot", "_timer", "_target")

    def __init__(self, session: Client, listener: str, head: RequestHead | None, started: float, client: str,
                 request_id: str) -> None:
        self.session = session
        self.listener = listener
        self.head = head
        self.started = started
        self.client = client
        peer = self._peer = session.peer  # a session is known by its protocol only: each look costs 40 ns
        self.sni = peer.sni
        self.tls = peer.tls
        self.grpc_status = -1
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
        self._member = None
        self._channel = None
        self._pending = None
        self._timer: asyncio.TimerHandle | None = None
        self._tries = ()
        self._stage = NONE
        self._upload = None
        self._target: bytes | None = None

    # ---- the request

    def take_body(self, payload: bytes, done: bool, trailers: bytes) -> None:
        """Before `start`, of a request that has a body: what came of it with the head."""
        upload = self._upload = Upload(payload)
        self.bytes_in = len(payload)
        if done:
            upload.end(trailers)

    def start(self, snapshot: Snapshot) -> None:
        """Route the request and bring it under way."""
        head = self.head
        assert head is not None
        self._snapshot = snapshot
        gate = self._peer.gate
        if gate is not None:
            verdict = gate.check(head)
            if verdict is not None:
                self._turned_away(verdict)
                return
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
        member = service.pick() if service.plain else self._choose(service, ())
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

    def _turned_away(self, verdict: Reply | ProxyError) -> None:
        """The listener answers itself: a redirect to https, a connection that this request must not come on."""
        if isinstance(verdict, ProxyError):
            self._answer_error(verdict)
        else:
            self._answer(verdict, OK)

    def _prepare(self, route: Route, head: RequestHead) -> str | None:
        """What few routes ask for; the name of the service, None if the request was answered. Raises ProxyError."""
        peer = self._peer
        reply = route_reply(route, head, peer.scheme, peer.port)
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

    def _send(self, channel: Channel, now: float) -> None:
        head, upload = self.head, self._upload
        assert head is not None
        self._channel = channel
        self._stage = AWAITING
        self._since = now
        timeout = self._route.response_timeout or inf
        if upload is None:
            channel.send(self, head, b"", True, b"", timeout, now)
            return
        channel.send(self, head, bytes(upload.data), upload.done, upload.trailers, timeout, now)
        if self._channel is not channel:  # it took nothing, and another try is under way that needs it all
            return
        upload.trim()
        if not upload.done and not channel.full:
            self.session.resume_request()

    # ---- the request's head (asked for by the channel)

    def outbound(self) -> bytes:
        head, route = self.head, self._route
        assert head is not None
        edits = None if route.request_edits is None else self._snapshot.edits[route.name][0]
        host = route.rewrite_host or self._service.host
        if not head.minor and host is None:
            host = self._missing_host(head)
        return head.outbound(self._peer.forward, self.request_id.encode(), self._target, host, edits)

    def outbound_fields(self, scheme: bytes) -> list[tuple[bytes, bytes]]:
        head, route = self.head, self._route
        assert head is not None
        edits = None if route.request_edits is None else self._snapshot.edits[route.name][0]
        host = route.rewrite_host or self._service.host
        if not head.minor and host is None:
            host = self._missing_host(head)
        return head.outbound_fields(self._peer.forward, self.request_id.encode(), self._target, host, edits,
                                    scheme)

    def _missing_host(self, head: RequestHead) -> bytes | None:
        """HTTP/1.0 may lack a Host, HTTP/1.1 and HTTP/2 may not: that of the endpoint then."""
        member = self._member
        assert member is not None
        if head.authority:
            return None
        return member.address.encode() if not member.endpoint.path else b"localhost"

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
        assert member is not None
        if status in EVIDENCE:
            service.failed(member, Kind.STATUS, status)
            if self._retried(ProxyError(Kind.STATUS, f"status {status}"), status):
                return
        elif member.ejections:
            service.succeeded(member)
        if service.least_latency:
            observe(member, self.first_byte_s, now)
        self.status = status
        self._stage = BODY
        self.bytes_out = len(payload)
        edits = None if route.response_edits is None else self._snapshot.edits[route.name][1]
        if service.sets_cookie:
            edits = self._with_cookie(service, member, edits, head)
        channel = self._channel
        assert channel is not None
        self.session.respond(head, payload, done, edits, channel.trailers if done else b"")
        if done:
            if not payload and service.access.multiplexed:  # gRPC may answer without trailers if it has nothing to say
                self.grpc_status = grpc_number(head.get(b"grpc-status"))
            self._complete(channel, now)

    def _with_cookie(self, service: Service, member: Member, edits: Edits | None, answer: ResponseHead) -> Edits | None:
        """The changes to the response's fields, with the cookie that binds the client, if it needs one. A shared cache
        would give one client's cookie to all: what it may keep has none."""
        cached = answer.get(b"cache-control")
        if cached and (b"public" in cached.lower() or b"s-maxage" in cached.lower()):
            return edits
        peer, head = self._peer, self.head
        assert head is not None
        secure = peer.scheme == "https" or peer.trusted and head.get(b"x-forwarded-proto") == b"https"
        cookie = service.cookie_for(head, member, self._tries, secure)
        if not cookie:
            return edits
        put, add, remove = self._route.response_edits or ((), (), ())
        return Edits(put, (*add, (b"Set-Cookie", cookie)), remove)

    def response_data(self, payload: bytes, done: bool) -> None:
        self.bytes_out += len(payload)
        channel = self._channel
        assert channel is not None
        self.session.respond_data(payload, done, channel.trailers if done else b"")
        if done:
            self._complete(channel, monotonic())

    def _complete(self, channel: Channel, now: float) -> None:
        """As `_leave` and `_finish`, for the good end."""
        head, service, member, session = self.head, self._service, self._member, self.session
        assert head is not None and member is not None
        self._channel = None
        if channel.trailers and service.access.multiplexed:
            self.grpc_status = grpc_status(channel.trailers)
        channel.release(now, self._upload is None or self._upload.done and (self.continued or not head.expect))
        self._member = None
        member.active -= 1
        if service.waiting:
            service.wake()
        self._stage = ENDED
        self.ended = now
        if self._timer is not None:
            self._timer.cancel()
        trace = head.get(b"traceparent")
        self.traceparent = trace.decode("latin-1") if trace else ""
        session.log(self)
        session.finished()

    def upgraded(self, head: ResponseHead, transport: SocketTransport, rest: bytes) -> None:
        channel, self._channel = self._channel, None
        assert channel is not None
        if not self._request_done:  # RFC 9110 §7.8: the old protocol ends with the whole request
            channel.reset()
            self._leave()  # no evidence: a client can bring any such endpoint to this
            self._answer_error(ProxyError(Kind.RESPONSE_BROKEN, "101 before the end of the request"))
            return
        self.status = 101
        self.first_byte_s = monotonic() - self._since
        self._stage = TUNNEL
        service, member = self._service, self._member
        assert member is not None
        edits = None if self._route.response_edits is None else self._snapshot.edits[self._route.name][1]
        if service.sets_cookie:
            edits = self._with_cookie(service, member, edits, head)
        if self._timer is not None:
            self._timer.cancel()
        self.session.upgrade(head, edits, transport, rest, self._tunnel_ended)

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
        if self._channel is not None and self._stage == BODY:
            self._channel.pause()

    def client_ready(self) -> None:
        if self._channel is not None and self._stage == BODY:
            self._channel.resume()

    # ---- failure

    def channel_failed(self, error: ProxyError) -> None:
        self._channel = None
        self._upstream_failed(error)

    def _upstream_failed(self, error: ProxyError) -> None:
        """The try is over; its channel is gone."""
        service, member = self._service, self._member
        assert member is not None
        if error.kind not in BLAMELESS and not (error.kind is Kind.RESPONSE_TIMEOUT and self._asking):
            service.failed(member, error.kind)
        if self._stage == BODY:
            self._leave()
            self.cause = error.cause
            self._finish(Outcome(error.kind.word, Phase.BODY), monotonic(), cut=True)
        elif not self._retried(error, 0):
            self.attempts = (*self.attempts, (member.address, error.kind.word))
            self._leave()
            self._answer_error(error)

    @property
    def _asking(self) -> bool:
        """The request waits for 100 (Continue). Many an endpoint never says that, and waits for the body."""
        head = self.head
        return head is not None and head.expect and not (self.continued or self.bytes_in or self._request_done)

    def client_gone(self, kind: Kind = Kind.CLIENT_GONE) -> None:
        """The client left, or (DRAINING) is being left: nothing it started goes on."""
        if self._stage == ENDED:
            return
        phase = self._phase()
        self._give_up()
        self.status = self.status or kind.status
        self._finish(Outcome(kind.word, phase), monotonic(), told=False)

    def request_failed(self, error: ProxyError) -> None:
        """The client broke the protocol or a limit within its body, or was too slow."""
        if self._stage == ENDED:
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
        if stage == ACQUIRING and isinstance(self._pending, Waiter):
            return Phase.QUEUE
        if stage == AWAITING and not self._request_done:
            return Phase.SEND
        return _PHASES[stage]

    def _total_expired(self) -> None:
        self._timer = None
        if self._stage != ENDED:
            self.request_failed(ProxyError(Kind.TOTAL_TIMEOUT, "the exchange took longer than the route allows"))

    # ---- the end

    def refuse(self, error: ProxyError) -> None:
        """Answer a request that was never routed: its head broke the rules."""
        self._answer_error(error, Phase.HEAD)

    def _answer_error(self, error: ProxyError, phase: Phase | None = None) -> None:
        self.cause = error.cause
        status = status_for(error)
        reply = error_reply(error, status, self.head, self.request_id)
        if reply.status != status:
            self.grpc_status = grpc_number(dict(reply.fields).get(b"grpc-status"))
        self._answer(reply, Outcome(error.kind.word, phase or self._phase()), status)

    def _answer(self, reply: Reply, outcome: Outcome, status: int = 0) -> None:
        """`status`: what is logged, where that is not what is sent (gRPC says 200 to everything)."""
        self.status = status or reply.status
        self.bytes_out = self.session.respond_local(reply)
        self._finish(outcome, monotonic())

    def _finish(self, outcome: Outcome, now: float, cut: bool = False, told: bool = True) -> None:
        assert self._stage != ENDED
        self._stage = ENDED
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
