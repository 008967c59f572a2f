"""A transport over a raw non-blocking socket, with the methods of asyncio.Transport.

Why not the loop's own: measured in one run, a proxied request costs 9.4 µs of CPU on raw sockets and 10.6 µs on
uvloop's transports; and uvloop's `write_eof` together with a kept-open read side corrupts memory, so half-close would
be impossible. `tls.py` has the kind with TLS; sessions and channels see no difference.
Readiness comes from a `Poller`, edge-triggered: a connection costs one system call there in its life, pausing none.

Rules: small writes of one turn of the poller go out together at its end, in one call for each connection (why: see
`Poller.unsent`), large ones at once; what the kernel does not take is queued; nothing calls back into the protocol
from inside `write`, `close` or `abort` (losses are told by `call_soon`) except `pause_writing`; a fault in a protocol's
callback ends this connection and no other.
"""
from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from typing import Final

from edgeproxy.compiler import mypyc_attr
from edgeproxy.net.poller import BROKEN, ENDING, READABLE, WRITABLE, Poller

_log = logging.getLogger("edgeproxy")

READ_SMALL: Final = 16 * 1024
# 1 MiB bodies cost 455 µs of CPU this way and 530 with twice as much, which malloc maps anew each time.
READ_LARGE: Final = 64 * 1024
HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024
AT_ONCE: Final = 16 * 1024  # a write of this much does not wait for others
JOINED: Final = 4096
READS: Final = 4  # full reads before others get their turn

# Plain numbers, not an enum: the compiled code compares them in an instruction.
OPEN: Final = 0
_FLUSHING: Final = 1
_CLOSED: Final = 2


@mypyc_attr(allow_interpreted_subclasses=True)
class Receiver:
    """What a transport tells, by the names of asyncio.Protocol; a transport of the loop can tell it as well."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Some bytes, never none."""

    def eof_received(self) -> bool:
        """The peer will send no more; True keeps the other direction open."""
        return False

    def pause_writing(self) -> None:
        """What was written waits for a slow peer; write no more until `resume_writing`."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, once; `exc` if it was not ours and not a regular one."""


NOBODY = Receiver()


class SocketTransport:
    """Owns `sock` and tells its receiver what happens."""

    __slots__ = ("_loop", "_poller", "_sock", "_fd", "_recv", "_send", "_receiver", "_state", "_reading", "_unread",
                 "_read_size", "_pending", "_queue", "_queued", "_over", "_eof_wanted", "_eof_seen", "_broken",
                 "last_words", "drained", "taken")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, sock: socket.socket,
                 receiver: Receiver) -> None:
        self._loop = loop
        self._poller = poller
        self._sock = sock
        self._fd = sock.fileno()
        self._recv = sock.recv
        self._send = sock.send
        self._state = OPEN
        self._reading = True
        self._unread = False      # something may wait in the kernel that no event will tell again
        self._read_size = READ_SMALL
        self._pending: bytes = b""   # written in this turn, not tried yet; empty if there is a queue
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._over = False        # the queue went over HIGH_WATER and has not come back to LOW_WATER
        self._eof_wanted = False
        self._eof_seen = False
        self._broken: OSError | None = None
        self.last_words = False
        """When the peer takes no more, read what it has said before the end is told."""
        self.drained = False
        """The last read took all that was there."""
        self.taken = 0
        """Bytes the kernel took so far: what progress of a slow reader is measured by."""
        self._receiver = receiver
        poller.watch(self._fd, self._event)

    def _event(self, events: int) -> None:
        if self._queue and events & WRITABLE:
            self._writable()
        if not self._reading:
            self._unread = True
            if events & BROKEN and self._state == OPEN:
                self._lose(ConnectionResetError("reset by the peer"))
        elif events & ENDING or self._read_size == READ_LARGE:
            self._read(events & ENDING)
        elif events & READABLE:
            self._read_little()

    # ---- reading

    def _read_little(self) -> None:
        """As `_read`, for the common case: there is less to be read than is asked for."""
        try:
            data = self._recv(READ_SMALL)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._lose(exc)
            return
        self.drained = len(data) < READ_SMALL
        self._take(data)
        if len(data) == READ_SMALL:
            self._read_size = READ_LARGE
            self._read_on()

    def _read(self, ending: int) -> None:
        """Read until nothing is left. `ending`: a short read does not say that this was all."""
        size = self._read_size
        for _ in range(READS):
            try:
                data = self._recv(size)
            except (BlockingIOError, InterruptedError):
                if self._broken is not None:
                    self._lose(self._broken)
                return
            except OSError as exc:
                self._lose(exc)
                return
            self.drained = len(data) < size and not ending
            self._take(data)
            if not data or len(data) < size and not ending:
                return
            if not self._reading:
                self._unread = True
                return
            size = self._read_size = READ_LARGE
        self._poller.again(self._read_on)

    def _take(self, data: bytes) -> None:
        try:
            if data:
                self._receiver.data_received(data)
            else:
                self._end_of_input()
        except Exception as exc:
            self._fault(exc)

    def _read_on(self) -> None:
        if self._reading:
            self._read(ENDING)
        else:
            self._unread = True

    def _end_of_input(self) -> None:
        self._eof_seen = True
        self._reading = False
        if not self._receiver.eof_received() and self._state == OPEN:
            self.close()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading and self._state == OPEN and not self._eof_seen:
            self._reading = True
            if self._unread:
                self._unread = False
                self._poller.again(self._read_on)

    def is_reading(self) -> bool:
        return self._reading

    def peek_alive(self) -> bool:
        """Whether an idle connection is still quiet: no byte and no FIN waits to be read. One system call."""
        try:
            self._recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            pass
        return False

    # ---- writing

    def write(self, data: bytes) -> None:
        if self._state != OPEN or not data or self._broken is not None:
            return
        if self._queue:
            self._enqueue(memoryview(data))
            return
        if self._pending:
            self._pending = data = self._pending + data
        else:
            self._pending = data
            if self._poller.turning:
                self._poller.unsent.append(self._flush)
            else:
                self._flush()
                return
        if len(data) >= AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        data = self._pending
        if not data:
            return
        self._pending = b""
        try:
            sent = self._send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._unsendable(exc)
            return
        self.taken += sent
        if sent != len(data):
            self._enqueue(memoryview(data)[sent:])
        elif self._state != OPEN or self._eof_wanted:
            self._flushed()

    def _unsendable(self, exc: OSError) -> None:
        """The peer takes no more. What it sent before may still wait to be read: an early answer, and then close."""
        self._pending = b""
        self._queue.clear()
        self._queued = 0
        if not self.last_words or self._eof_seen or self._state != OPEN:
            self._lose(exc)
        else:
            self._broken = exc
            self._unread = True
            self._poller.again(self._read_on)

    def _enqueue(self, data: memoryview) -> None:
        if self._queue and len(self._queue[-1]) + len(data) <= JOINED:  # else each byte written would cost an object
            self._queued -= len(self._queue[-1])
            data = memoryview(bytes(self._queue.pop()) + bytes(data))
        self._queue.append(data)
        self._queued += len(data)
        if self._queued > HIGH_WATER and not self._over:
            self._over = True
            self._receiver.pause_writing()

    def _writable(self) -> None:
        queue = self._queue
        try:
            while queue:
                data = queue[0]
                sent = self._send(data)
                self._queued -= sent
                self.taken += sent
                if sent != len(data):
                    queue[0] = data[sent:]
                    break
                queue.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            self._unsendable(exc)
            return
        if not queue:
            self._flushed()
        if self._over and self._queued <= LOW_WATER and self._state == OPEN:
            self._over = False
            try:
                self._receiver.resume_writing()
            except Exception as exc:
                self._fault(exc)

    def _flushed(self) -> None:
        if self._state == _FLUSHING:
            self._lose(None)
        elif self._eof_wanted:
            self._shut()

    def write_eof(self) -> None:
        """FIN behind what was written so far; the read side stays open."""
        if self._state == OPEN and not self._eof_wanted:
            self._eof_wanted = True
            if not self._queue and not self._pending:
                self._shut()

    def _shut(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._lose(exc)

    def get_write_buffer_size(self) -> int:
        return self._queued + len(self._pending)

    # ---- the end

    def close(self) -> None:
        """Send what is queued, then close."""
        if self._state != OPEN:
            return
        if self._queue or self._pending:
            self._reading = False
            self._state = _FLUSHING
        else:
            self._lose(None)

    def abort(self) -> None:
        """Close now; what is queued is dropped."""
        self._lose(None)

    def reset(self) -> None:
        """Close with RST: the peer must not take what it got for complete."""
        if self._state != _CLOSED:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            except OSError:
                pass
            self._lose(None)

    def is_closing(self) -> bool:
        return self._state != OPEN

    def _lose(self, exc: Exception | None) -> None:
        if self._state == _CLOSED:
            return
        self._reading = False
        self._poller.forget(self._fd)
        self._pending = b""
        self._queue.clear()
        self._queued = 0
        self._state = _CLOSED
        self._loop.call_soon(self._lost, exc)

    def _lost(self, exc: Exception | None) -> None:
        try:
            self._receiver.connection_lost(exc)
        except Exception:
            _log.exception("a connection ended with a fault of the proxy; please report it")
        finally:
            self._receiver = NOBODY  # no cycle is left for the garbage collector
            self._sock.close()

    def _fault(self, exc: Exception) -> None:
        _log.error("a connection was ended by a fault of the proxy; please report it", exc_info=exc)
        self._lose(exc)

    def hand_over(self, receiver: Receiver) -> None:
        """Tell another receiver from now on."""
        self._receiver = receiver
        if self._over:
            receiver.pause_writing()


Transport = SocketTransport
"""What sessions and channels hold: this one, or its kind with TLS (`tls.py`)."""
