"""SIGTERM lets everything finish, SIGINT nearly everything; the exit status tells which it was."""
from __future__ import annotations

import re
import signal
import time

import pytest

from e2e.backends import Nginx, StartActor, StartStage, echoing
from e2e.frames import echo, open_websocket, websocket_echo
from e2e.load import Load
from e2e.program import StartEdge, free_port, tcp, web
from e2e.waiting import eventually
from e2e.wire import Dial, End, refused


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_proxy_ends_at_once(edge: StartEdge, nginx: Nginx, dial: Dial, number: signal.Signals) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    client = dial(port)
    client.get()
    assert client.response().status == 200
    began = time.monotonic()
    proxy.signal(number)
    assert proxy.wait() == 0
    assert time.monotonic() - began < 1
    assert client.ending() == (b"", End.FIN)
    assert refused(port)


def test_under_load_nothing_is_cut(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    with Load(port, clients=16, expect=b"a\n") as keeping, Load(port, clients=4, new_connections=True) as connecting:
        eventually(lambda: keeping.tally.good > 300 and connecting.tally.good > 50, "load")
        proxy.signal(signal.SIGTERM)
        assert proxy.wait(10) == 0
    assert keeping.tally.failed == [] and connecting.tally.failed == []
    assert {line["outcome"] for line in proxy.lines()} == {"ok"}
    assert "cut" not in proxy.errors
    assert len(proxy.lines()) >= keeping.tally.good + connecting.tally.good, "every request is in the log"


def test_an_exchange_under_way_finishes_and_says_close(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    waiting, streaming = dial(port), dial(port)
    waiting.get("/waiting")
    first = endpoint.accept()
    first.request()
    streaming.get("/streaming")
    second = endpoint.accept()
    second.request()
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    streaming.until(b"half")
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(port), "no new connections")
    assert waiting.quiet() and streaming.quiet()
    first.answer(b"late")
    answer = waiting.response()
    assert (answer.text, answer.get("connection")) == ("late", "close")
    assert waiting.ending() == (b"", End.FIN)
    second.send("half")
    assert streaming.exactly(4) == b"half"
    assert streaming.ending() == (b"", End.FIN)
    assert proxy.wait() == 0
    assert [line["outcome"] for line in proxy.lines()] == ["ok", "ok"]


def test_an_error_while_draining_says_close_too(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, route="retry: {attempts: 1}"))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(port), "no new connections")
    channel.reset()
    answer = client.response()
    assert (answer.status, answer.get("connection")) == (502, "close")
    assert client.ending() == (b"", End.FIN)
    assert proxy.wait() == 0


def test_a_request_whose_head_is_on_its_way_is_served(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    client = dial(port)
    client.send("GET / HTTP/1.1\r\nHost: x.inv")
    other = dial(port)
    other.get()
    assert other.response().status == 200, "so the first has been read too"
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(port), "no new connections")
    client.send("alid\r\n\r\n")
    answer = client.response()
    assert (answer.status, answer.get("connection")) == (200, "close")
    assert proxy.wait() == 0


def test_connections_that_wait_to_be_accepted_are_served(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    """The kernel has promised them a server; closing the listening socket would reset them."""
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    with proxy.frozen():
        clients = [dial(port) for _ in range(1000)]  # more than are accepted at a time
        for client in clients:
            client.get()
        proxy.signal(signal.SIGTERM)
    for client in clients:
        assert client.response().status == 200
        assert client.ending() == (b"", End.FIN)
    assert proxy.wait() == 0


@pytest.mark.parametrize("served_before", [False, True])
def test_a_request_that_is_there_to_be_read_is_served(
        edge: StartEdge, nginx: Nginx, dial: Dial, served_before: bool) -> None:
    """An idle connection is closed by a drain, but not one whose request waits in the kernel's buffer."""
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    bare = proxy.sockets
    clients = [dial(port) for _ in range(10)]
    if served_before:
        for client in clients:
            client.get()
            assert client.response().status == 200
    else:
        eventually(lambda: proxy.sockets == bare + len(clients), "all are accepted")
    with proxy.frozen():
        for client in clients:
            client.get()
        proxy.signal(signal.SIGTERM)
    for client in clients:
        assert client.response().status == 200
        assert client.ending() == (b"", End.FIN)
    assert proxy.wait() == 0


def test_a_connection_that_was_never_served_has_a_moment_for_its_request(
        edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    """Its client cannot know that nobody will answer, and does not ask again as it would on a used connection."""
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    used, fresh = dial(port), dial(port)
    used.get()
    assert used.response().status == 200, "so both have been accepted"
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(port), "no new connections")
    fresh.get()
    answer = fresh.response()
    assert (answer.status, answer.get("connection")) == (200, "close")
    assert used.ending() == (b"", End.FIN)
    assert proxy.wait() == 0


def test_an_upload_under_way_finishes(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 8\r\n\r\nhalf")
    channel = endpoint.accept()
    channel.request(body=False)
    assert channel.exactly(4) == b"half"
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(port), "no new connections")
    client.send("half")
    assert channel.exactly(4) == b"half"
    channel.answer(b"thanks")
    assert client.response().text == "thanks"
    assert proxy.wait() == 0


def test_tunnels_and_relays_go_on_until_they_end(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    sockets, echoes, one, two = actor(websocket_echo), actor(echoing), free_port(), free_port()
    proxy = edge(f"listeners:\n  web: {{bind: '127.0.0.1:{one}', protocol: http}}\n"
                 f"  relay: {{bind: '127.0.0.1:{two}', protocol: tcp, service: t}}\nroutes: [{{service: w}}]\n"
                 f"services:\n  w: {{endpoints: ['127.0.0.1:{sockets.port}']}}\n"
                 f"  t: {{endpoints: ['127.0.0.1:{echoes.port}']}}\n")
    socket, raw = dial(one), dial(two)
    open_websocket(socket)
    raw.send(b"x")
    assert raw.exactly(1) == b"x"
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(one) and refused(two), "no new connections")
    for _ in range(3):
        echo(socket, b"still here")
        raw.send(b"me too")
        assert raw.exactly(6) == b"me too"
    socket.close()
    raw.close()
    assert proxy.wait() == 0
    assert {line["outcome"] for line in proxy.lines()} == {"ok"}


def test_what_does_not_end_is_cut_with_status_3(
        edge: StartEdge, stage: StartStage, actor: StartActor, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port) + "shutdown: {drain: 500ms}\n")
    hanging, tunnel = dial(port), dial(port)
    hanging.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
    hanging.until(b"part")
    tunnel.get("/t", "x.invalid", "Connection: Upgrade", "Upgrade: custom")
    upgraded = endpoint.accept()
    upgraded.request()
    upgraded.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n")
    assert tunnel.response().status == 101
    began = time.monotonic()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 3
    assert 0.45 < time.monotonic() - began < 3
    assert hanging.ending()[1] is End.RESET, "it must not look complete"
    tunnel.ending()
    channel.ending()
    lines = proxy.lines()
    assert len(lines) == 2 and all(line["outcome"] != "ok" for line in lines), lines
    assert re.search("2 connections (were )?cut", proxy.errors)


def test_a_relay_that_does_not_end_is_cut_with_status_3(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port) + "shutdown: {drain: 300ms}\n")
    client = dial(port)
    client.send(b"x")
    server = endpoint.accept()
    assert server.exactly(1) == b"x"
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 3
    assert client.ending() == (b"", End.RESET)
    assert server.ending() == (b"", End.RESET)
    assert len(proxy.lines()) == 1 and proxy.lines()[0]["outcome"] != "ok"


def test_sigint_twice_ends_at_once(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    began = time.monotonic()
    proxy.signal(signal.SIGINT)
    eventually(lambda: refused(port), "no new connections")
    proxy.signal(signal.SIGINT)
    assert proxy.wait() == 0
    assert time.monotonic() - began < 1
    client.ending()


def test_sigterm_during_a_reload(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    routes = "".join(f"  - {{host: h{n}.test, service: app}}\n" for n in range(2000))
    text = (f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\nroutes:\n  - {{service: app}}\n{routes}"
            f"services: {{app: {{endpoints: ['127.0.0.1:{nginx['a']}']}}}}\n")
    proxy = edge(web(port, nginx["a"]))
    proxy.write(text)
    proxy.signal(signal.SIGHUP)
    proxy.signal(signal.SIGTERM)
    assert proxy.wait(10) == 0
    assert refused(port)
