"""An HTTP/2 connection as its user sees it: `Streams`, what is told; `H2Codec`, what can be done. Engines fill it in.

Sans-I/O: bytes in, calls out, bytes out; `now` (seconds, any clock that does not jump) is an argument.

    receive(data, now)   calls `Streams` for what came; while it runs, nobody may ask for `output()`
    output()             what may be sent now; ask only when it can be taken, for what waits is counted against the peer
    anything else        may be called at any time; on a stream that is unknown or over it does nothing

A stream is known from `opened` or `request()` until it is cut or reset, or both sides have ended and our end was in
`output()`. Whatever `data` tells must be given back with `consumed()` sooner or later, in all: these are the windows
that hold the peer. What is still out when a stream is cut or reset is given back by the codec, and `consumed()` for it
does nothing more. Data for streams that we have reset is told nobody, and given back at once.

Bodies that wait for the connection's window, or for one another, are sent in turns: a long one does not hold up others.

A connection error (RFC 9113 §5.4.1) is raised by `receive()` as ProxyError, H2_BROKEN or H2_FLOOD, after everything
that came before it was told. Then a GOAWAY waits in `output()`; every stream is over without a `cut` for each, and
every further call does nothing.

Once the connection is `exhausted` and no stream is `open`, nothing is told any more. A client that has said GOAWAY
opens no further streams: such requests are not told.

Malformed messages (§8.1.1) are resets: the codec judges framing and syntax, and tells nothing of a request that breaks
them. What it tells may still break rules of a proxy, and is the user's to refuse.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from edgeproxy.codec.h2_guard import (
    BROKEN,
    CANCEL,
    ENHANCE_YOUR_CALM,
    FINE,
    FLOW_CONTROL_ERROR,
    FRAME_HEADER,
    GOAWAY,
    HTTP_1_1_REQUIRED,
    INTERNAL_ERROR,
    LOOK,
    MAX_STREAM_ID,
    NO_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    Guard,
    H2Limits,
    number,
)
from edgeproxy.compiler import mypyc_attr
from edgeproxy.errors import Kind, ProxyError

Fields = Sequence[tuple[bytes, bytes]]

UNLIMITED: Final = 2**31 - 1
WINDOW_UPDATE_SIZE: Final = FRAME_HEADER + 4
ASSUMED_STREAMS: Final = 100  # what a server allows until its SETTINGS are here

# What is kept of each stream: which sides have ended.
PEER_ENDED: Final = 1
WE_ENDED: Final = 2
RESPONDED: Final = 4  # a final response head was given, or a request
SHARED: Final = 8     # its body is sent in turns with others

# Resets of ours that are not for a fault of the peer.
BLAMELESS: Final = (NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, HTTP_1_1_REQUIRED)


@mypyc_attr(allow_interpreted_subclasses=True)
class Streams:
    """Who uses a codec. Fields are pairs of bytes (perhaps of a subclass of tuple); names are in lower case."""

    __slots__ = ()

    def opened(self, stream: int, fields: Fields, ended: bool) -> None:
        """Server: a request's head. It may exceed `H2Limits.head` and `fields`, so that it can be answered with 431."""

    def answered(self, stream: int, fields: Fields, ended: bool) -> None:
        """Client: a final response's head."""

    def interim(self, stream: int, fields: Fields) -> None:
        """Client: a head of status 1xx."""

    def data(self, stream: int, payload: bytes, ended: bool) -> None:
        """Bytes of a body; b"" only with `ended`."""

    def trailers(self, stream: int, fields: Fields) -> None:
        """They end the peer's side."""

    def cut(self, stream: int, code: int, by_peer: bool) -> None:
        """A known stream was reset. `by_peer` False: by the codec, because the peer broke a rule on it.

        Code 0 by the peer behind a whole response: the peer wants no more of the request. REFUSED_STREAM: it was not
        looked at, and may be sent again; streams that a GOAWAY leaves out end so too.
        """

    def settled(self) -> None:
        """The peer's SETTINGS came: `max_streams` may have changed."""

    def going_away(self, last: int, code: int) -> None:
        """GOAWAY: our streams above `last` were not and will not be processed; they are cut next."""

    def ponged(self) -> None:
        """A `ping()` of ours was answered."""


@mypyc_attr(allow_interpreted_subclasses=True)
class H2Codec:
    """What both engines share. See the module."""

    __slots__ = ("user", "client", "limits", "max_streams", "_guard", "_streams", "_unread", "_now", "_out", "_last",
                 "_gone", "_left", "_dead", "_resets", "_later", "_overrun")

    def __init__(self, user: Streams, client: bool, limits: H2Limits, now: float) -> None:
        self.user = user
        self.client = client
        self.limits = limits
        self.max_streams = ASSUMED_STREAMS if client else 0
        """How many streams of ours the peer allows at once."""
        self._guard = Guard(not client, limits, now)
        self._streams: dict[int, int] = {}
        self._unread: dict[int, int] = {}    # bytes that were told and not consumed yet
        self._now = now
        self._out: list[bytes] = []          # serialised, and not asked for yet
        self._last = 0                       # the last stream of the peer that was told
        self._gone = False                   # a GOAWAY of either side: no new streams
        self._left = False                   # a GOAWAY of the peer
        self._dead = False                   # after a connection error
        self._resets: set[int] = set()       # streams that we have reset since `output()`, on purpose
        self._overrun = False                # resets of ours have gone over the limit
        self._later: set[int] = set()        # streams to be reset without an error once they are sent

    # ---- both sides

    @property
    def open(self) -> int:
        """Streams that are not over."""
        return len(self._streams)

    def is_open(self, stream: int) -> bool:
        """Whether a stream is known; not over until both ends are sent, so ask after `output()`."""
        return stream in self._streams

    @property
    def in_head(self) -> bool:
        """A head has begun to come and is not whole."""
        return self._guard.in_head

    @property
    def exhausted(self) -> bool:
        """No stream can be opened any more on this connection."""
        return self._gone or self._dead

    def receive(self, data: bytes, now: float) -> None:
        """Take what a read returned. Raises ProxyError for a connection error."""
        if self._dead or self._idle_for_good():
            return
        self._now = now
        guard = self._guard
        if guard.partial:
            data = guard.partial + data
            guard.partial = b""
        within = guard.walk(data, now)
        if within == len(data):
            self._feed(data)
        else:
            self._feed_some(data, within, now)
        if self._overrun:
            self._fail(guard.code, guard.cause)

    def _feed_some(self, data: bytes, within: int, now: float) -> None:
        """The walk has ended early: for good, or at a frame that has to be looked at."""
        guard = self._guard
        while True:
            if within:
                self._feed(data[:within])
            if guard.found == BROKEN or (guard.found == LOOK and guard.looked()):
                self._fail(guard.code, guard.cause)
            if guard.found == FINE:
                return
            stream = number(data, within + 5) & MAX_STREAM_ID
            update = data[within:within + WINDOW_UPDATE_SIZE]
            data = data[within + WINDOW_UPDATE_SIZE:]
            if self._window(stream) + (number(update, FRAME_HEADER) & MAX_STREAM_ID) <= MAX_STREAM_ID:
                self._feed(update)
            else:  # RFC 9113 §6.9.1
                known = self._forget(stream)
                self._cancel(stream, FLOW_CONTROL_ERROR)
                if known:
                    self.user.cut(stream, FLOW_CONTROL_ERROR, False)
                self._fault()
            within = guard.walk(data, now)

    def output(self) -> bytes:
        """Everything that may be sent now; b"" if nothing."""
        raise NotImplementedError

    def send(self, stream: int, payload: bytes, ended: bool) -> None:
        """Body bytes, behind a head that was not `ended`."""
        raise NotImplementedError

    def send_trailers(self, stream: int, fields: Fields) -> None:
        """They end our side."""
        raise NotImplementedError

    def reset(self, stream: int, code: int) -> None:
        """End a stream at once; with NO_ERROR behind our end, once that is sent: then nothing of the answer is lost."""
        raise NotImplementedError

    def consumed(self, stream: int, amount: int) -> None:
        """So many bytes that `data` told were passed on: the windows of stream and connection open again."""
        left = self._unread.get(stream, 0) - amount
        if left > 0:
            self._unread[stream] = left
        else:
            amount = self._unread.pop(stream, 0)
        if amount:
            self._give_back(stream, amount)

    def queued(self, stream: int) -> int:
        """Bytes of the stream's body that wait for the peer's windows, and all that waits for `output()`."""
        raise NotImplementedError

    def blocked(self) -> list[int]:
        """Streams whose bytes wait for the peer's windows (ask after `output()`)."""
        return [stream for stream in self._streams if self.queued(stream)]

    def shutdown_notice(self) -> None:
        """Server: a GOAWAY that ends nothing yet (RFC 9113 §6.8). Say `goaway()` a round trip later."""
        raise NotImplementedError

    def goaway(self, code: int = NO_ERROR) -> None:
        """GOAWAY with the last stream that was told; later ones of the peer are ignored, those that are open go on."""
        raise NotImplementedError

    def ping(self) -> None:
        raise NotImplementedError

    # ---- client

    def request(self, fields: Fields, ended: bool) -> int:
        """Open a stream; its number. 0 if that cannot be: `exhausted`, or `open` is at `max_streams`."""
        raise NotImplementedError

    # ---- server

    def respond(self, stream: int, fields: Fields, ended: bool) -> None:
        """The final head; `ended` also for HEAD, 204 and 304."""
        raise NotImplementedError

    def respond_interim(self, stream: int, fields: Fields) -> None:
        raise NotImplementedError

    # ---- for engines

    def _feed(self, data: bytes) -> None:
        """Take bytes that are within bounds. Ends with `_fail` for a connection error."""
        raise NotImplementedError

    def _window(self, stream: int) -> int:
        """How much the peer lets us send on a stream; 0 if it is over."""
        raise NotImplementedError

    def _cancel(self, stream: int, code: int) -> None:
        """Send RST_STREAM for a fault of the peer."""
        raise NotImplementedError

    def _drained(self) -> bytes:
        """What the engine has to send; it must not raise."""
        raise NotImplementedError

    def _give_back(self, stream: int, amount: int) -> None:
        """Open the windows; the stream may be over."""
        raise NotImplementedError

    def _idle_for_good(self) -> bool:
        """No stream is open and none will be: what comes now means nothing to anybody."""
        return self._gone and not self._streams and not self._later

    def _forget(self, stream: int) -> bool:
        """A stream ends before its time; False if it was over."""
        self._later.discard(stream)
        if self._streams.pop(stream, -1) < 0:
            return False
        left = self._unread.pop(stream, 0)
        if left:
            self._give_back(stream, left)
        return True

    def _blame(self, code: int) -> None:
        """A reset by the user. It counts if it is for a fault of the peer; `receive` ends what is over the limit."""
        if code not in BLAMELESS and not self.client and not self._guard.reset(self._now):
            self._overrun = True

    def _fault(self) -> None:
        """The peer made us reset a stream."""
        if not self.client and not self._guard.reset(self._now):
            self._fail(self._guard.code, self._guard.cause)

    def _say_goodbye(self, last: int, code: int, faults: dict[int, int]) -> None:
        """The peer's GOAWAY: tell it, and which of our streams it leaves out; `faults` were reset by us before."""
        self._gone = self._left = True
        self.user.going_away(last, code)
        if self.client:
            for stream in [one for one in self._streams if one > last]:
                if self._forget(stream):
                    fault = faults.get(stream, 0)
                    self.user.cut(stream, fault or REFUSED_STREAM, not fault)

    def _fail(self, code: int, cause: str) -> NoReturn:
        """End the connection with a GOAWAY of ours. Raises ProxyError."""
        rest = self._drained()
        if rest:
            self._out.append(rest)
        self._out.append(goaway_frame(self._last, code, cause.encode("latin-1", "replace")))
        self._die(code, cause)

    def _die(self, code: int, cause: str) -> NoReturn:
        """The GOAWAY is in the output. Raises ProxyError."""
        self._dead = True
        self._streams.clear()
        self._unread.clear()
        self._later.clear()
        raise ProxyError(Kind.H2_FLOOD if code == ENHANCE_YOUR_CALM else Kind.H2_BROKEN,
                         cause or f"HTTP/2 error code {code}")


def goaway_frame(last: int, code: int, cause: bytes) -> bytes:
    """RFC 9113 §6.8."""
    return b"".join(((8 + len(cause)).to_bytes(3, "big"), b"\x07\0\0\0\0\0", last.to_bytes(4, "big"),
                     code.to_bytes(4, "big"), cause))


def reset_frame(stream: int, code: int) -> bytes:
    """RFC 9113 §6.4."""
    return b"\0\0\x04\x03\0" + stream.to_bytes(4, "big") + code.to_bytes(4, "big")


def notable_frames(out: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, stream, code, debug data) of each RST_STREAM and GOAWAY among whole frames."""
    found: list[tuple[int, int, int, bytes]] = []
    at, size = 0, len(out)
    if out.startswith(b"PRI "):
        at = 24
    while at < size:
        length = out[at] << 16 | out[at + 1] << 8 | out[at + 2]
        kind = out[at + 3]
        at += FRAME_HEADER
        if kind == RST_STREAM:
            found.append((kind, number(out, at - 4), number(out, at), b""))
        elif kind == GOAWAY:
            found.append((kind, number(out, at), number(out, at + 4), out[at + 8:at + length]))
        at += length
    return found
