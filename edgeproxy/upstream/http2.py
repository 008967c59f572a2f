"""HTTP/2 towards an endpoint: a connection that many exchanges share, each by a stream of it (RFC 9113).

    state     stimulus                     then
    OPENING   SETTINGS of the endpoint     OPEN: until then nobody knows how many streams it allows
    OPENING   time, EOF, anything else     failed: nothing was sent
    OPEN      a stream is asked for        given, while the endpoint allows one more
    OPEN      no stream is left            closed when its idle time is over, or if enough others are idle
    OPEN      GOAWAY, ids run out          LEAVING: streams that it leaves out fail as not processed
    LEAVING   no stream is left            closed
    any       EOF, reset, a broken rule    every stream fails

What is to be sent goes out once in a turn of the poller, for all streams together. A stream's window is opened only as
its client takes what came; the connection's has room for what all streams may hold, so that no client can slow others.
"""
from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from edgeproxy.codec.h2 import Fields, H2Limits, Streams, build_codec
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.net.deadline import Deadline
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import Receiver, SocketTransport
from edgeproxy.upstream.channel import MAX_RESPONSE_FIELDS, MAX_RESPONSE_HEAD
from edgeproxy.upstream.stream import CANCEL, LOW_WATER, Http2Stream
from edgeproxy.upstream.tls import late_refusal

if TYPE_CHECKING:
    from edgeproxy.upstream.shared import Shared

_log = logging.getLogger("edgeproxy")

STREAMS: Final = 100  # at once on a connection, however many the endpoint allows
WINDOW: Final = 64 * 1024
FLUSH_TIME: Final = 2.0  # for the endpoint to take what was said last

_LIMITS = H2Limits(streams=STREAMS, window=WINDOW, connection_window=STREAMS * WINDOW, head=MAX_RESPONSE_HEAD,
                   fields=MAX_RESPONSE_FIELDS)

# Plain numbers, not an enum: the compiled code compares them in an instruction.
_OPENING: Final = 0
_OPEN: Final = 1
_LEAVING: Final = 2
_CLOSED: Final = 3


class _Line(Receiver):
    """What the transport tells of the connection; a class of its own because a connection is told things by its codec
    too."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Http2Connection) -> None:
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        self._connection.heard(data)

    def eof_received(self) -> bool:
        self._connection.lost(None)
        return False

    def pause_writing(self) -> None:
        self._connection.choked = True

    def resume_writing(self) -> None:
        self._connection.choked = False
        self._connection.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lost(exc)


class Http2Connection(Streams):
    __slots__ = ("pool", "scheme", "transport", "codec", "streams", "crowded", "deadline", "choked", "served", "idle",
                 "_state", "_poller", "_began", "_booked", "_reading", "reads", "unsent")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, transport: SocketTransport, pool: Shared,
                 until: float, began: Callable[[Http2Connection, ProxyError | None], None]) -> None:
        """`began(connection, None)` when streams can be had, or `began(connection, error)` if that will not be; the
        endpoint has `until` (monotonic seconds) to say so."""
        self.pool = pool
        self.scheme = pool.access.scheme
        self.transport = transport
        self.codec = build_codec(self, True, _LIMITS, monotonic())
        self.streams: dict[int, Http2Stream] = {}
        self.crowded: dict[int, Http2Stream] = {}
        """Streams that are full."""
        self.unsent: list[int] = []
        """Streams with a whole answer, whose request may be waiting for the endpoint's windows."""
        self.deadline = Deadline(loop, self._expired)
        self.choked = False
        """The kernel takes no more."""
        self.served = False
        """It has answered a request."""
        self.idle = False
        self._state = _OPENING
        self._poller = poller
        self._began: Callable[[Http2Connection, ProxyError | None], None] | None = began
        self._booked = False
        self._reading = False
        self.reads = 0
        transport.last_words = True
        self.deadline.set(until)

    def begin(self) -> Receiver:
        """Send the preface. What the transport is to tell from now on."""
        line = _Line(self)
        self.transport.hand_over(line)
        self.flush()
        return line

    # ---- streams

    @property
    def free(self) -> int:
        """Streams that can be had now."""
        codec = self.codec
        if self._state != _OPEN or codec.exhausted:
            return 0
        return min(STREAMS, codec.max_streams) - codec.open

    def quiet(self) -> bool:
        """Whether nothing waits to be read. One system call."""
        return SocketTransport.peek_alive(self.transport)  # not that of TLS, which reads what it finds

    def stream(self) -> Http2Stream:
        """While `free`; its user must send at once."""
        self.idle = False
        return Http2Stream(self, self.served)

    def left(self, stream: Http2Stream) -> None:
        self.streams.pop(stream.id, None)
        if stream.full:
            self.crowded.pop(stream.id, None)
        if not self.streams:
            self._rest()

    def _rest(self) -> None:
        """No stream is left."""
        if self._state == _OPEN and not self.codec.exhausted and self.pool.keeps():
            self.idle = True
            self.deadline.set(monotonic() + self.pool.idle_timeout)
        elif self._state in (_OPEN, _LEAVING):
            self.close()

    # ---- sending

    def touch(self) -> None:
        """There may be something to be sent: it goes out with what others have, at the end of this turn."""
        if self._booked or self._reading:
            return
        if self._poller.turning:
            self._booked = True
            self._poller.unsent.append(self.flush)
        else:
            self.flush()

    def flush(self) -> None:
        self._booked = False
        if self._reading or self.choked or self._state == _CLOSED:
            return  # what waits in the codec is counted there, and makes its streams full
        data = self.codec.output()
        if self.unsent:
            data += self._cancel_rest()
        if data:
            self.transport.write(data)
        if self.crowded:
            for number, stream in list(self.crowded.items()):
                if stream.full and self.codec.queued(number) <= LOW_WATER:
                    del self.crowded[number]
                    stream.relieved()

    def _cancel_rest(self) -> bytes:
        """An endpoint that has answered may never open its window again: nobody wants the rest of such requests."""
        unsent, self.unsent = self.unsent, []
        for number in unsent:
            if self.codec.is_open(number):
                self.codec.reset(number, CANCEL)
        return self.codec.output()

    # ---- receiving

    def heard(self, data: bytes) -> None:
        if self._state == _CLOSED:
            return
        self.reads += 1
        if self.reads == 1:
            told = self.pool.access.mistaken(data)
            if told:
                self._end(ProxyError(Kind.RESPONSE_BROKEN, told), False)
                return
        broken: ProxyError | None = None
        self._reading = True
        try:
            self.codec.receive(data, monotonic())
        except ProxyError as error:
            broken = error
        finally:
            self._reading = False
        if broken is None:
            if self.codec.exhausted:
                self._depart()
            self.touch()
        else:
            self.flush()
            self._end(ProxyError(Kind.RESPONSE_BROKEN, f"the endpoint broke a rule of HTTP/2: {broken.cause}"), False)

    def answered(self, stream: int, fields: Fields, ended: bool) -> None:
        self.served = True
        found = self.streams.get(stream)
        if found is not None:
            try:
                found.answered(fields, ended)
            except Exception:
                self._fault(found)

    def interim(self, stream: int, fields: Fields) -> None:
        found = self.streams.get(stream)
        if found is not None:
            try:
                found.interim(fields)
            except Exception:
                self._fault(found)

    def data(self, stream: int, payload: bytes, ended: bool) -> None:
        found = self.streams.get(stream)
        if found is None:
            self.codec.consumed(stream, len(payload))
            return
        try:
            found.data(payload, ended)
        except Exception:
            self._fault(found)

    def trailers(self, stream: int, fields: Fields) -> None:
        found = self.streams.get(stream)
        if found is not None:
            try:
                found.ended(fields)
            except Exception:
                self._fault(found)

    def cut(self, stream: int, code: int, by_peer: bool) -> None:
        found = self.streams.get(stream)
        if found is not None:
            try:
                found.cut(code, by_peer)
            except Exception:
                self._fault(found)

    def _fault(self, stream: Http2Stream) -> None:
        """What goes wrong with one exchange must not fall on the strangers who share the connection."""
        _log.exception("a request was ended by a fault of the proxy; please report it")
        stream.fail(ProxyError(Kind.INTERNAL, "a fault of the proxy"), CANCEL)

    def settled(self) -> None:
        if self._state == _OPENING:
            self._state = _OPEN
            self.deadline.close()
            began, self._began = self._began, None
            if began is not None:
                began(self, None)
            if self._state == _OPEN and not self.streams:
                self._rest()

    def going_away(self, last: int, code: int) -> None:
        if self._state == _OPEN:
            self._depart()

    # ---- the end

    def _depart(self) -> None:
        """No new streams; it closes behind the last one."""
        if self._state == _OPEN:
            self._state = _LEAVING
            self.pool.gone(self)
            if not self.streams:
                self._rest()

    def close(self) -> None:
        """Nobody is waiting for anything on it."""
        if self._state in (_OPEN, _LEAVING):
            self.codec.goaway()
            if not self._reading and not self.choked:
                self.transport.write(self.codec.output())
            self._end(None, True)

    def lost(self, exc: Exception | None) -> None:
        if self._state != _CLOSED:
            self._end(late_refusal(exc), False)
        self.deadline.end()

    def _end(self, error: ProxyError | None, gently: bool) -> None:
        """The connection is over, and its streams with it."""
        opening = self._state == _OPENING
        self._state = _CLOSED
        self.idle = False
        self.pool.gone(self)
        if gently or error is not None:  # what was said last may go out
            self.transport.close()
        else:
            self.transport.abort()
        if self.transport.get_write_buffer_size():
            self.deadline.set(monotonic() + FLUSH_TIME)
        else:
            self.deadline.end()
        began, self._began = self._began, None
        if opening and began is not None:
            began(self, error or ProxyError(Kind.CONNECT_FAILED, "the endpoint closed before HTTP/2 began"))
        for stream in list(self.streams.values()):
            stream.lost(error)

    def _expired(self) -> None:
        if self._state == _CLOSED:
            self.transport.abort()
        elif self._state == _OPENING:
            self._end(ProxyError(Kind.CONNECT_TIMEOUT, "the endpoint did not begin with HTTP/2 in time"), False)
        elif self.idle:
            self.close()
        else:
            self._sweep(monotonic())

    def _sweep(self, now: float) -> None:
        """Look for streams whose time is over; one timer serves them all."""
        nearest = inf
        for stream in list(self.streams.values()):
            if stream.at <= now:
                if self.reads == stream.heard:  # not a word since it was sent: the connection may be dead
                    self._depart()
                stream.expire()
            elif stream.at < nearest:
                nearest = stream.at
        if nearest < self.deadline.at and self._state != _CLOSED:
            self.deadline.set(nearest)
