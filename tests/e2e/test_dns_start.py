"""A proxy and its names from the start to the end: what cannot be resolved yet, what a reload adds or changes, SRV,
names beside addresses, and an end while a question hangs.
"""
from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from dnspeers import Dnsmasq, Knot, ScriptedDns, addresses, nodata, nxdomain, servfail, silence, truncated
from e2e.backends import StartActor, answering
from e2e.pods import Pods, Visitors, named
from e2e.program import StartEdge, command, environment, free_port, web
from e2e.waiting import eventually
from e2e.wire import ask, connect

NAME = "web.pods.test"


def _later(scripted: ScriptedDns, *found: str) -> None:
    scripted.says(NAME, "AAAA", nodata("pods.test", 1, 1))
    scripted.says(NAME, "A", addresses(*found, ttl=1))


# ---- the start

@pytest.mark.parametrize("fault", ["nxdomain", "servfail", "silence", "nobody"])
def test_it_starts_without_the_name_and_finds_it_by_itself(
        edge: StartEdge, actor: StartActor, scripted: ScriptedDns, pods: Pods, fault: str) -> None:
    scripted.always = {"nxdomain": nxdomain("pods.test", 1, 1), "servfail": servfail()}.get(fault, silence())
    if fault == "nobody":
        scripted.stop()
    other, port, relay = actor(answering("other")), free_port(), free_port()
    proxy = edge(named(port, relay, f"dns: '{NAME}.:{pods.port}'", scripted,
                       more=f"  other: {{endpoints: ['127.0.0.1:{other.port}']}}\n",
                       routes="{host: other.invalid, service: other}, {service: app}"))
    assert ask(port, host="other.invalid").text == "other"
    began = time.monotonic()
    answer = ask(port)
    assert answer.status == 503
    assert "error=dns_error" in (answer.get("proxy-status") or ""), answer.raw
    assert time.monotonic() - began < 3.0 + 1.0
    with suppress(ConnectionResetError), connect(relay) as client:
        assert client.ending()[0] == b"", "a relay's connection is closed"
    assert proxy.logged(2, lambda line: line["outcome"] == "dns_failed")
    assert proxy.errors.count(f"name {NAME}. cannot be resolved") + proxy.errors.count("stands for nothing") <= 1
    pods.start(1)
    _later(scripted, pods.at(1))
    scripted.always = None
    if fault == "nobody":
        scripted.start()
    eventually(lambda: ask(port).text == pods.at(1), "the name is found", 10)
    with connect(relay) as client:
        client.get()
        assert client.response().text == pods.at(1)
    assert ask(port, host="other.invalid").text == "other"


def test_the_first_requests_wait_for_the_first_answer(
        edge: StartEdge, scripted: ScriptedDns, pods: Pods, stack: ExitStack) -> None:
    """One second of silence, then an answer: nobody fails. Others wait for no more than three."""
    pods.start(1)
    scripted.says(NAME, "A", silence(), addresses(pods.at(1)))
    scripted.says(NAME, "AAAA", nodata())
    port, relay = free_port(), free_port()
    edge(named(port, relay, f"dns: '{NAME}.:{pods.port}'", scripted, "timeout: 1s"))
    clients = [stack.enter_context(connect(to)) for to in (port, port, port, relay, relay)]
    for client in clients:
        client.get()
    assert clients[0].quiet(0.1) or pods.served, "they wait"
    for client in clients:
        assert client.response().text == pods.at(1)


def test_nobody_waits_for_more_than_three_seconds(
        edge: StartEdge, scripted: ScriptedDns, pods: Pods, stack: ExitStack) -> None:
    scripted.always = silence()
    port, relay = free_port(), free_port()
    edge(named(port, relay, f"dns: '{NAME}.:{pods.port}'", scripted, "timeout: 20s"))
    began = time.monotonic()
    web_client, relay_client = stack.enter_context(connect(port)), stack.enter_context(connect(relay))
    web_client.get()
    answer = web_client.response()
    took = time.monotonic() - began
    assert (answer.status, "error=dns_error" in (answer.get("proxy-status") or "")) == (503, True)
    assert 2.5 < took < 4.0, took
    assert relay_client.ending()[0] == b""
    assert time.monotonic() - began < 4.5


def test_a_proxy_without_names_does_not_know_dns(tmp_path: Path, actor: StartActor) -> None:
    """dnspython takes 40 ms and 5 MB."""
    port = free_port()
    file = tmp_path / "edgeproxy.yaml"
    file.write_text(web(port, actor(answering("a")).port) + "access_log: {format: off}\n")
    process = subprocess.Popen([sys.executable, "-X", "importtime", *command()[1:], "-c", str(file)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
                               cwd=tmp_path)
    try:
        eventually(lambda: process.poll() is not None or _answers(port), "it serves", 10)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    imported = {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")}
    assert "edgeproxy.upstream.service" in imported, told[-2000:]
    assert not {name for name in imported if name == "dns" or name.startswith("dns.")}
    assert not imported & {"edgeproxy.upstream.discovery", "edgeproxy.upstream.resolver", "edgeproxy.upstream.question"}


def _answers(port: int) -> bool:
    try:
        return ask(port).status == 200
    except OSError:
        return False


# ---- reloads

def test_a_reload_adds_a_name(edge: StartEdge, actor: StartActor, scripted: ScriptedDns, pods: Pods) -> None:
    """The first requests after it wait for the first answer; a name that cannot be resolved refuses no reload."""
    pods.start(1)
    scripted.says(NAME, "A", silence(), addresses(pods.at(1)))
    scripted.says(NAME, "AAAA", nodata())
    port, static = free_port(), actor(answering("static"))
    proxy = edge(web(port, static.port))
    routes = "{host: old.invalid, service: old}, {service: app}"
    old = f"  old: {{endpoints: ['127.0.0.1:{static.port}']}}\n"
    with Visitors(port) as visitors:
        visitors.until_only("static")
        text = named(port, 0, f"dns: '{NAME}.:{pods.port}'", scripted, "timeout: 700ms", old, routes)
        assert proxy.reload(text).startswith("configuration reloaded")
        visitors.until_only(pods.at(1))
        text = named(port, 0, "dns: 'nowhere.pods.test.:80'", scripted, "timeout: 700ms", old, routes)
        assert not visitors.failed, visitors.failed[:3]
        assert proxy.reload(text).startswith("configuration reloaded")
    assert ask(port, host="old.invalid").text == "static"
    eventually(lambda: ask(port).status == 503, "the new name is not there")
    assert "error=d" in (ask(port).get("proxy-status") or "")


def test_a_reload_changes_the_resolver(edge: StartEdge, scripted: ScriptedDns, pods: Pods) -> None:
    pods.start(1, 2)
    _later(scripted, pods.at(1))
    scripted.says(NAME, "A", addresses(pods.at(1), ttl=600))
    with ScriptedDns() as second:
        _later(second, pods.at(2))
        port = free_port()
        service = f"dns: '{NAME}.:{pods.port}'"
        proxy = edge(named(port, 0, service, scripted, "timeout: 300ms, max_ttl: 10m"))
        with Visitors(port) as visitors:
            visitors.until_only(pods.at(1))
            asked = scripted.count()
            assert proxy.reload(named(port, 0, service, second)).startswith("configuration reloaded")
            visitors.until_only(pods.at(2), seconds=3)
            assert scripted.count() == asked
            assert proxy.reload(named(port, 0, f"{service}, nameservers: '{scripted}'", second)
                                ).startswith("configuration reloaded")
            visitors.until_only(pods.at(1), seconds=3)
        assert not visitors.failed


def test_a_reload_that_changes_nothing_of_it_asks_nothing(
        edge: StartEdge, scripted: ScriptedDns, pods: Pods) -> None:
    pods.start(1)
    _later(scripted, pods.at(1))
    scripted.says(NAME, "A", addresses(pods.at(1), ttl=600))
    scripted.says(NAME, "AAAA", nodata("pods.test", 600, 600))
    port = free_port()
    text = named(port, 0, f"dns: '{NAME}.:{pods.port}', family: v4", scripted, "timeout: 300ms, max_ttl: 10m")
    proxy = edge(text)
    assert ask(port).text == pods.at(1)
    asked = scripted.count()
    for balance in ("least-conn", "random"):
        changed = text.replace("family: v4", f"family: v4, balance: {balance}")
        assert proxy.reload(changed).startswith("configuration reloaded")
        assert ask(port).text == pods.at(1)
    assert scripted.count() == asked


# ---- what a name may be

def test_srv_with_priorities_weights_and_ports(edge: StartEdge, stack: ExitStack, tmp_path: Path) -> None:
    first, second, backup = (Pods() for _ in range(3))
    for one in (first, second, backup):
        stack.callback(one.close)
        one.start(1)
    dnsmasq = Dnsmasq(tmp_path / "dnsmasq", "pods.test",
                      [f"{one.at(1)} {name}.pods.test" for name, one in
                       (("first", first), ("second", second), ("backup", backup))],
                      [f"srv-host=_web._tcp.pods.test,first.pods.test,{first.port},10,3",
                       f"srv-host=_web._tcp.pods.test,second.pods.test,{second.port},10,1",
                       f"srv-host=_web._tcp.pods.test,backup.pods.test,{backup.port},20,5"], ttl=1)
    stack.callback(dnsmasq.stop)
    port = free_port()
    edge(named(port, 0, "dns: {name: _web._tcp.pods.test., type: SRV}, eject: {failures: 1, for: 60s}", dnsmasq))
    answers = [ask(port).text for _ in range(40)]
    assert (answers.count(first.at(1)), answers.count(second.at(1))) == (30, 10)
    with Visitors(port) as visitors:
        visitors.until_only(first.at(1), second.at(1))
        first.stop(1)
        visitors.until_only(second.at(1))
        second.stop(1)
        eventually(lambda: backup.at(1) in visitors.seen(time.monotonic() - 0.5), "the backup serves")
    assert not visitors.failed, visitors.failed[:3]


def test_srv_records_change(edge: StartEdge, stack: ExitStack, tmp_path: Path, pods: Pods) -> None:
    """The target of a record, its port and the set of records, each without a request that fails."""
    other = Pods()
    stack.callback(other.close)
    pods.start(1, 2)
    other.start(3)

    def lines(target: str, port: int) -> list[str]:
        return [f"_web._tcp 1 SRV 0 1 {port} {target}", f"one 1 A {pods.at(1)}", f"two 1 A {pods.at(2)}",
                f"three 1 A {other.at(3)}"]

    knot = Knot(tmp_path / "knot", "pods.test", lines("one", pods.port))
    stack.callback(knot.stop)
    port = free_port()
    proxy = edge(named(port, 0, "dns: {name: _web._tcp.pods.test., type: SRV}", knot))
    eventually(lambda: ask(port).status == 200, "the name is resolved")
    with Visitors(port) as visitors:
        visitors.until_only(pods.at(1))
        knot.change(lines("two", pods.port))
        visitors.until_only(pods.at(2))
        knot.change(lines("three", other.port))
        visitors.until_only(other.at(3))
    assert not visitors.failed, visitors.failed[:3]
    assert proxy.errors.count("(1 new, 1 gone)") == 2, proxy.errors


def test_names_beside_addresses(edge: StartEdge, actor: StartActor, scripted: ScriptedDns, pods: Pods) -> None:
    """Two names and a static endpoint; the static one serves while the names have nothing."""
    pods.start(1, 2)
    static, port = actor(answering("static")), free_port()
    for name, rdtype in ((NAME, "A"), (NAME, "AAAA"), ("more.pods.test", "A"), ("more.pods.test", "AAAA")):
        scripted.says(name, rdtype, nodata("pods.test", 1, 1))
    proxy = edge(named(port, 0, f"endpoints: ['127.0.0.1:{static.port}'], "
                                f"dns: ['{NAME}.:{pods.port}', {{name: more.pods.test., port: {pods.port}}}]", scripted))
    assert {ask(port).text for _ in range(4)} == {"static"}, "at once"
    with Visitors(port) as visitors:
        scripted.says(NAME, "A", addresses(pods.at(1), ttl=1))
        visitors.until_only("static", pods.at(1))
        scripted.says("more.pods.test", "A", addresses(pods.at(2), pods.at(1), ttl=1))
        visitors.until_only("static", pods.at(1), pods.at(2))
        scripted.says(NAME, "A", nodata("pods.test", 1, 1))
        eventually(lambda: "has no endpoints any more" in proxy.errors, "one name is empty")
        visitors.until_only("static", pods.at(1), pods.at(2))
        scripted.says("more.pods.test", "A", nxdomain("pods.test", 1, 1))
        visitors.until_only("static")
    assert not visitors.failed


def test_on_empty_keep(edge: StartEdge, stack: ExitStack, tmp_path: Path, pods: Pods) -> None:
    pods.start(1, 2)
    knot = Knot(tmp_path / "knot", "pods.test", [f"web 1 A {pods.at(1)}"])
    stack.callback(knot.stop)
    port = free_port()
    proxy = edge(named(port, 0, f"dns: '{NAME}.:{pods.port}', on_empty: keep", knot))
    with Visitors(port) as visitors:
        visitors.until_only(pods.at(1))
        knot.change([])
        eventually(lambda: "is gone: no such name, answered twice; kept (on_empty)" in proxy.errors, "it is told", 6)
        visitors.until_only(pods.at(1))
        knot.change([f"web 1 A {pods.at(2)}"])
        visitors.until_only(pods.at(2))
    assert not visitors.failed
    assert proxy.errors.count("kept (on_empty)") == 1


# ---- the end

@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_end_while_a_question_hangs(edge: StartEdge, scripted: ScriptedDns, pods: Pods, transport: str, loop: str
                                        ) -> None:
    pods.start(1)
    _later(scripted, pods.at(1))
    port = free_port()
    proxy = edge(named(port, 0, f"dns: '{NAME}.:{pods.port}'", scripted, "timeout: 30s"), {"EDGEPROXY_LOOP": loop})
    assert ask(port).text == pods.at(1)
    scripted.always = silence() if transport == "udp" else truncated(silence())
    asked = scripted.count(transport=transport)
    eventually(lambda: scripted.count(transport=transport) > asked, "a question that hangs")
    assert ask(port).text == pods.at(1)
    began = time.monotonic()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0
    assert time.monotonic() - began < 2.0
    for word in ("Traceback", "never retrieved", "Task", "pending", "Error"):
        assert word not in proxy.errors, proxy.errors


def test_the_end_while_requests_wait_for_the_first_answer(
        edge: StartEdge, scripted: ScriptedDns, pods: Pods, stack: ExitStack) -> None:
    scripted.always = silence()
    port = free_port()
    proxy = edge(named(port, 0, f"dns: '{NAME}.:{pods.port}'", scripted, "timeout: 30s"))
    client = stack.enter_context(connect(port))
    client.get()
    assert client.quiet(0.1)
    proxy.signal(signal.SIGTERM)
    answer = client.response()
    assert answer.status == 503
    assert proxy.wait(6) == 0
