"""What a peer sends, frame by frame, for the engine on hyper-h2: judged here, or given to hyper-h2 if it takes it.

hyper-h2 ends the connection where RFC 9113 asks for a stream error, joins a whole read's events to one answer that a
fault in it drops, buffers a frame of any announced length, counts no fields, and can neither send nor receive on open
streams behind a GOAWAY. So:

    heads         collected, decoded and judged here; hyper-h2 is given a constant one in their place
    DATA          judged here (`h2_rules`); what comes for streams that are over touches only the connection's window
    GOAWAY, PRIORITY, unknown types          end here
    SETTINGS, PING, WINDOW_UPDATE, RST_STREAM, if their stream is known          are its business
"""
from __future__ import annotations

from typing import Final, NoReturn

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, PingAckReceived, RemoteSettingsChanged, SettingsAcknowledged
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Decoder, HPACKError
from hpack.exceptions import OversizedHeaderListError

from edgeproxy.codec.h2_base import (
    PEER_ENDED,
    UNLIMITED,
    WE_ENDED,
    Fields,
    H2Codec,
    Streams,
    reset_frame,
)
from edgeproxy.codec.h2_bodies import Held
from edgeproxy.codec.h2_guard import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_HEADER,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    MAX_STREAM_ID,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    H2Limits,
    number,
)
from edgeproxy.codec.h2_rules import NO_PRIORITIES, Malformed, Message, Switches, representations

_HAS_PRIORITY: Final = 0x20
_FIRST_WINDOW: Final = 65535
_MAX_STRING: Final = 65536  # nghttp2's bound of one name or value
_PRIORITY_UPDATE: Final = 16
_MAX_PRIORITY_UPDATE: Final = 32  # nghttp2 looks at no longer ones
_ALTSVC: Final = 10

# Heads that say nothing, without a use of the compression state: GET http://x/, 200, 100, "x: y".
_REQUEST: Final = b"\x82\x86\x84\x01\x01x"
_RESPONSE: Final = b"\x88"
_INTERIM: Final = b"\x08\x03100"
_TRAILERS: Final = b"\0\x01x\x01y"

_SIZES: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_OF_CONNECTION: Final = (SETTINGS, PING, GOAWAY)
_OF_STREAM: Final = (DATA, HEADERS, PRIORITY, RST_STREAM, PUSH_PROMISE)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return b"".join((len(payload).to_bytes(3, "big"), bytes((kind, flags)), stream.to_bytes(4, "big"), payload))


class FrameReader(H2Codec):
    __slots__ = ("_conn", "_decoder", "_buffer", "_preface", "_settled", "_acknowledged", "_block", "_block_stream",
                 "_block_flags", "_on_itself", "_highest", "_goodbye", "_farewell", "_messages", "_bodies", "_switches")

    def __init__(self, user: Streams, client: bool, limits: H2Limits, now: float) -> None:
        super().__init__(user, client, limits, now)
        conn = self._conn = H2Connection(H2Configuration(
            client_side=client, header_encoding=None, validate_inbound_headers=False, normalize_inbound_headers=False,
            validate_outbound_headers=False))
        settings = {SettingCodes.INITIAL_WINDOW_SIZE: limits.window, SettingCodes.MAX_HEADER_LIST_SIZE: limits.head,
                    SettingCodes.ENABLE_PUSH: 0, NO_PRIORITIES: 1}
        if not client:
            settings[SettingCodes.MAX_CONCURRENT_STREAMS] = limits.streams
        conn.local_settings = Settings(client=client, initial_values=settings)  # type: ignore[arg-type]
        conn.initiate_connection()
        if not client:
            conn.receive_data(PREFACE)  # ours to look at
        if limits.connection_window > _FIRST_WINDOW:
            conn.increment_flow_control_window(limits.connection_window - _FIRST_WINDOW)
        self._keep()
        self._decoder = Decoder(limits.hard_head)
        self._buffer = bytearray()
        self._preface = b"" if client else PREFACE
        self._settled = False          # the peer's first SETTINGS have come
        self._acknowledged = False     # and it has acknowledged ours
        self._block: list[bytes] | None = None
        self._block_stream = 0
        self._block_flags = 0
        self._on_itself = False        # a head that depends on its own stream
        self._highest = 0              # the latest stream, of whichever side opens them
        self._goodbye = MAX_STREAM_ID  # the last stream that the peer's GOAWAY leaves in
        self._farewell = -1            # the code of our own GOAWAY
        self._messages: dict[int, Message] = {}
        self._bodies: dict[int, Held] = {}
        self._switches = Switches()

    # ---- in

    def _feed(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if self._preface:
            expected = self._preface[:len(buffer)]
            if buffer[:len(expected)] != expected:
                self._fail(PROTOCOL_ERROR, "the connection preface is wrong")
            del buffer[:len(expected)]
            self._preface = self._preface[len(expected):]
        at = 0
        while len(buffer) - at >= FRAME_HEADER:
            end = at + FRAME_HEADER + int.from_bytes(buffer[at:at + 3], "big")
            if end > len(buffer):
                break
            frame = bytes(buffer[at:end])
            at = end
            if self._gone and self._idle_for_good():
                break
            self._take(frame)
        del buffer[:at]

    def _take(self, frame: bytes) -> None:
        """One whole frame."""
        kind, flags, stream = frame[3], frame[4], number(frame, 5) & MAX_STREAM_ID
        if not self._settled and (kind != SETTINGS or flags & ACK):
            self._fail(PROTOCOL_ERROR, "SETTINGS expected")
        if self._block is not None or kind == CONTINUATION:
            self._continue(kind, flags, stream, frame)
            return
        if len(frame) - FRAME_HEADER != _SIZES.get(kind, len(frame) - FRAME_HEADER):
            self._fail(FRAME_SIZE_ERROR, "a frame has the wrong size")
        if (kind in _OF_CONNECTION and stream) or (kind in _OF_STREAM and not stream):
            self._fail(PROTOCOL_ERROR, "a frame for the wrong stream")
        if kind == HEADERS:
            self._start_head(flags, stream, frame)
        elif kind == DATA:
            self._data(flags, stream, frame)
        elif kind == SETTINGS:
            self._settings(flags, frame)
        elif kind == PING:
            self._know(frame)
        elif kind == RST_STREAM or kind == WINDOW_UPDATE:
            self._other(kind, stream, frame)
        elif kind == GOAWAY:
            self._goaway(frame)
        elif kind == PUSH_PROMISE:
            self._fail(PROTOCOL_ERROR, "PUSH_PROMISE is refused")
        elif kind == _PRIORITY_UPDATE:
            self._priority_update(stream, frame)
        elif kind == _ALTSVC and self.client:
            size = len(frame) - FRAME_HEADER - 2
            if size < 0 or frame[FRAME_HEADER] << 8 | frame[FRAME_HEADER + 1] > size:
                self._fail(FRAME_SIZE_ERROR, "ALTSVC has the wrong size")

    def _know(self, frame: bytes) -> list[Event]:
        """Give hyper-h2 a frame; what it does not take is a connection error."""
        try:
            events = self._conn.receive_data(frame)
        except ProtocolError as fault:
            self._conn.clear_outbound_data_buffer()  # its GOAWAY; ours is next
            self._bodies.clear()                     # it sends nothing more
            self._fail(int(fault.error_code), str(fault))
        for event in events:
            if isinstance(event, PingAckReceived):
                self.user.ponged()
        self._keep()
        return events

    def _priority_update(self, stream: int, frame: bytes) -> None:
        if self.client:
            self._fail(PROTOCOL_ERROR, "PRIORITY_UPDATE by a server")
        if len(frame) < FRAME_HEADER + 4:
            self._fail(FRAME_SIZE_ERROR, "a frame has the wrong size")
        if len(frame) > FRAME_HEADER + _MAX_PRIORITY_UPDATE:
            return
        if stream:
            self._fail(PROTOCOL_ERROR, "PRIORITY_UPDATE of a stream")
        prioritised = number(frame, FRAME_HEADER) & MAX_STREAM_ID
        if prioritised and prioritised % 2 == 0:
            self._fail(PROTOCOL_ERROR, "PRIORITY_UPDATE of a push")

    def _settings(self, flags: int, frame: bytes) -> None:
        size = len(frame) - FRAME_HEADER
        if size % 6 or (flags & ACK and size):
            self._fail(FRAME_SIZE_ERROR, "SETTINGS have the wrong size")
        if flags & ACK and self._acknowledged:
            self._fail(PROTOCOL_ERROR, "SETTINGS: unexpected ACK")
        if not flags & ACK:
            try:
                self._switches.judge(frame[FRAME_HEADER:], self.client)
            except Malformed as fault:
                self._fail(PROTOCOL_ERROR, str(fault))
        for event in self._know(frame):
            if isinstance(event, SettingsAcknowledged):
                self._acknowledged = True
            elif isinstance(event, RemoteSettingsChanged):
                self._settled = True
                if self.client:
                    allowed = self._conn.remote_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS, UNLIMITED)
                    self.max_streams = min(allowed, UNLIMITED)
                self.user.settled()

    def _goaway(self, frame: bytes) -> None:
        if len(frame) < FRAME_HEADER + 8:
            self._fail(FRAME_SIZE_ERROR, "a frame has the wrong size")
        last = number(frame, FRAME_HEADER) & MAX_STREAM_ID
        if last > self._goodbye or (last and last % 2 != self.client):
            self._fail(PROTOCOL_ERROR, "GOAWAY: invalid last_stream_id")
        self._goodbye = last
        self._say_goodbye(last, number(frame, FRAME_HEADER + 4), {})

    def _idle(self, stream: int) -> bool:
        """Nobody has opened it yet."""
        return stream > self._highest or stream % 2 == 0

    def _other(self, kind: int, stream: int, frame: bytes) -> None:
        """RST_STREAM and WINDOW_UPDATE."""
        if stream and self._idle(stream):
            self._fail(PROTOCOL_ERROR, "a frame for an idle stream")
        if stream and stream not in self._streams and stream not in self._bodies:
            return
        if kind == RST_STREAM:
            self._know(frame)
            if self._forget(stream):
                self.user.cut(stream, number(frame, FRAME_HEADER), True)
            self._bodies.pop(stream, None)
            return
        increment = number(frame, FRAME_HEADER) & MAX_STREAM_ID
        if stream and self._window(stream) + increment > MAX_STREAM_ID:
            self._fail(FLOW_CONTROL_ERROR, "WINDOW_UPDATE: window size overflow")
        self._know(_frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big")))

    def _unpadded(self, flags: int, frame: bytes, at: int) -> tuple[int, int]:
        """(begin, end) of what is not padding; `at` is where the payload begins behind the length of the padding."""
        end = len(frame)
        if flags & PADDED:
            if end == FRAME_HEADER:
                self._fail(PROTOCOL_ERROR, "insufficient padding space")
            at += 1
            end -= frame[FRAME_HEADER]
        return at, end

    # ---- heads

    def _start_head(self, flags: int, stream: int, frame: bytes) -> None:
        at, end = self._unpadded(flags, frame, FRAME_HEADER)
        depends = 0
        if flags & _HAS_PRIORITY:
            if len(frame) - at < 5:
                self._fail(FRAME_SIZE_ERROR, "a frame has the wrong size")
            depends = number(frame, at) & MAX_STREAM_ID
            at += 5
        if at > end:
            self._fail(PROTOCOL_ERROR, "HEADERS: invalid padding")
        self._block_stream = stream
        self._block_flags = flags
        self._on_itself = depends == stream
        if flags & END_HEADERS:
            self._head(stream, frame[at:end], bool(flags & END_STREAM))
        else:
            self._block = [frame[at:end]]

    def _continue(self, kind: int, flags: int, stream: int, frame: bytes) -> None:
        block = self._block
        if block is None or kind != CONTINUATION or stream != self._block_stream:
            self._fail(PROTOCOL_ERROR, "unexpected CONTINUATION, or CONTINUATION expected")
        block.append(frame[FRAME_HEADER:])
        if flags & END_HEADERS:
            self._block = None
            self._head(stream, b"".join(block), bool(self._block_flags & END_STREAM))

    def _head(self, stream: int, block: bytes, ended: bool) -> None:
        """A whole head, of whatever it is the head."""
        new = False
        if stream not in self._streams:
            if stream % 2 == 0 or (self.client and self._idle(stream)):
                self._fail(PROTOCOL_ERROR, "HEADERS: invalid stream_id")
            new = not self.client and stream > self._highest
            if new:
                self._highest = stream
                if self._acknowledged and len(self._streams) >= self.limits.streams:
                    self._fail(PROTOCOL_ERROR, "request HEADERS: max concurrent streams exceeded")
        elif self._streams[stream] & PEER_ENDED:
            self._fail(STREAM_CLOSED, "HEADERS: stream closed")
        taken = new and self._farewell < 0
        if taken and self._on_itself:
            self._fail(PROTOCOL_ERROR, "request HEADERS: depend on itself")
        fields = self._decode(block)
        if taken:
            self._request(stream, fields, ended)
        elif stream in self._streams:
            self._answer(stream, fields, ended)

    def _decode(self, block: bytes) -> Fields:
        if representations(block) > self.limits.hard_fields:
            self._fail(ENHANCE_YOUR_CALM, "a head has too many fields or is too long")
        try:
            fields: list[tuple[bytes, bytes]] = list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            self._fail(ENHANCE_YOUR_CALM, "a head has too many fields or is too long")
        except (HPACKError, IndexError, ValueError, TypeError) as fault:
            self._fail(COMPRESSION_ERROR, str(fault))
        if any(len(name) > _MAX_STRING or len(value) > _MAX_STRING for name, value in fields):
            self._fail(COMPRESSION_ERROR, "a field is too long")
        return fields

    def _request(self, stream: int, fields: Fields, ended: bool) -> None:
        if len(self._streams) >= self.limits.streams:  # it may not know better yet
            self._out.append(reset_frame(stream, REFUSED_STREAM))
            self._fault()
            return
        self._know(_frame(HEADERS, END_HEADERS | (END_STREAM if ended else 0), stream, _REQUEST))
        message = Message()
        try:
            message.request(fields, ended)
        except Malformed:
            self._cancel(stream, PROTOCOL_ERROR)
            self._fault()
            return
        if self._left:
            return
        self._messages[stream] = message
        self._streams[stream] = PEER_ENDED if ended else 0
        self._last = stream
        self.user.opened(stream, fields, ended)

    def _answer(self, stream: int, fields: Fields, ended: bool) -> None:
        """A response's head, or trailers of either side."""
        message = self._messages[stream]
        try:
            if message.final:
                kind = _TRAILERS
                message.trailers(fields, ended, not self.client)
            else:
                final, fields = message.response(fields, ended)
                kind = _RESPONSE if final else _INTERIM
        except Malformed:
            self._wrong(stream, PROTOCOL_ERROR)
            return
        self._know(_frame(HEADERS, END_HEADERS | (END_STREAM if ended else 0), stream, kind))
        if kind is _INTERIM:
            self.user.interim(stream, fields)
            return
        if ended:
            self._peer_ended(stream)
        if kind is _RESPONSE:
            self.user.answered(stream, fields, ended)
        else:
            self.user.trailers(stream, fields)

    # ---- DATA

    def _data(self, flags: int, stream: int, frame: bytes) -> None:
        if self._idle(stream):
            self._fail(PROTOCOL_ERROR, "DATA: stream in idle")
        state = self._streams.get(stream, -1)
        if state >= 0 and state & PEER_ENDED:
            self._fail(STREAM_CLOSED, "DATA: stream in half-closed(remote)")
        if self.client and state >= 0 and not self._messages[stream].begun:
            self._fail(PROTOCOL_ERROR, "DATA: stream not opened")
        size = len(frame) - FRAME_HEADER
        conn = self._conn
        if size > conn.inbound_flow_control_window:
            self._fail(FLOW_CONTROL_ERROR, "the connection's window is exceeded")
        if state < 0:
            self._swallow(size)
            return
        at, end = self._unpadded(flags, frame, FRAME_HEADER)
        if at > end:
            self._fail(PROTOCOL_ERROR, "DATA: invalid padding")
        if size > conn.remote_flow_control_window(stream):
            self._fail(FLOW_CONTROL_ERROR, "a stream's window is exceeded")
        ended = bool(flags & END_STREAM)
        message = self._messages[stream]
        try:
            message.body(end - at)
            if ended:
                message.end()
        except Malformed:
            self._swallow(size)
            self._wrong(stream, PROTOCOL_ERROR)
            return
        if at == end and not ended:
            self._swallow(size)
            return
        for event in self._know(frame):
            if isinstance(event, DataReceived):
                self._tell_data(stream, bytes(event.data), size, ended)

    def _tell_data(self, stream: int, payload: bytes, size: int, ended: bool) -> None:
        if size > len(payload):
            self._give_back(stream, size - len(payload))
        if payload:
            self._unread[stream] = self._unread.get(stream, 0) + len(payload)
        if ended:
            self._peer_ended(stream)
        if payload or ended:
            self.user.data(stream, payload, ended)

    def _swallow(self, size: int) -> None:
        """DATA that nobody is told of counts for the connection's window all the same, and is given back at once."""
        window = self._conn._inbound_flow_control_window_manager
        window.window_consumed(size)
        more = window.process_bytes(size)
        if more:
            self._out.append(_frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big")))

    # ---- the life of a stream

    def _peer_ended(self, stream: int) -> None:
        state = self._streams[stream]
        self._streams[stream] = state | PEER_ENDED
        if state & WE_ENDED and stream not in self._bodies:
            self._over(stream)

    def _over(self, stream: int) -> None:
        self._streams.pop(stream, None)
        self._messages.pop(stream, None)
        self._bodies.pop(stream, None)

    def _forget(self, stream: int) -> bool:
        self._messages.pop(stream, None)
        known = super()._forget(stream)
        if known:
            self._bodies.pop(stream, None)
        return known

    def _wrong(self, stream: int, code: int) -> None:
        """The peer has broken a rule on a known stream."""
        self._forget(stream)
        self._cancel(stream, code)
        self.user.cut(stream, code, False)
        if self.client:
            self._gone = True
        self._fault()

    def _cancel(self, stream: int, code: int) -> None:
        try:
            self._conn.reset_stream(stream, code)
        except ProtocolError:
            self._out.append(reset_frame(stream, code))
        self._keep()

    def _keep(self) -> None:
        out = self._conn.data_to_send()
        if out:
            self._out.append(out)

    def _give_back(self, stream: int, amount: int) -> None:
        self._conn.acknowledge_received_data(amount, stream)
        self._keep()

    def _window(self, stream: int) -> int:
        if stream not in self._streams and stream not in self._bodies:
            return 0
        return self._conn.streams[stream].outbound_flow_control_window

    def _die(self, code: int, cause: str) -> NoReturn:
        self._bodies.clear()
        self._messages.clear()
        super()._die(code, cause)
