"""What routes lead to beside a service as it is: rewrites, redirects, answers of their own, changed header fields."""
from __future__ import annotations

import pytest

from e2e.backends import StartActor, StartStage, answering
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial, ask


@pytest.mark.parametrize(("match", "rewrite", "target", "sent"), [
    ("/api", "{prefix: /app}", "/api/users?x=1", "/app/users?x=1"),
    ("/api", "{prefix: /app}", "/api", "/app"),
    ("/api", "{prefix: /app}", "/api/", "/app/"),
    ("/api", "{prefix: /}", "/api/users", "/users"),
    ("/api", "{prefix: /}", "/api", "/"),
    ("/", "{prefix: /app}", "/users", "/app/users"),
    ("/api", "{prefix: /app}", "/api/a%2Fb/%7Euser", "/app/a%2Fb/%7Euser"),
    ("/api", "{path: /fixed}", "/api/x?y=z", "/fixed?y=z"),
    ("{exact: /old}", "{path: /new}", "/old?q", "/new?q"),
    ("{regex: '^/v([0-9]+)/(.*)$'}", "{path: '/$2/version/$1'}", "/v7/users?x=1", "/users/version/7?x=1"),
])
def test_rewrite_of_the_path(edge: StartEdge, actor: StartActor, match: str, rewrite: str, target: str,
                             sent: str) -> None:
    endpoint, port = actor(answering("x")), free_port()
    edge(web(port, endpoint.port, route=f"path: {match}, rewrite: {rewrite}"))
    assert ask(port, target).get("x-line") == f"GET {sent} HTTP/1.1"


def test_rewrite_of_the_host(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, route="rewrite: {host: internal.example}"))
    client = dial(port)
    client.get("/", "public.example")
    request = endpoint.accept().request()
    assert request.get("host") == "internal.example"
    assert request.get("x-forwarded-host") == "public.example"


@pytest.mark.parametrize(("redirect", "status", "location"), [
    ("{scheme: https}", 308, "https://shop.test/a/b?c=d"),
    ("{host: new.test, status: 301}", 301, "http://new.test:{port}/a/b?c=d"),
    ("{scheme: https, host: new.test, status: 302}", 302, "https://new.test/a/b?c=d"),
    ("{scheme: https, port: 8443, status: 307}", 307, "https://shop.test:8443/a/b?c=d"),
    ("{path: /elsewhere, status: 303}", 303, "http://shop.test:{port}/elsewhere?c=d"),
    ("{prefix: /z}", 308, "http://shop.test:{port}/z/b?c=d"),
])
def test_redirects(edge: StartEdge, redirect: str, status: int, location: str) -> None:
    port = free_port()
    edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\n"
         f"routes: [{{path: /a, redirect: {redirect}}}]\n")
    answer = ask(port, "/a/b?c=d", f"shop.test:{port}")
    assert (answer.status, answer.get("location")) == (status, location.format(port=port))


def test_answers_of_a_route(edge: StartEdge, dial: Dial) -> None:
    port = free_port()
    proxy = edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\n"
                 "routes:\n"
                 "  - {path: {exact: /ping}, respond: {status: 200, body: \"pong\\n\"}}\n"
                 "  - {path: {exact: /json}, respond: {status: 418, body: '{}', content_type: application/json}}\n"
                 "  - {path: {exact: /empty}, respond: {status: 204}}\n")
    client = dial(port)
    client.get("/ping")
    pong = client.response()
    assert (pong.status, pong.text, pong.get("content-length")) == (200, "pong\n", "5")
    assert pong.get("content-type") == "text/plain; charset=utf-8" and pong.get("date")
    client.get("/json")
    teapot = client.response()
    assert (teapot.status, teapot.text, teapot.get("content-type")) == (418, "{}", "application/json")
    client.get("/empty")
    empty = client.response()
    assert (empty.status, empty.get("content-length")) == (204, None)
    client.get("/ping", method="HEAD")
    head = client.response(head_only=True)
    assert (head.status, head.get("content-length")) == (200, "5")
    assert [line["outcome"] for line in proxy.logged(4)] == ["ok"] * 4


def test_header_edits_both_ways(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port, route="request_headers: {set: {x-env: prod}, add: {x-tag: two}, remove: [x-debug]}, "
             "response_headers: {set: {strict-transport-security: max-age=1}, add: {x-tag: four}, remove: [x-powered-by]}"))
    client = dial(port)
    client.get("/", "x.invalid", "X-Env: dev", "X-Env: test", "X-Tag: one", "X-Debug: 1", "x-DEBUG: 2")
    channel = endpoint.accept()
    request = channel.request()
    assert request.all("x-env") == ["prod"]
    assert request.all("x-tag") == ["one", "two"]
    assert request.all("x-debug") == []
    channel.answer(b"", "200 OK", "X-Tag: three", "X-Powered-By: magic", "Strict-Transport-Security: max-age=0")
    answer = client.response()
    assert answer.all("strict-transport-security") == ["max-age=1"]
    assert answer.all("x-tag") == ["three", "four"]
    assert answer.all("x-powered-by") == []


def test_fields_go_through_in_order_and_as_written(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    sent = ["X-First: 1", "x-SECOND: 2", "Cookie: a=1", "X-First: 3", "Accept: */*", "X_under: 4", "X-Empty:",
            "X-Latin: gr\u00fc\u00df"]
    client.get("/", "x.invalid", *sent)
    channel = endpoint.accept()
    request = channel.request()
    own = [f"{name}: {value}".rstrip() for name, value in request.fields if f"{name}: {value}".rstrip() in sent]
    assert own == sent
    channel.answer(b"", "200 OK", "ETag: W/\"x\"", "set-cookie: a=b", "Set-Cookie: c=d", "X-Z: 1")
    answer = client.response()
    assert [(n, v) for n, v in answer.fields if n.lower() in ("etag", "set-cookie", "x-z")] == [
        ("ETag", 'W/"x"'), ("set-cookie", "a=b"), ("Set-Cookie", "c=d"), ("X-Z", "1")]


def test_hop_by_hop_fields_stay_on_their_hop(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/", "x.invalid", "Connection: keep-alive, X-Secret-Hop, Host, Authorization", "X-Secret-Hop: 1",
               "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eA==",
               "TE: trailers, deflate", "Authorization: Bearer x")
    channel = endpoint.accept()
    request = channel.request()
    for name in ("keep-alive", "proxy-connection", "proxy-authorization", "x-secret-hop", "upgrade"):
        assert request.all(name) == [], name
    assert request.get("te") in (None, "trailers")
    assert request.get("authorization") == "Bearer x" and request.get("host") == "x.invalid", "never by Connection"
    channel.answer(b"", "200 OK", "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=9", "Proxy-Connection: close")
    answer = client.response()
    for name in ("connection", "keep-alive", "x-hop", "proxy-connection"):
        assert answer.all(name) == [], name
