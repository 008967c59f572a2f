"""Facts about heads that the twin in Python works with: byte classes, hop-by-hop tables, hosts, paths, Connection.

Rules of this file: tables and pure functions over small pieces (one line, one value); no state. The native engine
holds the same facts in Rust, and the tests compare the two. Faults are `ValueError(status, message)`.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

CRLF = b"\r\n"
MAX_METHOD = 32
MAX_TARGET = 16 * 1024
MAX_LENGTH = 2**63 - 1
BODIED = frozenset(("PATCH", "POST", "PUT"))  # methods that give a body a meaning (RFC 9110 §9.3, RFC 5789)
MAX_OPTIONS = 100  # each may nominate fields, and is compared with all of them

_ALNUM = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKEN = b"!#$%&'*+-.^_`|~" + _ALNUM  # RFC 9110 §5.6.2
VALUE = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))  # §5.5: no control bytes but HTAB
TARGET = bytes(b for b in VALUE if b not in b"\t #")
UNRESERVED = frozenset(_ALNUM + b"-._~")  # RFC 3986 §2.3

# What a message never takes along, whatever it says (RFC 9110 §7.6.1, RFC 9112 §6; HTTP2-Settings is RFC 9113 §3.1).
HOP_BY_HOP = frozenset((b"connection", b"content-length", b"http2-settings", b"keep-alive", b"proxy-authenticate",
                        b"proxy-authorization", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"))
# Content-Length and Transfer-Encoding stand in it because they are written anew from the body's framing.
# X-Forwarded-Client-Cert says who somebody is: nobody but the proxy may say so. Endpoints that turn names into
# variables (CGI, WSGI) would take `_` for `-`, so those spellings go as well.
CLIENT_CERT = b"x-forwarded-client-cert"
CLIENT_CERTS = frozenset(b"x%bforwarded%bclient%bcert" % marks for marks in product((b"-", b"_"), repeat=3))
REQUEST_DROP = HOP_BY_HOP | CLIENT_CERTS | {b"x-request-id"}
FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_PORT, FORWARDED_HOST = (
    b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-host")
X_FORWARDED = b"x-forwarded-"
UNTRUSTED_DROP = REQUEST_DROP | {b"forwarded", b"x-real-ip", FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_PORT,
                                 FORWARDED_HOST}
# A client must not be able to have these taken out by naming them in Connection; X-Forwarded-* likewise.
NEVER_NOMINATED = frozenset((b"authorization", b"content-length", b"expect", b"forwarded", b"host",
                             b"transfer-encoding", b"x-real-ip")) | CLIENT_CERTS
# Edits of a route cannot touch what frames the message or names its target.
NEVER_EDITED = HOP_BY_HOP | {b"expect", b"host", b"trailer"}
# Framing, routing, authentication, content and control fields have no business behind the body (RFC 9110 §6.5.1).
NO_TRAILER = HOP_BY_HOP | frozenset((
    b"age", b"authentication-info", b"authorization", b"cache-control", b"cookie", b"date", b"expect", b"expires",
    b"forwarded", b"host", b"location", b"max-forwards", b"pragma", b"proxy-authentication-info", b"range",
    b"retry-after", b"set-cookie", b"trailer", b"vary", b"via", b"warning", b"www-authenticate", b"x-real-ip",
    b"x-request-id"))
NO_TRAILER_PREFIXES = (b"content-", b"if-", b"x-forwarded-")  # save Content-Digest (RFC 9530 §2)

# As they are usually spelled, so that most names cost one look-up.
_COMMON = (
    b"Host User-Agent Accept Accept-Encoding Accept-Language Accept-Charset Accept-Ranges Referer Cookie Connection "
    b"Upgrade Upgrade-Insecure-Requests Cache-Control Pragma Content-Type Content-Length Content-Encoding "
    b"Content-Disposition Content-Language Content-Range Content-Security-Policy Transfer-Encoding TE Trailer Expect "
    b"Authorization Origin Range If-Range If-Match If-None-Match If-Modified-Since If-Unmodified-Since Date Server "
    b"ETag Last-Modified Location Set-Cookie Vary Via Age Expires Keep-Alive Proxy-Connection Allow Alt-Svc Link "
    b"Retry-After Strict-Transport-Security X-Content-Type-Options X-Frame-Options X-Powered-By X-Requested-With "
    b"X-Request-Id X-Request-ID X-Forwarded-For X-Forwarded-Proto X-Forwarded-Port X-Forwarded-Host X-Real-IP "
    b"X-Real-Ip Forwarded DNT Sec-Fetch-Site Sec-Fetch-Mode Sec-Fetch-Dest Sec-Fetch-User Sec-CH-UA Sec-CH-UA-Mobile "
    b"Sec-CH-UA-Platform sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform Sec-WebSocket-Key Sec-WebSocket-Version "
    b"Sec-WebSocket-Protocol Sec-WebSocket-Extensions Sec-WebSocket-Accept Priority traceparent tracestate "
    b"Access-Control-Allow-Origin Access-Control-Request-Method Access-Control-Request-Headers").split()
KNOWN = {name: name.lower() for name in _COMMON} | {name.lower(): name.lower() for name in _COMMON}

_TRIPLET = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(rb"([0-9A-Za-z._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(.*)", re.S)
_DIGITS = re.compile(rb"[0-9]+")
_PROTOCOL = re.compile(rb"[%b]+(?:/[%b]+)?" % (re.escape(TOKEN), re.escape(TOKEN)))


def check_method(method: bytes) -> None:
    if not method:
        raise ValueError(400, "malformed request line")
    if len(method) > MAX_METHOD:
        raise ValueError(400, "method too long")
    if method.translate(None, TOKEN):
        raise ValueError(400, "invalid character in the method")


def check_line(line: bytes, status: int) -> None:
    """A line has been cut at CRLF: any other CR or LF is a line end for somebody else, and NUL ends strings."""
    if b"\n" in line:
        raise ValueError(status, "bare LF in a head")
    if b"\r" in line:
        raise ValueError(status, "bare CR in a head")
    if b"\0" in line:
        raise ValueError(status, "NUL in a head")


def check_field(line: bytes, status: int) -> tuple[bytes, bytes]:
    """One field line as (name, value); the first fault in it is raised (RFC 9112 §5)."""
    check_line(line, status)
    if line[:1] in (b" ", b"\t"):
        raise ValueError(status, "folded field line")
    name, colon, value = line.partition(b":")
    if not colon:
        raise ValueError(status, "field line without a colon")
    if not name:
        raise ValueError(status, "empty field name")
    if name[-1:] in (b" ", b"\t"):
        raise ValueError(status, "white space before the colon")
    if name.translate(None, TOKEN):
        raise ValueError(status, "invalid character in a field name")
    if value.translate(None, VALUE):
        raise ValueError(status, "control character in a field value")
    return name, value.strip(b" \t")


def parse_length(value: bytes, status: int) -> int:
    """A Content-Length: digits only (RFC 9110 §8.6), at most 2^63-1."""
    if not _DIGITS.fullmatch(value):
        raise ValueError(status, "malformed Content-Length")
    digits = value.lstrip(b"0") or b"0"
    if len(digits) > 19 or (number := int(digits)) > MAX_LENGTH:
        raise ValueError(status, "Content-Length out of range")
    return number


@lru_cache(1024)
def parse_host(value: bytes) -> str:
    """`Host` as a name in lower case, without port and one trailing dot (RFC 9110 §7.2; names only, no userinfo)."""
    if b"@" in value:
        raise ValueError(400, "userinfo in Host")
    found = _HOST.fullmatch(value)
    if not found or found[2] and int(found[2]) > 65535:
        raise ValueError(400, "invalid Host")
    name = found[1].lower().removesuffix(b".")
    if not name or name.startswith(b".") or b".." in name:
        raise ValueError(400, "invalid Host")
    return name.decode("ascii")


def _triplet(found: re.Match[bytes]) -> bytes:
    byte = int(found[1], 16)
    return bytes((byte,)) if byte in UNRESERVED else found[0].upper()


def normal_path(path: bytes) -> str:
    """The path to match by: unreserved characters decoded once, other triplets in upper case, bytes above 0x7f as
    triplets, dot segments removed (RFC 3986 §6.2.2). A path that would climb above the root is refused."""
    if b"%" in path:
        if _BAD_PERCENT.search(path):
            raise ValueError(400, "malformed percent-encoding in the path")
        if b"%00" in path:
            raise ValueError(400, "encoded NUL in the path")
        path = _TRIPLET.sub(_triplet, path)
    if not path.isascii():
        path = b"".join(b"%%%02X" % byte if byte > 0x7F else bytes((byte,)) for byte in path)
    if b"/." not in path:
        return path.decode("ascii")
    out: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not out:
                raise ValueError(400, "path climbs above the root")
            out.pop()
        elif segment != b".":
            out.append(segment)
    if segments[-1] in (b".", b".."):
        out.append(b"")
    return "/" + b"/".join(out).decode("ascii")


def split_target(method: bytes, target: bytes) -> tuple[bytes, str, bytes, bytes | None]:
    """(origin-form, path to match by, query, authority of an absolute-form)."""
    authority = None
    if target[0] != 47:
        found = _ABSOLUTE.fullmatch(target)
        if found:
            authority, target = found.groups()
            if b"@" in authority:
                raise ValueError(400, "userinfo in the target")
            if target[:1] != b"/":
                target = b"*" if method == b"OPTIONS" and not target else b"/" + target
        elif target != b"*" or method != b"OPTIONS":
            raise ValueError(400, "malformed target")
        if target == b"*":
            return target, "*", b"", authority
    path, _, query = target.partition(b"?")
    return target, normal_path(path), query, authority


class Connection(NamedTuple):
    close: bool
    keep_alive: bool
    upgrade: bool
    nominated: frozenset[bytes]  # names that go no further because of it


def parse_connection(value: bytes, status: int) -> Connection:
    """All `Connection` fields of a head, joined. Only short ones are remembered: a client chooses the bytes."""
    if value.count(b",") >= MAX_OPTIONS:
        raise ValueError(status, "too many options in Connection")
    return _short_connection(value) if len(value) <= 64 else _connection(value)


def _connection(value: bytes) -> Connection:
    tokens = {part.strip(b" \t") for part in value.lower().split(b",")}
    nominated = frozenset(t for t in tokens if t not in NEVER_NOMINATED and not t.startswith(X_FORWARDED))
    return Connection(b"close" in tokens, b"keep-alive" in tokens, b"upgrade" in tokens, nominated)


_short_connection = lru_cache(256)(_connection)


def parse_upgrade(value: bytes | None) -> str | None:
    """The protocols of an Upgrade field, without h2c (RFC 9113 §3.1 took it back) and without what is no protocol."""
    parts = [part.strip(b" \t") for part in (value or b"").split(b",")]
    good = [part for part in parts if _PROTOCOL.fullmatch(part) and part.lower() != b"h2c"]
    return b", ".join(good).decode("ascii") if good else None


def may_be_trailer(name: bytes) -> bool:
    """`_` counts as `-` here: gateways behind us that write names as variables see no difference."""
    key = name.lower().replace(b"_", b"-")
    return key == b"content-digest" or key not in NO_TRAILER and not key.startswith(NO_TRAILER_PREFIXES)


# ---- the fields of a head --------------------------------------------------------------------------------------------

class Fields:
    """The fields of a head: `keys` in lower case, beside them `lines` as they are passed on, and values by key."""

    __slots__ = ("keys", "lines", "values")

    def __init__(self, block: bytes, lines: list[bytes], max_fields: int, status: int) -> None:
        """`block` split at CRLF gives `lines`; the first of them is the start line, which has been checked."""
        count = len(lines) - 1
        if count > max_fields or block.translate(None, VALUE) != CRLF * count or not self._fill(lines[1:]):
            check_fields(lines[1:], max_fields, status)
            raise AssertionError("a head that failed in bulk has no faulty line")

    def _fill(self, lines: list[bytes]) -> bool:
        """False at the first line that is no field; which rule it breaks is found out by the caller."""
        keys: list[bytes] = []
        values: list[bytes] = []
        known = KNOWN.get
        for number, line in enumerate(lines):
            name, colon, value = line.partition(b": ")
            key = known(name)
            if key is None or not colon or value.strip(b" \t") is not value:
                name, colon, value = line.partition(b":")
                if not colon or not name or name.translate(None, TOKEN):
                    return False
                key = name.lower()
                value = value.strip(b" \t")
                lines[number] = b"%b: %b" % (name, value)
            keys.append(key)
            values.append(value)
        self.keys = keys
        self.lines = lines
        self.values = dict(zip(keys, values, strict=True))
        if len(self.values) != len(keys):
            self._join(values)
        return True

    def _join(self, values: list[bytes]) -> None:
        """Several fields of one name count as one list (RFC 9110 §5.3), Cookie in its own way (RFC 6265 §5.4)."""
        gathered: dict[bytes, list[bytes]] = {}
        for key, value in zip(self.keys, values, strict=True):
            gathered.setdefault(key, []).append(value)
        self.values = {key: (b"; " if key == b"cookie" else b", ").join(own) for key, own in gathered.items()}

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """(name as received, value), in order."""
        split = (line.partition(b":") for line in self.lines)
        return [(name, value[1:]) for name, _, value in split]


def check_fields(lines: Sequence[bytes], max_fields: int, status: int) -> None:
    for number, line in enumerate(lines):
        if number >= max_fields:
            raise ValueError(431 if status == 400 else status, "too many fields")
        check_field(line, status)


def check_tail(tail: bytes, status: int) -> None:
    """The unfinished last line of an unfinished head."""
    check_line(tail.removesuffix(b"\r"), status)


# ---- what is set once per connection and once per route --------------------------------------------------------

class Forward:
    """What the proxy tells the endpoint about the client's connection."""

    __slots__ = ("_lines", "_peer", "trusted")

    def __init__(self, peer: bytes, proto: bytes, port: bytes, trusted: bool, client_cert: bytes = b"") -> None:
        self.trusted = trusted
        self._peer = peer
        named = ((FORWARDED_FOR, b"X-Forwarded-For", peer), (FORWARDED_PROTO, b"X-Forwarded-Proto", proto),
                 (FORWARDED_PORT, b"X-Forwarded-Port", port), (CLIENT_CERT, b"X-Forwarded-Client-Cert", client_cert))
        self._lines = [(key, b"%b: %b" % (name, value)) for key, name, value in named if value]
        for _, name, value in named:
            check_edit(name, value)

    def lines(self, values: dict[bytes, bytes], authority: bytes) -> list[tuple[bytes, bytes]]:
        """The X-Forwarded-* lines to add, as (key, line)."""
        lines = [*self._lines]
        if authority:
            lines.append((FORWARDED_HOST, b"X-Forwarded-Host: " + authority))
        if not self.trusted:
            return lines
        before = values.get(FORWARDED_FOR)
        out = [(key, line) for key, line in lines if key not in values or key == CLIENT_CERT]
        if before is not None:
            extended = b", ".join(part for part in (before, self._peer) if part)
            out.insert(0, (FORWARDED_FOR, b"X-Forwarded-For: " + extended))
        return out


def check_edit(name: bytes, value: bytes) -> bytes:
    """The name in lower case, if name and value can be sent."""
    if not name or name.translate(None, TOKEN) or value.translate(None, VALUE):
        raise ValueError(500, "cannot be sent as a field")
    return name.lower()


class Edits:
    """A route's changes to fields. What frames the message or names its target is left alone."""

    __slots__ = ("drop", "lines")

    def __init__(self, set: Sequence[tuple[bytes, bytes]], add: Sequence[tuple[bytes, bytes]],
                 remove: Sequence[bytes]) -> None:
        drop = [check_edit(name, b"") for name in remove]
        lines = []
        for name, value in set:
            drop.append(check_edit(name, value))
            lines.append((drop[-1], name, value))
        lines += [(check_edit(name, value), name, value) for name, value in add]
        self.drop = frozenset(drop) - NEVER_EDITED
        self.lines = [b"%b: %b" % (name, value.strip(b" \t"))
                       for key, name, value in lines if key not in NEVER_EDITED]
