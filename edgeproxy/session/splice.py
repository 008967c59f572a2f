"""One direction of a tcp relay: small pieces are copied, large transfers spliced.

By splice(2) the kernel moves pages from socket to socket without copying them through this process. A pipe is borrowed
for as long as it holds bytes, so a few serve thousands of relays; who gets none copies. Their number is bounded because
descriptors are: they come out of what the connection limit keeps in reserve.

Rules: a flow acts on its source and its sink alone, and tells its session of every end. Watchers are told of changes
only once, so a flow reads until there is nothing left, or notes that it stopped (BLOCKED, `Poller.again`).
"""
from __future__ import annotations

import fcntl
import os
import socket
from typing import Final, Protocol

from edgeproxy.net.poller import BROKEN, ENDING, READABLE, WRITABLE, Poller

SIZE = 256 * 1024
LITTLE = 64 * 1024  # a read that fills this much is the middle of something large: from here on by splice
CALM = 16 * 1024  # and with less than this it is over
READS = 4  # full reads before others get their turn
# One buffer for all: it is empty again before anybody else runs, what a sink did not take is copied out of it.
_BUFFER = bytearray(SIZE)
_VIEW = memoryview(_BUFFER)
_LITTLE = _VIEW[:LITTLE]
_NOTHING = b""

MOST = 16  # two descriptors each
CAPACITY = 256 * 1024
"""Bytes moved at once; with it the memory of a direction whose reader is slow is bounded."""

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    __slots__ = ("reader", "writer", "held")

    def __init__(self) -> None:
        """Raises OSError."""
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        """Bytes in it."""
        try:
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, CAPACITY)
        except OSError:
            pass  # over /proc/sys/fs/pipe-max-size or the user's share: the pipe keeps its 64 KiB

    def fill(self, fd: int) -> int:
        """Take what `fd` has, into the empty pipe; 0: the end. Raises BlockingIOError if there is nothing, OSError."""
        self.held = os.splice(fd, self.writer, CAPACITY, flags=_FLAGS)
        return self.held

    def drain(self, fd: int) -> int:
        """Give `fd` what it takes now, at least a byte. Raises BlockingIOError if it takes nothing, OSError."""
        moved = os.splice(self.reader, fd, self.held, flags=_FLAGS)
        self.held -= moved
        return moved

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """The pipes of the process."""

    __slots__ = ("_most", "_made", "_idle")

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._made = 0
        self._idle: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe, or None: all are in use, or the process has no descriptor for one."""
        if self._idle:
            return self._idle.pop()
        if self._made >= self._most:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None
        self._made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Back from its user. One that still holds bytes of an ended relay must never serve another."""
        if pipe.held:
            self._made -= 1
            pipe.close()
        else:
            self._idle.append(pipe)

    def close(self) -> None:
        """Close the idle ones."""
        while self._idle:
            self._idle.pop().close()
            self._made -= 1


PIPES = Pipes()


class Relay(Protocol):
    """Whose two directions the flows are."""

    def source_reset(self, flow: Flow) -> None:
        """`flow` has come to the end of what its source sent before it was reset."""

    def half_closed(self) -> None:
        """One direction has ended."""

    def end(self) -> None:
        """Both have."""

    def fault(self) -> None:
        """A mistake of ours; called from an `except`."""


# Plain numbers, not an enum: the compiled code compares them in an instruction.
OPEN: Final = 0
BLOCKED: Final = 1
"""The sink takes no more; what is left waits here and the source is not read."""
CLOSED: Final = 2
"""Its end was passed on, or its sink is gone."""


class Flow:
    """One direction of a relay: reads its source, writes its sink, and holds at most SIZE bytes in between."""

    __slots__ = ("session", "poller", "back", "source", "sink", "recv", "send", "state", "rest",
                 "total", "last", "broken", "bulk", "pipe")
    __deletable__ = ("back",)  # the compiler of the hot path wants to know

    back: Flow
    """The other direction: its sink is our source."""

    def __init__(self, session: Relay, poller: Poller, source: socket.socket, sink: socket.socket) -> None:
        self.session = session
        self.poller = poller
        self.source = source
        self.sink = sink
        self.recv = source.recv_into
        self.send = sink.send
        self.state = OPEN
        self.rest: bytes | memoryview = _NOTHING
        self.total = 0
        self.last = poller.now
        self.broken = False
        """The source was reset: what it has sent before still goes on, but its end is no FIN."""
        self.bulk = False
        self.pipe: Pipe | None = None
        """Only while it holds bytes."""

    def event(self, events: int) -> None:
        """Something changed at the source, which is the sink of the way back too."""
        try:
            back = self.back
            if back.state == BLOCKED and events & WRITABLE:
                back.resume()
            if self.state == OPEN:
                if events & READABLE:
                    self.pump(events & ENDING)
            elif self.state == CLOSED and events & BROKEN:
                self.session.source_reset(self)
        except Exception:
            self.session.fault()

    def pump(self, ending: int) -> None:
        """Move what the source has. `ending`: a short read does not say that this was all."""
        if self.bulk and self._splice():
            return
        recv, send = self.recv, self.send
        self.last = self.poller.now
        buffer = _LITTLE
        for _ in range(READS):
            try:
                size = recv(buffer)
            except BlockingIOError:
                return
            except OSError:
                self.session.source_reset(self)
                return
            if size == 0:
                self._ended()
                return
            try:
                sent = send(_VIEW[:size])
            except BlockingIOError:
                sent = 0
            except OSError:
                self._sink_gone()
                return
            self.total += sent
            if sent < size:
                self.rest = bytes(_VIEW[sent:size])
                self.state = BLOCKED
                return
            if size == len(buffer):
                if self._splice():
                    return
                buffer = _VIEW
            elif not ending:
                return
        self.poller.again(self._go_on)

    def begin(self, first: bytes, more: int) -> None:
        """`first` is what the source had sent before the sink was there; `more`: there is, or was, more to be read."""
        if first:
            self.rest = first
            self.state = BLOCKED
            if not self._flush():
                return
        if more:
            self.pump(ENDING)

    def resume(self) -> None:
        """The sink is writable again."""
        if self._flush():
            self.pump(ENDING)

    def _flush(self) -> bool:
        """Whether nothing is left from before, and the source may be read again."""
        if self.pipe is not None:
            if not self._drain(self.pipe):
                return False
            self._give_back()
        else:
            rest = self.rest
            try:
                sent = self.send(rest)
            except BlockingIOError:
                return False
            except OSError:
                self._sink_gone()
                return False
            self.total += sent
            self.last = self.poller.now
            if sent < len(rest):
                self.rest = memoryview(rest)[sent:]
                return False
            self.rest = _NOTHING
        self.state = OPEN
        return True

    def _go_on(self) -> None:
        if self.state == OPEN:
            try:
                self.pump(ENDING)
            except Exception:
                self.session.fault()

    # ---- large transfers

    def _splice(self) -> bool:
        """As `pump`, by the kernel. False: there is no pipe for it."""
        pipe = PIPES.take()
        if pipe is None:
            return False
        self.pipe = pipe
        self.bulk = True
        self.last = self.poller.now
        source = self.source.fileno()
        for _ in range(READS):
            try:
                size = pipe.fill(source)
            except BlockingIOError:
                self._give_back()
                return True
            except OSError:
                self.session.source_reset(self)
                return True
            if size == 0:
                self._give_back()
                self._ended()
                return True
            self.bulk = size >= CALM
            if not self._drain(pipe):
                return True
        self._give_back()
        self.poller.again(self._go_on)
        return True

    def _drain(self, pipe: Pipe) -> bool:
        """Whether the pipe is empty and the flow may go on."""
        sink = self.sink.fileno()
        try:
            while pipe.held:
                self.total += pipe.drain(sink)
        except BlockingIOError:
            self.state = BLOCKED
            return False
        except OSError:
            self._sink_gone()
            return False
        self.last = self.poller.now
        return True

    def _give_back(self) -> None:
        if self.pipe is not None:
            PIPES.give(self.pipe)
            self.pipe = None

    # ---- ends

    def _ended(self) -> None:
        """EOF, and everything before it was passed on."""
        if self.broken:
            self.session.source_reset(self)
            return
        self.state = CLOSED
        if self.back.state == CLOSED:
            self.session.end()
            return
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._sink_gone()
            return
        self.session.half_closed()

    def _sink_gone(self) -> None:
        """The sink was reset. What it had sent before is still in the kernel, or waits for our source to take it."""
        self.state = CLOSED
        self.rest = _NOTHING
        self._give_back()
        back = self.back
        back.broken = True
        if back.state == OPEN:
            back.pump(ENDING)
        if back.state != BLOCKED:
            self.session.source_reset(back)

    def release(self) -> None:
        """The session is over; without its way back a flow is in no cycle and needs no garbage collector."""
        self.state = CLOSED
        self.rest = _NOTHING
        self._give_back()
        del self.back
