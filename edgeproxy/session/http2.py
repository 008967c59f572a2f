"""One client connection of an http listener, HTTP/2 (RFC 9113): its streams at once, each with an `Exchange`.

    state     stimulus                        then
    OPEN      a request                       a stream with an exchange; refused if there are too many
    OPEN      draining begins                 NOTICED: GOAWAY without an end, so that requests on their way are served
    NOTICED   a moment later                  LEAVING: GOAWAY with the last stream; later ones are not served
    LEAVING   no stream is left               LINGER
    OPEN      idle or header timeout, GOAWAY  LEAVING, and so LINGER
    LINGER    anything                        dropped until EOF or a deadline: closing with unread bytes sends a RST,
                                              and that can destroy the last answers on their way
    any       a broken or a flooding client   CLOSED, behind a GOAWAY that says why
    any       EOF                             the client is taken for gone: its exchanges end

Writing: what codec and streams have to send is written once at the end of a turn of the poller (`touch`), however many
streams have answered. While the transport is full nothing is read and the codec is not asked: what waits stays within
each stream's own limits. A stream waits in three places: `streams` while its exchange runs, `ending` until the next
write, `blocked` while the client's windows hold its answer back.

Time: one deadline. While there are streams it looks at them every few seconds (`Watch`), else it waits for the next
request. PING and its kind are no progress.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from edgeproxy.codec.h2 import H2Codec, H2Limits, build_codec
from edgeproxy.errors import Kind, Phase, ProxyError
from edgeproxy.net.deadline import Deadline
from edgeproxy.net.transport import SocketTransport
from edgeproxy.session.http import HttpListener, HttpSession
from edgeproxy.session.pace import Pace
from edgeproxy.session.peer import Peer
from edgeproxy.session.record import unserved
from edgeproxy.session.stream import (
    CANCEL,
    FINE,
    LOW_WATER,
    MAX_STREAMS,
    NO_ERROR,
    SILENT,
    SLOW,
    STALL,
    Intake,
    Stream,
    Watch,
)

_log = logging.getLogger("edgeproxy")

MOMENT: Final = 0.5  # between the two GOAWAYs, for requests that are on their way
LINGER_TIME: Final = 2.0
LINGER_LIMIT: Final = 256 * 1024
SWEEP: Final = 5.0
PIECE: Final = 1024
LARGE_PIECE: Final = 16 * 1024
WINDOW: Final = 64 * 1024
"""Of a stream. The connection has it for each: with 1 MiB, sixteen uploads to a slow service would stop all others."""
BURST: Final = 16  # requests of one connection before others get their turn
SAY_EVERY: Final = 60.0

# Plain numbers, not an enum: the compiled code compares them in an instruction.
_OPEN: Final = 0
_NOTICED: Final = 1
_LEAVING: Final = 2
_LINGER: Final = 3
_CLOSED: Final = 4

_warned: dict[str, float] = {}  # by listener: when it last said that a client was broken


class Http2Session(HttpSession):
    __slots__ = ("listener", "loop", "poller", "log", "codec", "transport", "deadline", "state", "streams",
                 "choked", "full", "now", "intake", "_ending", "_blocked", "_closed", "_dirty", "_receiving",
                 "_began", "_quiet_since", "_head_since", "_final_at", "_taking", "_watches", "_period", "_dropped",
                 "_unread")

    def __init__(self, listener: HttpListener, peer: Peer, transport: SocketTransport, closed: Callable[[], None],
                 first: bytes = b"") -> None:
        """`first`: what another session has read, of a client that speaks HTTP/2 without having been asked."""
        now = monotonic()
        limits = listener.config.limits
        self.listener = listener
        self.loop = listener.loop
        self.poller = listener.poller
        self.peer = peer
        self.log = listener.log
        self.now = now
        """When the bytes at hand came."""
        self.intake = Intake(self)
        self.codec: H2Codec = build_codec(self.intake, False, H2Limits(
            streams=MAX_STREAMS, window=WINDOW, connection_window=MAX_STREAMS * WINDOW, head=limits.header,
            fields=limits.headers), now)
        self.state = _OPEN
        self.streams: dict[int, Stream] = {}
        """Whose exchange runs."""
        self.choked: list[Stream] = []
        """Whose exchange was told that the client is full."""
        self.full = False
        """The transport takes no more for now."""
        self._ending: list[Stream] = []
        self._blocked: dict[int, Stream] = {}
        self._closed: Callable[[], None] | None = closed
        self._dirty = False       # a write is booked
        self._receiving = False   # the codec is telling what came, and must not be asked for output
        self._began = now
        self._quiet_since = now   # no stream since then
        self._head_since = inf    # a header block is not whole
        self._final_at = inf
        self._taking: Pace | None = None
        self._watches: dict[int, Watch] = {}
        self._period = _period(listener)
        self._dropped = 0
        self._unread = b""        # was read, and waits for the next turn
        self.deadline = Deadline(listener.loop, self._expired, listener.nursery)
        listener.sessions.add(self)
        self.transport = transport
        transport.hand_over(self)
        self.deadline.set(now + min(listener.header_time, listener.idle))
        self.touch()  # our SETTINGS
        if first:
            self.data_received(first)

    # ---- receiving

    def data_received(self, data: bytes) -> None:
        if self.state >= _LINGER:
            self._dropped += len(data)
            if self._dropped > LINGER_LIMIT:
                self.transport.abort()
            return
        self.now = now = monotonic()
        if self._unread:  # reading was resumed before our turn
            self._unread += data
            return
        self._receiving = True
        try:
            if len(data) <= PIECE:
                self.codec.receive(data, now)
            else:
                self._in_pieces(data, now)
        except ProxyError as error:
            self._broken(error, now)
            return
        finally:
            self._receiving = False
        if self.codec.in_head:
            if self._head_since == inf:
                self._head_since = now
                self._look_by(now + self.listener.header_time)
        else:
            self._head_since = inf
        if self.state == _OPEN and (self.listener.draining or self.listener.live.draining):
            self.drain()
        self.touch()

    def _in_pieces(self, data: bytes, now: float) -> None:
        """So much at once that others are not kept waiting: a request of thirty bytes costs forty microseconds, and a
        read may hold two thousand of them. Raises ProxyError."""
        intake, at = self.intake, 0
        began = intake.number
        while at < len(data):
            size = PIECE if not at or intake.number - began >= BURST // 2 else LARGE_PIECE
            self.codec.receive(data[at:at + size], now)
            at += size
            if intake.number - began >= BURST and at < len(data):
                self._unread = data[at:]
                self.transport.pause_reading()
                self.poller.again(self._go_on)
                return

    def _go_on(self) -> None:
        """With what was read before others got their turn; not for a client that takes nothing (`resume_writing`)."""
        if self.full or self.state >= _LINGER:
            return
        data, self._unread = self._unread, b""
        self.transport.resume_reading()
        try:
            if data:
                self.data_received(data)
        except Exception as fault:
            self._fault(fault)

    # ---- what streams tell

    def busy(self, now: float) -> None:
        """There is a stream again."""
        if now + self._period < self.deadline.at:
            self.deadline.set(now + self._period)

    def lost(self, number: int, kind: Kind) -> None:
        """A stream was reset by the codec, or by the client."""
        stream = self.streams.pop(number, None)
        if stream is None:
            self._blocked.pop(number, None)
            return
        self.intake.haunt(self.now)
        self._emptied(self.now)
        stream.exchange.client_gone(kind)

    def ended(self, stream: Stream) -> None:
        """The exchange is over and its answer is whole."""
        streams = self.streams
        streams.pop(stream.id, None)
        if stream.owed:
            stream.give_back()
        self._ending.append(stream)
        if not streams:
            self._quiet_since = stream.exchange.ended

    def drop(self, stream: Stream, code: int, kind: Kind | None) -> None:
        """Reset a stream; its exchange is given up for `kind`, or has ended already (None)."""
        now = monotonic()
        self.streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)
        self.codec.reset(stream.id, code)
        self._emptied(now)
        self.touch()
        if kind is not None:
            self.intake.haunt(now)
            stream.exchange.client_gone(kind)

    def _emptied(self, now: float) -> None:
        if not self.streams:
            self._quiet_since = now

    # ---- writing

    def touch(self) -> None:
        """There is something to be sent."""
        if not self._dirty:
            self._dirty = True
            if self.poller.turning:
                self.poller.unsent.append(self._turned)
            else:
                self.loop.call_soon(self._turned)

    def _turned(self) -> None:
        self._dirty = False
        try:
            self._flush()
        except Exception as fault:
            self._fault(fault)

    def _fault(self, fault: Exception) -> None:
        """As the transport does it for what it calls."""
        _log.error("a connection was ended by a fault of the proxy; please report it", exc_info=fault)
        self.transport.abort()

    def flush_early(self) -> None:
        """A stream has so much to be sent that it should not wait for the others."""
        if not self._receiving:
            self._write()

    def _write(self) -> None:
        if not self.full and self.state < _LINGER:
            data = self.codec.output()
            if data:
                self.transport.write(data)

    def _flush(self) -> None:
        self._write()
        if self.full or self.state >= _LINGER:
            return
        if self._blocked:  # first: `_settle` goes by their number
            self._unblock()
        if self._ending:
            self._settle()
        if self.choked:
            self._relieve()
        if self.state == _LEAVING and not (self.streams or self._ending or self._blocked):
            self._linger()

    def _settle(self) -> None:
        """Answers that are whole: gone with this write, or waiting for the client's windows."""
        ending, self._ending = self._ending, []
        codec = self.codec
        if codec.open == len(self.streams) + len(self._blocked):  # most of the time; costs less than to ask for each
            return
        for stream in ending:
            if codec.queued(stream.id):
                self._blocked[stream.id] = stream
            elif not stream.whole:
                self._overtake(stream)

    def _overtake(self, stream: Stream) -> None:
        """An answer that did not wait for the end of its request: the client is asked to stop sending (§8.1)."""
        self.codec.reset(stream.id, NO_ERROR)
        self.touch()

    def _unblock(self) -> None:
        for stream in list(self._blocked.values()):
            if not self.codec.queued(stream.id):
                del self._blocked[stream.id]
                if not stream.whole:
                    self._overtake(stream)
        if not self._blocked and not self.streams:
            self._quiet_since = monotonic()

    def _relieve(self) -> None:
        """Exchanges whose answer had filled its place go on when the client has taken most of it."""
        choked, self.choked = self.choked, []
        for stream in choked:
            if stream.id not in self.streams:
                continue
            if self.codec.queued(stream.id) <= LOW_WATER:
                stream.full = False
                stream.exchange.client_ready()
            else:
                self.choked.append(stream)

    def pause_writing(self) -> None:
        """Requests wait too: each would add an answer to those that the client does not take."""
        self.full = True
        self.transport.pause_reading()
        self._taking = Pace(STALL, monotonic(), self.transport.taken)
        self._look_by(self._taking.look_at)

    def resume_writing(self) -> None:
        self.full = False
        self._taking = None
        if self._head_since < inf:
            self._head_since = monotonic()
        if self._unread:
            self.poller.again(self._go_on)
        else:
            self.transport.resume_reading()
        self.touch()

    # ---- time

    def _look_by(self, at: float) -> None:
        """Look at `at`, or sooner."""
        deadline = self.deadline
        if at < deadline.at:
            deadline.at = at
            if at < deadline.fires:
                deadline.arm(at)

    def _expired(self) -> None:
        try:
            self.look(monotonic())
        except Exception as fault:
            self._fault(fault)

    def look(self, now: float) -> None:
        """See what is due, and when to look again."""
        if self.state >= _LINGER:
            self._look_at_the_end(now)
            return
        if self._taking is not None and self._taking.too_slow(now, self.transport.taken):
            self._abandon(Kind.CLIENT_GONE)
            return
        if now - self._head_since >= self.listener.header_time and not self.full:
            self._abandon(Kind.CLIENT_GONE)
            return
        if now >= self._final_at:
            self.leave()
        self._period = _period(self.listener)
        at = self._final_at
        if self._taking is not None:
            at = min(at, self._taking.look_at)
        else:
            at = min(at, self._head_since + self.listener.header_time)
        if self.streams or self._blocked:
            self._sweep(now)
            at = min(at, now + self._period)
        elif self.state < _LEAVING:
            idle_end = self._quiet_since + (self.listener.idle if self.intake.number else self.listener.header_time)
            if now < idle_end:
                at = min(at, idle_end)
            else:
                self.leave()
        self.deadline.set(at)

    def _sweep(self, now: float) -> None:
        """Streams that do not come on are ended."""
        before, watches = self._watches, {}
        for table, ended in ((self.streams, False), (self._blocked, True)):
            for stream in list(table.values()):
                watch = watches[stream.id] = before.get(stream.id) or Watch(now)
                found = watch.look(stream, ended, now)
                if found == FINE:
                    continue
                elif found == SLOW:
                    stream.exchange.request_failed(
                        ProxyError(Kind.REQUEST_TIMEOUT, "the request's body came too slowly"))
                else:
                    kind = Kind.IDLE_TIMEOUT if found == SILENT else Kind.CLIENT_GONE
                    self.drop(stream, CANCEL, None if ended else kind)
        self._watches = watches

    def _look_at_the_end(self, now: float) -> None:
        """What was sent last has as much time as any, if it is being taken; then the client's FIN has a moment.
        A client that broke the rules and does not even take the GOAWAY has no time."""
        if self.state == _CLOSED or not self.transport.get_write_buffer_size():
            self.transport.abort()
            return
        if self._taking is None:
            self._taking = Pace(STALL, now, self.transport.taken)
        elif self._taking.too_slow(now, self.transport.taken):
            self.transport.reset()
            return
        self.deadline.set(self._taking.look_at)

    # ---- the end

    def drain(self) -> None:
        """End as soon as it can be done without cutting anything (RFC 9113 §6.8: GOAWAY in two steps)."""
        if self.state == _OPEN:
            self.state = _NOTICED
            self.codec.shutdown_notice()
            self._final_at = monotonic() + MOMENT
            self._look_by(self._final_at)
            self.touch()

    def leave(self) -> None:
        """No request is served from now on but those that are here."""
        if self.state < _LEAVING:
            self.state = _LEAVING
            self._final_at = inf
            self.codec.goaway()
            self.touch()

    def _linger(self) -> None:
        self.state = _LINGER
        self.transport.write_eof()
        self.deadline.set(monotonic() + LINGER_TIME)

    def cut(self) -> None:
        """End now."""
        self._abandon(Kind.DRAINING)

    def _abandon(self, kind: Kind) -> None:
        """End now, and say so if the client takes it."""
        self.leave()
        self._give_up(kind)
        self._write()
        self.state = _CLOSED
        self.transport.abort()

    def _broken(self, error: ProxyError, now: float) -> None:
        """The client broke the protocol or a limit of it; the codec has a GOAWAY that says so."""
        self._warn(error, now)
        peer = self.peer
        self.listener.unserved(unserved(peer.address, self.listener.name, self._began, error.kind, Phase.HEAD,
                                        error.cause, peer.sni))
        self._give_up(error.kind)
        self._receiving = False
        self._write()
        self.state = _CLOSED
        self.transport.pause_reading()
        self.transport.close()
        self.deadline.set(now + MOMENT)

    def _warn(self, error: ProxyError, now: float) -> None:
        name = self.listener.name
        if now >= _warned.get(name, -inf) + SAY_EVERY:
            _warned[name] = now
            _log.warning("listener %s: the HTTP/2 connection of %s was ended: %s", name, self.peer.address, error.cause)

    def _give_up(self, kind: Kind) -> None:
        """Nothing that the client has started goes on."""
        streams, self.streams = self.streams, {}
        self._ending.clear()
        self._blocked.clear()
        self.choked.clear()
        for stream in streams.values():
            try:
                stream.exchange.client_gone(kind)
            except Exception:  # the others must end all the same
                _log.exception("a stream ended with a fault of the proxy; please report it")

    def eof_received(self) -> bool:
        self._write()
        if self.streams:
            self._give_up(Kind.CLIENT_GONE)
            self.state = _CLOSED
            self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = _CLOSED
        self._give_up(Kind.CLIENT_GONE)
        self.deadline.end()
        self.listener.sessions.discard(self)
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()


def _period(listener: HttpListener) -> float:
    """Seconds between looks at streams: a quarter of what they wait for, so that none is ended much too late."""
    return min(SWEEP, listener.body_time / 4, (listener.config.timeouts.tunnel or inf) / 4)
