"""Dialling: one non-blocking connect to one endpoint, and what its failure is called.

Nothing here chooses or retries. `begin` and `settle` are the two halves for who watches the socket himself (the tcp
relay); `Dial` is both with the loop's watchers and a deadline, for everybody else.
"""
from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import cast

from edgeproxy.errors import Kind
from edgeproxy.net.sockets import keepalive
from edgeproxy.policy.endpoint import Endpoint

_KINDS = {
    errno.ECONNREFUSED: Kind.CONNECT_REFUSED,
    errno.ENOENT: Kind.CONNECT_REFUSED,  # a unix socket whose file is not there: nobody listens
    errno.ETIMEDOUT: Kind.CONNECT_TIMEOUT,
    errno.EMFILE: Kind.EXHAUSTED,
    errno.ENFILE: Kind.EXHAUSTED,
    errno.EADDRNOTAVAIL: Kind.EXHAUSTED,  # every local port towards that endpoint is in use
}
_UNDER_WAY = (0, errno.EINPROGRESS, errno.EINTR)


def kind_of(code: int) -> Kind:
    """What a connect that failed with errno `code` is called. Not listed: unreachable, reset, no descriptor left …"""
    return _KINDS.get(code, Kind.CONNECT_FAILED)


def begin(endpoint: Endpoint, speaks: bool = False) -> tuple[socket.socket, None] | tuple[None, Kind]:
    """Start to connect: the socket becomes writable when it is decided (`settle`). Or the kind of failure, at once.

    `speaks`: there is something to send as soon as it is connected. Then the last step of the handshake is held back
    to travel with it (as HAProxy's smart connect does): one packet less, and the endpoint wakes once instead of twice.
    """
    address: tuple[str, int] | str
    if endpoint.path:
        family, address = socket.AF_UNIX, endpoint.path
    else:
        family, address = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET, (endpoint.host, endpoint.port)
    try:
        # As in the acceptor: the socket of C, without what Python puts around it.
        sock = cast(socket.socket, socket.SocketType(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0))
    except OSError as error:
        return None, kind_of(error.errno or 0)
    try:
        if family is not socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if speaks:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        code = sock.connect_ex(address)
    except (OSError, OverflowError, ValueError):  # an address that is none, a path that is too long
        sock.close()
        return None, Kind.CONNECT_FAILED
    if code not in _UNDER_WAY:
        sock.close()
        return None, kind_of(code)
    return sock, None


def settle(sock: socket.socket) -> Kind | None:
    """How the connect of a socket that became writable has ended. None: it is connected."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return kind_of(code) if code else None


class Dial:
    """One try to connect. `done(sock, None)` or `done(None, kind)` once, from the loop and never from the constructor.

    `timeout` in seconds, 0: as long as the kernel tries. The socket that `done` gets has TCP_NODELAY and keepalive set;
    it is nobody's but the receiver's. After `cancel` there is no call and nothing is left open.
    """

    __slots__ = ("_loop", "_sock", "_done", "_timer", "_soon")

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, timeout: float,
                 done: Callable[[socket.socket | None, Kind | None], None]) -> None:
        self._loop = loop
        self._done: Callable[[socket.socket | None, Kind | None], None] | None = done
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._sock: socket.socket | None = None
        sock, kind = begin(endpoint)
        if sock is None:
            self._soon = loop.call_soon(self._end, None, kind)
            return
        self._sock = sock
        loop.add_writer(sock.fileno(), self._decided)
        if timeout > 0:
            self._timer = loop.call_later(timeout, self._end, None, Kind.CONNECT_TIMEOUT)

    def _decided(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            kind = settle(sock)
            if kind is None:
                keepalive(sock)
        except OSError as error:
            kind = kind_of(error.errno or 0)
        self._end(sock if kind is None else None, kind)

    def _end(self, sock: socket.socket | None, kind: Kind | None) -> None:
        done = self._done
        if done is not None:
            self._release(keep=sock is not None)
            done(sock, kind)

    def _release(self, keep: bool) -> None:
        self._done = None
        for booked in (self._timer, self._soon):
            if booked is not None:
                booked.cancel()
        self._timer = self._soon = None
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_writer(sock.fileno())
            if not keep:
                sock.close()

    def cancel(self) -> None:
        if self._done is not None:
            self._release(keep=False)
