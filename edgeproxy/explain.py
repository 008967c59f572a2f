"""`edgeproxy explain`: which listener, certificate, route, service and endpoint a request would get, and why no other.

Rules of this file: nothing is decided here. The certificate is looked up by the listener's own table, the request is
written out and parsed by the codec, routed by the router, and the endpoints are ordered by a service with nothing but
its configuration: what a proxy does that was just started.
"""
from __future__ import annotations

import asyncio
import difflib
import os.path
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from edgeproxy import handshakes
from edgeproxy.codec._leaf import RequestHead, parse_request
from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.handshakes import Greeting
from edgeproxy.net.certificates import TlsServer
from edgeproxy.policy.endpoint import EndpointState
from edgeproxy.policy.sni import NameTable
from edgeproxy.router import Considered, Explanation, Route, build_router
from edgeproxy.session.gates import RedirectGate
from edgeproxy.session.hashing import exchange_key
from edgeproxy.snapshot import compile_tls
from edgeproxy.upstream.service import KEYED, Service

DEFAULT_PORTS = {"http": 80, "https": 443, "tls": 443}
KINDS = {"http": ("http",), "https": ("https", "tls"), "tls": ("tls", "https"), "tcp": ("tcp",)}
"""Protocols of listeners that a URL can mean, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request as it would be sent."""

    method: str
    url: str
    scheme: str
    host: str
    """Of the URL: what the client connects to, and asks for by SNI."""
    port: int | None
    """As in the URL; None: not given."""
    raw: bytes
    """The whole head."""
    client: str


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


class Candidate(NamedTuple):
    state: EndpointState
    share: float
    """Of the work, by weight, among the primaries or among the backups."""


@dataclass(slots=True)
class Answer:
    """What would happen. `problem` is set when nothing would be found, and says why."""

    question: Question
    listener: model.Listener | None = None
    also: str = ""
    """Said about the choice of the listener."""
    greeting: Greeting | None = None
    """What the TLS handshake shows."""
    sni: str = ""
    """The pattern of a tls listener that fits."""
    now: float = 0.0
    """Unix seconds, for the certificates' dates."""
    head: RequestHead | None = None
    route: Route | None = None
    reply: tuple[int, str] | None = None
    """Status and words of what the proxy answers itself."""
    target: str | None = None
    host: str | None = None
    services: tuple[model.WeightedService, ...] = ()
    service: model.Service | None = None
    candidates: list[Candidate] = field(default_factory=list)
    losing: list[tuple[str, str, str]] = field(default_factory=list)
    """(route, verdict, why), the nearest first."""
    problem: str = ""
    nearest: str = ""

    @property
    def found(self) -> bool:
        return not self.problem

    # ---- for people: one fact a line, its name first

    def as_text(self, most: int | None = None) -> Iterator[str]:
        """`most` of the losing routes are told; None: all."""
        asked = self.question
        yield f"request    {asked.method} {asked.url} from {asked.client}"
        if self.listener is not None:
            binds = " ".join(map(str, self.listener.bind))
            yield f"listener   {self.listener.name} {binds} {self.listener.protocol}{self.also}"
        if self.greeting is not None:
            yield from self.greeting.lines(self.now)
        if self.sni:
            yield f"sni        {self.sni}, relayed without being decrypted"
        if self.route is not None:
            yield f"route      {self.route.name} ({describe(self.route.config)})"
        yield from self._leads_to()
        if self.problem:
            yield f"reply      {self.reply[0]} {self.problem}" if self.reply else f"no answer  {self.problem}"
        if self.nearest:
            yield f"nearest    {self.nearest}"
        shown = self.losing if most is None else self.losing[:most]
        for name, _, why in shown:
            yield f"not        {name}: {why}"
        if len(self.losing) > len(shown):
            yield f"not        {len(self.losing) - len(shown)} more routes (--all tells them)"

    def _leads_to(self) -> Iterator[str]:
        if self.reply is not None and not self.problem:
            yield f"reply      {self.reply[0]} {self.reply[1]}"
        if self.head is not None and self.target is not None:
            yield f"rewrite    {self.head.target} -> {self.target}"
        if self.head is not None and self.host is not None:
            yield f"host       {self.head.authority} -> {self.host}"
        total = sum(s.weight for s in self.services)
        if len(self.services) > 1:
            parts = [f"{s.name} {100 * s.weight / total if total else 0:.0f} %" for s in self.services]
            yield f"split      {', '.join(parts)}; the first is shown"
        service = self.service
        if service is None:
            return
        relayed = self.listener is not None and not self.listener.routed
        yield f"service    {service.name} ({describe_balance(service.balance)}{'' if relayed else _speaks(service)})"
        sure = service.balance.kind in KEYED
        for place, (state, share) in enumerate(self.candidates):
            role = "backup" if state.backup else f"weight {state.weight}, {100 * share:.0f} %"
            mark = "  <- this request" if sure and not place and state.weight else ""
            yield f"endpoint   {state.address} ({role if state.weight else 'weight 0, takes nothing'}){mark}"
        if self.route is not None:
            yield f"limits     {describe_limits(self.route.config, service)}"

    # ---- for scripts

    def as_json(self) -> dict[str, Any]:
        asked, service = self.question, self.service
        return {
            "request": {"method": asked.method, "url": asked.url, "from": asked.client},
            "found": self.found,
            "problem": self.problem or None,
            "listener": self.listener.name if self.listener is not None else None,
            "tls": self.greeting.as_json(self.now) if self.greeting is not None else None,
            "sni": self.sni or None,
            "route": self.route.name if self.route is not None else None,
            "reply": {"status": self.reply[0], "text": self.reply[1]} if self.reply is not None else None,
            "rewrite": {"target": self.target, "host": self.host},
            "split": [{"service": s.name, "weight": s.weight} for s in self.services],
            "service": service.name if service is not None else None,
            "picker": service.balance.kind if service is not None else None,
            "endpoints": [{"address": state.address, "weight": state.weight, "backup": state.backup,
                           "share": round(share, 4)} for state, share in self.candidates],
            "nearest": self.nearest or None,
            "losing": [{"route": name, "verdict": verdict, "why": why} for name, verdict, why in self.losing],
        }


def explain(config: model.Config, asked: Question, now: float = 0.0) -> Answer:
    """`now` is unix seconds, for the certificates' dates. Raises ConfigError for what only OpenSSL finds."""
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
    tls = _greet(answer, config, listener)
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
    router = build_router(config, listener.name)
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

def _greet(answer: Answer, config: model.Config, listener: model.Listener) -> TlsServer | None:
    if listener.tls is None:
        return None
    tls = compile_tls(config, {})[listener.name]
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
    _endpoints(answer, config.services[name])


def _speaks(service: model.Service) -> str:
    if service.protocol not in ("https", "h2"):
        return "" if service.protocol == "http" else f"; {service.protocol}"
    checked = f"checked as {service.tls.server_name or 'its address'}" if service.tls.verify else "not checked"
    return f"; {service.protocol}, {checked}"


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
    _endpoints(answer, config.services[name])


def _endpoints(answer: Answer, config: model.Service) -> None:
    """The endpoints of a service in the order in which they would be tried."""
    answer.service = config
    loop = asyncio.new_event_loop()
    try:
        plain = replace(config, protocol="http", tls=model.ServiceTls())  # what it speaks has no part in the choice
        service = Service(loop, plain, random.Random(0))
        exchange: Any = SimpleNamespace(head=answer.head, client=answer.question.client)  # all that a key is made of
        key = exchange_key(exchange, service)
        tried: list[Any] = []
        while (member := service.pick(key, tried)) is not None and member not in tried:
            tried.append(member)
        order: list[EndpointState] = [*tried, *(m for m in service.view.members if m not in tried)]
    finally:
        loop.close()
    totals = {backup: sum(s.weight for s in order if s.backup is backup) for backup in (False, True)}
    answer.candidates = [Candidate(s, s.weight / totals[s.backup] if s.weight else 0.0) for s in order]
    if not tried:
        answer.reply = (503, "no endpoint")
        answer.problem = f"service {config.name} has no endpoint that takes anything"


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


# ---- words

def describe_path(path: model.PathMatch) -> str:
    return f"path {path.value}" if path.kind == "prefix" else f"{path.kind} path {path.value}"


def describe(route: model.Route) -> str:
    parts = ["host " + " or ".join(route.host) if route.host else "any host", describe_path(route.path)]
    if route.methods:
        parts.append("method " + " or ".join(route.methods))
    parts += [f"header {name}: {value}" for name, value in route.headers]
    parts += [f"query {name}={value}" for name, value in route.query]
    return ", ".join(parts)


def describe_balance(balance: model.Balance) -> str:
    if balance.kind == "hash":
        return f"hash of {balance.source} {balance.name}".rstrip()
    return balance.kind


def describe_limits(route: model.Route, service: model.Service) -> str:
    parts = [f"{route.retry.attempts} tries on {', '.join(map(str, route.retry.when))}"
             if route.retry.attempts > 1 else "one try"]
    if service.timeouts.connect is not None:
        parts.append(f"connect {service.timeouts.connect:g}s")
    parts.append(f"response {route.timeouts.response:g}s" if route.timeouts.response else "no response timeout")
    if route.timeouts.total:
        parts.append(f"total {route.timeouts.total:g}s")
    return ", ".join(parts)
