"""Accepting connections, no more than there is room for.

At the limit, or without descriptors, nobody is turned away and nothing spins: accepting pauses and the kernel's queue
holds the rest. Both are said at most once a minute.
"""
from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, cast

from edgeproxy.net.sockets import peer_name

RESERVE = 64  # descriptors for listening sockets, logs, probes, pipes and the interpreter
MOST_CONNECTIONS = 1 << 20  # where descriptors have no limit

BATCH = 32
"""Connections accepted before the loop gets its turn again: at about 40 µs each, others wait 1.3 ms at most. Measured
with a connection for each request, in one run: 66 µs a connection with 1, 51 with 4, 49 with 32 and with 128."""
PAUSE = 0.5
SAY_EVERY = 60.0

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# accept(2): these belong to the connection that was to be accepted, or pass; there may be another behind it.
_OF_ONE = (errno.ECONNABORTED, errno.EINTR, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT,
           errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.ETIMEDOUT)


def descriptor_budget() -> int:
    """How many connections RLIMIT_NOFILE has room for: two descriptors each, RESERVE kept back; at least 1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, max(1, (soft - RESERVE) // 2))


class Sayer:
    """Says a line at most once in SAY_EVERY seconds."""

    __slots__ = ("_say", "_next")

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._next = -inf

    def __call__(self, line: str) -> None:
        now = monotonic()
        if now >= self._next:
            self._next = now + SAY_EVERY
            self._say(line)


class ConnectionLimit:
    """Places for the connections of one listener, shared by its sockets; or, as `whole`, those of the process, shared
    by its listeners. Who ends a connection calls `release`."""

    __slots__ = ("maximum", "taken", "_whole", "_waiting")

    def __init__(self, maximum: int, whole: ConnectionLimit | None = None) -> None:
        self.maximum = maximum
        self.taken = 0
        self._whole = whole
        self._waiting: list[Acceptor] = []

    @property
    def room(self) -> int:
        own = self.maximum - self.taken
        return own if self._whole is None else min(own, self._whole.room)

    @property
    def bound(self) -> int:
        """What is reached when there is no room."""
        return self.maximum if self._whole is None or self.taken >= self.maximum else self._whole.bound

    def set(self, maximum: int) -> None:
        """A new limit, from a reload. Connections over it stay."""
        self.maximum = maximum
        self._wake()

    def take(self, count: int) -> None:
        self.taken += count
        if self._whole is not None:
            self._whole.take(count)

    def release(self) -> None:
        self.taken -= 1
        if self._whole is not None:
            self._whole.release()
        if self._waiting:
            self._wake()

    def wait(self, acceptor: Acceptor) -> None:
        """Resume `acceptor` when there is a place."""
        if acceptor not in self._waiting:
            self._waiting.append(acceptor)
        if self._whole is not None:
            self._whole.wait(acceptor)

    def forget(self, acceptor: Acceptor) -> None:
        if acceptor in self._waiting:
            self._waiting.remove(acceptor)
        if self._whole is not None:
            self._whole.forget(acceptor)

    def _wake(self) -> None:
        # Every socket that waits: the one that stopped first may have nobody in its queue.
        if self.taken < self.maximum:
            waiting, self._waiting = self._waiting, []
            for acceptor in waiting:
                acceptor.resume()


class Acceptor:
    """Accepts from one listening socket, from `start` to `stop`.

    `on_connection(sock, client)` owns the socket (non-blocking) and one place of `limit`, which it gives back with
    `limit.release()` when the connection has ended; `client` is the printable address without its port. `on_event`
    gets lines for the log.
    """

    __slots__ = ("sock", "_loop", "_on_connection", "_limit", "_say_full", "_say_descriptors",
                 "_say_fault", "_started", "_watched", "_pause", "_family", "_proto", "_plain")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket,
                 on_connection: Callable[[socket.socket, str], None], limit: ConnectionLimit,
                 on_event: Callable[[str], None]) -> None:
        self.sock = sock
        self._family = int(sock.family)  # an enum is made anew each time
        self._proto = sock.proto
        self._plain = self._family == socket.AF_INET
        self._loop = loop
        self._on_connection = on_connection
        self._limit = limit
        self._say_full = Sayer(on_event)
        self._say_descriptors = Sayer(on_event)
        self._say_fault = Sayer(on_event)
        self._started = False
        self._watched = False
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on; nothing new if it does already."""
        self._started = True
        self.resume()

    def stop(self) -> None:
        """Accept no more. The socket stays open: another acceptor may go on with it, its queue is not lost."""
        self._started = False
        self._unwatch()
        self._limit.forget(self)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def close(self) -> None:
        """Stop, and close the socket: who is in its queue is refused."""
        self.stop()
        self.sock.close()

    def resume(self) -> None:
        """Go on after a pause; called by the limit and the timer."""
        self._pause = None
        if self._started and not self._watched:
            self._watched = True
            self._loop.add_reader(self.sock.fileno(), self._ready)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self.sock.fileno())

    def _ready(self) -> None:
        room = self._limit.room
        if room <= 0:
            self._full()
            return
        self._serve(min(room, BATCH))

    def last_call(self) -> None:
        """Accept all who wait in the queue: the socket is about to be closed, and they would be refused."""
        while self._started and (room := self._limit.room) > 0 and self._serve(min(room, BATCH)):
            pass

    def _serve(self, most: int) -> int:
        """Accept up to `most` and begin to serve them; how many there were."""
        limit = self._limit
        accepted = self._accept(most)
        limit.take(len(accepted))
        # Not each as it comes: a sleeping endpoint is woken once for all of their connects instead of once for each.
        for client, peer in accepted:
            try:
                self._on_connection(client, peer)
            except Exception as error:
                # One connection that cannot begin is no reason to stop the others.
                client.close()
                limit.release()
                self._say_fault(f"internal error, a connection was dropped: {error!r}")
        return len(accepted)

    def _accept(self, most: int) -> list[tuple[socket.socket, str]]:
        accept: Callable[[], tuple[int, Any]] = self.sock._accept  # type: ignore[attr-defined]
        family, kind, proto = self._family, int(socket.SOCK_STREAM), self._proto
        accepted: list[tuple[socket.socket, str]] = []
        for _ in range(most):
            try:
                # sock.accept() does the same with an object more and with enums, at twice the price.
                fd, address = accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _OF_ONE:
                    continue
                self._fault(error)
                break
            # The socket as C has it: what Python puts around it costs a connection 2 µs and serves nothing here.
            client = cast(socket.socket, socket.SocketType(family, kind, proto, fd))
            client.setblocking(False)
            accepted.append((client, address[0] if self._plain else peer_name(address)))
        return accepted

    def _full(self) -> None:
        self._unwatch()
        self._limit.wait(self)
        self._say_full(f"at the limit of {self._limit.bound} connections: no more are accepted until one ends")

    def _fault(self, error: OSError) -> None:
        """Without descriptors or memory the socket stays readable, so watching on would spin."""
        self._unwatch()
        self._pause = self._loop.call_later(PAUSE, self.resume)
        if error.errno in _NO_ROOM:
            self._say_descriptors(f"accepting pauses: {error.strerror}; raise the limit on descriptors "
                                  "(`ulimit -n`, LimitNOFILE=) or lower limits.connections")
        else:
            self._say_fault(f"accepting pauses: {error}")
