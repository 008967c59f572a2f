"""The compiled configuration, and the one place where it is swapped.

A `Snapshot` never changes. HTTP reads it once for each request, TCP once for each connection, so that one piece of work
sees one configuration from its beginning to its end.
"""
from __future__ import annotations

from edgeproxy.codec._leaf import Edits
from edgeproxy.config.model import Config
from edgeproxy.router import Route, Router, build_router
from edgeproxy.upstream.service import Service

RouteEdits = tuple[Edits | None, Edits | None]


class Snapshot:
    __slots__ = ("config", "routers", "services", "edits")

    def __init__(self, config: Config, routers: dict[str, Router], services: dict[str, Service],
                 edits: dict[str, RouteEdits]) -> None:
        self.config = config
        self.routers = routers
        """Of each http listener, by name."""
        self.services = services
        self.edits = edits
        """Header edits for requests and responses, by route name; only of routes that have any."""


class Live:
    """What the sessions look at. `snapshot` is replaced by a reload, by one assignment."""

    __slots__ = ("snapshot", "draining")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.draining = False


def compile_rules(config: Config) -> tuple[dict[str, Router], dict[str, RouteEdits]]:
    """Routers and header edits of a configuration: pure, and all of it that can fail."""
    routers = {name: build_router(config, name)
               for name, listener in config.listeners.items() if listener.protocol == "http"}
    edits = {route.name: pair for router in routers.values() for route in router.routes if (pair := _edits(route))}
    return routers, edits


def _edits(route: Route) -> RouteEdits | None:
    if route.request_edits is None and route.response_edits is None:
        return None
    return (Edits(*route.request_edits) if route.request_edits is not None else None,
            Edits(*route.response_edits) if route.response_edits is not None else None)
