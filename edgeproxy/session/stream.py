"""The requests of an HTTP/2 connection (RFC 9113): how they come in, what an exchange sees of one, how they come on.

A stream hands bodies on and keeps none of them. What the codec has of an answer and may not send yet counts against
`HIGH_WATER`; what the endpoint has not taken of a request is not given back to the client's windows (§5.2).
At most `MAX_STREAMS` have upstream work that has not ended. One that was reset counts for `GHOST` seconds more: its
endpoint notices late, and who asks and resets in turns would have any number of them at work (CVE-2023-44487). Who goes
on all the same is thrown out: the codec counts resets, its own and the client's, and `Intake` those that it asks for.

Rules: nothing here writes, it tells the connection that there is something to be written (`touch`). A stream that an
exchange has ended is no longer in the connection's table, so that what the client still sends finds nobody.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from edgeproxy.codec._leaf import Edits, ResponseHead, request_from_fields, trailer_fields, trailers_from_fields
from edgeproxy.codec.h2 import Fields, Streams
from edgeproxy.errors import CLIENT_FAULTS, Kind, Outcome, ProxyError
from edgeproxy.session.exchange import Exchange
from edgeproxy.session.http import connection_id
from edgeproxy.session.pace import Pace
from edgeproxy.session.reply import Reply, date_field

if TYPE_CHECKING:
    from edgeproxy.net.transport import SocketTransport
    from edgeproxy.session.http2 import Http2Session

MAX_STREAMS: Final = 100
GHOST: Final = 1.0
MAX_FAULTS: Final = 100  # refused and malformed requests in a period
FAULTY: Final = 100
GHOSTLY: Final = 1  # refused for a stream of which it cannot know that it counts: a good client tries again at once
PERIOD: Final = 30.0
HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024
AT_ONCE: Final = 16 * 1024  # so much of an answer does not wait for the end of the turn
STALL: Final = 30.0  # without progress in taking an answer (security.md)

# RFC 9113 §7
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
ENHANCE_YOUR_CALM: Final = 11

# What a look at a stream can find.
FINE: Final = 0
SLOW: Final = 1     # its request comes too slowly
STALLED: Final = 2  # its answer is not taken
SILENT: Final = 3   # both directions are open and nothing moves in either


class Stream:
    __slots__ = ("loop", "poller", "peer", "log", "session", "codec", "id", "exchange", "whole", "held", "full", "owed")

    exchange: Exchange

    def __init__(self, session: Http2Session, number: int, whole: bool) -> None:
        """`whole`: the request ends with its head. Its exchange is given at once by who makes both."""
        self.loop = session.loop
        self.poller = session.poller
        self.peer = session.peer
        self.log = session.log
        self.session = session
        self.codec = session.codec
        self.id = number
        self.whole = whole
        """The client has sent all of its request."""
        self.held = False
        """The exchange takes no more of the request for now."""
        self.full = False
        """The exchange was told that the client takes no more of the answer."""
        self.owed = 0
        """Bytes of the request that the client's windows do not have back yet."""

    # ---- the request

    def data(self, payload: bytes, ended: bool) -> None:
        exchange, size = self.exchange, len(payload)
        if self.whole:  # content-length was 0, and the end of it comes behind the head
            return
        if exchange.bytes_in + size > self.session.listener.body_limit:
            self.codec.consumed(self.id, size)
            self.too_large()
            return
        self.whole = ended
        self.owed += size
        exchange.request_data(payload, ended, b"")
        if not self.held:
            self.give_back()

    def trailers(self, fields: Fields) -> None:
        if self.whole:
            return
        try:
            lines = trailers_from_fields(fields)
        except ValueError as fault:
            self.malformed(fault)
            return
        self.whole = True
        self.exchange.request_data(b"", True, lines)

    def too_large(self) -> None:
        limit = self.session.listener.config.limits.body
        self.exchange.request_failed(ProxyError(Kind.BODY_TOO_LARGE, f"the body is longer than {limit} bytes"))

    def malformed(self, fault: ValueError) -> None:
        """RFC 9113 §8.1.1: a malformed request is a stream error, and nothing of it is answered."""
        session = self.session
        self.exchange.cause = str(fault.args[-1])
        session.drop(self, PROTOCOL_ERROR, Kind.BAD_REQUEST)
        session.intake.fault(session.now)

    def pause_request(self) -> None:
        self.held = True

    def resume_request(self) -> None:
        if self.held:
            self.held = False
            self.give_back()
            self.session.touch()

    def give_back(self) -> None:
        """Open the client's windows by what was taken of the request."""
        owed = self.owed
        if owed:
            self.owed = 0
            self.codec.consumed(self.id, owed)

    # ---- the answer (called by the exchange)

    def respond(self, head: ResponseHead, payload: bytes, done: bool, edits: Edits | None, trailers: bytes) -> None:
        fields = head.inbound_fields(edits)
        if done and not payload and not trailers:
            self.codec.respond(self.id, fields, True)
            self.session.touch()
        else:
            self.codec.respond(self.id, fields, False)
            self.respond_data(payload, done, trailers)

    def respond_data(self, payload: bytes, done: bool, trailers: bytes) -> None:
        codec = self.codec
        if trailers:  # only ever with `done`
            if payload:
                codec.send(self.id, payload, False)
            codec.send_trailers(self.id, trailer_fields(trailers))
        elif payload or done:
            codec.send(self.id, payload, done)
        session = self.session
        session.touch()
        if done:
            return
        queued = codec.queued(self.id)
        if queued >= AT_ONCE:
            session.flush_early()
            queued = codec.queued(self.id)
            if queued > HIGH_WATER and not self.full:
                self.full = True
                session.choked.append(self)
                self.exchange.client_full()

    def respond_interim(self, head: ResponseHead) -> None:
        self.codec.respond_interim(self.id, head.inbound_fields(None))
        self.session.touch()

    def respond_local(self, reply: Reply) -> int:
        fields = [(b":status", b"%d" % reply.status), (b"server", b"edgeproxy"), (b"date", date_field())]
        fields += [(name.lower(), value) for name, value in reply.fields]
        head = self.exchange.head
        payload = b"" if reply.status in (204, 304) else reply.body
        if payload:  # without one the head says it all; gRPC's errors are such (Trailers-Only)
            fields.append((b"content-length", b"%d" % len(payload)))
            if head is not None and head.method == "HEAD":
                payload = b""
        self.codec.respond(self.id, fields, not payload)
        if payload:
            self.codec.send(self.id, payload, True)
        self.session.touch()
        return len(payload)

    def respond_cut(self) -> None:
        """The answer cannot be finished: no END_STREAM, so that it cannot look complete."""
        self.session.drop(self, INTERNAL_ERROR, None)

    def finished(self) -> None:
        self.session.ended(self)

    def upgrade(self, head: ResponseHead, edits: Edits | None, upstream: SocketTransport, rest: bytes,
                ended: Callable[[Outcome, int, int], None]) -> None:
        """Never: no HTTP/2 request asks for one (RFC 9113 §8.6)."""
        raise AssertionError("an upgrade on an HTTP/2 stream")


class Intake(Streams):
    """What the codec tells of a client, stream by stream. Not the session itself: that is a `Receiver`, and a compiled
    class has one base."""

    __slots__ = ("session", "number", "_id", "_ghosts", "_faults", "_until")

    def __init__(self, session: Http2Session) -> None:
        self.session = session
        self.number = 0
        """Requests so far; with `_id` the id of the last one."""
        self._id = connection_id()
        self._ghosts: deque[float] = deque()  # until when streams that were reset count
        self._faults = 0
        self._until = 0.0  # end of the period in which faults are counted

    def opened(self, stream: int, fields: Fields, ended: bool) -> None:
        session = self.session
        listener, streams, now = session.listener, session.streams, session.now
        if len(streams) + len(self._ghosts) >= MAX_STREAMS and self._crowded(now):
            # A hundred resets in a second, and it goes on: this one counts among them, whatever engine it is.
            session.codec.reset(stream, REFUSED_STREAM if streams else ENHANCE_YOUR_CALM)
            self.fault(now, GHOSTLY)
            return
        self.number += 1
        limits = listener.config.limits
        try:
            head = request_from_fields(fields, ended, limits.header, limits.headers)
        except ValueError as fault:
            self._refuse(stream, fault, ended)
            return
        peer = session.peer
        client, request_id = peer.address, f"{self._id}{self.number}"
        if peer.trusted:
            client, request_id = listener.told(head, client, request_id)
        opened = Stream(session, stream, ended or not head.length)
        exchange = opened.exchange = Exchange(opened, listener.name, head, now, client, request_id)
        if not streams:
            session.busy(now)
        streams[stream] = opened
        if head.length:
            exchange.take_body(b"", False, b"")
            if head.length > listener.body_limit:
                opened.too_large()
                return
        exchange.start(listener.live.snapshot)

    def _refuse(self, number: int, fault: ValueError, ended: bool) -> None:
        """A request's head breaks a rule: of HTTP/2, or of HTTP and then it is answered."""
        session = self.session
        status, message = fault.args if len(fault.args) == 2 else (400, str(fault))
        stream = session.streams[number] = Stream(session, number, ended)
        exchange = stream.exchange = Exchange(stream, session.listener.name, None, session.now, session.peer.address,
                                              f"{self._id}{self.number}")
        if status:
            exchange.refuse(ProxyError(CLIENT_FAULTS.get(status, Kind.BAD_REQUEST), message))
        else:
            stream.malformed(fault)

    def fault(self, now: float, weight: int = FAULTY) -> None:
        """A request could not be taken. Raises ProxyError if there were too many of that kind; GOAWAY is said then."""
        if now >= self._until:
            self._until = now + PERIOD
            self._faults = 0
        self._faults += weight
        if self._faults > MAX_FAULTS * FAULTY:
            self.session.codec.goaway(ENHANCE_YOUR_CALM)
            raise ProxyError(Kind.H2_FLOOD, "too many requests that had to be refused")

    def _crowded(self, now: float) -> bool:
        self._lay(now)
        return len(self.session.streams) + len(self._ghosts) >= MAX_STREAMS

    def haunt(self, now: float) -> None:
        """The upstream work of a stream was given up just now."""
        self._lay(now)
        self._ghosts.append(now + GHOST)

    def _lay(self, now: float) -> None:
        """Whose time is over counts no more."""
        ghosts = self._ghosts
        while ghosts and ghosts[0] <= now:
            ghosts.popleft()

    def data(self, stream: int, payload: bytes, ended: bool) -> None:
        found = self.session.streams.get(stream)
        if found is not None:
            found.data(payload, ended)
        else:  # behind an answer
            self.session.codec.consumed(stream, len(payload))

    def trailers(self, stream: int, fields: Fields) -> None:
        found = self.session.streams.get(stream)
        if found is not None:
            found.trailers(fields)

    def cut(self, stream: int, code: int, by_peer: bool) -> None:
        self.session.lost(stream, Kind.CLIENT_GONE if by_peer else Kind.BAD_REQUEST)

    def going_away(self, last: int, code: int) -> None:
        self.session.leave()


class Watch:
    """How a stream has come on between the looks at it, which are a few seconds apart; a request costs nothing here."""

    __slots__ = ("_sending", "_taking", "_moved", "_moved_at")

    def __init__(self, now: float) -> None:
        self._sending: Pace | None = None
        self._taking: Pace | None = None
        self._moved = 0
        self._moved_at = now

    def look(self, stream: Stream, ended: bool, now: float) -> int:
        """FINE, SLOW, STALLED or SILENT. `ended`: the exchange is over, its answer is not yet taken."""
        if self._stalled(stream, now):
            return STALLED
        if ended or stream.whole:
            self._sending = None
            return FINE
        exchange = stream.exchange
        head = exchange.head
        waits = head is not None and head.expect and not (exchange.continued or exchange.bytes_in)
        # gRPC: a stream whose answer has begun may be silent for long, in both directions. For 100 (Continue) the
        # endpoint has the time of an answer, but that may be without end.
        if exchange.status or waits:
            self._sending = None
            return SILENT if self._silent(stream, now) else FINE
        return SLOW if self._slow(stream, now) else FINE

    def _stalled(self, stream: Stream, now: float) -> bool:
        session = stream.session
        queued = 0 if session.full else stream.codec.queued(stream.id)  # else it is the whole connection that waits
        if not queued:
            self._taking = None
            return False
        taken = stream.exchange.bytes_out - queued
        if self._taking is None:
            self._taking = Pace(STALL, now, taken)
            return False
        return self._taking.too_slow(now, taken)

    def _slow(self, stream: Stream, now: float) -> bool:
        exchange = stream.exchange
        if stream.held or stream.session.full:
            self._sending = None  # silence that we asked for is not the client's fault
            return False
        if self._sending is None:
            self._sending = Pace(stream.session.listener.body_time, now, exchange.bytes_in)
            return False
        return self._sending.too_slow(now, exchange.bytes_in)

    def _silent(self, stream: Stream, now: float) -> bool:
        moved = stream.exchange.bytes_in + stream.exchange.bytes_out
        if moved != self._moved:
            self._moved = moved
            self._moved_at = now
        return now - self._moved_at >= (stream.session.listener.config.timeouts.tunnel or inf)
