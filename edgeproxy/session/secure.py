"""A connection of an https listener until its handshake is done: then it is an HTTP session of the version agreed on.

It takes a place in the connection limit and `timeouts.handshake` in all, and nothing else of the proxy's.
"""
from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Callable
from time import monotonic

from edgeproxy.codec.clienthello import INTERNAL_ERROR, UNRECOGNIZED_NAME, ClientHello
from edgeproxy.codec.proxyproto import ProxyHeader
from edgeproxy.errors import Kind, Phase, Truncated
from edgeproxy.net.certificates import Site, TlsServer
from edgeproxy.net.deadline import Deadline
from edgeproxy.net.tls import Handshake, TlsTransport
from edgeproxy.net.transport import Receiver
from edgeproxy.session.gates import SecureGate
from edgeproxy.session.http import HttpListener
from edgeproxy.session.http1 import Http1Session
from edgeproxy.session.http2 import Http2Session
from edgeproxy.session.peer import Peer
from edgeproxy.session.record import ConnectionRecord, unserved


class SecureOpening(Handshake):
    __slots__ = ("_listener", "_server", "_site", "_address", "_port", "_ended", "_openings", "_log", "_deadline",
                 "_transport", "_began", "_outcome", "_detail", "_sock", "header")

    def __init__(self, listener: HttpListener, server: TlsServer, sock: socket.socket, address: str, port: int,
                 openings: set[SecureOpening], log: Callable[[ConnectionRecord], None], ended: Callable[[], None],
                 began: float = 0.0) -> None:
        """`openings` has this one until its handshake is done; `ended` is called when the connection, or the session
        that came of it, is over; `log` gets those of which nothing came. `began`: when the connection did, if not just
        now: the time for the handshake counts from there."""
        self._listener = listener
        self._server = server
        self._site: Site | None = None
        self._address = address
        self._port = port
        self._ended: Callable[[], None] | None = ended
        self._openings = openings
        self._log = log
        self._began = began or monotonic()
        self._outcome = Kind.CLIENT_GONE
        self._detail = ""
        self._sock = sock
        self.header: ProxyHeader | None = None
        """What a proxy in front has told of the client."""
        self._transport = TlsTransport(listener.loop, listener.poller, sock, self)
        self._deadline = Deadline(listener.loop, self._expired, listener.nursery)
        self._deadline.set(self._began + listener.config.timeouts.handshake)
        openings.add(self)

    def hello(self, hello: ClientHello) -> ssl.SSLContext | int:
        try:
            choice = self._server.choose(hello)
        except (OSError, ValueError) as error:  # of a certificate among many, that nobody has asked for before
            self._fail(f"no TLS with the certificate for {hello.sni or 'a client without SNI'}: {reason(error)}")
            return INTERNAL_ERROR
        if isinstance(choice, int):
            self._fail(f"no certificate for {hello.sni or 'a client without SNI'}" if choice == UNRECOGNIZED_NAME else
                       f"no protocol in common, the client offers {', '.join(hello.alpn)}")
            return choice
        self._site, context = choice
        return context

    def secured(self, transport: TlsTransport) -> Receiver:
        listener, site = self._listener, self._site
        assert site is not None and self._ended is not None
        certificate = transport.peer_certificate if self._server.client_auth is not None else None
        gate = SecureGate(listener.live, listener.name, self._server, site, transport.sni)
        peer = Peer(self._address, self._port, "https", listener.trusts(self._address), gate, transport.version,
                    transport.sni, client_certificate(certificate) if certificate else b"")
        peer.sock, peer.header = self._sock, self.header
        ended, self._ended = self._ended, None
        self._over()
        if transport.alpn == "h2":
            return Http2Session(listener, peer, transport, ended)
        return Http1Session(listener, peer, transport, ended)

    def refused(self, error: Exception) -> None:
        self._fail("the client closed the connection" if isinstance(error, Truncated) else reason(error))

    def _fail(self, detail: str) -> None:
        self._outcome = Kind.HANDSHAKE_FAILED
        self._detail = detail

    def _expired(self) -> None:
        self._outcome = Kind.HANDSHAKE_TIMEOUT
        self._detail = f"no handshake within {self._listener.config.timeouts.handshake:g} s"
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        ended, self._ended = self._ended, None
        self._over()
        if ended is not None:
            self._log(unserved(self._address, self._listener.name, self._began, self._outcome, Phase.HANDSHAKE,
                               self._detail, self._transport.sni))
            ended()

    def _over(self) -> None:
        self._deadline.end()
        self._openings.discard(self)

    def cut(self) -> None:
        """End now."""
        self._outcome = Kind.DRAINING
        self._transport.abort()


def reason(error: Exception) -> str:
    """Why a handshake failed, in words: OpenSSL's, without the place in its source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)


def client_certificate(der: bytes) -> bytes:
    """The value of X-Forwarded-Client-Cert, in Envoy's form: `Hash=<sha256>;Subject="<RFC 4514>"`."""
    from cryptography import x509

    subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    printable = "".join(c if " " <= c <= "~" else "?" for c in subject)
    quoted = printable.replace("\\", "\\\\").replace('"', '\\"')
    return f'Hash={hashlib.sha256(der).hexdigest()};Subject="{quoted}"'.encode()
