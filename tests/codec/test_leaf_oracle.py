"""h11 as oracle: what we accept, h11 accepts and reads in the same way; whatever we send on, it reads as we mean it.

Exceptions, each with its reason:
* empty lines before a request: h11 takes none; RFC 9112 §2.2 asks a server to pass over at least one;
* bytes above 0x7f in a target: h11 refuses them; they do not blur where a message ends, and every peer passes them on;
* framing fields among trailers: h11 wants good ones; we drop them all.
"""
from __future__ import annotations

import re
from typing import Any

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from leaf_messages import MAX_FIELDS, MAX_HEAD, chunked_bodies, feed, outbound, requests, responses

STEADY = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
BIG = 1 << 20


def server_reads(raw: bytes) -> h11.Request:
    """The request h11 finds in `raw`. Raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=BIG)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request), event
    return event


def client_reads(raw: bytes, method: bytes = b"GET") -> tuple[h11.Connection, Any]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=BIG)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    if method != b"CONNECT":
        connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    return connection, connection.next_event()


def body_length(headers: Any) -> int:
    """As h11 understood it."""
    fields = dict(headers)
    return -1 if b"transfer-encoding" in fields else int(fields.get(b"content-length", 0))


def accepted(leaf: Any, raw: bytes) -> Any:
    try:
        return leaf.parse_request(raw, MAX_HEAD, MAX_FIELDS)
    except ValueError:
        return None


def pairs(message: Any) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in message.fields()]


@STEADY
@given(raw=requests())
def test_requests(leaf: Any, raw: bytes) -> None:
    request = accepted(leaf, raw)
    if request is None:
        return
    start = raw[:request.size].lstrip(b"\r\n")
    line = start.split(b"\r\n", 1)[0]
    if line.isascii():
        seen = server_reads(start)
        assert (seen.method, seen.target) == tuple(line.split(b" ")[:2])
        assert seen.method.decode() == request.method and seen.http_version == b"1.%d" % request.minor
        got = [(name, value) for name, value in seen.headers if name not in (b"transfer-encoding", b"content-length")]
        assert got == [(name, value) for name, value in pairs(request) if name not in (b"transfer-encoding", b"content-length")]
        assert body_length(seen.headers) == request.length
    for trusted in (False, True):
        onward = outbound(leaf, request, trusted, b"/x")
        seen = server_reads(onward)
        assert body_length(seen.headers) == request.length
        assert [name for name, _ in seen.headers].count(b"host") == 1
        again = leaf.parse_request(onward if request.host else onward.replace(b"Host: \r\n", b"Host: a\r\n", 1), BIG, BIG)
        assert (again.length, again.minor, again.method, again.upgrade) == (request.length, 1, request.method, request.upgrade)


@STEADY
@given(raw=responses(), method=st.sampled_from([b"GET", b"HEAD"]))
def test_responses(leaf: Any, raw: bytes, method: bytes) -> None:
    try:
        response = leaf.parse_response(raw, method == b"HEAD", MAX_HEAD, MAX_FIELDS)
    except ValueError:
        return
    if response is None or response.status == 101:  # h11 has to have asked for the upgrade
        return
    connection, seen = client_reads(raw[:response.size], method)
    assert seen.status_code == response.status and seen.http_version == b"1.%d" % response.minor
    assert [name for name, _ in seen.headers] == [name for name, _ in pairs(response)]
    if response.status >= 200:
        following = connection.next_event()
        assert isinstance(following, h11.EndOfMessage) == (response.length == 0)
    for close in (False, True):
        onward = response.inbound(1, close, None)
        _, seen = client_reads(onward, method)
        assert seen.status_code == response.status and bytes(seen.reason) == response.reason.encode("latin-1")


@STEADY
@given(raw=chunked_bodies())
def test_chunked_bodies(leaf: Any, raw: bytes) -> None:
    got = feed(leaf, [raw])
    if len(got) != 4 or not got[1] or re.search(rb"(?im)^(content-length|transfer-encoding):", raw):
        return
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=BIG)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    payload, event = b"", connection.next_event()
    while not isinstance(event, h11.EndOfMessage):
        assert isinstance(event, h11.Request | h11.Data), event
        payload += event.data if isinstance(event, h11.Data) else b""
        event = connection.next_event()
    assert (payload, connection.trailing_data[0]) == (got[0], got[2])
    ours = [tuple(line.split(b": ", 1)) for line in got[3].split(b"\r\n")[:-1]]
    theirs = list(event.headers)
    assert all((name.lower(), value) in theirs for name, value in ours)
