"""Heads that come in pieces: `find_head_end` finds the same end, refuses nothing that is good, and costs no square."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from leaf_messages import (
    MAX_FIELDS,
    MAX_HEAD,
    by_byte,
    collect,
    cut,
    get,
    head,
    read_request,
    refusal,
    request_values,
    requests,
)

STEADY = settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@STEADY
@given(data=st.data())
def test_pieces_make_no_difference(leaf: Any, data: st.DataObject) -> None:
    raw = data.draw(requests())
    whole = read_request(leaf, raw)
    for pieces in (data.draw(cut(raw)), by_byte(raw[:600])):
        got = collect(leaf, pieces)
        if whole is None:
            assert got is None or isinstance(got, tuple)  # what is refused early would be refused in the end
        elif isinstance(whole, tuple):
            assert got is None or isinstance(got, tuple)
            assert got is not None or b"\r\n\r\n" not in b"".join(pieces).lstrip(b"\r\n")
        else:
            assert request_values(leaf, got) == whole


@STEADY
@given(raw=requests())
def test_nothing_good_is_refused_early(leaf: Any, raw: bytes) -> None:
    whole = read_request(leaf, raw)
    if isinstance(whole, dict):
        for end in range(min(len(raw), 400)):
            assert not isinstance(read_request(leaf, raw[:end]), tuple)
            if end <= whole["size"]:  # behind the end nobody asks any more
                leaf.find_head_end(raw[:end], max(0, end - 1))


def test_the_end(leaf: Any) -> None:
    raw = b"\r\n" + get(b"A: b")
    for make in (bytes, bytearray):
        assert leaf.find_head_end(make(raw + b"\0\r\n\r\n"), 0) == len(raw)
        assert leaf.find_head_end(make(raw), len(raw) - 1) == len(raw)
        assert leaf.find_head_end(make(raw[:-1]), 0) == -1
        assert leaf.find_head_end(make(), 0) == -1
    response = head(b"HTTP/1.1 200 OK", b"A: b")
    assert leaf.find_head_end(response, 0) == len(response)


@pytest.mark.parametrize(("raw", "status"), [
    (b"\x16\x03\x01\x02", 400), (b"GET / HTTP/1.1\n", 400), (b"GET / HTTP/3.0\r\n", 505), (b"GET x HTTP/1.1\r\n", 400),
    (b"CONNECT a:1 HTTP/1.1\r\n", 405), (b"M" * 33, 400), (b" ", 400), (b"GET /" + b"a" * 17000, 414), (b"GET / HTTP/1.1\r\nA: \0", 400),
    (b"GET / HTTP/1.1\r\nA\rB", 400), (b"GET / HTTP/1.1\r\nA\nB", 400), (b"\r\n" * 5, 400), (b"GET /\0", 400), (b"GET /\rX", 400)])
def test_refused_before_the_end(leaf: Any, raw: bytes, status: int) -> None:
    assert refusal(leaf.find_head_end, raw, 0)[0] == status
    got = collect(leaf, by_byte(raw))
    assert isinstance(got, tuple) and got[0] == status
    assert refusal(leaf.parse_request, raw, MAX_HEAD, MAX_FIELDS)[0] == status


def test_a_line_end_split_over_two_reads(leaf: Any) -> None:
    raw = get(b"A: b")
    for at in (at for at in range(len(raw)) if raw[at] == 13):
        assert leaf.find_head_end(raw[:at + 1], 0) == -1
        assert leaf.find_head_end(raw[:at + 2], at + 1) in (-1, len(raw))
        assert refusal(leaf.find_head_end, raw[:at + 1] + b"x", at + 1) == (400, "bare CR in a head")
        assert refusal(leaf.find_head_end, raw[:at] + b"\n", at) == (400, "bare LF in a head")


def test_many_pieces_cost_what_one_costs(leaf: Any) -> None:
    """Counted in bytes looked at: what lies before `start` may be anything, so it was not looked at again."""
    bad = b"GET / HTTP/1.1\r\n" + b"\n\0\r" * 20
    assert leaf.find_head_end(bad + b"A: b", len(bad) + 1) == -1
