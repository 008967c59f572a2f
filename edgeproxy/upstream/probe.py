"""One probe of one endpoint: it asks once, on a connection of its own, and says what came of it, once.

    tcp    a connection; with TLS the handshake too
    http   a request by the service's protocol; the status, and if asked for a text in the body
    grpc   grpc.health.v1.Health/Check

Rules: the endpoint is spoken to as the service speaks to it (protocol, TLS, PROXY header), but nothing that serves
requests is touched: no pool, no place, no counter, no TLS session of theirs. A fresh connection for each, as HAProxy,
Envoy and the kubelet have it: that new connections are taken is half of what a probe is to find out.

    stage        stimulus                                        then
    CONNECTING   TCP, PROXY header, TLS are done                 tcp: passed · else ASKING
    ASKING       an interim answer                               ASKING
    ASKING       the answer's head, of a wrong status            missed
    ASKING       the answer's head                               READING
    READING      the text is found, the end, 64 KiB              passed, or missed
    any          an error, EOF, `timeout` since the beginning    missed
    any          the proxy has no descriptor or port left        neither
"""
from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from edgeproxy.codec import grpc
from edgeproxy.codec._leaf import ResponseHead
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.net.sockets import reset
from edgeproxy.net.tls import TlsTransport
from edgeproxy.net.transport import NOBODY, Receiver, SocketTransport
from edgeproxy.policy.endpoint import Endpoint
from edgeproxy.upstream.channel import Channel
from edgeproxy.upstream.connector import begin, settle
from edgeproxy.upstream.http1 import Http1Channel
from edgeproxy.upstream.http2 import Http2Connection
from edgeproxy.upstream.reach import Reach
from edgeproxy.upstream.shared import Shared
from edgeproxy.upstream.wording import Wording

LOOKED_AT: Final = 64 * 1024
"""Bytes of a body that are read."""
TOLD: Final = 80
"""Characters of an endpoint's own words in a reason."""

UNREACHED: Final = "could not connect to the endpoint"
"""What `Reach` says when it knows no more than that."""

# Stages of a probe.
_CONNECTING: Final = 0
_ASKING: Final = 1
_READING: Final = 2

Done = Callable[[str | None], None]
"""What came of a probe: empty if it passed, else why not; None: nothing, as the proxy itself had no means to ask."""


class Questions(Wording):
    """What the endpoints of a service are asked, again and again."""

    __slots__ = ()

    def begin(self, endpoint: Endpoint, done: Done) -> Probe:
        """`done` is called once, from the loop and never before this has returned; not after `cancel`."""
        if self.health.tcp is None:
            return (Question if self.health.grpc is None else HealthQuestion)(self, endpoint, done)
        if self.access.tls is None and not self.header:
            return Knock(self, endpoint, done)
        return Contact(self, endpoint, done)


class Probe:
    """What all kinds share: the end, which comes once, and the time."""

    __slots__ = ("questions", "endpoint", "_done", "_timer")

    def __init__(self, questions: Questions, endpoint: Endpoint, done: Done) -> None:
        self.questions = questions
        self.endpoint = endpoint
        self._done: Done | None = done
        self._timer: asyncio.TimerHandle | None = questions.loop.call_later(questions.timeout, self._late)

    def cancel(self) -> None:
        """There is no call any more, and nothing is left open."""
        if self._done is not None:
            self._finish()
            self._drop()

    def _finish(self) -> Done | None:
        done, self._done = self._done, None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        return done

    def _end(self, why: str | None) -> None:
        done = self._finish()
        if done is not None:
            self._drop()
            done(why)

    def _fail(self, error: ProxyError) -> None:
        self._end(None if error.kind is Kind.EXHAUSTED else words(error, self.endpoint))

    def _late(self) -> None:
        self._timer = None
        self._end(f"{self._missing()} within {self.questions.timeout:g} s")

    def _missing(self) -> str:
        """What has not come when the time is over."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Let go of everything, at once."""
        raise NotImplementedError


class Knock(Probe):
    """tcp, and nothing is said: connected is what SYN+ACK says. The last packet of the handshake is held back, and RST
    goes out in its place (as HAProxy's tcp checks have it): the endpoint's program does not wake up for it, nothing
    appears in its log, and no TIME_WAIT stays here, of which a thousand endpoints would keep thirty thousand."""

    __slots__ = ("_sock", "_soon")

    def __init__(self, questions: Questions, endpoint: Endpoint, done: Done) -> None:
        super().__init__(questions, endpoint, done)
        self._soon: asyncio.Handle | None = None
        self._sock: socket.socket | None = None
        sock, kind = begin(endpoint, True)
        if sock is not None:
            try:
                questions.poller.watch(sock.fileno(), self._decided)
                self._sock = sock
                return
            except OSError:  # no room for another watch
                sock.close()
                kind = Kind.EXHAUSTED
        self._soon = questions.loop.call_soon(self._fail, ProxyError(kind or Kind.CONNECT_FAILED))

    def _decided(self, events: int) -> None:
        sock = self._sock
        if sock is None:
            return
        kind = settle(sock)
        if kind is None:
            self._end("")
        else:
            self._fail(ProxyError(kind))

    def _missing(self) -> str:
        return "no connection"

    def _drop(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        sock, self._sock = self._sock, None
        if sock is not None:
            self.questions.poller.forget(sock.fileno())
            reset(sock)


class Contact(Probe):
    """tcp with something to say first: the PROXY header, a TLS handshake. It closes in an orderly way."""

    __slots__ = ("_reach",)

    def __init__(self, questions: Questions, endpoint: Endpoint, done: Done) -> None:
        super().__init__(questions, endpoint, done)
        # Without a time of its own: that of the probe is for all of it.
        self._reach: Reach | None = Reach(questions.loop, questions.poller, endpoint, questions.pool, questions.header,
                                          0.0, self._opened, self._fail)

    def _opened(self, transport: SocketTransport) -> Receiver:
        transport.close()
        self._end("")
        return NOBODY

    def _missing(self) -> str:
        return "no connection" if self.questions.access.tls is None else "no connection with TLS"

    def _drop(self) -> None:
        reach, self._reach = self._reach, None
        if reach is not None:
            reach.cancel()


class Question(Contact):
    """http: the user of the one channel that its own connection has."""

    __slots__ = ("_channel", "_connection", "_transport", "_stage", "_body")

    def __init__(self, questions: Questions, endpoint: Endpoint, done: Done) -> None:
        self._channel: Channel | None = None
        self._connection: Http2Connection | None = None
        self._transport: SocketTransport | None = None
        self._stage = _CONNECTING
        self._body = b""
        super().__init__(questions, endpoint, done)

    # ---- asking

    def _opened(self, transport: SocketTransport) -> Receiver:
        questions = self.questions
        self._reach = None
        self._stage = _ASKING
        self._transport = transport
        if questions.access.multiplexed:
            alone = Shared(self.endpoint, 0, 0.0, questions.access)
            connection = Http2Connection(questions.loop, questions.poller, transport, alone, inf, self._began)
            self._connection = connection
            return connection.begin()
        channel = Http1Channel(questions.loop, questions.poller, transport, questions.pool)
        self._send(channel)
        return channel

    def _began(self, connection: Http2Connection, error: ProxyError | None) -> None:
        if self._done is None:
            return
        if error is not None:
            self._fail(error)
        elif connection.free <= 0:
            self._end("it allows no request on an HTTP/2 connection (SETTINGS_MAX_CONCURRENT_STREAMS is 0)")
        else:
            self._send(connection.stream())

    def _send(self, channel: Channel) -> None:
        self._channel = channel
        channel.send(self, self.questions.request, self.questions.payload, True, b"", inf, monotonic())

    def outbound(self) -> bytes:
        return self.questions.head(self.endpoint)

    def outbound_fields(self, scheme: bytes) -> list[tuple[bytes, bytes]]:
        return self.questions.fields(self.endpoint)

    # ---- the answer

    def interim(self, head: ResponseHead) -> None:
        pass

    def response(self, head: ResponseHead, payload: bytes, done: bool) -> None:
        status = head.status
        if not any(wanted.low <= status <= wanted.high for wanted in self.questions.wanted):
            self._end(f"status {status}, wanted {', '.join(map(str, self.questions.wanted))}")
            return
        self._stage = _READING
        self.response_data(payload, done)

    def response_data(self, payload: bytes, done: bool) -> None:
        if self._done is None:
            return
        body = self._body = self._body + payload if self._body else payload
        text = self.questions.text
        enough = done or len(body) >= LOOKED_AT
        if text and text in body[:LOOKED_AT]:
            self._answered(done)
        elif enough and text:
            self._end(f'body lacks "{self.questions.text.decode()[:TOLD]}"')
        elif enough:
            self._answered(done)

    def upgraded(self, head: ResponseHead, transport: SocketTransport, rest: bytes) -> None:
        """Never: nothing was said of it."""
        transport.abort()
        self._end(f"status {head.status}, unasked")

    def channel_failed(self, error: ProxyError) -> None:
        self._fail(error)

    def channel_full(self) -> None:
        pass

    def channel_ready(self) -> None:
        pass

    # ---- the end

    def _answered(self, done: bool) -> None:
        """It has passed; `done`: there is no more of the answer."""
        transport, sessions = self._transport, self.questions.sessions
        if sessions is not None and isinstance(transport, TlsTransport):
            sessions.keep(self.endpoint, transport)
        if done and self._connection is not None and self._channel is not None:
            self._connection = None  # its only stream ends in order, and it closes behind it
            self._channel.release(monotonic(), True)
        self._end("")

    def _missing(self) -> str:
        if self._stage == _CONNECTING:
            return super()._missing()
        return "no answer" if self._stage == _ASKING else "no end of the answer"

    def _drop(self) -> None:
        super()._drop()
        channel, self._channel = self._channel, None
        connection, self._connection = self._connection, None
        self._transport = None
        self._body = b""
        if connection is not None:
            connection.lost(None)
        elif isinstance(channel, Http1Channel):
            channel.close()


class HealthQuestion(Question):
    """grpc: the answer is in the body, and in fields that come before or behind it."""

    __slots__ = ("_told",)

    def __init__(self, questions: Questions, endpoint: Endpoint, done: Done) -> None:
        self._told: tuple[bytes, bytes] | None = None
        super().__init__(questions, endpoint, done)

    def response(self, head: ResponseHead, payload: bytes, done: bool) -> None:
        code = head.get(b"grpc-status")  # an answer without a body: these are its trailers too
        kind = head.get(b"content-type") or b""
        if code is not None:
            self._told = code, head.get(b"grpc-message") or b""
        elif head.status == 200 and not kind.startswith(b"application/grpc"):
            told = kind[:TOLD].decode("latin-1") or "none"
            self._end(f"the answer is no gRPC (its content-type: {told})")
            return
        super().response(head, payload, done)

    def response_data(self, payload: bytes, done: bool) -> None:
        self._body += payload
        if self._done is None:
            return
        if not done:
            if len(self._body) >= LOOKED_AT:
                self._end("grpc: the answer is too long")
            return
        channel = self._channel
        assert channel is not None
        code, message = self._told or _trailing(channel.trailers)
        why = self._judge(code, message)
        if why:
            self._end(f"grpc: {why}")
        else:
            self._answered(True)

    def _judge(self, code: bytes, message: bytes) -> str:
        """What is wrong with the answer; empty if nothing."""
        asked = self.questions.health.grpc
        if not code:
            return "no status (grpc-status) behind the answer"
        word = grpc.code_word(code)
        if word == grpc.UNIMPLEMENTED:
            return f"{word} (the server has no health service)"
        if word == grpc.NOT_FOUND and asked is not None:
            return f'{word} (the server knows no service "{asked.service}")'
        if word != "OK":
            return f"{word}: {message[:TOLD].decode('latin-1')}" if message else word
        try:
            status = grpc.read_check(self._body)
        except ValueError as fault:
            return str(fault)
        return "" if status == grpc.SERVING else grpc.state_word(status)


def _trailing(lines: bytes) -> tuple[bytes, bytes]:
    """grpc-status and grpc-message of trailer lines; empty where there is none."""
    found = {b"grpc-status": b"", b"grpc-message": b""}
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() in found:
            found[name.lower()] = value.strip()
    return found[b"grpc-status"], found[b"grpc-message"]


def words(error: ProxyError, endpoint: Endpoint) -> str:
    """Why a probe failed, for who has to do something about it."""
    kind = error.kind
    if kind is Kind.CONNECT_REFUSED:
        return "nobody listens on the socket" if endpoint.path else "connection refused"
    if kind is Kind.CONNECT_FAILED and error.cause in ("", UNREACHED):
        return "cannot connect: no right to the socket, or its queue is full" if endpoint.path else \
            "cannot connect: unreachable, or reset at once"
    if kind is Kind.CONNECT_TIMEOUT:
        return "no answer to the connection"
    if kind in (Kind.RESET, Kind.STALE):
        return f"no answer: {error.cause}"
    if kind in (Kind.RESPONSE_CUT, Kind.RESPONSE_BROKEN):
        return f"broken answer: {error.cause}"
    return error.cause.removeprefix("the endpoint's ") or kind.word
