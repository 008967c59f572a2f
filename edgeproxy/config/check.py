"""What is allowed but probably not meant: routes that can never win, services nobody uses, requests that go in circles.

Rules: pure, over a valid configuration; every warning says what follows from it. With the `places` of `load.read` a
warning has its place in the file, without them just its words.
"""
from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from edgeproxy.config.model import Bind, Config, EndpointAddress, Listener, Route, Service
from edgeproxy.config.problem import Problem
from edgeproxy.config.rules import find
from edgeproxy.config.shapes import Entry

Places = Mapping[tuple[type, str], Entry]

_LITERAL = re.compile(r"\^((?:[^\\.^$*+?{}\[\]|()]|\\[^0-9A-Za-z])*)")
_EVERYTHING = frozenset(("", "^", "/", "^/", ".*", "^.*", "^.*$", "^/.*", "^/.*$"))


class _Found(NamedTuple):
    kind: type
    name: str
    way: tuple[str | int, ...]
    """From the entry to the value in it."""
    message: str


def warnings(config: Config, places: Places | None = None) -> list[Problem]:
    """All warnings, in the order of the files."""
    placed = []
    for found in (*_idle_parts(config), *_weights(config), *_shadowed(config), *_circles(config)):
        entry = (places or {}).get((found.kind, found.name))
        if entry is None:
            placed.append((0, Problem("", 0, 0, found.message, level="warning")))
            continue
        mark = (find(entry.node, *found.way) if found.way else entry.key).start_mark
        placed.append((entry.document.order, entry.document.at(mark.line, mark.column, found.message, "warning")))
    placed.sort(key=lambda pair: (pair[0], pair[1].line, pair[1].column))
    return [problem for _, problem in placed]


def _idle_parts(config: Config) -> Iterator[_Found]:
    """What is there but has nothing to do."""
    used = {part.name for route in config.routes for part in route.service}
    used.update(listener.service for listener in config.listeners.values() if listener.service)
    for name in config.services:
        if name not in used:
            yield _Found(Service, name, (), f'no route and no listener uses the service "{name}"')
    http = [listener for listener in config.listeners.values() if listener.protocol == "http"]
    if config.routes and not http:
        yield _Found(Route, config.routes[0].name, (), "there are routes, but no http listener that could use them")
    for listener in http:
        if not any(_on(route, listener.name) for route in config.routes):
            yield _Found(Listener, listener.name, (), f'no route is for the listener "{listener.name}": '
                                                      "it answers 404 to everything")


def _weights(config: Config) -> Iterator[_Found]:
    """Where weights or an empty list leave nothing to send to."""
    for route in config.routes:
        if route.service and not any(part.weight for part in route.service):
            yield _Found(Route, route.name, ("service",), "every weight is 0: requests on this route are answered 500")
    for name, service in config.services.items():
        if not service.endpoints:
            yield _Found(Service, name, ("endpoints",), f'the service "{name}" has no endpoints: '
                                                        "what needs it is answered 503, or closed")
        elif not any(endpoint.weight for endpoint in service.endpoints):
            yield _Found(Service, name, ("endpoints",), "every weight is 0: no endpoint of this service takes anything")


# routes that can never win

def _on(route: Route, listener: str) -> bool:
    return route.listeners is None or listener in route.listeners


class _Index:
    """Routes by what they match; places are those in the file."""

    def __init__(self, config: Config) -> None:
        self.every = frozenset(name for name, listener in config.listeners.items() if listener.protocol == "http")
        self.twins: dict[object, list[tuple[int, Route]]] = defaultdict(list)
        """By host, path, header and query conditions: alike but for the methods."""
        self.prefixes: dict[tuple[str, str], list[Route]] = defaultdict(list)
        self.everything: dict[str, list[tuple[int, Route]]] = defaultdict(list)
        """By host: regexes that match any path."""
        for place, route in enumerate(config.routes):
            for host in route.host or ("",):
                self.twins[_alike(host, route)].append((place, route))
                if route.path.kind == "prefix":
                    self.prefixes[host, route.path.value].append(route)
                elif route.path.kind == "regex" and route.path.value in _EVERYTHING:
                    self.everything[host].append((place, route))

    def wider(self, one: Route, other: Route) -> bool:
        """Whether `one` is on all listeners of `other`."""
        return one.listeners is None or frozenset(one.listeners) >= frozenset(other.listeners or self.every)


def _shadowed(config: Config) -> Iterator[_Found]:
    """A route is shadowed if on each of its hosts others before it take all that it asks for (the order of http.md)."""
    index = _Index(config)
    for place, route in enumerate(config.routes):
        if not route.methods and route.path.kind != "regex":
            continue
        winners = [_covered_by_methods(index, place, route, host) or _hidden_regex(index, place, route, host)
                   for host in route.host or ("",)]
        if all(winners):
            name = winners[0].name if winners[0] is not None else ""
            yield _Found(Route, route.name, (), f'this route can never win: the route "{name}" comes first '
                                                "and takes all of its requests")


def _alike(host: str, route: Route) -> object:
    return host, route.path, frozenset(route.headers), frozenset(route.query)


def _covered_by_methods(index: _Index, place: int, route: Route, host: str) -> Route | None:
    """Routes with the same match but for the methods, earlier in the file, that together have all its methods."""
    left = set(route.methods)
    for other_place, other in index.twins[_alike(host, route)]:
        if other_place >= place or not left:
            break
        if left.intersection(other.methods) and index.wider(other, route):
            left.difference_update(other.methods)
            if not left:
                return other
    return None


def _hidden_regex(index: _Index, place: int, route: Route, host: str) -> Route | None:
    """A prefix comes before any regex: one that has all that the regex can match hides it, and so does an earlier
    regex that matches everything."""
    if route.path.kind != "regex":
        return None
    before = [other for other_place, other in index.everything[host]
              if other_place < place and other.path != route.path]
    for prefix in _prefixes_of(route.path.value):
        before += index.prefixes.get((host, prefix), ())
    return next((other for other in before if index.wider(other, route) and _asks_no_more(other, route)), None)


def _prefixes_of(regex: str) -> Iterator[str]:
    """Prefixes that have every path which this regex can match."""
    yield "/"
    begin = _LITERAL.match(regex)
    if begin is None or "|" in regex:
        return
    literal = re.sub(r"\\(.)", r"\1", begin[1])
    if regex[begin.end():begin.end() + 1] in ("*", "?", "{"):
        literal = literal[:-1]  # the last character may be missing in the path
    while (end := literal.rfind("/")) > 0:
        literal = literal[:end]
        yield literal


def _asks_no_more(one: Route, other: Route) -> bool:
    """Whether every request that meets the conditions of `other` meets those of `one`."""
    methods = not one.methods or (other.methods and set(one.methods) >= set(other.methods))
    return bool(methods) and set(one.headers) <= set(other.headers) and set(one.query) <= set(other.query)


# requests that go in circles

def _circles(config: Config) -> Iterator[_Found]:
    """An endpoint that is a listener of ours, from which requests come back to the same service."""
    binds = [(bind, listener) for listener in config.listeners.values() for bind in listener.bind]
    ports = {bind.path or bind.port for bind, _ in binds}
    leads: dict[str, list[tuple[int, str]]] = {}
    for name, service in config.services.items():
        leads[name] = [(position, listener.name) for position, endpoint in enumerate(service.endpoints)
                       if (endpoint.path or endpoint.port) in ports
                       for bind, listener in binds if _reaches(endpoint, bind)]
    uses = {name: _services_of(config, listener) for name, listener in config.listeners.items()
            if any(name == to for ways in leads.values() for _, to in ways)}
    for name, ways in leads.items():
        for position, listener in ways:
            if name in _reachable(listener, uses, leads):
                address = config.services[name].endpoints[position].address
                yield _Found(Service, name, ("endpoints", position),
                             f'{address} is our own listener "{listener}", which leads back to the service "{name}": '
                             "requests would go in circles")


def _services_of(config: Config, listener: Listener) -> set[str]:
    if listener.protocol == "tcp":
        return {listener.service} if listener.service else set()
    return {part.name for route in config.routes if _on(route, listener.name) for part in route.service}


def _reachable(listener: str, uses: Mapping[str, set[str]], leads: Mapping[str, list[tuple[int, str]]]) -> set[str]:
    """Services that a request at this listener may come to, through our own listeners too."""
    seen: set[str] = set()
    listeners = [listener]
    while listeners:
        for service in uses.get(listeners.pop(), set()) - seen:
            seen.add(service)
            listeners.extend(to for _, to in leads[service])
    return seen


def _reaches(endpoint: EndpointAddress, bind: Bind) -> bool:
    if endpoint.path or bind.path:
        return endpoint.path == bind.path
    if endpoint.port != bind.port:
        return False
    if bind.host in ("", "0.0.0.0", "::"):
        return ip_address(endpoint.host).is_loopback
    return endpoint.host == bind.host
