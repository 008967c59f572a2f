"""What becomes of an accepted connection, by the protocol of its listener.

A front makes a session of each connection and knows those that are open. A reload changes it in place.
"""
from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from edgeproxy.codec.clienthello import ClientHello
from edgeproxy.codec.proxyproto import ProxyHeader
from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import NOBODY, SocketTransport
from edgeproxy.policy.sni import NameTable
from edgeproxy.runtime.accesslog import AccessLog
from edgeproxy.session.gates import LeavingGate, RedirectGate
from edgeproxy.session.http import HttpListener
from edgeproxy.session.http1 import Http1Session
from edgeproxy.session.opening import Entrance, Opening
from edgeproxy.session.peer import Gate, Peer
from edgeproxy.session.secure import SecureOpening
from edgeproxy.session.tcp import TcpListener, TcpRecord, TcpSession
from edgeproxy.snapshot import Live
from edgeproxy.upstream.service import Service


class Front:
    """What serves the connections, by protocol."""

    __slots__ = ()

    def apply(self, config: model.Listener) -> None:
        """Follow `config`, for open connections too."""

    def connected(self, port: int, sock: socket.socket, peer: str, header: ProxyHeader | None = None,
                  began: float = 0.0) -> None:
        """Serve `sock`, which came in by `port` from the address `peer`; at the time `began`, if not just now."""

    def admit(self, port: int, sock: socket.socket, peer: str, header: ProxyHeader | None, hello: ClientHello | None,
              began: float) -> ProxyError | None:
        """As `connected`, after an `Opening`: `peer` is the client that a proxy in front has told of, if it has."""
        self.connected(header.destination[1] if header is not None and header.destination[1] else port, sock, peer,
                       header, began)
        return None

    def drain(self) -> None:
        """No new ones will come: let the open ones finish."""

    def cut(self) -> None:
        """End the open ones now."""

    def count(self) -> int:
        """Open connections."""
        return 0


class HttpFront(Front):
    __slots__ = ("_http", "_ended", "_gate")

    def __init__(self, http: HttpListener, ended: Callable[[], None]) -> None:
        self._http = http
        self._ended = ended
        self._gate: Gate | None = None

    def apply(self, config: model.Listener) -> None:
        self._http.apply(config)
        self._gate = RedirectGate(config.https_port) if config.https_port else None
        for session in self._http.sessions:
            session.peer.gate = self._gate

    def connected(self, port: int, sock: socket.socket, peer: str, header: ProxyHeader | None = None,
                  began: float = 0.0) -> None:
        http = self._http
        transport = SocketTransport(http.loop, http.poller, sock, NOBODY)
        client = Peer(peer, port, "http", http.trusts(peer), self._gate)
        client.sock, client.header = sock, header
        Http1Session(http, client, transport, self._ended)

    def drain(self) -> None:
        self._http.draining = True
        self._gate = LeavingGate(self._http.live, self._http.name, self._gate)
        for session in list(self._http.sessions):
            session.peer.gate = self._gate
            session.drain()

    def cut(self) -> None:
        for session in list(self._http.sessions):
            session.cut()

    def count(self) -> int:
        return len(self._http.sessions)


class HttpsFront(Front):
    __slots__ = ("_http", "_live", "_log", "_ended", "_openings")

    def __init__(self, http: HttpListener, live: Live, log: AccessLog, ended: Callable[[], None]) -> None:
        self._http = http
        self._live = live
        self._log = log
        self._ended = ended
        self._openings: set[SecureOpening] = set()

    def apply(self, config: model.Listener) -> None:
        self._http.apply(config)

    def connected(self, port: int, sock: socket.socket, peer: str, header: ProxyHeader | None = None,
                  began: float = 0.0) -> None:
        server = self._live.snapshot.tls[self._http.name]
        SecureOpening(self._http, server, sock, peer, port, self._openings, self._log.connection, self._ended,
                      began).header = header

    def admit(self, port: int, sock: socket.socket, peer: str, header: ProxyHeader | None, hello: ClientHello | None,
              began: float) -> ProxyError | None:
        if self._http.name not in self._live.snapshot.tls:  # a reload has removed the listener, or its TLS
            return ProxyError(Kind.DRAINING)
        return super().admit(port, sock, peer, header, hello, began)

    def drain(self) -> None:
        self._http.draining = True
        for session in list(self._http.sessions):
            session.drain()

    def cut(self) -> None:
        for opening in list(self._openings):
            opening.cut()
        for session in list(self._http.sessions):
            session.cut()

    def count(self) -> int:
        return len(self._http.sessions) + len(self._openings)


class RelayFront(Front):
    """tcp and tls."""

    __slots__ = ("_loop", "_tcp", "_live", "_log", "_ended", "_sessions", "_services")

    def __init__(self, loop: asyncio.AbstractEventLoop, tcp: TcpListener, live: Live,
                 log: Callable[[TcpRecord], None], ended: Callable[[], None]) -> None:
        self._loop = loop
        self._tcp = tcp
        self._live = live
        self._log = log
        self._ended = ended
        self._sessions: set[TcpSession] = set()
        self._services: NameTable[str] = NameTable(())

    def apply(self, config: model.Listener) -> None:
        self._tcp.apply(config)
        self._services = NameTable(config.sni, config.service)  # of tcp there is one, for clients of any name

    def connected(self, port: int, sock: socket.socket, peer: str, header: ProxyHeader | None = None,
                  began: float = 0.0) -> None:
        service = self._services.find(None)
        assert service is not None
        self._serve(self._live.snapshot.services[service], sock, peer, None, None)

    def admit(self, port: int, sock: socket.socket, peer: str, header: ProxyHeader | None, hello: ClientHello | None,
              began: float) -> ProxyError | None:
        sni = hello.sni if hello is not None else ""
        name = self._services.find(sni)
        if name is None:
            return ProxyError(Kind.NO_ROUTE, f"no service for {sni or 'a client without SNI'}")
        service = self._live.snapshot.services.get(name)
        if service is None:  # a reload has removed it, and this listener
            return ProxyError(Kind.DRAINING)
        self._serve(service, sock, peer, header, hello)
        return None

    def _serve(self, service: Service, sock: socket.socket, peer: str, header: ProxyHeader | None,
               hello: ClientHello | None) -> None:
        sessions, log, ended = self._sessions, self._log, self._ended

        def over(record: TcpRecord) -> None:
            sessions.discard(session)
            log(record)
            ended()

        session = TcpSession(self._loop, sock, peer, self._tcp, service, over, header, hello)
        sessions.add(session)

    def drain(self) -> None:
        """Relays go on until they end or the time for it is over."""

    def cut(self) -> None:
        for session in list(self._sessions):
            session.abort()

    def count(self) -> int:
        return len(self._sessions)


class OpenedFront(Front):
    """Any of the others behind the openings of its connections, where its configuration wants them."""

    __slots__ = ("_front", "_entrance")

    def __init__(self, front: Front, entrance: Entrance) -> None:
        self._front = front
        self._entrance = entrance

    def apply(self, config: model.Listener) -> None:
        self._entrance.apply(config)
        self._front.apply(config)

    def connected(self, port: int, sock: socket.socket, peer: str, header: ProxyHeader | None = None,
                  began: float = 0.0) -> None:
        entrance = self._entrance
        if entrance.hello or entrance.expects_header(peer):
            Opening(entrance, sock, peer, partial(self._front.admit, port)).begin()
        else:
            self._front.connected(port, sock, peer)

    def drain(self) -> None:
        self._front.drain()

    def cut(self) -> None:
        for opening in list(self._entrance.openings):
            opening.cut()
        self._front.cut()

    def count(self) -> int:
        return len(self._entrance.openings) + self._front.count()


def build_front(loop: asyncio.AbstractEventLoop, poller: Poller, config: model.Listener, live: Live, log: AccessLog,
                ended: Callable[[], None]) -> Front:
    """`ended` is called when a connection is over."""
    return OpenedFront(_build(loop, poller, config, live, log, ended),
                       Entrance(loop, poller, config, log.connection, ended))


def _build(loop: asyncio.AbstractEventLoop, poller: Poller, config: model.Listener, live: Live, log: AccessLog,
           ended: Callable[[], None]) -> Front:
    if config.protocol == "http":
        return HttpFront(HttpListener(loop, poller, config, live, log.exchange, log.connection), ended)
    if config.protocol == "https":
        return HttpsFront(HttpListener(loop, poller, config, live, log.exchange, log.connection), live, log, ended)
    return RelayFront(loop, TcpListener(config, poller), live, log.connection, ended)
