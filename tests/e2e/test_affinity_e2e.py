"""Affinity: a client keeps its endpoint, by its address or by a cookie, for as long as that endpoint can be used."""
from __future__ import annotations

import re
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from e2e.backends import Actor, StartActor, answering
from e2e.certs import Authority
from e2e.frames import accept_websocket, open_websocket
from e2e.h2peers import H2Client
from e2e.patients import Patient, becomes
from e2e.program import StartEdge, addresses, free_port, tcp, web
from e2e.tlspeers import NAME, DialTls, secure
from e2e.waiting import eventually
from e2e.wire import Dial, Response, Wire, ask, connect

BY_ADDRESS = "affinity: {client_ip: {}}"
BY_COOKIE = "affinity: {cookie: {}}"
SECRET = "affinity: {cookie: {secret: 'a text of which everybody has the same'}}"
CLIENTS = [f"127.0.1.{n}" for n in range(1, 31)]


def trio(actor: StartActor) -> dict[str, Actor]:
    return {name: actor(answering(name)) for name in "abc"}


def ports(actors: dict[str, Actor]) -> list[int]:
    return [each.port for each in actors.values()]


def where(port: int) -> dict[str, str]:
    """Which endpoint each client reaches."""
    return {client: ask(port, source=client).text for client in CLIENTS}


# --- by address -----------------------------------------------------------------------------------------------------

def test_a_client_address_keeps_its_endpoint(edge: StartEdge, actor: StartActor) -> None:
    actors, port = trio(actor), free_port()
    proxy = edge(web(port, *ports(actors), service=BY_ADDRESS))
    first = where(port)
    assert sorted(first.values()) == ["a"] * 10 + ["b"] * 10 + ["c"] * 10, "a new client goes where the picker says"
    assert where(port) == first
    proxy.reload(web(port, *ports(actors), service=f"{BY_ADDRESS}, balance: random, limits: {{per_endpoint: 50}}"))
    assert where(port) == first, "a reload forgets nobody"
    more = actor(answering("d"))
    proxy.reload(web(port, *ports(actors), more.port, service=BY_ADDRESS))
    assert where(port) == first, "nobody moves to a new endpoint"
    assert "d" in {ask(port, source=f"127.0.2.{n}").text for n in range(1, 9)}, "but it gets new clients"


def test_a_client_address_keeps_its_endpoint_at_a_tcp_listener(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    def named(name: bytes) -> Callable[[Wire], None]:
        return lambda wire: wire.send(name)

    actors = {name: actor(named(name.encode())) for name in "abc"}
    port = free_port()
    proxy = edge(tcp(port, *ports(actors), service=f"{BY_ADDRESS}, eject: {{failures: 1}}"))

    def reached() -> dict[str, bytes]:
        return {client: dial(port, client).ending()[0] for client in CLIENTS}

    first = reached()
    assert sorted(first.values()) == [b"a"] * 10 + [b"b"] * 10 + [b"c"] * 10
    assert reached() == first
    actors["c"].stop()
    second = reached()
    assert {c: at for c, at in second.items() if first[c] != b"c"} == {c: at for c, at in first.items() if at != b"c"}
    assert set(second.values()) == {b"a", b"b"}
    assert reached() == second, "who has moved stays there"
    assert all(line["outcome"] == "ok" for line in proxy.lines())


def test_a_client_behind_a_trusted_proxy_is_told_by_its_own_address(edge: StartEdge, actor: StartActor) -> None:
    port = free_port()
    edge(web(port, *ports(trio(actor)), listener="trusted_proxies: [127.0.0.0/8]", service=BY_ADDRESS))

    def told() -> dict[str, str]:
        return {client: ask(port, "/", "x.invalid", f"X-Forwarded-For: {client}").text for client in CLIENTS}

    first = told()
    assert set(first.values()) == {"a", "b", "c"}
    assert told() == first


def test_its_time_begins_anew_with_each_request(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    port = free_port()
    edge(web(port, *ports(trio(actor)), service="affinity: {client_ip: {timeout: 1s}}"))
    clock = dial(port)
    home = ask(port, source="127.0.1.1").text
    for _ in range(4):
        assert clock.quiet(0.5)
        assert ask(port, source="127.0.1.1").text == home, "two seconds in all"
    assert clock.quiet(1.1)
    fresh = (f"127.0.3.{n}" for n in range(1, 200))
    eventually(lambda: ask(port, source=next(fresh)).text == home, "somebody else's turn at it")
    assert ask(port, source="127.0.1.1").text != home, "its time was over: it is a new client"


def test_a_client_whose_endpoint_dies_is_bound_anew_and_stays(edge: StartEdge, actor: StartActor) -> None:
    actors, port = trio(actor), free_port()
    proxy = edge(web(port, *ports(actors), service=f"{BY_ADDRESS}, eject: {{failures: 1, for: 300ms}}"))
    first = where(port)
    actors["c"].stop()
    second = where(port)
    assert all(second[client] == at for client, at in first.items() if at != "c"), "the others stay"
    assert {second[client] for client, at in first.items() if at == "c"} == {"a", "b"}
    actor(answering("c again"), actors["c"].port)
    becomes(proxy, actors["c"].port, "up")
    assert where(port) == second, "it is back; who has found another endpoint does not move again"
    eventually(lambda: ask(port, source=f"127.0.4.{len(proxy.lines()) % 200 + 1}").text == "c again", "new clients do")


def test_a_client_whose_endpoint_is_down_by_its_probes_moves_at_once(edge: StartEdge, actor: StartActor) -> None:
    patients = {name: Patient(name) for name in "abc"}
    actors = {name: actor(patient) for name, patient in patients.items()}
    port = free_port()
    proxy = edge(web(port, *ports(actors),
                     service=f"{BY_ADDRESS}, health: {{http: {{}}, interval: 50ms, fall: 2, rise: 1}}"))
    first = where(port)
    patients["a"].status = "500 No"
    becomes(proxy, actors["a"].port, "down")
    asked = len(patients["a"].requests)
    second = where(port)
    assert set(second.values()) == {"b", "c"}
    assert len(patients["a"].requests) == asked
    assert all(second[client] == at for client, at in first.items() if at != "a")


# --- by cookie ------------------------------------------------------------------------------------------------------

def set_cookie(answer: Response, name: str = "edge") -> str:
    """The value of the cookie that the proxy set; empty if it set none."""
    found = [line for line in answer.all("set-cookie") if line.startswith(f"{name}=")]
    assert len(found) <= 1, found
    return found[0].split(";")[0].partition("=")[2] if found else ""


def with_cookie(port: int, value: str, target: str = "/") -> Response:
    return ask(port, target, "test.invalid", f"Cookie: theme=dark; edge={value}; other=1")


@pytest.mark.parametrize(("more", "age"), [("", ""), ("ttl: 90m", "Max-Age=5400; ")])
def test_the_cookie_is_set_once_and_says_what_it_must(edge: StartEdge, actor: StartActor, more: str, age: str) -> None:
    port = free_port()
    edge(web(port, *ports(trio(actor)), service=f"affinity: {{cookie: {{{more}}}}}"))
    answer = ask(port)
    [line] = answer.all("set-cookie")
    assert re.fullmatch(rf"edge=[A-Za-z0-9_-]{{20,60}}; Path=/; {age}HttpOnly; SameSite=Lax", line), line
    for _ in range(9):
        again = with_cookie(port, set_cookie(answer))
        assert again.text == answer.text
        assert again.all("set-cookie") == [], "once is enough"


def test_over_https_it_is_secure_and_http2_follows_it(
        edge: StartEdge, actor: StartActor, authority: Authority, dial_tls: DialTls) -> None:
    port = free_port()
    edge(secure(port, [authority.server(NAME)], *ports(trio(actor)), service=BY_COOKIE))
    client = dial_tls(port, "http/1.1")
    client.get("/", NAME)
    answer = client.response()
    [line] = answer.all("set-cookie")
    assert line.endswith("; Path=/; HttpOnly; SameSite=Lax; Secure")
    value = set_cookie(answer)
    for _ in range(3):
        h2 = H2Client(dial_tls(port, "h2"), NAME)
        for fields in ([("cookie", f"theme=dark; edge={value}")],
                       [("cookie", "theme=dark"), ("cookie", f"edge={value}"), ("cookie", "other=1")]):
            told = h2.ask("/", fields=fields)
            assert told.body.decode() == answer.text, "crumbs too (RFC 9113 §8.2.3)"
            assert told.get("set-cookie") is None
    h2 = H2Client(dial_tls(port, "h2"), NAME)
    told = h2.ask("/")
    crumbs = SimpleCookie(told.get("set-cookie") or "")
    assert crumbs["edge"]["secure"] and crumbs["edge"]["httponly"]
    for _ in range(4):
        client.get("/", NAME, f"Cookie: edge={crumbs['edge'].value}")
        assert client.response().text == told.body.decode(), "and the other way round"


def test_what_was_not_made_here_is_ignored(edge: StartEdge, actor: StartActor) -> None:
    port, second = free_port(), free_port()
    actors = trio(actor)
    edge(web(port, *ports(actors), service=BY_COOKIE))
    edge(web(second, *ports(actors), service="affinity: {cookie: {secret: 'quite another text for a change'}}"))
    value, strange = set_cookie(ask(port)), set_cookie(ask(second))
    swapped = value[:-1] + ("A" if value[-1] != "A" else "B")
    forged = ("A" if value[0] != "A" else "B") + value[1:]
    for bad in (swapped, forged, strange, value[:-1], value + "A", value[:20], "", "=", "%00", "é", "A" * len(value),
                "127.0.0.1:80", "x" * 3000, '"', '""', "\x80\xff"):
        seen = set()
        for _ in range(6):
            answer = with_cookie(port, bad)
            assert answer.status == 200 and set_cookie(answer), f"{bad!r} is as none"
            seen.add(answer.text)
        assert seen == {"a", "b", "c"}, bad
    again = [ask(port, "/", "x.invalid", f'Cookie: edge="{value}"').text for _ in range(4)]
    assert len(set(again)) == 1, "quotes are allowed (RFC 6265 §4.1.1)"


@pytest.mark.parametrize("service", [SECRET, BY_COOKIE], ids=["secret", "none"])
def test_it_outlives_the_proxy(edge: StartEdge, actor: StartActor, service: str) -> None:
    """Without a secret one is made of the machine's id."""
    if service == BY_COOKIE and not re.fullmatch(r"[0-9a-f]{32}\s*", _machine_id()):
        pytest.skip("this machine has no /etc/machine-id")
    port, actors = free_port(), trio(actor)
    proxy = edge(web(port, *ports(actors), service=service))
    told = {answer.text: set_cookie(answer) for answer in (ask(port) for _ in range(9))}
    assert len(told) == 3
    proxy.stop()
    edge(web(port, *reversed(ports(actors)), service=service))
    for name, value in told.items():
        for _ in range(3):
            answer = with_cookie(port, value)
            assert answer.text == name and not answer.all("set-cookie")


def _machine_id() -> str:
    file = Path("/etc/machine-id")
    return file.read_text() if file.exists() else ""


def test_an_endpoint_that_is_removed_keeps_its_clients_for_a_while(edge: StartEdge, actor: StartActor) -> None:
    port, actors = free_port(), trio(actor)
    proxy = edge(web(port, *ports(actors), service=f"{BY_COOKIE}, drain: 2s"))
    told = {answer.text: set_cookie(answer) for answer in (ask(port) for _ in range(9))}
    proxy.reload(web(port, actors["a"].port, actors["b"].port, service=f"{BY_COOKIE}, drain: 2s"))
    assert {ask(port).text for _ in range(12)} == {"a", "b"}, "new ones go elsewhere"
    answer = with_cookie(port, told["c"])
    assert answer.text == "c" and not answer.all("set-cookie"), "bound ones stay"
    eventually(lambda: with_cookie(port, told["c"]).text != "c", "its time is over")
    moved = with_cookie(port, told["c"])
    assert moved.status == 200
    value = set_cookie(moved)
    assert value, "bound anew"
    assert {with_cookie(port, value).text for _ in range(5)} == {moved.text}
    for name in "ab":
        assert with_cookie(port, told[name]).text == name


def test_by_address_a_removed_endpoint_keeps_its_clients_too(edge: StartEdge, actor: StartActor) -> None:
    port, actors = free_port(), trio(actor)
    proxy = edge(web(port, *ports(actors), service=f"{BY_ADDRESS}, drain: 2s"))
    first = where(port)
    proxy.reload(web(port, actors["a"].port, actors["b"].port, service=f"{BY_ADDRESS}, drain: 2s"))
    assert where(port) == first
    eventually(lambda: "c" not in where(port).values(), "its time is over")
    after = where(port)
    assert all(after[client] == at for client, at in first.items() if at != "c")


@pytest.mark.parametrize("kind", [BY_COOKIE, BY_ADDRESS], ids=["cookie", "address"])
@pytest.mark.parametrize("probes", [False, True], ids=["requests", "probes"])
def test_an_endpoint_that_dies_while_it_drains_lets_its_clients_go(
        edge: StartEdge, actor: StartActor, kind: str, probes: bool) -> None:
    """What ends is first taken out of DNS, then dies: a third of all clients come to learn that at the same moment."""
    port, actors = free_port(), trio(actor)
    service = f"{kind}, drain: 60s{', health: {http: {}, interval: 50ms, fall: 2}' if probes else ''}"
    proxy = edge(web(port, *ports(actors), service=service))
    clients = {client: ask(port, source=client) for client in CLIENTS}
    bound = {client: set_cookie(answer) for client, answer in clients.items() if answer.text == "c"}
    assert len(bound) == 10
    two = web(port, actors["a"].port, actors["b"].port, service=service)
    proxy.reload(two)
    actors["c"].stop()
    for client, value in bound.items():
        fields = [f"Cookie: edge={value}"] if value else []
        answer = ask(port, "/", "x.invalid", *fields, source=client)
        assert (answer.status, answer.text) in ((200, "a"), (200, "b")), answer.raw
        if value:
            assert set_cookie(answer), "bound to the one that answered"


def test_a_retry_binds_to_the_endpoint_that_answered(edge: StartEdge, actor: StartActor) -> None:
    port, actors = free_port(), trio(actor)
    proxy = edge(web(port, *ports(actors), service=f"{BY_COOKIE}, eject: {{failures: 0}}"))
    told = {answer.text: set_cookie(answer) for answer in (ask(port) for _ in range(9))}
    actors["c"].stop()
    answer = with_cookie(port, told["c"])
    assert answer.text in ("a", "b")
    value = set_cookie(answer)
    assert value and value != told["c"]
    assert {with_cookie(port, value).text for _ in range(6)} == {answer.text}
    line = proxy.logged(1, lambda line: bool(line["attempts"]))[0]
    assert [attempt["endpoint"] for attempt in line["attempts"]] == [f"127.0.0.1:{actors['c'].port}"]
    actor(answering("c"), actors["c"].port)
    assert with_cookie(port, told["c"]).text == "c", "who has still the old one is still its client"


def test_a_websocket_goes_where_the_client_is_bound(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    def both(name: str) -> Callable[[Wire], None]:
        def script(wire: Wire) -> None:
            while True:
                wire.more()
                if b"upgrade: websocket" in wire.buffer.lower():
                    accept_websocket(wire)
                    wire.send(name)
                    wire.more()
                    return
                wire.request()
                wire.answer(name.encode())
        return script

    actors, port = {name: actor(both(name)) for name in "abc"}, free_port()
    edge(web(port, *ports(actors), service=BY_COOKIE))
    for _ in range(3):
        answer = ask(port)
        value = set_cookie(answer)
        for _ in range(3):
            client = dial(port)
            switched = open_websocket(client, "/chat", "x.invalid", f"Cookie: edge={value}")
            assert client.exactly(1).decode() == answer.text
            assert switched.all("set-cookie") == []
    client = dial(port)
    value = set_cookie(open_websocket(client))
    assert value, "the 101 binds too"
    name = client.exactly(1).decode()
    assert {with_cookie(port, value).text for _ in range(5)} == {name}


def test_cookies_of_the_endpoint_and_of_the_client_are_left_alone(edge: StartEdge, actor: StartActor) -> None:
    def script(wire: Wire) -> None:
        while True:
            request = wire.request()
            wire.answer((request.get("cookie") or "").encode(), "200 OK", "Set-Cookie: session=1; Path=/app",
                        "Set-Cookie: theme=light")

    port = free_port()
    edge(web(port, actor(script).port, actor(script).port, service=BY_COOKIE))
    answer = ask(port)
    assert answer.all("set-cookie")[:2] == ["session=1; Path=/app", "theme=light"]
    value = set_cookie(answer)
    assert value
    again = with_cookie(port, value)
    assert again.all("set-cookie") == ["session=1; Path=/app", "theme=light"]
    assert again.text == f"theme=dark; edge={value}; other=1"


def test_a_keep_alive_connection_is_not_bound_by_itself(edge: StartEdge, actor: StartActor) -> None:
    """Many clients may come by one connection, that of another proxy."""
    port = free_port()
    edge(web(port, *ports(trio(actor)), service=BY_COOKIE))
    with connect(port) as client:
        told = {}
        for _ in range(9):
            client.get()
            answer = client.response()
            told[answer.text] = set_cookie(answer)
        assert set(told) == {"a", "b", "c"}
        for name, value in told.items():
            client.get("/", "x.invalid", f"Cookie: edge={value}")
            assert client.response().text == name


def test_two_services_of_one_site_have_a_cookie_each(edge: StartEdge, actor: StartActor) -> None:
    """A browser has one cookie of a name for all paths, so they need two names."""
    port = free_port()
    shop, blog = trio(actor), trio(actor)
    edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\n"
         "routes: [{path: /shop, service: shop}, {path: /blog, service: blog}]\n"
         f"services: {{shop: {{endpoints: {addresses(*ports(shop))}, affinity: {{cookie: {{name: shop}}}}}}, "
         f"blog: {{endpoints: {addresses(*ports(blog))}, affinity: {{cookie: {{name: blog}}}}}}}}\n")
    jar: dict[str, str] = {}
    seen: dict[str, set[str]] = {"/shop": set(), "/blog": set()}
    for _ in range(6):
        for path in seen:
            crumbs = "; ".join(f"{name}={value}" for name, value in jar.items())
            answer = ask(port, path, "x.invalid", *([f"Cookie: {crumbs}"] if crumbs else []))
            for line in answer.all("set-cookie"):
                name, _, value = line.split(";")[0].partition("=")
                jar[name] = value
            seen[path].add(answer.text)
    assert {path: len(names) for path, names in seen.items()} == {"/shop": 1, "/blog": 1}
