"""The proxy's own errors: text, JSON (RFC 9457) or HTML by Accept, the cause in Proxy-Status, the id to ask for."""
from __future__ import annotations

import json
import re

import pytest

from e2e.program import Edge, StartEdge, free_port, web
from e2e.wire import Dial, Response

PROXY_STATUS = re.compile(r'edgeproxy; error=[a-z_]+; details="[ -!#-\[\]-~]*"')


def _fail(edge: StartEdge, dial: Dial, *fields: str, method: str = "GET") -> tuple[Response, Edge, int]:
    port, closed = free_port(), free_port()
    proxy = edge(web(port, closed))
    client = dial(port)
    client.get("/<script>?\"'", "x.invalid", *fields, method=method)
    answer = client.response(head_only=method == "HEAD")
    assert answer.status == 502
    assert PROXY_STATUS.fullmatch(answer.get("proxy-status") or ""), answer.get("proxy-status")
    assert "error=connection_refused" in (answer.get("proxy-status") or "")
    assert answer.get("cache-control") == "no-store"
    assert str(closed) not in answer.raw.decode() + answer.body.decode(), "no endpoint's address"
    assert "script>" not in answer.text, "nothing of the request comes back"
    return answer, proxy, closed


def test_text_by_default(edge: StartEdge, dial: Dial) -> None:
    answer, proxy, _ = _fail(edge, dial)
    assert answer.get("content-type") == "text/plain; charset=utf-8"
    assert answer.text.startswith("502 Bad Gateway\n")
    assert proxy.entry()["request_id"] in answer.text
    assert len(answer.body) < 500


@pytest.mark.parametrize("accept", ["application/json", "application/problem+json, */*", "text/css, application/json;q=0.9"])
def test_json(edge: StartEdge, dial: Dial, accept: str) -> None:
    answer, proxy, _ = _fail(edge, dial, f"Accept: {accept}")
    assert answer.get("content-type") == "application/problem+json"
    problem = json.loads(answer.body)
    assert (problem["status"], problem["title"]) == (502, "Bad Gateway")
    assert problem["request_id"] == proxy.entry()["request_id"]


def test_html_for_browsers(edge: StartEdge, dial: Dial) -> None:
    answer, proxy, _ = _fail(edge, dial, "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
    assert answer.get("content-type") == "text/html; charset=utf-8"
    assert answer.text.lower().startswith("<!doctype html>")
    assert proxy.entry()["request_id"] in answer.text


def test_head_has_no_body(edge: StartEdge, dial: Dial) -> None:
    answer, proxy, _ = _fail(edge, dial, method="HEAD")
    assert int(answer.get("content-length") or 0) > 0
    assert proxy.entry()["status"] == 502


def test_a_request_id_of_a_trusted_client_is_escaped(edge: StartEdge, dial: Dial) -> None:
    port = free_port()
    proxy = edge(web(port, free_port(), listener="trusted_proxies: [127.0.0.0/8]"))
    client = dial(port)
    client.get("/", "x.invalid", "Accept: text/html", "X-Request-Id: <script>alert(1)</script>")
    answer = client.response()
    assert answer.status == 502 and "<script>" not in answer.text
    assert proxy.entry()["request_id"] == "<script>alert(1)</script>"


def test_no_ready_endpoint_is_503(edge: StartEdge, dial: Dial) -> None:
    port = free_port()
    proxy = edge(web(port, f"{{address: '127.0.0.1:{free_port()}', weight: 0}}"))
    client = dial(port)
    client.get()
    answer = client.response()
    assert (answer.status, answer.get("retry-after")) == (503, "1")
    assert "error=destination_unavailable" in (answer.get("proxy-status") or "")
    assert proxy.entry()["outcome"] == "unavailable"


def test_the_connection_goes_on_after_an_error_that_is_not_the_clients(edge: StartEdge, dial: Dial) -> None:
    port = free_port()
    edge(web(port, free_port()))
    client = dial(port)
    for _ in range(5):
        client.get()
        answer = client.response()
        assert (answer.status, answer.get("connection")) == (502, None)
