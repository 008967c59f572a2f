"""Upgrades: WebSocket direct and through nginx, what goes with 101, and upgrades that are not granted."""
from __future__ import annotations

import os

import pytest

from e2e.backends import Nginx, StartActor, StartStage
from e2e.frames import CLOSE, PING, PONG, TEXT, echo, frame, open_websocket, read_frame, websocket_echo
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial, End

ASK = ("GET /chat HTTP/1.1\r\nHost: x.invalid\r\nConnection: Upgrade\r\nUpgrade: %s\r\n"
       "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
SWITCH = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"


@pytest.mark.parametrize("through", ["direct", "nginx"])
def test_echo(edge: StartEdge, actor: StartActor, nginx: Nginx, dial: Dial, through: str) -> None:
    endpoint = actor(websocket_echo, nginx.behind)
    port = free_port()
    proxy = edge(web(port, endpoint.port if through == "direct" else nginx["a"]))
    client = dial(port)
    open_websocket(client)
    for size in (0, 1, 125, 126, 65535, 65536, 1_000_000):
        echo(client, os.urandom(size), kind=2)
    client.send(frame(PING, b"are you there", masked=True))
    assert read_frame(client) == (PONG, b"are you there")
    client.send(frame(CLOSE, b"\x03\xe8", masked=True))
    assert read_frame(client) == (CLOSE, b"\x03\xe8")
    assert client.ending() == (b"", End.FIN)
    client.close()
    line = proxy.entry()
    assert (line["status"], line["outcome"], line["path"]) == (101, "ok", "/websocket")
    assert line["bytes_in"] > 1_131_000 < line["bytes_out"]


def test_what_comes_with_the_101_is_not_lost(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(ASK % "websocket")
    channel = endpoint.accept()
    channel.request()
    channel.send((SWITCH % "websocket").encode() + frame(TEXT, b"welcome", masked=False))
    assert client.response().status == 101
    assert read_frame(client) == (TEXT, b"welcome")


def test_premature_bytes_wait_for_the_101(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    early = frame(TEXT, b"early", masked=True)
    client.send((ASK % "websocket").encode() + early)
    channel = endpoint.accept()
    channel.request()
    assert channel.quiet(), "not tunnelled before the endpoint agreed"
    channel.send(SWITCH % "websocket")
    assert client.response().status == 101
    assert read_frame(channel) == (TEXT, b"early")


def test_premature_bytes_are_a_request_if_it_is_refused(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(ASK % "websocket" + "GET /next HTTP/1.1\r\nHost: x.invalid\r\n\r\n")
    channel = endpoint.accept()
    assert channel.request().target == "/chat"
    assert channel.quiet()
    channel.answer(b"no", "403 Forbidden")
    assert client.response().status == 403
    second = channel if not channel.quiet(0.05) else endpoint.accept()
    assert second.request().target == "/next"
    second.answer(b"next")
    assert client.response().text == "next"


def test_any_protocol_may_be_asked_for(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(ASK % "custom/7")
    channel = endpoint.accept()
    assert channel.request().get("upgrade") == "custom/7"
    channel.send(SWITCH % "custom/7")
    assert client.response().get("upgrade") == "custom/7"
    client.send(b"\0\1\2")
    assert channel.exactly(3) == b"\0\1\2"
    channel.send(b"\xff\n\r")
    assert client.exactly(3) == b"\xff\n\r"


def test_half_close_in_the_tunnel(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(ASK % "custom")
    channel = endpoint.accept()
    channel.request()
    channel.send(SWITCH % "custom")
    assert client.response().status == 101
    client.send(b"my last words")
    client.half_close()
    assert channel.ending() == (b"my last words", End.FIN)
    channel.send(b"and mine")
    channel.close()
    assert client.ending() == (b"and mine", End.FIN)


@pytest.mark.parametrize("who", ["client", "endpoint"])
def test_a_reset_in_the_tunnel_is_passed_on(edge: StartEdge, stage: StartStage, dial: Dial, who: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.send(ASK % "custom")
    channel = endpoint.accept()
    channel.request()
    channel.send(SWITCH % "custom")
    assert client.response().status == 101
    one, other = (client, channel) if who == "client" else (channel, client)
    one.reset()
    assert other.ending() == (b"", End.RESET)
    line = proxy.entry()
    assert line["phase"] == "tunnel"
    assert line["outcome"] == ("client_gone" if who == "client" else "response_cut")


def test_an_idle_tunnel_ends_after_its_own_time(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener="timeouts: {tunnel: 300ms, idle: 50ms, header: 50ms, body: 50ms}",
                     route="timeouts: {response: 100ms}"))
    client = dial(port)
    client.send(ASK % "custom")
    channel = endpoint.accept()
    channel.request()
    channel.send(SWITCH % "custom")
    assert client.response().status == 101
    assert client.quiet(0.2), "no other timeout holds here"
    client.ending()
    channel.ending()
    assert proxy.entry()["outcome"] == "idle_timeout"


def test_101_that_nobody_asked_for_is_502(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send(SWITCH % "websocket")
    assert client.response().status == 502


def test_h2c_is_never_passed_on(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/", "x.invalid", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAA")
    channel = endpoint.accept()
    request = channel.request()
    assert (request.get("upgrade"), request.get("connection"), request.get("http2-settings")) == (None, None, None)
    channel.answer(b"plain")
    assert client.response().text == "plain"


def test_upgrade_without_connection_is_dropped(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/", "x.invalid", "Upgrade: websocket")
    channel = endpoint.accept()
    assert channel.request().get("upgrade") is None
