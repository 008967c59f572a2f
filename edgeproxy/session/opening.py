"""What happens on an accepted socket before its session: a PROXY header is taken off, a ClientHello is looked at.

    stage    stimulus                            then
    HEADER   part of a PROXY header              it waits in the kernel
    HEADER   a whole one                         exactly its bytes are received; HELLO, or ADMITTED
    HELLO    part of a ClientHello               it waits in the kernel
    HELLO    a whole one                         ADMITTED; the hello is still the first thing to be received
    both     none, and never will be one         ended, logged
    both     the client closes, time             ended, logged

Both are looked at with MSG_PEEK, because bytes that are received here would be lost for who comes next. An opening
takes a place in the connection limit and `timeouts.handshake` in all, and nothing else of the proxy's.

Who sends a PROXY header: the peers listed in `proxy_protocol.from`, always. Of anybody else not a byte is looked at for
it, or everybody could say who he is.
"""
from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address
from time import monotonic
from typing import Final

from edgeproxy.codec.clienthello import DECODE_ERROR, LIMIT, UNRECOGNIZED_NAME, ClientHello, HelloReader, alert
from edgeproxy.codec.proxyproto import MOST, Address, ProxyHeader, encode_v1, encode_v2, parse_proxy
from edgeproxy.config import model
from edgeproxy.errors import Kind, Phase, ProxyError
from edgeproxy.net.deadline import Deadline, Nursery
from edgeproxy.net.poller import DEAD, READABLE, Poller
from edgeproxy.net.sockets import close, peer_name
from edgeproxy.session.record import ConnectionRecord, unserved

_log = logging.getLogger("edgeproxy")

Admit = Callable[[socket.socket, str, ProxyHeader | None, ClientHello | None, float], ProxyError | None]
"""Serves a client from here on: its socket, its address, what was found. Or says why it is not served, and has not
touched the socket. Raises OSError if nothing was begun."""

_ENDING: Final = 0x2000 | DEAD  # EPOLLRDHUP: behind the bytes that are there nothing comes
_TLS_RECORD: Final = 22

# Plain numbers, not an enum: the compiled code compares them in an instruction.
_HEADER: Final = 0
_HELLO: Final = 1
_OVER: Final = 2


class Entrance:
    """What the openings of one listener share. A reload changes it in place."""

    __slots__ = ("name", "loop", "poller", "nursery", "openings", "hello", "time", "_trusted", "_log", "_ended")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, config: model.Listener,
                 log: Callable[[ConnectionRecord], None], ended: Callable[[], None]) -> None:
        """Of those that were not admitted `log` is told, and `ended` called."""
        self.name = config.name
        self.loop = loop
        self.poller = poller
        self.nursery = Nursery()
        self.openings: set[Opening] = set()
        self._log = log
        self._ended = ended
        self.apply(config)

    def apply(self, config: model.Listener) -> None:
        self.hello = config.protocol == "tls"
        """A ClientHello is waited for."""
        self.time = config.timeouts.handshake
        self._trusted: tuple[IPv4Network | IPv6Network, ...] = \
            config.proxy_protocol.trusted if config.proxy_protocol is not None else ()

    def expects_header(self, peer: str) -> bool:
        """Whether this peer begins with a PROXY header."""
        if not self._trusted:
            return False
        try:
            address = ip_address(peer)
        except ValueError:  # a unix socket's peer has no address
            return False
        return any(address in network for network in self._trusted)

    def over(self, record: ConnectionRecord) -> None:
        try:
            self._log(record)
        finally:
            self._ended()


class Opening:
    """Looks at what `sock` (non-blocking, its own from now on) brings; then `admit`, or the end, once."""

    __slots__ = ("entrance", "stage", "_sock", "_fd", "_client", "_admit", "_began", "_watched", "_deadline",
                 "_header", "_reader")

    def __init__(self, entrance: Entrance, sock: socket.socket, peer: str, admit: Admit) -> None:
        """`peer`: the address of who has connected."""
        self.entrance = entrance
        self.stage = _HEADER if entrance.expects_header(peer) else _HELLO
        self._sock = sock
        self._fd = sock.fileno()
        self._client = peer
        self._admit = admit
        self._began = monotonic()
        self._watched = False
        self._deadline = Deadline(entrance.loop, self._expired, entrance.nursery)
        self._header: ProxyHeader | None = None
        self._reader = HelloReader()

    def begin(self) -> None:
        """Look at what is there already; what is not is waited for. Raises nothing."""
        self.entrance.openings.add(self)
        try:
            self._look(0)
            if self.stage != _OVER:
                self.entrance.poller.watch(self._fd, self._event)
                self._watched = True
                self._deadline.set(self._began + self.entrance.time)
        except Exception:
            self._fault()

    def cut(self) -> None:
        """End it now."""
        self._end(Kind.DRAINING)

    # ---- looking

    def _event(self, events: int) -> None:
        try:
            if self.stage != _OVER and events & READABLE:
                self._look(events & _ENDING)
        except Exception:
            self._fault()

    def _look(self, ending: int) -> None:
        """`ending`: what is there now is all that will ever be."""
        if self.stage == _HEADER and not self._take_header(ending):
            return
        if not self.entrance.hello:
            self._admitted(None)
            return
        data = self._peek(LIMIT)
        if data is None:
            return
        try:
            hello = self._reader.read(data)
        except ValueError as error:
            self._end(Kind.BAD_CLIENT_HELLO, str(error), "", DECODE_ERROR if data[0] == _TLS_RECORD else 0)
            return
        if hello is not None:
            self._admitted(hello)
        elif ending:
            self._end(Kind.CLIENT_GONE)

    def _take_header(self, ending: int) -> bool:
        """Whether the header is off, and the next step may be done."""
        data = self._peek(MOST)
        if data is None:
            return False
        try:
            header = parse_proxy(data)
        except ValueError as error:
            self._end(Kind.BAD_PROXY_HEADER, str(error))
            return False
        if header is None:
            if ending:
                self._end(Kind.CLIENT_GONE)
            return False
        self._sock.recv(header.size)  # it is there as a whole, so it is taken as a whole
        self._header = header
        self._client = header.source[0] or self._client
        self.stage = _HELLO
        return True

    def _peek(self, most: int) -> bytes | None:
        """What is there, from its first byte; None: nothing, or it is over."""
        try:
            data = self._sock.recv(most, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data = b""
        if not data:
            self._end(Kind.CLIENT_GONE)
            return None
        return data

    # ---- the end

    def _admitted(self, hello: ClientHello | None) -> None:
        if self._watched:
            self._watched = False
            self.entrance.poller.release(self._fd)
        self._deadline.end()
        refusal = self._admit(self._sock, self._client, self._header, hello, self._began)
        if refusal is None:
            self.stage = _OVER
            self.entrance.openings.discard(self)
        else:
            self._end(refusal.kind, refusal.cause, hello.sni if hello is not None else "",
                      UNRECOGNIZED_NAME if refusal.kind is Kind.NO_ROUTE else 0)

    def _expired(self) -> None:
        what = "PROXY header" if self.stage == _HEADER else "ClientHello"
        self._end(Kind.HANDSHAKE_TIMEOUT, f"no whole {what} in time")

    def _fault(self) -> None:
        _log.exception("internal error in the opening of a connection, it was dropped; please report it")
        self._end(Kind.INTERNAL)

    def _end(self, kind: Kind, cause: str = "", sni: str = "", farewell: int = 0) -> None:
        """`farewell`: the alert that the client gets."""
        if self.stage == _OVER:
            return
        self.stage = _OVER
        self._deadline.end()
        if self._watched:
            self.entrance.poller.forget(self._fd)
        if farewell:
            _say(self._sock, alert(farewell))
        close(self._sock)
        self.entrance.openings.discard(self)
        self.entrance.over(unserved(self._client, self.entrance.name, self._began, kind, Phase.HANDSHAKE, cause, sni))


def _say(sock: socket.socket, data: bytes) -> None:
    """The last words to a client. What it has sent is taken first: with unread bytes the kernel closes by RST, and that
    would take these words from the client."""
    try:
        sock.recv(4 * LIMIT)
        sock.send(data)
    except OSError:
        pass


def announcement(version: str, sock: socket.socket, header: ProxyHeader | None, hello: ClientHello | None) -> bytes:
    """The PROXY header (`v1`, `v2`) that an endpoint gets for the client of `sock`: the original client, if a proxy in
    front has told who that is. Of several protocols offered none is told: nobody knows yet which one it will be."""
    source, destination = ends(sock, header)
    if version == "v1":
        return encode_v1(source, destination)
    if hello is None:
        return encode_v2(source, destination)
    alpn = hello.alpn[0].encode("latin-1") if len(hello.alpn) == 1 else b""
    return encode_v2(source, destination, alpn, hello.sni)


def ends(sock: socket.socket, header: ProxyHeader | None) -> tuple[Address, Address]:
    """The client and what it connected to, as a proxy in front tells it, if one does."""
    if header is not None and header.source[0]:
        return header.source, header.destination
    try:
        return _address(sock.getpeername()), _address(sock.getsockname())
    except OSError:  # the client is gone; the session will find out
        return ("", 0), ("", 0)


def _address(name: tuple[str, int] | str) -> Address:
    return (peer_name(name), name[1]) if isinstance(name, tuple) else (peer_name(name), 0)
