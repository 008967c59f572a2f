"""How the endpoints of a service are spoken to: the protocol, TLS, and what is said first.

One object for all of a service's endpoints, never changed: what it says differently makes a new one, and new pools with
it, so that no connection that was opened one way is used the other way.
"""
from __future__ import annotations

from edgeproxy.config import model
from edgeproxy.upstream.tls import PROTOCOLS, ClientTls


class Access:
    __slots__ = ("multiplexed", "scheme", "tls", "announces")

    def __init__(self, config: model.Service, tls: ClientTls | None = None) -> None:
        """`tls`: for the protocols that have it."""
        if config.protocol in PROTOCOLS and tls is None:
            raise ValueError(f"service {config.name}: what is to be encrypted is never sent in the clear")
        self.multiplexed = config.protocol in ("h2", "h2c")
        """HTTP/2: many requests at once on a connection."""
        self.tls = tls if config.protocol in PROTOCOLS else None
        self.scheme = b"https" if self.tls is not None else b"http"
        self.announces = config.send_proxy_protocol or ""
        """The version of the PROXY header that each connection begins with; it belongs to one client then."""

    def mistaken(self, first: bytes) -> str:
        """What the first bytes of an endpoint show, if it speaks another protocol than was configured; else empty."""
        secure = self.tls is not None
        if first[:2] in (b"\x15\x03", b"\x16\x03") and not secure:  # a record: an alert, or of a handshake
            return f"the endpoint answered with TLS; is its protocol {'h2' if self.multiplexed else 'https'}?"
        if first[3:9] == b"\x04\0\0\0\0\0" and not self.multiplexed:  # the frame that a server begins with: SETTINGS
            return f"the endpoint answered with an HTTP/2 frame; is its protocol {'h2' if secure else 'h2c'}?"
        if first[:7] == b"HTTP/1." and self.multiplexed:
            return f"the endpoint answered with HTTP/1; is its protocol {'https' if secure else 'http'}?"
        return ""

    def same(self, other: Access) -> bool:
        return (self.multiplexed, self.tls, self.announces) == (other.multiplexed, other.tls, other.announces)


PLAIN = Access(model.Service(""))
