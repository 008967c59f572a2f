"""Which route wins, end to end: hosts, paths, methods, headers, queries, listeners, splits."""
from __future__ import annotations

from collections import Counter

import pytest

from e2e.backends import StartActor, answering
from e2e.program import StartEdge, free_port
from e2e.wire import Dial, ask

ROUTES = """
listeners:
  web: {{bind: "127.0.0.1:{port}", protocol: http}}
  other: {{bind: "127.0.0.1:{other}", protocol: http}}
routes:
  - {{name: any, service: s}}
  - {{name: exact-host, host: www.example.com, service: s}}
  - {{name: one-label, host: "*.example.com", service: s}}
  - {{name: more-labels, host: "**.example.com", service: s}}
  - {{name: longer, host: "**.deep.example.com", service: s}}
  - {{name: two-hosts, host: [one.test, two.test], service: s}}
  - {{name: prefix, host: path.test, path: /aaa, service: s}}
  - {{name: longer-prefix, host: path.test, path: /aaa/bb, service: s}}
  - {{name: exact, host: path.test, path: {{exact: /aaa/bb/cc}}, service: s}}
  - {{name: regex, host: path.test, path: {{regex: "^/v[0-9]+/"}}, service: s}}
  - {{name: only-path, path: /everywhere, service: s}}
  - {{name: posts, host: cond.test, methods: [POST, PUT], service: s}}
  - {{name: all-methods, host: cond.test, service: s}}
  - {{name: canary, host: cond.test, headers: {{x-canary: "1"}}, service: s}}
  - {{name: canary-eu, host: cond.test, headers: {{x-canary: "1", x-region: eu}}, service: s}}
  - {{name: preview, host: cond.test, query: {{preview: "yes"}}, service: s}}
  - {{name: elsewhere, host: listener.test, listeners: [other], service: s}}
services:
  s: {{endpoints: ["127.0.0.1:{endpoint}"]}}
"""

CASES = [
    # host, target, method, fields -> route
    ("nowhere.test", "/", "GET", (), "any"),
    ("www.example.com", "/", "GET", (), "exact-host"),
    ("WWW.Example.COM", "/", "GET", (), "exact-host"),
    ("www.example.com:8080", "/", "GET", (), "exact-host"),
    ("www.example.com.", "/", "GET", (), "exact-host"),
    ("api.example.com", "/", "GET", (), "one-label"),
    ("a.b.example.com", "/", "GET", (), "more-labels"),
    ("x.deep.example.com", "/", "GET", (), "longer"),
    ("example.com", "/", "GET", (), "any"),
    ("notexample.com", "/", "GET", (), "any"),
    ("one.test", "/", "GET", (), "two-hosts"),
    ("two.test", "/", "GET", (), "two-hosts"),
    ("path.test", "/aaa", "GET", (), "prefix"),
    ("path.test", "/aaa/", "GET", (), "prefix"),
    ("path.test", "/aaa/b", "GET", (), "prefix"),
    ("path.test", "/aaab", "GET", (), "any"),
    ("path.test", "/aaa/bb", "GET", (), "longer-prefix"),
    ("path.test", "/aaa/bb/", "GET", (), "longer-prefix"),
    ("path.test", "/aaa/bbb", "GET", (), "prefix"),
    ("path.test", "/aaa/bb/cc", "GET", (), "exact"),
    ("path.test", "/aaa/bb/cc?x=/zzz", "GET", (), "exact"),
    ("path.test", "/aaa/bb/cc/dd", "GET", (), "longer-prefix"),
    ("path.test", "/aaa/./bb/../bb/cc", "GET", (), "exact"),
    ("path.test", "/%61aa/bb/%63c", "GET", (), "exact"),
    ("path.test", "/aaa%2fbb/cc", "GET", (), "any"),
    ("path.test", "/v2/x", "GET", (), "regex"),
    ("path.test", "/vx/x", "GET", (), "any"),
    ("path.test", "/everywhere/x", "GET", (), "only-path"),
    ("www.example.com", "/everywhere", "GET", (), "exact-host"),
    ("cond.test", "/", "GET", (), "all-methods"),
    ("cond.test", "/", "POST", (), "posts"),
    ("cond.test", "/", "GET", ("X-Canary: 1",), "canary"),
    ("cond.test", "/", "GET", ("X-Canary: 2",), "all-methods"),
    ("cond.test", "/", "GET", ("X-Canary: 1", "X-Region: eu"), "canary-eu"),
    ("cond.test", "/?preview=yes", "GET", (), "preview"),
    ("cond.test", "/?a=b&preview=yes&c", "GET", (), "preview"),
    ("cond.test", "/?preview=no", "GET", (), "all-methods"),
    ("cond.test", "/?preview=yes", "GET", ("X-Canary: 1",), "canary"),
    ("cond.test", "/", "POST", ("X-Canary: 1",), "posts"),
    ("listener.test", "/", "GET", (), "any"),
]


def test_the_most_specific_route_wins(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port, other = actor(answering("x")), free_port(), free_port()
    proxy = edge(ROUTES.format(port=port, other=other, endpoint=endpoint.port))
    client = dial(port)
    for host, target, method, fields, _ in CASES:
        client.get(target, host, "Content-Length: 0", *fields, method=method)
        answer = client.response()
        assert answer.status == 200
        assert answer.get("x-line") == f"{method} {target} HTTP/1.1", "forwarded as it came"
    taken = [line["route"] for line in proxy.logged(len(CASES))]
    wanted = [case[-1] for case in CASES]
    wrong = [(case[:4], got) for case, got, want in zip(CASES, taken, wanted, strict=True) if got != want]
    assert wrong == []
    assert ask(other, "/", "listener.test").status == 200
    assert proxy.logged(1, lambda line: line["listener"] == "other")[0]["route"] == "elsewhere"


def test_no_route_is_404(edge: StartEdge, actor: StartActor) -> None:
    endpoint, port = actor(answering("x")), free_port()
    proxy = edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\n"
                 "routes: [{host: only.test, path: /here, service: s}]\n"
                 f"services: {{s: {{endpoints: ['127.0.0.1:{endpoint.port}']}}}}\n")
    assert ask(port, "/here", "only.test").status == 200
    for target, host in (("/here", "other.test"), ("/there", "only.test")):
        answer = ask(port, target, host)
        assert answer.status == 404
        assert "error=destination_not_found" in (answer.get("proxy-status") or "")
    assert {line["outcome"] for line in proxy.logged(3)} == {"ok", "no_route"}


def test_a_weighted_split(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    ports = {name: actor(answering(name)).port for name in ("stable", "next", "none")}
    port = free_port()
    services = ", ".join(f"{name}: {{endpoints: ['127.0.0.1:{p}']}}" for name, p in ports.items())
    edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\n"
         "routes: [{service: [{name: stable, weight: 75}, {name: next, weight: 25}, {name: none, weight: 0}]}]\n"
         f"services: {{{services}}}\n")
    client = dial(port)
    shares: Counter[str] = Counter()
    for _ in range(1000):
        client.get()
        shares[client.response().text] += 1
    assert set(shares) == {"stable", "next"}
    assert 180 <= shares["next"] <= 320, "a quarter; five standard deviations either side"


def test_a_split_with_weights_all_0_is_500(edge: StartEdge, actor: StartActor) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\n"
         "routes: [{service: [{name: s, weight: 0}]}]\n"
         f"services: {{s: {{endpoints: ['127.0.0.1:{endpoint.port}']}}}}\n")
    answer = ask(port)
    assert answer.status == 500
    assert answer.get("proxy-status")


@pytest.mark.parametrize("target", ["/../etc/passwd", "/a/../../b", "/%2e%2e/x", "/a/%2E%2e/%2e./x"])
def test_a_path_that_climbs_is_400(edge: StartEdge, actor: StartActor, target: str) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\n"
         f"routes: [{{service: s}}]\nservices: {{s: {{endpoints: ['127.0.0.1:{endpoint.port}']}}}}\n")
    assert ask(port, target).status == 400
    assert endpoint.connections == 0
