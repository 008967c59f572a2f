"""source-hash: a client address has one endpoint, the same at every proxy with these endpoints."""
from __future__ import annotations

from collections import Counter

from e2e.backends import Nginx, StartActor, answering
from e2e.program import StartEdge, free_port, web
from e2e.wire import ask, connect

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


def _told(port: int, clients: int) -> dict[str, str]:
    """Where so many clients of a trusted proxy come to, all by its one connection."""
    found = {}
    with connect(port) as proxy:
        for number in range(clients):
            address = f"10.{number % 7}.{number // 200}.{number % 200}"
            proxy.get("/", "x.invalid", f"X-Forwarded-For: {address}")
            found[address] = proxy.response().text
    return found


def test_the_order_of_the_file_is_of_no_account_and_one_of_ten_moves_a_tenth(edge: StartEdge, actor: StartActor) -> None:
    at = {name: actor(answering(name)).port for name in "abcdefghij"}
    one, other, port = free_port(), free_port(), free_port()

    def text(listens: int, *endpoints: int) -> str:
        return web(listens, *endpoints, listener="trusted_proxies: [127.0.0.1]", service="balance: source-hash")

    edge(text(one, *at.values()))
    edge(text(other, *(at[name] for name in "hcjaibgdfe")))
    first = _told(one, 1000)
    assert set(first.values()) == set(at)
    two_hundred = _told(other, 200)
    assert two_hundred == {client: first[client] for client in two_hundred}

    shares = Counter(first.values()).most_common()
    leaving = shares[len(shares) // 2][0]  # one of a middling share: their sizes are a matter of chance, as ports are
    rest = [endpoint for name, endpoint in at.items() if name != leaving]
    proxy = edge(text(port, *rest))
    after = _told(port, 1000)
    moved = [client for client, name in first.items() if after[client] != name]
    assert len(moved) <= 120, "a tenth, and at most a few per cent more"
    strangers = [client for client in moved if first[client] != leaving]
    assert len(strangers) <= 30, "who was elsewhere stays there, nearly always"
    proxy.reload(text(port, *at.values()))
    assert _told(port, 1000) == first, "and it comes back to its own"
