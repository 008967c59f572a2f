"""What is written comes out as the value that is meant: forms of every key, defaults, environment, short forms."""
from __future__ import annotations

import time
from ipaddress import ip_network
from typing import Any

import pytest

from edgeproxy.config.load import ConfigError, load_text
from edgeproxy.config.model import (
    Balance,
    Bind,
    Config,
    EndpointAddress,
    HeaderEdits,
    Listener,
    PathMatch,
    Redirect,
    Respond,
    Rewrite,
    Route,
    Service,
    WeightedService,
)

BASE = """\
listeners: {web: {bind: ":80", protocol: http}}
services: {app: {endpoints: ["10.0.0.1:80"]}, new: {endpoints: ["10.0.0.2:80"]}}
"""


def route(text: str, **env: str) -> Route:
    return load_text(f"{BASE}routes:\n- {text}\n", env=env).routes[0]


def service(text: str, **env: str) -> Service:
    return load_text(f"{BASE.splitlines()[0]}\nservices:\n  s: {text}\n", env=env).services["s"]


def listener(text: str, **env: str) -> Listener:
    return load_text(f"listeners:\n  l: {text}\nservices: {{app: {{}}}}\n", env=env).listeners["l"]


def refused(text: str, **env: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_text(text, env=env)
    return " / ".join(problem.message for problem in error.value.problems)


def test_smallest_useful_file() -> None:
    config = load_text("""\
listeners: {web: {bind: ":8080", protocol: http}}
routes: [{service: hello}]
services: {hello: {endpoints: ["127.0.0.1:9001", "127.0.0.1:9002"]}}
""")
    assert config == Config(
        listeners={"web": Listener("web", (Bind(port=8080),), "http")},
        routes=(Route("*/", service=(WeightedService("hello"),)),),
        services={"hello": Service("hello", (EndpointAddress("127.0.0.1", 9001), EndpointAddress("127.0.0.1", 9002)))})


@pytest.mark.parametrize(("text", "seconds"), [
    ("250ms", 0.25), ("5s", 5.0), ("2m", 120.0), ("3h", 10800.0), ("7", 7.0), ("0.5", 0.5), ("1.5s", 1.5),
    ("'5s'", 5.0), ("0", 0.0), ("0s", 0.0), ("8760h", 31536000.0),
])
def test_durations(text: str, seconds: float) -> None:
    assert route(f"{{service: app, timeouts: {{response: {text}}}}}").timeouts.response == seconds


@pytest.mark.parametrize("text", [
    "5 s", "-1s", "1d", "s", "1e3", "inf", "nan", "1h30m", "٣s", "9000h", "0.5ms", "", "''", "[1]", ".5", "5S",
])
def test_not_durations(text: str) -> None:
    refused(f"{BASE}routes: [{{service: app, timeouts: {{response: {text}}}}}]")


@pytest.mark.parametrize(("text", "size"),
                         [("512B", 512), ("16KiB", 16384), ("1MiB", 1 << 20), ("1GiB", 1 << 30), ("4096", 4096)])
def test_sizes(text: str, size: int) -> None:
    assert listener(f"{{bind: ':80', protocol: http, limits: {{body: {text}}}}}").limits.body == size


@pytest.mark.parametrize("text", ["1KB", "1kib", "1.5MiB", "-1", "1 KiB", "1TiB", "0x10"])
def test_not_sizes(text: str) -> None:
    refused(f"listeners: {{l: {{bind: ':80', protocol: http, limits: {{body: {text}}}}}}}")


@pytest.mark.parametrize(("text", "value"), [
    ("no", "no"), ("012", "012"), ("22:22", "22:22"), ("1.10", "1.10"), ("yes", "yes"), ("0x10", "0x10"),
    ("2001-01-01", "2001-01-01"), ("'~'", "~"), ("'null'", "null"), ("''", ""), ("=", "="), ("1_000", "1_000"),
    ("on", "on"), (".inf", ".inf"),
])
def test_text_is_taken_as_written(text: str, value: str) -> None:
    assert route(f"{{service: app, headers: {{x: {text}}}}}").headers == (("x", value),)


def test_a_service_may_be_called_no() -> None:
    config = load_text("listeners: {on: {bind: ':80', protocol: http}}\nroutes: [{service: no}]\nservices: {no: {}}")
    assert config.routes[0].service == (WeightedService("no"),)


@pytest.mark.parametrize(("text", "bind"), [
    (":80", Bind("", 80)), ("0.0.0.0:80", Bind("0.0.0.0", 80)), ("[::1]:80", Bind("::1", 80)),
    ("localhost:80", Bind("127.0.0.1", 80)), ("[0:0::1]:80", Bind("::1", 80)),
    ("127.0.0.1:0", Bind("127.0.0.1", 0)), ("unix:/run/e.sock", Bind(path="/run/e.sock")),
    ("unix:e.sock", Bind(path="e.sock")), ("[::]:80", Bind("::", 80)),
])
def test_binds(text: str, bind: Bind) -> None:
    assert listener(f"{{bind: '{text}', protocol: http}}").bind == (bind,)
    assert listener(f"{{bind: ['{text}', ':9'], protocol: http}}").bind == (bind, Bind("", 9))


@pytest.mark.parametrize("text", [
    "80", "", ":", ":x", ":70000", ":-1", "a.b:80", "::1:80", "[::1]", "[1.2.3.4]:80", "1.2.3:80", "256.1.1.1:80",
    "01.2.3.4:80", "*:80", "unix:", "unix:@x", "unix:/" + "x" * 110, "127.0.0.1:80:80", "[::1:80", ":٣",
])
def test_not_binds(text: str) -> None:
    refused(f"listeners: {{l: {{bind: '{text}', protocol: http}}}}")


def test_endpoints() -> None:
    endpoints = service("""{endpoints: [
        "10.0.0.5:80", {address: "[::1]:80", weight: 2}, {address: "unix:/run/a.sock", backup: true},
        "localhost:81", {address: "10.0.0.6:80", weight: 0}]}""").endpoints
    assert endpoints == (EndpointAddress("10.0.0.5", 80), EndpointAddress("::1", 80, weight=2),
                         EndpointAddress(path="/run/a.sock", backup=True),
                         EndpointAddress("127.0.0.1", 81), EndpointAddress("10.0.0.6", 80, weight=0))
    assert [endpoint.address for endpoint in endpoints] == ["10.0.0.5:80", "[::1]:80", "unix:/run/a.sock",
                                                            "127.0.0.1:81", "10.0.0.6:80"]


@pytest.mark.parametrize(("text", "hint"), [
    ("tom cat:8080", "not a name"), ("tomcat/x:8080", "not a name"), ("a..b:80", "not a name"), ("tomcat", "no port"),
    ("1.2.3:80", "not an IP address"), ("[fe80::1%eth0]:80", "zone"), ("bücher.de:80", "xn--bcher-kva.de"),
    (":80", '"127.0.0.1:80"'), ("10.0.0.1", '"10.0.0.1:80"'), ("10.0.0.1:0", "1 to 65535"),
    ("http://10.0.0.1:80", "not a URL"), ("0.0.0.0:80", "connected to"), ("10.0.0.1:80/x", "no path"),
    ("[::1]", "no port"), ("::1:80", "brackets"), ("10.0.0.1:http", "not a port"), ("unix:", "path of the socket"),
])
def test_not_endpoints(text: str, hint: str) -> None:
    assert hint in refused(f"{BASE.splitlines()[0]}\nservices: {{s: {{endpoints: ['{text}']}}}}")


def test_networks() -> None:
    found = listener('{bind: ":80", protocol: http, trusted_proxies: [10.0.0.0/8, "fd00::/8", 192.168.1.1]}').trusted_proxies
    assert found == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("192.168.1.1/32"))


@pytest.mark.parametrize(("text", "host"), [
    ("A.Example.COM", "a.example.com"), ("a.example.com.", "a.example.com"), ("'*.example.com'", "*.example.com"),
    ("'**.example.com'", "**.example.com"), ("my_host", "my_host"), ("10.0.0.1", "10.0.0.1"), ("'[0::1]'", "[::1]"),
    ("xn--bcher-kva.de", "xn--bcher-kva.de"),
])
def test_hosts(text: str, host: str) -> None:
    assert route(f"{{service: app, host: {text}}}").host == (host,)
    assert route(f"{{service: app, host: [other, {text}]}}").host == ("other", host)


@pytest.mark.parametrize("text", [
    "*", "**", "", "a.*.b", "*a.b", "a b", "a..b", ".a", "a.b:80", "http://a", "bücher.de", "-a.b", "a" * 64,
    "::1", "[10.0.0.1]",
])
def test_not_hosts(text: str) -> None:
    refused(f"{BASE}routes: [{{service: app, host: {text!r}}}]")


@pytest.mark.parametrize(("text", "match"), [
    ("/", PathMatch("prefix", "/")), ("/a/", PathMatch("prefix", "/a")), ("/a/b", PathMatch("prefix", "/a/b")),
    ("{prefix: /a}", PathMatch("prefix", "/a")), ("{exact: /a/}", PathMatch("exact", "/a/")),
    ("{exact: /%c3%a4}", PathMatch("exact", "/%C3%A4")),
    ("{regex: '^/v[0-9]+/'}", PathMatch("regex", "^/v[0-9]+/")), ("/a:b@c;d=e", PathMatch("prefix", "/a:b@c;d=e")),
    ("/...", PathMatch("prefix", "/...")),
])
def test_paths(text: str, match: PathMatch) -> None:
    assert route(f"{{service: app, path: {text}}}").path == match


@pytest.mark.parametrize("text", [
    "x", "''", "/a?b", "'/a#b'", "/a b", "/ä", "/%61", "/%", "/%4", "/./a", "/a/..", "{exact: /a, prefix: /b}", "{}",
    "[]", "{regex: '('}", "{regex: 'a{99999999999999}'}", "{regex: ä}", "{regex: '(?P<a>x)(?P<a>y)'}", '"/a\\nb"',
    '{regex: "a\\nb"}',
])
def test_not_paths(text: str) -> None:
    refused(f"{BASE}routes: [{{service: app, path: {text}}}]")


def test_a_whole_route() -> None:
    found = route("""
  name: all
  host: [a.b, "*.c.d"]
  path: {regex: "^/(x)/(y)"}
  methods: [GET, PROPFIND]
  headers: {X-Canary: "1"}
  query: {v: 2, Ä: ö}
  listeners: [web]
  service: [{name: app, weight: 90}, {name: new, weight: 10}]
  rewrite: {path: "/$2/$1", host: "a.b:8080"}
  request_headers: {set: {X-Env: prod}, add: {X-B: c}, remove: [X-Debug]}
  response_headers: {set: {strict-transport-security: "max-age=31536000"}}
  timeouts: {response: 1s, total: 2s}
  retry: {attempts: 2, when: [connect, timeout, 502, 503]}
""")
    assert found == Route(
        "all", host=("a.b", "*.c.d"), path=PathMatch("regex", "^/(x)/(y)"), methods=("GET", "PROPFIND"),
        headers=(("x-canary", "1"),),
        query=(("v", "2"), ("Ä", "ö")), listeners=("web",),
        service=(WeightedService("app", 90), WeightedService("new", 10)),
        rewrite=Rewrite(path="/$2/$1", host="a.b:8080"),
        request_headers=HeaderEdits((("X-Env", "prod"),), (("X-B", "c"),), ("X-Debug",)),
        response_headers=HeaderEdits(set=(("strict-transport-security", "max-age=31536000"),)),
        timeouts=found.timeouts, retry=found.retry)
    assert (found.timeouts.response, found.timeouts.total, found.retry.attempts, found.retry.when) == (
        1.0, 2.0, 2, ("connect", "timeout", 502, 503))


def test_redirect_and_respond() -> None:
    assert route("{redirect: {scheme: https, host: New.example.com, port: 8443, prefix: /x/, status: 301}}").redirect == Redirect(
        "https", "new.example.com", 8443, None, "/x", 301)
    assert route("{redirect: {path: /x/}}").redirect == Redirect(path="/x/")
    assert route('{respond: {status: 503, body: "a\\nb", content_type: text/html}}').respond == Respond(503, "a\nb",
                                                                                                        "text/html")
    assert route("{respond: {}}").respond == Respond(200, "")


def test_forms_of_service() -> None:
    assert route("{service: app}").service == (WeightedService("app"),)
    assert route("{service: {name: app}}").service == (WeightedService("app"),)
    assert route("{service: [app, {name: new, weight: 0}]}").service == (WeightedService("app"),
                                                                         WeightedService("new", 0))


@pytest.mark.parametrize(("text", "balance"), [
    ("round-robin", Balance()), ("least-conn", Balance("least-conn")), ("source-hash", Balance("source-hash")),
    ("random", Balance("random")), ("least-latency", Balance("least-latency")),
    ("{hash: {header: X-User}}", Balance("hash", "header", "X-User")),
    ("{hash: {cookie: id}}", Balance("hash", "cookie", "id")),
    ("{hash: {query: q}}", Balance("hash", "query", "q")), ("{hash: path}", Balance("hash", "path")),
])
def test_balance(text: str, balance: Balance) -> None:
    assert service(f"{{balance: {text}}}").balance == balance


def test_a_whole_service() -> None:
    found = service("""
    endpoints: []
    eject: {failures: 5, within: 20s, for: 1m}
    limits: {per_endpoint: 10, queue: 20, queue_timeout: 1s}
    timeouts: {connect: 500ms, idle: 0}
    pool: {idle: 8}""")
    assert (found.eject.failures, found.eject.within, found.eject.duration) == (5, 20.0, 60.0)
    assert (found.limits.per_endpoint, found.limits.queue, found.limits.queue_timeout) == (10, 20, 1.0)
    assert (found.timeouts.connect, found.timeouts.idle, found.pool.idle, found.endpoints) == (0.5, 0.0, 8, ())


def test_idle_or_default() -> None:
    def idle(text: str) -> float:
        return listener(text).idle_or_default
    assert idle("{bind: ':80', protocol: http}") == 75.0
    assert idle("{bind: ':80', protocol: tcp, service: app}") == 3600.0
    assert idle("{bind: ':80', protocol: tcp, service: app, timeouts: {idle: 5m}}") == 300.0
    assert idle("{bind: ':80', protocol: http, timeouts: {idle: 0}}") == 0.0


def test_names_of_routes() -> None:
    config = load_text(f"""{BASE}
routes:
- {{service: app}}
- {{service: app, host: [a.b, c.d], path: /x/}}
- {{service: app, host: a.b, path: /x, methods: [GET]}}
- {{service: app, host: a.b, path: {{exact: /x}}}}
- {{service: app, path: {{regex: ^/v}}}}
- {{service: app, path: /named, name: named}}
""")
    assert [route.name for route in config.routes] == ["*/", "a.b/x", "a.b/x#2", "a.b/x#3", "*~^/v", "named"]


@pytest.mark.parametrize(("text", "env", "value"), [
    ("'${A}'", {"A": "x"}, "x"), ("a${A}b${B}", {"A": "1", "B": "2"}, "a1b2"), ("'${A:-d}'", {}, "d"),
    ("'${A:-d}'", {"A": ""}, "d"),
    ("'${A:-}'", {}, ""), ("'${A}'", {"A": ""}, ""), ("'$${A}'", {"A": "x"}, "${A}"), ("'$A $1 $'", {}, "$A $1 $"),
    ("'${A:-a:-b}'", {}, "a:-b"),
    ("'${A}'", {"A": "${B}"}, "${B}"), ("'${A}'", {"A": "{b: c} # d"}, "{b: c} # d"), ("'$$${A}'", {"A": "x"}, "$${A}"),
])
def test_variables(text: str, env: dict[str, str], value: str) -> None:
    found = load_text(f"{BASE}routes:\n- service: app\n  headers:\n    x: {text}\n", env=env).routes[0]
    assert found.headers == (("x", value),)


def test_variables_everywhere() -> None:
    env = {"PORT": "8080", "SERVICE": "app", "WEIGHT": "3", "TIME": "2s", "YES": "true", "KIND": "random",
           "HOST": "*.a.b"}
    config = load_text("""
listeners: {web: {bind: ":${PORT}", protocol: "${PROTOCOL:-http}"}}
routes: [{host: "${HOST}", service: "${SERVICE}", timeouts: {total: "${TIME}"}}]
services: {app: {balance: "${KIND}", endpoints: [{address: "10.0.0.1:${PORT}", weight: "${WEIGHT}", backup: "${YES}"}]}}
""", env=env)
    assert config.listeners["web"].bind == (Bind("", 8080),)
    assert config.routes[0].host == ("*.a.b",)
    assert config.services["app"].endpoints == (EndpointAddress("10.0.0.1", 8080, weight=3, backup=True),)
    assert config.services["app"].balance.kind == "random"


@pytest.mark.parametrize(("text", "hint"), [
    ("${NOPE}", "NOPE is not set"), ("${NOPE", "never closed"), ("${}", "not the name"), ("${1}", "not the name"),
    ("${A B}", "not the name"), ("${A:-${B}}", "cannot hold another"), ("${BAD}", "not UTF-8"),
])
def test_not_variables(text: str, hint: str) -> None:
    assert hint in refused(f"{BASE}routes: [{{service: app, headers: {{x: '{text}'}}}}]", BAD="\udcff")


def test_what_the_environment_says_is_checked_like_the_file() -> None:
    message = refused(f"{BASE}routes: [{{service: app, headers: {{x: '${{X}}'}}}}]", X="a\r\nEvil: 1")
    assert message == "a header cannot hold control characters or line breaks"


def test_aliases_repeat_values() -> None:
    config = load_text(f"""{BASE}
routes:
- {{service: app, timeouts: &slow {{response: 5m}}}}
- {{service: new, path: /new, timeouts: *slow}}
""")
    assert [route.timeouts.response for route in config.routes] == [300.0, 300.0]


@pytest.mark.parametrize(("text", "messages"), [
    ("headers: {a: x, A: y}", '"a" is given twice'),
    ("request_headers: {set: {Content-Length: 1}}", "Content-Length belongs to the connection"),
    ("request_headers: {add: {transfer-encoding: x}}", "transfer-encoding belongs"),
    ("request_headers: {remove: [Connection]}", "Connection belongs"),
    ("response_headers: {remove: [Upgrade]}", "Upgrade belongs"),
    ("request_headers: {set: {Host: x}}", "changed by rewrite"),
    ("request_headers: {set: {'a b': x}}", "not the name of a header"),
    ('request_headers: {set: {a: "x\\r\\ny"}}', "line breaks"), ("request_headers: {set: {a: ä}}", "ASCII"),
    ("headers: {host: a}", "use host"), ("query: {'': }", "no value"), ("methods: [get]", '"GET"'),
    ("methods: [CONNECT]", "405"), ("methods: []", "empty"), ("host: []", "empty"), ("listeners: []", "empty"),
    ("service: []", "empty"),
])
def test_conditions_and_edits_that_cannot_be(text: str, messages: str) -> None:
    head = "" if text.startswith("service") else "service: app, "
    assert messages in refused(f"{BASE}routes: [{{{head}{text}}}]")


def numbers() -> list[tuple[str, Any]]:
    return [("retry: {attempts: 0}", "cannot be 0"), ("retry: {attempts: 1000}", "at most 100"),
            ("retry: {when: [200]}", "not a reason"),
            ("retry: {when: [connect, connect]}", "in the list already"),
            ("service: [{name: app, weight: -1}]", "negative"),
            ("service: [{name: app, weight: 1.5}]", "not a whole number"),
            ("service: [{name: app, weight: 012}]", "leading zeros"),
            ("service: [{name: app, weight: ٣}]", "not a whole number"),
            ("service: [{name: app, weight: 99999999999999999999}]", "not a whole number")]


@pytest.mark.parametrize(("text", "hint"), numbers())
def test_numbers_that_cannot_be(text: str, hint: str) -> None:
    head = "" if text.startswith("service") else "service: app, "
    assert hint in refused(f"{BASE}routes: [{{{head}{text}}}]")


def test_ten_thousand_routes_are_read_quickly() -> None:
    text = BASE + "routes:\n" + "".join(f"- {{host: h{n}.example.com, path: /a/{n}, service: app}}\n" for n in range(10_000))
    start = time.process_time()
    assert len(load_text(text).routes) == 10_000
    assert time.process_time() - start < 5, "0.3 s on an idle machine; this bound only catches what grows with the square"


def test_ten_thousand_mistakes_are_told_quickly() -> None:
    text = BASE + "routes:\n" + "".join(f"- {{host: h{n}.example.com, service: ap{n}, pth: /}}\n" for n in range(10_000))
    start = time.process_time()
    with pytest.raises(ConfigError) as error:
        load_text(text)
    assert len(error.value.problems) == 20_000
    assert str(error.value).endswith("... and 19900 more")
    assert time.process_time() - start < 10
