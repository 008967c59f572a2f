"""The native leaf functions and their Python twin agree on everything: values, bytes written, status and message."""
from __future__ import annotations

import importlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leaf_messages import chunked_bodies, cut, feed, read_request, read_response, requests, responses

native: Any = pytest.importorskip("edgeproxy.codec._native", reason="the native codec is not built")
pure: Any = importlib.import_module("edgeproxy.codec._pure")
headers: Any = importlib.import_module("edgeproxy.codec.headers")


@settings(max_examples=600)
@given(requests())
def test_requests(raw: bytes) -> None:
    assert read_request(native, raw) == read_request(pure, raw)


@settings(max_examples=150)
@given(requests(), st.integers(10, 120), st.integers(0, 6))
def test_requests_near_the_limits(raw: bytes, max_head: int, max_fields: int) -> None:
    assert read_request(native, raw, max_head, max_fields) == read_request(pure, raw, max_head, max_fields)


@settings(max_examples=400)
@given(responses(), st.booleans())
def test_responses(raw: bytes, head_request: bool) -> None:
    assert read_response(native, raw, head_request) == read_response(pure, raw, head_request)


@settings(max_examples=100)
@given(responses(), st.integers(10, 80), st.integers(0, 6))
def test_responses_near_the_limits(raw: bytes, max_head: int, max_fields: int) -> None:
    assert read_response(native, raw, False, max_head, max_fields) == read_response(pure, raw, False, max_head, max_fields)


def end_of_head(leaf: Any, data: bytes, start: int) -> Any:
    try:
        return leaf.find_head_end(data, start)
    except ValueError as why:
        return why.args


@settings(max_examples=300)
@given(st.one_of(requests(), responses()), st.integers(0, 200))
def test_where_heads_end(raw: bytes, start: int) -> None:
    start = min(start, len(raw))
    assert end_of_head(native, raw, start) == end_of_head(pure, raw, start)


@settings(max_examples=400)
@given(st.data())
def test_chunked_bodies(data: st.DataObject) -> None:
    raw = data.draw(chunked_bodies())
    limit = data.draw(st.sampled_from([4096, 4096, 30, 2]))
    pieces = data.draw(cut(raw))
    assert feed(native, pieces, limit) == feed(pure, pieces, limit)


@pytest.mark.parametrize("length", [16383, 16384, 16385, 16448, 16449, 16600, 20000])
@pytest.mark.parametrize("line", [b"GET /%b HTTP/1.1", b"GET /%b", b"GET /%b HTTP/1.1 x", b"GET /%b HTTP/9.1", b"/%b", b"GET /%b\n HTTP/1.1"])
@pytest.mark.parametrize("end", [b"\r\nHost: a\r\n\r\n", b"\r\n", b"\r", b""])
def test_long_targets(length: int, line: bytes, end: bytes) -> None:
    raw = line % (b"a" * (length - 1)) + end
    assert read_request(native, raw) == read_request(pure, raw)
    for start in (0, 20, 16400, len(raw)):
        assert end_of_head(native, raw, start) == end_of_head(pure, raw, start)


@pytest.mark.parametrize("name", sorted(headers.HOP_BY_HOP | headers.NO_TRAILER | headers.NEVER_NOMINATED | headers.UNTRUSTED_DROP
                                        | set(headers.KNOWN.values()) | {b"content-digest", b"content-foo", b"if-x", b"x-forwarded-y"}))
def test_every_name_in_the_tables(name: bytes) -> None:
    """As a field, as a nominated field, in edits, as a trailer, and with `_` for `-`."""
    for spelled in {name, name.title(), name.replace(b"-", b"_")}:
        for extra in (b"", b"Connection: " + spelled + b"\r\n"):
            line = spelled + b": 1\r\n" + extra
            raw = b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n"
            assert read_request(native, raw) == read_request(pure, raw)
            raw = b"HTTP/1.1 200 OK\r\n" + line + b"\r\n"
            assert read_response(native, raw) == read_response(pure, raw)
        body = b"0\r\n" + spelled + b": 1\r\n\r\n"
        assert feed(native, [body]) == feed(pure, [body])
        raw = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nA: b\r\n" + spelled + b": 2\r\n\r\n"
        results = []
        for leaf in (native, pure):
            edits = leaf.Edits([(spelled, b"s")], [(spelled, b" a ")], [spelled])
            results.append(leaf.parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n" + spelled + b": 2\r\n\r\n", 999, 9)
                           .outbound(leaf.Forward(b"p", b"http", b"1", True), b"i", None, None, edits)
                           if name not in (b"host", b"expect", b"content-length", b"transfer-encoding") else b"")
            results.append(leaf.parse_response(raw, False, 999, 9).inbound(1, True, edits)
                           if name not in (b"content-length", b"transfer-encoding") else b"")
        assert results[:2] == results[2:]


@pytest.mark.parametrize("pair", [(b"", b"x"), (b"a b", b"x"), (b"a:b", b"x"), (b"a", b"x\r\ny"), (b"a", b"\0"), (b"\xe9", b"")])
def test_what_cannot_be_sent(pair: tuple[bytes, bytes]) -> None:
    for leaf in (native, pure):
        for arguments in (([pair], [], []), ([], [pair], [])):
            with pytest.raises(ValueError, match="cannot be sent as a field") as caught:
                leaf.Edits(*arguments)
            assert caught.value.args[0] == 500
