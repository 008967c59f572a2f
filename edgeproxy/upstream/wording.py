"""What the probes of a service say: the request in both of its forms, what goes before it, and what is to be heard.

Rules: the endpoint is spoken to as the service speaks to it. What can be made once is made once; only the Host may be
another one for each endpoint.
"""
from __future__ import annotations

import asyncio
import ssl
from typing import Final

from edgeproxy import __version__
from edgeproxy.codec import grpc
from edgeproxy.codec._leaf import RequestHead, parse_request
from edgeproxy.codec.headers import BODIED
from edgeproxy.codec.proxyproto import LOCAL_V1, LOCAL_V2
from edgeproxy.config import model
from edgeproxy.net.poller import Poller
from edgeproxy.net.tls import TlsTransport
from edgeproxy.policy.endpoint import Endpoint
from edgeproxy.upstream.access import Access
from edgeproxy.upstream.pool import Pool
from edgeproxy.upstream.tls import ClientTls

AGENT: Final = f"edgeproxy/{__version__} (health probe)"

_HEADERS = {"": b"", "v1": LOCAL_V1, "v2": LOCAL_V2}


class ProbeTls(ClientTls):
    """TLS as the service has it, with sessions of the probes' own: what they leave behind never replaces a session that
    requests resume, and without any a handshake would cost twenty times what the rest of a probe does."""

    __slots__ = ("_service", "_kept")

    def __init__(self, service: ClientTls) -> None:
        super().__init__(service.context, "", service.identity)
        self._service = service
        self._kept: dict[str, ssl.SSLSession] = {}

    def name_for(self, endpoint: Endpoint) -> str:
        return self._service.name_for(endpoint)

    def session_for(self, endpoint: Endpoint) -> ssl.SSLSession | None:
        return self._kept.get(endpoint.address) or self._service.session_for(endpoint)

    def opened(self, endpoint: Endpoint, transport: TlsTransport) -> None:
        """Nothing yet: tickets come later, see `keep`."""

    def keep(self, endpoint: Endpoint, transport: TlsTransport) -> None:
        """After an answer: by then the tickets are here too. One that was resumed serves on until the endpoint takes it
        no more: OpenSSL's copy of another one costs 200 µs."""
        session = None if transport.resumed else transport.session
        if session is not None:
            self._kept[endpoint.address] = session

    def forget(self, endpoint: Endpoint) -> None:
        self._kept.pop(endpoint.address, None)


class Wording:
    """Built once for a configuration."""

    __slots__ = ("loop", "poller", "config", "health", "access", "sessions", "pool", "header", "request", "payload",
                 "wanted", "text", "timeout", "_start", "_rest", "_fields", "_host")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, config: model.Service, access: Access) -> None:
        """`config.health` is there; `access`: the service's."""
        health = config.health
        assert health is not None
        self.loop = loop
        self.poller = poller
        self.config = config
        self.health = health
        self.timeout = health.timeout
        self.sessions: ProbeTls | None = None
        self.access = access
        if access.tls is not None:
            self.sessions = ProbeTls(access.tls)
            self.access = Access(config, self.sessions)
        self.pool = Pool(0, 0.0, self.access)
        """Where nothing is ever kept."""
        self.header = _HEADERS[access.announces]
        """That of a connection which is nobody's but the proxy's (PROXY protocol §2.1, §2.2)."""
        http = health.http or model.HttpProbe()
        method, path = http.method, http.path
        fields = [("User-Agent", AGENT), ("Accept", "*/*")]
        self.payload = b""
        self.wanted = http.status
        self.text = (http.body or "").encode()
        if health.grpc is not None:
            method, path, http = "POST", grpc.CHECK, model.HttpProbe()
            fields = [("User-Agent", AGENT), ("Content-Type", "application/grpc"), ("TE", "trailers"),
                      ("Grpc-Timeout", f"{max(1, round(self.timeout * 1000))}m")]
            self.payload = grpc.encode_check(health.grpc.service)
            self.wanted = (model.StatusRange(200, 200),)
        given = {name.lower() for name, _ in http.headers}
        fields = [pair for pair in fields if pair[0].lower() not in given] + list(http.headers)
        length = f"Content-Length: {len(self.payload)}\r\n" if method in BODIED else ""
        # What a channel asks of it: the method, and that there is no upgrade and nothing to wait for.
        head = parse_request(f"{method} / HTTP/1.1\r\nHost: a\r\n{length}\r\n".encode(), 1 << 16, 100)
        assert head is not None
        self.request: RequestHead = head
        self._start = f"{method} {path} HTTP/1.1\r\nHost: ".encode()
        self._rest = ("\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + length
                      + "Connection: close\r\n\r\n").encode()
        self._fields = [(b":method", method.encode()), (b":path", path.encode()),
                        *((name.lower().encode(), value.encode()) for name, value in fields)]
        self._host = http.host or ""

    def head(self, endpoint: Endpoint) -> bytes:
        return self._start + self.host(endpoint).encode() + self._rest

    def fields(self, endpoint: Endpoint) -> list[tuple[bytes, bytes]]:
        pseudo = self._fields
        return [pseudo[0], (b":scheme", self.access.scheme), (b":authority", self.host(endpoint).encode()), *pseudo[1:]]

    def host(self, endpoint: Endpoint) -> str:
        """As it is configured; else the name of what is asked, with its port unless that goes without saying (RFC 9110
        §7.2)."""
        if self._host:
            return self._host
        if self.config.external_host:
            return self.config.external_host
        usual = self.config.usual_port
        name, port = endpoint.name or endpoint.host or "localhost", endpoint.port or usual
        name = f"[{name}]" if ":" in name else name.removesuffix(".")
        return name if port == usual else f"{name}:{port}"

    def forget(self, endpoint: Endpoint) -> None:
        """It is probed no more."""
        if self.sessions is not None:
            self.sessions.forget(endpoint)
