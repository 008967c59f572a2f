"""Heads and trailers as fields of HTTP/2: what comes in, what is refused and how, what goes out."""
from __future__ import annotations

from typing import Any

import pytest
from leaf_fields import REQUEST, RESPONSE, Fields, onward, request
from leaf_messages import MAX_FIELDS, MAX_HEAD, get, head, outbound, refusal

FORWARDED = [(b"x-forwarded-for", b"192.0.2.7"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-port", b"8443"),
             (b"x-forwarded-client-cert", b"Hash=ab"), (b"x-forwarded-host", b"a.example"), (b"x-request-id", b"the-id")]


def read(leaf: Any, fields: Fields, ended: bool = True) -> Any:
    return leaf.request_from_fields(fields, ended, MAX_HEAD, MAX_FIELDS)


def refused(leaf: Any, fields: Fields, ended: bool = True) -> Any:
    return refusal(read, leaf, fields, ended)


def answer(leaf: Any, *fields: tuple[bytes, bytes], status: bytes = b"200", head_request: bool = False, ended: bool = True) -> Any:
    return leaf.response_from_fields([(b":status", status), *fields], head_request, ended, MAX_HEAD, MAX_FIELDS)


# ---- requests --------------------------------------------------------------------------------------------------

def test_a_request(leaf: Any) -> None:
    got = read(leaf, request((b"user-agent", b"me"), (b"x", b"1"), authority=b"A.example.:8", path=b"/a/../b?c"))
    assert (got.method, got.target, got.path, got.query) == ("GET", "/a/../b?c", "/b", "c")
    assert (got.host, got.authority, got.major, got.minor) == ("a.example", "A.example.:8", 2, 1)
    assert (got.length, got.keep_alive, got.expect, got.upgrade) == (0, True, False, None)
    assert got.fields() == [(b"host", b"A.example.:8"), (b"user-agent", b"me"), (b"x", b"1")]
    assert (got.get(b"host"), got.get(b"x"), got.get(b":path")) == (b"A.example.:8", b"1", None)
    assert got.log_fields() == '"method":"GET","host":"a.example","path":"/a/../b?c","protocol":"HTTP/2.0","user_agent":"me"'
    assert got.size == sum(len(name) + len(value) + 32 for name, value in
                           request((b"user-agent", b"me"), (b"x", b"1"), authority=b"A.example.:8", path=b"/a/../b?c"))
    assert leaf.parse_request(get(), MAX_HEAD, MAX_FIELDS).major == 1
    assert read(leaf, tuple(REQUEST)).method == "GET"


def test_pseudo_header_fields_come_in_any_order(leaf: Any) -> None:
    for fields in (REQUEST[::-1], REQUEST[2:] + REQUEST[:2]):
        assert outbound(leaf, read(leaf, fields)) == outbound(leaf, read(leaf, REQUEST))


def test_host_may_stand_for_the_authority(leaf: Any) -> None:
    fields = request((b"x", b"1"), (b"host", b"b.example"), authority=None)
    got = read(leaf, fields)
    assert (got.host, got.get(b"host"), len(got.fields())) == ("b.example", b"b.example", 2)
    assert onward(leaf, got)[2] == (b":authority", b"b.example")
    assert read(leaf, request((b"host", b"A.EXAMPLE"))).authority == "a.example"
    assert len(read(leaf, request((b"host", b"a.example"))).fields()) == 1


@pytest.mark.parametrize(("fields", "ended", "length"), [
    ([], True, 0), ([], False, -1), ([(b"content-length", b"007")], False, 7), ([(b"content-length", b"0")], True, 0),
    ([(b"content-length", b"0")], False, 0)])
def test_the_length_of_a_body(leaf: Any, fields: Fields, ended: bool, length: int) -> None:
    got = read(leaf, request(*fields, method=b"POST"), ended)
    assert got.length == length
    sent = outbound(leaf, got)
    assert (b"Transfer-Encoding: chunked" in sent) == (length < 0)
    assert (b"Content-Length: %d\r\n" % length in sent) == (length >= 0)


def test_no_body_is_said_where_one_is_usual(leaf: Any) -> None:
    """HTTP/2 says it by ending the stream; HTTP/1 by Content-Length, which RFC 9110 §8.6 wants of these methods."""
    for method in (b"POST", b"PUT", b"PATCH"):
        got = read(leaf, request(method=method))
        assert got.length == 0 and got.get(b"content-length") is None
        assert outbound(leaf, got).count(b"Content-Length: 0\r\n") == 1 and (b"content-length", b"0") in onward(leaf, got)
    for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"post", b"PROPFIND"):
        assert b"ontent-" not in outbound(leaf, read(leaf, request(method=method)))
    raw = b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert b"ontent-" not in outbound(leaf, leaf.parse_request(raw, MAX_HEAD, MAX_FIELDS)), "what HTTP/1 says is passed on"


def test_crumbs_are_one_cookie(leaf: Any) -> None:
    got = read(leaf, request((b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b""), (b"cookie", b"c")))
    assert got.get(b"cookie") == b"a=1; b=2; c" and got.fields()[1:] == [(b"x", b"y"), (b"cookie", b"a=1; b=2; c")]
    assert b"\r\ncookie: a=1; b=2; c\r\n" in outbound(leaf, got)
    assert (b"cookie", b"a=1; b=2; c") in onward(leaf, got)
    assert read(leaf, request((b"cookie", b""), (b"cookie", b""))).get(b"cookie") == b""


def test_an_expectation(leaf: Any) -> None:
    expect = (b"expect", b"100-Continue")
    assert read(leaf, request(expect), False).expect and not read(leaf, request(expect)).expect
    assert b"expect" not in outbound(leaf, read(leaf, request(expect)))
    assert refused(leaf, request((b"expect", b"x"))) == (417, "unknown expectation")


MALFORMED = [
    # RFC 9113 §8.3: pseudo-header fields
    (request(method=None), "missing :method"), (request(scheme=None), "missing or unknown :scheme"), (request(path=None), "missing :path"),
    (request(path=b""), "missing :path"), (request(scheme=b"ftp"), "missing or unknown :scheme"), (request(scheme=b""), "missing or unknown :scheme"),
    (request(scheme=b"https\r\nx: y"), "control character in a field value"), (request(scheme=b"http://b/?"), "missing or unknown :scheme"),
    *((request((name, value)), "repeated pseudo-header field") for name, value in REQUEST),
    *((request((b":" + name, b"1")), "unknown pseudo-header field") for name in (b"status", b"protocol", b"", b"Path", b"path ", b"a")),
    *(([*request(**{name[1:].decode(): None}), (b"a", b"b"), (name, value)], "pseudo-header field behind a field") for name, value in REQUEST),
    # bytes that end something in HTTP/1
    *((request(**{part: value + end}), "control character in a field value") for part, value in
      (("method", b"GET / HTTP/1.1"), ("path", b"/ HTTP/1.1"), ("authority", b"a"), ("scheme", b"https"))
      for end in (b"\r\nx: y", b"\n", b"\r", b"\0", b"\x0b")),
    *((request((b"a", b"b" + end)), "control character in a field value") for end in (b"\r\nx: y", b"\nx", b"\r", b"\0", b"\x7f", b"\x01")),
    *((request((b"a" + end, b"b")), "invalid character in a field name") for end in
      (b"\r\nx", b": b\r\nx", b":", b" ", b"\t", b"\0", b"A", b"\xe9", b"(", b",", b"\x7f")),
    (request((b"", b"b")), "empty field name"), (request((b"Transfer-Encoding", b"chunked")), "invalid character in a field name"),
    *((request((b"a", value)), "white space around a field value") for value in (b" b", b"b ", b"\tb", b" ", b"b\t")),
    (request(path=b"/ "), "white space around a field value"), (request(method=b" GET"), "white space around a field value"),
    # framing of another protocol
    *((request((name, value)), "connection-specific field") for name, value in (
        (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b""), (b"connection", b"close"), (b"connection", b"te"), (b"keep-alive", b"5"),
        (b"proxy-connection", b"x"), (b"upgrade", b"h2c"), (b"te", b"gzip"), (b"te", b"trailers, gzip"), (b"te", b""))),
    (request((b"content-length", b"5")), "Content-Length of a body that is not there")]


@pytest.mark.parametrize(("fields", "why"), MALFORMED)
def test_malformed_requests(leaf: Any, fields: Fields, why: str) -> None:
    assert refused(leaf, fields) == (0, why)


@pytest.mark.parametrize(("fields", "status", "why"), [
    (request(method=b"CONNECT", scheme=None, path=None), 405, "method not allowed"), (request(method=b"TRACE"), 405, "method not allowed"),
    (request(method=b"GET /x"), 400, "invalid character in the method"), (request(method=b""), 400, "malformed request line"),
    (request(method=b"G" * 33), 400, "method too long"), (request(method=b"G:"), 400, "invalid character in the method"),
    (request(path=b"/" + b"a" * 16384), 414, "target too long"), (request(path=b"a"), 400, "malformed target"),
    (request(path=b"*"), 400, "malformed target"), (request(path=b"http://b.example/"), 400, "malformed target"),
    (request(path=b"/a b"), 400, "invalid character in the target"), (request(path=b"/ HTTP/1.1"), 400, "invalid character in the target"),
    (request(path=b"/#a"), 400, "invalid character in the target"), (request(path=b"/../"), 400, "path climbs above the root"),
    (request(path=b"/%00"), 400, "encoded NUL in the path"), (request(path=b"/%"), 400, "malformed percent-encoding in the path"),
    (request(authority=None), 400, "missing Host"), (request(authority=b""), 400, "invalid Host"), (request(authority=b"u@a"), 400, "userinfo in Host"),
    (request(authority=b"a/b"), 400, "invalid Host"), (request(authority=b"a b"), 400, "invalid Host"), (request(authority=b"a:b"), 400, "invalid Host"),
    (request((b"host", b"b")), 400, ":authority and Host differ"), (request((b"host", b"a.example:443")), 400, ":authority and Host differ"),
    (request((b"host", b"")), 400, ":authority and Host differ"),
    (request((b"host", b"a.example"), (b"host", b"a.example")), 400, "several Host fields"),
    (request((b"host", b"a"), (b"host", b"a"), authority=None), 400, "several Host fields"),
    (request((b"host", b"a, b"), authority=None), 400, "invalid Host"),
    (request((b"content-length", b"5"), (b"content-length", b"5")), 400, "several Content-Length fields"),
    (request((b"content-length", b"5, 5")), 400, "malformed Content-Length"), (request((b"content-length", b"+5")), 400, "malformed Content-Length"),
    (request((b"content-length", b"")), 400, "malformed Content-Length"),
    (request((b"content-length", b"9223372036854775808")), 400, "Content-Length out of range")])
def test_requests_that_are_refused(leaf: Any, fields: Fields, status: int, why: str) -> None:
    assert refused(leaf, fields, False) == (status, why)


def test_options_of_the_server_itself(leaf: Any) -> None:
    got = read(leaf, request(method=b"OPTIONS", path=b"*"))
    assert (got.target, got.path) == ("*", "*") and onward(leaf, got)[3] == (b":path", b"*")


def test_limits(leaf: Any) -> None:
    size = read(leaf, REQUEST).size
    assert leaf.request_from_fields(REQUEST, True, size, 0).size == size
    assert refusal(leaf.request_from_fields, REQUEST, True, size - 1, 0) == (431, "head too large")
    crumbs = request(*[(b"cookie", b"a")] * 4)
    assert leaf.request_from_fields(crumbs, True, MAX_HEAD, 4).get(b"cookie") == b"a; a; a; a"
    assert refusal(leaf.request_from_fields, crumbs, True, MAX_HEAD, 3) == (431, "too many fields")
    assert refusal(leaf.response_from_fields, [*RESPONSE, (b"a", b"b")], False, True, MAX_HEAD, 0) == (502, "too many fields")
    assert refusal(leaf.response_from_fields, RESPONSE, False, True, 41, 0) == (502, "head too large")


# ---- on to the endpoint ----------------------------------------------------------------------------------------

def test_a_request_goes_on_by_http_1(leaf: Any) -> None:
    got = read(leaf, request((b"x", b"1"), (b"te", b"trailers"), (b"proxy-authorization", b"x"), (b"trailer", b"t")), False)
    assert outbound(leaf, got).split(b"\r\n") == [
        b"GET /a?b HTTP/1.1", b"host: a.example", b"x: 1", b"trailer: t", b"Transfer-Encoding: chunked", b"Connection: TE", b"TE: trailers",
        b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Proto: http", b"X-Forwarded-Port: 8080", b"X-Forwarded-Host: a.example",
        b"X-Request-Id: the-id", b"Via: 2.0 edgeproxy", b"", b""]


def test_a_request_goes_on_by_http_2(leaf: Any) -> None:
    got = read(leaf, request((b"x", b"1"), (b"te", b"trailers"), (b"content-length", b"5"), (b"x-request-id", b"theirs")), False)
    assert onward(leaf, got) == [
        (b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/a?b"), (b"x", b"1"), (b"content-length", b"5"),
        (b"te", b"trailers"), *FORWARDED, (b"via", b"2.0 edgeproxy")]
    edits = leaf.Edits([(b"X", b"2")], [(b"Te", b"gzip"), (b"Connection", b"x")], [b"via"])
    assert onward(leaf, got, False, b"/new", b"b.example", edits) == [
        (b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"b.example"), (b":path", b"/new"), (b"content-length", b"5"),
        (b"te", b"trailers"), *FORWARDED, (b"x", b"2")]
    assert refusal(onward, leaf, got, False, b"/a b") == (500, "the new target cannot be sent")
    assert refusal(onward, leaf, got, False, None, b"a\r\nb") == (500, "cannot be sent as a field")


def test_http_1_goes_on_by_http_2(leaf: Any) -> None:
    raw = get(b"X-Ab:  1 ", b"Connection: Upgrade, x-c, close", b"Upgrade: websocket", b"X-C: 1", b"Keep-Alive: 5", b"Cookie: a", b"Cookie: b",
              b"Transfer-Encoding: chunked", b"TE: trailers", b"HTTP2-Settings: x", target=b"http://a.example/\xe9")
    got = onward(leaf, leaf.parse_request(raw, MAX_HEAD, MAX_FIELDS))
    assert got == [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/\xe9"), (b"x-ab", b"1"),
                   (b"cookie", b"a"), (b"cookie", b"b"), (b"te", b"trailers"), *FORWARDED, (b"via", b"1.1 edgeproxy")]
    old = leaf.parse_request(head(b"GET / HTTP/1.0"), MAX_HEAD, MAX_FIELDS)
    assert [name for name, _ in onward(leaf, old)[:4]] == [b":method", b":scheme", b":path", b"x-forwarded-for"]
    assert onward(leaf, old, host=b"b")[2] == (b":authority", b"b")


SPELLINGS = [b"X-Forwarded-Client-Cert", b"x-forwarded-client-cert", b"X_Forwarded_Client_Cert", b"x-forwarded_client-CERT"]


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", SPELLINGS)
def test_nobody_brings_a_client_certificate(leaf: Any, name: bytes, trusted: bool) -> None:
    raw = get(name + b": Hash=evil", b"Connection: close, " + name, b"X-Forwarded-For: 1")
    for got in (leaf.parse_request(raw, MAX_HEAD, MAX_FIELDS), read(leaf, request((name.lower(), b"Hash=evil")))):
        for cert in (b"", b"Hash=good;Subject=\"CN=a\""):
            forward = leaf.Forward(b"192.0.2.7", b"https", b"8443", trusted, cert)
            for edits in (None, leaf.Edits([(b"A", b"b")], [], [])):
                sent = got.outbound(forward, b"i", None, None, edits)
                assert b"evil" not in sent and (b"\r\nX-Forwarded-Client-Cert: " + cert + b"\r\n" in sent) == bool(cert)
                sent = got.outbound_fields(forward, b"i", None, None, edits, b"https")
                assert [value for name, value in sent if b"client" in name] == [cert] * bool(cert)
        edits = leaf.Edits([(b"x-forwarded-client-cert", b"Hash=route")], [], [])
        sent = got.outbound(forward, b"i", None, None, edits)
        assert sent.count(b"Hash=") == 1 and b"Hash=route" in sent
    assert refusal(leaf.Forward, b"", b"", b"", trusted, b"a\r\nb") == (500, "cannot be sent as a field")


# ---- responses -------------------------------------------------------------------------------------------------

def test_a_response(leaf: Any) -> None:
    got = answer(leaf, (b"server", b"s"), (b"content-length", b"05"), ended=False)
    assert (got.status, got.reason, got.minor, got.length, got.keep_alive, got.upgrade) == (200, "", 1, 5, True, None)
    assert got.fields() == [(b"server", b"s"), (b"content-length", b"05")] and got.get(b"server") == b"s"
    assert got.size == 42 + 39 + 48
    assert got.inbound(1, False, None) == b"HTTP/1.1 200 \r\nserver: s\r\nContent-Length: 5\r\n\r\n"
    edits = leaf.Edits([(b"Server", b"x")], [], [])
    assert got.inbound_fields(edits) == [(b":status", b"200"), (b"content-length", b"5"), (b"server", b"x")]


@pytest.mark.parametrize(("more", "length", "lines", "stated"), [
    ({"ended": False}, -1, b"Transfer-Encoding: chunked\r\n", None), ({}, 0, b"Content-Length: 0\r\n", None),
    ({"fields": [(b"content-length", b"0")]}, 0, b"Content-Length: 0\r\n", b"0"),
    ({"fields": [(b"content-length", b"5")], "head_request": True}, 0, b"Content-Length: 5\r\n", b"5"),
    ({"fields": [(b"content-length", b"5")], "status": b"304"}, 0, b"Content-Length: 5\r\n", b"5"),
    ({"status": b"304"}, 0, b"", None), ({"head_request": True}, 0, b"", None), ({"status": b"204", "ended": False}, 0, b"", None),
    ({"status": b"103", "ended": False}, 0, b"", None), ({"status": b"204", "fields": [(b"content-length", b"5")]}, 0, b"", None)])
def test_bodies_of_responses(leaf: Any, more: dict[str, Any], length: int, lines: bytes, stated: bytes | None) -> None:
    got = answer(leaf, *more.get("fields", []), **{name: value for name, value in more.items() if name != "fields"})
    assert (got.length, got.keep_alive) == (length, True)
    assert got.inbound(1, False, None).partition(b"\r\n")[2] == lines + b"\r\n"
    assert dict(got.inbound_fields(None)).get(b"content-length") == stated
    if length < 0:
        assert got.inbound(0, False, None) == b"HTTP/1.1 200 \r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(("fields", "why"), [
    ([(b":status", status)], "missing or malformed :status") if status != b"101" else ([(b":status", b"101")], "101 in HTTP/2")
    for status in (b"", b"20", b"2000", b"099", b"2 0", b"\xb200", b"+20", b"101")] + [
    ([], "missing or malformed :status"), ([(b":status", b"200 ")], "white space around a field value"),
    ([(b":status", b"200\r\na: b")], "control character in a field value"), ([*RESPONSE, *RESPONSE], "repeated pseudo-header field"),
    ([(b"a", b"b"), *RESPONSE], "pseudo-header field behind a field"), ([*RESPONSE, (b":path", b"/")], "unknown pseudo-header field"),
    ([*RESPONSE, (b"A", b"b")], "invalid character in a field name"), ([*RESPONSE, (b"a", b"b\r\nc: d")], "control character in a field value"),
    ([*RESPONSE, (b"transfer-encoding", b"chunked")], "connection-specific field"), ([*RESPONSE, (b"connection", b"close")], "connection-specific field"),
    ([*RESPONSE, (b"content-length", b"5")], "Content-Length of a body that is not there"),
    ([*RESPONSE, (b"content-length", b"0"), (b"content-length", b"0")], "several Content-Length fields"),
    ([*RESPONSE, (b"content-length", b"0x0")], "malformed Content-Length"), ([(b":status", b"100")], "interim response that ends the stream")])
def test_responses_that_are_refused(leaf: Any, fields: Fields, why: str) -> None:
    assert refusal(leaf.response_from_fields, fields, False, True, MAX_HEAD, MAX_FIELDS) == (502, why)


def test_a_response_by_http_1_goes_on_by_http_2(leaf: Any) -> None:
    def sent(*lines: bytes) -> Fields:
        fields: Fields = leaf.parse_response(head(*lines), False, MAX_HEAD, MAX_FIELDS).inbound_fields(None)
        return fields
    assert sent(b"HTTP/1.1 200 OK", b"Server: s", b"Content-Length: 007", b"Connection: x-a", b"X-A: 1", b"Set-Cookie: a", b"Set-Cookie: b") == [
        (b":status", b"200"), (b"server", b"s"), (b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"content-length", b"7")]
    assert sent(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"Trailer: t") == [(b":status", b"200"), (b"trailer", b"t")]
    assert sent(b"HTTP/1.0 200 OK", b"A:") == [(b":status", b"200"), (b"a", b"")]
    assert sent(b"HTTP/1.1 426 x", b"Connection: upgrade", b"Upgrade: a/1", b"Content-Length: 0") == [(b":status", b"426"), (b"content-length", b"0")]
    assert sent(b"HTTP/1.1 103 x", b"Link: a") == [(b":status", b"103"), (b"link", b"a")]


# ---- trailers --------------------------------------------------------------------------------------------------

def test_trailers(leaf: Any) -> None:
    fields = [(b"grpc-status", b"0"), (b"content-length", b"5"), (b"x_forwarded_client_cert", b"x"), (b"grpc-message", b""), (b"x", b"a: b")]
    lines = leaf.trailers_from_fields(fields)
    assert lines == b"grpc-status: 0\r\ngrpc-message: \r\nx: a: b\r\n"
    assert leaf.trailer_fields(lines) == [fields[0], fields[3], fields[4]]
    assert leaf.trailer_fields(b"X-A: b\r\n") == [(b"x-a", b"b")]
    assert leaf.trailers_from_fields([]) == b"" and leaf.trailer_fields(b"") == []


@pytest.mark.parametrize(("field", "why"), [
    ((b":status", b"200"), "pseudo-header field in trailers"), ((b":", b""), "pseudo-header field in trailers"), ((b"", b""), "empty field name"),
    ((b"A", b"b"), "invalid character in a field name"), ((b"a\r\nb", b"c"), "invalid character in a field name"),
    ((b"a", b"b\r\n\r\nGET /"), "control character in a field value"), ((b"a", b" b"), "white space around a field value"),
    ((b"transfer-encoding", b"chunked"), "connection-specific field")])
def test_trailers_that_are_refused(leaf: Any, field: tuple[bytes, bytes], why: str) -> None:
    assert refusal(leaf.trailers_from_fields, [(b"x", b"y"), field]) == (0, why)


@pytest.mark.parametrize("lines", [b"a: b", b"a: b\n", b"a:b\r\n", b"\r\n", b"a: b\r\n\r\n", b": b\r\n", b"a b: c\r\n", b"a: b\0\r\n", b"a: b\rc: d\r\n"])
def test_lines_that_are_no_trailers(leaf: Any, lines: bytes) -> None:
    assert refusal(leaf.trailer_fields, lines)[0] == 500
