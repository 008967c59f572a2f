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

    def same(self, other: Access) -> bool:
        return (self.multiplexed, self.tls, self.announces) == (other.multiplexed, other.tls, other.announces)


PLAIN = Access(model.Service(""))
