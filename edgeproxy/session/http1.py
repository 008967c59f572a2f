"""One client connection of an http listener, HTTP/1: its requests one after the other, each as an `Exchange`.

    state    stimulus                     then
    IDLE     a head, whole                ACTIVE
    IDLE     a head that breaks a rule    answered, LINGER
    IDLE     EOF, idle or header timeout  closed (408 if part of a head had come)
    ACTIVE   bytes of the body            to the exchange
    ACTIVE   bytes behind the request     kept once, then reading stops until the exchange is over (pipelining)
    ACTIVE   EOF                          the client is taken for gone, as nginx and HAProxy do: the exchange ends
    ACTIVE   exchange finished            IDLE; DRAIN if the request still comes; closed or LINGER if it was the last
    DRAIN    the rest of the request      dropped up to a limit, then IDLE; over the limit LINGER
    LINGER   anything                     dropped until EOF or a deadline: closing with unread bytes would send a RST,
                                          and that can destroy the answer on its way (RFC 9112 §9.6)
    IDLE     HTTP/2's preface, first      given to an `Http2Session`
    TUNNEL                                the relay has both transports
"""
from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from edgeproxy.codec._leaf import Edits, RequestHead, ResponseHead
from edgeproxy.codec.h1 import RequestDecoder, encode_chunk, encode_last_chunk
from edgeproxy.errors import Kind, Outcome, Phase, ProxyError
from edgeproxy.net.deadline import Deadline
from edgeproxy.net.transport import SocketTransport
from edgeproxy.session.exchange import Exchange
from edgeproxy.session.http import HttpListener, HttpSession, connection_id
from edgeproxy.session.http2 import Http2Session
from edgeproxy.session.pace import Pace
from edgeproxy.session.peer import Peer
from edgeproxy.session.record import unserved
from edgeproxy.session.relay import Tunnel
from edgeproxy.session.reply import Reply, date_field, reason_for

DRAIN_LIMIT = 256 * 1024
LINGER_TIME = 2.0
MOMENT = 0.5  # while draining, for a request that is on its way (HAProxy: idle-close-on-response)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Plain numbers, not an enum: the compiled code compares them in an instruction.
_IDLE: Final = 0
_ACTIVE: Final = 1
_DRAIN: Final = 2
_LINGER: Final = 3
_TUNNEL: Final = 4
_CLOSED: Final = 5


def foreign(head: bytes) -> bool:
    """Whether a head, or a part of one, begins with three words of which the third is no HTTP version, not even a wrong
    one. With fewer words it may be HTTP/0.9, and its client understands an answer."""
    words = head.lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r").split(b" ")
    return len(words) == 3 and all(words) and not words[2][:5].upper().startswith(b"HTTP/"[:len(words[2])])


class Http1Session(HttpSession):
    __slots__ = ("listener", "loop", "poller", "transport", "log", "decoder", "deadline",
                 "state", "_closed", "_exchange", "_tunnel", "_minor", "_last", "_chunked", "_bare",
                 "_full", "_running", "_dropped", "_received", "_pace", "_begun", "_id", "_number", "_held")

    def __init__(self, listener: HttpListener, peer: Peer, transport: SocketTransport, closed: Callable[[], None]
                 ) -> None:
        """The transport tells this session from now on; `closed` is called at the end."""
        config = listener.config
        self.listener = listener
        self.loop = listener.loop
        self.poller = listener.poller
        self.log = listener.log
        self.peer = peer
        self.decoder = RequestDecoder(config.limits.header, config.limits.headers)
        self.deadline = Deadline(listener.loop, self._expired, listener.nursery)
        self.state = _IDLE
        self._closed: Callable[[], None] | None = closed
        self._exchange: Exchange | None = None
        self._tunnel: Tunnel | None = None
        self._minor = 1
        self._last = False      # the connection ends with this response
        self._chunked = False   # the response's body goes out in chunks
        self._bare = False      # a response's head has gone out and its body runs until we close
        self._held = False      # reading is paused, by us
        self._full = False      # the client takes no more for now
        self._running = False   # the loop over pipelined requests is on the stack
        self._dropped = 0
        self._received = 0      # bytes of bodies
        self._pace: Pace | None = None
        self._id = connection_id()
        self._number = 0        # of the request on this connection; with `_id` the request's id
        self._begun = False     # part of the present request's head is here
        listener.sessions.add(self)
        self.transport = transport
        transport.hand_over(self)
        self.deadline.set(monotonic() + listener.idle)

    # ---- requests

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state == _IDLE:
            self._requests(data)
        elif state == _ACTIVE:
            self._more(data)
        elif state == _DRAIN:
            self._drop_body(data)
        elif state == _LINGER:
            self._dropped += len(data)
            if self._dropped > DRAIN_LIMIT:
                self.transport.abort()

    def _requests(self, data: bytes) -> None:
        """Serve the requests at hand: a loop, so that a thousand pipelined ones do not go a thousand frames deep."""
        self._running = True
        try:
            while True:
                try:
                    head = self.decoder.head(data)
                except ProxyError as error:
                    if self._number or not self._turned_away(error, self.decoder.head_so_far(data)):
                        self._refuse(error)
                    return
                if head is None:
                    if not self._begun:  # a head has its time in all, from its first byte on
                        self._begun = True
                        self.deadline.set(monotonic() + self.listener.header_time)
                    return
                self._begin(head)
                if self.state != _IDLE or self._full or not self.decoder.rest:
                    return
                data = self.decoder.next()
        finally:
            self._running = False

    def _turned_away(self, error: ProxyError, seen: bytes) -> bool:
        """Whether the first bytes are not for HTTP/1. Then the connection is given away if they are HTTP/2's (RFC 9113
        §3.3: prior knowledge, without TLS), and closed if they are of a protocol that would not understand an answer of
        HTTP/1, such as another preface (§3.4)."""
        if not self.peer.tls and (seen.startswith(PREFACE) or PREFACE.startswith(seen)):
            closed, self._closed = self._closed, None
            assert closed is not None
            self.deadline.end()
            self._forget()
            Http2Session(self.listener, self.peer, self.transport, closed, seen)
            return True
        if not foreign(seen):
            return False
        self.listener.unserved(unserved(self.peer.address, self.listener.name, monotonic(), error.kind, Phase.HEAD,
                                        "the client does not speak HTTP", self.peer.sni))
        self._close()
        return True

    def _begin(self, head: RequestHead) -> None:
        listener = self.listener
        live = listener.live
        self.state = _ACTIVE
        self._begun = False
        self._minor = head.minor
        self._last = not head.keep_alive or listener.draining or live.draining
        self._chunked = self._bare = False
        self._number += 1
        client, request_id = self.peer.address, f"{self._id}{self._number}"
        if self.peer.trusted:
            client, request_id = listener.told(head, client, request_id)
        exchange = self._exchange = Exchange(self, listener.name, head, monotonic(), client, request_id)
        if head.length and not self._body(head, exchange):
            return
        exchange.start(live.snapshot)

    def _body(self, head: RequestHead, exchange: Exchange) -> bool:
        """Hand over what is here of the body; False if it is too long and was answered."""
        decoder = self.decoder
        exchange.take_body(decoder.payload, decoder.done, decoder.trailers)
        if head.length > self.listener.body_limit or len(decoder.payload) > self.listener.body_limit:
            self._too_large(exchange)
            return False
        if not decoder.done and not head.expect:  # else it is the endpoint's turn
            self._watch(exchange.started)
        return True

    def _more(self, data: bytes) -> None:
        """Bytes while an exchange runs."""
        decoder = self.decoder
        if self.decoder.done:
            decoder.rest += data
            self._hold()
            return
        exchange = self._exchange
        assert exchange is not None
        try:
            payload = decoder.body(data)
        except ProxyError as error:
            self._last = True
            exchange.request_failed(error)
            return
        self._received += len(data)
        if exchange.bytes_in + len(payload) > self.listener.body_limit:
            self._too_large(exchange)
            return
        if decoder.done:
            self._unwatch()
        elif self._pace is None:
            self._watch(monotonic())
        exchange.request_data(payload, decoder.done, decoder.trailers)

    def _too_large(self, exchange: Exchange) -> None:
        self._last = True
        limit = self.listener.config.limits.body
        exchange.request_failed(ProxyError(Kind.BODY_TOO_LARGE, f"the body is longer than {limit} bytes"))

    def _drop_body(self, data: bytes) -> None:
        """The rest of a request that was answered early."""
        self._dropped += len(data)
        decoder = self.decoder
        try:
            decoder.body(data)
        except ProxyError:
            self._linger()
            return
        if decoder.done:
            self._idle(monotonic())
        elif self._dropped > DRAIN_LIMIT:
            self._linger()

    def _refuse(self, error: ProxyError) -> None:
        self._last = True
        self._chunked = self._bare = False
        self._minor = 1
        self.state = _ACTIVE
        self._number += 1
        exchange = self._exchange = Exchange(self, self.listener.name, None, monotonic(), self.peer.address,
                                             f"{self._id}{self._number}")
        exchange.refuse(error)

    def pause_request(self) -> None:
        if self.state == _ACTIVE and not self.decoder.done:
            self._hold()
            self._unwatch()  # silence that we asked for is not the client's fault

    def resume_request(self) -> None:
        if self._held and self.state == _ACTIVE and not self.decoder.done:
            self._release()
            if not self._full:
                self._watch(monotonic())

    def _hold(self) -> None:
        """Read no more for now: what comes stays in the kernel."""
        self._held = True
        self.transport.pause_reading()

    def _release(self) -> None:
        self._held = False
        self.transport.resume_reading()

    # ---- responses (called by the exchange)

    def respond(self, head: ResponseHead, payload: bytes, done: bool, edits: Edits | None, trailers: bytes) -> None:
        if head.length < 0:
            if self._minor:
                self._chunked = True
            else:
                self._bare = self._last = True
        self._settle_last()
        data = head.inbound(self._minor, self._last, edits)
        if self._chunked:
            if payload:
                data += encode_chunk(payload)
            if done:
                data += encode_last_chunk(trailers)
        else:
            data += payload
        self.transport.write(data)
        if self._full and not done and self._exchange is not None:
            self._exchange.client_full()  # it was full before there was a body to be paused

    def _settle_last(self) -> None:
        """A response's head is about to say whether the connection ends with it."""
        if self.listener.draining or self.listener.live.draining:
            self._last = True
        exchange = self._exchange
        if not self.decoder.done and exchange is not None and exchange.head is not None:
            # A final answer though 100 was awaited: whether the body still comes is anybody's guess (RFC 9110 §10.1.1)
            if exchange.head.expect and not exchange.continued:
                self._last = True

    def respond_data(self, payload: bytes, done: bool, trailers: bytes) -> None:
        if not self._chunked:
            self.transport.write(payload)
            return
        data = encode_chunk(payload) if payload else b""
        if done:
            data += encode_last_chunk(trailers)
        if data:
            self.transport.write(data)

    def respond_interim(self, head: ResponseHead) -> None:
        self.transport.write(head.inbound(self._minor, False, None))
        if head.status == 100 and not self.decoder.done:
            self._watch(monotonic())

    def respond_local(self, reply: Reply) -> int:
        exchange = self._exchange
        assert exchange is not None
        self._settle_last()
        lines = [b"HTTP/1.1 %d %b\r\nServer: edgeproxy\r\nDate: %b\r\n"
                 % (reply.status, reason_for(reply.status).encode(), date_field())]
        lines += [b"%b: %b\r\n" % field for field in reply.fields]
        if reply.status >= 200 and reply.status not in (204, 304):
            lines.append(b"Content-Length: %d\r\n" % len(reply.body))
        if self._last:
            lines.append(b"Connection: close\r\n")
        elif not self._minor:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        bodiless = exchange.head is not None and exchange.head.method == "HEAD" or reply.status in (204, 304)
        if not bodiless:
            lines.append(reply.body)
        self.transport.write(b"".join(lines))
        return 0 if bodiless else len(reply.body)

    def respond_cut(self) -> None:
        """The response cannot be finished; it must not look complete: no last chunk, and RST where only the close
        would tell the end (RFC 9112 §8)."""
        self._exchange = None
        if self._bare:
            self.state = _CLOSED
            self.transport.reset()
        else:
            self._close()

    def finished(self) -> None:
        """The exchange is over; its response is whole."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        decoder = self.decoder
        if self._last:
            if decoder.done and not decoder.rest and exchange.head is not None:
                self._close()
            else:
                self._linger()
        elif decoder.done:
            self._idle(exchange.ended)
        else:
            self.state = _DRAIN
            self._pace = None
            self._dropped = 0
            self._release()
            self.deadline.set(monotonic() + self.listener.body_time)

    def _idle(self, now: float) -> None:
        """Ready for the next request; it may be here already."""
        listener = self.listener
        self.state = _IDLE
        deadline = self.deadline
        deadline.at = at = now + (MOMENT if listener.draining or listener.live.draining else listener.idle)
        if at < deadline.fires:
            deadline.arm(at)
        if self._full:  # no further request before the client has taken the answers it has
            self._hold()
            self._watch(now)
            return
        self._pace = None
        if self._held:
            self._release()
        if self.decoder.rest and not self._running:
            self._requests(self.decoder.next())

    def _close(self) -> None:
        """Send what is queued, then close."""
        self.state = _CLOSED
        self._pace = None
        self.transport.close()
        self.deadline.set(monotonic() + LINGER_TIME)

    def _linger(self) -> None:
        """Send FIN behind the answer and drop what still comes, for a while."""
        self.state = _LINGER
        self._pace = None
        self._dropped = 0
        self.transport.write_eof()
        self._release()
        self.deadline.set(monotonic() + LINGER_TIME)

    # ---- upgrades

    def upgrade(self, head: ResponseHead, edits: Edits | None, upstream: SocketTransport, rest: bytes,
                ended: Callable[[Outcome, int, int], None]) -> None:
        self.transport.write(head.inbound(1, False, edits))
        self.state = _TUNNEL
        self.deadline.close()

        def over(outcome: Outcome, bytes_in: int, bytes_out: int) -> None:
            ended(outcome, bytes_in, bytes_out)
            self._forget()

        self._tunnel = Tunnel(self.loop, self.transport, upstream, self.listener.config.timeouts.tunnel, over)
        self._tunnel.start(self.decoder.next(), rest)

    # ---- flow and time

    def pause_writing(self) -> None:
        self._full = True
        self._watch(monotonic())
        if self._exchange is not None:
            self._exchange.client_full()

    def resume_writing(self) -> None:
        self._full = False
        self._pace = None
        if self._exchange is not None:
            self._exchange.client_ready()
            if not self.decoder.done and not self._held:
                self._watch(monotonic())
        elif self.state == _IDLE:
            self._idle(monotonic())

    def _watch(self, now: float) -> None:
        """From now on the client has to make progress, see `pace.py`."""
        pace = self._pace = Pace(self.listener.body_time, now, self._progress())
        self.deadline.set(pace.look_at)

    def _progress(self) -> int:
        return self.transport.taken if self._full else self._received

    def _unwatch(self) -> None:
        """The client owes no more of its request; what it owes of taking the response stays."""
        if not self._full:
            self._pace = None

    def _expired(self) -> None:
        now = monotonic()
        pace = self._pace
        if pace is not None:
            self._look(pace, now)
        elif self.state == _IDLE:
            if self._begun:
                self._refuse(ProxyError(Kind.REQUEST_TIMEOUT, "the request's head did not come in time"))
            else:
                self._close()
        elif self.state in (_LINGER, _CLOSED) and self.transport.get_write_buffer_size():
            self._watch(now)  # the answer is not through yet, and that has as much time as any
        elif self.state in (_DRAIN, _LINGER, _CLOSED):
            self.transport.abort()

    def _look(self, pace: Pace, now: float) -> None:
        """Whether the client that is being watched makes progress."""
        if self.state in (_LINGER, _CLOSED) and not self.transport.get_write_buffer_size():
            self.transport.abort()
        elif not pace.too_slow(now, self._progress()):
            self.deadline.set(pace.look_at)
        elif self._exchange is not None and not self._full:
            self._last = True
            self._exchange.request_failed(ProxyError(Kind.REQUEST_TIMEOUT, "the request's body came too slowly"))
        else:
            self.transport.reset()

    # ---- the end

    def eof_received(self) -> bool:
        if self.state == _IDLE and self.decoder.in_head:
            self._refuse(ProxyError(Kind.BAD_REQUEST, "the connection was closed within the head"))
            return True
        elif self.state == _ACTIVE:
            self._gone()
            self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self.deadline.end()
        self._forget()

    def _forget(self) -> None:
        self.state = _CLOSED
        self.listener.sessions.discard(self)
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()

    def _gone(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def drain(self) -> None:
        """End as soon as it can be done without cutting anything. A request may be on its way at this moment, so that
        an idle connection is not closed at once: its next answer says `Connection: close`."""
        if self.state == _IDLE and not self._begun:
            self.deadline.set(min(self.deadline.at, monotonic() + MOMENT))

    def cut(self) -> None:
        """End now."""
        if self._tunnel is not None:
            self._tunnel.abort(Outcome(Kind.DRAINING.word, Phase.TUNNEL))
            return
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone(Kind.DRAINING)
        self.transport.reset()
