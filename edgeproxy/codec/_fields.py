"""Between the fields of HTTP/2 and the lines of HTTP/1 (RFC 9113 §8.2, 8.3): the Python twin's part of that.

Rules of this file: pure functions. What is malformed in HTTP/2 is refused here, field by field, in order; what is left
becomes lines that the strict reader of HTTP/1 judges like any others (`_pure.py`), so that nothing which came by
HTTP/2 can be said to an HTTP/1 endpoint in a way that it could take for something else.
"""
from __future__ import annotations

from collections.abc import Sequence

from edgeproxy.codec import headers as h
from edgeproxy.codec.headers import CRLF

_LOWER_TOKEN = bytes(byte for byte in h.TOKEN if not 65 <= byte <= 90)
_CONNECTION_SPECIFIC = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_REQUEST = frozenset((b":authority", b":method", b":path", b":scheme"))
_RESPONSE = frozenset((b":status",))
_ONLY_IN_HTTP_1 = frozenset((b"connection", b"host", b"transfer-encoding", b"upgrade"))

Pair = tuple[bytes, bytes]


# ---- from HTTP/2 -----------------------------------------------------------------------------------------------

def _check_value(value: bytes, status: int) -> None:
    if value.translate(None, h.VALUE):
        raise ValueError(status, "control character in a field value")
    if value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
        raise ValueError(status, "white space around a field value")


def _check_field(name: bytes, value: bytes, status: int) -> None:
    """RFC 9113 §8.2, and names and values no wider than those of HTTP/1."""
    if not name:
        raise ValueError(status, "empty field name")
    if name.translate(None, _LOWER_TOKEN):
        raise ValueError(status, "invalid character in a field name")
    _check_value(value, status)
    if name in _CONNECTION_SPECIFIC or name == b"te" and value.lower() != b"trailers":
        raise ValueError(status, "connection-specific field")


def _judge(fields: Sequence[Pair], known: frozenset[bytes], max_head: int, max_fields: int,
           status: int) -> tuple[dict[bytes, bytes], list[Pair], int]:
    """(pseudo-header fields, fields, size). `status`: of what is malformed."""
    pseudo: dict[bytes, bytes] = {}
    plain: list[Pair] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + 32
        if size > max_head:
            raise ValueError(status or 431, "head too large")
        if name[:1] != b":":
            if len(plain) == max_fields:
                raise ValueError(status or 431, "too many fields")
            _check_field(name, value, status)
            plain.append((name, value))
            continue
        if name not in known:
            raise ValueError(status, "unknown pseudo-header field")
        if name in pseudo:
            raise ValueError(status, "repeated pseudo-header field")
        if plain:
            raise ValueError(status, "pseudo-header field behind a field")
        _check_value(value, status)
        pseudo[name] = value
    return pseudo, plain, size


def request_lines(fields: Sequence[Pair], max_head: int, max_fields: int) -> tuple[bytes, bytes, list[bytes], int]:
    """(method, target, the lines of the head as HTTP/1 would have them, size)."""
    pseudo, plain, size = _judge(fields, _REQUEST, max_head, max_fields, 0)
    method, target = _method_and_target(pseudo)
    authority = pseudo.get(b":authority")
    hosts = [value for name, value in plain if name == b"host"]
    if len(hosts) > 1:
        raise ValueError(400, "several Host fields")
    if authority is None and not hosts:
        raise ValueError(400, "missing Host")
    if authority is not None and hosts and hosts[0].lower() != authority.lower():
        raise ValueError(400, ":authority and Host differ")
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    if authority is not None:
        lines.append(b"host: " + authority)
        plain = [pair for pair in plain if pair[0] != b"host"]
    lines += [b"%b: %b" % pair for pair in plain if pair[0] != b"cookie"]
    crumbs = [value for name, value in plain if name == b"cookie"]
    if crumbs:
        # one field for those who know nothing of crumbs (§8.2.3); an empty one would leave white space at the end
        lines.append(b"cookie: " + b"; ".join(crumb for crumb in crumbs if crumb))
    return method, target, lines, size


def _method_and_target(pseudo: dict[bytes, bytes]) -> Pair:
    """§8.3.1, and the request line of HTTP/1: neither may end the other's part of it."""
    method, target = pseudo.get(b":method"), pseudo.get(b":path")
    if method is None:
        raise ValueError(0, "missing :method")
    if method in (b"CONNECT", b"TRACE"):
        raise ValueError(405, "method not allowed")
    if pseudo.get(b":scheme") not in (b"http", b"https"):
        raise ValueError(0, "missing or unknown :scheme")
    if not target:
        raise ValueError(0, "missing :path")
    h.check_method(method)
    if len(target) > h.MAX_TARGET:
        raise ValueError(414, "target too long")
    if target.translate(None, h.TARGET):
        raise ValueError(400, "invalid character in the target")
    if target[0] != 47 and (target != b"*" or method != b"OPTIONS"):
        raise ValueError(400, "malformed target")
    return method, target


def response_lines(fields: Sequence[Pair], max_head: int, max_fields: int) -> tuple[int, list[bytes], int]:
    """(status, the lines of the head as HTTP/1 would have them, size)."""
    pseudo, plain, size = _judge(fields, _RESPONSE, max_head, max_fields, 502)
    text = pseudo.get(b":status", b"")
    if len(text) != 3 or not text.isdigit() or text[0] == 48:
        raise ValueError(502, "missing or malformed :status")
    if text == b"101":
        raise ValueError(502, "101 in HTTP/2")
    return int(text), [b"HTTP/1.1 %b " % text, *(b"%b: %b" % pair for pair in plain)], size


def trailers_from_fields(fields: Sequence[Pair]) -> bytes:
    """Lines of what may be a trailer."""
    out = b""
    for name, value in fields:
        if name[:1] == b":":
            raise ValueError(0, "pseudo-header field in trailers")
        _check_field(name, value, 0)
        if h.may_be_trailer(name):
            out += b"%b: %b\r\n" % (name, value)
    return out


# ---- to HTTP/2 -------------------------------------------------------------------------------------------------

def fields_of(head: bytes) -> list[Pair]:
    """The fields of a head that was written for HTTP/1, save those which HTTP/2 has no use for."""
    return [pair for pair in _pairs(head.split(CRLF)[1:-2]) if pair[0] not in _ONLY_IN_HTTP_1]


def trailer_fields(lines: bytes) -> list[Pair]:
    """Trailer lines as fields."""
    *whole, rest = lines.split(CRLF)
    if rest or any(b": " not in line for line in whole):
        raise ValueError(500, "cannot be sent as trailers")
    pairs = _pairs(whole)
    for pair in pairs:
        h.check_edit(*pair)
    return pairs


def _pairs(lines: Sequence[bytes]) -> list[Pair]:
    split = (line.partition(b": ") for line in lines)
    return [(name.lower(), value) for name, _, value in split]
