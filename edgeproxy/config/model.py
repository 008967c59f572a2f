"""The configuration as frozen dataclasses: the one source of the loader, the JSON Schema and the reference page.

Rules of this file: values only, already parsed (durations in seconds, sizes in bytes); a docstring under each field is
what the user reads in the reference and in the editor; a default stated here is the default everywhere.
How text becomes these values is in `forms.py` and `tree.py`, what they must agree on in `rules.py`.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from edgeproxy.config.certificates import Certificate

KIB = 1024
MOST = 1_000_000_000
"""Bound of every count: far above any use, far below what would overflow anywhere."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the text in the file becomes the value: a word that `forms.py` knows, and the bounds of a number."""

    word: str
    low: float = 0
    high: float = MOST


@dataclass(frozen=True, slots=True)
class Key:
    """The key in the file, where it is not the name of the field."""

    word: str


@dataclass(frozen=True, slots=True)
class Only:
    """The protocols of a listener that know this key."""

    protocols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OneOrList:
    """A list, or just its only value."""


Name = Annotated[str, Form("name")]
Duration = Annotated[float, Form("duration")]
"""Seconds; 0 has a meaning of its own, told where it is used."""
Span = Annotated[float, Form("duration", 0.001)]
"""Seconds, never 0."""
Count = Annotated[int, Form("whole")]
Weight = Annotated[int, Form("whole", 0, 1_000_000)]
Network = Annotated[IPv4Network | IPv6Network, Form("network")]
FilePath = Annotated[str, Form("file-path")]
"""A file; relative to the configuration file, absolute after loading."""
ForHttp = Only(("http", "https"))
ForPlain = Only(("http",))
ForHttps = Only(("https",))
ForTcp = Only(("tcp",))
ForTls = Only(("tls",))
ForRelay = Only(("tcp", "tls"))


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
class CertificatePair:
    cert: FilePath
    """PEM file: the certificate, then those that signed it, each before the next."""
    key: FilePath
    """PEM file with its private key, without a passphrase; only the proxy's user should be able to read it."""

    def __str__(self) -> str:
        return self.cert


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
class EndpointAddress:
    host: str = ""
    """IP address."""
    port: int = 0
    path: str = ""
    """Path of a unix socket; host and port are unused then."""
    weight: Weight = 1
    """Share of the work; 0 takes none."""
    backup: Annotated[bool, Form("boolean")] = False
    """Serves only when no other endpoint is ready."""

    @property
    def address(self) -> str:
        """As in the file and in logs: `10.0.0.5:80`, `[::1]:80`, `unix:/run/app.sock`."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


BalanceKind = Literal["round-robin", "least-conn", "source-hash", "random", "least-latency", "hash"]


@dataclass(frozen=True, slots=True)
class Balance:
    kind: BalanceKind = "round-robin"
    """`hash` is written `{hash: …}`, the others as they are."""
    source: Literal["header", "cookie", "query", "path"] | None = None
    """What `hash` looks at."""
    name: str = ""
    """Name of the header, cookie or query parameter that `hash` looks at."""


@dataclass(frozen=True, slots=True)
class Eject:
    failures: Count = 3
    """Failures that eject an endpoint; 0: never eject."""
    within: Span = 10.0
    """How close together these failures are."""
    duration: Annotated[Span, Key("for")] = 10.0
    """How long; times the number of ejections in a row, at most 5 minutes."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    per_endpoint: Count = 0
    """Requests (http) or connections (tcp) at once on one endpoint. 0: no limit."""
    queue: Count = 0
    """Places to wait in when every endpoint is full."""
    queue_timeout: Span = 5.0
    """Longest stay in the queue; 503 after that."""


@dataclass(frozen=True, slots=True)
class ServiceTimeouts:
    connect: Span | None = None
    """For one try to connect; default: 3s (http), 250ms, 500ms, 1s and 2s for the four tries (tcp)."""
    idle: Duration = 55.0
    """How long an unused connection to an endpoint is kept. 0: for ever."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    idle: Count = 64
    """Idle connections kept for each endpoint."""


@dataclass(frozen=True, slots=True)
class ServiceTls:
    verify: Annotated[bool, Form("boolean")] = True
    """Whether the endpoint's certificate is checked. `false` gives the connection to whoever answers."""
    ca: FilePath | None = None
    """PEM file with the authorities that may have signed it; default: those of the system."""
    server_name: Annotated[str, Form("host")] | None = None
    """The name that is asked for (SNI) and must be in the certificate; default: the endpoint's address."""
    client_cert: CertificatePair | None = None
    """The certificate that the proxy shows to endpoints that ask for one."""


@dataclass(frozen=True, slots=True)
class Service:
    name: Name
    """The key of this map."""
    endpoints: tuple[EndpointAddress, ...] = ()
    """Addresses: `"10.0.0.5:80"`, `"[::1]:80"`, `"unix:/run/e.sock"`, or `{address: …, weight: 2, backup: true}`."""
    protocol: Literal["http", "https", "h2", "h2c"] = "http"
    """What its endpoints speak: `http` and `https` are HTTP/1.1 without and with TLS, `h2c` and `h2` are HTTP/2 without
    and with TLS (gRPC needs one of these). Only for requests; a tcp or tls listener relays what it gets."""
    tls: ServiceTls = ServiceTls()
    """Of the connections to its endpoints. (https, h2)"""
    send_proxy_protocol: Literal["v1", "v2"] | None = None
    """Every connection to an endpoint begins with a PROXY header that has the client's address. (tcp, http, https)"""
    balance: Balance = Balance()
    """How an endpoint is picked: `round-robin`, `least-conn`, `source-hash`, `random`, `least-latency`;
    or `{hash: {header: x-user}}`, `{hash: {cookie: id}}`, `{hash: {query: q}}` or `{hash: path}`, for http only."""
    eject: Eject = Eject()
    """Leaves out an endpoint that fails real requests, for a while; never the last one."""
    limits: ServiceLimits = ServiceLimits()
    """How much its endpoints get at once."""
    timeouts: ServiceTimeouts = ServiceTimeouts()
    """Of the connections to its endpoints."""
    pool: PoolLimits = PoolLimits()
    """Connections kept for later requests. (http)"""


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
class Config:
    listeners: dict[str, Listener]
    """What is listened on, by names of your choice."""
    routes: tuple[Route, ...] = ()
    """Which requests go where. Order does not matter: the most specific route wins."""
    services: dict[str, Service] = field(default_factory=dict)
    """Sets of endpoints, by names of your choice."""
    access_log: AccessLog = AccessLog()
    """One line for each request or connection."""
    shutdown: Shutdown = Shutdown()
    """How the program ends."""
    certificates: dict[tuple[str, str], Certificate] = field(default_factory=dict, compare=False, repr=False)
    """What was read of each pair of cert and key. Not a key of the file."""
