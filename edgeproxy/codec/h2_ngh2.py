"""The engine of everyday: nghttp2, through the sans-I/O binding ngh2. See `h2_base` for what is promised.

What had to be known of it:
- A rule that the peer breaks is answered by nghttp2 itself, and shows only in its output, as RST_STREAM or GOAWAY; the
  event that a stream is over comes with that output. So `receive` asks for output whenever there is some, and reads it.
- A head beyond its hard limits, and a wrong preface, are exceptions after which the connection has neither state nor
  output left: the GOAWAY is ours then.
- RST_STREAM overtakes what is queued on its stream.
- What nghttp2 throws away for a content-length that does not fit is never given back to the connection's window. A
  server only harms itself so, a client's connection is not used for new requests any more.
- It sends one body after the other, the oldest stream's first, unless a stream is marked incremental (RFC 9218 §4.2):
  then they take turns. A server marks those that are not sent at once, if the client has not said otherwise; a client
  cannot, so it keeps what does not go at once and hands over a frame of each stream when all others have gone.
- Rate limits of its own are off: they read a clock, and the guard has them.
"""
from __future__ import annotations

from typing import Any, Final

from ngh2 import (
    Configuration,
    Connection,
    ConnectionStateError,
    DataReceived,
    DenialOfServiceError,
    GoAwayReceived,
    InformationalResponseReceived,
    NGH2Error,
    PingAcknowledged,
    Priority,
    RequestReceived,
    ResponseReceived,
    Role,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)

from edgeproxy.codec.h2_base import (
    PEER_ENDED,
    RESPONDED,
    SHARED,
    UNLIMITED,
    WE_ENDED,
    Fields,
    H2Codec,
    Streams,
    notable_frames,
)
from edgeproxy.codec.h2_bodies import Held
from edgeproxy.codec.h2_guard import ENHANCE_YOUR_CALM, MAX_STREAM_ID, NO_ERROR, PROTOCOL_ERROR, RST_STREAM, H2Limits

_NEVER: Final = (1 << 40, 1 << 40)
_MAX_SEND_HEAD: Final = 1 << 20
_PREFACE_WINDOW: Final = 65535
_TURN: Final = 16 * 1024
_URGENCY: Final = 3
_IN_TURNS: Final = Priority(_URGENCY, True)

_configurations: dict[tuple[int, int], Configuration] = {}


def _configuration(limits: H2Limits) -> Configuration:
    """The same for all connections of the same limits: it costs as much as a request to make."""
    key = (limits.hard_head, limits.hard_fields)
    found = _configurations.get(key)
    if found is None:
        found = _configurations[key] = Configuration(
            auto_window_update=False, max_send_header_block_length=_MAX_SEND_HEAD, max_outbound_ack=1_000_000,
            max_settings=1000, stream_reset_rate_limit=_NEVER, max_continuations=limits.continuations + 1,
            glitch_rate_limit=_NEVER, max_inbound_header_list_size=limits.hard_head,
            max_inbound_header_count=limits.hard_fields)
    return found


class Ngh2Codec(H2Codec):
    __slots__ = ("_conn", "_farewell", "_faults", "_settled", "_held")

    def __init__(self, user: Streams, client: bool, limits: H2Limits, now: float) -> None:
        super().__init__(user, client, limits, now)
        conn = self._conn = Connection(Role.CLIENT if client else Role.SERVER, _configuration(limits))
        settings = {4: limits.window, 6: limits.head, 9: 1}
        settings[2 if client else 3] = 0 if client else limits.streams
        conn.initiate_connection(settings)
        if limits.connection_window > _PREFACE_WINDOW:
            conn.set_local_window_size(limits.connection_window)
        self._out.append(conn.data_to_send())
        self._farewell = -1                 # the code of our own GOAWAY
        self._settled = False               # the peer's first SETTINGS have come
        self._held: dict[int, Held] = {}
        self._faults: dict[int, int] = {}   # streams that nghttp2 has reset in this read, and why

    # ---- in

    def _feed(self, data: bytes) -> None:
        conn = self._conn
        code, cause = 0, ""
        try:
            conn.receive_data(data)
            if conn.want_write:
                code, cause = self._read_output(conn.data_to_send())
        except DenialOfServiceError:
            code, cause = ENHANCE_YOUR_CALM, "a head has too many fields or is too long"
        except ConnectionStateError:  # a goodbye was said and no stream is open: nothing is read any more
            return
        except NGH2Error as fault:
            code, cause = PROTOCOL_ERROR, str(fault)
        self._tell(conn.events())
        if self._faults:
            self._faults.clear()
        if code < 0:
            self._die(-code, cause)
        if code:
            self._fail(code, cause)

    def _read_output(self, out: bytes) -> tuple[int, str]:
        """Keep output that came while we received; the (negative) code of a GOAWAY by nghttp2 and its reason."""
        if not out:
            return 0, ""
        self._out.append(out)
        code, cause = 0, ""
        for kind, stream, error, debug in notable_frames(out):
            if kind == RST_STREAM:
                if stream in self._resets:
                    continue
                self._faults[stream] = error
                if self.client:
                    self._gone = True
                elif not self._guard.reset(self._now):
                    return self._guard.code, self._guard.cause
            elif error != NO_ERROR and error != self._farewell:
                code, cause = -error, debug.decode("latin-1")
        return code, cause

    def _tell(self, events: list[Any]) -> None:
        user, streams = self.user, self._streams
        for event in events:
            kind = type(event)
            if self._gone and self._idle_for_good():
                return
            if kind is RequestReceived:
                stream = event.stream_id
                if self._left or self._farewell >= 0:  # until our GOAWAY is in the output, nghttp2 takes them
                    continue
                ended = event.end_stream
                streams[stream] = PEER_ENDED if ended else 0
                self._last = stream
                user.opened(stream, event.headers, ended)
            elif kind is DataReceived:
                self._tell_data(event.stream_id, event.data, event.end_stream)
            elif kind is StreamClosed:
                stream = event.stream_id
                if stream in streams:
                    if event.error_code:
                        self._forget(stream)
                        user.cut(stream, event.error_code, False)
                    else:
                        del streams[stream]
            elif kind is ResponseReceived:
                stream = event.stream_id
                state = streams.get(stream, -1)
                if state >= 0:
                    ended = event.end_stream
                    if ended:
                        streams[stream] = state | PEER_ENDED
                    user.answered(stream, event.headers, ended)
            else:
                self._tell_rare(event)

    def _tell_data(self, stream: int, payload: bytes, ended: bool) -> None:
        state = self._streams.get(stream, -1)
        if state < 0:  # we have reset it, and the peer did not know yet
            if payload:
                self._give_back(stream, len(payload))
            return
        if payload:
            self._unread[stream] = self._unread.get(stream, 0) + len(payload)
        elif not ended:
            return
        if ended:
            self._streams[stream] = state | PEER_ENDED
        self.user.data(stream, payload, ended)

    def _tell_rare(self, event: Any) -> None:
        user, streams = self.user, self._streams
        if isinstance(event, TrailersReceived):
            stream = event.stream_id
            state = streams.get(stream, -1)
            if state >= 0:
                streams[stream] = state | PEER_ENDED
                user.trailers(stream, event.headers)
        elif isinstance(event, StreamReset):
            stream = event.stream_id
            if self._forget(stream):
                fault = self._faults.get(stream, 0)  # it came first
                user.cut(stream, fault or event.error_code, not fault)
        elif isinstance(event, InformationalResponseReceived):
            if event.stream_id in streams:
                user.interim(event.stream_id, event.headers)
        elif isinstance(event, SettingsReceived):
            if self.client:
                before = self.max_streams if self._settled else UNLIMITED
                self.max_streams = min(event.settings.get(3, before), UNLIMITED)
                self._settled = True
            user.settled()
        elif isinstance(event, GoAwayReceived):
            self._say_goodbye(event.last_stream_id, event.error_code, self._faults)
        elif isinstance(event, PingAcknowledged):
            user.ponged()

    # ---- out

    def output(self) -> bytes:
        self._guard.owed = 0
        if self._resets:
            self._resets.clear()
        if self._dead:
            out = b"".join(self._out)
            self._out.clear()
            return out
        out = self._drained()
        if self._held:
            out = self._take_turns(out)
        if self._later:
            out += self._reset_sent()
        if self._out:
            self._out.append(out)
            out = b"".join(self._out)
            self._out.clear()
        return out

    def _drained(self) -> bytes:
        conn = self._conn
        try:
            out = conn.data_to_send()
        except NGH2Error:
            return b""
        streams = self._streams
        for event in conn.events():
            if type(event) is StreamClosed:
                if not event.error_code:
                    streams.pop(event.stream_id, 0)
        return out

    def _reset_sent(self) -> bytes:
        """Reset the streams whose end is sent by now."""
        conn = self._conn
        for stream in list(self._later):
            if stream not in self._held and not self._ending(stream):
                self._later.discard(stream)
                try:
                    conn.reset_stream(stream, NO_ERROR)
                except NGH2Error:
                    pass
        return self._drained()

    def _ending(self, stream: int) -> bool:
        """Our end of the stream was queued and waits for the peer's windows."""
        conn = self._conn
        if conn.queued_body_size(stream):
            return True
        try:  # an end without bytes waits for a window above 0 as well
            return conn.stream_remote_window_size(stream) <= 0 or conn.remote_window_size <= 0
        except NGH2Error:
            return False

    def request(self, fields: Fields, ended: bool) -> int:
        if self._gone or self._dead or len(self._streams) >= self.max_streams:
            return 0
        try:
            stream = self._conn.send_request(fields, end_stream=ended)
        except NGH2Error:
            self._gone = True
            return 0
        self._streams[stream] = RESPONDED | WE_ENDED if ended else RESPONDED
        self._guard.requested(stream)
        if stream + 2 > MAX_STREAM_ID:
            self._gone = True
        return stream

    def respond(self, stream: int, fields: Fields, ended: bool) -> None:
        state = self._streams.get(stream, -1)
        if state < 0 or state & RESPONDED:
            return
        self._streams[stream] = state | (RESPONDED | WE_ENDED if ended else RESPONDED)
        try:
            self._conn.send_response(stream, fields, end_stream=ended)
        except NGH2Error:
            pass

    def respond_interim(self, stream: int, fields: Fields) -> None:
        state = self._streams.get(stream, -1)
        if state < 0 or state & RESPONDED:
            return
        try:
            self._conn.send_informational_response(stream, fields)
        except NGH2Error:
            pass

    def send(self, stream: int, payload: bytes, ended: bool) -> None:
        state = self._streams.get(stream, -1)
        if state < 0 or state & (RESPONDED | WE_ENDED) != RESPONDED:
            return
        if ended:
            self._streams[stream] = state | WE_ENDED
        size = len(payload)
        self._guard.sent += 1 + (size >> 10)
        if self.client:
            if self._held or size > _TURN or self._conn.queued_body_size():
                self._hold(stream, payload, ended, ())
                return
        elif not (state & SHARED or (ended and size <= _TURN)):
            self._share(stream)
        self._hand_over(stream, payload, ended)

    def send_trailers(self, stream: int, fields: Fields) -> None:
        state = self._streams.get(stream, -1)
        if state < 0 or state & (RESPONDED | WE_ENDED) != RESPONDED:
            return
        self._streams[stream] = state | WE_ENDED
        if stream in self._held:
            self._hold(stream, b"", True, fields)
        else:
            self._end(stream, fields)

    def _hand_over(self, stream: int, payload: bytes, ended: bool) -> None:
        try:
            self._conn.send_data(stream, payload, end_stream=ended)
        except NGH2Error:
            pass

    def _end(self, stream: int, fields: Fields) -> None:
        try:
            if fields:
                self._conn.send_trailers(stream, fields)
            else:
                self._conn.send_data(stream, b"", end_stream=True)
        except NGH2Error:
            pass

    # ---- turns

    def _share(self, stream: int) -> None:
        """Server: this body takes turns with others, unless the client has given it a rank of its own."""
        self._streams[stream] |= SHARED
        try:
            priority = self._conn.get_stream_priority(stream)
            if priority is not None and priority.urgency == _URGENCY and not priority.incremental:
                self._conn.set_stream_priority(stream, _IN_TURNS)
        except NGH2Error:
            pass

    def _hold(self, stream: int, payload: bytes, ended: bool, trailers: Fields) -> None:
        held = self._held.get(stream)
        if held is None:
            held = self._held[stream] = Held()
        if payload:
            held.put(payload)
        held.ended = ended
        held.trailers = trailers

    def _take_turns(self, out: bytes) -> bytes:
        """Hand over a frame of each body that is held, again and again while all of it goes; all that goes."""
        conn = self._conn
        pieces = [out]
        while self._held:
            try:
                if conn.remote_window_size <= 0:
                    break
            except NGH2Error:
                break
            ready = [stream for stream in self._held if not conn.queued_body_size(stream)]
            for stream in ready:
                self._hand_over_some(stream)
            out = self._drained()
            if not out:
                break
            pieces.append(out)
        return b"".join(pieces)

    def _hand_over_some(self, stream: int) -> None:
        held = self._held[stream]
        piece = held.take(_TURN)
        if held.chunks:
            self._hand_over(stream, piece, False)
            return
        del self._held[stream]
        if held.ended and not held.trailers:
            self._hand_over(stream, piece, True)
            return
        self._hand_over(stream, piece, False)
        if held.ended:
            self._end(stream, held.trailers)

    def _forget(self, stream: int) -> bool:
        if self._held:
            self._held.pop(stream, None)
        return super()._forget(stream)

    def reset(self, stream: int, code: int) -> None:
        state = self._streams.get(stream, -1)
        held = self._held.get(stream)
        if not self._forget(stream):
            left = self._unread.pop(stream, 0)
            if left:
                self._give_back(stream, left)
            return
        self._resets.add(stream)
        if code == NO_ERROR and state & WE_ENDED:
            out = self._drained()
            if out:
                self._out.append(out)
            if held is not None:
                self._held[stream] = held
            if held is not None or self._ending(stream):
                self._later.add(stream)
                return
        try:
            self._conn.reset_stream(stream, code)
        except NGH2Error:
            pass
        self._blame(code)

    def _give_back(self, stream: int, amount: int) -> None:
        try:
            self._conn.acknowledge_received_data(amount, stream)
        except (NGH2Error, ValueError):
            pass

    def _window(self, stream: int) -> int:
        try:
            return self._conn.stream_remote_window_size(stream)
        except NGH2Error:
            return 0

    def _cancel(self, stream: int, code: int) -> None:
        self._resets.add(stream)
        try:
            self._conn.reset_stream(stream, code)
        except NGH2Error:
            pass

    def queued(self, stream: int) -> int:
        size = 0 if self._dead else self._conn.queued_body_size(stream)
        if self._held:
            held = self._held.get(stream)
            if held is not None:
                size += held.size
        for waiting in self._out:
            size += len(waiting)
        return size

    def shutdown_notice(self) -> None:
        if not (self.client or self._gone or self._dead):
            try:
                self._conn.send_shutdown_notice()
            except NGH2Error:
                pass

    def goaway(self, code: int = NO_ERROR) -> None:
        if self._dead or self._farewell >= 0:
            return
        self._gone = True
        self._farewell = code
        try:
            self._conn.send_goaway(code, last_stream_id=self._last)
        except NGH2Error:
            pass

    def ping(self) -> None:
        if not self._dead:
            try:
                self._conn.ping()
            except NGH2Error:
                pass
