"""What one HTTP/2 peer may do and cost: a walk over frame headers, before whichever engine reads the frames.

So the bounds are the same for every engine, and so are rules that an engine forgets (RFC 9113 §5.1: what comes for a
stream that the peer itself has ended). Sans-I/O; kept are numbers, the streams that the peer has not ended, and the
first bytes of a frame that was split over reads: an engine is given a frame's header only when it is whole.

    bound                                  why
    frames of at most 16 KiB               our SETTINGS_MAX_FRAME_SIZE; an engine might collect a longer one first
    CONTINUATION frames of one head        CVE-2024-27316
    resets in a period, exact              CVE-2023-44487; CVE-2025-8671: those that the peer makes us send count too
    SETTINGS, PING, empty DATA in 10 s     each makes us work or answer and moves nothing (CVE-2019-9512, 9515, 9518)
    WINDOW_UPDATE, PRIORITY, unknown       grow with what moves: requests, and bytes that we have sent (CVE-2019-9511)
    answers that wait for `output()`       a peer that does not read what it makes us write (CVE-2019-9512)

A PING for each DATA frame is free: gRPC measures round trips so.
"""
from __future__ import annotations

from collections import deque
from typing import Final

NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11
HTTP_1_1_REQUIRED: Final = 13

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 1
END_STREAM: Final = 1
END_HEADERS: Final = 4
PADDED: Final = 8

FRAME_HEADER: Final = 9
MAX_FRAME: Final = 16 * 1024
MAX_STREAM_ID: Final = 2**31 - 1
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

PERIOD: Final = 10.0
MAX_HALF_OPEN: Final = 1024  # streams that the peer has not ended, most of them reset by us: remembered so many
LARGE_INCREMENT: Final = 1 << 24
MAX_SETTINGS_SIZE: Final = 32 * 6
MAX_SETTINGS: Final = 100
MAX_PINGS: Final = 1000
MAX_EMPTY: Final = 100
MAX_IDLE: Final = 1000
IDLE_PER_HEAD: Final = 10
IDLE_PER_KIB: Final = 2

# What the walk may find at the frame where it ends.
FINE: Final = 0    # nothing: the rest is not a whole header
BROKEN: Final = 1  # a bound or a rule is broken: `code` and `cause`
LOOK: Final = 2    # a WINDOW_UPDATE of a stream that may take its window over the top


class H2Limits:
    """The bounds of one connection. `fields` and `head` (bytes, 32 a field more) are what the user accepts in one head;
    what exceeds them is still told, so that it can be answered, up to `hard_fields` and `hard_head`: beyond these the
    connection is at its end, for its compression state is lost with the rest of the head."""

    __slots__ = ("streams", "window", "connection_window", "head", "fields", "hard_head", "hard_fields", "resets",
                 "reset_period", "continuations", "queued")

    def __init__(self, streams: int = 100, window: int = 64 * 1024, connection_window: int = 1024 * 1024,
                 head: int = 64 * 1024, fields: int = 100, resets: int = 100, reset_period: float = 30.0,
                 continuations: int = 8, queued: int = 1000) -> None:
        self.streams = streams
        self.window = window
        self.connection_window = connection_window
        self.head = head
        self.fields = fields
        self.hard_head = 2 * head
        self.hard_fields = 4 * fields
        self.resets = resets
        self.reset_period = reset_period
        self.continuations = continuations
        self.queued = queued


class Guard:
    """The count of one connection."""

    __slots__ = ("found", "code", "cause", "owed", "sent", "in_head", "partial", "_server", "_limits", "_skip", "_last",
                 "_forgiven", "_half_open", "_continuations", "_resets", "_until", "_settings", "_pings", "_empty",
                 "_idle", "_heads", "_frames")

    def __init__(self, server: bool, limits: H2Limits, now: float) -> None:
        self.found = FINE
        self.code = 0
        """ENHANCE_YOUR_CALM or another error code once something is BROKEN."""
        self.cause = ""
        self.owed = 0
        """Control frames that the peer has made us queue since `output()` was last asked."""
        self.sent = 0
        """KiB of bodies, begun ones, that we gave to the peer in this period."""
        self.in_head = False
        """A head has begun and is not whole."""
        self.partial = b""
        """Behind the last walk: bytes to be put before those that come next."""
        self._server = server
        self._limits = limits
        self._skip = len(PREFACE) if server else 0  # bytes of the frame at hand (or the preface) that are to come
        self._last = 0                              # the latest stream
        self._forgiven = 0                          # streams up to this one are not judged any more
        self._half_open: set[int] = set()           # streams that the peer has not ended
        self._continuations = 0
        self._resets: deque[float] | None = None
        self._until = now + PERIOD
        self._settings = 0
        self._pings = 0
        self._empty = 0
        self._idle = 0
        self._heads = 0
        self._frames = 0  # of DATA

    def requested(self, stream: int) -> None:
        """Client: a stream was opened."""
        self._last = stream
        self._open(stream)

    def walk(self, data: bytes, now: float) -> int:
        """How many of `data` may be given to the engine. It ends before the end for what `found` says."""
        if now >= self._until:
            self._until = now + PERIOD
            self.sent = self._settings = self._pings = self._empty = self._idle = self._heads = self._frames = 0
        size = len(data)
        at = self._skip
        while at + FRAME_HEADER <= size:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            kind = data[at + 3]
            if (kind == PRIORITY or kind == WINDOW_UPDATE) and length <= 5 and size - at < FRAME_HEADER + length:
                break
            stream = data[at + 5] << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
            if kind == HEADERS or kind == DATA:
                found = self._message(kind, data[at + 4], stream & MAX_STREAM_ID, length)
            else:
                found = self._control(kind, data[at + 4], stream & MAX_STREAM_ID, length, data, at + FRAME_HEADER, now)
            if found:
                self.found = found
                self._skip = 0
                return at
            at += FRAME_HEADER + length
        self.found = FINE
        if at < size:
            self._skip = 0
            self.partial = data[at:]
            return at
        self._skip = at - size
        return size

    def _message(self, kind: int, flags: int, stream: int, length: int) -> int:
        """HEADERS and DATA."""
        ended = flags & END_STREAM
        if length > MAX_FRAME:
            return self._broken(FRAME_SIZE_ERROR, "a frame is longer than 16384 bytes")
        if kind == HEADERS:
            self._heads += 1
            self._continuations = 0
            self.in_head = not flags & END_HEADERS
            if stream > self._last and self._server:
                self._last = stream
                if not ended:
                    self._open(stream)
                return FINE
        else:
            self._frames += 1
            if (length == 0 or (flags & PADDED and length <= 256)) and not ended:
                self._empty += 1
                if self._empty > MAX_EMPTY:
                    return self._broken(ENHANCE_YOUR_CALM, "too many empty DATA frames")
        if stream not in self._half_open:
            # Above the last: the engine's business. Not because of ours: what we reset, the peer has not ended.
            if self._forgiven < stream <= self._last:
                return self._broken(STREAM_CLOSED, "a frame for a stream that is closed")
        elif ended:
            self._half_open.discard(stream)
        return FINE

    def _control(self, kind: int, flags: int, stream: int, length: int, data: bytes, at: int, now: float) -> int:
        """Everything else; `at` is where the payload begins."""
        if length > MAX_FRAME:
            return self._broken(FRAME_SIZE_ERROR, "a frame is longer than 16384 bytes")
        if kind == RST_STREAM:
            self._half_open.discard(stream)
            # A server's resets cost nothing more than its answers would.
            return FINE if not self._server or self.reset(now) else BROKEN
        if kind == SETTINGS or kind == PING:
            return self._answered(length, kind, flags)
        if kind == CONTINUATION:
            self._continuations += 1
            if flags & END_HEADERS:
                self.in_head = False
            if self._continuations > self._limits.continuations:
                return self._broken(ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
            return FINE
        if kind == WINDOW_UPDATE and length == 4:
            increment = number(data, at) & MAX_STREAM_ID
            if not increment:  # RFC 9113 §6.9; of a stream, too: who sends it is broken
                return self._broken(PROTOCOL_ERROR, "a window is opened by nothing")
            if stream and increment >= LARGE_INCREMENT:
                return LOOK
        elif kind == PRIORITY and length == 5:
            # RFC 7540 §5.3.1, 6.3; the priorities themselves are given up (RFC 9113 §5.3.2)
            if not stream or number(data, at) & MAX_STREAM_ID == stream:
                return self._broken(PROTOCOL_ERROR, "a stream depends on itself, or there is none")
        return self._idled()

    def _idled(self) -> int:
        """A frame that moves nothing."""
        self._idle += 1
        if self._idle > MAX_IDLE + IDLE_PER_HEAD * self._heads + IDLE_PER_KIB * self.sent:
            return self._broken(ENHANCE_YOUR_CALM, "too many frames that move nothing")
        return FINE

    def _answered(self, length: int, kind: int, flags: int) -> int:
        """SETTINGS and PING: each of them obliges us to send something."""
        if flags & ACK:
            return self._idled()
        if kind == SETTINGS:
            self._settings += 1
            if self._settings > MAX_SETTINGS or length > MAX_SETTINGS_SIZE:
                return self._broken(ENHANCE_YOUR_CALM, "too many SETTINGS")
        else:
            self._pings += 1
            if self._pings > MAX_PINGS + self._frames + self.sent:
                return self._broken(ENHANCE_YOUR_CALM, "too many PING frames")
        self.owed += 1
        if self.owed > self._limits.queued:
            return self._broken(ENHANCE_YOUR_CALM, "answers to control frames are not read")
        return FINE

    def reset(self, now: float) -> bool:
        """Count a reset, of the peer or one that it is the reason for. False: too many."""
        limits = self._limits
        resets = self._resets
        if resets is None:
            resets = self._resets = deque(maxlen=limits.resets)
        if len(resets) == limits.resets and now - resets[0] < limits.reset_period:
            self._broken(ENHANCE_YOUR_CALM, "too many streams are reset")
            return False
        resets.append(now)
        return True

    def looked(self) -> int:
        """The frame to LOOK at is seen to; it is counted, and no longer part of what is walked."""
        return self._idled()

    def _open(self, stream: int) -> None:
        half_open = self._half_open
        if len(half_open) >= MAX_HALF_OPEN:
            # Most were reset by us, and a frame that is late must not be held against the peer.
            half_open.clear()
            self._forgiven = stream - 1
        half_open.add(stream)

    def _broken(self, code: int, cause: str) -> int:
        self.code = code
        self.cause = cause
        return BROKEN


def number(data: bytes, at: int) -> int:
    """Four bytes of a frame."""
    return data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]
