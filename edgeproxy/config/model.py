"""The configuration as frozen dataclasses: the one source of the loader, the JSON Schema and the reference page.

Rules of this file: values only, already parsed (durations in seconds, sizes in bytes); a docstring under each field is
what the user reads in the reference and in the editor; a default stated here is the default everywhere.
How text becomes these values is in `forms.py` and `tree.py`, what they must agree on in `rules.py`. Services are in
`services.py`, for their length alone; everybody imports all of it from here.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from edgeproxy.config.certificates import Certificate
from edgeproxy.config.marks import (
    KIB,
    Count,
    Duration,
    FilePath,
    ForHttp,
    ForHttps,
    Form,
    ForPlain,
    ForRelay,
    ForTcp,
    ForTls,
    Key,
    Name,
    Network,
    OneOrList,
    Only,
    Span,
    Weight,
)
from edgeproxy.config.services import (
    Affinity,
    AffinityCookie,
    Balance,
    BalanceKind,
    CertificatePair,
    ClientIp,
    DnsSource,
    Eject,
    EndpointAddress,
    ExternalName,
    Family,
    GrpcProbe,
    Health,
    HttpProbe,
    Nameserver,
    OnEmpty,
    PoolLimits,
    Service,
    ServiceLimits,
    ServiceTimeouts,
    ServiceTls,
    SourceHash,
    StatusRange,
    TcpProbe,
)

__all__ = [
    "AccessLog", "Admin", "Affinity", "AffinityCookie", "Balance", "BalanceKind", "Bind", "Certificate",
    "CertificatePair", "ClientAuth", "ClientIp", "Config", "DnsSource", "Eject", "EndpointAddress", "ExternalName",
    "Family", "Form", "GrpcProbe", "HeaderEdits", "Health", "HttpProbe", "Key", "Listener", "ListenerLimits",
    "ListenerTimeouts", "ListenerTls", "Nameserver", "OnEmpty", "OneOrList", "Only", "PathMatch", "PoolLimits",
    "ProxyProtocol", "Redirect", "Resolver", "Respond", "Retry", "RetryOn", "Rewrite", "Route", "RouteTimeouts",
    "Service", "ServiceLimits", "ServiceTimeouts", "ServiceTls", "Shutdown", "SourceHash", "StatusRange", "TcpProbe",
    "WeightedService",
]


@dataclass(frozen=True, slots=True)
class Bind:
    """One address to listen on: `host:port`, `:port` (every address, v4 and v6) or `unix:/path`."""

    host: str = ""
    """IP address; empty: every address, IPv4 and IPv6."""
    port: int = 0
    path: str = ""
    """Path of a unix socket; host and port are unused then."""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    connections: Count = 0
    """Client connections at once; at the limit the kernel's queue holds the rest. 0: as many as descriptors allow."""
    header: Annotated[int, Form("size", 1, 16 * KIB * KIB), ForHttp] = 64 * KIB
    """Size of a request head; a longer one is answered 431. (http, https)"""
    headers: Annotated[int, Form("whole", 1, 10_000), ForHttp] = 100
    """Fields in a request head; more are answered 431. (http, https)"""
    body: Annotated[int, Form("size", 0, 1 << 50), ForHttp] = 0
    """Size of a request body; a longer one is answered 413. 0: no limit. (http, https)"""


@dataclass(frozen=True, slots=True)
class ListenerTimeouts:
    handshake: Span = 10.0
    """From the connection's first moment to the end of the TLS handshake (https), of the ClientHello (tls) and of the
    PROXY protocol's header (every listener with proxy_protocol)."""
    header: Annotated[Span, ForHttp] = 10.0
    """From the first byte of a request head to its last; 408 after that. (http, https)"""
    body: Annotated[Span, ForHttp] = 60.0
    """Without a byte of the request body, or without the client taking a byte of the response. (http, https)"""
    idle: Duration | None = None
    """Between requests of a connection (http and https, 75s); without a byte in either direction (tcp and tls, 1h).
    0: none."""
    tunnel: Annotated[Duration, ForHttp] = 3600.0
    """Without a byte in either direction after an upgrade such as WebSocket. 0: none. (http, https)"""
    half_closed: Annotated[Duration, ForRelay] = 3600.0
    """For the other direction to finish after one side has closed. 0: none. (tcp, tls)"""


@dataclass(frozen=True, slots=True)
class ClientAuth:
    ca: FilePath
    """PEM file with the certificates of the authorities that sign those of clients."""
    mode: Literal["require", "optional"] = "require"
    """`require`: no handshake without a good certificate; `optional`: asked for, and checked if there is one."""


@dataclass(frozen=True, slots=True)
class ListenerTls:
    certificates: tuple[CertificatePair, ...]
    """A list; the names are read from the certificates, and the most specific match for the client's SNI wins: the name
    itself, then `*.parent`. An ECDSA and an RSA certificate for the same name are both offered."""
    default: FilePath | None = None
    """The `cert` of the certificate that is shown when no SNI matches, or the client sends none. Without it such a
    handshake is refused (unrecognized_name)."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest TLS version that is spoken."""
    alpn: tuple[Literal["h2", "http/1.1"], ...] = ("h2", "http/1.1")
    """What is offered, the best first."""
    client_auth: ClientAuth | None = None
    """Asks clients for a certificate. Subject and fingerprint go to the endpoint as X-Forwarded-Client-Cert."""


@dataclass(frozen=True, slots=True)
class ProxyProtocol:
    trusted: Annotated[tuple[Network, ...], Key("from")]
    """Networks and addresses of the peers that send a PROXY header (v1 or v2): they must, everybody else must not."""


@dataclass(frozen=True, slots=True)
class Listener:
    name: Name
    """The key of this map."""
    bind: Annotated[tuple[Annotated[Bind, Form("bind")], ...], OneOrList()]
    """Where to listen: `"host:port"`, `":port"`, `"[::1]:80"`, `"unix:/run/e.sock"`, or a list of these."""
    protocol: Literal["http", "https", "tcp", "tls"]
    """`http` and `https` route requests; `tcp` relays bytes to one service; `tls` relays encrypted bytes to the service
    of the server name that the client asks for (SNI), and decrypts nothing."""
    redirect_to_https: Annotated[bool | int, Form("https-port"), ForPlain] = False
    """`true`: every request is answered 308 to the same host and path with https; a number: with that port. Routes are
    not asked. (http)"""
    tls: Annotated[ListenerTls | None, ForHttps] = None
    """Certificates and what goes with them; required. (https)"""
    service: Annotated[Name | None, ForTcp] = None
    """The service that gets every connection; required. (tcp)"""
    sni: Annotated[tuple[tuple[str, str], ...], Form("sni-pattern"), ForTls] = ()
    """A map of server names to services, required: `a.example.com`, `*.example.com` (exactly one label), and `"*"` for
    the rest and clients without SNI; without that they are closed. (tls)"""
    proxy_protocol: ProxyProtocol | None = None
    """Takes the client's address from a PROXY header before anything else."""
    trusted_proxies: Annotated[tuple[Network, ...], ForHttp] = ()
    """Peers whose X-Forwarded-* are believed and extended; everybody else's are replaced. (http, https)"""
    limits: ListenerLimits = field(default_factory=ListenerLimits)
    """Bounds for clients."""
    timeouts: ListenerTimeouts = field(default_factory=ListenerTimeouts)
    """How long a client may take."""

    @property
    def routed(self) -> bool:
        """Whether its clients send requests, which routes lead on (http, https)."""
        return self.protocol in ForHttp.protocols

    @property
    def https_port(self) -> int:
        """Where requests are redirected to; 0: nowhere. Read here and not where sessions are: for the compiler of those
        a bool that may be an int is an int, and `true` would be port 1."""
        to = self.redirect_to_https
        return 443 if to is True else int(to)

    @property
    def idle_or_default(self) -> float:
        """Seconds of `timeouts.idle`, or what the protocol has without it; 0: none."""
        if self.timeouts.idle is not None:
            return self.timeouts.idle
        return 75.0 if self.routed else 3600.0


@dataclass(frozen=True, slots=True)
class PathMatch:
    kind: Literal["prefix", "exact", "regex"] = "prefix"
    value: str = "/"


@dataclass(frozen=True, slots=True)
class WeightedService:
    name: Name
    """The name of a service."""
    weight: Weight = 1
    """Share of the requests; 0 takes none."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    prefix: Annotated[str, Form("prefix")] | None = None
    """Replaces the prefix that matched."""
    path: Annotated[str, Form("path")] | None = None
    """The whole new path; `$1`, `$2` … are the groups of the route's regex."""
    host: Annotated[str, Form("authority")] | None = None
    """The Host sent to the endpoint."""


@dataclass(frozen=True, slots=True)
class Redirect:
    scheme: Literal["http", "https"] | None = None
    """A part not named stays as it was; a scheme without port means its default port."""
    host: Annotated[str, Form("host")] | None = None
    """The host to go to, without port."""
    port: Annotated[int, Form("whole", 1, 65535)] | None = None
    """The port to go to."""
    path: Annotated[str, Form("path")] | None = None
    """The whole new path; the query stays."""
    prefix: Annotated[str, Form("prefix")] | None = None
    """Replaces the prefix that matched."""
    status: Literal[301, 302, 303, 307, 308] = 308
    """308 and 307 keep the method, 301 and 302 may turn a POST into a GET, 303 does."""


@dataclass(frozen=True, slots=True)
class Respond:
    status: Annotated[int, Form("status")] = 200
    """Any final status."""
    body: Annotated[str, Form("text")] = ""
    """Sent as UTF-8."""
    content_type: Annotated[str, Form("value")] = "text/plain; charset=utf-8"
    """The Content-Type field."""


@dataclass(frozen=True, slots=True)
class HeaderEdits:
    set: Annotated[tuple[tuple[str, str], ...], Form("edited-field")] = ()
    """Fields to put in place of any of the same name."""
    add: Annotated[tuple[tuple[str, str], ...], Form("edited-field")] = ()
    """Fields to put beside any of the same name."""
    remove: tuple[Annotated[str, Form("edited-field")], ...] = ()
    """Fields to drop."""


@dataclass(frozen=True, slots=True)
class RouteTimeouts:
    response: Duration = 60.0
    """From the request's last byte to the response's head, and between two pieces of that; 504 after it. 0: none."""
    total: Duration = 0.0
    """For the whole exchange. 0: none."""


RetryOn = Literal["connect", "reset", "timeout"]


@dataclass(frozen=True, slots=True)
class Retry:
    attempts: Annotated[int, Form("whole", 1, 100)] = 3
    """Tries in all, the first included; 1: never again."""
    when: tuple[Annotated[RetryOn | int, Form("retry-condition")], ...] = ("connect", "reset")
    """What is tried again: `connect`, `reset`, `timeout`, and statuses such as 502 (idempotent methods only)."""


@dataclass(frozen=True, slots=True)
class Route:
    name: Name
    """In logs and metrics; default: made from host and path."""
    host: Annotated[tuple[Annotated[str, Form("host-pattern")], ...], OneOrList()] = ()
    """A name or a list: `a.example.com`, `*.example.com` (exactly one label), `**.example.com` (one or more).
    Absent: any host."""
    path: PathMatch = PathMatch()
    """A prefix, matched per path element; or `{exact: /x}`, `{prefix: /x}`, `{regex: "^/v[0-9]+/"}`."""
    methods: tuple[Annotated[str, Form("method")], ...] = ()
    """Absent: any method."""
    headers: Annotated[tuple[tuple[str, str], ...], Form("matched-field")] = ()
    """Fields that must have exactly these values; names in lower case."""
    query: Annotated[tuple[tuple[str, str], ...], Form("line")] = ()
    """Query parameters that must have exactly these values."""
    listeners: tuple[Name, ...] | None = None
    """Names of http and https listeners; default: every one."""
    service: Annotated[tuple[WeightedService, ...], OneOrList()] = ()
    """A service, or a weighted list. Exactly one of service, redirect and respond."""
    redirect: Redirect | None = None
    """An answer that sends the client elsewhere."""
    respond: Respond | None = None
    """An answer made by the proxy itself."""
    rewrite: Rewrite = Rewrite()
    """What the endpoint sees in place of path and host. (service)"""
    request_headers: HeaderEdits = HeaderEdits()
    """Changes to the fields sent to the endpoint. (service)"""
    response_headers: HeaderEdits = HeaderEdits()
    """Changes to the fields sent to the client."""
    timeouts: RouteTimeouts = RouteTimeouts()
    """How long an endpoint may take. (service)"""
    retry: Retry = Retry()
    """When another endpoint is tried. (service)"""


@dataclass(frozen=True, slots=True)
class AccessLog:
    path: Annotated[str, Form("file")] = "-"
    """A file, or `-` for standard output."""
    format: Literal["json", "combined", "off"] = "json"
    """`json`, nginx's `combined`, or `off`."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    drain: Duration = 30.0
    """After SIGTERM, how long open work may take to finish before it is cut."""


@dataclass(frozen=True, slots=True)
class Resolver:
    nameservers: Annotated[tuple[Annotated[Nameserver, Form("nameserver")], ...], OneOrList("system")] = ()
    """`system`, the default, is those of /etc/resolv.conf; or a list such as `["10.96.0.10", "127.0.0.1:5353"]`."""
    timeout: Span | None = None
    """For one question to one nameserver; default: resolv.conf's, 2s without."""
    min_ttl: Span = 1.0
    """An answer is kept at least so long."""
    max_ttl: Span = 60.0
    """And at most so long."""


@dataclass(frozen=True, slots=True)
class Admin:
    bind: Annotated[Bind, Form("bind")]
    """Where `edgeproxy status` asks: `unix:/run/edgeproxy.sock`, or `127.0.0.1:9900`, which can be read only. Addresses
    of other machines are refused, as there is no password."""


@dataclass(frozen=True, slots=True)
class Config:
    listeners: dict[str, Listener]
    """What is listened on, by names of your choice."""
    routes: tuple[Route, ...] = ()
    """Which requests go where. Order does not matter: the most specific route wins."""
    services: dict[str, Service] = field(default_factory=dict)
    """Sets of endpoints, by names of your choice."""
    resolver: Resolver = Resolver()
    """How names are resolved."""
    admin: Admin | None = None
    """Where the running proxy is asked; default: a unix socket of its user, found by the name of the file."""
    access_log: AccessLog = AccessLog()
    """One line for each request or connection."""
    shutdown: Shutdown = Shutdown()
    """How the program ends."""
    certificates: dict[tuple[str, str], Certificate] = field(default_factory=dict, compare=False, repr=False)
    """What was read of each pair of cert and key. Not a key of the file."""
