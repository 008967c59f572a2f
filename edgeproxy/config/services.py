"""What a service is, as frozen dataclasses: its endpoints and where they come from, balance, affinity, health, limits.

Rules: those of `model.py`, of which this is a part; who needs one of these imports it from there.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from edgeproxy.config.marks import Count, Duration, FilePath, Form, Key, Name, OneOrList, Span, Weight


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    host: str = ""
    """IP address, or a name in lower case that is resolved again and again; a final dot makes it absolute."""
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

    @property
    def named(self) -> bool:
        """Whether its addresses are to be asked of DNS."""
        return not self.path and ":" not in self.host and not self.host.replace(".", "").isdigit()


Family = Literal["v4", "v6", "both"]
OnEmpty = Literal["drop", "keep"]


@dataclass(frozen=True, slots=True)
class Nameserver:
    host: str
    """IP address."""
    port: int = 53

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DnsSource:
    name: Annotated[str, Form("dns-name")]
    """A name to ask for; one that ends in `.` is absolute, others go through the search list of resolv.conf."""
    port: Annotated[int, Form("whole", 1, 65535)] | None = None
    """Of its endpoints; SRV records bring their own."""
    type: Literal["A", "SRV"] = "A"
    """`A`: every A and AAAA record is an endpoint (see family); `SRV`: every SRV record is, with its port and weight;
    the lowest priority serves, the others are backups."""
    family: Family | None = None
    """Default: the service's."""
    refresh: Span | None = None
    """Default: the service's."""
    on_empty: OnEmpty | None = None
    """Default: the service's."""

    @property
    def address(self) -> str:
        """As in messages: the name, with the port that it is given here."""
        return self.name if self.port is None else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class ExternalName:
    name: str
    """In lower case, a final dot makes it absolute; or an IP address."""
    port: int | None = None
    """None: 80 or 443, by the service's protocol."""

    @property
    def is_address(self) -> bool:
        """Whether there is nothing to ask of DNS."""
        return ":" in self.name or self.name.replace(".", "").isdigit()

    @property
    def host(self) -> str:
        """As in a Host field and in SNI: without the final dot (RFC 6066 §3), IPv6 in brackets."""
        return f"[{self.name}]" if ":" in self.name else self.name.removesuffix(".")

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


BalanceKind = Literal["round-robin", "least-conn", "source-hash", "random", "least-latency", "hash"]


@dataclass(frozen=True, slots=True)
class SourceHash:
    """What stands behind `balance: {source-hash: …}`."""

    ipv6_prefix: Annotated[int, Form("whole", 1, 128)] = 128
    """Bits of an IPv6 client's address that are looked at; with 64 it may change its address within its network."""


@dataclass(frozen=True, slots=True)
class Balance:
    kind: BalanceKind = "round-robin"
    """`hash` is written `{hash: …}`, the others as they are."""
    source: Literal["header", "cookie", "query", "path"] | None = None
    """What `hash` looks at."""
    name: str = ""
    """Name of the header, cookie or query parameter that `hash` looks at."""
    ipv6_prefix: int = 128
    """Bits of an IPv6 client's address that `source-hash` looks at: `{source-hash: {ipv6_prefix: 64}}`."""


@dataclass(frozen=True, slots=True)
class Eject:
    failures: Count = 3
    """Failures that eject an endpoint; 0: never eject."""
    within: Span = 10.0
    """How close together these failures are."""
    duration: Annotated[Span, Key("for")] = 10.0
    """How long; times the number of ejections in a row, at most 5 minutes."""


@dataclass(frozen=True, slots=True)
class ClientIp:
    timeout: Annotated[float, Form("duration", 1.0, 86400.0)] = 10800.0
    """How long a client that does not come back is remembered; at most 24h."""


@dataclass(frozen=True, slots=True)
class AffinityCookie:
    name: Annotated[str, Form("cookie-name")] = "edge"
    """Name of the cookie."""
    ttl: Duration = 0.0
    """How long a client that does not come back is remembered. 0: until its browser is closed."""
    secret: Annotated[str, Form("secret")] | None = None
    """What the cookie is signed with; the same text in several proxies makes them honour each other's cookies.
    Default: made from this machine's id, so that cookies outlive a restart."""


@dataclass(frozen=True, slots=True)
class Affinity:
    client_ip: ClientIp | None = None
    """By the client's address, as sessionAffinity: ClientIP of Kubernetes."""
    cookie: AffinityCookie | None = None
    """By a signed cookie that the proxy sets. (http)"""


@dataclass(frozen=True, slots=True)
class StatusRange:
    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """A connection that can be opened, with the TLS handshake if the service has TLS."""


@dataclass(frozen=True, slots=True)
class HttpProbe:
    path: Annotated[str, Form("target")] = "/"
    """What is asked for; may have a query."""
    method: Annotated[str, Form("probe-method")] = "GET"
    """How."""
    host: Annotated[str, Form("authority")] | None = None
    """The Host field; default: the external name, or the endpoint's name or address."""
    headers: Annotated[tuple[tuple[str, str], ...], Form("probe-field")] = ()
    """Further fields."""
    status: Annotated[tuple[Annotated[StatusRange, Form("status-range")], ...], OneOrList()] = (StatusRange(200, 399),)
    """What a healthy endpoint answers: `200`, `200-399`, or a list."""
    body: Annotated[str, Form("text")] | None = None
    """Text that must be in the first 64 KiB of the answer's body."""


@dataclass(frozen=True, slots=True)
class GrpcProbe:
    service: Annotated[str, Form("line")] = ""
    """The name that grpc.health.v1 is asked for; empty: the whole server."""


@dataclass(frozen=True, slots=True)
class Health:
    tcp: TcpProbe | None = None
    """`tcp: {}` connects, no more. Exactly one of tcp, http and grpc."""
    http: HttpProbe | None = None
    """Sends a request in the service's protocol."""
    grpc: GrpcProbe | None = None
    """Asks grpc.health.v1.Health/Check. (h2, h2c)"""
    interval: Span = 2.0
    """Between two probes of an endpoint, give or take 10 %; up to five times as long while it stays down."""
    timeout: Span = 1.0
    """For the whole of a probe."""
    fall: Annotated[int, Form("whole", 1, 1000)] = 3
    """Failed probes in a row that take an endpoint out."""
    rise: Annotated[int, Form("whole", 1, 1000)] = 2
    """Good probes in a row that bring it back."""
    initial: Literal["up", "down"] = "up"
    """Whether a new endpoint takes traffic before its first probes are in."""


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
class CertificatePair:
    cert: FilePath
    """PEM file: the certificate, then those that signed it, each before the next."""
    key: FilePath
    """PEM file with its private key, without a passphrase; only the proxy's user should be able to read it."""

    def __str__(self) -> str:
        return self.cert


@dataclass(frozen=True, slots=True)
class ServiceTls:
    verify: Annotated[bool, Form("boolean")] = True
    """Whether the endpoint's certificate is checked. `false` gives the connection to whoever answers."""
    ca: FilePath | None = None
    """PEM file with the authorities that may have signed it; default: those of the system."""
    server_name: Annotated[str, Form("host")] | None = None
    """The name that is asked for (SNI) and must be in the certificate; default: the name that the
    endpoint was found by, such as the external name, else its IP address."""
    client_cert: CertificatePair | None = None
    """The certificate that the proxy shows to endpoints that ask for one."""


@dataclass(frozen=True, slots=True)
class Service:
    name: Name
    """The key of this map."""
    endpoints: tuple[EndpointAddress, ...] = ()
    """Addresses: `"10.0.0.5:80"`, `"[::1]:80"`, `"unix:/run/e.sock"`, or `{address: …, weight: 2, backup: true}`; a
    name (`"db.internal:5432"`) is resolved and resolved again, and stands for all of its addresses."""
    dns: Annotated[tuple[DnsSource, ...], OneOrList()] = ()
    """A name whose addresses are the endpoints, as of a headless Service: `"web.dev.svc.cluster.local:8080"`, or
    `{name: _ldap._tcp.example.com, type: SRV}`; or a list of these."""
    external_name: Annotated[ExternalName, Form("external-name")] | None = None
    """A name elsewhere, followed through CNAME to its addresses, as of an ExternalName Service:
    `"www.example.com:443"`. The Host field and the server name (SNI) sent there are this name. Without a port it is 80,
    or 443 with protocol https and h2."""
    host: Literal["external", "pass"] = "external"
    """`pass` sends the client's Host to an external name. (external_name)"""
    nameservers: Annotated[tuple[Annotated[Nameserver, Form("nameserver")], ...], OneOrList()] = ()
    """Asked for this service's names in place of the resolver's: `"10.96.0.10"`, `"127.0.0.1:5353"`."""
    family: Family = "both"
    """The addresses that are taken of a name."""
    refresh: Span | None = None
    """How often its names are resolved; default: as their TTL says."""
    on_empty: OnEmpty = "drop"
    """When DNS says, twice, that a name has no address: `drop` leaves the service without, `keep` holds the
    last ones."""
    protocol: Literal["http", "https", "h2", "h2c"] = "http"
    """What its endpoints speak: `http` and `https` are HTTP/1.1 without and with TLS, `h2c` and `h2` are HTTP/2 without
    and with TLS (gRPC needs one of these). Only for requests; a tcp or tls listener relays what it gets."""
    tls: ServiceTls = ServiceTls()
    """Of the connections to its endpoints. (https, h2)"""
    send_proxy_protocol: Literal["v1", "v2"] | None = None
    """Every connection to an endpoint begins with a PROXY header that has the client's address. (tcp, http, https)"""
    balance: Balance = Balance()
    """How an endpoint is picked: `round-robin`, `least-conn`, `source-hash`, `random`, `least-latency`;
    `{source-hash: {ipv6_prefix: 64}}`; or `{hash: {header: x-user}}`, `{hash: {cookie: id}}`, `{hash: {query: q}}` or
    `{hash: path}`, for http only."""
    affinity: Affinity | None = None
    """Keeps a client at its endpoint: `{client_ip: {timeout: 3h}}` or `{cookie: {name: edge, ttl: 1h}}`."""
    health: Health | None = None
    """Probes each endpoint: `{tcp: {}}`, `{http: {path: /healthz}}` or `{grpc: {}}`, and how often."""
    panic: Annotated[bool, Form("boolean")] = False
    """When probes say that all endpoints are down: `true` uses them all, `false` answers 503. (health)"""
    slow_start: Duration = 0.0
    """A new or recovered endpoint gets 10 % of its share at first, all of it after this time. 0: at once."""
    drain: Duration = 30.0
    """How long an endpoint that has left, by the file or by DNS, still serves the clients that are bound to it by
    affinity. What is under way finishes in any case."""
    eject: Eject = Eject()
    """Leaves out an endpoint that fails real requests, for a while; never the last one."""
    limits: ServiceLimits = ServiceLimits()
    """How much its endpoints get at once."""
    timeouts: ServiceTimeouts = ServiceTimeouts()
    """Of the connections to its endpoints."""
    pool: PoolLimits = PoolLimits()
    """Connections kept for later requests. (http)"""

    @property
    def encrypted(self) -> bool:
        """Whether its endpoints are spoken to with TLS."""
        return self.protocol in ("https", "h2")

    @property
    def usual_port(self) -> int:
        """The port that goes without saying (RFC 9110 §4.2)."""
        return 443 if self.encrypted else 80

    @property
    def external_host(self) -> str:
        """The external name as a Host field has it: its port only if that is not the usual one. Empty without one."""
        external = self.external_name
        if external is None:
            return ""
        return external.host if external.port in (None, self.usual_port) else f"{external.host}:{external.port}"

    @property
    def host_sent(self) -> str | None:
        """In place of the client's Host; None: the client's goes on."""
        return None if self.external_name is None or self.host == "pass" else self.external_host
