"""Which route a request takes: the compiled, immutable routes of one listener.

The order of preference is host, then path, then conditions, then place in the file (see `Route.rank`), and the winner
is the first route in that order that matches *entirely*: a host whose routes fit no path, and a path whose routes turn
a request down, fall back to what is less specific (as in the Gateway API: the most specific of all the routes that
match). The alternative, 404 as soon as the most specific path refuses, would let a route that asks for a header hide
the routes of every shorter prefix.

How it stays fast: what depends on the configuration alone is laid out beforehand. `Router` maps a host to the tables
that may serve it, most specific first; a `Table` maps a path to all its routes that fit, in order. What is left for a
request is one look-up for the host, one for each path element, and the conditions of the first candidates. `explain`
walks the same tables with the same `Route.refusal`, and its winner is `find`'s.

Regular expressions are searched in the path (anchor them with ^). Of one expression given twice for a host, the routes
share the place of the first and are told apart by their conditions, as the routes of one prefix are.

Rules: no I/O, no clock; nothing here changes after `build_router`. Paths that come in are normalised ones.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from edgeproxy.config import model
from edgeproxy.route import Asked, Head, Route

__all__ = ["Considered", "Explanation", "Route", "Router", "build_router"]

# ---- the routes of one host

class Table:
    """The routes of one host pattern, laid out by path.

    Every prefix knows its own routes and those of the shorter prefixes it lies in, and every exact path its own and
    those of its prefixes; so the first key found gives all the candidates, in order.
    """

    __slots__ = ("host", "routes", "patterns", "_exact", "_prefixes", "_root", "_longest")

    def __init__(self, host: str, routes: Iterable[Route]) -> None:
        self.host = host
        """The pattern, as in the file; empty: any host."""
        routes = list(routes)
        # The same expression twice is one path: its routes are told apart by their conditions.
        orders: dict[str, int] = {}
        for route in routes:
            if route.kind == "regex":
                orders.setdefault(route.path, route.index)
        self.routes = tuple(sorted(routes, key=lambda r: r.rank(orders.get(r.path, 0) if r.kind == "regex" else 0)))
        self.patterns = tuple((r.pattern, r) for r in self.routes if r.pattern is not None)
        self._root: tuple[Route, ...] = ()
        self._prefixes: dict[str, tuple[Route, ...]] = {}
        self._exact: dict[str, tuple[Route, ...]] = {}
        own = _by_path(r for r in self.routes if r.kind == "prefix")
        self._longest = max(map(len, own), default=0)
        self._root = own.pop("", ())
        for prefix in sorted(own, key=len):
            self._prefixes[prefix] = own[prefix] + self._under(prefix)
        for path, exact in _by_path(r for r in self.routes if r.kind == "exact").items():
            self._exact[path] = exact + self._under(path)

    def fitting(self, path: str) -> tuple[Route, ...]:
        """The routes whose exact path or prefix fits, in order; those of `patterns` come after them."""
        found = self._exact.get(path)
        if found is not None:
            return found
        return self._under(path) if self._longest else self._root

    def _under(self, path: str) -> tuple[Route, ...]:
        prefixes = self._prefixes
        end = len(path)
        if end > self._longest:  # a path of 16 KiB costs no more than the longest prefix
            end = path.rfind("/", 0, self._longest + 1)
        while end > 0:
            found = prefixes.get(path[:end])
            if found is not None:
                return found
            end = path.rfind("/", 0, end)
        return self._root


def _by_path(routes: Iterable[Route]) -> dict[str, tuple[Route, ...]]:
    found: dict[str, tuple[Route, ...]] = {}
    for route in routes:
        found[route.path] = (*found.get(route.path, ()), route)
    return found


# ---- the routes of a listener

Chain = tuple[Table, ...]


class Considered(NamedTuple):
    route: Route
    host: str
    """The host pattern by which it was considered; empty: any host."""
    verdict: Literal["chosen", "less specific", "host", "path", "method", "header", "query"]
    """What became of it, or what did not fit."""


class Explanation(NamedTuple):
    winner: Route | None
    considered: tuple[Considered, ...]
    """First the routes that fit host and path, in the order of preference; then those whose path did not fit, then
    those whose host did not."""


class Router:
    """Immutable; made by `build_router`."""

    __slots__ = ("routes", "_tables", "_hosts", "_single", "_double", "_any", "_labels", "_sole")

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        by_host: dict[str, list[Route]] = {}
        for route in self.routes:
            for host in dict.fromkeys(host.lower().rstrip(".") for host in route.config.host or ("",)):
                by_host.setdefault(host, []).append(route)
        self._tables = {host: Table(host, some) for host, some in by_host.items()}
        self._any: Chain = (self._tables[""],) if "" in self._tables else ()
        # For each pattern the chain of tables that a host matching it goes through, by suffix without the stars.
        self._double: dict[str, Chain] = {}
        self._single: dict[str, Chain] = {}
        self._hosts: dict[str, Chain] = {}
        doubles = {host[3:]: table for host, table in self._tables.items() if host.startswith("**.")}
        self._labels = max((suffix.count(".") + 1 for suffix in doubles), default=0)
        for suffix in sorted(doubles, key=len):
            self._double[suffix] = (doubles[suffix], *self._wild(suffix))
        singles = {host[2:]: table for host, table in self._tables.items() if host.startswith("*.")}
        self._single = {suffix: (table, *self._wild("*." + suffix)) for suffix, table in singles.items()}
        for host, table in self._tables.items():
            if host and not host.startswith("*"):
                self._hosts[host] = (table, *self._wild(host))
        self._sole = self._catch_all()

    def _catch_all(self) -> Route | None:
        """The one route, when it takes every request: most proxies have no more."""
        route = self.routes[0] if len(self.routes) == 1 else None
        if route is None or route.config.host or not route.plain or (route.kind, route.path) != ("prefix", ""):
            return None
        return route

    def chain(self, host: str) -> Chain:
        """The tables that may serve a host, most specific first."""
        return self._hosts.get(host) or self._wild(host)

    def _wild(self, host: str) -> Chain:
        """The tables of the wildcards that fit, then of any host; as many steps as the longest `**.` has labels."""
        suffix = host.partition(".")[2]
        found = self._single.get(suffix)
        if found is not None:
            return found
        if self._labels and suffix:
            labels = suffix.rsplit(".", self._labels)[-self._labels:]
            for start in range(len(labels)):
                found = self._double.get(".".join(labels[start:]))
                if found is not None:
                    return found
        return self._any

    def find(self, host: str, path: str, method: str, head: Head) -> Route | None:
        """The route of a request; None: 404.

        `host` is lower case, without port and trailing dot, "" if there is none; `path` is the normalised path.
        """
        sole = self._sole
        if sole is not None:
            return sole
        asked: Asked | None = None
        for table in self._hosts.get(host) or self._wild(host):
            for route in table.fitting(path):
                if route.plain:
                    return route
                asked = asked or Asked(method, head)
                if route.refusal(asked) is None:
                    return route
            for pattern, route in table.patterns:
                if pattern.search(path) is not None:
                    asked = asked or Asked(method, head)
                    if route.refusal(asked) is None:
                        return route
        return None

    def explain(self, host: str, path: str, method: str, head: Head) -> Explanation:
        """Every route, in the order in which `find` would consider it, and what became of it."""
        winner = self.find(host, path, method, head)
        asked = Asked(method, head)
        fits: list[Considered] = []
        elsewhere: list[Considered] = []
        chain = self.chain(host)
        chosen = False
        for table in chain:
            fitting = [*table.fitting(path), *(r for pattern, r in table.patterns if pattern.search(path) is not None)]
            for route in fitting:
                verdict = route.refusal(asked) or ("less specific" if chosen else "chosen")
                chosen = chosen or verdict == "chosen"
                fits.append(Considered(route, table.host, verdict))
            elsewhere += (Considered(route, table.host, "path") for route in table.routes if route not in fitting)
        for table in self._tables.values():
            if table not in chain:
                elsewhere += (Considered(route, table.host, "host") for route in table.routes)
        return Explanation(winner, (*fits, *elsewhere))


def build_router(config: model.Config, listener: str) -> Router:
    """The routes of one http listener, compiled. Raises re.error or ValueError for what the loader let pass."""
    return Router([Route(route, index) for index, route in enumerate(config.routes)
                   if route.listeners is None or listener in route.listeners])
