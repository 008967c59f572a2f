"""One stream of an HTTP/2 connection to an endpoint: the channel of one exchange (RFC 9113 §8.1).

    stage   stimulus                     then
    WAIT    an answer's head             BODY, or DONE
    WAIT    reset, the connection ends   failed: not processed (REFUSED_STREAM, GOAWAY); stale if the connection had
                                         answered before this stream began; else reset
    BODY    reset, the connection ends   failed: cut
    BODY    the end, trailers            DONE
    any     release, reset               gone; the endpoint is told with CANCEL if either side had more to say

A stream sends nothing itself: it tells its connection that there is something to be sent (`touch`).
"""
from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from edgeproxy.codec._leaf import RequestHead, response_from_fields, trailer_fields, trailers_from_fields
from edgeproxy.codec.h2 import Fields
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.upstream.channel import MAX_INTERIM, MAX_RESPONSE_FIELDS, MAX_RESPONSE_HEAD, Channel, ChannelUser

if TYPE_CHECKING:
    from edgeproxy.upstream.http2 import Http2Connection

HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024

# RFC 9113 §7
_PROTOCOL_ERROR: Final = 1
_REFUSED_STREAM: Final = 7
CANCEL: Final = 8
_HTTP_1_1_REQUIRED: Final = 13
_CODES = ("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
          "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
          "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED")

# Plain numbers, not an enum: the compiled code compares them in an instruction.
_WAIT: Final = 0
_BODY: Final = 1
_DONE: Final = 2
_GONE: Final = 3


class Http2Stream(Channel):
    __slots__ = ("id", "at", "reused", "heard", "_connection", "_stage", "_left", "_head_request", "_interims",
                 "_timeout", "_sending", "_asking", "_held", "_owed", "_bodied")

    def __init__(self, connection: Http2Connection, reused: bool) -> None:
        self.user: ChannelUser | None = None
        self.full = False
        self.trailers = b""
        self.id = 0
        self.at = inf
        """When the endpoint's time is over."""
        self.reused = reused
        """The connection had answered another request before this one."""
        self.heard = 0
        """How often the connection had been read when the request was sent."""
        self._connection = connection
        self._stage = _WAIT
        self._left = -1       # bytes of the body that are announced and not here; below 0: not announced
        self._head_request = False
        self._interims = 0
        self._timeout = inf
        self._sending = False  # the request is not complete yet, and it is the client's turn
        self._asking = False  # the request waits for 100: it is not
        self._bodied = False  # the request has a body
        self._held = False    # the client takes no more for now
        self._owed = 0        # bytes that came and whose window is not opened again

    # ---- sending

    def send(self, user: ChannelUser, request: RequestHead, payload: bytes, done: bool, trailers: bytes,
             timeout: float, now: float) -> None:
        connection = self._connection
        codec = connection.codec
        self.user = user
        self.heard = connection.reads
        self._timeout = timeout
        self._head_request = request.method == "HEAD"
        self.id = number = codec.request(user.outbound_fields(connection.scheme), done and not payload and not trailers)
        if not number:
            self._stage = _GONE
            user.channel_failed(ProxyError(Kind.GOAWAY, "the connection takes no more requests"))
            return
        connection.streams[number] = self
        if payload:
            codec.send(number, payload, done and not trailers)
        if done and trailers:
            codec.send_trailers(number, trailer_fields(trailers))
        self._asking = request.expect and not (done or payload)
        self._sending = not (done or self._asking)
        self._bodied = request.length != 0
        if not self._sending:
            self._due(now + timeout)
        connection.touch()
        if payload:
            self._look()

    def send_body(self, payload: bytes) -> None:
        if self._asking:
            self._continue()
        self._connection.codec.send(self.id, payload, False)
        self._connection.touch()
        self._look()

    def send_end(self, trailers: bytes) -> None:
        self._sending = self._asking = False
        self._wait()
        if trailers:
            self._connection.codec.send_trailers(self.id, trailer_fields(trailers))
        else:
            self._connection.codec.send(self.id, b"", True)
        self._connection.touch()

    def _continue(self) -> None:
        """100 has come, or the client does not wait for it."""
        self._asking = False
        self._sending = True
        if not self.full:
            self.at = inf

    def _look(self) -> None:
        """Whether the endpoint, or what is between, keeps up with the request."""
        connection = self._connection
        if not self.full and connection.codec.queued(self.id) > HIGH_WATER:
            connection.flush()  # it may only be that nothing was sent in this turn yet
            if connection.codec.queued(self.id) > HIGH_WATER and self.user is not None:
                self.full = True
                connection.crowded[self.id] = self
                self._wait()  # to take more of the request
                self.user.channel_full()

    def relieved(self) -> None:
        """What waited has been sent."""
        self.full = False
        if self.user is not None:
            if self._sending:
                self.at = inf
            self.user.channel_ready()

    # ---- receiving (called by the connection)

    def answered(self, fields: Fields, ended: bool) -> None:
        user = self.user
        if user is None:
            return
        try:
            head = response_from_fields(fields, self._head_request, ended, MAX_RESPONSE_HEAD, MAX_RESPONSE_FIELDS)
        except ValueError as fault:
            self._broken(str(fault.args[-1]))
            return
        self._left = head.length
        if ended:
            if self._left > 0:
                self._broken("the response ends before its body")
                return
            self._stage = _DONE
        else:
            self._stage = _BODY
            self._go_on()
        user.response(head, b"", ended)

    def interim(self, fields: Fields) -> None:
        user = self.user
        if user is None:
            return
        self._interims += 1
        try:
            if self._interims > MAX_INTERIM:
                raise ValueError(502, "too many interim responses")
            head = response_from_fields(fields, self._head_request, False, MAX_RESPONSE_HEAD, MAX_RESPONSE_FIELDS)
        except ValueError as fault:
            self._broken(str(fault.args[-1]))
            return
        if self._asking and head.status == 100:
            self._continue()
        user.interim(head)

    def data(self, payload: bytes, ended: bool) -> None:
        user = self.user
        if user is None:
            return
        if self._left >= 0:
            self._left -= len(payload)
            if self._left < 0 or ended and self._left:
                self._broken("the body has another length than was announced")
                return
        if ended:
            self._stage = _DONE
        else:
            self._go_on()
        self._owed += len(payload)
        user.response_data(payload, ended)
        if not self._held:
            self._repay()

    def ended(self, fields: Fields) -> None:
        """Trailers."""
        user = self.user
        if user is None:
            return
        try:
            if self._left > 0:
                raise ValueError(502, "the body has another length than was announced")
            self.trailers = trailers_from_fields(fields)
        except ValueError as fault:
            self._broken(str(fault.args[-1]))
            return
        self._stage = _DONE
        user.response_data(b"", True)

    def _go_on(self) -> None:
        if not self._sending:
            self._wait()

    def _repay(self) -> None:
        """The client has taken what came: let more come."""
        if self._owed:
            self._connection.codec.consumed(self.id, self._owed)
            self._owed = 0
            self._connection.touch()

    # ---- flow and time

    def pause(self) -> None:
        if self._stage == _BODY:
            self._held = True
            self.at = inf

    def resume(self) -> None:
        self._held = False
        if self._stage == _BODY:
            if not self._sending or self.full:
                self._wait()
            self._repay()

    def _wait(self) -> None:
        """It is the endpoint's turn from now on; not while it is us who do not read."""
        if not self._held:
            self._due(monotonic() + self._timeout)

    def _due(self, at: float) -> None:
        self.at = at
        deadline = self._connection.deadline
        if at < deadline.at:
            deadline.set(at)

    # ---- the end

    def release(self, now: float, reusable: bool) -> None:
        if self._stage == _DONE and not (self._sending or self._asking):
            if self._bodied:
                self._connection.unsent.append(self.id)
            self._leave()
        else:
            self.reset()

    def reset(self) -> None:
        self._drop(CANCEL)

    def _drop(self, code: int) -> None:
        if self._stage != _GONE:
            self._connection.codec.reset(self.id, code)
            self._connection.touch()
            self._leave()

    def _leave(self) -> None:
        self._repay()
        self._stage = _GONE
        self.user = None
        self.at = inf
        self._connection.left(self)

    def _broken(self, cause: str) -> None:
        self.fail(ProxyError(Kind.RESPONSE_BROKEN, cause), _PROTOCOL_ERROR)

    def fail(self, error: ProxyError, code: int = -1) -> None:
        """Tell it, once. `code`: what the endpoint is told, if it is to be told something."""
        user = self.user
        if code >= 0:
            self._drop(code)
        else:
            self._leave()
        if user is not None:
            user.channel_failed(error)

    def cut(self, code: int, by_peer: bool) -> None:
        name = _CODES[code] if code < len(_CODES) else str(code)
        if self._stage != _WAIT:
            self.fail(ProxyError(Kind.RESPONSE_CUT, f"the endpoint reset the stream: {name}"))
        elif code == _REFUSED_STREAM and self._connection.codec.exhausted:
            self.fail(ProxyError(Kind.GOAWAY, "the endpoint ends the connection and did not take the request"))
        elif code == _REFUSED_STREAM:
            self.fail(ProxyError(Kind.NOT_PROCESSED, "the endpoint did not take the request"))
        elif by_peer and code != _HTTP_1_1_REQUIRED:
            self.fail(ProxyError(Kind.RESET, f"the endpoint reset the stream: {name}"))
        else:
            self.fail(ProxyError(Kind.RESPONSE_BROKEN, f"the stream broke a rule of HTTP/2: {name}" if not by_peer else
                                 "the endpoint wants HTTP/1.1"))

    def lost(self, error: ProxyError | None) -> None:
        """The connection is gone; `error` if something better is known than that."""
        if self._stage != _WAIT:
            self.fail(ProxyError(Kind.RESPONSE_CUT, error.cause if error is not None
                                 else "closed within the response's body"))
        else:
            self.fail(error or ProxyError(Kind.STALE if self.reused else Kind.RESET, "closed before the response"))

    def expire(self) -> None:
        self.fail(ProxyError(Kind.RESPONSE_TIMEOUT, f"no byte of the response for {self._timeout:g} s"), CANCEL)
