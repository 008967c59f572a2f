"""One line for each exchange, whole and true; log files that are moved away, unwritable places."""
from __future__ import annotations

import datetime
import os
import re
import signal
from pathlib import Path

import pytest

from e2e.backends import Nginx, StartActor, StartStage, answering
from e2e.program import StartEdge, free_port, web
from e2e.waiting import eventually
from e2e.wire import Dial, ask

KEYS = {"ts", "kind", "client", "method", "host", "path", "protocol", "user_agent", "referer", "status", "bytes_in",
        "bytes_out", "duration_ms", "queue_ms", "connect_ms", "first_byte_ms", "listener", "route", "service",
        "endpoint", "attempts", "reused", "outcome", "phase", "request_id", "traceparent"}


def test_every_field(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, route="name: the-route"))
    client = dial(port, source="127.0.0.7")
    client.send("POST /path%20x?y=1 HTTP/1.1\r\nHost: Shop.Example:8080\r\nUser-Agent: curl/8\r\n"
                "Referer: http://r.example/\r\nContent-Length: 5\r\n\r\nhello")
    channel = endpoint.accept()
    channel.request()
    assert channel.quiet(0.1)
    channel.answer(b"hello, world", "201 Created")
    assert client.response().status == 201
    line = proxy.entry()
    assert set(line) == KEYS
    when = datetime.datetime.fromisoformat(line["ts"])
    assert abs((datetime.datetime.now(datetime.UTC) - when).total_seconds()) < 5
    assert {key: line[key] for key in KEYS - {"ts", "duration_ms", "connect_ms", "first_byte_ms", "request_id"}} == {
        "kind": "http", "client": "127.0.0.7", "method": "POST", "host": "shop.example", "path": "/path%20x?y=1",
        "protocol": "HTTP/1.1", "user_agent": "curl/8", "referer": "http://r.example/", "status": 201, "bytes_in": 5,
        "bytes_out": 12, "queue_ms": None, "listener": "web", "route": "the-route", "service": "app",
        "endpoint": f"127.0.0.1:{endpoint.port}", "attempts": [], "reused": False, "outcome": "ok", "phase": "done",
        "traceparent": ""}
    assert line["duration_ms"] >= line["first_byte_ms"] >= 90
    assert 0 <= line["connect_ms"] < line["duration_ms"]
    assert line["request_id"]


def test_one_line_for_each_request_also_under_load(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    client = dial(port)
    for start in range(0, 5000, 100):
        client.send("".join(f"GET /{n} HTTP/1.1\r\nHost: x.invalid\r\n\r\n" for n in range(start, start + 100)))
        for _ in range(100):
            assert client.response().status == 200
    assert [line["path"] for line in proxy.logged(5000)] == [f"/{n}" for n in range(5000)]


def test_combined(edge: StartEdge, actor: StartActor) -> None:
    endpoint, port = actor(answering("four")), free_port()
    proxy = edge(web(port, endpoint.port) + "access_log: {path: access.json, format: combined}\n")
    ask(port, "/a?b", "x.invalid", 'User-Agent: say "hi"', "Referer: r")
    eventually(lambda: proxy.log.exists() and proxy.log.read_text().endswith("\n"), "a line")
    assert re.fullmatch(r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a\?b HTTP/1\.1" 200 4 '
                        r'"r" "say \\x22hi\\x22"\n', proxy.log.read_text())


def test_standard_output(edge: StartEdge, actor: StartActor) -> None:
    endpoint, port = actor(answering("x")), free_port()
    proxy = edge(web(port, endpoint.port) + "access_log: {path: '-'}\n")
    ask(port)
    eventually(lambda: '"status":200' in proxy.output, "a line on standard output")
    assert len(proxy.output.splitlines()) == 1, "which belongs to the access log alone"


def test_off(edge: StartEdge, actor: StartActor) -> None:
    endpoint, port = actor(answering("x")), free_port()
    proxy = edge(web(port, endpoint.port) + "access_log: {format: 'off'}\n")
    ask(port)
    proxy.stop()
    assert proxy.output == "" and not proxy.log.exists()


def test_usr1_opens_the_file_again(edge: StartEdge, actor: StartActor) -> None:
    endpoint, port = actor(answering("x")), free_port()
    proxy = edge(web(port, endpoint.port))
    ask(port, "/1")
    proxy.logged(1)
    moved = proxy.folder / "access.json.1"
    proxy.log.rename(moved)
    ask(port, "/2")
    eventually(lambda: "/2" in moved.read_text(), "still to the old one")
    proxy.signal(signal.SIGUSR1)
    eventually(proxy.log.exists, "a new file")
    ask(port, "/3")
    assert proxy.entry()["path"] == "/3"
    assert "/3" not in moved.read_text()


def test_a_full_disk_loses_lines_not_requests(edge: StartEdge, actor: StartActor) -> None:
    endpoint, port = actor(answering("x")), free_port()
    proxy = edge(web(port, endpoint.port) + "access_log: {path: /dev/full}\n")
    for _ in range(50):
        assert ask(port).status == 200
    eventually(lambda: "lost" in proxy.errors or "dropped" in proxy.errors, "the losses are told")


def test_a_pipe_nobody_reads_does_not_block(edge: StartEdge, actor: StartActor, dial: Dial, tmp_path: Path) -> None:
    endpoint, port = actor(answering("x")), free_port()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        edge(web(port, endpoint.port) + f"access_log: {{path: {pipe}}}\n")
        client = dial(port)
        for _ in range(2000):  # some 700 KB of log, the pipe holds 64
            client.get()
            assert client.response().status == 200
    finally:
        os.close(reader)


@pytest.mark.parametrize("field", ["User-Agent", "Referer", "traceparent"])
def test_no_client_can_forge_a_line(edge: StartEdge, actor: StartActor, field: str) -> None:
    endpoint, port = actor(answering("x")), free_port()
    proxy = edge(web(port, endpoint.port))
    evil = '"},{"status":200,"path":"/forged"}\\n\\u0000\t\x80\xff\u00e9 \\'
    ask(port, "/%0d%0a%22?\"\\'", "x.invalid", f"{field}: {evil}")
    line = proxy.entry()
    assert line["path"] == "/%0d%0a%22?\"\\'"
    assert line[field.lower().replace("-", "_")] == evil
    raw = proxy.log.read_bytes()
    assert raw.count(b"\n") == 1 and all(32 <= byte < 127 for byte in raw.rstrip(b"\n")), "printable ASCII only"


@pytest.mark.parametrize("format", ["json", "combined"])
@pytest.mark.parametrize("head", [
    b"GET / HTTP/1.1\r\nHost: x.invalid\r\nUser-Agent: a\x1b[31mred\x07\r\n\r\n",
    b"GET /\x1b]0;title\x07 HTTP/1.1\r\nHost: x.invalid\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\ninvalid\r\n\r\n",
    b"\x1b[2J\x1b[1;1H HTTP/1.1\r\nHost: x.invalid\r\n\r\n",
    b"GET /\xc2\x85\xe2\x80\xa8 HTTP/1.1\r\nHost: x.invalid\r\n\r\n",
])
def test_control_bytes_reach_no_log(edge: StartEdge, actor: StartActor, dial: Dial, head: bytes, format: str) -> None:
    endpoint, port = actor(answering("x")), free_port()
    proxy = edge(web(port, endpoint.port) + f"access_log: {{path: access.json, format: {format}}}\n")
    client = dial(port)
    client.send(head)
    client.response()
    eventually(lambda: proxy.log.exists() and proxy.log.read_bytes().endswith(b"\n"), "a line")
    raw = proxy.log.read_bytes()
    assert raw.count(b"\n") == 1 and all(32 <= byte < 127 for byte in raw.rstrip(b"\n"))
    assert all(byte == 10 or 32 <= byte < 127 for byte in proxy.errors.encode())
