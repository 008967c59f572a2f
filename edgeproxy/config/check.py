"""What is allowed but probably not meant: routes that can never win, services nobody uses, requests that go in circles.

Rules: pure, over a valid configuration; every warning says what follows from it. With the `places` of `load.read` a
warning has its place in the file, without them just its words. What needs the look-up of certificates is found further
up (`handshakes.py`) and given its place here.
"""
from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from edgeproxy.config.certificates import cautions
from edgeproxy.config.forms import show_duration
from edgeproxy.config.model import Bind, Config, EndpointAddress, Listener, Route, Service
from edgeproxy.config.places import find
from edgeproxy.config.problem import Problem, quoted
from edgeproxy.config.shapes import Entry

Places = Mapping[tuple[type, str], Entry]

_LITERAL = re.compile(r"\^((?:[^\\.^$*+?{}\[\]|()]|\\[^0-9A-Za-z])*)")
_EVERYTHING = frozenset(("", "^", "/", "^/", ".*", "^.*", "^.*$", "^/.*", "^/.*$"))


class Found(NamedTuple):
    """A warning before it has its place."""

    kind: type
    name: str
    way: tuple[str | int, ...]
    """From the entry to the value in it."""
    message: str


def warnings(config: Config, places: Places | None = None, now: float | None = None,
             more: Iterable[Found] = ()) -> list[Problem]:
    """All warnings, with `more`, in the order of the files. `now` is unix seconds; without it no date is judged."""
    placed = []
    for found in (*_idle_parts(config), *_weights(config), *_shadowed(config), *_circles(config), *_https(config),
                  *_probes(config), *_external(config), *_secrets(config), *_cookies(config),
                  *_certificates(config, now), *more):
        entry = (places or {}).get((found.kind, found.name))
        if entry is None:
            placed.append((0, Problem("", 0, 0, found.message, level="warning")))
            continue
        mark = (find(entry.node, *found.way) if found.way else entry.key).start_mark
        placed.append((entry.document.order, entry.document.at(mark.line, mark.column, found.message, "warning")))
    placed.sort(key=lambda pair: (pair[0], pair[1].line, pair[1].column))
    return [problem for _, problem in placed]


def _idle_parts(config: Config) -> Iterator[Found]:
    """What is there but has nothing to do."""
    used = {part.name for route in config.routes for part in route.service}
    relayed = {name for listener in config.listeners.values() for name in _relayed(listener)}
    for name in sorted(relayed - used):
        yield from _unspoken(config.services[name])
    used |= relayed
    for name in config.services:
        if name not in used:
            yield Found(Service, name, (), f'no route and no listener uses the service "{name}"')
    routed = [listener for listener in config.listeners.values() if listener.routed and not listener.redirect_to_https]
    if config.routes and not routed:
        yield Found(Route, config.routes[0].name, (), "there are routes, but no listener that could use them")
    for listener in routed:
        if not any(_on(route, listener.name) for route in config.routes):
            yield Found(Listener, listener.name, (), f'no route is for the listener "{listener.name}": '
                                                      "it answers 404 to everything")


def _relayed(listener: Listener) -> Iterator[str]:
    """Services of a listener that decrypts nothing and knows no requests."""
    if listener.service:
        yield listener.service
    yield from (service for _, service in listener.sni)


def _unspoken(service: Service) -> Iterator[Found]:
    if service.protocol != "http" and service.health is None:  # probes do speak it
        yield Found(Service, service.name, ("protocol",), f'only relaying listeners use the service "{service.name}": '
                                                          "they pass on what clients send, and protocol has no effect")


def _weights(config: Config) -> Iterator[Found]:
    """Where weights or an empty list leave nothing to send to."""
    for route in config.routes:
        if route.service and not any(part.weight for part in route.service):
            yield Found(Route, route.name, ("service",), "every weight is 0: requests on this route are answered 500")
    for name, service in config.services.items():
        if service.dns or service.external_name is not None:
            continue
        if not service.endpoints:
            yield Found(Service, name, ("endpoints",), f'the service "{name}" has no endpoints: '
                                                        "what needs it is answered 503, or closed")
        elif not any(endpoint.weight for endpoint in service.endpoints):
            yield Found(Service, name, ("endpoints",), "every weight is 0: no endpoint of this service takes anything")


# routes that can never win

def _on(route: Route, listener: str) -> bool:
    return route.listeners is None or listener in route.listeners


class _Index:
    """Routes by what they match; places are those in the file."""

    def __init__(self, config: Config) -> None:
        self.every = frozenset(name for name, listener in config.listeners.items() if listener.routed)
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


def _shadowed(config: Config) -> Iterator[Found]:
    """A route is shadowed if on each of its hosts others before it take all that it asks for (the order of http.md)."""
    index = _Index(config)
    for place, route in enumerate(config.routes):
        if not route.methods and route.path.kind != "regex":
            continue
        winners = [_covered_by_methods(index, place, route, host) or _hidden_regex(index, place, route, host)
                   for host in route.host or ("",)]
        if all(winners):
            name = winners[0].name if winners[0] is not None else ""
            yield Found(Route, route.name, (), f'this route can never win: the route "{name}" comes first '
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


# https

def _https(config: Config) -> Iterator[Found]:
    """Redirects that lead to nobody, routes that are never asked, endpoints that are not checked."""
    redirects = {name for name, listener in config.listeners.items() if listener.redirect_to_https}
    encrypted = {bind.port for listener in config.listeners.values() if listener.protocol in ("https", "tls")
                 for bind in listener.bind}
    for name in sorted(redirects):
        listener = config.listeners[name]
        if not encrypted:
            yield Found(Listener, name, ("redirect_to_https",), "nothing here speaks https: if a balancer in front of "
                                        "this listener does, its requests are redirected in circles")
        elif listener.redirect_to_https is True and 443 not in encrypted and any(b.port == 80 for b in listener.bind):
            yield Found(Listener, name, ("redirect_to_https",), "clients are sent to port 443, where nothing listens; "
                                        f"is redirect_to_https: {min(encrypted)} meant?")
    for route in config.routes if redirects else ():
        if route.listeners is not None and redirects.issuperset(route.listeners):
            yield Found(Route, route.name, ("listeners",), "this route is never asked: its listener redirects all "
                                                           "requests to https")
    for name, service in config.services.items():
        if service.encrypted and not service.tls.verify:
            yield Found(Service, name, ("tls", "verify"), "the endpoints' certificates are not checked: who answers in "
                                                          "their place may read and change everything")
        elif service.encrypted and service.tls.server_name is None and service.tls.ca is None \
                and _by_address(service):
            yield Found(Service, name, ("protocol",), "its endpoints' certificates must be for their IP addresses, as "
                        "few of public authorities are: tls.server_name says which name they are for")


def _by_address(service: Service) -> bool:
    """Whether an endpoint is known by nothing else."""
    external = service.external_name
    return any(not endpoint.named for endpoint in service.endpoints) or (external is not None and external.is_address)


# discovery and health

def _probes(config: Config) -> Iterator[Found]:
    for name, service in config.services.items():
        health = service.health
        if health is not None and health.timeout > health.interval:
            yield Found(Service, name, ("health", "timeout"), f"a probe may take {show_duration(health.timeout)}, "
                        f"longer than the interval of {show_duration(health.interval)}: a silent endpoint is found out "
                        "later than the interval promises")


def _external(config: Config) -> Iterator[Found]:
    """The two ports that give away which protocol was meant."""
    relayed = {name for listener in config.listeners.values() for name in _relayed(listener)}
    for name, service in config.services.items():
        port = None if service.external_name is None or name in relayed else service.external_name.port
        if port in (80, 443) and port != service.usual_port:
            meant = "https" if port == 443 else "http"
            yield Found(Service, name, ("external_name",), f"{service.protocol} is spoken to port {port}; is protocol: "
                        f"{meant} meant?")


def _secrets(config: Config) -> Iterator[Found]:
    for name, service in config.services.items():
        cookie = service.affinity.cookie if service.affinity is not None else None
        if cookie is not None and cookie.secret is not None and len(cookie.secret) < 16:
            yield Found(Service, name, ("affinity", "cookie", "secret"), "a secret this short can be guessed: who does "
                        "so chooses the endpoint; write 16 characters or more")


def _cookies(config: Config) -> Iterator[Found]:
    """Services on one host whose cookies have one name: a browser keeps one of them, for all paths."""
    hosts: dict[str, set[str]] = defaultdict(set)
    for route in config.routes:
        for part in route.service:
            hosts[part.name].update(route.host or ("",))
    first: dict[str, list[str]] = defaultdict(list)
    for name, service in config.services.items():
        if service.affinity is None or service.affinity.cookie is None or name not in hosts:
            continue
        cookie = service.affinity.cookie.name
        rival = next((other for other in first[cookie]
                      if hosts[other] & hosts[name] or "" in hosts[other] | hosts[name]), None)
        if rival is not None:
            yield Found(Service, name, ("affinity", "cookie"),
                        f"the service {quoted(rival)} sets a cookie {quoted(cookie)} on the same host, and a browser "
                        "keeps only one of them: give one another name")
        first[cookie].append(name)


def _certificates(config: Config, now: float | None) -> Iterator[Found]:
    told: set[str] = set()
    for listener in config.listeners.values():
        for place, pair in enumerate(listener.tls.certificates if listener.tls is not None else ()):
            if pair.cert not in told:
                told.add(pair.cert)
                certificate = config.certificates[pair.cert, pair.key]
                doubts = cautions(certificate, now)
                if not certificate.names:
                    doubts.append(f"the certificate {pair.cert} has no names: it fits no host")
                for doubt in doubts:
                    yield Found(Listener, listener.name, ("tls", "certificates", place), doubt)
    for service in config.services.values():
        if (shown := service.tls.client_cert) is not None:
            for doubt in cautions(config.certificates[shown.cert, shown.key], now):
                yield Found(Service, service.name, ("tls", "client_cert"), doubt)


# requests that go in circles

def _circles(config: Config) -> Iterator[Found]:
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
                yield Found(Service, name, ("endpoints", position),
                             f'{address} is our own listener "{listener}", which leads back to the service "{name}": '
                             "requests would go in circles")


def _services_of(config: Config, listener: Listener) -> set[str]:
    if not listener.routed or listener.redirect_to_https:
        return set(_relayed(listener))
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
    if endpoint.port != bind.port or endpoint.named:
        return False
    if bind.host in ("", "0.0.0.0", "::"):
        return ip_address(endpoint.host).is_loopback
    return endpoint.host == bind.host
