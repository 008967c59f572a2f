"""The engine where nghttp2 is missing, and its oracle: hyper-h2. See `h2_base` for what is promised.

hyper-h2 keeps no queue: bodies wait here for the peer's windows. `h2_frames` is the receiving half.
"""
from __future__ import annotations

from h2.exceptions import ProtocolError

from edgeproxy.codec.h2_base import (
    PEER_ENDED,
    RESPONDED,
    WE_ENDED,
    Fields,
    goaway_frame,
)
from edgeproxy.codec.h2_bodies import Held
from edgeproxy.codec.h2_frames import FrameReader
from edgeproxy.codec.h2_guard import (
    MAX_STREAM_ID,
    NO_ERROR,
)
from edgeproxy.codec.h2_rules import Message


class HyperCodec(FrameReader):
    __slots__ = ()

    def _drained(self) -> bytes:
        """All that may go goes to the output: a frame of each body in turn."""
        waiting = list(self._bodies)
        while waiting:
            waiting = [stream for stream in waiting if self._pump(stream)]
        self._keep()
        return b""

    def output(self) -> bytes:
        self._guard.owed = 0
        if not self._dead:
            self._drained()
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _pump(self, stream: int) -> bool:
        """Send a frame of a body, if the windows let it through. True: there may be another."""
        conn, body = self._conn, self._bodies[stream]
        if body.chunks:
            room = min(conn.local_flow_control_window(stream), conn.max_outbound_frame_size)
            if room <= 0:
                return False
            chunk = body.take(room)
            last = body.ended and not body.chunks and not body.trailers
            conn.send_data(stream, chunk, end_stream=last)
            if not last:
                if conn.outbound_flow_control_window:  # else it has had less than its turn, perhaps
                    self._bodies[stream] = self._bodies.pop(stream)
                return True
        elif not body.ended:
            return False
        elif body.trailers:
            conn.send_headers(stream, body.trailers, end_stream=True)
        else:
            conn.end_stream(stream)
        self._sent(stream, body)
        return False

    def _sent(self, stream: int, body: Held) -> None:
        del self._bodies[stream]
        if stream in self._later:
            self._later.discard(stream)
            self._cancel(stream, NO_ERROR)
        elif self._streams.get(stream, 0) & PEER_ENDED:
            self._over(stream)

    def _head_out(self, stream: int, fields: Fields, ended: bool) -> None:
        self._conn.send_headers(stream, fields, end_stream=ended)
        self._keep()
        if not ended:
            self._bodies[stream] = Held()

    def request(self, fields: Fields, ended: bool) -> int:
        if self._gone or self._dead or len(self._streams) >= self.max_streams:
            return 0
        stream = self._highest = self._highest + 2 if self._highest else 1
        try:
            self._head_out(stream, fields, ended)
        except ProtocolError:  # hyper-h2 counts streams that a GOAWAY left out
            self._gone = True
            return 0
        self._guard.requested(stream)
        self._messages[stream] = Message(any(pair == (b":method", b"HEAD") for pair in fields))
        self._streams[stream] = RESPONDED | WE_ENDED if ended else RESPONDED
        if stream + 2 > MAX_STREAM_ID:
            self._gone = True
        return stream

    def respond(self, stream: int, fields: Fields, ended: bool) -> None:
        state = self._streams.get(stream, -1)
        if state < 0 or state & RESPONDED:
            return
        self._streams[stream] = state | (RESPONDED | WE_ENDED if ended else RESPONDED)
        self._head_out(stream, fields, ended)
        if ended and state & PEER_ENDED:
            self._over(stream)

    def respond_interim(self, stream: int, fields: Fields) -> None:
        state = self._streams.get(stream, -1)
        if state >= 0 and not state & RESPONDED:
            self._conn.send_headers(stream, fields)
            self._keep()

    def send(self, stream: int, payload: bytes, ended: bool) -> None:
        state = self._streams.get(stream, -1)
        if state < 0 or state & (RESPONDED | WE_ENDED) != RESPONDED:
            return
        body = self._bodies[stream]
        if ended:
            self._streams[stream] = state | WE_ENDED
            body.ended = True
        self._guard.sent += 1 + (len(payload) >> 10)
        if payload:
            body.put(payload)

    def send_trailers(self, stream: int, fields: Fields) -> None:
        state = self._streams.get(stream, -1)
        if state < 0 or state & (RESPONDED | WE_ENDED) != RESPONDED:
            return
        self._streams[stream] = state | WE_ENDED
        body = self._bodies[stream]
        body.ended = True
        body.trailers = fields

    def reset(self, stream: int, code: int) -> None:
        state = self._streams.get(stream, -1)
        if state < 0:
            left = self._unread.pop(stream, 0)
            if left:
                self._give_back(stream, left)
            return
        if code == NO_ERROR and state & WE_ENDED and stream in self._bodies:
            while self._pump(stream):
                pass
        waiting = self._bodies.get(stream)
        if not self._forget(stream):
            return
        if code == NO_ERROR and state & WE_ENDED and waiting is not None:
            self._bodies[stream] = waiting
            self._later.add(stream)
            return
        self._cancel(stream, code)
        self._blame(code)

    def queued(self, stream: int) -> int:
        body = self._bodies.get(stream)
        return (body.size if body is not None else 0) + sum(map(len, self._out))

    def shutdown_notice(self) -> None:
        if not (self.client or self._gone or self._dead):
            self._out.append(goaway_frame(MAX_STREAM_ID, NO_ERROR, b""))

    def goaway(self, code: int = NO_ERROR) -> None:
        if not self._dead and self._farewell < 0:
            self._gone = True
            self._farewell = code
            self._drained()
            self._out.append(goaway_frame(self._last, code, b""))

    def ping(self) -> None:
        if not self._dead:
            self._conn.ping(bytes(8))
            self._keep()
