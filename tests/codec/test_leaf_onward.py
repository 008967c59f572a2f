"""The heads that the proxy writes: what an endpoint and a client are sent for what the other side said."""
from __future__ import annotations

from typing import Any

import pytest
from leaf_messages import MAX_FIELDS, MAX_HEAD, get, head, outbound, refusal


def sent(leaf: Any, raw: bytes, **changes: Any) -> list[bytes]:
    """The lines of the request an endpoint gets."""
    request = leaf.parse_request(raw, MAX_HEAD, MAX_FIELDS)
    out = outbound(leaf, request, **changes)
    assert out.endswith(b"\r\n\r\n") and out.count(b"\r\n\r\n") == 1
    return out[:-4].split(b"\r\n")


def answered(leaf: Any, raw: bytes, minor: int = 1, close: bool = False, edits: Any = None, head_request: bool = False) -> list[bytes]:
    """The lines of the response a client gets."""
    response = leaf.parse_response(raw, head_request, MAX_HEAD, MAX_FIELDS)
    out: bytes = response.inbound(minor, close, edits)
    assert out.endswith(b"\r\n\r\n") and out.count(b"\r\n\r\n") == 1
    return out[:-4].split(b"\r\n")


ADDED = [b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Proto: http", b"X-Forwarded-Port: 8080", b"X-Forwarded-Host: a.example",
         b"X-Request-Id: the-id", b"Via: 1.1 edgeproxy"]


def test_a_request_goes_on(leaf: Any) -> None:
    lines = sent(leaf, get(b"accept:a", b"X-Empty:", b"Cookie: a", b"X_Forwarded_For: kept", b"traceparent: 00-1", target=b"/x/../y?z"))
    assert lines == [b"GET /x/../y?z HTTP/1.1", b"Host: a.example", b"accept: a", b"X-Empty: ", b"Cookie: a", b"X_Forwarded_For: kept",
                     b"traceparent: 00-1", *ADDED]


def test_hop_by_hop_fields_stay_behind(leaf: Any) -> None:
    lines = sent(leaf, get(b"Keep-Alive: 5", b"Proxy-Connection: x", b"Proxy-Authenticate: x", b"Proxy-Authorization: x", b"TE: gzip",
                           b"Upgrade: x", b"HTTP2-Settings: x", b"Trailer: x", b"X-Request-Id: theirs", b"Expect: 100-continue",
                           b"connection: close, X-A, host, authorization, x-forwarded-proto, content-length, via",
                           b"X-a: 1", b"Authorization: me", b"Content-Length: 007", b"Close: x", b"Via: 1.1 before"))
    assert lines == [b"GET / HTTP/1.1", b"Host: a.example", b"Expect: 100-continue", b"Authorization: me", b"Content-Length: 7", *ADDED]


def test_framing_is_written_anew(leaf: Any) -> None:
    lines = sent(leaf, get(b"Transfer-Encoding:\tCHUNKED ", b"Trailer: x-sum"))
    assert lines[2:4] == [b"Trailer: x-sum", b"Transfer-Encoding: chunked"]
    assert b"Content-Length: 0" in sent(leaf, get(b"Content-Length: 000"))


def test_an_upgrade_is_rebuilt(leaf: Any) -> None:
    fields = b"Connection: keep-alive, Upgrade", b"Upgrade: h2c, websocket", b"TE: trailers"
    assert sent(leaf, get(*fields))[2:5] == [b"Connection: Upgrade, TE", b"Upgrade: websocket", b"TE: trailers"]
    assert sent(leaf, get(*fields[:2]))[2:4] == [b"Connection: Upgrade", b"Upgrade: websocket"]
    assert sent(leaf, get(fields[2]))[2:4] == [b"Connection: TE", b"TE: trailers"]


def test_a_request_of_http_1_0(leaf: Any) -> None:
    lines = sent(leaf, head(b"PUT / HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 1", b"TE: trailers", b"Connection: upgrade",
                            b"Upgrade: x"))
    assert lines == [b"PUT / HTTP/1.1", b"Host: ", b"Content-Length: 1", *ADDED[:3], ADDED[4], b"Via: 1.0 edgeproxy"]
    assert sent(leaf, head(b"GET / HTTP/1.0"), host=b"b.example")[1] == b"Host: b.example"
    assert sent(leaf, head(b"GET http://c.example HTTP/1.0"))[:2] == [b"GET / HTTP/1.1", b"Host: c.example"]


def test_target_and_host_can_be_replaced(leaf: Any) -> None:
    lines = sent(leaf, get(b"A: b", target=b"http://a.example/old"), target=b"/new?x", host=b"b.example:81")
    assert lines == [b"GET /new?x HTTP/1.1", b"Host: b.example:81", b"A: b", *ADDED]
    request = leaf.parse_request(get(), MAX_HEAD, MAX_FIELDS)
    for target in (b"", b"/a b", b"/a\r\nX: y", b"/#"):
        assert refusal(outbound, leaf, request, False, target) == (500, "the new target cannot be sent")
    assert refusal(outbound, leaf, request, False, None, b"a\r\nX: y") == (500, "cannot be sent as a field")


THEIRS = b"X-Forwarded-For: 1", b"Forwarded: for=1", b"x-forwarded-proto: https", b"X-Real-Ip: 1", b"X-Forwarded-For: 2", b"X-Forwarded-Foo: 1"


def test_an_untrusted_client_vouches_for_nothing(leaf: Any) -> None:
    assert sent(leaf, get(*THEIRS)) == [b"GET / HTTP/1.1", b"Host: a.example", *ADDED]


def test_a_trusted_peer_is_believed(leaf: Any) -> None:
    assert sent(leaf, get(*THEIRS), trusted=True) == [
        b"GET / HTTP/1.1", b"Host: a.example", THEIRS[1], THEIRS[2], THEIRS[3], THEIRS[5], b"X-Forwarded-For: 1, 2, 192.0.2.7", *ADDED[2:]]
    assert sent(leaf, get(), trusted=True) == [b"GET / HTTP/1.1", b"Host: a.example", *ADDED]


def test_what_is_not_known_is_not_forwarded(leaf: Any) -> None:
    for trusted in (False, True):
        request = leaf.parse_request(head(b"GET / HTTP/1.0"), MAX_HEAD, MAX_FIELDS)
        forward = leaf.Forward(b"", b"", b"", trusted)
        assert forward.trusted is trusted
        for _ in range(2):  # what is made once per connection is not used up
            out = request.outbound(forward, b"i", None, None, None)
            assert out == b"GET / HTTP/1.1\r\nHost: \r\nX-Request-Id: i\r\nVia: 1.0 edgeproxy\r\n\r\n"
    for bad in ((b"a\r\nb", b"http", b"80"), (b"a", b"\0", b"80"), (b"a", b"http", b"8\n0")):
        assert refusal(leaf.Forward, *bad, False) == (500, "cannot be sent as a field")


def test_edits_come_last(leaf: Any) -> None:
    edits = leaf.Edits([(b"x-set", b" 1 "), (b"X-Request-Id", b"mine")], [(b"X-Add", b"2"), (b"X-Set", b"3")], [b"X-GONE", b"via"])
    lines = sent(leaf, get(b"X-Set: 0", b"X-Gone: 0", b"X-Add: 1", b"Via: 1.1 before"), edits=edits)
    assert lines == [b"GET / HTTP/1.1", b"Host: a.example", b"X-Add: 1", *ADDED[:4], b"x-set: 1", b"X-Request-Id: mine", b"X-Add: 2",
                     b"X-Set: 3"]


def test_edits_leave_framing_alone(leaf: Any) -> None:
    names = [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"TE", b"Trailer", b"Expect", b"Keep-Alive"]
    pairs = [(name, b"x") for name in names]
    edits = leaf.Edits(pairs, pairs, names)
    raw = get(b"Content-Length: 1", b"Expect: 100-continue", b"Connection: Upgrade", b"Upgrade: x")
    assert sent(leaf, raw, edits=edits) == sent(leaf, raw)
    raw = head(b"HTTP/1.1 200 OK", b"Content-Length: 1")
    assert answered(leaf, raw, edits=edits) == answered(leaf, raw)


# ---- to the client ---------------------------------------------------------------------------------------------

def test_a_response_goes_on(leaf: Any) -> None:
    raw = head(b"HTTP/1.1 200 Fine \xe9", b"server:s", b"Content-Length: 007", b"Connection: keep-alive, X-A", b"X-A: 1", b"Keep-Alive: 5",
               b"Proxy-Authenticate: x", b"Upgrade: x", b"Trailer: y", b"Set-Cookie: a", b"Set-Cookie: b")
    assert answered(leaf, raw) == [b"HTTP/1.1 200 Fine \xe9", b"server: s", b"Set-Cookie: a", b"Set-Cookie: b", b"Content-Length: 7"]
    assert answered(leaf, raw, minor=0)[-1] == b"Connection: keep-alive"
    assert answered(leaf, raw, close=True)[-1] == b"Connection: close"
    edits = leaf.Edits([(b"Server", b"mine")], [], [b"set-cookie"])
    assert answered(leaf, raw, edits=edits)[1:] == [b"Content-Length: 7", b"Server: mine"]


@pytest.mark.parametrize("raw", [head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"Trailer: t"), head(b"HTTP/1.0 200 OK", b"Trailer: t")])
def test_a_body_of_unknown_length(leaf: Any, raw: bytes) -> None:
    chunked = b"chunked" in raw
    assert answered(leaf, raw)[1:] == [*[b"Trailer: t"] * chunked, b"Transfer-Encoding: chunked"]
    assert answered(leaf, raw, minor=0)[1:] == [b"Connection: close"]


@pytest.mark.parametrize(("status", "fields", "lines"), [
    (b"204 No Content", (b"Content-Length: 5",), []), (b"304 Not Modified", (b"Content-Length: 5",), [b"Content-Length: 5"]),
    (b"304 Not Modified", (b"Transfer-Encoding: chunked",), []), (b"100 Continue", (b"Connection: close", b"A: b"), [b"A: b"]),
    (b"101 Switching", (b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 0"),
     [b"Connection: Upgrade", b"Upgrade: websocket"]), (b"426 Upgrade Required", (b"Connection: Upgrade", b"Upgrade: a/1", b"Content-Length: 0"),
                                                        [b"Content-Length: 0", b"Upgrade: a/1", b"Connection: Upgrade"])])
def test_responses_without_a_body(leaf: Any, status: bytes, fields: tuple[bytes, ...], lines: list[bytes]) -> None:
    assert answered(leaf, head(b"HTTP/1.1 " + status, *fields)) == [b"HTTP/1.1 " + status, *lines]


def test_the_answer_to_head_keeps_its_length(leaf: Any) -> None:
    assert answered(leaf, head(b"HTTP/1.1 200", b"Content-Length: 5"), head_request=True) == [b"HTTP/1.1 200 ", b"Content-Length: 5"]
    assert answered(leaf, head(b"HTTP/1.1 200", b"Transfer-Encoding: chunked"), head_request=True) == [b"HTTP/1.1 200 "]
