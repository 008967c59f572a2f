"""What is known of a client connection before its first request; its requests all share it."""
from __future__ import annotations

import socket

from edgeproxy.codec._leaf import Forward, RequestHead
from edgeproxy.codec.proxyproto import ProxyHeader, encode_v1, encode_v2
from edgeproxy.compiler import mypyc_attr
from edgeproxy.errors import ProxyError
from edgeproxy.session.opening import ends
from edgeproxy.session.reply import Reply


@mypyc_attr(allow_interpreted_subclasses=True)
class Gate:
    """What a listener asks of each request before it is routed."""

    __slots__ = ()

    def check(self, head: RequestHead) -> Reply | ProxyError | None:
        """The answer instead of an exchange; None: go on."""
        return None


class Peer:
    __slots__ = ("address", "port", "scheme", "trusted", "forward", "gate", "tls", "sni", "sock", "header")

    def __init__(self, address: str, port: int, scheme: str, trusted: bool, gate: Gate | None = None, tls: str = "",
                 sni: str = "", certificate: bytes = b"") -> None:
        """`certificate`: what X-Forwarded-Client-Cert tells endpoints; empty if the client has proved nothing."""
        self.address = address
        """Of the client, as PROXY protocol tells it if that is spoken; without port. Empty: a unix socket."""
        self.port = port
        """The one it came in by."""
        self.scheme = scheme
        """`http` or `https`."""
        self.trusted = trusted
        """Its X-Forwarded-* are believed."""
        self.gate = gate
        self.tls = tls
        """`TLSv1.3`; empty without TLS."""
        self.sni = sni
        self.sock: socket.socket | None = None
        """Of its connection."""
        self.header: ProxyHeader | None = None
        """What a proxy in front has told of it."""
        if certificate:
            self.forward = Forward(address.encode(), scheme.encode(), b"%d" % port, trusted, certificate)
        else:
            self.forward = Forward(address.encode(), scheme.encode(), b"%d" % port, trusted)

    def announcement(self, version: str) -> bytes:
        """The PROXY header (`v1`, `v2`) that an endpoint gets for this client."""
        source, destination = ("", 0), ("", 0)
        if self.sock is not None:
            source, destination = ends(self.sock, self.header)
        if version == "v1":
            return encode_v1(source, destination)
        return encode_v2(source, destination, b"", self.sni, self.tls)
