"""source-hash: a client address has one endpoint, the same at every proxy with these endpoints."""
from __future__ import annotations

from collections import Counter

from e2e.backends import Nginx, StartActor, answering
from e2e.program import StartEdge, free_port, web
from e2e.wire import ask

CLIENTS = [f"127.0.1.{n}" for n in range(1, 61)]


def _where(port: int) -> dict[str, str]:
    return {client: ask(port, source=client).text.strip() for client in CLIENTS}


def test_the_same_client_reaches_the_same_endpoint_through_two_processes(edge: StartEdge, nginx: Nginx) -> None:
    one, other = free_port(), free_port()
    endpoints = [nginx["a"], nginx["b"], nginx["c"]]
    edge(web(one, *endpoints, service="balance: source-hash"))
    edge(web(other, *reversed(endpoints), service="balance: source-hash"))  # the order in the file is of no account
    first = _where(one)
    assert set(first.values()) == {"a", "b", "c"}
    assert min(Counter(first.values()).values()) >= 8, "about a third each"
    assert _where(one) == first
    assert _where(other) == first


def test_when_an_endpoint_fails_only_its_own_clients_move(edge: StartEdge, actor: StartActor) -> None:
    actors = {name: actor(answering(name)) for name in "abc"}
    port = free_port()
    edge(web(port, *(a.port for a in actors.values()), service="balance: source-hash, eject: {failures: 1}"))
    before = _where(port)
    actors["c"].stop()
    after = _where(port)
    assert {c: before[c] for c in CLIENTS if before[c] != "c"} == {c: after[c] for c in CLIENTS if before[c] != "c"}
    assert {after[c] for c in CLIENTS if before[c] == "c"} == {"a", "b"}, "and they go to both that are left"


def test_a_trusted_proxy_tells_the_client(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    edge(web(port, nginx["a"], nginx["b"], nginx["c"], listener="trusted_proxies: [127.0.0.0/8]",
             service="balance: source-hash"))
    told = {client: ask(port, "/", "x.invalid", f"X-Forwarded-For: {client}").text for client in CLIENTS}
    assert told == {client: ask(port, source=client).text for client in CLIENTS}
