"""What a running proxy says of itself: `Running` is where it is read, `status` and the others give it as JSON.

Rules: reading changes nothing. Lists that may be long (services, endpoints, names) are generators, and `rendered` makes
their text in slices of time, so that ten thousand endpoints do not hold up a request; what changes meanwhile is told as
it is then. Times are seconds: ages and time left, never points in time, except `at` and `started` (unix seconds).
"""
from __future__ import annotations

import asyncio
import difflib
import json
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgeproxy import __version__
from edgeproxy.config import model
from edgeproxy.config.certificates import Certificate
from edgeproxy.policy.endpoint import DOWN, EJECTED, EndpointState
from edgeproxy.upstream.events import Event, Events
from edgeproxy.upstream.service import Service

if TYPE_CHECKING:
    from edgeproxy.runtime.listener import Listener
    from edgeproxy.snapshot import Live
    from edgeproxy.upstream.discovery import Discovery
    from edgeproxy.upstream.names import NameView

Json = dict[str, Any]
One = TypeVar("One")

SLICE = 0.003
"""Seconds that the text is made without letting the loop go on."""
LAST_EVENTS = 10
"""Told by the status; all of them by themselves."""


class Kept(Protocol):
    """The registry, as far as it is told of."""

    services: dict[str, Service]
    discoveries: dict[str, Discovery]
    events: Events


class Running:
    """Where a running proxy is read."""

    __slots__ = ("live", "listeners", "leaving", "kept", "began", "started", "refused")

    def __init__(self, live: Live, listeners: Mapping[str, Listener], leaving: Collection[Listener], kept: Kept
                 ) -> None:
        self.live = live
        self.listeners = listeners
        self.leaving = leaving
        """Listeners whose last connections go on."""
        self.kept = kept
        self.began = monotonic()
        self.started = time()
        self.refused = ""
        """Why the last reload was refused; empty: it was not."""


class Unknown(LookupError):
    """There is no such service or endpoint; the text says which there are."""


def service_named(running: Running, name: str) -> Service:
    """Raises Unknown."""
    found = running.kept.services.get(name)
    if found is None:
        raise Unknown(f"no service {name}; {_instead(name, running.kept.services)}")
    return found


def instead_of(address: str, service: Service) -> str:
    """What to say of an endpoint that is not there: the nearest is one of the same host, or of the same name."""
    everyone = list(service.everyone)
    hosts = {address, address.strip("[]"), address.rpartition(":")[0].strip("[]")} - {""}
    near = [member.address for member in everyone if hosts & {member.endpoint.host, member.endpoint.name}]
    told = f"did you mean {near[0]}?" if len(near) == 1 else _instead(address, near or [m.address for m in everyone])
    if len(near) > 1 and any(address.strip("[]") in (m.endpoint.host, m.endpoint.name) for m in everyone):
        told = f"there is {', '.join(near[:10])}"
    return f"service {service.name} has no endpoint {address}; {told}"


def _instead(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"did you mean {near[0]}?"
    some = ", ".join(list(names)[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"there is {some}" if some else "there is none"


# ---- the whole

def status(running: Running, service: str = "") -> Json:
    """Everything, or one service with its names and events. Raises Unknown."""
    now = monotonic()
    found: Json = {
        "version": __version__, "pid": os.getpid(), "started": running.started, "uptime": round(now - running.began, 1),
        "draining": running.live.draining, "reload_refused": running.refused or None,
        "leaving_connections": sum(listener.count for listener in running.leaving)}
    if service:
        one = service_named(running, service)
        return {**found, "services": [_service(one, running, now)], "dns": names(running, service),
                "events": [event for event in events(running) if event["service"] == service][-LAST_EVENTS:]}
    return {**found,
            "listeners": [_listener(one) for one in running.listeners.values()],
            "services": (_service(one, running, now) for one in list(running.kept.services.values())),
            "dns": names(running), "certificates": _certificates(running.live.snapshot.config, time()),
            "events": [_event(event) for event in list(running.kept.events.ring)[-LAST_EVENTS:]]}


def readiness(running: Running) -> Json:
    """`/readyz?verbose`."""
    services = {}
    for name, service in list(running.kept.services.items()):
        members = service.view.members
        services[name] = {"ready": sum(member.ready and member.weight > 0 for member in members),
                          "endpoints": len(members), "fallback": fallback(members, service.config.panic) or None,
                          "unresolved": service.unresolved or None}
    return {"ready": not running.live.draining, "draining": running.live.draining,
            "reload_refused": running.refused or None, "services": services}


def events(running: Running) -> list[Json]:
    """All that are kept, the oldest first."""
    return [_event(event) for event in list(running.kept.events.ring)]


def _event(event: Event) -> Json:
    return {"at": round(event.at, 3), "kind": event.kind, "service": event.service, "subject": event.subject,
            "text": event.text}


# ---- listeners and certificates

def _listener(listener: Listener) -> Json:
    config = listener.config
    return {"name": config.name, "bind": [str(bind) for bind in config.bind], "protocol": config.protocol,
            "connections": listener.count, "limit": config.limits.connections or None, "leads_to": _leads_to(config)}


def _leads_to(config: model.Listener) -> str:
    if config.service is not None:
        return config.service
    if config.sni:
        return ", ".join(f"{name}: {service}" for name, service in config.sni)
    return f"redirects to https, port {config.https_port}" if config.https_port else "routes"


def _certificates(config: model.Config, now: float) -> list[Json]:
    used: dict[tuple[str, str], list[str]] = {}
    for listener in config.listeners.values():
        for pair in listener.tls.certificates if listener.tls is not None else ():
            used.setdefault((pair.cert, pair.key), []).append(f"listener {listener.name}")
    for service in config.services.values():
        shown = service.tls.client_cert
        if shown is not None:
            used.setdefault((shown.cert, shown.key), []).append(f"service {service.name}")
    known = config.certificates
    return [_certificate(known[pair], by, now) for pair, by in used.items() if pair in known]


def _certificate(certificate: Certificate, used_by: list[str], now: float) -> Json:
    return {"cert": _shown(certificate.cert), "names": list(certificate.names), "key_type": certificate.key_type,
            "not_after": certificate.not_after, "days_left": certificate.days_left(now),
            "expired": certificate.not_after <= now, "fingerprint": certificate.fingerprint, "used_by": used_by}


def _shown(path: str) -> str:
    """Without `..`, where that is the same file: behind a link it may be another."""
    short = os.path.normpath(path)
    return short if short == path or os.path.realpath(short) == os.path.realpath(path) else path


# ---- services and endpoints

def _service(service: Service, running: Running, now: float) -> Json:
    config = service.config
    members = service.view.members
    part = shares(members, config.panic)
    return {
        "name": service.name, "protocol": config.protocol, "picker": config.balance.kind,
        "hash_of": f"{config.balance.source} {config.balance.name}".rstrip() if config.balance.source else None,
        "affinity": _affinity(service), "health": _health(config),
        "ready": sum(member.ready and member.weight > 0 for member in members), "size": len(members),
        "fallback": fallback(members, config.panic) or None,
        "waiting": len(service.waiting), "queue": config.limits.queue,
        "per_endpoint": config.limits.per_endpoint or None, "unresolved": service.unresolved or None,
        "endpoints": (endpoint(member, part.get(member.address, 0.0), running.began, now) for member in members),
        "leaving": (endpoint(member, 0.0, running.began, now) for member in list(service.leaving.values()))}


def _affinity(service: Service) -> Json | None:
    affinity = service.config.affinity
    if affinity is None:
        return None
    if affinity.client_ip is not None:
        return {"by": "client_ip", "timeout": affinity.client_ip.timeout, "clients": service.affinity_size}
    assert affinity.cookie is not None, "the loader wants one of the two"
    return {"by": "cookie", "name": affinity.cookie.name, "timeout": affinity.cookie.ttl or None, "clients": None}


def _health(config: model.Service) -> Json | None:
    health = config.health
    if health is None:
        return None
    by = "http" if health.http is not None else "grpc" if health.grpc is not None else "tcp"
    return {"by": by, "path": health.http.path if health.http is not None else None, "interval": health.interval}


def shares(members: Collection[EndpointState], panic: bool) -> dict[str, float]:
    """How much of the new work each gets by its weight and its slow start: among the primaries that are ready, or among
    the backups when none is; with none ready among those that were ejected, and in a panic among those that are down.
    Who is not named gets nothing."""
    some = _serving(members, panic)
    some = [m for m in some if not m.backup] or some
    total = sum(m.weight * ramp(m) for m in some)
    return {m.address: m.weight * ramp(m) / total for m in some}


def _serving(members: Collection[EndpointState], panic: bool) -> list[EndpointState]:
    """As `Service.pick` goes about it."""
    some = [m for m in members if m.weight > 0]
    return ([m for m in some if m.ready] or [m for m in some if m.state == EJECTED]
            or [m for m in some if m.state == DOWN and panic])


def fallback(members: Collection[EndpointState], panic: bool) -> str:
    """Who serves though no endpoint is ready; empty: nobody, or there is no need to."""
    serving = _serving(members, panic)
    if not serving or serving[0].ready:
        return ""
    if serving[0].state == EJECTED:
        return "none is ready: those that were ejected are used"
    every = len(serving) == sum(m.weight > 0 for m in members)
    return "panic: all are used" if every else "panic: those that are down are used"


def ramp(state: EndpointState) -> float:
    """How much of its full share an endpoint gets that starts slowly; 1.0: all of it."""
    return 1.0 / (1.0 + state.handicap)


def endpoint(state: EndpointState, share: float, began: float, now: float) -> Json:
    """`began`: when the proxy did, for the state that an endpoint has had ever since."""
    return {
        "address": state.address, "name": state.endpoint.name or None, "weight": state.weight, "backup": state.backup,
        "state": state.state, "ready": state.ready, "reason": state.reason or None,
        "since": round(now - max(state.since, began), 1), "share": round(share, 4),
        "ramp": round(ramp(state), 3) if state.handicap else None, "active": state.active, "total": state.total,
        "failed": state.failed, "latency_ms": round(1000 * state.latency, 3) if state.latency else None}


# ---- names

def names(running: Running, service: str = "") -> Iterator[Json]:
    """The DNS names of all services, or of one."""
    for name, discovery in list(running.kept.discoveries.items()):
        if service in ("", name):
            for view in discovery.names:
                yield {"service": name, **name_view(view)}


def name_view(view: NameView) -> Json:
    return {"name": view.name, "type": view.type, "addresses": list(view.addresses),
            "ttl_left": _rounded(view.ttl_left), "next_in": _rounded(view.next_in), "chain": list(view.chain),
            "stale_for": _rounded(view.stale_for), "failures": view.failures, "error": view.error or None,
            "server": view.server or None, "queries": dict(view.queries)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


# ---- text, in slices

def pieces(value: Any) -> Iterator[str]:
    """The JSON of `value`, in which iterators are arrays: one piece for each of their elements, at least."""
    if isinstance(value, Iterator):
        yield "["
        for place, element in enumerate(value):
            if place:
                yield ","
            yield from pieces(element)
        yield "]"
    elif isinstance(value, dict) and any(isinstance(part, (Iterator, dict, list)) for part in value.values()):
        yield "{"
        for place, (key, part) in enumerate(value.items()):
            yield f"{',' if place else ''}{json.dumps(key)}:"
            yield from pieces(part)
        yield "}"
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from pieces(iter(value))
    else:
        yield json.dumps(value, separators=(",", ":"))


async def rendered(value: Any) -> bytes:
    """The same as one text; others have their turn in between."""
    return "".join([piece async for piece in in_slices(pieces(value))]).encode("ascii")


async def in_slices(some: Iterator[One]) -> AsyncIterator[One]:
    """`some`, and others have their turn in between."""
    until = monotonic() + SLICE
    for piece in some:
        yield piece
        if monotonic() > until:
            await asyncio.sleep(0)
            until = monotonic() + SLICE
