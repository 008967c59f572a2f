"""The chunked decoder: strict, and the same whatever pieces the bytes come in."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from leaf_messages import by_byte, chunked_bodies, cut, feed


@pytest.mark.parametrize(("raw", "payload", "behind", "trailers"), [
    (b"0\r\n\r\n", b"", b"", b""), (b"5\r\nhello\r\n0\r\n\r\nGET", b"hello", b"GET", b""),
    (b"a;x\r\n0123456789\r\n0B;a=b;c=\"d;\\\"\"\r\n0123456789A\r\n000;y=1\r\n\r\n", b"01234567890123456789A", b"", b""),
    (b"0000000000000001\r\n\n\r\n0\r\n\r\n", b"\n", b"", b""),
    (b"0\r\nX-Sum:  1 \r\nHost: x\r\nContent-Length: 5\r\ngrpc-status: 0\r\n\r\n\r\n", b"", b"\r\n", b"X-Sum: 1\r\ngrpc-status: 0\r\n")])
def test_bodies(leaf: Any, raw: bytes, payload: bytes, behind: bytes, trailers: bytes) -> None:
    want = (payload, True, behind, trailers)
    assert feed(leaf, [raw]) == want
    assert feed(leaf, by_byte(raw)) == want


@pytest.mark.parametrize("name", [
    b"Transfer-Encoding", b"Content-Length", b"Host", b"Authorization", b"Cookie", b"Set-Cookie", b"Content-Type", b"Content-Encoding",
    b"Content-Range", b"Connection", b"TE", b"Trailer", b"Upgrade", b"Expect", b"Range", b"If-Match", b"Cache-Control", b"X-Forwarded-For",
    b"x-real-ip", b"Forwarded", b"Proxy-Authorization", b"WWW-Authenticate", b"content_length", b"TRANSFER_encoding", b"Location"])
def test_what_may_not_be_a_trailer_is_dropped(leaf: Any, name: bytes) -> None:
    assert feed(leaf, [b"0\r\nA: b\r\n" + name + b": x\r\nC: d\r\n\r\n"]) == (b"", True, b"", b"A: b\r\nC: d\r\n")


@pytest.mark.parametrize(("raw", "why"), [
    (b"\r\n", "malformed chunk size"), (b"x\r\n", "malformed chunk size"), (b"+5\r\n", "malformed chunk size"),
    (b"-1\r\n", "malformed chunk size"), (b"0x5\r\n", "malformed chunk size"), (b"1_0\r\n", "malformed chunk size"),
    (b" 5\r\n", "malformed chunk size"), (b"5 \r\n", "malformed chunk size"), (b"5\t;a\r\n", "malformed chunk size"),
    (b"00000000000000001\r\n", "malformed chunk size"), (b"FFFFFFFFFFFFFFFF0\r\n", "malformed chunk size"),
    (b"8000000000000000\r\n", "chunk size out of range"), (b"5;\r\n", "malformed chunk extension"),
    (b"5;a=\r\n", "malformed chunk extension"), (b"5; a\r\n", "malformed chunk extension"), (b"5;a =b\r\n", "malformed chunk extension"),
    (b"5;a=\"b\r\n", "malformed chunk extension"), (b"5;a=\"\x01\"\r\n", "malformed chunk extension"),
    (b"5;a=\"b\"c\r\n", "malformed chunk extension"), (b"5;a[=b\r\n", "malformed chunk extension"), (b"5;\0a\r\n", "malformed chunk extension"),
    (b"5\n", "bare LF in chunked framing"), (b"5;\nhello", "bare LF in chunked framing"), (b"5\r\r\n", "bare CR in chunked framing"),
    (b"5;a\rX\r\n", "bare CR in chunked framing"), (b"5\rhello\r\n", "bare CR in chunked framing"),
    (b"5\r\nhello0", "missing CRLF after chunk data"), (b"5\r\nhello\n", "missing CRLF after chunk data"),
    (b"5\r\nhello\r0", "missing CRLF after chunk data"), (b"0\r\n\n", "bare LF in chunked framing"),
    (b"0\r\nA: b\nC: d\r\n", "bare LF in chunked framing"), (b"0\r\nA : b\r\n", "white space before the colon"),
    (b"0\r\n A: b\r\n", "folded field line"), (b"0\r\nGET / HTTP/1.1\r\n", "field line without a colon"),
    (b"0\r\nA: \0\r\n", "NUL in a head"), (b"5" + b";a" * 512, "chunk line too long"), (b"0" * 1030, "chunk line too long"),
    (b"0\r\n" + b"A: b\r\n" * 700, "trailers too large"), (b"0\r\nA: " + b"b" * 5000, "trailers too large")])
def test_refused(leaf: Any, raw: bytes, why: str) -> None:
    assert feed(leaf, [raw]) == (400, why)
    assert feed(leaf, by_byte(raw)) == (400, why)
    assert feed(leaf, [b"1\r\na\r\n" + raw]) == (400, why)


def test_what_was_consumed(leaf: Any) -> None:
    decoder = leaf.ChunkDecoder(100)
    assert (decoder.done, decoder.consumed, decoder.trailers) == (False, 0, b"")
    assert (decoder.feed(b"a\r\n01234"), decoder.consumed) == (b"01234", 8)
    data = b"5678"
    assert decoder.feed(data) is data  # nothing but payload is passed on as it is
    assert (decoder.feed(b"9\r\n0\r\n\r\nGET"), decoder.consumed, decoder.done) == (b"9", 8, True)
    assert (decoder.feed(b"x"), decoder.consumed) == (b"", 0)
    assert leaf.ChunkDecoder(100).feed(b"") == b""


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_pieces_make_no_difference(leaf: Any, data: st.DataObject) -> None:
    raw = data.draw(chunked_bodies())
    whole = feed(leaf, [raw])
    assert feed(leaf, data.draw(cut(raw))) == whole
    assert feed(leaf, by_byte(raw)) == whole
