"""What a request head says, and which heads are refused with what (docs: RFC 9110, RFC 9112, stricter where noted)."""
from __future__ import annotations

from typing import Any

import pytest
from leaf_messages import MAX_FIELDS, MAX_HEAD, get, head, refusal


def parse(leaf: Any, raw: bytes) -> Any:
    request = leaf.parse_request(raw, MAX_HEAD, MAX_FIELDS)
    assert request is not None
    return request


def refused(leaf: Any, raw: bytes) -> tuple[int, str]:
    return refusal(leaf.parse_request, raw, MAX_HEAD, MAX_FIELDS)


def test_a_browser_request(leaf: Any) -> None:
    raw = get(b"User-Agent: x/1", b"Cookie: a=1", b"X-Empty:", b"Cookie: b=2", b"Accept: a", b"accept:\t b ", target=b"/p/q?x=1?y",
              host=b"A.Example.:8080")
    request = parse(leaf, raw + b"next")
    assert (request.method, request.target, request.path, request.query) == ("GET", "/p/q?x=1?y", "/p/q", "x=1?y")
    assert (request.host, request.authority) == ("a.example", "A.Example.:8080")
    assert (request.minor, request.length, request.keep_alive, request.expect, request.upgrade) == (1, 0, True, False, None)
    assert request.size == len(raw)
    assert request.get(b"cookie") == b"a=1; b=2" and request.get(b"accept") == b"a, b"
    assert request.get(b"x-empty") == b"" and request.get(b"absent") is None
    assert request.fields()[-2:] == [(b"Accept", b"a"), (b"accept", b"b")]
    assert request.log_fields() == ('"method":"GET","host":"a.example","path":"/p/q?x=1?y","protocol":"HTTP/1.1",'
                                    '"user_agent":"x/1"')


def test_log_fields_are_escaped(leaf: Any) -> None:
    request = parse(leaf, get(b'User-Agent: a"\\\t\xe9', b"Referer: x", target=b'/"\xff'))
    assert request.log_fields() == ('"method":"GET","host":"a.example","path":"/\\"\\u00ff","protocol":"HTTP/1.1",'
                                    '"user_agent":"a\\"\\\\\\t\\u00e9","referer":"x"')


@pytest.mark.parametrize(("target", "path"), [
    (b"/", "/"), (b"/a/b/", "/a/b/"), (b"//a//b", "//a//b"), (b"/a/./b/../c", "/a/c"), (b"/a/..", "/"), (b"/a/b/.", "/a/b/"),
    (b"/%61%2D%7e/%2F%3a", "/a-~/%2F%3A"), (b"/a/%2e%2e/b", "/b"), (b"/.well-known/..x/...", "/.well-known/..x/..."),
    (b"/caf\xc3\xa9", "/caf%C3%A9"), (b"/%c3%a9", "/%C3%A9"), (b"/a%2520", "/a%2520"), (b"/?/../..", "/"), (b"/a?%zz", "/a"),
    (b"/path-%0d%0A", "/path-%0D%0A"), (b"/a;b='c'\\|{}", "/a;b='c'\\|{}"), (b"/a//../b", "/a/b")])
def test_paths_to_match_by(leaf: Any, target: bytes, path: str) -> None:
    request = parse(leaf, get(target=target))
    assert request.path == path
    assert request.target == target.decode("latin-1")


@pytest.mark.parametrize(("target", "why"), [
    (b"/..", "path climbs above the root"), (b"/a/../../b", "path climbs above the root"),
    (b"/%2e%2E/", "path climbs above the root"), (b"/%", "malformed percent-encoding in the path"),
    (b"/%4", "malformed percent-encoding in the path"), (b"/%g0", "malformed percent-encoding in the path"),
    (b"/a%00", "encoded NUL in the path"), (b"/#a", "invalid character in the target"), (b"/\x7f", "invalid character in the target"),
    (b"/\x01", "invalid character in the target"), (b"a", "malformed target"), (b"*", "malformed target"),
    (b"ftp://a.example/", "malformed target"), (b"http:/a.example/", "malformed target"), (b"/a b", "malformed request line"),
    (b"", "malformed request line"), (b"http://u@a.example/", "userinfo in the target"), (b"http://b/", "target and Host differ"),
    (b"http://a.example:80/", "target and Host differ"), (b"http:///", "target and Host differ"), (b"/\0", "NUL in a head")])
def test_targets_refused(leaf: Any, target: bytes, why: str) -> None:
    assert refused(leaf, get(target=target)) == (400, why)


@pytest.mark.parametrize(("target", "origin", "path"), [
    (b"http://a.example/x?y", "/x?y", "/x"), (b"HTTPS://A.EXAMPLE/", "/", "/"), (b"http://a.example", "/", "/"),
    (b"http://a.example?q", "/?q", "/")])
def test_absolute_form_becomes_origin_form(leaf: Any, target: bytes, origin: str, path: str) -> None:
    request = parse(leaf, get(target=target))
    assert (request.target, request.path, request.authority) == (origin, path, "a.example")
    assert f'"path":"{origin}"' in request.log_fields()


def test_asterisk_is_for_options(leaf: Any) -> None:
    for target in (b"*", b"http://a.example"):
        request = parse(leaf, head(b"OPTIONS " + target + b" HTTP/1.1", b"Host: a.example"))
        assert (request.target, request.path, request.query) == ("*", "*", "")


@pytest.mark.parametrize(("line", "status", "why"), [
    (b"CONNECT a:443 HTTP/1.1", 405, "method not allowed"), (b"TRACE / HTTP/1.1", 405, "method not allowed"),
    (b"GET / HTTP/2.0", 505, "unsupported HTTP version"), (b"GET / HTTP/1.2", 505, "unsupported HTTP version"),
    (b"GET / http/1.1", 400, "malformed HTTP version"), (b"GET / HTTP/1.10", 400, "malformed HTTP version"),
    (b"GET / HTTP/01.1", 400, "malformed HTTP version"), (b"GET /", 400, "malformed request line"),
    (b"GET  / HTTP/1.1", 400, "malformed request line"), (b"GET / HTTP/1.1 ", 400, "malformed request line"),
    (b" GET / HTTP/1.1", 400, "malformed request line"), (b"GET\t/ HTTP/1.1", 400, "malformed request line"),
    (b"G(T / HTTP/1.1", 400, "invalid character in the method"), (b"M" * 33 + b" / HTTP/1.1", 400, "method too long"),
    (b"GET / HTTP/1.1\r", 400, "bare CR in a head"), (b"GET /\nHTTP/1.1", 400, "bare LF in a head"),
    (b"GET /" + b"a" * 16384 + b" HTTP/1.1", 414, "target too long")])
def test_request_lines_refused(leaf: Any, line: bytes, status: int, why: str) -> None:
    raw = head(line, b"Host: a.example")
    assert refused(leaf, raw) == (status, why)
    assert refused(leaf, raw[:len(line) + 2]) == (status, why)  # as soon as the line is whole


def test_the_longest_target(leaf: Any) -> None:
    assert len(parse(leaf, get(target=b"/" + b"a" * 16383)).target) == 16384


@pytest.mark.parametrize(("line", "why"), [
    (b" folded", "folded field line"), (b"\tA: b", "folded field line"), (b"A", "field line without a colon"),
    (b": b", "empty field name"), (b"A : b", "white space before the colon"), (b"A\t: b", "white space before the colon"),
    (b"A B: b", "invalid character in a field name"), (b"A\xe9: b", "invalid character in a field name"),
    (b"A[: b", "invalid character in a field name"), (b"A: \x01", "control character in a field value"),
    (b"A: \x7f", "control character in a field value"), (b"A: \x0b", "control character in a field value"),
    (b"A: b\nC: d", "bare LF in a head"), (b"A: b\rC: d", "bare CR in a head"), (b"A: b\r", "bare CR in a head"),
    (b"A: \0", "NUL in a head"), (b"A\0: b", "NUL in a head")])
def test_fields_refused(leaf: Any, line: bytes, why: str) -> None:
    assert refused(leaf, get(line)) == (400, why)
    assert refused(leaf, get(b"X: y", line, b"Z: z")) == (400, why)
    assert refusal(leaf.parse_response, head(b"HTTP/1.1 200 OK", line), False, MAX_HEAD, MAX_FIELDS) == (502, why)


def test_the_first_fault_counts(leaf: Any) -> None:
    assert refused(leaf, get(b"A : b", b"C\0: d", b"E: \x01")) == (400, "white space before the colon")
    assert refused(leaf, head(b"GET /# HTTP/1.1", b"A : b")) == (400, "invalid character in the target")


@pytest.mark.parametrize(("host", "name"), [
    (b"a.example", "a.example"), (b"A.EXAMPLE:1", "a.example"), (b"a_b.example.", "a_b.example"), (b"192.0.2.1:80", "192.0.2.1"),
    (b"[2001:DB8::1]:80", "[2001:db8::1]"), (b"a:65535", "a")])
def test_hosts(leaf: Any, host: bytes, name: str) -> None:
    request = parse(leaf, get(host=host))
    assert (request.host, request.authority) == (name, host.decode())


@pytest.mark.parametrize("host", [b"", b".", b"a..b", b".a", b"a:", b"a:x", b"a:65536", b"a:1:2", b"a b", b"a/b", b"a,b", b"a?b", b"[::1", b"[]",
                                  b"[::g]", b"\xe9", b"a" * 256, b"a%20b"])
def test_hosts_refused(leaf: Any, host: bytes) -> None:
    assert refused(leaf, get(host=host)) == (400, "invalid Host")


def test_host_has_to_be_there_once(leaf: Any) -> None:
    assert refused(leaf, head(b"GET / HTTP/1.1")) == (400, "missing Host")
    assert refused(leaf, get(b"Host: a.example")) == (400, "several Host fields")
    assert refused(leaf, get(host=b"u@a.example")) == (400, "userinfo in Host")
    old = parse(leaf, head(b"GET / HTTP/1.0"))
    assert (old.host, old.authority, '"host"' in old.log_fields()) == ("", "", False)
    assert parse(leaf, head(b"GET http://B.example:1/ HTTP/1.0")).host == "b.example"


@pytest.mark.parametrize(("fields", "length"), [
    ((), 0), ((b"Content-Length: 5",), 5), ((b"Content-Length:\t005 ",), 5), ((b"content-length: 9223372036854775807",), 2**63 - 1),
    ((b"Transfer-Encoding: chunked",), -1), ((b"Transfer-Encoding:\tCHUNKED ",), -1), ((b"Transfer_Encoding: chunked",), 0),
    ((b"Content-Length: 1", b"Content_Length: 9"), 1)])
def test_body_framing(leaf: Any, fields: tuple[bytes, ...], length: int) -> None:
    assert parse(leaf, get(*fields)).length == length


@pytest.mark.parametrize(("fields", "status", "why"), [
    ((b"Content-Length: 1", b"Content-Length: 1"), 400, "several Content-Length fields"),
    ((b"Content-Length: 1, 1",), 400, "malformed Content-Length"), ((b"Content-Length:",), 400, "malformed Content-Length"),
    ((b"Content-Length: +1",), 400, "malformed Content-Length"), ((b"Content-Length: -1",), 400, "malformed Content-Length"),
    ((b"Content-Length: 0x1",), 400, "malformed Content-Length"), ((b"Content-Length: 1 0",), 400, "malformed Content-Length"),
    ((b"Content-Length: 1_0",), 400, "malformed Content-Length"), ((b"Content-Length: \xb2",), 400, "malformed Content-Length"),
    ((b"Content-Length: 9223372036854775808",), 400, "Content-Length out of range"),
    ((b"Content-Length: " + b"9" * 5000,), 400, "Content-Length out of range"),
    ((b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400, "both Content-Length and Transfer-Encoding"),
    ((b"Transfer-Encoding: x", b"Content-Length: x"), 400, "both Content-Length and Transfer-Encoding"),
    ((b"Transfer-Encoding: gzip",), 501, "unknown transfer coding"), ((b"Transfer-Encoding:",), 501, "unknown transfer coding"),
    ((b"Transfer-Encoding: gzip, chunked",), 501, "unknown transfer coding"),
    ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 501, "unknown transfer coding"),
    ((b"Transfer-Encoding: chunked;a",), 501, "unknown transfer coding"), ((b"Expect: x",), 417, "unknown expectation"),
    ((b"Expect: 100-continue", b"Expect: 100-continue"), 417, "unknown expectation"),
    ((b"Connection: " + b"," * 100,), 400, "too many options in Connection")])
def test_framing_refused(leaf: Any, fields: tuple[bytes, ...], status: int, why: str) -> None:
    assert refused(leaf, get(*fields)) == (status, why)


def test_transfer_encoding_is_not_for_http_1_0(leaf: Any) -> None:
    assert refused(leaf, head(b"GET / HTTP/1.0", b"Transfer-Encoding: chunked")) == (400, "Transfer-Encoding in HTTP/1.0")


@pytest.mark.parametrize(("version", "connection", "kept"), [
    (b"1", (), True), (b"1", (b"close",), False), (b"1", (b"x, CLOSE",), False), (b"1", (b"keep-alive", b"close"), False), (b"0", (), False),
    (b"0", (b"Keep-Alive",), True), (b"0", (b"keep-alive, close",), False), (b"1", (b"closed",), True)])
def test_keep_alive(leaf: Any, version: bytes, connection: tuple[bytes, ...], kept: bool) -> None:
    fields = [b"Connection: " + value for value in connection]
    assert parse(leaf, head(b"GET / HTTP/1." + version, b"Host: a", *fields)).keep_alive is kept


@pytest.mark.parametrize(("version", "fields", "protocol"), [
    (b"1", (b"Connection: Upgrade", b"Upgrade: websocket"), "websocket"), (b"1", (b"Upgrade: websocket",), None),
    (b"1", (b"Connection: upgrade",), None), (b"1", (b"Connection: x, upgrade", b"Upgrade: h2c"), None),
    (b"1", (b"Connection: upgrade", b"Upgrade: H2C, a/1 , b c,", b"Upgrade: d"), "a/1, d"),
    (b"0", (b"Connection: Upgrade", b"Upgrade: websocket"), None)])
def test_upgrades(leaf: Any, version: bytes, fields: tuple[bytes, ...], protocol: str | None) -> None:
    assert parse(leaf, head(b"GET / HTTP/1." + version, b"Host: a", *fields)).upgrade == protocol


@pytest.mark.parametrize(("version", "fields", "expect"), [
    (b"1", (b"Content-Length: 1",), True), (b"1", (b"Transfer-Encoding: chunked",), True), (b"1", (), False),
    (b"1", (b"Content-Length: 0",), False), (b"0", (b"Content-Length: 1",), False)])
def test_expect_is_for_bodies_of_http_1_1(leaf: Any, version: bytes, fields: tuple[bytes, ...], expect: bool) -> None:
    assert parse(leaf, head(b"PUT / HTTP/1." + version, b"Host: a", b"Expect: 100-Continue", *fields)).expect is expect


def test_limits(leaf: Any) -> None:
    raw = get(b"A: b", b"C: d")
    assert leaf.parse_request(raw, len(raw), 3) is not None
    assert refusal(leaf.parse_request, raw, len(raw) - 1, 3) == (431, "head too large")
    assert refusal(leaf.parse_request, raw, len(raw), 2) == (431, "too many fields")
    assert refusal(leaf.parse_request, raw[:-1], len(raw) - 2, 3) == (431, "head too large")
    assert refusal(leaf.parse_request, raw[:-3], len(raw), 1) == (431, "too many fields")
    assert leaf.parse_request(raw[:-1], len(raw), 3) is None


def test_empty_lines_before_a_request(leaf: Any) -> None:
    raw = get()
    request = parse(leaf, b"\r\n" * 4 + raw)
    assert request.size == len(raw) + 8 and request.fields() == [(b"Host", b"a.example")]
    assert refused(leaf, b"\r\n" * 5 + raw) == (400, "too many empty lines before the request")
    for start in (b"", b"\r", b"\r\n", b"\r\n\r"):
        assert leaf.parse_request(start, MAX_HEAD, MAX_FIELDS) is None
        assert leaf.find_head_end(start, 0) == -1
    assert refused(leaf, b"\n" + raw) == (400, "bare LF in a head")


def test_values_are_shared_not_copied_from_big_reads(leaf: Any) -> None:
    request = parse(leaf, get(b"A: b") + b"x" * 100_000)
    assert request.get(b"a") == b"b" and request.authority == "a.example" and request.target == "/"
