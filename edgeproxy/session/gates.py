"""What listeners ask of requests before they are routed: go to https; or have come by the right connection."""
from __future__ import annotations

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.config.model import ClientAuth
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.net.certificates import Site, TlsServer
from edgeproxy.session.peer import Gate
from edgeproxy.session.reply import Reply
from edgeproxy.snapshot import Live


class RedirectGate(Gate):
    """`redirect_to_https`: every request that names a host goes to the same place with https."""

    __slots__ = ("_port",)

    def __init__(self, port: int) -> None:
        self._port = "" if port == 443 else f":{port}"

    def check(self, head: RequestHead) -> Reply | ProxyError | None:
        if not head.host:
            return ProxyError(Kind.BAD_REQUEST, "without a Host there is nowhere to redirect to")
        target = head.target
        if not target.startswith("/"):  # absolute form; `*` asks the proxy itself
            _, _, rest = target.partition("://")
            path = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
            target = rest[path:] if rest[path:path + 1] == "/" else "/" + rest[path:]
        host = head.host if ":" not in head.host or head.host.startswith("[") else f"[{head.host}]"
        location = f"https://{host}{self._port}{target}"
        return Reply(308, ((b"Location", location.encode("latin-1")),), b"")


def _uncertified() -> ProxyError:
    return ProxyError(Kind.MISDIRECTED, "this connection was not asked for the client certificate that is needed")


class LeavingGate(Gate):
    """For connections of a plain listener that a reload has ended: one of the same name may ask for client certificates
    by now, and requests are routed by what is configured now."""

    __slots__ = ("_live", "_listener", "_before")

    def __init__(self, live: Live, listener: str, before: Gate | None) -> None:
        """`before`: what was asked until now."""
        self._live = live
        self._listener = listener
        self._before = before

    def check(self, head: RequestHead) -> Reply | ProxyError | None:
        server = self._live.snapshot.tls.get(self._listener)
        if server is not None and server.client_auth is not None:
            return _uncertified()
        return self._before.check(head) if self._before is not None else None


class SecureGate(Gate):
    """421 for a Host that this connection may not ask for: another certificate is for it, or client certificates are
    asked for by now and this connection was not asked (tls.md; nginx CVE-2025-23419, Caddy CVE-2018-21246)."""

    __slots__ = ("_live", "_listener", "_site", "_auth", "_good", "_server")

    def __init__(self, live: Live, listener: str, server: TlsServer, site: Site, sni: str) -> None:
        """`server` has chosen `site` for `sni`."""
        self._live = live
        self._listener = listener
        self._server = server
        self._site = site
        self._auth: ClientAuth | None = server.client_auth
        self._good = sni  # the host that was looked up last, and was right

    def check(self, head: RequestHead) -> Reply | ProxyError | None:
        server = self._live.snapshot.tls.get(self._listener)
        if server is not self._server:
            if server is None:  # gone (then there is no router either), or without TLS by now
                return None
            self._server = server
            self._good = ""
        if server.client_auth != self._auth and server.client_auth is not None:
            return _uncertified()
        host = head.host
        if host == self._good or not host:
            return None
        if server.misdirected(self._site, host.strip("[]")):
            return ProxyError(Kind.MISDIRECTED, "this connection's certificate is not for this host")
        self._good = host
        return None
