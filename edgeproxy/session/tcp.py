"""One client connection of a tcp or tls listener: it gets an endpoint, then bytes go both ways until both are done.

    stage     stimulus                         then
    QUEUED    a place at an endpoint           DIALING
    QUEUED    no place in time                 ended, RST to the client
    DIALING   connected                        RELAYING
    DIALING   refused, reset, time             the next endpoint; after the last try ended, RST to the client
    both      the client resets                ended; a FIN is no leaving: what it sent waits in the kernel
    RELAYING  EOF on one side                  FIN to the other; its way back stays open for `half_closed`
    RELAYING  EOF on both                      ended
    RELAYING  RST on one side                  what that side had sent goes on, then RST to the other: ended
    any       nothing moves for `idle`, abort  ended, RST to both

Sockets are raw, non-blocking and watched by a `Poller` (why: see there; and uvloop's transports corrupt memory when
half-closed). Each way is a `Flow`. A watcher's exception ends its own connection and nothing else.
"""
from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from edgeproxy.codec.clienthello import ClientHello
from edgeproxy.codec.proxyproto import ProxyHeader
from edgeproxy.config import model
from edgeproxy.errors import OK, Kind, Outcome, Phase, ProxyError
from edgeproxy.net.deadline import YOUNG, Deadline, Nursery
from edgeproxy.net.poller import BROKEN, DEAD, ENDING, READABLE, WRITABLE, Poller
from edgeproxy.net.sockets import close, keepalive, reset
from edgeproxy.session.hashing import client_key
from edgeproxy.session.opening import announcement
from edgeproxy.session.record import ConnectionRecord
from edgeproxy.session.splice import OPEN, Flow
from edgeproxy.upstream.connector import begin, settle
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.service import Service, Waiter

_log = logging.getLogger("edgeproxy")

LADDER = (0.25, 0.5, 1.0, 2.0)  # seconds for each try to connect, as kube-proxy's userspace mode
FIRST = 16 * 1024  # bytes that wait here while the endpoint is dialled; the rest waits in the kernel
SETTLED = 10.0
"""A relay that lives so long gets TCP keepalive towards its endpoint: four system calls a short one does without."""

FAULT = "internal error in a tcp connection, it was dropped; please report it"

_CLIENT_LEFT_EARLY = Outcome(Kind.CLIENT_GONE.word, Phase.CONNECT)
_CLIENT_LEFT_QUEUE = Outcome(Kind.CLIENT_GONE.word, Phase.QUEUE)
_CLIENT_RESET = Outcome(Kind.CLIENT_GONE.word, Phase.TUNNEL)
_UPSTREAM_RESET = Outcome(Kind.RESET.word, Phase.TUNNEL)
_IDLE = Outcome(Kind.IDLE_TIMEOUT.word, Phase.TUNNEL)


class TcpListener:
    """What the connections of one tcp or tls listener share. A reload changes it in place."""

    __slots__ = ("name", "poller", "nursery", "idle", "half_closed")

    def __init__(self, config: model.Listener, poller: Poller) -> None:
        self.name = config.name
        self.poller = poller
        self.nursery = Nursery()
        self.apply(config)

    def apply(self, config: model.Listener) -> None:
        """Follow `config`, for open connections too. No limit is `inf` from here on."""
        self.idle = config.idle_or_default or inf
        self.half_closed = config.timeouts.half_closed or inf


class TcpRecord(ConnectionRecord):
    """What is told of a connection when it has ended."""

    __slots__ = ()

    def __init__(self, client: str, listener: str, service: str, started: float, sni: str) -> None:
        self.client = client
        self.listener = listener
        self.service = service
        self.endpoint = ""
        """The address that was relayed to; empty if none was reached."""
        self.attempts = []
        self.bytes_in = 0
        """From the client, as far as the endpoint's socket took them."""
        self.bytes_out = 0
        self.started = started
        self.ended = started
        self.queue_s = -1.0
        self.connect_s = -1.0
        self.outcome = OK
        self.sni = sni
        self.cause = ""

    @property
    def duration(self) -> float:
        return self.ended - self.started

    @property
    def connect_ms(self) -> float | None:
        return None if self.connect_s < 0.0 else self.connect_s * 1000.0


# Plain numbers, not an enum: the compiled code compares them in an instruction.
_QUEUED: Final = 0
_DIALING: Final = 1
_RELAYING: Final = 2
_ENDED: Final = 3


class TcpSession:
    """Serves `client` (non-blocking, its own from now on) until it ends; then `on_end(record)`, once.

    The constructor never calls `on_end`. It may raise OSError; then nothing was begun.
    """

    __slots__ = ("listener", "poller", "service", "stage", "loop", "_client", "_client_fd", "_upstream",
                 "_upstream_fd", "_member", "_on_end", "_record", "_until", "_deadline", "_key", "_tried", "_tries",
                 "_since", "_waiter", "_upload", "_download", "_client_spoke", "_first", "_own", "_half_at", "_settled")

    def __init__(self, loop: asyncio.AbstractEventLoop, client: socket.socket, peer: str, listener: TcpListener,
                 service: Service, on_end: Callable[[TcpRecord], None], header: ProxyHeader | None = None,
                 hello: ClientHello | None = None) -> None:
        """`peer`: the client's address; `header`, `hello`: what was found in its opening."""
        now = monotonic()
        self.listener = listener
        self.poller = listener.poller
        self.service = service
        self.stage = _DIALING
        self.loop = loop
        self._client = client
        self._client_fd = client.fileno()
        self._upstream: socket.socket | None = None
        self._upstream_fd = -1
        self._member: Member | None = None
        self._on_end = on_end
        self._record = TcpRecord(peer, listener.name, service.name, now, hello.sni if hello is not None else "")
        self._until = inf
        self._deadline: Deadline | None = None
        self._key = client_key(peer, service.config.balance.ipv6_prefix) if service.keyed else 0
        self._tried: list[Member] = []
        self._tries = 0
        self._since = now
        self._waiter: Waiter | None = None
        self._upload: Flow | None = None
        self._download: Flow | None = None
        self._client_spoke = 0
        self._half_at = inf
        self._settled = False
        self._first = b""
        self._own = 0  # bytes in `_first` that are not the client's
        if service.config.send_proxy_protocol is not None:
            self._first = announcement(service.config.send_proxy_protocol, client, header, hello)
            self._own = len(self._first)
        self._look_ahead(client)
        self.poller.watch(self._client_fd, self._client_event)
        listener.nursery.add(self, loop)
        try:
            self._next()
        except Exception:
            _log.exception(FAULT)
            loop.call_soon(self._cut, Outcome(Kind.INTERNAL.word, Phase.CONNECT))

    def abort(self) -> None:
        """End it now, with RST to both."""
        self._cut(Outcome(Kind.DRAINING.word, self._phase()))

    # ---- an endpoint for the client

    def _look_ahead(self, client: socket.socket) -> None:
        """Take what the client has sent already, so that it can go with the last step of the endpoint's handshake."""
        try:
            data = client.recv(FIRST)
            if data:
                self._first += data
            else:
                self._client_spoke = READABLE
        except BlockingIOError:
            pass
        except OSError:
            self._client_spoke = BROKEN
            self.loop.call_soon(self._cut, _CLIENT_LEFT_EARLY)

    def _client_event(self, events: int) -> None:
        """Before the relay: bytes and FIN can wait in the kernel, a reset client cannot."""
        if events & DEAD:
            self._cut(_CLIENT_LEFT_QUEUE if self.stage == _QUEUED else _CLIENT_LEFT_EARLY)
        else:
            self._client_spoke |= events & READABLE

    def _next(self) -> None:
        service = self.service
        while self._tries < len(LADDER):
            member = service.pick(self._key, self._tried) if service.binding is None else self._choose()
            if member is None:
                self._no_place()
                return
            if self._dial(member):
                return
        self._give_up(Phase.CONNECT)

    def _choose(self) -> Member | None:
        return self.service.pick_for(self._record.client, None, self._key, self._tried)

    def _dial(self, member: Member) -> bool:
        """Whether the connect is under way."""
        service = self.service
        timeout = service.config.timeouts.connect
        if timeout is None:
            timeout = LADDER[self._tries]
        self._tries += 1
        self._member = member
        service.enter(member)
        sock, kind = begin(member.endpoint, bool(self._first))
        if sock is None:
            self._try_failed(kind or Kind.CONNECT_FAILED)
            return False
        self._upstream = sock
        self._upstream_fd = sock.fileno()
        self.poller.watch(self._upstream_fd, self._connect_event)
        self._expire_at(monotonic() + (timeout or inf))
        return True

    def _try_failed(self, kind: Kind) -> None:
        member, self._member = self._member, None
        assert member is not None
        if self._upstream is not None:
            self.poller.forget(self._upstream_fd)
            close(self._upstream)
            self._upstream = None
        self._tried.append(member)
        record = self._record
        record.attempts = [*record.attempts, (member.address, kind.word)]
        self.service.failed(member, kind)
        self.service.leave(member)

    def _connect_event(self, events: int) -> None:
        try:
            sock = self._upstream
            if sock is None or not events & (WRITABLE | DEAD):
                return
            kind = settle(sock) if events & DEAD else None
            if kind is None:
                self._relay(sock, events)
            else:
                self._try_failed(kind)
                self._next()
        except Exception:
            self.fault()

    def _no_place(self) -> None:
        error = self.service.unavailable()
        if self.service.worth_waiting(error):
            self._expire_at(inf)
            self._waiter = self.service.wait(self._choose, self._placed)
            if self._waiter is not None:
                self.stage = _QUEUED
                return
        if not self._record.attempts:
            self._record.cause = error.cause
        self._give_up(Phase.QUEUE if error.kind is Kind.QUEUE_FULL else Phase.CONNECT, error.kind)

    def _placed(self, answer: Member | ProxyError) -> None:
        try:
            self._waiter = None
            self._record.queue_s = monotonic() - self._since
            self.stage = _DIALING
            if isinstance(answer, ProxyError):
                self._give_up(Phase.QUEUE, answer.kind)
            elif not self._dial(answer):
                self._next()
        except Exception:
            self.fault()

    def _give_up(self, phase: Phase, kind: Kind | None = None) -> None:
        """Every try failed. Told by the loop, because the constructor's caller does not know the session yet."""
        attempts = self._record.attempts
        cause = attempts[-1][1] if attempts and phase is Phase.CONNECT else (kind or Kind.UNAVAILABLE).word
        self.loop.call_soon(self._cut, Outcome(cause, phase))

    # ---- the relay

    def _relay(self, upstream: socket.socket, events: int) -> None:
        poller = self.poller
        now = poller.now
        self.stage = _RELAYING
        self._record.connect_s = now - self._since
        self._upload = upload = Flow(self, poller, self._client, upstream)
        self._download = download = Flow(self, poller, upstream, self._client)
        upload.back, download.back = download, upload
        poller.hand_over(self._client_fd, upload.event)
        poller.hand_over(self._upstream_fd, download.event)
        self._expire_at(now + min(SETTLED, self.listener.idle))
        upload.begin(self._first, self._client_spoke)
        if events & READABLE and download.state == OPEN:
            download.pump(events & ENDING)

    def half_closed(self) -> None:
        """One side has closed; the other has a limited time to finish."""
        self._half_at = now = self.poller.now
        if self.listener.half_closed < SETTLED:  # else the deadline looks often enough
            self._expire_at(min(self._until, now + self.listener.half_closed))

    def source_reset(self, flow: Flow) -> None:
        """A flow has come to the end of what its source sent before it was reset."""
        if self.stage == _RELAYING:
            self._cut(_CLIENT_RESET if flow is self._upload else _UPSTREAM_RESET)

    def _expire_at(self, at: float) -> None:
        self._until = at
        if self._deadline is not None:
            self._deadline.set(at)
        elif at < monotonic() + 2 * YOUNG:
            self.grow_up()

    def grow_up(self) -> None:
        """From now on with a timer."""
        if self._deadline is None and self.stage != _ENDED:
            self._deadline = Deadline(self.loop, self._expired)
            self._deadline.set(self._until)

    def _expired(self) -> None:
        try:
            if self.stage == _DIALING:
                self._try_failed(Kind.CONNECT_TIMEOUT)
                self._next()
            elif self.stage == _RELAYING:
                self._look()
        except Exception:
            self.fault()

    def _look(self) -> None:
        """What is too late to do for every chunk: is the relay still in use? And what only a long one needs."""
        upload, download, upstream, member = self._upload, self._download, self._upstream, self._member
        assert upload is not None and download is not None and upstream is not None and member is not None
        if not self._settled:
            self._settled = True
            keepalive(upstream)
        if download.total:
            self.service.succeeded(member)
        now = monotonic()
        due = min(max(upload.last, download.last) + self.listener.idle, self._half_at + self.listener.half_closed)
        if now >= due:
            self._cut(_IDLE)
        else:
            self._expire_at(due)

    # ---- the end

    def _phase(self) -> Phase:
        return Phase.QUEUE if self.stage == _QUEUED else Phase.CONNECT if self.stage == _DIALING else Phase.TUNNEL

    def fault(self) -> None:
        """A mistake of ours; called from an `except`."""
        _log.exception(FAULT)
        self._cut(Outcome(Kind.INTERNAL.word, self._phase()))

    def _cut(self, outcome: Outcome) -> None:
        if self.stage != _ENDED:
            self._close(reset)
            self._told(outcome)

    def end(self) -> None:
        """Both sides have closed in good order."""
        if self.stage != _ENDED:
            self._close(close)
            self._told(OK)

    def _close(self, closing: Callable[[socket.socket], None]) -> None:
        self.stage = _ENDED
        if self._deadline is not None:
            self._deadline.close()
            self._deadline = None  # it knows us: without it no cycle is left for the garbage collector
        if self._waiter is not None:
            self._waiter.cancel()
            self._waiter = None
        self.poller.forget(self._client_fd)
        closing(self._client)
        if self._upstream is not None:
            self.poller.forget(self._upstream_fd)
            closing(self._upstream)

    def _told(self, outcome: Outcome) -> None:
        record, member, service = self._record, self._member, self.service
        upload, download = self._upload, self._download
        record.ended = monotonic()
        record.outcome = outcome
        if upload is not None and download is not None:
            record.bytes_in, record.bytes_out = max(0, upload.total - self._own), download.total
            self._upload = self._download = None
            upload.release()
            download.release()
        try:
            if member is not None:
                self._member = None
                if record.connect_s >= 0.0:
                    record.endpoint = member.address
                if record.bytes_out:
                    service.succeeded(member)
                elif outcome is _UPSTREAM_RESET:
                    service.failed(member, Kind.RESET)
                service.leave(member)
            self._on_end(record)
        except Exception:
            _log.exception("internal error at the end of a tcp connection; please report it")
