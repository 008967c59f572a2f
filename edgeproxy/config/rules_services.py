"""What the values of one service must agree on: where its endpoints come from, how they are spoken to and probed.

Rules: those of `rules.py`, which calls this for every service.
"""
from __future__ import annotations

from edgeproxy.config.model import DnsSource, Service
from edgeproxy.config.places import find, key_of, keys_of
from edgeproxy.config.problem import quoted
from edgeproxy.config.shapes import MERGE, Entry

PROBES = ("tcp", "http", "grpc")
"""The keys of health of which it has one."""


def check_service(entry: Entry) -> None:
    """Adds what is wrong within this service."""
    if MERGE in entry.bad:
        return
    _check_tls(entry)
    for position, source in enumerate(entry.value.dns):
        _check_dns(entry, position, source)
    _check_names(entry)
    _check_health(entry)


def _check_tls(entry: Entry) -> None:
    service: Service = entry.value
    if not entry.bad.isdisjoint(("protocol", "tls")):
        return
    node = find(entry.node, "tls")
    if not service.encrypted:
        if "tls" in keys_of(entry.node):
            entry.document.refuse(key_of(entry.node, "tls"), "tls is for services with protocol: https or h2; this one "
                                                             f"speaks {service.protocol}, which is not encrypted")
    elif not service.tls.verify and service.tls.ca is not None:
        entry.document.refuse(key_of(node, "ca"), "with verify: false nothing is checked, and ca has no effect")
    elif service.tls.verify and service.tls.server_name is None:
        for position, endpoint in enumerate(service.endpoints):
            if endpoint.path:
                entry.document.refuse(find(entry.node, "endpoints", position, "address"),
                                      "a unix socket has no name to check in the certificate; write "
                                      "tls: {server_name: NAME}")
                break
    if service.protocol in ("h2", "h2c") and service.send_proxy_protocol is not None:
        entry.document.refuse(key_of(entry.node, "send_proxy_protocol"),
                              "a connection of HTTP/2 carries requests of many clients, and a PROXY header names one; "
                              f"leave it out, or do without {service.protocol}")


def _check_dns(entry: Entry, position: int, source: DnsSource) -> None:
    """A name needs a port, SRV records bring theirs (RFC 2782)."""
    node = find(entry.node, "dns", position)
    name = find(node, "name")
    if source.type == "SRV" and source.port is not None:
        place = key_of(node, "port") if "port" in keys_of(node) else name
        entry.document.refuse(place, f"SRV records bring their ports with them; leave {source.port} out")
    elif source.type == "A" and source.port is None:
        other = "; or type: SRV, whose records bring theirs" if source.name.startswith("_") else ""
        entry.document.refuse(name, f"which port? write {quoted(source.name + ':8080')}, for example, or port: 8080"
                                    f"{other}")


def _check_names(entry: Entry) -> None:
    """What is said of names needs a name; only what differs from the default says something."""
    service: Service = entry.value
    if not entry.bad.isdisjoint(("endpoints", "dns", "external_name")):
        return
    external = service.external_name
    if service.host == "pass" and external is None:
        entry.document.refuse(key_of(entry.node, "host"), "host: pass is for services with external_name; endpoints of "
                                                          "others get the client's Host in any case")
    if service.dns or any(endpoint.named for endpoint in service.endpoints) \
            or (external is not None and not external.is_address):
        return
    for key, said in (("nameservers", bool(service.nameservers)), ("family", service.family != "both"),
                      ("refresh", service.refresh is not None), ("on_empty", service.on_empty != "drop")):
        if said:
            entry.document.refuse(key_of(entry.node, key), f"{key} is about names that are resolved, and this service "
                                                           "has none")


def _check_health(entry: Entry) -> None:
    service: Service = entry.value
    if "health" in entry.bad:
        return
    if service.health is None:
        if service.panic:
            entry.document.refuse(key_of(entry.node, "panic"), "panic is about what probes say, and this service is "
                                                               "not probed; write health: {http: {path: /healthz}}")
        return
    node = find(entry.node, "health")
    given = [key for key in PROBES if getattr(service.health, key) is not None]
    if not given:
        entry.document.refuse(node, "health says how endpoints are asked: write tcp: {}, http: {path: /healthz} or "
                                    "grpc: {}")
    for key in given[1:]:
        entry.document.refuse(key_of(node, key), f"endpoints are asked in one way; {given[0]} is there already")
    if service.health.grpc is not None and service.protocol not in ("h2", "h2c") and "protocol" not in entry.bad:
        entry.document.refuse(key_of(node, "grpc"), "gRPC is spoken by HTTP/2: write protocol: h2c, or h2 with TLS; "
                                                    f"this service speaks {service.protocol}")
    http = service.health.http
    if http is not None and http.method == "HEAD" and http.body:
        entry.document.refuse(key_of(find(node, "http"), "body"), "an answer to HEAD has no body; write method: GET")
