"""The leaf functions of HTTP heads in Python: the native engine's specification, and its stand-in where it is missing.

Rules of this file: the same API, results and messages as `_native` (see `_native.pyi` for the shapes). A head is
checked in bulk first (`translate`, `split`, one pattern a line); only if that fails it is read again line by line to
find the first fault. Faults are `ValueError(status, message)`; those of a response always have status 502.
A head that came by HTTP/2 is checked in `_fields`, written as the lines HTTP/1 would have, and read like any other.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quote

from edgeproxy.codec import _fields as f
from edgeproxy.codec import headers as h
from edgeproxy.codec._chunks import ChunkDecoder
from edgeproxy.codec._fields import trailer_fields, trailers_from_fields
from edgeproxy.codec.headers import CRLF, Edits, Fields, Forward

MAX_BLANK = 4  # empty lines before a request that are passed over (RFC 9112 §2.2 asks for one at least)

_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"([%b]{1,32}) ([%b]+) HTTP/1\.([01])" % (re.escape(h.TOKEN), re.escape(h.TARGET)))
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_NOTHING: frozenset[bytes] = frozenset()

__all__ = ["ChunkDecoder", "Edits", "Forward", "RequestHead", "ResponseHead", "find_head_end", "parse_request",
           "parse_response", "request_from_fields", "response_from_fields", "trailer_fields", "trailers_from_fields"]


# ---- lines and fields ------------------------------------------------------------------------------------------

def _refuse_request_line(line: bytes) -> None:
    """Raise for the first fault of a line that is no good request line."""
    h.check_line(line, 400)
    parts = line.split(b" ")
    if len(parts) != 3:
        raise ValueError(400, "malformed request line")
    method, target, version = parts
    h.check_method(method)
    if not _VERSION.fullmatch(version):
        raise ValueError(400, "malformed HTTP version")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise ValueError(505, "unsupported HTTP version")
    if not target:
        raise ValueError(400, "malformed request line")
    raise ValueError(400, "invalid character in the target")


def _request_line(line: bytes) -> tuple[bytes, bytes, int]:
    """(method, target, minor version)."""
    if len(line) > h.MAX_TARGET and line.count(b" ") == 2 and len(line.split(b" ")[1]) > h.MAX_TARGET:
        h.check_line(line, 400)
        raise ValueError(414, "target too long")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        _refuse_request_line(line)
    assert found is not None
    method, target, minor = found.groups()
    if method in (b"CONNECT", b"TRACE"):
        raise ValueError(405, "method not allowed")
    return method, target, minor[0] - 48


def _begin_request_line(line: bytes) -> None:
    """Refuse the beginning of a line that can never become a good request line."""
    line = line.removesuffix(b"\r")
    h.check_line(line, 400)
    if line:
        h.check_method(line[:h.MAX_METHOD + 1].partition(b" ")[0])
    if len(line) > h.MAX_TARGET + 64:
        raise ValueError(414, "target too long")


def _skip_blank(data: bytes | bytearray) -> int:
    start = 0
    while data[start:start + 2] == CRLF:
        start += 2
        if start > 2 * MAX_BLANK:
            raise ValueError(400, "too many empty lines before the request")
    return start


def find_head_end(data: bytes | bytearray, start: int) -> int:
    """Where the head at the front of `data` ends (behind CRLFCRLF); -1 if not yet. `start`: how much of `data` an
    earlier call has seen; only what follows is looked at, so that a head in many pieces costs no more than in one."""
    first = _skip_blank(data) if data[:1] == b"\r" else 0
    found = data.find(_END, max(first, start - 3))
    stop = len(data) if found < 0 else found + 4
    if data[first:first + 5] != b"HTTP/":
        limit = first + h.MAX_TARGET + 128
        line = data.find(CRLF, first, limit)
        if line < 0:
            if start < first + h.MAX_METHOD + 2 or stop - first > h.MAX_TARGET + 64:
                _begin_request_line(bytes(data[first:min(stop, limit)]))
        elif line + 2 > start:
            method, target, _ = _request_line(bytes(data[first:line]))
            h.split_target(method, target)
    at = max(first, start - 1)
    if at > first and data[at:at + 1] == b"\n" and data[at - 1:at] == b"\r":
        at += 1
    part = data[at:stop]
    pairs = part.count(CRLF)
    if part.count(b"\n") != pairs:
        raise ValueError(400, "bare LF in a head")
    if part.count(b"\r") - (part[-1:] == b"\r") != pairs:
        raise ValueError(400, "bare CR in a head")
    if b"\0" in part:
        raise ValueError(400, "NUL in a head")
    return -1 if found < 0 else stop


# ---- requests --------------------------------------------------------------------------------------------------

def parse_request(data: bytes, max_head: int, max_fields: int) -> RequestHead | None:
    """The head at the front of `data`, or None if more bytes are needed."""
    start = _skip_blank(data) if data[:1] == b"\r" else 0
    end = data.find(_END, start)
    if end < 0:
        rest = data[start:]
        *lines, tail = rest.split(CRLF)
        if lines:
            method, target, _ = _request_line(lines[0])
            h.split_target(method, target)
        else:
            _begin_request_line(tail)
        if len(rest) > max_head:
            raise ValueError(431, "head too large")
        h.check_fields(lines[1:], max_fields, 400)
        h.check_tail(tail, 400)
        return None
    block = data[start:end]
    lines = block.split(CRLF)
    method, target, minor = _request_line(lines[0])
    if end + 4 - start > max_head:
        # the form of the target is part of the request line, which comes before the size
        h.split_target(method, target)
        raise ValueError(431, "head too large")
    return RequestHead(method, target, minor, block, lines, max_fields, end + 4)


def request_from_fields(fields: Sequence[tuple[bytes, bytes]], ended: bool, max_head: int,
                        max_fields: int) -> RequestHead:
    """The head that an HTTP/2 stream begins with."""
    method, target, lines, size = f.request_lines(fields, max_head, max_fields)
    return RequestHead(method, target, 1, CRLF.join(lines), lines, len(lines), size, 2, ended)


class RequestHead:
    """The head of a request. See `_native.pyi` for what each attribute is."""

    __slots__ = ("_extra", "_fields", "_has_length", "_te", "authority", "expect", "host", "keep_alive", "length",
                 "major", "method", "minor", "path", "query", "size", "target", "upgrade")

    def __init__(self, method: bytes, target: bytes, minor: int, block: bytes, lines: list[bytes], max_fields: int,
                 size: int, major: int = 1, ended: bool = True) -> None:
        """`ended`: there is no body unless the fields say that there is one."""
        self.method = method.decode("ascii")
        target, self.path, query, absolute = h.split_target(method, target)
        self.target = target.decode("latin-1")
        self.query = query.decode("latin-1") if query else ""
        self.major = major
        self.minor = minor
        self.size = size
        self._fields = fields = Fields(block, lines, max_fields, 400)
        self._read_host(fields, minor, absolute)
        self._read_framing(fields.values, fields.keys, minor, ended)
        self._read_hops(fields.values, minor)

    def _read_host(self, fields: Fields, minor: int, absolute: bytes | None) -> None:
        value = fields.values.get(b"host")
        if value is None:
            if minor:
                raise ValueError(400, "missing Host")
            value = absolute
            self.host = "" if value is None else h.parse_host(value)
        else:
            if b"," in value and fields.keys.count(b"host") > 1:
                raise ValueError(400, "several Host fields")
            self.host = h.parse_host(value)
            if absolute is not None and absolute.lower() != value.lower():
                raise ValueError(400, "target and Host differ")
        self.authority = "" if value is None else value.decode("ascii")

    def _read_framing(self, values: dict[bytes, bytes], keys: list[bytes], minor: int, ended: bool) -> None:
        coding = values.get(b"transfer-encoding")
        length = values.get(b"content-length")
        self._has_length = length is not None
        if coding is not None:
            if not minor:
                raise ValueError(400, "Transfer-Encoding in HTTP/1.0")
            if length is not None:
                raise ValueError(400, "both Content-Length and Transfer-Encoding")
            if coding.lower() != b"chunked":
                raise ValueError(501, "unknown transfer coding")
            self.length = -1
        elif length is not None:
            if b"," in length and keys.count(b"content-length") > 1:
                raise ValueError(400, "several Content-Length fields")
            self.length = h.parse_length(length, 400)
            if self.major == 2 and ended and self.length:
                raise ValueError(0, "Content-Length of a body that is not there")
        else:
            self.length = 0 if ended else -1
            # HTTP/1 has no other way to say it, and many a server insists (411); of HTTP/1 it is the client's to say
            self._has_length = self.major == 2 and ended and self.method in h.BODIED

    def _read_hops(self, values: dict[bytes, bytes], minor: int) -> None:
        """Connection, Upgrade, TE, Expect and Trailer; `_extra`: what goes no further beside the usual."""
        extra: set[bytes] = set()
        self.upgrade = None
        connection = values.get(b"connection")
        if connection is None:
            self.keep_alive = minor == 1
        else:
            tokens = h.parse_connection(connection, 400)
            self.keep_alive = not tokens.close and (minor == 1 or tokens.keep_alive)
            extra |= tokens.nominated
            if tokens.upgrade and minor:
                self.upgrade = h.parse_upgrade(values.get(b"upgrade"))
        expect = values.get(b"expect")
        self.expect = False
        if expect is not None:
            if minor and expect.lower() != b"100-continue":
                raise ValueError(417, "unknown expectation")
            self.expect = minor == 1 and self.length != 0
            if not self.expect:
                extra.add(b"expect")
        te = values.get(b"te")
        self._te = te is not None and minor == 1 and b"trailers" in [t.strip(b" \t") for t in te.lower().split(b",")]
        if b"trailer" in values and self.length != -1:
            extra.add(b"trailer")
        self._extra = frozenset(extra) if extra else _NOTHING

    def get(self, name: bytes) -> bytes | None:
        return self._fields.values.get(name)

    def fields(self) -> list[tuple[bytes, bytes]]:
        return self._fields.pairs()

    def log_fields(self) -> str:
        get = self._fields.values.get
        out = f'"method":{quote(self.method)}'
        if self.host:
            out += f',"host":{quote(self.host)}'
        protocol = "HTTP/2.0" if self.major == 2 else f"HTTP/1.{self.minor}"
        out += f',"path":{quote(self.target)},"protocol":"{protocol}"'
        agent, referer = get(b"user-agent"), get(b"referer")
        if agent is not None:
            out += f',"user_agent":{quote(agent.decode("latin-1"))}'
        if referer is not None:
            out += f',"referer":{quote(referer.decode("latin-1"))}'
        return out

    def outbound(self, forward: Forward, request_id: bytes, target: bytes | None, host: bytes | None,
                 edits: Edits | None) -> bytes:
        """The whole head for an HTTP/1 endpoint."""
        fields, extra = self._fields, self._extra
        drop = h.REQUEST_DROP if forward.trusted else h.UNTRUSTED_DROP
        if forward.trusted and h.FORWARDED_FOR in fields.values:
            extra = extra | {h.FORWARDED_FOR}
        edited = _NOTHING if edits is None else edits.drop
        if extra or edited:
            drop = drop | extra | edited
        kept = list(zip(fields.keys, fields.lines, strict=True))
        if not forward.trusted and b"x-forwarded-" in b"".join(fields.keys):
            kept = [pair for pair in kept if not pair[0].startswith(h.X_FORWARDED)]
        if host is not None:
            h.check_edit(b"Host", host)
            kept = [(k, line.partition(b":")[0] + b": " + host if k == b"host" else line) for k, line in kept]
        out = [b"%b %b HTTP/1.1" % (self.method.encode("ascii"), self._checked(target))]
        authority = self.authority.encode("ascii")
        if b"host" not in fields.values:
            out.append(b"Host: " + (authority if host is None else host))
        out += [line for key, line in kept if key not in drop]
        out += self._framing()
        added = forward.lines(fields.values, authority)
        added.append((b"x-request-id", b"X-Request-Id: " + request_id))
        added.append((b"via", b"Via: 2.0 edgeproxy" if self.major == 2 else b"Via: 1.%d edgeproxy" % self.minor))
        out += [line for key, line in added if key not in edited]
        if edits is not None:
            out += edits.lines
        out.append(_END[2:])
        return CRLF.join(out)

    def outbound_fields(self, forward: Forward, request_id: bytes, target: bytes | None, host: bytes | None,
                        edits: Edits | None, scheme: bytes) -> list[tuple[bytes, bytes]]:
        """The same head for an HTTP/2 endpoint."""
        out = [(b":method", self.method.encode("ascii")), (b":scheme", scheme)]
        authority = self.authority.encode("ascii") if host is None else host
        if authority:
            out.append((b":authority", authority))
        out.append((b":path", self._checked(target)))
        out += f.fields_of(self.outbound(forward, request_id, target, host, edits))
        return out

    def _checked(self, target: bytes | None) -> bytes:
        if target is None:
            return self.target.encode("latin-1")
        if not target or target.translate(None, h.TARGET):
            raise ValueError(500, "the new target cannot be sent")
        return target

    def _framing(self) -> list[bytes]:
        out = []
        if self.length < 0:
            out.append(b"Transfer-Encoding: chunked")
        elif self._has_length:
            out.append(b"Content-Length: %d" % self.length)
        if self.upgrade is not None:
            out.append(b"Connection: Upgrade, TE" if self._te else b"Connection: Upgrade")
            out.append(b"Upgrade: " + self.upgrade.encode("ascii"))
        elif self._te:
            out.append(b"Connection: TE")
        if self._te:
            out.append(b"TE: trailers")
        return out


# ---- responses -------------------------------------------------------------------------------------------------

def parse_response(data: bytes, head_request: bool, max_head: int, max_fields: int) -> ResponseHead | None:
    """The head at the front of `data`, the answer to a HEAD request or another; None if more bytes are needed."""
    end = data.find(_END)
    if end < 0:
        *lines, tail = data.split(CRLF)
        if lines:
            _status_line(lines[0])
        else:
            h.check_tail(tail, 502)
            if not b"HTTP/1.".startswith(tail[:7]):
                raise ValueError(502, "malformed status line")
        if len(data) > max_head:
            raise ValueError(502, "head too large")
        h.check_fields(lines[1:], max_fields, 502)
        h.check_tail(tail, 502)
        return None
    block = data[:end]
    lines = block.split(CRLF)
    minor, status, reason = _status_line(lines[0])
    if end + 4 > max_head:
        raise ValueError(502, "head too large")
    return ResponseHead(minor, status, reason, Fields(block, lines, max_fields, 502), head_request, end + 4)


def response_from_fields(fields: Sequence[tuple[bytes, bytes]], head_request: bool, ended: bool, max_head: int,
                         max_fields: int) -> ResponseHead:
    """The head of an answer that came by HTTP/2."""
    status, lines, size = f.response_lines(fields, max_head, max_fields)
    if status < 200 and ended:
        raise ValueError(502, "interim response that ends the stream")
    return ResponseHead(1, status, b"", Fields(CRLF.join(lines), lines, len(lines), 502), head_request, size, ended)


def _status_line(line: bytes) -> tuple[int, int, bytes]:
    """(minor version, status, reason)."""
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        h.check_line(line, 502)
        if _VERSION.match(line) and line[:9] not in (b"HTTP/1.1 ", b"HTTP/1.0 "):
            raise ValueError(502, "unsupported HTTP version")
        raise ValueError(502, "malformed status line")
    minor, status, reason = found.groups()
    return minor[0] - 48, int(status), reason or b""


class ResponseHead:
    """The head of a response. See `_native.pyi` for what each attribute is."""

    __slots__ = ("_empty", "_extra", "_fields", "_stated", "keep_alive", "length", "minor", "reason", "size", "status",
                 "upgrade")

    def __init__(self, minor: int, status: int, reason: bytes, fields: Fields, head_request: bool, size: int,
                 ended: bool | None = None) -> None:
        """`ended`: of HTTP/2, that there is no body; None if HTTP/1 is to say where it ends."""
        self.minor = minor
        self.status = status
        self.reason = reason.decode("latin-1")
        self.size = size
        self._fields = fields
        values = fields.values
        extra = _NOTHING
        keep_alive = minor == 1
        self.upgrade = None
        connection = values.get(b"connection")
        if connection is not None:
            tokens = h.parse_connection(connection, 502)
            keep_alive = not tokens.close and (minor == 1 or tokens.keep_alive)
            extra = tokens.nominated
            if tokens.upgrade:
                self.upgrade = h.parse_upgrade(values.get(b"upgrade"))
        self._extra = extra
        self.keep_alive = keep_alive
        self._read_framing(values, fields.keys, head_request, ended)

    def _read_framing(self, values: dict[bytes, bytes], keys: list[bytes], head_request: bool,
                      ended: bool | None) -> None:
        """RFC 9112 §6.3. `_stated`: the Content-Length to pass on, which for HEAD and 304 describes no body; `_empty`:
        HTTP/2 had no need to state it, and HTTP/1 has."""
        coding = values.get(b"transfer-encoding")
        length = values.get(b"content-length")
        self._stated: int | None = None
        self._empty = False
        if coding is not None:
            if not self.minor:
                raise ValueError(502, "Transfer-Encoding in HTTP/1.0")
            if length is not None:
                raise ValueError(502, "both Content-Length and Transfer-Encoding")
            if coding.lower() != b"chunked":
                raise ValueError(502, "unknown transfer coding")
        elif length is not None:
            if b"," in length and keys.count(b"content-length") > 1:
                raise ValueError(502, "several Content-Length fields")
            self._stated = h.parse_length(length, 502)
        status = self.status
        if status < 200 or status == 204:
            if ended is None and (coding is not None or self._stated):
                self.keep_alive = False  # whether a body follows is anybody's guess
            self._stated = None
            self.length = 0
        elif head_request or status == 304:
            self.length = 0
        elif coding is not None:
            self.length = -1
        elif self._stated is not None:
            self.length = self._stated
            if ended and self.length:
                raise ValueError(502, "Content-Length of a body that is not there")
        elif ended is not None:
            self.length = 0 if ended else -1
            self._empty = ended
        else:
            self.length = -2
            self.keep_alive = False

    def get(self, name: bytes) -> bytes | None:
        return self._fields.values.get(name)

    def fields(self) -> list[tuple[bytes, bytes]]:
        return self._fields.pairs()

    def inbound(self, client_minor: int, close: bool, edits: Edits | None) -> bytes:
        """The whole head for an HTTP/1 client."""
        fields = self._fields
        drop = h.HOP_BY_HOP
        extra = self._extra
        if b"trailer" in fields.values and (self.length != -1 or client_minor == 0):
            extra = extra | {b"trailer"}
        if edits is not None:
            extra = extra | edits.drop
        if extra:
            drop = drop | extra
        out = [b"HTTP/1.1 %d %b" % (self.status, self.reason.encode("latin-1"))]
        out += [line for key, line in zip(fields.keys, fields.lines, strict=True) if key not in drop]
        if self.status == 101:
            if self.upgrade is not None:
                out += [b"Connection: Upgrade", b"Upgrade: " + self.upgrade.encode("ascii")]
        elif self.status >= 200:
            out += self._framing(client_minor, close)
        if edits is not None:
            out += edits.lines
        out.append(_END[2:])
        return CRLF.join(out)

    def inbound_fields(self, edits: Edits | None) -> list[tuple[bytes, bytes]]:
        """The same head for an HTTP/2 client."""
        out = [(b":status", b"%d" % self.status)]
        out += [pair for pair in f.fields_of(self.inbound(1, False, edits))
                if not self._empty or pair[0] != b"content-length"]
        return out

    def _framing(self, client_minor: int, close: bool) -> list[bytes]:
        out = []
        if self._stated is not None:
            out.append(b"Content-Length: %d" % self._stated)
        elif self._empty:
            out.append(b"Content-Length: 0")
        elif self.length < 0:
            if client_minor:
                out.append(b"Transfer-Encoding: chunked")
            else:
                close = True
        offer = self.upgrade.encode("ascii") if self.status == 426 and self.upgrade is not None else None
        if offer is not None:
            out.append(b"Upgrade: " + offer)
        if close:
            out.append(b"Connection: close" if offer is None else b"Connection: Upgrade, close")
        elif not client_minor:
            out.append(b"Connection: keep-alive" if offer is None else b"Connection: Upgrade, keep-alive")
        elif offer is not None:
            out.append(b"Connection: Upgrade")
        return out
