"""The proxy's own answers: negotiation, escaping, the syntax of Proxy-Status, redirects."""
from __future__ import annotations

import json
import re

import pytest

from edgeproxy.codec._leaf import RequestHead, parse_request
from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.route import Route
from edgeproxy.session.reply import Reply, error_reply, options_reply, reason_for, route_reply

NASTY = 'a "quoted" \\ <b>&\r\nX-Evil: 1 é\x00'


def head(fields: str = "", target: str = "/", start: str = "Host: a.example\r\n", version: str = "1.1") -> RequestHead:
    parsed = parse_request(f"GET {target} HTTP/{version}\r\n{start}{fields}\r\n".encode("latin-1"), 65536, 100)
    assert parsed is not None
    return parsed


def field(reply: Reply, name: bytes) -> str:
    return b", ".join(value for key, value in reply.fields if key == name).decode("latin-1")


def answered(route: Route, asked: RequestHead, scheme: str, port: int) -> Reply:
    reply = route_reply(route, asked, scheme, port)
    assert reply is not None
    return reply


def error(kind: Kind = Kind.CONNECT_REFUSED, cause: str = "no", accept: str | None = None) -> Reply:
    asked = head() if accept is None else head(f"Accept: {accept}\r\n")
    return error_reply(ProxyError(kind, cause), kind.status, asked, "id-<1>")


@pytest.mark.parametrize(("accept", "content_type"), [
    (None, "text/plain; charset=utf-8"),
    ("*/*", "text/plain; charset=utf-8"),
    ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
    ("application/json", "application/problem+json"),
    ("Application/Problem+JSON", "application/problem+json"),
    ("image/png", "text/plain; charset=utf-8"),
])
def test_the_body_is_what_the_client_accepts(accept: str | None, content_type: str) -> None:
    reply = error(accept=accept)
    assert field(reply, b"Content-Type") == content_type
    assert b"id-" in reply.body and b"502" in reply.body


def test_a_problem_is_json_whatever_is_in_it() -> None:
    problem = json.loads(error(cause=NASTY, accept="application/json").body)
    assert problem["detail"] == NASTY
    assert (problem["status"], problem["error"], problem["request_id"]) == (502, "connection_refused", "id-<1>")


def test_a_page_escapes_everything() -> None:
    page = error(cause=NASTY, accept="text/html").body.decode()
    assert "<b>" not in page and "id-&lt;1&gt;" in page


# RFC 9209 §2, RFC 8941: a list member with parameters; a string of printable ASCII with \" and \\ alone escaped.
PROXY_STATUS = re.compile(r'edgeproxy; error=[a-z_]+; details="(?:[ !#-\[\]-~]|\\["\\])*"')


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("cause", ["", "plain words", NASTY])
def test_proxy_status_keeps_its_syntax(kind: Kind, cause: str) -> None:
    reply = error(kind, cause)
    assert PROXY_STATUS.fullmatch(field(reply, b"Proxy-Status"))
    assert f"error={kind.error};" in field(reply, b"Proxy-Status")
    assert reply.status == kind.status
    for name, value in reply.fields:
        assert not re.search(rb"[\x00-\x1f\x7f]", name + value)


@pytest.mark.parametrize(("kind", "name", "value"), [
    (Kind.UNAVAILABLE, b"Retry-After", "1"), (Kind.QUEUE_FULL, b"Retry-After", "1"),
    (Kind.CONNECT_REFUSED, b"Retry-After", ""),
    (Kind.METHOD_REFUSED, b"Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"), (Kind.NO_ROUTE, b"Allow", ""),
    (Kind.NO_ROUTE, b"Cache-Control", "no-store"),
])
def test_fields_that_go_with_a_status(kind: Kind, name: bytes, value: str) -> None:
    assert field(error(kind), name) == value


def test_an_error_without_a_head_is_plain_text() -> None:
    reply = error_reply(ProxyError(Kind.BAD_REQUEST, "no"), 400, None, "id")
    assert reply.body == b"400 Bad Request\nno\nrequest id\n"


def test_every_status_of_ours_has_a_reason() -> None:
    assert all(reason_for(kind.status) for kind in Kind if kind is not Kind.CLIENT_GONE)
    assert reason_for(413) == "Content Too Large" and reason_for(599) == ""


def test_a_routes_own_answer() -> None:
    route = Route(model.Route("r", respond=model.Respond(418, "té", "text/x")), 0)
    assert route_reply(route, head(), "http", 80) == Reply(418, ((b"Content-Type", b"text/x"),), "té".encode())


def test_options_star() -> None:
    assert options_reply().status == 204 and options_reply().body == b""


@pytest.mark.parametrize(("host", "port", "target", "location"), [
    ("a.example", 80, "/x?y=1", "http://b.example/x?y=1"),
    ("a.example:8080", 80, "/", "http://b.example:8080/"),
    ("a.example", 8080, "/", "http://b.example/"),          # no port in Host: the default one
    ("a.example:80", 8080, "/", "http://b.example/"),
    ("[::1]:8080", 80, "/", "http://b.example:8080/"),
])
def test_a_redirect_keeps_what_it_does_not_name(host: str, port: int, target: str, location: str) -> None:
    route = Route(model.Route("r", redirect=model.Redirect(host="b.example")), 0)
    reply = answered(route, head(target=target, start=f"Host: {host}\r\n"), "http", port)
    assert (reply.status, field(reply, b"Location")) == (308, location)


def test_a_redirect_never_holds_a_line_break() -> None:
    route = Route(model.Route("r", redirect=model.Redirect(scheme="https")), 0)
    for target in ("/%0d%0aX:1", "//evil.example/", "/\xe9?q=\xff"):
        location = field(answered(route, head(target=target), "http", 80), b"Location")
        assert location.startswith("https://a.example/") and not re.search(r"[\r\n]", location)


def test_a_redirect_for_a_client_without_host_is_relative() -> None:
    route = Route(model.Route("r", redirect=model.Redirect(scheme="https")), 0)
    reply = answered(route, head(target="//evil.example/x", start="", version="1.0"), "http", 80)
    assert re.fullmatch(r"/[^/].*", field(reply, b"Location"))


# ---- gRPC

def grpc(kind: Kind, cause: str = "no", content_type: str = "application/grpc+proto") -> Reply:
    asked = head(f"Content-Type: {content_type}\r\nTE: trailers\r\nAccept: text/html\r\n")
    return error_reply(ProxyError(kind, cause), kind.status, asked, "id-<1>")


@pytest.mark.parametrize("kind", Kind)
def test_a_grpc_client_gets_a_head_and_a_status_of_its_own(kind: Kind) -> None:
    reply = grpc(kind)
    assert (reply.status, reply.body, field(reply, b"Content-Type")) == (200, b"", "application/grpc")
    assert int(field(reply, b"grpc-status")) in range(1, 17)
    assert f"error={kind.error};" in field(reply, b"Proxy-Status")


@pytest.mark.parametrize(("kind", "code"), [
    (Kind.BAD_REQUEST, 13), (Kind.NO_ROUTE, 12), (Kind.METHOD_REFUSED, 12),
    (Kind.UNAVAILABLE, 14), (Kind.QUEUE_FULL, 14), (Kind.DRAINING, 14), (Kind.CONNECT_REFUSED, 14), (Kind.RESET, 14),
    (Kind.CONNECT_TIMEOUT, 14), (Kind.RESPONSE_TIMEOUT, 4), (Kind.TOTAL_TIMEOUT, 4), (Kind.REQUEST_TIMEOUT, 4),
    (Kind.CLIENT_GONE, 1), (Kind.INTERNAL, 2), (Kind.BODY_TOO_LARGE, 8), (Kind.HEAD_TOO_LARGE, 8),
])
def test_grpc_codes(kind: Kind, code: int) -> None:
    assert field(grpc(kind), b"grpc-status") == str(code)


def test_a_grpc_message_is_percent_encoded() -> None:
    message = field(grpc(Kind.RESET, 'é 100% "x"\r\n\x00'), b"grpc-message")
    assert message == 'edgeproxy: %C3%A9 100%25 "x"%0D%0A%00'


@pytest.mark.parametrize(("asked", "answered_with"), [
    ("application/grpc", "application/grpc"), ("Application/gRPC; charset=utf-8", "application/grpc"),
    ("application/grpc-web+proto", "application/grpc-web+proto"), ("application/json", "text/html; charset=utf-8"),
    ("text/application/grpc", "text/html; charset=utf-8"),
])
def test_who_is_a_grpc_client(asked: str, answered_with: str) -> None:
    assert field(grpc(Kind.RESET, content_type=asked), b"Content-Type") == answered_with
