"""Bytes both ways between two transports after an upgrade (WebSocket and any other).

Half-closes are passed on, a reset is passed on as a reset, a side that is full pauses the other. Neither side's bytes
are looked at. (`tcp` listeners relay on raw sockets instead, see `tcp.py`.)
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic

from edgeproxy.errors import OK, Kind, Outcome, Phase
from edgeproxy.net.deadline import Deadline
from edgeproxy.net.transport import Receiver, SocketTransport

FLUSH_TIME = 60.0  # after one side has gone, for the other to take what is queued for it


class _End(Receiver):
    """One side of the tunnel; what it reads goes out on `far`."""

    __slots__ = ("tunnel", "near", "far", "ended", "gone", "received")

    def __init__(self, tunnel: Tunnel, near: SocketTransport, far: SocketTransport) -> None:
        self.tunnel = tunnel
        self.near = near
        self.far = far
        self.ended = False
        """It will send no more."""
        self.gone = False
        self.received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self.tunnel.touch()
        self.far.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        self.far.write_eof()
        self.tunnel.eof()
        return True

    def pause_writing(self) -> None:
        self.far.pause_reading()

    def resume_writing(self) -> None:
        self.far.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.tunnel.lost(self, exc)


class Tunnel:
    """`ended(outcome, bytes from the client, bytes from the endpoint)` is called once."""

    __slots__ = ("_client", "_upstream", "_deadline", "_idle", "_ended")

    def __init__(self, loop: asyncio.AbstractEventLoop, client: SocketTransport, upstream: SocketTransport,
                 idle: float, ended: Callable[[Outcome, int, int], None]) -> None:
        self._client = _End(self, client, upstream)
        self._upstream = _End(self, upstream, client)
        self._idle = idle or inf
        self._ended: Callable[[Outcome, int, int], None] | None = ended
        self._deadline = Deadline(loop, self._expired)

    def start(self, from_client: bytes, from_upstream: bytes) -> None:
        """Begin with what either side had sent behind its head."""
        self.touch()
        self._client.near.resume_reading()
        self._upstream.near.resume_reading()
        client, upstream = self._client.near, self._upstream.near
        client.hand_over(self._client)  # from now on; each says at once if it is full, and pauses the other
        upstream.hand_over(self._upstream)
        if from_client:
            self._client.data_received(from_client)
        if from_upstream:
            self._upstream.data_received(from_upstream)

    def touch(self) -> None:
        self._deadline.set(monotonic() + self._idle)

    def eof(self) -> None:
        if self._client.ended and self._upstream.ended:
            self._client.near.close()
            self._upstream.near.close()

    def lost(self, end: _End, exc: Exception | None) -> None:
        end.gone = True
        if exc is None:
            end.far.close()
            outcome = OK
        else:
            end.far.reset()
            cause = Kind.CLIENT_GONE if end is self._client else Kind.RESPONSE_CUT
            outcome = Outcome(cause.word, Phase.TUNNEL)
        self._end(outcome)

    def abort(self, outcome: Outcome) -> None:
        self._client.near.reset()
        self._upstream.near.reset()
        self._end(outcome)

    def _expired(self) -> None:
        if self._ended is not None:
            self.abort(Outcome(Kind.IDLE_TIMEOUT.word, Phase.TUNNEL))
        else:
            self._client.near.abort()
            self._upstream.near.abort()

    def _end(self, outcome: Outcome) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self._deadline.set(monotonic() + FLUSH_TIME)
            ended(outcome, self._client.received, self._upstream.received)
        if self._client.gone and self._upstream.gone:
            self._deadline.close()
