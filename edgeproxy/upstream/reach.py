"""A connection to an endpoint on its way: TCP, then the PROXY header, then TLS; all of it within one time.

    stage      stimulus                             then
    DIALLING   the connect fails, time              failed
    DIALLING   connected                            the PROXY header goes out, if there is one; SHAKING, or opened
    SHAKING    both sides are satisfied             opened
    SHAKING    an alert, a certificate that will not do, no HTTP/2 where it is needed, EOF, time       failed
"""
from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from time import monotonic

from edgeproxy.errors import Kind, ProxyError
from edgeproxy.net.poller import Poller
from edgeproxy.net.tls import Handshake, TlsTransport
from edgeproxy.net.transport import NOBODY, Receiver, SocketTransport
from edgeproxy.policy.endpoint import Endpoint
from edgeproxy.upstream.access import Access
from edgeproxy.upstream.connector import Dial
from edgeproxy.upstream.pool import Pool
from edgeproxy.upstream.tls import ClientTls, failure


class Reach(Handshake):
    """`opened(transport)` gives the receiver of the connection, or `failed` says why there is none: one of them, once,
    and never from the constructor. After `cancel` there is no call and nothing is left open."""

    __slots__ = ("pool", "_loop", "_poller", "_endpoint", "_header", "_until", "_opened", "_failed", "_dial", "_timer",
                 "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, endpoint: Endpoint, pool: Pool, header: bytes,
                 timeout: float, opened: Callable[[SocketTransport], Receiver], failed: Callable[[ProxyError], None]
                 ) -> None:
        """`timeout` in seconds, 0: as long as the kernel tries. `header`: what is sent before anything else."""
        self.pool = pool
        """Where the connection belongs: the one that the endpoint had when it was begun."""
        self._loop = loop
        self._poller = poller
        self._endpoint = endpoint
        self._header = header
        self._until = monotonic() + timeout if timeout > 0 else 0.0
        self._opened: Callable[[SocketTransport], Receiver] | None = opened
        self._failed = failed
        self._timer: asyncio.TimerHandle | None = None
        self._transport: TlsTransport | None = None
        self._dial: Dial | None = Dial(loop, endpoint, timeout, self._dialed)

    def _dialed(self, sock: socket.socket | None, kind: Kind | None) -> None:
        self._dial = None
        if sock is None:
            self._fail(ProxyError(kind or Kind.CONNECT_FAILED, "could not connect to the endpoint"))
            return
        access: Access = self.pool.access
        try:
            if self._header and sock.send(self._header) != len(self._header):
                raise OSError("nothing else waits to be sent, and still there is no room")
            if access.tls is not None:
                self._transport = TlsTransport(self._loop, self._poller, sock, self)
            else:
                self._end()(SocketTransport(self._loop, self._poller, sock, NOBODY))
                return
        except OSError:
            sock.close()
            self._fail(ProxyError(Kind.CONNECT_FAILED, "the connection broke as it began"))
            return
        if self._until:
            self._timer = self._loop.call_later(max(0.0, self._until - monotonic()), self._late)
        self._shake(access.tls)

    def _end(self) -> Callable[[SocketTransport], Receiver]:
        """The wait is over; nothing but one of the two calls is left to do."""
        opened, self._opened = self._opened, None
        assert opened is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return opened

    def _fail(self, error: ProxyError) -> None:
        if self._opened is not None:
            self._end()
            self._failed(error)

    def cancel(self) -> None:
        if self._opened is not None:
            self._end()
            if self._dial is not None:
                self._dial.cancel()
            if self._transport is not None:
                self._transport.abort()

    # ---- TLS

    def _shake(self, tls: ClientTls) -> None:
        transport = self._transport
        assert transport is not None
        try:
            transport.shake(tls.context, tls.name_for(self._endpoint), tls.session_for(self._endpoint))
        except (ValueError, ssl.SSLError) as error:  # a name or a session that OpenSSL does not take
            transport.abort()
            self._fail(failure(error))

    def secured(self, transport: TlsTransport) -> Receiver:
        access: Access = self.pool.access
        if self._opened is None or access.tls is None:
            return NOBODY
        if access.multiplexed and transport.alpn != "h2":
            transport.abort()
            self._fail(ProxyError(Kind.TLS_FAILED, "the endpoint does not agree to HTTP/2 (ALPN); is its protocol "
                                                   "https?"))
            return NOBODY
        access.tls.opened(self._endpoint, transport)
        return self._end()(transport)

    def refused(self, error: Exception) -> None:
        self._fail(failure(error, self.pool.access.multiplexed))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(failure(exc))

    def _late(self) -> None:
        self._timer = None
        if self._transport is not None:
            self._transport.abort()
        self._fail(ProxyError(Kind.CONNECT_TIMEOUT, "the TLS handshake did not end in time"))
