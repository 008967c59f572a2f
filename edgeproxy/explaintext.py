"""What `edgeproxy explain` says: the question as it was asked, the answer as values, as lines for people and as JSON.

Rules: nothing is found out here (`explain.py` does that), and everything that is said stands in the JSON as well.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.config import model
from edgeproxy.handshakes import Greeting
from edgeproxy.policy.endpoint import UP, EndpointState
from edgeproxy.route import Route
from edgeproxy.runtime.status import ramp
from edgeproxy.statustext import plain, span


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


class Candidate(NamedTuple):
    state: EndpointState
    share: float
    """Of the new work, by weight and slow start: among the primaries that are ready, else among the backups."""


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
    live: bool = False
    """The endpoints' states are those of a running proxy, which began at `began` (`time.monotonic()`)."""
    began: float = 0.0
    dns: list[dict[str, Any]] = field(default_factory=list)
    """What is known of the service's names, as `edgeproxy status` tells it."""
    candidates: list[Candidate] = field(default_factory=list)
    chosen: str = ""
    """Address of the endpoint that gets this request, if that is certain."""
    choice: str = ""
    """Why that one; or among which."""
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
        yield f"service    {service.name} ({describe_balance(service)}{'' if relayed else _speaks(service)})"
        yield from map(_name, self.dns)
        for candidate in self.candidates:
            yield f"endpoint   {self._candidate(*candidate)}"
        if not self.chosen and self.choice:
            yield f"choice     {self.choice}"
        if service.health is not None and not self.live:
            yield "health     not asked here: --live tells what the running proxy knows"
        if self.route is not None:
            yield f"limits     {describe_limits(self.route.config, service)}"

    def _candidate(self, state: EndpointState, share: float) -> str:
        role = "backup" if state.backup else f"weight {state.weight}"
        if not state.weight:
            role = "weight 0, takes nothing"
        elif share and not (state.backup and not self.live):
            role += f", {100 * share:.0f} %"
        if state.handicap:
            role += f", slow start at {100 * ramp(state):.0f} %"
        name = f" of {state.endpoint.name}" if state.endpoint.name else ""
        mark = ""
        if state.address == self.chosen:
            mark = "  <- this request" + (f": {self.choice}" if self.choice else "")
        return f"{state.address}{name} ({role}){self._state(state) if self.live else ''}{mark}"

    def _state(self, state: EndpointState) -> str:
        since = span(monotonic() - max(state.since, self.began))
        why = f": {plain(state.reason)}" if state.reason and state.state != UP else ""
        return f" {state.state} {since}{why}"

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
            "live": self.live,
            "dns": self.dns,
            "endpoints": [self._candidate_json(*candidate) for candidate in self.candidates],
            "chosen": self.chosen or None,
            "choice": self.choice or None,
            "nearest": self.nearest or None,
            "losing": [{"route": name, "verdict": verdict, "why": why} for name, verdict, why in self.losing],
        }

    def _candidate_json(self, state: EndpointState, share: float) -> dict[str, Any]:
        found = {"address": state.address, "weight": state.weight, "backup": state.backup, "share": round(share, 4)}
        if state.endpoint.name:
            found["name"] = state.endpoint.name
        if self.live:
            found |= {"state": state.state, "reason": state.reason or None, "ready": state.ready,
                      "since": round(monotonic() - max(state.since, self.began), 1), "active": state.active}
        return found


# ---- words

def _name(name: dict[str, Any]) -> str:
    told = "; ".join(filter(None, (name["error"], ", ".join(name["addresses"]))))
    return plain(f"name       {name['name']} {name['type']}: {told or 'no address'}")


def describe_path(path: model.PathMatch) -> str:
    return f"path {path.value}" if path.kind == "prefix" else f"{path.kind} path {path.value}"


def describe(route: model.Route) -> str:
    parts = ["host " + " or ".join(route.host) if route.host else "any host", describe_path(route.path)]
    if route.methods:
        parts.append("method " + " or ".join(route.methods))
    parts += [f"header {name}: {value}" for name, value in route.headers]
    parts += [f"query {name}={value}" for name, value in route.query]
    return ", ".join(parts)


def describe_balance(service: model.Service) -> str:
    balance, affinity = service.balance, service.affinity
    text = f"hash of {balance.source} {balance.name}".rstrip() if balance.kind == "hash" else balance.kind
    if affinity is not None:
        text += f", affinity by {'cookie' if affinity.cookie is not None else 'client_ip'}"
    return text


def _speaks(service: model.Service) -> str:
    if not service.encrypted:
        return "" if service.protocol == "http" else f"; {service.protocol}"
    name = service.external_name.name if service.external_name is not None else "its address"
    checked = f"checked as {service.tls.server_name or name}" if service.tls.verify else "not checked"
    return f"; {service.protocol}, {checked}"


def describe_limits(route: model.Route, service: model.Service) -> str:
    parts = [f"{route.retry.attempts} tries on {', '.join(map(str, route.retry.when))}"
             if route.retry.attempts > 1 else "one try"]
    if service.timeouts.connect is not None:
        parts.append(f"connect {service.timeouts.connect:g}s")
    parts.append(f"response {route.timeouts.response:g}s" if route.timeouts.response else "no response timeout")
    if route.timeouts.total:
        parts.append(f"total {route.timeouts.total:g}s")
    return ", ".join(parts)
