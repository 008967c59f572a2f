"""The compiled configuration, and the one place where it is swapped.

A `Snapshot` never changes. HTTP reads it once for each request, TCP once for each connection, so that one piece of work
sees one configuration from its beginning to its end.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from edgeproxy.codec._leaf import Edits
from edgeproxy.config.model import Config
from edgeproxy.config.problem import ConfigError, Problem
from edgeproxy.net.certificates import TlsServer
from edgeproxy.router import Route, Router, build_router
from edgeproxy.upstream.service import Service
from edgeproxy.upstream.tls import ClientTls, build_tls

RouteEdits = tuple[Edits | None, Edits | None]


class Rules(NamedTuple):
    """What a configuration says, compiled."""

    routers: dict[str, Router]
    """Of each http and https listener, by name."""
    edits: dict[str, RouteEdits]
    """Header edits for requests and responses, by route name; only of routes that have any."""
    tls: dict[str, TlsServer]
    """Of each https listener, by name."""
    endpoints_tls: dict[str, ClientTls]
    """Of each service whose endpoints speak TLS, by name."""


class Snapshot:
    __slots__ = ("config", "rules", "routers", "services", "edits", "tls")

    def __init__(self, config: Config, services: dict[str, Service], rules: Rules) -> None:
        self.config = config
        self.rules = rules
        self.routers = rules.routers
        self.services = services
        self.edits = rules.edits
        self.tls = rules.tls


class Live:
    """What the sessions look at. `snapshot` is replaced by a reload, by one assignment."""

    __slots__ = ("snapshot", "draining")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.draining = False


def compile_rules(config: Config, before: Rules | None = None) -> Rules:
    """Everything of a configuration that can fail and touches nothing that runs. Raises ConfigError."""
    routers = {name: build_router(config, name) for name, listener in config.listeners.items() if listener.routed}
    edits = {route.name: pair for router in routers.values() for route in router.routes if (pair := _edits(route))}
    return Rules(routers, edits, compile_tls(config, before.tls if before is not None else {}),
                 compile_endpoints_tls(config, before.endpoints_tls if before is not None else {}))


def renew_rules(config: Config, before: Rules, fresh_tickets: bool = False) -> Rules:
    """The same rules with what `config` has read of certificates by now; the contexts of what has not changed stay, and
    so do their tickets, unless `fresh_tickets`. Raises ConfigError."""
    return before._replace(tls=compile_tls(config, {} if fresh_tickets else before.tls),
                           endpoints_tls=compile_endpoints_tls(config, before.endpoints_tls))


def compile_tls(config: Config, before: Mapping[str, TlsServer]) -> dict[str, TlsServer]:
    """Of each https listener; what has not changed since `before` is taken over. Raises ConfigError."""
    servers = {}
    for name, listener in config.listeners.items():
        if listener.tls is not None:
            try:
                servers[name] = TlsServer(listener.tls, config.certificates, before.get(name))
            except (OSError, ValueError) as error:
                told = f"listener {name}: OpenSSL does not take what its tls section names: {error}"
                raise ConfigError([Problem("", 0, 0, told)]) from None
    return servers


def compile_endpoints_tls(config: Config, before: Mapping[str, ClientTls]) -> dict[str, ClientTls]:
    """As `compile_tls`, of services."""
    found = {}
    for name, service in config.services.items():
        try:
            tls = build_tls(service, config.certificates, before.get(name))
        except (OSError, ValueError) as error:
            told = f"service {name}: OpenSSL does not take what its tls section names: {error}"
            raise ConfigError([Problem("", 0, 0, told)]) from None
        if tls is not None:
            found[name] = tls
    return found


def _edits(route: Route) -> RouteEdits | None:
    if route.request_edits is None and route.response_edits is None:
        return None
    return (Edits(*route.request_edits) if route.request_edits is not None else None,
            Edits(*route.response_edits) if route.response_edits is not None else None)
