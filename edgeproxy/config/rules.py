"""What several values must agree on: names referred to, keys that exclude or need each other, things given twice.

Rules: run when every document was read; they add problems and change nothing; a key that could not be read
(`Entry.bad`) is not judged a second time. What is only unwise is in `check.py`.
"""
from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import NamedTuple

from edgeproxy.config.addresses import sni_pattern
from edgeproxy.config.forms import show_duration
from edgeproxy.config.model import (
    Admin,
    Bind,
    Listener,
    ListenerTls,
    PathMatch,
    Redirect,
    Resolver,
    Rewrite,
    Route,
    Service,
)
from edgeproxy.config.nodes import Node
from edgeproxy.config.places import find, key_of, keys_of, where
from edgeproxy.config.problem import Problems, quoted
from edgeproxy.config.rules_services import check_service
from edgeproxy.config.shapes import MERGE, Entry, MapOf, is_null
from edgeproxy.config.tree import map_of

LEADS = ("service", "redirect", "respond")
_FOR_SERVICE = ("rewrite", "request_headers", "timeouts", "retry")
"""What a reply of the proxy's own has no use for."""
_NEW_PLACE = ("scheme", "host", "port", "path", "prefix")
_MATCH = ("host", "path", "methods", "headers", "query", "listeners")
_GROUP = re.compile(r"\$([0-9]{1,4})")
_NO_BODY = (204, 205, 304)
NEEDED = {"tcp": "service", "tls": "sni", "https": "tls"}
"""The key without which a listener of this protocol is nothing."""
_INSTEAD = {("service", "http"): "; write routes that lead to services",
            ("service", "https"): "; write routes that lead to services",
            ("service", "tls"): '; write sni: {"*": NAME}',
            ("tls", "http"): "; is protocol: https meant?",
            ("tls", "tls"): ", and decrypts nothing; is protocol: https meant?",
            ("sni", "tcp"): "; is protocol: tls meant?",
            ("redirect_to_https", "https"): " already"}
"""(key, protocol of the listener that has it) -> what may have been meant."""

Matches = dict[object, list[tuple[Entry, frozenset[str]]]]


class _Names(NamedTuple):
    """What can be referred to."""

    word: str
    entries: Mapping[str, Entry]
    complete: bool
    """False if some could not be read: what seems to be missing may be among them."""
    problems: Problems

    def check(self, entry: Entry, node: Node, name: str) -> None:
        if name not in self.entries and self.complete:
            near = self.problems.near(name, self.entries)
            entry.document.refuse(node, f"no {self.word} is named {quoted(name)}{near}")


def check(entries: Mapping[type, list[Entry]], problems: Problems, unread: Collection[str] = ()) -> None:
    """Adds what is wrong with listeners, routes and services together.

    `unread` has "listeners" or "services" if some of them could not be read.
    """
    for kind, word in ((Listener, "listener"), (Service, "service"), (Route, "route")):
        _names_once(entries[kind], word)
    listeners = _Names("listener", {entry.name: entry for entry in entries[Listener]}, "listeners" not in unread,
                       problems)
    services = _Names("service", {entry.name: entry for entry in entries[Service]}, "services" not in unread,
                      problems)
    for entry in _readable(entries[Listener]):
        _check_listener(entry, services)
    admin = entries.get(Admin, [])
    for entry in admin:
        _check_admin(entry)
    _binds_once([*entries[Listener], *admin])
    for entry in entries.get(Resolver, []):
        _check_resolver(entry)
    for entry in _readable(entries[Service]):
        check_service(entry)
    http = frozenset(name for name, entry in listeners.entries.items()
                     if entry.value is None or "protocol" in entry.bad or entry.value.routed)
    matches: Matches = {}
    for entry in _readable(entries[Route]):
        _check_leads(entry)
        _check_change(entry)
        _check_edits(entry)
        _check_names(entry, listeners, http, services)
        _match_once(entry, http, matches)


def _readable(entries: Iterable[Entry]) -> Iterable[Entry]:
    return (entry for entry in entries if entry.value is not None)


def _names_once(entries: Iterable[Entry], word: str) -> None:
    first: dict[str, Entry] = {}
    for entry in entries:
        other = first.setdefault(entry.name, entry)
        if other is not entry and entry.name:
            entry.document.refuse(find(entry.key, "name"), f"the {word} {quoted(entry.name)} is given twice, "
                                                           f"first in {where(other, entry)}")


# listeners

def _check_listener(entry: Entry, services: _Names) -> None:
    listener: Listener = entry.value
    if "protocol" in entry.bad:
        return
    _refuse_other_protocol(entry, map_of(Listener), entry.node, listener.protocol)
    _check_handshake(entry)
    if not entry.bad.isdisjoint((*NEEDED.values(), MERGE)):
        return
    if listener.protocol == "tcp" and listener.service is None:
        entry.document.refuse(entry.node, "a tcp listener leads to one service: write service: NAME")
    elif listener.protocol == "tls" and not listener.sni:
        entry.document.refuse(find(entry.node, "sni"), "a tls listener leads to services by the server name that the "
                                                       "client asks for: write sni: {a.example.com: NAME}")
    elif listener.protocol == "https" and listener.tls is None:
        entry.document.refuse(entry.node, "an https listener needs a certificate: write "
                                          "tls: {certificates: [{cert: FILE, key: FILE}]}")
    elif listener.protocol == "tcp" and listener.service is not None:
        _check_relay(entry, find(entry.node, "service"), listener.service, services)
    elif listener.protocol == "tls":
        for pattern, name in listener.sni:
            _check_relay(entry, _behind(find(entry.node, "sni"), pattern), name, services)
    elif listener.tls is not None:
        _check_default(entry, listener.tls)


def _check_relay(entry: Entry, node: Node, name: str, services: _Names) -> None:
    """What a relayed connection leads to."""
    services.check(entry, node, name)
    named = services.entries.get(name)
    service: Service | None = named.value if named is not None else None
    if service is None:
        return
    if service.balance.source is not None:
        entry.document.refuse(node, f"the service {quoted(service.name)} balances by {service.balance.source}, "
                                    f"which only requests have; use source-hash for {entry.value.protocol}")
    elif service.affinity is not None and service.affinity.cookie is not None:
        entry.document.refuse(node, f"the service {quoted(service.name)} knows clients by a cookie, which only "
                                    f"requests have; use affinity: {{client_ip: {{}}}} for {entry.value.protocol}")
    elif service.external_name is not None and service.external_name.port is None:
        entry.document.refuse(node, f"which port? external_name of the service {quoted(service.name)} says none, and "
                                    f"{entry.value.protocol} has no port of its own; write "
                                    f"{quoted(str(replace(service.external_name, port=443)))}, for example")


def _behind(node: Node, pattern: str) -> Node:
    """The value of a server name, which may be written in another case."""
    found = (value for name, value in node.value if sni_pattern(str(name.value)) == pattern)
    return next(found, node) if node.id == "mapping" and not any("$" in str(n.value) for n, _ in node.value) else node


def _check_handshake(entry: Entry) -> None:
    node = find(entry.node, "timeouts")
    protocol = entry.value.protocol
    if protocol not in ("https", "tls") and "handshake" in keys_of(node) and "proxy_protocol" not in entry.bad \
            and entry.value.proxy_protocol is None:
        entry.document.refuse(key_of(node, "handshake"), f"this {protocol} listener has no handshake: the key is for "
                                                         "https, tls, and listeners with proxy_protocol")


def _check_default(entry: Entry, tls: ListenerTls) -> None:
    if tls.default is None or any(pair.cert == tls.default for pair in tls.certificates):
        return
    certs = [pair.cert for pair in tls.certificates]
    near = entry.document.problems.guess(tls.default, certs)
    advice = f"did you mean {quoted(near)}?" if near else f"such as {quoted(certs[0])}"
    entry.document.refuse(find(entry.node, "tls", "default"),
                          f"default is the cert of one of this listener's certificates, {advice}")


def _refuse_other_protocol(entry: Entry, shape: MapOf, node: Node, protocol: str) -> None:
    """Keys that only other protocols know, in the listener and in its maps."""
    if node.id != "mapping":
        return
    for key_node, value_node in node.value:
        part = shape.parts.get(key_node.value) if key_node.id == "scalar" else None
        if part is None or is_null(value_node):
            continue
        if part.protocols and protocol not in part.protocols:
            advice = _INSTEAD.get((part.key, protocol), "")
            entry.document.refuse(key_node, f"{quoted(part.key)} is for {' and '.join(part.protocols)} listeners, "
                                            f"this one is {protocol}{advice}")
        elif isinstance(part.shape, MapOf):
            _refuse_other_protocol(entry, part.shape, value_node, protocol)


def _binds_once(entries: Iterable[Entry]) -> None:
    """Of listeners, and of admin after them."""
    taken: dict[object, list[tuple[Bind, Entry]]] = {}
    for entry in _readable(entries):
        binds = (entry.value.bind,) if isinstance(entry.value, Admin) else entry.value.bind
        for position, bind in enumerate(binds):
            if not bind.port and not bind.path:
                continue  # any free port
            others = taken.setdefault(bind.path or bind.port, [])
            for other_bind, other in others:
                if _overlap(bind, other_bind):
                    entry.document.refuse(find(entry.node, "bind", position), _taken(bind, other_bind, entry, other))
                    break
            others.append((bind, entry))


def _overlap(one: Bind, other: Bind) -> bool:
    if one.path or other.path:
        return one.path == other.path
    return one.host == other.host or _covers(one, other) or _covers(other, one)


def _covers(wide: Bind, narrow: Bind) -> bool:
    return wide.host == "" or (wide.host == "0.0.0.0" and ":" not in narrow.host)


def _taken(bind: Bind, taken: Bind, entry: Entry, other: Entry) -> str:
    who = "this listener" if other is entry else f"the listener {quoted(other.name)} in {where(other, entry)}"
    if bind == taken:
        return f"{bind} is taken by {who}"
    return f"{bind} and {taken} cannot both be listened on, and {taken} is taken by {who}"


# admin and resolver

def _check_admin(entry: Entry) -> None:
    """What can be asked there is for this machine alone (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3)."""
    bind: Bind = entry.value.bind
    if not bind.path and not (bind.host and ip_address(bind.host).is_loopback):
        entry.document.refuse(find(entry.node, "bind"), f"{bind} can be reached from other machines, and there is no "
                              f"password; write 127.0.0.1:{bind.port}, or a socket such as unix:/run/edgeproxy.sock")


def _check_resolver(entry: Entry) -> None:
    resolver: Resolver = entry.value
    if resolver.min_ttl > resolver.max_ttl:
        key = "min_ttl" if "min_ttl" in keys_of(entry.node) else "max_ttl"
        entry.document.refuse(find(entry.node, key), f"min_ttl is {show_duration(resolver.min_ttl)} and max_ttl "
                                                     f"{show_duration(resolver.max_ttl)}: no time is between these")


# routes

def _check_leads(entry: Entry) -> None:
    """Exactly one of service, redirect and respond, and only what goes with it."""
    route: Route = entry.value
    keys = keys_of(entry.node)
    given = [key for key in LEADS if key in keys]
    if not given:
        if not entry.bad.intersection((*LEADS, MERGE)):
            entry.document.refuse(entry.node, "this route leads nowhere: write service, redirect or respond")
        return
    if len(given) > 1:
        entry.document.refuse(key_of(entry.node, given[1]), "a route has only one of service, redirect and respond; "
                                                            f"{given[0]} is there already")
    if given[0] != "service":
        for key in _FOR_SERVICE:
            if key in keys:
                entry.document.refuse(key_of(entry.node, key), f"{key} is for routes to a service; "
                                                               f"with {given[0]} it has no effect")
    if route.redirect is not None and not keys_of(find(entry.node, "redirect")).intersection(_NEW_PLACE):
        entry.document.refuse(find(entry.node, "redirect"),
                              "this redirects to the same place; write scheme, host, port, path or prefix")
    if route.respond is not None and route.respond.status in _NO_BODY and route.respond.body:
        entry.document.refuse(find(entry.node, "respond", "body"),
                              f"a response with status {route.respond.status} has no body")


def _check_change(entry: Entry) -> None:
    """What the new path of a rewrite or redirect may be made of."""
    if "path" in entry.bad:
        return
    route: Route = entry.value
    changes: dict[str, Rewrite | Redirect | None] = {"rewrite": route.rewrite, "redirect": route.redirect}
    for key, change in changes.items():
        if change is None or (change.path is None and change.prefix is None):
            continue
        node = find(entry.node, key)
        if change.path is not None and change.prefix is not None:
            entry.document.refuse(key_of(node, "prefix"), "prefix and path exclude each other")
        elif change.path is None and route.path.kind != "prefix":
            entry.document.refuse(key_of(node, "prefix"), f"this route has no prefix to replace, its path is "
                                                          f"{{{route.path.kind}: …}}; write path instead")
        elif change.path is not None and key == "rewrite":
            _check_groups(entry, find(node, "path"), change.path, route.path)


def _check_groups(entry: Entry, node: Node, path: str, match: PathMatch) -> None:
    wanted = [int(group) for group in _GROUP.findall(path)]
    if not wanted:
        return
    if match.kind != "regex":
        entry.document.refuse(node, f"${wanted[0]} is a group of a regex, but the route's path is {{{match.kind}: …}}")
        return
    groups = re.compile(match.value).groups
    missing = [group for group in wanted if not 1 <= group <= groups]
    if missing:
        there = "no group" if groups == 0 else "only $1" if groups == 1 else f"$1 to ${groups}"
        entry.document.refuse(node, f"there is no ${missing[0]}: the route's regex has {there}")


def _check_edits(entry: Entry) -> None:
    for key, edits in (("request_headers", entry.value.request_headers),
                       ("response_headers", entry.value.response_headers)):
        if not edits.remove:
            continue
        removed = {name.lower() for name in edits.remove}
        for name, _ in edits.set:
            if name.lower() in removed:
                entry.document.refuse(key_of(find(entry.node, key, "set"), name),
                                      f"{name} is both set and removed; set alone replaces what was there")


def _check_names(entry: Entry, listeners: _Names, http: frozenset[str], services: _Names) -> None:
    """Services and listeners that are named exist, and the listeners take requests."""
    route: Route = entry.value
    for position, part in enumerate(route.service):
        if part.name not in services.entries:
            services.check(entry, find(entry.node, "service", position, "name"), part.name)
    for position, name in enumerate(route.listeners or ()):
        if name in http:
            continue
        node = find(entry.node, "listeners", position)
        listeners.check(entry, node, name)
        if name in listeners.entries:
            entry.document.refuse(node, f"routes are for http and https listeners; {quoted(name)} is a "
                                        f"{listeners.entries[name].value.protocol} listener")


def _match_once(entry: Entry, http: frozenset[str], matches: Matches) -> None:
    """No two routes with the very same match on a common listener: one of them could never win."""
    if entry.bad and not entry.bad.isdisjoint(_MATCH):
        return
    route: Route = entry.value
    listeners = http if route.listeners is None else frozenset(route.listeners)
    rest = (route.path, frozenset(route.methods), frozenset(route.headers), frozenset(route.query))
    for host in route.host or ("",):
        others = matches.setdefault((host, rest), [])
        for other, other_listeners in others:
            if other is not entry and listeners & other_listeners:
                for_host = f" for {host}" if len(route.host) > 1 or len(other.value.host) > 1 else ""
                entry.document.refuse(entry.node, f"the same match{for_host} as the route in {where(other, entry)}; "
                                                  "join the two, or give one a further condition")
                break
        others.append((entry, listeners))
