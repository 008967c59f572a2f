"""A transport whose bytes are TLS records: OpenSSL between memory buffers, on the raw sockets of `SocketTransport`.

Why not the loop's TLS: there a connection cannot choose its certificate, its client certificates and its refusal by
what the ClientHello asks for before OpenSSL has seen it (its callback can swap a certificate, but not what a client has
to prove, and cannot refuse an ALPN without overlap); and it would bring the loop's transports back (`transport.py`).

    stage      stimulus                       then
    HELLO      part of a ClientHello          kept, at most 16 KiB
    HELLO      whole                          `Handshake.hello` gives a context: SHAKING; or an alert: closed
    SHAKING    bytes                          to OpenSSL; `Handshake.secured` gives the receiver: SECURE
    SHAKING    OpenSSL refuses                its alert is sent, `Handshake.refused`, closed
    SECURE     bytes                          decrypted, to the receiver
    SECURE     close_notify                   `eof_received`
    SECURE     FIN without close_notify       `connection_lost` with `Truncated`: it may not be all (RFC 8446 §6.1)

A client's transport begins with SHAKING. The owner watches the time.
"""
from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Final

from edgeproxy.codec.clienthello import DECODE_ERROR, ClientHello, HelloReader, alert
from edgeproxy.compiler import mypyc_attr
from edgeproxy.errors import Truncated
from edgeproxy.net.openssl import Engine, client_engine, say_bye, server_engine, step
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import HIGH_WATER, OPEN, READ_LARGE, Receiver, SocketTransport

_log = logging.getLogger("edgeproxy")

_HELLO: Final = 0
_SHAKING: Final = 1
_SECURE: Final = 2
_BROKEN: Final = 3


@mypyc_attr(allow_interpreted_subclasses=True)
class Handshake(Receiver):
    """Who waits for a handshake: `secured` ends the wait, or `connection_lost` does, perhaps after `refused`."""

    __slots__ = ()

    def hello(self, hello: ClientHello) -> ssl.SSLContext | int:
        """The context to answer with, or the alert to refuse with. (servers)"""
        raise NotImplementedError

    def secured(self, transport: TlsTransport) -> Receiver:
        """Both sides have proved what they had to. Who is told from now on."""
        raise NotImplementedError

    def refused(self, error: Exception) -> None:
        """Nothing came of it; the transport closes itself. `error`: `ssl.SSLError`; ValueError: no ClientHello."""


class TlsTransport(SocketTransport):
    """A server's; a client's after `shake`."""

    __slots__ = ("_stage", "_hello", "_reader", "_handshake", "_tls", "_incoming", "_outgoing", "_decrypt", "_encrypt",
                 "_said_bye", "_answers", "sni")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, sock: socket.socket,
                 handshake: Handshake) -> None:
        self._stage = _HELLO
        self._hello = b""
        self._reader: HelloReader | None = None
        self._handshake: Handshake | None = handshake
        self._tls: Engine | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._said_bye = False
        self._answers = 0  # bytes of the protocol's own since the peer was last seen to take what it is sent
        self.sni = ""
        """The name that the client asked for. (servers)"""
        super().__init__(loop, poller, sock, handshake)

    def shake(self, context: ssl.SSLContext, server_name: str | None, session: ssl.SSLSession | None) -> None:
        """Begin a client's handshake. `session`: one of an earlier connection, to be resumed."""
        self._begin(client_engine(context, self._incoming, self._outgoing, server_name, session))
        self._shake()

    def _begin(self, tls: Engine) -> None:
        self._tls = tls
        self._decrypt = tls.read
        self._encrypt = tls.write
        self._stage = _SHAKING

    # ---- what was agreed

    @property
    def alpn(self) -> str | None:
        return self._tls.selected_alpn_protocol() if self._tls is not None else None

    @property
    def version(self) -> str:
        """`TLSv1.3`"""
        return (self._tls.version() or "") if self._tls is not None else ""

    @property
    def peer_certificate(self) -> bytes | None:
        """DER; None if the peer showed none."""
        return self._tls.getpeercert(True) if self._tls is not None else None

    @property
    def session(self) -> ssl.SSLSession | None:
        return self._tls.session if self._tls is not None else None

    @property
    def resumed(self) -> bool:
        """Whether the handshake took an earlier session up."""
        return self._tls is not None and bool(self._tls.session_reused)

    # ---- reading

    def _take(self, data: bytes) -> None:
        try:
            if not data:
                self._ragged_end()
            elif self._stage == _SECURE:
                self._incoming.write(data)
                self._deliver()
            elif self._stage == _SHAKING:
                self._incoming.write(data)
                self._shake()
            elif self._stage == _HELLO:
                self._greet(data)
        except Exception as exc:
            self._fault(exc)

    def _deliver(self) -> None:
        """Decrypt what is here and tell it in one piece: record by record it would be written on record by record."""
        incoming = self._incoming
        waiting = self._outgoing.pending  # tickets, see `_shake`
        parts: list[bytes] = []
        ended = False
        error: Exception | None = None
        try:
            while True:
                part = self._decrypt(READ_LARGE)
                if not part:
                    ended = True
                    break
                parts.append(part)
                if not incoming.pending:  # OpenSSL holds nothing back either: no record is as long as what is asked for
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except (ssl.SSLError, OSError) as exc:
            error = exc
        if self._outgoing.pending != waiting:
            error = self._answer() or error
        if parts:
            self._receiver.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if error is not None:
            self._stage = _BROKEN
            self._flush()  # the alert, if there is one
            self._lose(error)
        elif ended:
            self._end_of_input()

    def _answer(self) -> Exception | None:
        """Send what the protocol says for itself: a new key, an alert. Who asks for it and takes nothing is left: it is
        all that a transport writes and its receiver cannot hold back."""
        answer = self._outgoing.read()
        self._answers = self._answers + len(answer) if self._over else 0
        super().write(answer)
        return ConnectionError("the peer takes no answers") if self._answers > HIGH_WATER else None

    def _ragged_end(self) -> None:
        if self._stage == _SHAKING and self._handshake is not None:
            self._refuse(Truncated("the connection was closed within the handshake"))
        else:
            self._lose(Truncated("closed without close_notify"))

    def peek_alive(self) -> bool:
        """Whether an idle connection is still quiet. What the protocol says for itself (a new ticket) is read."""
        try:
            data = self._recv(READ_LARGE)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data or self._stage != _SECURE:
            return False
        self._incoming.write(data)
        try:
            self._decrypt(1)
        except ssl.SSLWantReadError:
            return True
        except (ssl.SSLError, OSError):
            pass
        return False

    # ---- the handshake

    def _greet(self, data: bytes) -> None:
        self._hello = data = self._hello + data if self._hello else data
        handshake, reader = self._handshake, self._reader
        assert handshake is not None
        if reader is None:
            reader = self._reader = HelloReader()
        try:
            hello = reader.read(data)
        except ValueError as error:
            super().write(alert(DECODE_ERROR))
            self._refuse(error)
            return
        if hello is None:
            return
        self._hello = b""
        self._reader = None
        self.sni = hello.sni
        context = handshake.hello(hello)
        if isinstance(context, int):
            super().write(alert(context))
            self._handshake = None
            self._stage = _BROKEN
            super().close()
            return
        self._incoming.write(data)
        self._begin(server_engine(context, self._incoming, self._outgoing))
        self._shake()

    def _shake(self) -> None:
        tls, handshake = self._tls, self._handshake
        assert tls is not None and handshake is not None
        try:
            done = step(tls)
        except (ssl.SSLError, OSError) as error:
            self._send_outgoing()
            self._refuse(error)
            return
        if not done:
            self._send_outgoing()
            return
        # The last that a server of TLS 1.3 has to say are tickets. With a request at hand they wait for what is written
        # next: a call, and a packet that wakes the client for nothing yet.
        if not (self._incoming.pending and tls.server_side and tls.version() == "TLSv1.3"):
            self._send_outgoing()
        self._stage = _SECURE
        self._handshake = None
        self._receiver = handshake.secured(self)
        if self._state == OPEN and self._incoming.pending:
            self._deliver()

    def _send_outgoing(self) -> None:
        data = self._outgoing.read()
        if data:
            super().write(data)

    def _refuse(self, error: Exception) -> None:
        handshake, self._handshake = self._handshake, None
        self._stage = _BROKEN
        if handshake is not None:
            handshake.refused(error)
        super().close()

    # ---- writing and the end

    def write(self, data: bytes) -> None:
        if self._state != OPEN or not data or self._stage != _SECURE or self._said_bye:
            return
        try:
            self._encrypt(data)
        except (ssl.SSLError, OSError) as error:
            self._stage = _BROKEN
            self._lose(error)
            return
        super().write(self._outgoing.read())

    def _bye(self) -> None:
        """close_notify behind what was written."""
        if self._stage != _SECURE or self._said_bye or self._tls is None or self._state != OPEN:
            return
        self._said_bye = True
        say_bye(self._tls)
        self._send_outgoing()

    def write_eof(self) -> None:
        self._bye()
        super().write_eof()

    def close(self) -> None:
        self._bye()
        super().close()

    def _lost(self, exc: Exception | None) -> None:
        super()._lost(exc)
        self._handshake = None  # it knows us: with it 40 KiB would wait for the garbage collector
