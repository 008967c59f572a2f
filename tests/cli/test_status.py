"""`edgeproxy status`, `endpoint` and `explain --live`: the tables, and a proxy that runs and is asked."""
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from commandline import Done, Running, edgeproxy, running

from e2e.waiting import eventually
from edgeproxy import adminclient
from edgeproxy.demo import Backends, free_port
from edgeproxy.statustext import lines, plain, span


def endpoint(address: str, **parts: Any) -> dict[str, Any]:
    return {"address": address, "name": None, "weight": 1, "backup": False, "state": "up", "ready": True, "reason": None,
            "since": 192.0, "share": 0.5, "ramp": None, "active": 3, "total": 1002, "failed": 0, "latency_ms": None,
            **parts}


REPORT: dict[str, Any] = {
    "version": "1.2", "pid": 4711, "started": 1.8e9, "uptime": 11520.0, "draining": False, "reload_refused": None,
    "leaving_connections": 0,
    "listeners": [{"name": "web", "bind": [":80", "[::1]:81"], "protocol": "http", "connections": 12, "limit": None,
                   "leads_to": "routes"},
                  {"name": "pg", "bind": [":5432"], "protocol": "tcp", "connections": 2, "limit": 100, "leads_to": "pg"}],
    "services": [
        {"name": "site", "picker": "round-robin", "hash_of": None, "ready": 1, "size": 3, "fallback": None, "waiting": 0, "queue": 10,
         "affinity": {"by": "client_ip", "timeout": 10800.0, "clients": 2},
         "health": {"by": "http", "path": "/healthz", "interval": 2.0}, "unresolved": None, "endpoints": [
             endpoint("10.0.0.1:80", share=1.0, latency_ms=12.14),
             endpoint("10.0.0.2:80", state="down", since=12.4, share=0.0, failed=7,
                      reason="3 probes in a row failed: status 500"),
             endpoint("10.0.0.3:80", backup=True, share=0.0, ramp=0.25, name="web.test")],
         "leaving": [endpoint("10.0.0.9:80", state="draining", share=0.0, since=0.3, reason="it is named no more")]},
        {"name": "pg", "picker": "hash", "hash_of": "header x-user", "ready": 0, "size": 0, "fallback": None, "waiting": 0, "queue": 0,
         "affinity": None, "health": None, "unresolved": "timeout of 10.0.0.53", "endpoints": [], "leaving": []}],
    "dns": [{"service": "site", "name": "web.test", "type": "A", "addresses": ["10.0.0.3", "10.0.0.4"], "ttl_left": 20.0,
             "next_in": 18.2, "chain": ["a.test", "b.test"], "stale_for": 4.0, "failures": 2, "error": "SERVFAIL",
             "server": "10.0.0.53:53", "queries": {"found": 3}}],
    "certificates": [{"cert": "/c.pem", "names": ["a.test", "*.a.test"], "key_type": "ecdsa", "days_left": 30,
                      "expired": False, "used_by": ["listener web"]}],
    "events": [{"at": 1763831976.0, "kind": "endpoint", "service": "site", "subject": "10.0.0.2:80",
                "text": "down: \x1b[31mred"}]}

TEXT = """\
edgeproxy 1.2, pid 4711, up 3h12m, ready

LISTENER  BIND          PROTOCOL  CONNECTIONS  LEADS TO
web       :80,[::1]:81  http               12  routes
pg        :5432         tcp             2/100  pg

SERVICE  PICKER              READY  AFFINITY                PROBES                 WAITING  WHY
site     round-robin         1/3    client_ip,3h,clients=2  http /healthz each 2s     0/10
pg       hash:header:x-user  0/0    -                       -                            0  not resolved: timeout of 10.0.0.53

SERVICE  ENDPOINT     STATE       FOR  WEIGHT  SHARE  ACTIVE  TOTAL  FAILED  LATENCY  WHY
site     10.0.0.1:80  up        3m12s       1   100%       3   1002       0   12.1ms
site     10.0.0.2:80  down        12s       1     0%       3   1002       7        -  3 probes in a row failed: status 500
site     10.0.0.3:80  up        3m12s  backup     0%       3   1002       0        -  slow start at 25 %; of web.test
site     10.0.0.9:80  draining  300ms       -     0%       3   1002       0        -  it is named no more

SERVICE  NAME      TYPE  TTL  NEXT  FAILURES  SERVER        ANSWER
site     web.test  A     20s   18s         2  10.0.0.53:53  SERVFAIL; stale for 4s; alias of a.test -> b.test; 10.0.0.3,10.0.0.4

CERTIFICATE  DAYS  KEY    USED BY       NAMES
/c.pem         30  ecdsa  listener web  a.test,*.a.test

WHEN                  SERVICE  SUBJECT      EVENT
2025-11-22T17:19:36Z  site     10.0.0.2:80  down: ?[31mred
"""


# ---- tables

def test_the_tables() -> None:
    assert "\n".join(lines(REPORT)) + "\n" == TEXT


def test_only_the_last_column_is_cut_to_a_terminal() -> None:
    for width in (40, 100, 120):
        for cut, whole in zip(lines(REPORT, width), lines(REPORT), strict=True):
            assert cut == whole or cut.endswith("…") and whole.startswith(cut[:-1])
            assert len(cut) <= max(width, 100) or not cut.endswith("…")  # eight characters of a last column are left


def test_states_have_colours_and_columns_stay() -> None:
    painted = list(lines(REPORT, None, lambda text, code: f"<{code}>{text}</>"))
    [down] = [line for line in painted if "10.0.0.2:80  <" in line]
    assert "10.0.0.2:80  <31>down</>      " in down
    [up] = [line for line in painted if "10.0.0.1:80" in line]
    assert "<32>up</>        3m12s" in up
    assert any(line.startswith("<1>LISTENER") for line in painted)


def test_a_refused_reload_and_a_drain_are_told() -> None:
    told = list(lines({**REPORT, "draining": True, "leaving_connections": 3, "reload_refused": "c.yaml:1:2: no\nmore"}))
    assert told[0] == ("edgeproxy 1.2, pid 4711, up 3h12m, draining, 3 connections of listeners that are gone\n"
                       "the last reload was refused: c.yaml:1:2: no")


@pytest.mark.parametrize(("count", "told"), [(0, ""), (1, ", 1 connection of"), (2, ", 2 connections of")])
def test_connections_are_counted_in_words(count: int, told: str) -> None:
    assert told in next(lines({**REPORT, "leaving_connections": count}))


@pytest.mark.parametrize(("fallback", "told"), [
    ("panic: all are used", "panic: all are used"), (None, "no endpoint is ready")])
def test_who_serves_though_none_is_ready(fallback: str | None, told: str) -> None:
    service = {**REPORT["services"][0], "ready": 0, "fallback": fallback}
    [line] = [line for line in lines({**REPORT, "services": [service]}) if "  0/3  " in line]
    assert line.endswith(f"  {told}")


def test_an_answer_without_addresses_is_one() -> None:
    name = {**REPORT["dns"][0], "type": "AAAA", "addresses": [], "chain": [], "stale_for": None, "error": None}
    for server, told in (("hosts file", "hosts file  no address"), (None, "-")):
        [line] = [line for line in lines({**REPORT, "dns": [{**name, "server": server}]}) if " AAAA " in line]
        assert line.endswith(told)


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0s"), (0.3, "300ms"), (1.0, "1s"), (59.9, "59s"), (60, "1m"), (192, "3m12s"), (10800, "3h"), (11520, "3h12m"),
    (86400, "1d"), (442800, "5d3h")])
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_nothing_that_a_terminal_obeys() -> None:
    assert plain("a\x1b[2J\n\u202eb") == "a?[2J??b"


# ---- where a proxy is found

def test_the_socket_is_found_by_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/one:/run/two")
    monkeypatch.chdir(tmp_path)
    assert adminclient.socket_of(["a.yaml"]) == adminclient.socket_of([str(tmp_path / "a.yaml")])
    assert adminclient.socket_of(["a.yaml", "b"]) == adminclient.socket_of(["b", "./a.yaml"])
    assert adminclient.socket_of(["a.yaml"]) != adminclient.socket_of(["b.yaml"])
    assert os.path.dirname(adminclient.socket_of(["a.yaml"])) == "/run/one"
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert os.path.dirname(adminclient.socket_of(["a.yaml"])) == "/run/user/7/edgeproxy"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert os.path.dirname(adminclient.socket_of(["a.yaml"])) == "/run/edgeproxy"
    monkeypatch.setattr(os, "geteuid", lambda: 1007)
    assert os.path.dirname(adminclient.socket_of(["a.yaml"])) == os.path.join(tempfile.gettempdir(), "edgeproxy-1007")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert len(adminclient.socket_of(["a.yaml"])) < 107


# ---- a proxy that runs

CONF = """\
listeners: {{web: {{bind: "127.0.0.1:{port}", protocol: http}}}}
routes: [{{name: all, service: hello}}]
services:
  hello:
    endpoints: ["{amber}", "{blue}"]
    affinity: {{client_ip: {{timeout: 1h}}}}
"""


class Place:
    """A folder with a configuration and a place for sockets; short names, since a socket's path has 107 bytes."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.port = free_port(0)
        self.env = {"RUNTIME_DIRECTORY": str(self.folder / "run")}

    def write(self, text: str, **words: Any) -> None:
        (self.folder / "conf.yaml").write_text(text.format(port=self.port, **words))

    def run(self, *args: str) -> Done:
        return edgeproxy(*args, "-c", "conf.yaml", cwd=self.folder, **self.env)

    @contextmanager
    def proxy(self) -> Iterator[Running]:
        with running("-c", "conf.yaml", cwd=self.folder, **self.env) as it:
            it.line("edgeproxy ")
            yield it

    @property
    def sockets(self) -> list[Path]:
        return list((self.folder / "run").glob("*.sock"))


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="ep-") as folder:
        yield Place(folder)


@pytest.fixture
def backends() -> Iterator[dict[str, str]]:
    with Backends(("amber", "blue")) as some:
        yield some.addresses


def get(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().split()[0]
    finally:
        connection.close()


def test_status_endpoint_and_explain(place: Place, backends: dict[str, str]) -> None:
    place.write(CONF, **backends)
    url = f"http://127.0.0.1:{place.port}/"
    with place.proxy() as it:
        free = place.run("explain", "--live", url).out
        assert "\nchoice     any of those with a share, by weight\n" in free and "<- this request" not in free
        name = get(place.port)
        other = "blue" if name == "amber" else "amber"
        done = place.run("status")
        assert (done.status, done.err) == (0, "") and "\x1b" not in done.out
        assert f"\nhello    {backends[name]}  up " in done.out and "clients=1" in done.out
        report = json.loads(place.run("status", "hello", "--json").out)
        counts = {one["address"]: one["total"] for one in report["services"][0]["endpoints"]}
        assert counts == {backends[name]: 1, backends[other]: 0}
        for _ in range(3):
            live = place.run("explain", "--live", url)
            [chosen] = [line for line in live.out.splitlines() if "<- this request" in line]
            assert chosen.startswith(f"endpoint   {backends[name]} (weight 1, 50 %) up ")
            assert chosen.endswith("<- this request: its client is bound to it")
        assert json.loads(place.run("explain", "--live", url, "--json").out)["chosen"] == backends[name]
        assert json.loads(place.run("status", "hello", "--json").out)["services"][0]["endpoints"] != []
        assert place.run("endpoint", "drain", "hello", backends[name]) == (
            0, f"hello {backends[name]} is draining (by an admin), 0 in flight\n", "")
        assert get(place.port) == name, "who is bound stays"
        done = place.run("endpoint", "disable", "hello", backends[name])
        assert done.out == f"hello {backends[name]} is disabled (by an admin), 0 in flight\n"
        assert get(place.port) == other
        done = place.run("endpoint", "disable", "hello", backends[other])
        assert done.out.endswith("no other endpoint of the service is ready\n")
        done = place.run("explain", "--live", url)
        assert done.status == 1 and "reply      503 service hello: no endpoint is ready: 2 disabled\n" in done.out
        assert place.run("endpoint", "enable", "hello", backends[other]).out.startswith(f"hello {backends[other]} is up")
        for args, message in ((("endpoint", "drain", "helo", "x"), "no service helo; did you mean hello?"),
                              (("status", "x"), "no service x; there is hello"),
                              (("endpoint", "drain", "hello", "x:1"), "service hello has no endpoint x:1; there is ")):
            done = place.run(*args)
            assert (done.status, done.out) == (1, "") and done.err.startswith(f"edgeproxy: {message}")
        assert len(place.sockets) == 1
        assert it.end(signal.SIGTERM) == 0
    assert place.sockets == []


def test_explaining_moves_nothing(place: Place, backends: dict[str, str]) -> None:
    place.write(CONF.replace("    affinity: {{client_ip: {{timeout: 1h}}}}\n", ""), **backends)
    with place.proxy() as it:
        names = []
        for _ in range(6):
            names.append(get(place.port))
            assert place.run("explain", "--live", f"http://127.0.0.1:{place.port}/").status == 0
        assert names == [names[0], names[1]] * 3 and names[0] != names[1]
        assert it.end() in (0, 130)


def test_nobody_is_there(place: Place, backends: dict[str, str]) -> None:
    place.write(CONF, **backends)
    for args in (("status",), ("endpoint", "drain", "a", "b"), ("explain", "--live", "http://a/")):
        done = place.run(*args)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"edgeproxy: no edgeproxy is running with conf.yaml (no {place.folder}/run/")
    with place.proxy() as it:
        it.end(signal.SIGKILL)
    [stale] = place.sockets
    assert place.run("status").err == (f"edgeproxy: no edgeproxy is running with conf.yaml (nothing answers at {stale})\n")
    with place.proxy() as it:
        assert place.run("status").status == 0
        it.end()


def test_someone_else_answers(place: Place) -> None:
    (place.folder / "run").mkdir(0o700)
    path = place.folder / "run" / adminclient.socket_name([str(place.folder / "conf.yaml")])
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        asking = subprocess.Popen([sys.executable, "-m", "edgeproxy", "status", "-c", "conf.yaml"], cwd=place.folder,
                                  env={**os.environ, **place.env, "PYTHONPATH": os.getcwd()}, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        other.settimeout(20)
        connection, _ = other.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"SSH-2.0\r\n")
        out, err = asking.communicate(timeout=20)
    assert (asking.returncode, out) == (1, "")
    assert err.startswith(f"edgeproxy: {path} does not answer as an edgeproxy does")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_is_told_what_to_do(place: Place, backends: dict[str, str]) -> None:
    place.write(CONF, **backends)
    place.folder.chmod(0o755)
    script = ("import os, sys, edgeproxy.adminclient, edgeproxy.config.load, edgeproxy.statustext\n"
              "from edgeproxy import cli; os.setgid(65534); os.setuid(65534)\n"
              "sys.exit(cli.main(['status', '-c', 'conf.yaml']))")
    with place.proxy() as it:
        done = subprocess.run([sys.executable, "-c", script], cwd=place.folder, text=True, capture_output=True,
                              env={**os.environ, **place.env, "PYTHONPATH": os.getcwd()}, timeout=30)
        [path] = place.sockets
        it.end()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"edgeproxy: {path}: permission denied: run as the user of the proxy or root\n"


def test_a_configured_place(place: Place, backends: dict[str, str]) -> None:
    port = free_port(0)
    place.write(CONF + "admin: {{bind: '127.0.0.1:{admin}'}}\n", **backends, admin=port)
    with place.proxy() as it:
        it.line(f"listening on 127.0.0.1:{port} (admin)")
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
        connection.close()
        [default] = place.sockets
        default.unlink()
        assert place.run("status").status == 0
        done = place.run("endpoint", "drain", "hello", backends["amber"])
        assert (done.status, done.err) == (1, "edgeproxy: this address can only be read; the unix socket takes orders\n")
        place.write(CONF + "admin: {{bind: 'unix:{path}'}}\n", **backends, path=place.folder / "a.sock")
        it.process.send_signal(signal.SIGHUP)
        eventually(lambda: (place.folder / "a.sock").exists(), "the new place")
        assert place.run("endpoint", "drain", "hello", backends["amber"]).status == 0
        place.write("listeners: 3\n")
        it.process.send_signal(signal.SIGHUP)
        it.line("reload refused")
        assert "\nno edgeproxy" not in place.run("status").err
        it.end()
    assert not (place.folder / "a.sock").exists()


def test_a_configured_place_that_is_taken_ends_the_start(place: Place, backends: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        place.write(CONF + "admin: {{bind: '127.0.0.1:{admin}'}}\n", **backends, admin=port)
        done = place.run()
    assert (done.status, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert line.startswith(f"edgeproxy: 127.0.0.1:{port}: already in use")


def test_two_with_one_file(place: Place, backends: dict[str, str]) -> None:
    place.write(CONF, **backends)
    with place.proxy() as first:
        place.port = free_port(0)
        place.write(CONF, **backends)
        with place.proxy() as second:
            assert "already in use" in second.line("no admin socket, `edgeproxy status` cannot ask this proxy")
            second.end()
        assert place.run("status").status == 0
        first.end()


def test_ready_turns_503_while_it_drains(place: Place, backends: dict[str, str]) -> None:
    place.write(CONF, **backends)
    with place.proxy() as it:
        [path] = place.sockets

        def readyz() -> int:
            found = adminclient._UnixConnection(str(path))
            found.request("GET", "/readyz")
            try:
                return found.getresponse().status
            finally:
                found.close()

        assert readyz() == 200
        with socket.create_connection(("127.0.0.1", place.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\n")  # work that is under way
            eventually(lambda: json.loads(place.run("status", "--json").out)["listeners"][0]["connections"] == 1, "it")
            it.process.send_signal(signal.SIGTERM)
            eventually(lambda: readyz() == 503, "not ready")
            client.sendall(b"Host: a\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert it.wait() == 0
