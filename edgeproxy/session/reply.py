"""The answers that the proxy makes itself: errors, redirects, fixed responses.

An error names its cause in `Proxy-Status` (RFC 9209) and in a short body, as plain text, JSON (RFC 9457) or HTML by
`Accept`. It never tells an endpoint's address, and nothing that a client sent gets into it unescaped. A gRPC client
looks for a status of its own in the fields, and takes anything but 200 for a broken server: it gets that.
"""
from __future__ import annotations

import json
from email.utils import formatdate
from html import escape
from http import HTTPStatus
from typing import NamedTuple

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.router import Route

METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large", 414: "URI Too Long",
                                                                     431: "Request Header Fields Too Large"}


# gRPC's own table (doc/http-grpc-status-mapping.md), and what that has no word for: 408 and 499 end at the client, 413,
# 417 and 431 are limits, 501 and 405 something that is not done here. Everything else is UNKNOWN.
_GRPC_CODES = {400: 13, 401: 16, 403: 7, 404: 12, 405: 12, 408: 4, 413: 8, 414: 8, 431: 8, 499: 1, 501: 12, 429: 14,
               502: 14, 503: 14, 504: 14}
# Our time for the answer is over: DEADLINE_EXCEEDED, for the call may have been carried out. UNAVAILABLE, which the
# table has for 504, invites clients to call again; it is right where nothing was sent (`Kind.CONNECT_TIMEOUT`).
_GRPC_LATE = frozenset({Kind.RESPONSE_TIMEOUT, Kind.TOTAL_TIMEOUT})
_GRPC_UNKNOWN, _GRPC_DEADLINE = 2, 4

Field = tuple[bytes, bytes]


class Reply(NamedTuple):
    """A whole response; framing and connection fields are the session's business."""

    status: int
    fields: tuple[Field, ...]
    body: bytes


def reason_for(status: int) -> str:
    return _REASONS.get(status, "")


def date_field() -> bytes:
    return formatdate(usegmt=True).encode()


def error_reply(error: ProxyError, status: int, head: RequestHead | None, request_id: str) -> Reply:
    asked = (head.get(b"content-type") or b"").lower() if head is not None else b""
    if asked.startswith(b"application/grpc"):
        return _grpc_reply(error, status, asked)
    content_type, body = _error_body(error, status, head, request_id)
    fields = [(b"Content-Type", content_type), (b"Cache-Control", b"no-store"), (b"Proxy-Status", _proxy_status(error))]
    if status == 503:
        fields.append((b"Retry-After", b"1"))
    elif status == 405:
        fields.append((b"Allow", METHODS))
    return Reply(status, tuple(fields), body)


def _grpc_reply(error: ProxyError, status: int, asked: bytes) -> Reply:
    """Only a head: that is how gRPC says that there is no answer (Trailers-Only)."""
    code = _GRPC_DEADLINE if error.kind in _GRPC_LATE else _GRPC_CODES.get(status, _GRPC_UNKNOWN)
    message = f"edgeproxy: {error.cause or error.kind.word}".encode()
    told = b"".join(b"%c" % c if 0x20 <= c <= 0x7E and c != 0x25 else b"%%%02X" % c for c in message)
    web = asked.startswith(b"application/grpc-web")  # over HTTP/1 too; it wants its own type back
    return Reply(200, ((b"Content-Type", b"application/grpc-web+proto" if web else b"application/grpc"),
                       (b"grpc-status", b"%d" % code), (b"grpc-message", told),
                       (b"Proxy-Status", _proxy_status(error))), b"")


def _proxy_status(error: ProxyError) -> bytes:
    # RFC 8941 §3.3.3: a string holds printable ASCII, with backslash and quote escaped.
    details = "".join(c if " " <= c <= "~" else "?" for c in error.cause).replace("\\", "\\\\").replace('"', '\\"')
    return f'edgeproxy; error={error.kind.error}; details="{details}"'.encode()


def _error_body(error: ProxyError, status: int, head: RequestHead | None, request_id: str) -> tuple[bytes, bytes]:
    accept = (head.get(b"accept") or b"").lower() if head is not None else b""
    title = f"{status} {reason_for(status)}"
    if b"application/problem+json" in accept or b"application/json" in accept:
        problem = {"type": "about:blank", "title": reason_for(status), "status": status, "detail": error.cause,
                   "error": error.kind.error, "request_id": request_id}
        return b"application/problem+json", json.dumps(problem).encode() + b"\n"
    if b"text/html" in accept:
        page = (f"<!doctype html><meta charset=utf-8><title>{title}</title><h1>{title}</h1>"
                f"<p>{escape(error.cause)}</p><p><small>edgeproxy, request {escape(request_id)}</small></p>\n")
        return b"text/html; charset=utf-8", page.encode()
    return b"text/plain; charset=utf-8", f"{title}\n{error.cause}\nrequest {request_id}\n".encode()


def options_reply() -> Reply:
    """`OPTIONS *` asks the server itself (RFC 9110 §9.3.7)."""
    return Reply(204, ((b"Allow", METHODS),), b"")


def route_reply(route: Route, head: RequestHead, scheme: str, port: int) -> Reply | None:
    """What the route answers itself; None if it leads to a service. `port`: of the listener, for want of a Host."""
    if route.respond is not None:
        status, body, content_type = route.respond
        return Reply(status, _edited(route, [(b"Content-Type", content_type)]), body)
    if route.redirect is None:
        return None
    if head.authority:
        port = _named_port(head.authority) or (443 if scheme == "https" else 80)
    location = route.location_for(scheme, head.host, port, head.path, head.query)
    return Reply(route.redirect.status, _edited(route, [(b"Location", location.encode("latin-1", "replace"))]), b"")


def _named_port(authority: str) -> int:
    """The port of a Host; 0: it names none."""
    _, colon, port = authority.rpartition(":")
    return int(port) if colon and port.isdecimal() else 0


def _edited(route: Route, fields: list[Field]) -> tuple[Field, ...]:
    """The route's changes to the fields of its responses: remove, then set, then add."""
    if route.response_edits is not None:
        put, add, remove = route.response_edits
        gone = {name.lower() for name in remove} | {name.lower() for name, _ in put}
        fields = [field for field in fields if field[0].lower() not in gone] + [*put, *add]
    return tuple(fields)
