"""What a response head says about its body and its channel, and what is refused (always 502)."""
from __future__ import annotations

from typing import Any

import pytest
from leaf_messages import MAX_FIELDS, MAX_HEAD, head, refusal


def parse(leaf: Any, raw: bytes, head_request: bool = False) -> Any:
    response = leaf.parse_response(raw, head_request, MAX_HEAD, MAX_FIELDS)
    assert response is not None
    return response


@pytest.mark.parametrize(("line", "status", "reason"), [
    (b"HTTP/1.1 200 OK", 200, "OK"), (b"HTTP/1.1 200", 200, ""), (b"HTTP/1.1 200 ", 200, ""), (b"HTTP/1.1 200  OK\t", 200, " OK\t"),
    (b"HTTP/1.1 500 Ori\xebntatie", 500, "Ori\xebntatie"), (b"HTTP/1.0 999 x", 999, "x"), (b"HTTP/1.1 100 Continue", 100, "Continue")])
def test_status_lines(leaf: Any, line: bytes, status: int, reason: str) -> None:
    raw = head(line, b"A: b")
    response = parse(leaf, raw + b"body")
    assert (response.status, response.reason, response.minor) == (status, reason, line[7] - 48)
    assert (response.size, response.get(b"a"), response.fields()) == (len(raw), b"b", [(b"A", b"b")])


@pytest.mark.parametrize(("line", "why"), [
    (b"HTTP/2.0 200 OK", "unsupported HTTP version"), (b"HTTP/0.9 200 OK", "unsupported HTTP version"),
    (b"HTTP/1.1200 OK", "unsupported HTTP version"), (b"HTTP/1.1\t200 OK", "unsupported HTTP version"),
    (b"HTTP/01.1 200 OK", "malformed status line"), (b"HTTP/1.01 200 OK", "unsupported HTTP version"),
    (b"HTP/1.1 200 OK", "malformed status line"), (b"http/1.1 200 OK", "malformed status line"),
    (b"HTTP/1.1  200 OK", "malformed status line"), (b"HTTP/1.1 20 OK", "malformed status line"),
    (b"HTTP/1.1 2000", "malformed status line"), (b"HTTP/1.1 099 x", "malformed status line"),
    (b"HTTP/1.1 200\tOK", "malformed status line"), (b"HTTP/1.1 200 \x01", "malformed status line"),
    (b"HTTP/1.1 2\xb20 OK", "malformed status line"), (b"HTTP/1.1 200 O\nK", "bare LF in a head"),
    (b"HTTP/1.1 200 O\rK", "bare CR in a head"), (b"HTTP/1.1 200 \0", "NUL in a head"), (b"", "malformed status line")])
def test_status_lines_refused(leaf: Any, line: bytes, why: str) -> None:
    assert refusal(leaf.parse_response, head(line, b"A: b"), False, MAX_HEAD, MAX_FIELDS) == (502, why)


@pytest.mark.parametrize(("status", "fields", "length", "kept"), [
    (b"200", (b"Content-Length: 5",), 5, True), (b"200", (b"Content-Length: 0",), 0, True), (b"200", (), -2, False),
    (b"200", (b"Transfer-Encoding: Chunked",), -1, True), (b"204", (), 0, True), (b"304", (b"Content-Length: 5",), 0, True),
    (b"304", (b"Transfer-Encoding: chunked",), 0, True), (b"100", (), 0, True), (b"103", (b"Link: x",), 0, True),
    (b"204", (b"Content-Length: 0",), 0, True),
    # a body that must not be there may come all the same: the channel is not used again
    (b"204", (b"Content-Length: 5",), 0, False), (b"204", (b"Transfer-Encoding: chunked",), 0, False), (b"100", (b"Content-Length: 5",), 0, False)])
def test_bodies(leaf: Any, status: bytes, fields: tuple[bytes, ...], length: int, kept: bool) -> None:
    response = parse(leaf, head(b"HTTP/1.1 " + status, *fields))
    assert (response.length, response.keep_alive) == (length, kept)
    assert parse(leaf, head(b"HTTP/1.1 " + status, *fields), head_request=True).length == 0
    closing = parse(leaf, head(b"HTTP/1.1 " + status, *fields, b"Connection: x, Close"))
    assert (closing.length, closing.keep_alive) == (length, False)


def test_http_1_0(leaf: Any) -> None:
    old = b"HTTP/1.0 200 OK"
    assert not parse(leaf, head(old, b"Content-Length: 1")).keep_alive
    assert parse(leaf, head(old, b"Content-Length: 1", b"Connection: keep-alive")).keep_alive
    assert not parse(leaf, head(old, b"Connection: keep-alive")).keep_alive


@pytest.mark.parametrize(("version", "fields", "why"), [
    (b"1", (b"Content-Length: 1", b"Transfer-Encoding: chunked"), "both Content-Length and Transfer-Encoding"),
    (b"1", (b"Content-Length: 1", b"Content-Length: 1"), "several Content-Length fields"),
    (b"1", (b"Content-Length: 1, 1",), "malformed Content-Length"), (b"1", (b"Content-Length: -1",), "malformed Content-Length"),
    (b"1", (b"Content-Length: 9223372036854775808",), "Content-Length out of range"),
    (b"1", (b"Transfer-Encoding: gzip, chunked",), "unknown transfer coding"), (b"1", (b"Transfer-Encoding: identity",), "unknown transfer coding"),
    (b"1", (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "unknown transfer coding"),
    (b"0", (b"Transfer-Encoding: chunked",), "Transfer-Encoding in HTTP/1.0")])
@pytest.mark.parametrize("status", [b"200", b"204", b"304", b"100"])
def test_framing_refused(leaf: Any, version: bytes, fields: tuple[bytes, ...], why: str, status: bytes) -> None:
    raw = head(b"HTTP/1." + version + b" " + status, *fields)
    for head_request in (False, True):
        assert refusal(leaf.parse_response, raw, head_request, MAX_HEAD, MAX_FIELDS) == (502, why)


def test_upgrade(leaf: Any) -> None:
    assert parse(leaf, head(b"HTTP/1.1 101 x", b"Connection: Upgrade", b"Upgrade: websocket")).upgrade == "websocket"
    assert parse(leaf, head(b"HTTP/1.1 101 x", b"Upgrade: websocket")).upgrade is None


def test_limits(leaf: Any) -> None:
    raw = head(b"HTTP/1.1 200 OK", b"A: b", b"C: d")
    assert leaf.parse_response(raw, False, len(raw), 2) is not None
    assert refusal(leaf.parse_response, raw, False, len(raw) - 1, 2) == (502, "head too large")
    assert refusal(leaf.parse_response, raw, False, len(raw), 1) == (502, "too many fields")
    assert refusal(leaf.parse_response, raw[:-1], False, len(raw) - 2, 2) == (502, "head too large")


def test_incomplete_heads(leaf: Any) -> None:
    raw = head(b"HTTP/1.1 200 OK", b"Content-Length: 5", b"A: \xe9")
    for end in range(len(raw)):
        assert leaf.parse_response(raw[:end], False, MAX_HEAD, MAX_FIELDS) is None
    for bad in (b"HTTX", b"\r", b"\r\n", b"GET / HTTP/1.1", b"HTTP/1.1 200 OK\r\nA: b\nC", b"HTTP/1.1 200 OK\r\nA : b\r\n"):
        if bad == b"\r":
            continue  # a CR alone at the end may still get its LF
        assert refusal(leaf.parse_response, bad, False, MAX_HEAD, MAX_FIELDS)[0] == 502
