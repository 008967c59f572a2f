"""`edgeproxy explain`: which listener, certificate, route, service and endpoint a request would get, and why no other.

Rules of this file: nothing is decided here. The certificate is looked up by the listener's own table, the request is
written out and parsed by the codec, routed by the router, and the endpoints are ordered by a service made for it: from
a file what a proxy does that was just started, its names asked of DNS now; or with the states that the endpoints of a
running proxy have, copied, so that nothing moves there. What an answer says is in `explaintext.py`.
"""
from __future__ import annotations

import asyncio
import difflib
import logging
import os.path
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from time import time
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from edgeproxy import handshakes
from edgeproxy.codec._leaf import RequestHead, parse_request
from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.explaintext import Answer, Candidate, Question, describe_path
from edgeproxy.net.certificates import TlsServer
from edgeproxy.policy.endpoint import EndpointState, Target
from edgeproxy.policy.sni import NameTable
from edgeproxy.router import Considered, Explanation, Route, build_router
from edgeproxy.runtime import status
from edgeproxy.session.gates import RedirectGate
from edgeproxy.session.hashing import exchange_key
from edgeproxy.snapshot import Rules, compile_tls
from edgeproxy.upstream.events import Events
from edgeproxy.upstream.roster import is_named, written_down
from edgeproxy.upstream.service import Service

DEFAULT_PORTS = {"http": 80, "https": 443, "tls": 443}
KINDS = {"http": ("http",), "https": ("https", "tls"), "tls": ("tls", "https"), "tcp": ("tcp",)}
"""Protocols of listeners that a URL can mean, the likeliest first."""
ORDERED = 100
"""Endpoints that are told in the order in which they would be tried; the others follow in that of the file."""
RESOLVING = 3.0
"""Seconds that the names of a service are waited for."""

__all__ = ["Answer", "Question", "asked_now", "explain", "explain_running", "question"]


def question(method: str, url: str, fields: Sequence[str], client: str) -> Question:
    """Raises ValueError for what is no URL, no field or no address."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in KINDS or not parts.netloc:
        raise ValueError(f"{url} is not a URL such as http://a.example/path")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{url} has a port that is none") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = []
    for text in fields:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"-H {text}: write NAME:VALUE")
        lines.append(f"{name}: {value.strip()}")
    if not any(line.lower().startswith("host:") for line in lines):
        lines.insert(0, f"Host: {parts.netloc.rpartition('@')[2]}")
    try:
        address = str(ip_address(client))
    except ValueError:
        raise ValueError(f"--from {client}: not an IP address") from None
    head = "\r\n".join((f"{method} {target} HTTP/1.1", *lines, "", ""))
    return Question(method, url, parts.scheme, parts.hostname or "", port, head.encode("utf-8", "surrogateescape"),
                    address)


# ---- what is known of endpoints

class Seen(NamedTuple):
    """Of one service."""

    states: Sequence[EndpointState]
    """Its members, in their order."""
    leaving: Sequence[EndpointState] = ()
    unresolved: str = ""
    """Why no name of it was ever resolved."""
    bound: str = ""
    """Address of the endpoint that the client is bound to by affinity."""
    dns: Sequence[dict[str, Any]] = ()
    first: str = ""
    """Address of its picker's choice, where the key alone decides: what starts slowly has a part in it."""
    began: float | None = None
    """When the running proxy did that this is of; None: there is none."""


See = Callable[[model.Service, RequestHead | None, str], Seen]
"""(service, the request if there is one, the client's address)"""


def as_written(config: model.Service, head: RequestHead | None, client: str) -> Seen:
    """Without DNS."""
    return Seen(_states(written_down(config)))


def asked_now(resolver: model.Resolver) -> See:
    """As written, and names are asked of DNS."""
    def see(config: model.Service, head: RequestHead | None, client: str) -> Seen:
        if not is_named(config):
            return as_written(config, head, client)
        logging.getLogger("edgeproxy").addHandler(logging.NullHandler())  # what goes wrong stands in the answer
        return asyncio.run(_resolved(config, resolver))

    return see


def _states(targets: Sequence[Target]) -> list[EndpointState]:
    found: dict[str, EndpointState] = {}
    for endpoint, weight, backup in targets:
        found.setdefault(endpoint.address, EndpointState(endpoint, weight, backup))
    return list(found.values())


async def _resolved(config: model.Service, resolver: model.Resolver) -> Seen:
    from edgeproxy.upstream.discovery import MOMENT, Discovery
    from edgeproxy.upstream.resolver import Resolver

    loop = asyncio.get_running_loop()
    found: list[tuple[Sequence[Target], str]] = [((), "")]
    discovery = Discovery(loop, Resolver(loop, resolver), config, lambda *supplied: found.append(supplied), Events(),
                          random.Random())
    end, answered = loop.time() + RESOLVING, 0
    while answered < 2 and loop.time() < end:  # twice: the targets of an SRV record are names to ask for, too
        await asyncio.sleep(5 * MOMENT)
        answered = answered + 1 if all(view.queries or view.server for view in discovery.names) else 0
    targets, unresolved = found[-1]
    names = [status.name_view(view) for view in discovery.names]
    discovery.close()
    for name in names:
        if not (name["addresses"] or name["error"]):
            name["error"] = f"no answer within {RESOLVING:g} s"
    return Seen(_states([*written_down(config), *targets]), unresolved=unresolved, dns=names)


async def seen_by(running: status.Running, service: Service, head: RequestHead | None, client: str) -> Seen:
    """What a running proxy knows now: copies, made in its loop. Who is there and what the picker chooses are of one
    moment; the states are copied in slices of time, each as it is then."""
    binding, members, leaving = service.binding, service.view.members, tuple(service.leaving.values())
    first = service.first(_key(service, head, client)).address if service.keyed and service.first is not None else ""
    seen = Seen((), (), service.unresolved, (binding.look(client, head) or "") if binding is not None else "",
                list(status.names(running, service.name)), first, running.began)
    return seen._replace(states=await _copies(members), leaving=await _copies(leaving))


async def _copies(states: Sequence[EndpointState]) -> list[EndpointState]:
    copies = (_like(state, EndpointState(state.endpoint)) for state in states)
    return [copy async for copy in status.in_slices(copies)]


def _key(service: Service, head: RequestHead | None, client: str) -> int:
    exchange: Any = SimpleNamespace(head=head, client=client)  # all that a key is made of
    return exchange_key(exchange, service)


def _like(state: EndpointState, copy: EndpointState) -> EndpointState:
    """`copy`, made to look like `state` to pickers and readers."""
    copy.weight, copy.backup = state.weight, state.backup
    copy.active, copy.total, copy.failed = state.active, state.total, state.failed
    copy.latency, copy.latency_at, copy.handicap = state.latency, state.latency_at, state.handicap
    copy.ready, copy.state, copy.reason, copy.since = state.ready, state.state, state.reason, state.since
    return copy


async def explain_running(running: status.Running, query: Mapping[str, list[str]]) -> dict[str, Any]:
    """`/api/v1/explain`: the answer as JSON, and as lines under `text`. Raises ValueError as `question`. What is much
    work has a thread, which gets compiled rules and copies: what lives and changes is read in the loop alone."""
    def one(name: str, default: str) -> str:
        return query.get(name, [default])[0]

    if not query.keys() >= {"url"} or query.keys() - {"method", "url", "from", "header", "all"}:
        raise ValueError("url is wanted; method, from, header (again and again) and all are understood")
    asked = question(one("method", "GET"), one("url", ""), query.get("header", []), one("from", "127.0.0.1"))
    snapshot = running.live.snapshot
    answer = await asyncio.to_thread(_led, snapshot.config, asked, time(), snapshot.rules)
    seen = None
    if answer.service is not None:
        seen = await seen_by(running, snapshot.services[answer.service.name], answer.head, asked.client)
    return await asyncio.to_thread(_told, answer, seen, None if "all" in query else 20)


def _told(answer: Answer, seen: Seen | None, most: int | None) -> dict[str, Any]:
    if seen is not None:
        _endpoints(answer, seen)
    return {**answer.as_json(), "text": list(answer.as_text(most))}


def explain(config: model.Config, asked: Question, now: float = 0.0, see: See = as_written,
            rules: Rules | None = None) -> Answer:
    """`now` is unix seconds, for the certificates' dates; `rules`: the compiled configuration, if there is one. Raises
    ConfigError for what only OpenSSL finds."""
    answer = _led(config, asked, now, rules)
    if answer.service is not None:
        _endpoints(answer, see(answer.service, answer.head, asked.client))
    return answer


def _led(config: model.Config, asked: Question, now: float, rules: Rules | None) -> Answer:
    """As far as the service, without its endpoints."""
    answer = Answer(asked, now=now)
    listener = _listener(config, asked, answer)
    if listener is None:
        return answer
    answer.listener = listener
    if not listener.routed:
        _relay(answer, config, listener)
        return answer
    if asked.scheme != listener.protocol:
        answer.problem = f"this listener speaks {listener.protocol}, and {asked.scheme} does not get through"
        return answer
    tls = _greet(answer, config, listener, rules)
    if answer.problem:
        return answer
    try:
        head = parse_request(asked.raw, listener.limits.header, listener.limits.headers)
    except ValueError as error:
        status, why = error.args
        answer.reply, answer.problem = (status, why), f"the request itself is refused: {why}"
        return answer
    assert head is not None, "a whole head was written"
    answer.head = head
    if _stopped(answer, listener, tls, head):
        return answer
    router = rules.routers[listener.name] if rules is not None else build_router(config, listener.name)
    explanation = router.explain(head.host, head.path, head.method, head)
    answer.losing = [*_losing(explanation), *_elsewhere(config, listener)]
    if explanation.winner is None:
        answer.reply = (404, "no route")
        answer.problem = "no route for this host and path" if config.routes else "there are no routes"
        answer.nearest = _nearest(explanation, head, answer.losing)
    else:
        _lead(answer, config, explanation.winner, head)
    return answer


# ---- the listener, and what it asks before any route

def _greet(answer: Answer, config: model.Config, listener: model.Listener, rules: Rules | None) -> TlsServer | None:
    if listener.tls is None:
        return None
    tls = (rules.tls if rules is not None else compile_tls(config, {}))[listener.name]
    answer.greeting = handshakes.greeting(listener.tls, tls, answer.question.host)
    if not answer.greeting.certificates:
        answer.problem = answer.greeting.why
    return tls


def _stopped(answer: Answer, listener: model.Listener, tls: TlsServer | None, head: RequestHead) -> bool:
    """Whether the listener answers itself: a redirect to https, or 421."""
    if listener.https_port:
        found = RedirectGate(listener.https_port).check(head)
        if isinstance(found, ProxyError):
            answer.reply, answer.problem = (found.kind.status, found.cause), found.cause
        elif found is not None:
            where = next((value.decode("latin-1") for name, value in found.fields if name == b"Location"), "https")
            answer.reply = found.status, f"redirect to {where} (redirect_to_https)"
        return found is not None
    if tls is not None and answer.greeting is not None and head.host:
        why = handshakes.astray(tls, answer.greeting.sni, head.host)
        if why:
            answer.reply, answer.problem = (Kind.MISDIRECTED.status, why), why
            return True
    return False


def _relay(answer: Answer, config: model.Config, listener: model.Listener) -> None:
    """A connection whose bytes are passed on as they are."""
    name = listener.service
    if listener.protocol == "tls":
        if answer.question.scheme not in KINDS["tls"]:
            answer.problem = "this listener relays TLS only: a connection that begins otherwise is closed"
            return
        host = answer.question.host
        found = NameTable(listener.sni).match("" if handshakes.is_address(host) else host)
        if found is None:
            answer.problem = f'no server name here fits {host}, and there is no "*": the connection is closed'
            return
        answer.sni, name = found
    assert name is not None
    answer.service = config.services[name]


def _listener(config: model.Config, asked: Question, answer: Answer) -> model.Listener | None:
    """The listener on the URL's port; without a port in the URL the first one that could be meant."""
    kinds = KINDS[asked.scheme]
    port = asked.port if asked.port is not None else DEFAULT_PORTS.get(asked.scheme)
    on_port = [x for x in config.listeners.values() if any(b.port == port and not b.path for b in x.bind)]
    if on_port:
        return min(on_port, key=lambda x: kinds.index(x.protocol) if x.protocol in kinds else len(kinds))
    some = [x for kind in kinds for x in config.listeners.values() if x.protocol == kind]
    if asked.port is None and some:
        answer.also = f", taken though the URL means port {port}" if port else ""
        return some[0]
    there = ", ".join(f"{x.name} {' '.join(map(str, x.bind))} {x.protocol}" for x in config.listeners.values())
    what = f"on port {port}" if port else f"for {asked.scheme}"
    answer.problem = f"no listener {what}; there is {there}"
    return None


# ---- the winner

def _lead(answer: Answer, config: model.Config, route: Route, head: RequestHead) -> None:
    answer.route = route
    assert answer.listener is not None
    try:
        if route.redirect is not None:
            scheme = answer.listener.protocol
            port = next((bind.port for bind in answer.listener.bind if not bind.path), DEFAULT_PORTS[scheme])
            location = route.location_for(scheme, head.host, port, head.path, head.query)
            answer.reply = route.redirect.status, f"redirect to {location}"
            return
        if route.respond is not None:
            answer.reply = route.respond.status, f"with {len(route.respond.body)} bytes by the proxy itself"
            return
        if route.rewrites:
            answer.target = route.target_for(head.path, head.query, head.target).decode("latin-1")
    except ProxyError as error:
        answer.reply, answer.problem = (error.kind.status, error.cause), error.cause
        return
    if route.rewrite_host is not None:
        answer.host = route.rewrite_host.decode("latin-1")
    answer.services = route.config.service
    name = next((s.name for s in route.config.service if s.weight > 0), None)
    if name is None:
        answer.reply = (500, "every service of the route has weight 0")
        answer.problem = "every service of the route has weight 0"
        return
    service = config.services[name]
    if route.rewrite_host is None and service.host_sent is not None:
        answer.host = service.host_sent
    answer.service = service


# ---- the endpoints

def _endpoints(answer: Answer, seen: Seen) -> None:
    """The endpoints of the answer's service in the order in which they would be tried."""
    config = answer.service
    assert config is not None
    answer.dns, answer.live, answer.began = list(seen.dns), seen.began is not None, seen.began or 0.0
    loop = asyncio.new_event_loop()
    try:
        service = _double(loop, config, seen)
        key = _key(service, answer.head, answer.question.client)
        tried: list[Any] = []
        while len(tried) < ORDERED and (member := service.pick(key, tried)) is not None and member not in tried:
            tried.append(member)
        first = set(tried)
        order: list[EndpointState] = [*tried, *(m for m in service.view.members if m not in first), *seen.leaving]
        none = None if tried else service.unavailable()
    finally:
        loop.close()
    part = status.shares(service.view.members, config.panic)
    answer.candidates = [Candidate(s, part.get(s.address, 0.0)) for s in order]
    _choose(answer, service, seen, tried)
    if none is not None and not answer.chosen:
        answer.reply = none.kind.status, none.cause
        answer.problem = f"service {config.name}: {none.cause}"
        if order and not any(state.weight for state in order):
            answer.problem = f"service {config.name} has no endpoint that takes anything"


def _double(loop: asyncio.AbstractEventLoop, config: model.Service, seen: Seen) -> Service:
    """A service that chooses as the real one does, at this moment, and belongs to nobody."""
    # What it speaks, and how its endpoints are found and judged, has no part in the choice.
    plain = replace(config, protocol="http", tls=model.ServiceTls(), send_proxy_protocol=None, endpoints=(), dns=(),
                    external_name=None, affinity=None, health=None, slow_start=0.0)
    service = Service(loop, plain, random.Random(0))
    service.absence = lambda: next((f"{name['name']}: {name['error']}" for name in seen.dns if name["error"]), "")
    service.supply([Target(state.endpoint, state.weight, state.backup) for state in seen.states], seen.unresolved)
    for state, member in zip(seen.states, service.view.members, strict=True):
        _like(state, member)
    first = next((member for member in service.view.members if member.address == seen.first), None)
    if first is not None:
        service.first = lambda key: first
    return service


def _choose(answer: Answer, service: Service, seen: Seen, tried: Sequence[EndpointState]) -> None:
    """Which endpoint it is, where that can be said, and why."""
    bound = next((state for state, _ in answer.candidates if state.address == seen.bound), None)
    if bound is not None and service.usable(bound) and bound.active < service.limit:  # type: ignore[arg-type]
        answer.chosen, answer.choice = bound.address, "its client is bound to it"
    elif not tried:
        return
    elif service.keyed:
        answer.chosen, answer.choice = tried[0].address, "by its hash" if answer.live else ""
    elif answer.live:
        several = sum(share > 0 for _, share in answer.candidates) > 1
        if several:
            answer.choice = "any of those with a share, by weight"
        else:
            answer.chosen, answer.choice = tried[0].address, "no other takes any"


# ---- the losers

def _losing(explanation: Explanation) -> Iterator[tuple[str, str, str]]:
    winner = explanation.winner
    seen = {id(winner)}
    for one in explanation.considered:  # a route with several hosts stands there several times, the nearest first
        if id(one.route) not in seen:
            seen.add(id(one.route))
            yield one.route.name, one.verdict, _why(one, winner)


def _why(one: Considered, winner: Route | None) -> str:
    config = one.route.config
    if one.verdict == "less specific":
        return f"fits too, but {winner.name if winner is not None else 'another'} goes before it"
    wants: dict[str, str] = {
        "host": "host " + " or ".join(config.host), "path": describe_path(config.path),
        "method": "method " + " or ".join(config.methods),
        "header": "header " + ", ".join(f"{k}: {v}" for k, v in config.headers),
        "query": "query " + "&".join(f"{k}={v}" for k, v in config.query)}
    return f"wants {wants.get(one.verdict, one.verdict)}"


def _elsewhere(config: model.Config, listener: model.Listener) -> Iterator[tuple[str, str, str]]:
    for route in config.routes:
        if route.listeners is not None and listener.name not in route.listeners:
            yield route.name, "listener", f"is for listener {' or '.join(route.listeners)}"


_NEARER = ("method", "header", "query", "path", "host", "listener")


def _nearest(explanation: Explanation, head: RequestHead, losing: Sequence[tuple[str, str, str]]) -> str:
    """The route that lacked least: a condition, else the likest path of this host, else the likest host."""
    first = min((verdict for _, verdict, _ in losing), key=_NEARER.index, default="")
    some = [one for one in explanation.considered if one.verdict == first]
    if not first:
        return ""
    if not some:
        name, _, why = losing[0]
        return f"{name}: {why}"
    best = max(some[:1000], key=lambda one: _likeness(one, head, "host" if first == "host" else "path"))
    return f"{best.route.name}: {_why(best, None)}"


def _likeness(one: Considered, head: RequestHead, what: Literal["host", "path"]) -> float:
    if what == "host":
        return max(difflib.SequenceMatcher(None, head.host, host).ratio() for host in one.route.config.host or ("",))
    return len(os.path.commonprefix([one.route.config.path.value, head.path]))
