"""`edgeproxy explain`: what it says of a request, against the router, the codec and the pickers themselves."""
from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commandline import edgeproxy

import dnspeers as peer
from dnspeers import ScriptedDns
from edgeproxy import explain as explaining
from edgeproxy.codec._leaf import parse_request
from edgeproxy.config import model
from edgeproxy.config.load import load_text
from edgeproxy.config.model import Config
from edgeproxy.explain import Answer, asked_now, explain, explain_running, question
from edgeproxy.policy.endpoint import DOWN, DRAINING, EndpointState, target
from edgeproxy.router import build_router
from edgeproxy.runtime import status
from edgeproxy.runtime.status import Running
from edgeproxy.session.hashing import client_key
from edgeproxy.snapshot import Live, Snapshot, compile_rules
from edgeproxy.upstream.events import Events
from edgeproxy.upstream.names import NameView
from edgeproxy.upstream.service import Service

CONF = """\
listeners:
  web: {bind: ":8080", protocol: http}
  inner: {bind: "127.0.0.1:8081", protocol: http}
  pg: {bind: ":5432", protocol: tcp, service: pg}
routes:
  - {name: aaa, host: nginx.example.com, path: /aaa, service: nginx, rewrite: {prefix: /app, host: inner.example}}
  - {name: split, host: nginx.example.com, service: [{name: nginx, weight: 90}, {name: next, weight: 10}]}
  - {name: api, host: "*.example.com", methods: [POST], path: /api, service: next}
  - {name: old, host: old.example.com, redirect: {scheme: https, host: new.example.com}}
  - {name: ping, path: {exact: /ping}, respond: {status: 200, body: "pong\\n"}}
  - name: canary
    path: {regex: "^/v([0-9]+)/(.*)$"}
    headers: {x-canary: "1"}
    query: {a: b}
    rewrite: {path: "/x/$2"}
    service: next
  - {name: admin, path: /admin, listeners: [inner], service: pg}
  - {name: none, host: none.example, service: [{name: next, weight: 0}]}
  - {name: idle, host: idle.example, service: idle}
services:
  nginx:
    endpoints: ["10.244.1.96:80", {address: "10.244.1.97:80", weight: 2}, {address: "10.244.2.112:80", backup: true},
                {address: "10.244.2.113:80", weight: 0}]
    timeouts: {connect: 2s}
  next: {endpoints: ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"], balance: source-hash}
  pg: {endpoints: ["10.0.0.5:5432"], balance: least-conn}
  idle: {endpoints: [{address: "10.0.0.6:80", weight: 0}], balance: {hash: {header: x-user}}}
"""


@pytest.fixture(scope="module")
def config() -> Config:
    return load_text(CONF)


def ask(config: Config, url: str, *fields: str, method: str = "GET", client: str = "192.0.2.7") -> Answer:
    return explain(config, question(method, url, fields, client))


def text(answer: Answer) -> list[str]:
    return list(answer.as_text())


def test_as_a_command(tmp_path: Path) -> None:
    (tmp_path / "conf.yaml").write_text(CONF)
    done = edgeproxy("explain", "-c", "conf.yaml", "http://nginx.example.com:8080/aaa/b?x=1", cwd=tmp_path)
    assert done == (0, """\
request    GET http://nginx.example.com:8080/aaa/b?x=1 from 127.0.0.1
listener   web :8080 http
route      aaa (host nginx.example.com, path /aaa)
rewrite    /aaa/b?x=1 -> /app/b?x=1
host       nginx.example.com:8080 -> inner.example
service    nginx (round-robin)
endpoint   10.244.1.97:80 (weight 2, 67 %)
endpoint   10.244.1.96:80 (weight 1, 33 %)
endpoint   10.244.2.112:80 (backup)
endpoint   10.244.2.113:80 (weight 0, takes nothing)
limits     3 tries on connect, reset, connect 2s, response 60s
not        split: fits too, but aaa goes before it
not        api: wants path /api
not        ping: wants exact path /ping
not        canary: wants regex path ^/v([0-9]+)/(.*)$
not        old: wants host old.example.com
not        none: wants host none.example
not        idle: wants host idle.example
not        admin: is for listener inner
""", "")


def test_options_may_stand_anywhere(tmp_path: Path) -> None:
    (tmp_path / "conf.yaml").write_text(CONF)
    done = edgeproxy("explain", "POST", "-H", "a: b", "-c", "conf.yaml", "http://a.example.com:8080/api",
                     "--from", "::1", cwd=tmp_path)
    assert done.status == 0 and "\nroute      api " in done.out
    assert done.out.startswith("request    POST http://a.example.com:8080/api from ::1\n")


def test_unmatched_as_a_command_and_as_json(tmp_path: Path) -> None:
    (tmp_path / "conf.yaml").write_text(CONF)
    done = edgeproxy("explain", "-c", "conf.yaml", "GET", "http://x.example.com:8080/api/z", "--json", cwd=tmp_path)
    report = json.loads(done.out)
    assert (done.status, done.err, report["found"], report["route"]) == (1, "", False, None)
    assert report["reply"] == {"status": 404, "text": "no route"}
    assert report["nearest"] == "api: wants method POST"
    assert report["losing"][0] == {"route": "api", "verdict": "method", "why": "wants method POST"}
    assert len(report["losing"]) == 9


@pytest.mark.parametrize(("args", "status", "message"), [
    (["a", "b", "c"], 2, "explain: give a method and a URL, or a URL alone"),
    (["http:///x"], 2, "explain: http:///x is not a URL such as http://a.example/path"),
    (["ftp://x/"], 2, "explain: ftp://x/ is not a URL such as http://a.example/path"),
    (["http://x:99999/"], 2, "explain: http://x:99999/ has a port that is none"),
    (["http://x/", "-H", "nothing"], 2, "explain: -H nothing: write NAME:VALUE"),
    (["http://x/", "--from", "here"], 2, "explain: --from here: not an IP address"),
    (["http://x/"], 78, "nope.yaml: no such file or directory"),
])
def test_wrong_input(args: list[str], status: int, message: str, tmp_path: Path) -> None:
    assert edgeproxy("explain", "-c", "nope.yaml", *args, cwd=tmp_path) == (status, "", f"edgeproxy: {message}\n")


@pytest.mark.parametrize(("url", "listener", "said"), [
    ("http://a.example:8080/ping", "web", ""), ("http://a.example:8081/ping", "inner", ""),
    ("http://a.example/ping", "web", ", taken though the URL means port 80"), ("a.example:8081/ping", "inner", ""),
    ("tcp://x:5432", "pg", ""), ("http://x:5432", "pg", ""), ("tcp://x", "pg", "")])
def test_the_listener_is_that_of_the_port(config: Config, url: str, listener: str, said: str) -> None:
    answer = ask(config, url)
    assert answer.found and answer.listener is not None
    assert (answer.listener.name, answer.also) == (listener, said)


@pytest.mark.parametrize(("url", "problem"), [
    ("https://x/", "no listener on port 443; there is web :8080 http, inner 127.0.0.1:8081 http, pg :5432 tcp"),
    ("https://x:8080/", "this listener speaks http, and https does not get through"),
    ("tls://x", "no listener on port 443; there is web :8080 http, inner 127.0.0.1:8081 http, pg :5432 tcp"),
    ("http://x:99/", "no listener on port 99; there is web :8080 http, inner 127.0.0.1:8081 http, pg :5432 tcp")])
def test_no_listener(config: Config, url: str, problem: str) -> None:
    answer = ask(config, url)
    assert (answer.found, answer.problem) == (False, problem)
    assert text(answer)[-1] == f"no answer  {problem}"


def test_a_listener_of_its_own_routes(config: Config) -> None:
    assert text(ask(config, "http://a.example:8081/admin/x"))[2] == "route      admin (any host, path /admin)"
    answer = ask(config, "http://a.example:8080/admin/x")
    assert not answer.found and ("admin", "listener", "is for listener inner") in answer.losing


def test_answers_of_the_proxy_itself(config: Config) -> None:
    assert ask(config, "http://a.example:8080/ping").reply == (200, "with 5 bytes by the proxy itself")
    assert ask(config, "http://old.example.com:8080/q?x").reply == (308, "redirect to https://new.example.com/q?x")


def test_conditions_and_groups(config: Config) -> None:
    answer = ask(config, "http://a.example:8080/v1/zz?a=b", "X-Canary: 1")
    assert answer.route is not None
    assert (answer.route.name, answer.target) == ("canary", "/x/zz?a=b")
    assert ask(config, "http://a.example:8080/v1/zz?a=b").nearest == "canary: wants header x-canary: 1"
    assert ask(config, "http://a.example:8080/v1/zz?a=c", "X-Canary: 1").nearest == "canary: wants query a=b"


def test_a_host_field_of_its_own(config: Config) -> None:
    answer = ask(config, "http://127.0.0.1:8080/aaa", "Host: nginx.example.com")
    assert answer.route is not None and answer.route.name == "aaa"


@pytest.mark.parametrize(("url", "fields", "status"), [
    ("http://x:8080/a/../../b", (), 400), ("http://x:8080/a b", (), 400), ("http://x:8080/", ("Host: a b",), 400),
    ("http://x:8080/" + "x" * 20_000, (), 414), ("http://x:8080/", ("X: " + "x" * 70_000,), 431),
    ("http://x:8080/", ("Transfer-Encoding: gzip",), 501)])
def test_what_the_codec_refuses(config: Config, url: str, fields: tuple[str, ...], status: int) -> None:
    answer = ask(config, url, *fields)
    assert not answer.found and answer.reply is not None and answer.reply[0] == status
    assert any(line.startswith(f"reply      {status} the request itself is refused: ") for line in text(answer))


def test_a_split_and_nothing_to_send_to(config: Config) -> None:
    answer = ask(config, "http://nginx.example.com:8080/x")
    assert "split      nginx 90 %, next 10 %; the first is shown" in text(answer)
    answer = ask(config, "http://none.example:8080/")
    assert not answer.found and answer.reply == (500, "every service of the route has weight 0")
    answer = ask(config, "http://idle.example:8080/")
    assert not answer.found and answer.problem == "service idle has no endpoint that takes anything"


def test_a_hash_says_which_endpoint_and_spreads_clients(config: Config) -> None:
    chosen = set()
    for host in range(1, 40):
        answer = ask(config, "http://a.example.com:8080/api", method="POST", client=f"192.0.2.{host}")
        lines = [line for line in text(answer) if line.startswith("endpoint")]
        assert lines[0].endswith("<- this request") and not any("<-" in line for line in lines[1:])
        assert len({state.address for state, _ in answer.candidates}) == 3
        chosen.add(answer.candidates[0].state.address)
    assert chosen == {"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"}


def test_the_nearest_of_hosts() -> None:
    config = load_text("""\
listeners: {web: {bind: ":80", protocol: http}}
routes: [{host: www.example.com, service: a}, {host: shop.example.com, service: a}, {host: other.org, service: a}]
services: {a: {endpoints: ["127.0.0.1:1"]}}
""")
    answer = ask(config, "http://shp.example.com/")
    assert answer.nearest == "shop.example.com/: wants host shop.example.com"


def test_many_losing_routes_are_cut(tmp_path: Path) -> None:
    routes = "".join(f"  - {{host: h{i}.example, service: a}}\n" for i in range(200))
    (tmp_path / "conf.yaml").write_text(
        'listeners: {web: {bind: ":80", protocol: http}}\nroutes:\n' + routes +
        'services: {a: {endpoints: ["127.0.0.1:1"]}}\n')
    done = edgeproxy("explain", "-c", "conf.yaml", "http://h7.example/", cwd=tmp_path)
    assert done.out.count("\nnot ") == 21 and done.out.endswith("not        179 more routes (--all tells them)\n")
    done = edgeproxy("explain", "-c", "conf.yaml", "http://h7.example/", "--all", cwd=tmp_path)
    assert done.out.count("\nnot ") == 199


def test_it_never_disagrees_with_the_router(config: Config) -> None:
    rng = random.Random(7)
    router = build_router(config, "web")
    hosts = ["nginx.example.com", "a.example.com", "b.a.example.com", "old.example.com", "x.org", "none.example"]
    paths = ["/", "/aaa", "/aaa/b", "/aaab", "/api/x", "/ping", "/v1/x?a=b", "/v1/x", "/admin", "/%61aa/x"]
    for _ in range(300):
        method, host, path = rng.choice(["GET", "POST"]), rng.choice(hosts), rng.choice(paths)
        fields = ["x-canary: 1"] if rng.random() < 0.5 else []
        asked = question(method, f"http://{host}:8080{path}", fields, "192.0.2.7")
        answer = explain(config, asked)
        head: Any = parse_request(asked.raw, 65536, 100)
        found = router.find(head.host, head.path, head.method, head)
        assert (answer.route.name if answer.route else None) == (found.name if found else None)
        names = [name for name, _, _ in answer.losing]
        assert sorted([*names, *([found.name] if found else [])]) == sorted(route.name for route in config.routes)


# ---- names, asked of DNS once

NAMED = """\
listeners: {{web: {{bind: ":8080", protocol: http}}}}
routes: [{{host: far.test, service: far}}, {{host: srv.test, service: srv}}, {{service: web}}]
services:
  web: {{endpoints: ["10.0.0.1:80", {{address: "db.test:81", backup: true}}], dns: "web.test:8080", health: {{tcp: {{}}}}}}
  srv: {{dns: {{name: _http._tcp.srv.test, type: SRV}}}}
  far: {{external_name: "far.test:8080"}}
resolver: {{nameservers: "{server}", timeout: 100ms}}
"""


@pytest.fixture
def dns() -> Iterator[ScriptedDns]:
    with ScriptedDns() as server:
        yield server


def ask_with_names(dns: ScriptedDns, url: str) -> Answer:
    config = load_text(NAMED.format(server=dns.nameserver))
    return explain(config, question("GET", url, (), "192.0.2.7"), 0.0, asked_now(config.resolver))


def test_names_are_resolved_now(dns: ScriptedDns) -> None:
    dns.says("web.test", "A", peer.addresses("10.0.1.1", "10.0.1.2"))
    dns.says("web.test", "AAAA", peer.nodata("test"))
    dns.says("db.test", "A", peer.servfail())
    dns.says("db.test", "AAAA", peer.addresses("2001:db8::1"))
    answer = ask_with_names(dns, "http://x:8080/")
    assert answer.found
    lines = text(answer)
    assert sorted(line for line in lines if line.startswith("endpoint")) == [
        "endpoint   10.0.0.1:80 (weight 1, 33 %)", "endpoint   10.0.1.1:8080 of web.test (weight 1, 33 %)",
        "endpoint   10.0.1.2:8080 of web.test (weight 1, 33 %)", "endpoint   [2001:db8::1]:81 of db.test (backup)"]
    names = [line for line in lines if line.startswith("name ")]
    assert "name       web.test A: 10.0.1.1, 10.0.1.2" in names
    assert any(line.startswith("name       db.test A: SERVFAIL") for line in names)
    assert "health     not asked here: --live tells what the running proxy knows" in lines


def test_the_targets_of_srv_records_are_resolved_too(dns: ScriptedDns) -> None:
    dns.says("_http._tcp.srv.test", "SRV", peer.records("_http._tcp.srv.test. 60 SRV 1 5 8001 one.test.",
                                                        "_http._tcp.srv.test. 60 SRV 2 1 8002 two.test."))
    for name, address in (("one.test", "10.0.0.1"), ("two.test", "10.0.0.2")):
        dns.says(name, "A", peer.addresses(address))
        dns.says(name, "AAAA", peer.nodata("test"))
    found = [line for line in text(ask_with_names(dns, "http://srv.test:8080/")) if line.startswith("endpoint")]
    assert found == ["endpoint   10.0.0.1:8001 of one.test (weight 5, 100 %)", "endpoint   10.0.0.2:8002 of two.test (backup)"]


def test_an_external_name_becomes_the_host(dns: ScriptedDns) -> None:
    dns.says("far.test", "A", peer.addresses("10.0.0.1"))
    dns.says("far.test", "AAAA", peer.nodata("test"))
    assert "host       far.test:8080 -> far.test:8080" in text(ask_with_names(dns, "http://far.test:8080/"))


@pytest.mark.parametrize(("act", "why"), [
    (peer.nxdomain("test"), "no such name"), (peer.servfail(), "SERVFAIL"), (peer.silence(), "")])
def test_a_name_that_is_not_resolved(dns: ScriptedDns, act: Any, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "RESOLVING", 1.0)
    for rdtype in ("A", "AAAA"):
        dns.says("far.test", rdtype, act)
    answer = ask_with_names(dns, "http://far.test:8080/")
    assert not answer.found and answer.reply is not None and answer.reply[0] == 503
    assert "no name of the service could be resolved" in answer.problem and why in answer.problem
    told = [line for line in text(answer) if line.startswith("name       far.test ")]
    assert len(told) == 2 and all(why in line and "no address" not in line for line in told)


def test_an_absence_is_told_once_and_names_keep_their_order(dns: ScriptedDns) -> None:
    for name in ("web.test", "db.test"):
        dns.says(name, "A", peer.addresses("10.0.1.1"))
        dns.says(name, "AAAA", peer.nodata("test"))
    for _ in range(3):
        lines = text(ask_with_names(dns, "http://x:8080/"))
        assert [line for line in lines if line.startswith("name ")] == [
            "name       db.test A: 10.0.1.1", "name       db.test AAAA: no address",
            "name       web.test A: 10.0.1.1", "name       web.test AAAA: no address"]


# ---- a running proxy

class Kept:
    """A registry: services of the configuration, on a loop that nobody runs."""

    def __init__(self, config: Config) -> None:
        loop: Any = SimpleNamespace(call_later=lambda *_: SimpleNamespace(cancel=lambda: None))
        self.events = Events()
        self.discoveries: dict[str, Any] = {}
        self.services = {name: Service(loop, service, random.Random(0), None, self.events)
                         for name, service in config.services.items()}


Ask = Callable[..., Any]


@pytest.fixture
def live() -> Callable[..., tuple[Service, Ask]]:
    """The service `app` of a running proxy, and how to ask it."""
    def start(**parts: Any) -> tuple[Service, Ask]:
        three = tuple(model.EndpointAddress(f"10.0.0.{i}", 80) for i in (1, 2, 3))
        service = replace(model.Service("app", three), **parts)
        config = Config({"web": model.Listener("web", (model.Bind("", 8080),), "http")},
                        (model.Route("all", service=(model.WeightedService("app"),)),), {"app": service})
        kept = Kept(config)
        running = Running(Live(Snapshot(config, kept.services, compile_rules(config))), {}, (), kept)

        def ask(client: str = "192.0.2.7", *fields: str) -> Any:
            query = {"url": ["http://a:8080/"], "from": [client], "header": list(fields)}
            return asyncio.run(explain_running(running, query))

        ask.discoveries = kept.discoveries  # type: ignore[attr-defined]
        return kept.services["app"], ask

    return start


def test_nothing_moves_in_a_running_proxy(live: Callable[..., tuple[Service, Ask]]) -> None:
    service, ask = live(affinity=model.Affinity(model.ClientIp(60.0)))
    turns = []
    for _ in range(6):
        member = service.pick()
        assert member is not None
        turns.append(member.address)
        answer = ask()
        assert answer["found"] and answer["chosen"] is None and answer["choice"] == "any of those with a share, by weight"
    assert turns == turns[:3] * 2 and len(set(turns)) == 3
    assert service.affinity_size == 0 and [m.total for m in service.view.members] == [0, 0, 0]


def test_states_and_their_reasons(live: Callable[..., tuple[Service, Ask]]) -> None:
    service, ask = live(health=model.Health(tcp=model.TcpProbe(), fall=1))
    one, two, three = service.view.members
    service.missed(one, "connection refused")
    service.administer(two.address, DRAINING)
    answer = ask()
    assert [(e["address"], e["state"], e["share"]) for e in answer["endpoints"]] == [
        (three.address, "checking", 1.0), (one.address, "down", 0.0), (two.address, "draining", 0.0)]
    lines = answer["text"]
    assert any(line.startswith("endpoint   10.0.0.3:80 (weight 1, 100 %) checking ") and
               line.endswith(": not probed yet  <- this request: no other takes any") for line in lines)
    assert any(line.startswith("endpoint   10.0.0.1:80 (weight 1) down ") and
               line.endswith(": 1 probe failed: connection refused") for line in lines)
    service.missed(three, "timeout")
    answer = ask()
    assert not answer["found"] and answer["reply"]["status"] == 503
    assert "no endpoint is ready: 2 down, 1 draining" in answer["problem"]
    assert service.view.members[0].state == DOWN


def test_a_bound_client_stays(live: Callable[..., tuple[Service, Ask]]) -> None:
    service, ask = live(affinity=model.Affinity(model.ClientIp(60.0)))
    member = service.pick_for("192.0.2.7", None, 0)
    assert member is not None
    for state in ("", DRAINING):
        service.administer(member.address, state)
        answer = ask()
        assert (answer["chosen"], answer["choice"]) == (member.address, "its client is bound to it")
        assert ask("192.0.2.8")["chosen"] is None
    service.administer(member.address, "disabled")
    assert ask()["chosen"] is None and service.affinity_size == 1


def test_a_cookie_binds_as_well(live: Callable[..., tuple[Service, Ask]]) -> None:
    service, ask = live(affinity=model.Affinity(cookie=model.AffinityCookie(secret="x")))
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 65536, 100)
    assert head is not None
    cookie = service.cookie_for(head, service.view.members[1], (), False).split(b";")[0].decode()
    assert ask("192.0.2.9", f"Cookie: {cookie}")["chosen"] == "10.0.0.2:80"
    assert ask("192.0.2.9", "Cookie: edge=nonsense")["chosen"] is None


@pytest.mark.parametrize("slow", [0.0, 60.0])
def test_a_hash_says_what_the_running_picker_says(live: Callable[..., tuple[Service, Ask]], slow: float) -> None:
    service, ask = live(balance=model.Balance("source-hash"), slow_start=slow)
    service.administer("10.0.0.1:80", "disabled")
    service.supply([target("10.0.1.1", 80)], "")
    service.administer("10.0.0.2:80", "disabled")
    service.administer("10.0.0.2:80", "")
    assert (max(m.handicap for m in service.view.members) > 0) is (slow > 0)
    for host in range(1, 100):
        client = f"192.0.2.{host}"
        member = service.pick(client_key(client))
        assert member is not None and ask(client)["chosen"] == member.address


def test_what_leaves_is_shown_and_gets_nothing(live: Callable[..., tuple[Service, Ask]]) -> None:
    service, ask = live()
    service.supply([target("10.0.1.1", 80)], "")
    service.enter(service.view.members[3])
    service.supply([], "")
    last = ask()["endpoints"][-1]
    assert (last["address"], last["state"], last["share"], last["active"]) == ("10.0.1.1:80", "draining", 0.0, 1)


def test_full_endpoints_are_not_promised(live: Callable[..., tuple[Service, Ask]]) -> None:
    service, ask = live(limits=model.ServiceLimits(per_endpoint=1))
    for member in service.view.members:
        service.enter(member)
    answer = ask()
    assert not answer["found"] and "every endpoint is at its limit" in answer["problem"]


@pytest.mark.parametrize("query", [{}, {"url": ["http://a/"], "x": ["1"]}, {"url": ["ftp://a/"]},
                                   {"url": ["http://a/"], "header": ["x"]}, {"url": ["http://a/"], "from": ["x"]}])
def test_a_question_that_is_none(live: Callable[..., tuple[Service, Ask]], query: Any) -> None:
    kept = Kept(Config({}))
    config = Config({"web": model.Listener("web", (model.Bind("", 8080),), "http")})
    running = Running(Live(Snapshot(config, {}, compile_rules(config))), {}, (), kept)
    with pytest.raises(ValueError):
        asyncio.run(explain_running(running, query))


def test_what_dns_said_of_a_name_that_is_gone(live: Callable[..., tuple[Service, Ask]]) -> None:
    service, ask = live(endpoints=(), dns=(model.DnsSource("web.test", 80),))
    service.supply([], "")
    view = NameView("web.test", "A", (), 0.0, 1.0, 0, (), False, 0.0, "no such name", "10.0.0.53:53", {})
    ask.discoveries["app"] = SimpleNamespace(names=[view])  # type: ignore[attr-defined]
    assert ask()["problem"] == "service app: the service has no endpoints: web.test: no such name"


def test_what_lives_is_read_in_the_loop_alone(live: Callable[..., tuple[Service, Ask]]) -> None:
    service, ask = live(endpoints=(), dns=(model.DnsSource("web.test", 80),), balance=model.Balance("source-hash"),
                        affinity=model.Affinity(model.ClientIp(60.0)))
    service.supply([target("10.0.1.1", 80), target("10.0.1.2", 80)], "")
    readers: dict[str, int] = {}
    first, binding = service.first, service.binding
    assert first is not None and binding is not None

    def choose(key: int) -> EndpointState:
        readers["first"] = threading.get_ident()
        return first(key)

    class Names:
        @property
        def names(self) -> list[NameView]:
            readers["names"] = threading.get_ident()
            return []

    service.first = choose
    ask.discoveries["app"] = Names()  # type: ignore[attr-defined]
    assert ask()["chosen"] == first(client_key("192.0.2.7")).address
    assert readers == dict.fromkeys(("names", "first"), threading.get_ident())


def test_endpoints_that_change_while_they_are_copied(live: Callable[..., tuple[Service, Ask]],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    service, ask = live(balance=model.Balance("source-hash"))
    monkeypatch.setattr(status, "SLICE", 0.0)
    before = {member.address for member in service.view.members}

    class Names:
        """Whose reader has given the loop something to do before its next turn."""

        @property
        def names(self) -> list[NameView]:
            asyncio.get_running_loop().call_soon(service.apply, replace(service.config, endpoints=others), None)
            return []

    others = tuple(model.EndpointAddress(f"10.0.9.{i}", 80) for i in (1, 2, 3))
    ask.discoveries["app"] = Names()  # type: ignore[attr-defined]
    answer = ask()
    assert {member.address for member in service.view.members}.isdisjoint(before), "all are others by now"
    assert {one["address"] for one in answer["endpoints"]} == before and answer["chosen"] in before
