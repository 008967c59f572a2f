"""SIGHUP: the new file is in force at once, a bad one changes nothing, what is open goes on."""
from __future__ import annotations

import os
import signal

import pytest

from e2e.backends import Nginx, StartActor, StartStage, answering, echoing
from e2e.frames import echo, open_websocket, websocket_echo
from e2e.program import StartEdge, addresses, free_port, tcp, web
from e2e.waiting import eventually
from e2e.wire import Dial, End, ask, refused


def _listener(name: str, port: int, rest: str = "protocol: http") -> str:
    return f"  {name}: {{bind: '127.0.0.1:{port}', {rest}}}\n"


def test_routes_added_changed_and_removed(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()

    def text(routes: str) -> str:
        return (f"listeners:\n{_listener('web', port)}routes:\n{routes}services:\n"
                f"  a: {{endpoints: {addresses(nginx['a'])}}}\n  b: {{endpoints: {addresses(nginx['b'])}}}\n")

    proxy = edge(text("  - {path: /x, service: a}\n"))
    client = dial(port)

    def seen() -> list[str]:
        out = []
        for target in ("/x", "/y"):
            client.get(target)
            answer = client.response()
            out.append(answer.text.strip() if answer.status == 200 else str(answer.status))
        return out

    assert seen() == ["a", "404"]
    told = proxy.reload(text("  - {path: /x, service: b}\n  - {path: /y, service: a}\n"))
    assert "configuration reloaded" in told
    assert seen() == ["b", "a"], "on the connection that was open"
    proxy.reload(text("  - {path: /y, service: b}\n"))
    assert seen() == ["404", "b"]


def test_endpoints_added_and_removed(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    one, two, port = actor(answering("one")), actor(answering("two")), free_port()
    proxy = edge(web(port, one.port))
    client = dial(port)

    def names(number: int = 4) -> set[str]:
        found = set()
        for _ in range(number):
            client.get()
            found.add(client.response().text)
        return found

    assert names() == {"one"}
    proxy.reload(web(port, one.port, two.port))
    assert names() == {"one", "two"}
    assert one.connections == 1, "an endpoint that stays keeps its pool"
    proxy.reload(web(port, two.port))
    assert names() == {"two"}


def test_the_pool_of_a_removed_endpoint_is_closed(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    old, new, port = stage(), stage(), free_port()
    proxy = edge(web(port, old.port))
    client = dial(port)
    client.get()
    channel = old.accept()
    channel.request()
    channel.answer()
    client.response()
    proxy.reload(web(port, new.port))
    assert channel.ending() == (b"", End.FIN)


def test_what_is_under_way_at_a_removed_endpoint_finishes(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    old, new, port = stage(), stage(), free_port()
    proxy = edge(web(port, old.port))
    client = dial(port)
    client.get("/old")
    channel = old.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    client.until(b"half")
    proxy.reload(web(port, new.port))
    channel.send("half")
    assert client.exactly(4) == b"half"
    assert channel.ending() == (b"", End.FIN), "and is not kept"
    client.get("/new")
    assert new.accept().request().target == "/new"


def test_a_removed_route_and_service_let_the_exchange_finish(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    old, new, port = stage(), stage(), free_port()
    proxy = edge(web(port, old.port, route="name: first, response_headers: {set: {x-route: first}}"))
    client = dial(port)
    client.get("/old")
    channel = old.accept()
    channel.request()
    proxy.reload(web(port, new.port, route="name: second").replace("app", "other"))
    channel.answer(b"still")
    answer = client.response()
    assert (answer.text, answer.get("x-route")) == ("still", "first"), "by the rules it was begun with"
    line = proxy.entry()
    assert (line["route"], line["service"], line["outcome"]) == ("first", "app", "ok")


def test_listeners_added_and_removed(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    first, second = free_port(), free_port()

    def text(*ports: int) -> str:
        listeners = "".join(_listener(f"web{p}", p) for p in ports)
        return f"listeners:\n{listeners}routes: [{{service: a}}]\nservices: {{a: {{endpoints: {addresses(nginx['a'])}}}}}\n"

    proxy = edge(text(first))
    assert refused(second)
    proxy.reload(text(first, second))
    assert ask(first).status == ask(second).status == 200
    idle = dial(first)
    idle.get()
    assert idle.response().status == 200
    proxy.reload(text(second))
    assert refused(first)
    assert ask(second).status == 200
    assert idle.ending() == (b"", End.FIN), "an idle connection of a removed listener is closed"
    proxy.reload(text(first, second))
    assert ask(first).status == 200


def test_a_removed_listener_drains(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, first, second = stage(), free_port(), free_port()
    proxy = edge(web(first, endpoint.port))
    client = dial(first)
    client.get()
    channel = endpoint.accept()
    channel.request()
    proxy.reload(web(second, endpoint.port).replace("web:", "another:"))
    eventually(lambda: refused(first), "nothing new")
    channel.answer(b"whole")
    answer = client.response()
    assert answer.text == "whole"
    assert client.ending() == (b"", End.FIN)


def test_a_port_goes_from_one_listener_to_another(edge: StartEdge, actor: StartActor, nginx: Nginx, dial: Dial) -> None:
    """http becomes tcp on the same address, without a moment of refusal; the old connection goes on."""
    port, echoes = free_port(), actor(echoing)
    proxy = edge(web(port, nginx["a"]))
    client = dial(port)
    client.get()
    assert client.response().status == 200
    proxy.reload(tcp(port, echoes.port))
    raw = dial(port)
    raw.send(b"not http")
    assert raw.exactly(8) == b"not http"


@pytest.mark.parametrize("bad", [
    "listeners: [", "listeners: {}\n",
    "listeners: {web: {bind: '127.0.0.1:%(port)d', protocol: http}}\nroutes: [{service: nobody}]\nservices: {}\n"])
def test_a_bad_file_changes_nothing_and_is_told(
        edge: StartEdge, nginx: Nginx, dial: Dial, bad: str) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    client = dial(port)
    client.get()
    assert client.response().text == "a\n"
    told = proxy.reload(bad % {"port": port} if "%(" in bad else bad)
    assert "refused" in told and "edgeproxy.yaml:" in told
    client.get()
    assert client.response().text == "a\n"
    assert ask(port).text == "a\n"
    proxy.reload(web(port, nginx["b"]))
    assert ask(port).text == "b\n", "and the next good one is taken"


def test_a_missing_file_changes_nothing(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    os.unlink(proxy.file)
    assert "refused" in proxy.reload()
    assert ask(port).text == "a\n"


def test_a_port_that_cannot_be_bound_changes_nothing(edge: StartEdge, nginx: Nginx, stage: StartStage) -> None:
    port, taken, free = free_port(), stage(), free_port()
    proxy = edge(web(port, nginx["a"]))
    told = proxy.reload(f"listeners:\n{_listener('new', free)}{_listener('taken', taken.port)}"
                        f"routes: [{{service: app}}]\nservices: {{app: {{endpoints: {addresses(nginx['b'])}}}}}\n")
    assert "refused" in told and str(taken.port) in told
    assert ask(port).text == "a\n"
    assert refused(free), "all or nothing"


def test_a_websocket_survives(edge: StartEdge, actor: StartActor, nginx: Nginx, dial: Dial) -> None:
    endpoint, port = actor(websocket_echo), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    open_websocket(client)
    echo(client, b"before")
    proxy.reload(web(port, nginx["a"]))
    assert ask(port).text == "a\n"
    echo(client, b"after its service changed")
    proxy.reload(web(free_port(), nginx["a"]).replace("web:", "another:"))
    echo(client, b"after its listener is gone")


def test_a_tcp_connection_survives(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    first, second, port = actor(echoing), actor(echoing), free_port()
    proxy = edge(tcp(port, first.port))
    client = dial(port)
    client.send(b"before")
    assert client.exactly(6) == b"before"
    proxy.reload(tcp(port, second.port))
    client.send(b"after")
    assert client.exactly(5) == b"after"
    fresh = dial(port)
    fresh.send(b"x")
    assert fresh.exactly(1) == b"x"
    assert (first.connections, second.connections) == (1, 1)
    proxy.reload(tcp(free_port(), second.port).replace("relay", "other"))
    client.send(b"still")
    assert client.exactly(5) == b"still"


def test_health_survives(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    good, broken, port = actor(answering("good")), free_port(), free_port()
    rule = "eject: {failures: 1, for: 60s}"
    proxy = edge(web(port, good.port, broken, service=rule))
    assert {ask(port).text for _ in range(4)} == {"good"}
    assert "ejected" in proxy.errors
    proxy.reload(web(port, good.port, broken, service=rule, route="path: /new"))
    for _ in range(4):
        ask(port, "/new")
    assert all(line["attempts"] == [] for line in proxy.logged(4, lambda line: line["path"] == "/new"))


def test_the_access_log_moves(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    ask(port, "/first")
    proxy.logged(1)
    proxy.reload(web(port, nginx["a"]) + "access_log: {path: other.json}\n")
    ask(port, "/second")
    other = proxy.folder / "other.json"
    eventually(lambda: other.exists() and "/second" in other.read_text(), "the new file")
    assert "/second" not in proxy.log.read_text()


def test_limits_and_timeouts_are_those_of_the_new_file(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    client = dial(port)
    client.get()
    assert client.response().status == 200
    proxy.reload(web(port, nginx["a"], listener="limits: {body: 10}"))
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 11\r\n\r\nhello world")
    assert client.response().status == 413


def test_two_hups_at_once_end_with_the_last_file(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    for name in "bcabcabcb":
        proxy.write(web(port, nginx[name]))
        proxy.signal(signal.SIGHUP)
    eventually(lambda: ask(port).text == "b\n", "the last one")
    proxy.reload()
    assert ask(port).text == "b\n"
