"""The HTTP/2 connections of one endpoint, which many exchanges share, and the dials for more of them.

A request takes the first connection that has a free stream: so the later ones fall idle first. If none has one, it gets
a seat at a dial that is under way, and only if these are full a dial of its own: a hundred requests at once make one
connection, not a hundred.
"""
from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from time import monotonic

from edgeproxy.errors import Kind, ProxyError
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import Receiver, SocketTransport
from edgeproxy.policy.endpoint import Endpoint
from edgeproxy.upstream.access import Access
from edgeproxy.upstream.http2 import STREAMS, Http2Connection
from edgeproxy.upstream.pool import Pool
from edgeproxy.upstream.reach import Reach
from edgeproxy.upstream.stream import Http2Stream

_log = logging.getLogger("edgeproxy")


class Seat:
    """Of one exchange at a dial: it is given a stream (on which it sends at once) or the reason why there is none."""

    __slots__ = ("taken", "failed", "dial")

    def __init__(self, taken: Callable[[Http2Stream], None], failed: Callable[[ProxyError], None]) -> None:
        self.taken = taken
        self.failed = failed
        self.dial: SharedDial | None = None

    def cancel(self) -> None:
        """Neither is called any more."""
        dial, self.dial = self.dial, None
        if dial is not None:
            dial.leave(self)


class SharedDial:
    """A connection on its way, and who waits for it."""

    __slots__ = ("seats", "_pool", "_loop", "_poller", "_timeout", "_until", "_reach")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, pool: Shared, timeout: float) -> None:
        self.seats: list[Seat] = []
        self._pool = pool
        self._loop = loop
        self._poller = poller
        self._timeout = timeout
        self._until = monotonic() + (timeout or inf)
        self._reach: Reach | None = Reach(loop, poller, pool.endpoint, pool, b"", timeout, self._opened, self._failed)

    def join(self, seat: Seat) -> None:
        seat.dial = self
        self.seats.append(seat)

    def leave(self, seat: Seat) -> None:
        """The last one takes the dial along; a connection that is open already may stay."""
        self.seats.remove(seat)
        if not self.seats and self._reach is not None:
            self._reach.cancel()
            self._pool.dials.remove(self)

    def _opened(self, transport: SocketTransport) -> Receiver:
        self._reach = None
        return Http2Connection(self._loop, self._poller, transport, self._pool, self._until, self._began).begin()

    def _failed(self, error: ProxyError) -> None:
        self._reach = None
        self._over(0, None, error)

    def _began(self, connection: Http2Connection, error: ProxyError | None) -> None:
        if error is not None:
            self._over(0, None, error)
            return
        self._pool.connections.append(connection)
        self._over(connection.free, connection,
                   ProxyError(Kind.NOT_PROCESSED, "the endpoint allows no request on a new connection"))

    def _over(self, free: int, connection: Http2Connection | None, error: ProxyError) -> None:
        """Give `free` seats a stream each. The others fail if there is none at all, or else go on with other dials."""
        self._pool.dials.remove(self)
        seats, self.seats = self.seats, []
        for seat in seats:
            seat.dial = None
        for place, seat in enumerate(seats):
            if connection is not None and free and place >= free:
                self._pool.seat(self._loop, self._poller, self._timeout, seat)
                continue
            try:
                if connection is not None and connection.free > 0:
                    seat.taken(connection.stream())
                else:
                    seat.failed(error)
            except Exception:  # it must not fall on the strangers who wait beside it
                _log.exception("a request was ended by a fault of the proxy; please report it")


class Shared(Pool):
    """In place of a pool of idle channels: `idle` stays empty."""

    __slots__ = ("endpoint", "connections", "dials")

    def __init__(self, endpoint: Endpoint, limit: int, idle_timeout: float, access: Access) -> None:
        super().__init__(limit, idle_timeout, access)
        self.endpoint = endpoint
        self.connections: list[Http2Connection] = []
        """Those that give streams."""
        self.dials: list[SharedDial] = []

    def take(self, fresh: bool, careful: bool) -> Http2Stream | None:
        """A stream of a connection that is open; if `fresh`, of one that has not answered anything yet; if `careful`
        (the request could not be sent twice), not of an idle one that has something to say, perhaps goodbye."""
        for connection in self.connections:
            if (connection.free > 0 and not (fresh and connection.served)
                    and not (careful and connection.idle and not connection.quiet())):
                return connection.stream()
        return None

    def wait(self, loop: asyncio.AbstractEventLoop, poller: Poller, timeout: float,
             taken: Callable[[Http2Stream], None], failed: Callable[[ProxyError], None]) -> Seat:
        """A seat at a dial. Nothing is called before this has returned."""
        seat = Seat(taken, failed)
        self.seat(loop, poller, timeout, seat)
        return seat

    def seat(self, loop: asyncio.AbstractEventLoop, poller: Poller, timeout: float, seat: Seat) -> None:
        for dial in self.dials:
            if len(dial.seats) < STREAMS:
                dial.join(seat)
                return
        dial = SharedDial(loop, poller, self, timeout)
        self.dials.append(dial)
        dial.join(seat)

    def keeps(self) -> bool:
        """Whether a connection that falls idle now may stay."""
        return sum(connection.idle for connection in self.connections) < self.limit

    def gone(self, connection: Http2Connection) -> None:
        if connection in self.connections:
            self.connections.remove(connection)

    def set(self, limit: int, idle_timeout: float) -> None:
        """As of a pool; streams that are under way go on."""
        super().set(limit, idle_timeout)
        idle = [connection for connection in self.connections if connection.idle]
        for connection in idle[:max(0, len(idle) - limit)]:
            connection.close()
