"""Messages for the tests of the leaf functions: how they are built, read and generated.

`reading` turns whatever an engine made of some bytes into plain values, so that two engines or two ways of cutting
the bytes can be compared with `==`.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

MAX_HEAD, MAX_FIELDS = 65536, 100
REQUEST_ATTRIBUTES = ("method", "target", "path", "query", "host", "authority", "minor", "length", "keep_alive", "expect",
                      "upgrade", "size")
RESPONSE_ATTRIBUTES = ("status", "reason", "minor", "length", "keep_alive", "upgrade", "size")


def head(first: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join((first, *fields, b"", b""))


def get(*fields: bytes, target: bytes = b"/", host: bytes = b"a.example") -> bytes:
    return head(b"GET " + target + b" HTTP/1.1", b"Host: " + host, *fields)


def refusal(parse: Any, *args: Any) -> tuple[int, str]:
    """The (status, message) a call is refused with."""
    try:
        got = parse(*args)
    except ValueError as why:
        return why.args  # type: ignore[return-value]
    raise AssertionError(f"accepted: {got!r}")


def outbound(leaf: Any, request: Any, trusted: bool = False, target: bytes | None = None, host: bytes | None = None,
             edits: Any = None) -> bytes:
    forward = leaf.Forward(b"192.0.2.7", b"http", b"8080", trusted)
    out: bytes = request.outbound(forward, b"the-id", target, host, edits)
    return out


def names(message: Any) -> set[bytes]:
    return {name.lower() for name, _ in message.fields()}


def request_values(leaf: Any, request: Any) -> dict[str, Any]:
    values = {name: getattr(request, name) for name in REQUEST_ATTRIBUTES}
    values |= {"fields": request.fields(), "log": request.log_fields(),
               "get": {name: request.get(name) for name in names(request) | {b"absent", b"Host"}}}
    edits = leaf.Edits([(b"X-Set", b"1"), (b"accept", b"a")], [(b"Via", b"2")], [b"Cookie", b"x-forwarded-host"])
    for trusted in (False, True):
        values[f"out {trusted}"] = outbound(leaf, request, trusted)
        values[f"edited {trusted}"] = outbound(leaf, request, trusted, b"/new?x", b"new.example", edits)
        values[f"unix {trusted}"] = request.outbound(leaf.Forward(b"", b"http", b"", trusted), b"i", None, None, None)
    return values


def response_values(leaf: Any, response: Any) -> dict[str, Any]:
    values = {name: getattr(response, name) for name in RESPONSE_ATTRIBUTES}
    values |= {"fields": response.fields(), "get": {name: response.get(name) for name in names(response)}}
    edits = leaf.Edits([(b"Server", b"x")], [(b"X-Add", b"2")], [b"Date", b"connection"])
    for minor in (0, 1):
        for close in (False, True):
            values[f"in {minor} {close}"] = response.inbound(minor, close, None)
            values[f"edited {minor} {close}"] = response.inbound(minor, close, edits)
    return values


def read_request(leaf: Any, raw: bytes, max_head: int = MAX_HEAD, max_fields: int = MAX_FIELDS) -> Any:
    """A dict of values, None (incomplete) or the arguments of the refusal."""
    try:
        request = leaf.parse_request(raw, max_head, max_fields)
    except ValueError as why:
        return why.args
    return None if request is None else request_values(leaf, request)


def read_response(leaf: Any, raw: bytes, head_request: bool = False, max_head: int = MAX_HEAD,
                  max_fields: int = MAX_FIELDS) -> Any:
    try:
        response = leaf.parse_response(raw, head_request, max_head, max_fields)
    except ValueError as why:
        return why.args
    return None if response is None else response_values(leaf, response)


def collect(leaf: Any, pieces: Iterable[bytes]) -> Any:
    """A request that comes in pieces, as a connection reads it: the value, None, or the arguments of the refusal."""
    data, seen = bytearray(), 0
    try:
        for piece in pieces:
            data += piece
            if leaf.find_head_end(data, seen) >= 0:
                return leaf.parse_request(bytes(data), MAX_HEAD, MAX_FIELDS)
            seen = len(data)
    except ValueError as why:
        return why.args
    return None


def feed(leaf: Any, pieces: Iterable[bytes], max_trailer: int = 4096) -> Any:
    """(payload, done, bytes behind the body, trailers) or the arguments of the refusal."""
    decoder, payload, behind = leaf.ChunkDecoder(max_trailer), b"", b""
    try:
        for piece in pieces:
            if decoder.done:
                behind += piece
                continue
            payload += decoder.feed(piece)
            behind += piece[decoder.consumed:]
    except ValueError as why:
        return why.args
    return payload, decoder.done, behind, decoder.trailers


def by_byte(raw: bytes) -> list[bytes]:
    return [raw[at:at + 1] for at in range(len(raw))]


# ---- generated messages ----------------------------------------------------------------------------------------

def _words(text: str) -> list[bytes]:
    return [word.replace("_", " ").encode("latin-1") for word in text.split()]


class Pool:
    """Parts of a message: good ones, and odd ones. A message has few odd parts, else none would get past the first."""

    def __init__(self, good: str, odd: str) -> None:
        self.good = st.sampled_from(_words(good))
        self.odd = st.sampled_from(_words(odd))

    def pick(self, draw: st.DrawFn, odd: bool) -> bytes:
        return draw(self.odd if odd else self.good)


METHODS = Pool("GET HEAD POST PUT OPTIONS PATCH", "CONNECT TRACE get X~! " + "M" * 32 + " " + "M" * 33)
TARGETS = Pool(
    "/ /a /a/b?c=d /a/../b /%41%2f /a/%2e /caf\xe9 //a /.x /a/./ /a?b?c=%zz /a\\b http://a.example/ http://A.Example?x=%zz",
    "* /../ /%2e%2E/x /%zz /% /%00 /%4 ! a http://a.example http://u@a.example/ HTTPS://a.example:80/.. /#x ftp://a/ http:// "
    "http:///x http://b/ _ /\x7f /a_b")
VERSIONS = Pool("HTTP/1.1 HTTP/1.0", "HTTP/1.2 HTTP/2.0 http/1.1 HTTP/1.1_ HTTP/11 HTTP/1.1_HTTP/1.1")
HOSTS = Pool("a.example A.Example", "a.example:80 a.example. [::1]:80 _x a..b a:b u@a.example a,b a.example:65536 . [::1 [] a/b \xe9")
STATUSES = Pool("200 404 204 304 101 103 426 999", "099 20 2000 +20 \xb200")
REASONS = Pool("_OK _ _Not_Found _\xe9\t", "\t _a\x01 x __")
# A name and values that mean something together.
FIELDS = {name.encode(): Pool(good, odd) for name, good, odd in (
    ("Content-Length", "5 0 005 9223372036854775807", "+5 5,5 5_5 -1 0x5 9223372036854775808 18446744073709551617"),
    ("Transfer-Encoding", "chunked Chunked", "gzip chunked,chunked chunked,_gzip ,chunked x"),
    ("Connection", "close keep-alive Keep-Alive,_Upgrade upgrade x-a,_te,,x-b", "Host,X-Forwarded-For,Expect,Trailer,close @,"),
    ("Upgrade", "websocket h2c,_a/1", "h2c a/ @,b"),
    ("Expect", "100-continue 100-Continue", "x 100-continue,x"),
    ("TE", "trailers gzip,_Trailers", "x"),
    ("Trailer", "x", ","),
    ("Host", "a.example", "b"),
    ("Cookie", "a=b c", ","),
    ("X-Forwarded-For", "1 ::1,_2", ","),
    ("User-Agent", "agent/1_\xe9\t\"\\", "\x01 \x7f"))}
OTHER_NAMES = st.sampled_from(_words(
    "Accept X-A X-B x-b Keep-Alive Proxy-Connection Proxy-Authorization Proxy-Authenticate X-Forwarded-Proto X-Forwarded-Host "
    "X-Forwarded-Port X-Forwarded-Foo X-Forwarded- Forwarded X-Real-IP X-Request-Id Referer Authorization Transfer_Encoding "
    "X_Forwarded_For HTTP2-Settings Server Date Via Close"))
OTHER_VALUES = st.text("aB ,;=:\t\"\\\x80\xff", max_size=10).map(lambda text: text.encode("latin-1"))
SPACES = st.sampled_from([b" ", b"", b"\t", b"  "])


@st.composite
def field_lines(draw: st.DrawFn, length: int = 5, odd: bool = False) -> bytes:
    out = b""
    for _ in range(draw(st.integers(0, length))):
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(FIELDS)))
            value = FIELDS[name].pick(draw, odd)
        else:
            name, value = draw(OTHER_NAMES), draw(OTHER_VALUES)
        space, end = draw(st.sampled_from([(b" ", b"")] * 3 + [(draw(SPACES), draw(SPACES))]))
        out += draw(st.sampled_from([name, name, name.lower(), name.upper()])) + b":" + space + value + end + b"\r\n"
    return out


@st.composite
def mutated(draw: st.DrawFn, raw: bytes) -> bytes:
    """`raw` with a few bytes changed."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        byte = draw(st.sampled_from(b"\r\n\0\t :,;x\x01\x7f\x80#%/@"))
        kind = draw(st.sampled_from("insert replace delete cut".split()))
        if kind == "insert":
            data[at:at] = bytes((byte,))
        elif kind == "replace":
            data[at:at + 1] = bytes((byte,))
        elif kind == "delete":
            del data[at:at + draw(st.integers(1, 4))]
        else:
            del data[at:]
    return bytes(data)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    odd = draw(st.integers(0, 12))
    blank = draw(st.sampled_from([b"\r\n" * 5, b"\r", b"\n"])) if odd == 1 else draw(st.sampled_from([b"", b"", b"\r\n"]))
    line = b"%b %b %b\r\n" % (METHODS.pick(draw, odd == 2), TARGETS.pick(draw, odd in (3, 4)), VERSIONS.pick(draw, odd == 5))
    host = b"" if odd == 6 else b"Host: " + HOSTS.pick(draw, odd in (7, 8)) + b"\r\n"
    behind = draw(st.sampled_from([b"", b"5\r\nhello\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n", b"x" * 5000]))
    raw = blank + line + host + draw(field_lines(odd=odd == 9)) + b"\r\n" + behind
    return draw(mutated(raw)) if odd > 9 else raw


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    odd = draw(st.integers(0, 8))
    line = b"%b %b%b\r\n" % (VERSIONS.pick(draw, odd == 1), STATUSES.pick(draw, odd == 2), REASONS.pick(draw, odd == 3))
    behind = draw(st.sampled_from([b"", b"hello", b"x" * 5000]))
    raw = line + draw(field_lines(odd=odd in (4, 5))) + b"\r\n" + behind
    return draw(mutated(raw)) if odd > 6 else raw


EXTENSIONS = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b;\\"c"', b";a=b;c=d", b';a="\x80\t"'])
ODD_EXTENSIONS = st.sampled_from([b";", b";a=", b"; a", b" ;a", b';a="', b';a="\\', b";a=\"\x01\"", b";a b", b";" + b"a" * 1100])


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    odd = draw(st.integers(0, 8))
    out = b""
    for _ in range(draw(st.integers(0, 3))):
        payload = draw(st.binary(min_size=1, max_size=20))
        size = draw(st.sampled_from([b"%x ", b"0x%x", b"+%x", b"%x_", b"%017x", b"8%015x"] if odd == 1 else [b"%x", b"%X", b"0%x"]))
        out += size % len(payload) + draw(ODD_EXTENSIONS if odd == 2 else EXTENSIONS) + b"\r\n" + payload + b"\r\n"
    raw = out + b"0\r\n" + draw(field_lines(3, odd=odd == 3)) + b"\r\n" + draw(st.sampled_from([b"", b"GET /"]))
    return draw(mutated(raw)) if odd > 4 else raw


@st.composite
def cut(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """The same bytes in a few pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]
