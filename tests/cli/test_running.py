"""The commands that run: `-c`, `proxy` and `demo`, with real sockets, real signals and the curl lines as printed."""
from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest
from commandline import PROGRAM, edgeproxy, environment, running

from edgeproxy.demo import Backends, free_port
from edgeproxy.oneline import one_line_config, resolve

CONF = """\
listeners: {{web: {{bind: "127.0.0.1:{port}", protocol: http}}}}
routes: [{{name: all, service: hello}}]
services: {{hello: {{endpoints: ["{backend}"]}}}}
"""


@pytest.fixture
def backends() -> Iterator[dict[str, str]]:
    with Backends(("amber", "blue")) as some:
        yield some.addresses


@pytest.fixture
def port() -> int:
    return free_port(0)


def get(port: int, path: str = "/", method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"User-Agent": "test"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("latin-1")
    finally:
        connection.close()


# ---- run

def test_run_serves_and_drains(tmp_path: Path, backends: dict[str, str], port: int) -> None:
    (tmp_path / "conf.yaml").write_text(CONF.format(port=port, backend=backends["amber"]))
    with running("-c", "conf.yaml", cwd=tmp_path) as it:
        it.line(f"127.0.0.1:{port}")
        assert it.lines["out"] == []  # standard output is the access log's
        status, body = get(port, "/hello?x=1")
        assert status == 200 and body.startswith("amber got GET /hello?x=1\n")
        assert it.end(signal.SIGTERM) == 0
        [line] = map(json.loads, it.lines["out"])
    assert (line["kind"], line["method"], line["path"], line["status"]) == ("http", "GET", "/hello?x=1", 200)
    assert (line["listener"], line["route"], line["service"], line["endpoint"]) == (
        "web", "all", "hello", backends["amber"])
    assert (line["outcome"], line["phase"], line["client"], line["user_agent"]) == ("ok", "done", "127.0.0.1", "test")
    assert 0 < line["first_byte_ms"] <= line["duration_ms"] < 10_000 and line["bytes_out"] >= len(body)
    assert line["request_id"] in body


def test_an_interrupt_ends_a_run(tmp_path: Path, backends: dict[str, str], port: int) -> None:
    (tmp_path / "edgeproxy.yaml").write_text(CONF.format(port=port, backend=backends["amber"]))
    with running(cwd=tmp_path) as it:
        it.line(f"127.0.0.1:{port}")
        assert it.end() in (0, 130)


def test_logs_are_opened_again(tmp_path: Path, backends: dict[str, str], port: int) -> None:
    (tmp_path / "conf.yaml").write_text(CONF.format(port=port, backend=backends["amber"]) +
                                        "access_log: {path: a.log, format: combined}\n")
    with running("-c", "conf.yaml", cwd=tmp_path) as it:
        it.line(f"127.0.0.1:{port}")
        get(port, "/before")
        (tmp_path / "a.log").rename(tmp_path / "a.log.1")
        it.process.send_signal(signal.SIGUSR1)
        # Signals are taken in between requests: by the answer of the second one the first was taken.
        get(port, "/meanwhile")
        get(port, "/after")
        assert it.end(signal.SIGTERM) == 0
    assert '"GET /before HTTP/1.1" 200' in (tmp_path / "a.log.1").read_text()
    assert '"GET /after HTTP/1.1" 200' in (tmp_path / "a.log").read_text()


def test_a_busy_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "conf.yaml").write_text(CONF.format(port=port, backend="127.0.0.1:1"))
        done = edgeproxy("-c", "conf.yaml", cwd=tmp_path)
        assert (done.status, done.out) == (1, "")
        [line] = done.err.splitlines()
        assert line.startswith("edgeproxy: ") and str(port) in line and "in use" in line
        assert edgeproxy("proxy", "--from", f"127.0.0.1:{port}", "--to", "127.0.0.1:1").status == 1


def privileged() -> bool:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        return int(file.read()) > 81


WITHOUT_CAPABILITY = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 10, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE; for root, nobody else has it
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(not privileged(), reason="every port is free for everyone here")
def test_a_privileged_port_is_one_line() -> None:
    command = [*PROGRAM, "proxy", "--from", "127.0.0.1:81", "--to", "127.0.0.1:1"]
    args = [sys.executable, "-c", WITHOUT_CAPABILITY, *command]
    done = subprocess.run(args, cwd="/", text=True, env=environment(), capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("edgeproxy: ") and "127.0.0.1:81" in line and "permission denied" in line


# ---- proxy

def test_proxy_with_two_backends(backends: dict[str, str], port: int) -> None:
    with running("proxy", "--from", f"127.0.0.1:{port}", "--to", backends["amber"],
                 "--to", f"http://{backends['blue']}/") as it:
        it.line(f"127.0.0.1:{port}")
        names = [get(port)[1].split()[0] for _ in range(6)]
        assert sorted(names) == ["amber"] * 3 + ["blue"] * 3 and names[0] != names[1]
        assert get(port, "/x/echo", "POST", b"abc" * 100_000) == (200, "abc" * 100_000)
        it.line('127.0.0.1 - - [')
        assert it.end(signal.SIGTERM) == 0
        assert sum('"GET / HTTP/1.1" 200 ' in line for line in it.lines["out"]) == 6


def test_proxy_tells_what_names_are_and_uses_the_first_that_answers(backends: dict[str, str], port: int) -> None:
    backend_port = backends["amber"].partition(":")[2]
    with running("proxy", "--from", f"127.0.0.1:{port}", "--to", f"localhost:{backend_port}", "--log", "off") as it:
        assert "127.0.0.1:" + backend_port in it.line(f"localhost:{backend_port} is ")
        it.line(f"127.0.0.1:{port}")
        assert all(get(port)[1].startswith("amber") for _ in range(5))
        it.end()
        assert it.lines["out"] == []


@pytest.mark.parametrize(("listen", "to", "status", "message"), [
    (":8080", "https://unix:/run/app.sock", 2,
     "--to https://unix:/run/app.sock: a unix socket has no name to check in a certificate; write a file for that"),
    (":8080", "ftp://a.example", 2,
     "--to ftp://a.example: ftp is not spoken; http://, https:// and plain addresses are"),
    (":8080", "localhost:3000/path", 2,
     "--to localhost:3000/path: only a host and a port can be given; paths are changed by a file with rewrite"),
    (":8080", "localhost:99999", 2,
     "--to localhost:99999: not an address; write localhost:3000, 10.0.0.5:80 or [::1]:80"),
    (":8080", "", 2, "--to : not an address; write localhost:3000, 10.0.0.5:80 or [::1]:80"),
    (":8080", "unix:", 2, '--to unix:: the path of the socket is missing; write "unix:/run/app.sock"'),
    ("here", "localhost:3000", 2, '--from: "here" has no port; write ":8080"'),
    (":8080", "nowhere.invalid:80", 1, "--to nowhere.invalid:80: nowhere.invalid does not resolve: "),
])
def test_proxy_with_wrong_addresses(listen: str, to: str, status: int, message: str) -> None:
    done = edgeproxy("proxy", "--from", listen, "--to", to)
    assert (done.status, done.out) == (status, "")
    [line] = done.err.splitlines()
    assert line.startswith(f"edgeproxy: proxy: {message}") and (status == 1 or line.endswith(message))


def test_what_to_means() -> None:
    def addresses(text: str) -> list[str]:
        return [endpoint.address for endpoint in resolve(text)]
    assert addresses("10.0.0.5:80") == ["10.0.0.5:80"]
    assert addresses("http://10.0.0.5") == ["10.0.0.5:80"]
    assert addresses("[::1]:3000") == ["[::1]:3000"]
    assert addresses("unix:/run/app.sock") == ["unix:/run/app.sock"]
    for text in ("3000", ":3000", "localhost:3000", "http://LOCALHOST:3000/"):
        assert "127.0.0.1:3000" in addresses(text) + ["127.0.0.1:3000"][len(addresses(text)) > 1:]
        assert [endpoint.backup for endpoint in resolve(text)] == [False, True][:len(addresses(text))]


def test_an_address_given_twice_is_one_endpoint() -> None:
    config, lines = one_line_config("8080", ["10.0.0.5:80", "http://10.0.0.5:80", "10.0.0.6:80"], "json")
    assert [e.address for e in config.services["upstream"].endpoints] == ["10.0.0.5:80", "10.0.0.6:80"]
    assert str(config.listeners["proxy"].bind[0]) == ":8080"
    assert lines == ["http://10.0.0.5:80 is 10.0.0.5:80"]


def test_https_to_the_backend() -> None:
    config, lines = one_line_config("8080", ["https://localhost", "https://localhost:8443/"], "json")
    service, [route] = config.services["upstream"], config.routes
    assert (service.protocol, service.tls.server_name, service.tls.verify) == ("https", "localhost", True)
    assert {e.port for e in service.endpoints} == {443, 8443} and route.rewrite.host == "localhost"
    assert lines[-1] == "requests go on with Host: localhost"
    config, lines = one_line_config("8080", ["https://10.0.0.5"], "json")
    assert config.services["upstream"].tls.server_name is None and config.routes[0].rewrite.host is None
    for to in (["https://localhost", "http://localhost"], ["https://localhost", "https://127.0.0.1"]):
        with pytest.raises(ValueError, match="all are https with one and the same name, or none is"):
            one_line_config("8080", to, "json")


# ---- demo

def test_demo_s_curl_lines_work_as_printed() -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl")
    with running("demo") as it:
        it.line("ctrl-C ends it")
        shown = list(it.lines["out"])
        lines = {line.split("  ")[1]: line for line in shown if line.startswith("  curl ")}
        assert len(lines) == 10
        first = [line.split(" -> ")[1] for line in shown if line.startswith("GET http://127.0.0.1:")]
        secure = [line.split(" -> ")[1] for line in shown if line.startswith("GET https://127.0.0.1:")]
        assert len(secure) == 1 and secure[0].startswith("200 ")
        assert len(first) == 3 and all(answer.startswith("200 ") for answer in first)
        answers = [subprocess.run(["curl", "-s", "-S", "--max-time", "10", *shlex.split(command)[1:]],
                                  capture_output=True, text=True, timeout=20) for command in lines]
        assert [answer.returncode for answer in answers] == [0] * 10, [answer.stderr for answer in answers]
        catch_all, amber, blue, echo, moved, ping, encrypted, h2, checked, relayed = (answer.stdout for answer in answers)
        assert " got GET /\n" in encrypted and "X-Forwarded-Proto: https" in encrypted
        assert (h2, checked) == ("hello", "pong\n")
        assert " got GET /\n" in catch_all and "X-Forwarded-For: 127.0.0.1" in catch_all
        assert amber.startswith("amber got GET /hello\n")
        assert blue.startswith("blue got GET /\n") and "Host: blue.example" in blue
        assert (echo, ping) == ("hello", "pong\n")
        assert moved.startswith("HTTP/1.1 308 ") and "/new/page" in moved
        assert " got GET /\n" in relayed and "X-Forwarded-For" not in relayed
        it.line('"GET /ping HTTP/1.1" 200')
        assert it.end() in (0, 130)
        assert it.lines["err"] == [], "nothing to warn of either"


def test_demo_takes_other_ports_if_its_own_are_taken() -> None:
    with ExitStack() as servers:
        some = [servers.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        taken = [str(server.getsockname()[1]) for server in some]
        with running("demo", "--port", taken[0], "--https-port", taken[1], "--tcp-port", taken[2]) as it:
            it.line("ctrl-C ends it")
            for number in taken:
                it.line(f"port {number} cannot be had, taking ")
            assert it.end() in (0, 130)


def test_demo_echoes_websocket_frames(port: int) -> None:
    with running("demo", "--port", str(port), "--https-port", "0", "--tcp-port", "0") as it:
        it.line("ctrl-C ends it")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock, sock.makefile("rb") as file:
            sock.sendall(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                         b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            head = b"".join(iter(file.readline, b"\r\n"))
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head  # the example of RFC 6455 §1.3
            greeting = file.read(2)
            assert greeting[0] == 0x81 and file.read(greeting[1]).startswith(b"hello from ")
            for first, back, size in ((0x81, 0x81, 5), (0x82, 0x82, 200), (0x02, 0x02, 70_000), (0x89, 0x8A, 3)):
                payload = bytes(i % 251 for i in range(size))
                sock.sendall(masked(first, payload))
                assert read_frame(file) == (back, payload)
            sock.sendall(masked(0x88, b"\x03\xe8"))
            assert read_frame(file) == (0x88, b"\x03\xe8")
            assert file.read() == b""
        assert it.end() in (0, 130)


def masked(first: int, payload: bytes) -> bytes:
    mask = b"\x01\x20\x7f\xff"
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else (
        b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big"))
    return bytes((first,)) + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def read_frame(file: object) -> tuple[int, bytes]:
    read = file.read  # type: ignore[attr-defined]
    first, size = read(2)
    if size > 125:
        size = int.from_bytes(read(2 if size == 126 else 8), "big")
    return first, read(size)


def test_python_m_edgeproxy_is_the_installed_command() -> None:
    assert PROGRAM[0] == sys.executable
    script = Path(sys.executable).with_name("edgeproxy")
    if not script.exists():
        pytest.skip("not installed")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30)
    assert done.stdout == edgeproxy("--version").out
