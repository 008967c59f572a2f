"""An endpoint that is killed in each phase: status, Proxy-Status, outcome; and a cut body never looks complete."""
from __future__ import annotations

import subprocess

import pytest

from e2e.backends import StartStage
from e2e.program import StartEdge, free_port, web
from e2e.wire import Cut, Dial, Wire, ask

ONE_TRY = "retry: {attempts: 1}"


def _die(wire: Wire, how: str) -> None:
    wire.reset() if how == "reset" else wire.close()


def test_before_connect(edge: StartEdge) -> None:
    port = free_port()
    proxy = edge(web(port, free_port(), route=ONE_TRY))
    answer = ask(port)
    assert answer.status == 502
    assert "edgeproxy; error=connection_refused; details=" in (answer.get("proxy-status") or "")
    line = proxy.entry()
    assert (line["status"], line["outcome"], line["phase"]) == (502, "connect_refused", "connect")


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_after_accept(edge: StartEdge, stage: StartStage, dial: Dial, how: str, method: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, route=ONE_TRY))
    client = dial(port)
    client.get("/", "x.invalid", "Content-Length: 0", method=method)
    channel = endpoint.accept()
    channel.request()
    _die(channel, how)
    answer = client.response()
    assert answer.status == 502
    assert "error=connection_terminated" in (answer.get("proxy-status") or "")
    line = proxy.entry()
    assert (line["status"], line["outcome"], line["phase"], line["attempts"]) == (
        502, "reset", "wait", [{"endpoint": f"127.0.0.1:{endpoint.port}", "reason": "reset"}])
    client.get("/next")
    endpoint.accept().answer(b"next")
    assert client.response().text == "next", "the client's connection is not to blame"


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("part", ["H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"])
def test_mid_head(edge: StartEdge, stage: StartStage, dial: Dial, how: str, part: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, route=ONE_TRY))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send(part)
    assert client.quiet()
    _die(channel, how)
    answer = client.response()
    assert answer.status == 502
    assert "error=http_response_incomplete" in (answer.get("proxy-status") or "")
    line = proxy.entry()
    assert (line["status"], line["outcome"], line["phase"]) == (502, "response_cut", "wait")


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_mid_body(edge: StartEdge, stage: StartStage, dial: Dial, how: str, framing: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n" + ("5\r\n" if "chunked" in framing else "") + "hello")
    assert b"200" in client.until(b"hello")
    _die(channel, how)
    with pytest.raises(Cut) as cut:
        client.exactly(1000)
    assert b"0\r\n" not in cut.value.args[2], "never the last chunk"
    line = proxy.entry()
    assert (line["status"], line["outcome"], line["phase"]) == (200, "response_cut", "body")
    assert line["bytes_out"] == 5


@pytest.mark.parametrize("broken", [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    "HTTP/1.1 200 OK\r\nX: " + "y" * 70_000 + "\r\n\r\n",
])
def test_garbage(edge: StartEdge, stage: StartStage, dial: Dial, broken: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send(broken)
    answer = client.response()
    assert answer.status == 502
    assert "error=http_protocol_error" in (answer.get("proxy-status") or "")
    assert proxy.entry()["outcome"] == "response_broken"
    channel.ending()  # the channel is closed, and not tried again
    assert endpoint.untouched()


@pytest.mark.parametrize("broken", ["5\nhello\n0\n\n", "zz\r\nhello\r\n", "5\r\nhelloworld\r\n0\r\n\r\n"])
def test_garbage_in_the_body_cuts(edge: StartEdge, stage: StartStage, dial: Dial, broken: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    client.until(b"abc\r\n")
    channel.send(broken)
    with pytest.raises(Cut) as cut:
        client.exactly(1000)
    assert b"0\r\n\r\n" not in cut.value.args[2]
    line = proxy.entry()
    assert (line["status"], line["phase"]) == (200, "body") and line["outcome"] in ("response_broken", "response_cut")


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_idle_in_the_pool(edge: StartEdge, stage: StartStage, dial: Dial, how: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, route=ONE_TRY))
    client = dial(port)
    client.get("/1")
    channel = endpoint.accept()
    channel.request()
    channel.answer(b"one")
    assert client.response().text == "one"
    _die(channel, how)
    if how == "fin":
        assert channel.sock.fileno() == -1
    client.get("/2", "x.invalid", "Content-Length: 0", method="POST")
    fresh = endpoint.accept()
    assert fresh.request().target == "/2"
    fresh.answer(b"two")
    assert client.response().text == "two"
    assert [line["outcome"] for line in proxy.logged(2)] == ["ok", "ok"]


def test_while_the_request_is_still_sent(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, route=ONE_TRY))
    client = dial(port)
    client.send("POST / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 100\r\n\r\npart")
    channel = endpoint.accept()
    channel.request(body=False)
    assert channel.exactly(4) == b"part"
    channel.reset()
    answer = client.response()
    assert answer.status == 502
    assert proxy.entry()["outcome"] == "reset"
    client.close()


def test_a_client_can_tell_a_cut_body_with_curl(edge: StartEdge, stage: StartStage) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    for framing in ("Content-Length: 10", "Transfer-Encoding: chunked"):
        curl = subprocess.Popen(["curl", "-s", "--max-time", "5", f"http://127.0.0.1:{port}/"],
                                stdout=subprocess.PIPE)
        channel = endpoint.accept()
        channel.request()
        channel.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello")
        channel.close()
        curl.communicate(timeout=5)
        assert curl.returncode == 18, "partial file"


def test_fin_is_the_end_of_what_is_complete(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    channel.close()
    assert client.response().text == "hello"
    assert proxy.entry()["outcome"] == "ok"
    assert client.quiet()
