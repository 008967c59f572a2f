"""Messages as a connection reads them: heads and bodies under all splits, what follows them, limits, cost."""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.codec import h1
from edgeproxy.codec.h1 import RequestDecoder, ResponseDecoder, encode_chunk, encode_last_chunk
from edgeproxy.errors import Kind, ProxyError

GET = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (b"PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
           b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n")
STREAM = GET + POST + b"\r\n" + CHUNKED + POST + GET


class Seen(NamedTuple):
    start: str
    body: bytes
    trailers: bytes


SEEN = [Seen("/a?b=c", b"", b""), Seen("/p", b"hello world", b""), Seen("/c", b"hello world", b"X-Sum: 1\r\n"),
        Seen("/p", b"hello world", b""), Seen("/a?b=c", b"", b"")]


def requests(pieces: Iterator[bytes]) -> list[Seen]:
    """What a connection makes of `pieces`: the rest behind a message is looked at before more is read."""
    decoder = RequestDecoder(65536, 100)
    seen: list[Seen] = []
    start: str | None = None
    body = b""
    for piece in pieces:
        data = piece
        while data:
            if start is None:
                head = decoder.head(data)
                if head is None:
                    break
                start, body = head.target, decoder.payload
            else:
                body += decoder.body(data)
            if not decoder.done:
                break
            seen.append(Seen(start, body, decoder.trailers))
            start = None
            data = decoder.next()
    assert start is None
    return seen


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cuts), len(data)]
    return (data[a:b] for a, b in zip(edges, edges[1:], strict=False) if a < b)


def test_requests_in_one_piece() -> None:
    assert requests(iter((STREAM,))) == SEEN


def test_requests_byte_by_byte() -> None:
    assert requests(STREAM[i:i + 1] for i in range(len(STREAM))) == SEEN


def test_requests_cut_once_anywhere() -> None:
    for at in range(1, len(STREAM)):
        assert requests(iter((STREAM[:at], STREAM[at:]))) == SEEN, at


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_requests_cut_at_random(cuts: list[int]) -> None:
    assert requests(split(STREAM, cuts)) == SEEN


RESPONSES = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    "none": (b"HTTP/1.1 204 No\r\n\r\n", b""),
    "zero": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", b""),
}


def ended(decoder: RequestDecoder | ResponseDecoder) -> bool:
    """`done`, which a type checker would not believe to change."""
    return decoder.done


def response(pieces: Iterator[bytes], head_request: bool = False) -> tuple[int, bytes, bool, bytes]:
    """(status, body, done, rest)."""
    decoder = ResponseDecoder(65536, 100)
    decoder.head_request = head_request
    status, body, rest = 0, b"", b""
    for piece in pieces:
        if ended(decoder):
            rest += piece
        elif not status:
            head = decoder.head(piece)
            if head is not None:
                status, body, rest = head.status, decoder.payload, decoder.rest
        else:
            body += decoder.body(piece)
            if ended(decoder):
                rest = decoder.rest
    return status, body, decoder.done, rest


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("surplus", [b"", b"HTTP/1.1 200 again"])
def test_responses_under_all_splits(name: str, surplus: bytes) -> None:
    data, body = RESPONSES[name]
    status = int(data.split()[1])
    data += surplus
    assert response(iter((data,))) == (status, body, True, surplus)
    assert response(data[i:i + 1] for i in range(len(data))) == (status, body, True, surplus)
    for at in range(1, len(data)):
        assert response(iter((data[:at], data[at:]))) == (status, body, True, surplus), at


def test_a_body_until_close_ends_with_the_connection() -> None:
    decoder = ResponseDecoder(65536, 100)
    assert decoder.head(b"HTTP/1.1 200 OK\r\n\r\nab") is not None
    assert (decoder.payload, ended(decoder)) == (b"ab", False)
    assert decoder.body(b"cd") == b"cd" and not ended(decoder)
    assert decoder.eof() and ended(decoder)
    assert not decoder.eof(), "only once"


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
                                  b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n"])
def test_eof_within_a_framed_body_is_not_its_end(data: bytes) -> None:
    decoder = ResponseDecoder(65536, 100)
    assert decoder.head(data) is not None
    assert not decoder.eof() and not decoder.done


def test_an_answer_to_head_has_no_body_whatever_it_says() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert response(iter((data,)), head_request=True) == (200, b"", True, b"")


def test_what_follows_an_interim_head_is_kept() -> None:
    decoder = ResponseDecoder(65536, 100)
    interim = decoder.head(b"HTTP/1.1 100 Continue\r\n\r\n" + RESPONSES["length"][0])
    assert interim is not None and interim.status == 100
    final = decoder.head(decoder.rest)
    assert final is not None and (final.status, decoder.payload, decoder.done) == (200, b"hello", True)


def test_a_decoder_forgets_the_message_before() -> None:
    """Payload, trailers and rest of one message never show in the next, on a kept connection."""
    decoder = RequestDecoder(65536, 100)
    decoder.head(CHUNKED)
    assert decoder.trailers and decoder.done
    assert decoder.next() == b""
    assert decoder.head(GET) is not None
    assert (decoder.payload, decoder.rest, decoder.done) == (b"", b"", True)
    decoder.next()
    assert decoder.head(POST + b"more") is not None
    assert (decoder.payload, decoder.trailers, decoder.rest) == (b"hello world", b"", b"more")
    answers = ResponseDecoder(65536, 100)
    answers.head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\nz")
    assert (answers.trailers, answers.rest) == (b"X-Sum: 1\r\n", b"z")
    answers.head(RESPONSES["length"][0])
    assert (answers.trailers, answers.rest, answers.payload) == (b"", b"", b"hello")


def test_part_of_a_head_is_seen() -> None:
    decoder = RequestDecoder(65536, 100)
    seen = [decoder.in_head]
    for piece in (GET[:4], GET[4:]):
        decoder.head(piece)
        seen.append(decoder.in_head)
    assert seen == [False, True, False]


# ---- faults

def fault(decoder: RequestDecoder | ResponseDecoder, pieces: Iterator[bytes]) -> Kind:
    in_body = False
    with pytest.raises(ProxyError) as caught:
        for piece in pieces:
            if in_body:
                decoder.body(piece)
            else:
                in_body = decoder.head(piece) is not None
    return caught.value.kind


BROKEN = [
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n", Kind.HEAD_TOO_LARGE),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20 + b"\r\n", Kind.HEAD_TOO_LARGE),
    (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Kind.BAD_REQUEST),
    (b"GET / HTTP/3.1\r\nHost: a\r\n\r\n", Kind.VERSION_REFUSED),
    (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Kind.METHOD_REFUSED),
    (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Kind.CODING_UNKNOWN),
    (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello", Kind.BAD_REQUEST),
    (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 17000, Kind.BAD_REQUEST),
    (b"\0", Kind.BAD_REQUEST),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Kind.BAD_REQUEST),  # TLS on a plain port
]


@pytest.mark.parametrize(("data", "kind"), BROKEN)
def test_a_broken_request_is_the_clients_fault_however_it_comes(data: bytes, kind: Kind) -> None:
    assert fault(RequestDecoder(1024, 10), iter((data,))) is kind
    assert fault(RequestDecoder(1024, 10), (data[i:i + 1] for i in range(len(data)))) is kind
    assert fault(RequestDecoder(1024, 10), (data[i:i + 100] for i in range(0, len(data), 100))) is kind


def test_a_long_target_is_414_however_it_comes() -> None:
    data = b"GET /" + b"x" * 17000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    for step in (len(data), 16384, 5000, 1):
        pieces = (data[i:i + step] for i in range(0, len(data), step))
        assert fault(RequestDecoder(65536, 100), pieces) is Kind.TARGET_TOO_LONG, step


@pytest.mark.parametrize("data", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"220 mail.example ESMTP\r\n",
    b"HTTP/2 200\r\n\r\n",
])
def test_a_broken_response_is_the_endpoints_fault_however_it_comes(data: bytes) -> None:
    assert fault(ResponseDecoder(1024, 10), iter((data,))) is Kind.RESPONSE_BROKEN
    assert fault(ResponseDecoder(1024, 10), (data[i:i + 1] for i in range(len(data)))) is Kind.RESPONSE_BROKEN


# ---- cost

@pytest.mark.parametrize("kind", ["request", "response"])
def test_a_head_in_pieces_costs_no_more_than_its_length(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes looked at, counted at the leaf functions: a head of n bytes in n pieces must not cost n²."""
    looked = 0
    find, parse = getattr(h1, "find_head_end"), getattr(h1, f"parse_{kind}")  # noqa: B009

    def count_find(data: bytes, start: int) -> int:
        nonlocal looked
        looked += len(data) - start
        end: int = find(data, start)
        return end

    def count_parse(data: bytes, *rest: object) -> object:
        nonlocal looked
        looked += len(data)
        return parse(data, *rest)

    monkeypatch.setattr(h1, "find_head_end", count_find)
    monkeypatch.setattr(h1, f"parse_{kind}", count_parse)
    start = b"GET / HTTP/1.1\r\nHost: a\r\n" if kind == "request" else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
    data = start + b"X: " + b"x" * 20_000 + b"\r\n\r\n"
    decoder = RequestDecoder(65536, 100) if kind == "request" else ResponseDecoder(65536, 100)
    heads = [decoder.head(data[i:i + 1]) for i in range(len(data))]
    assert heads[-1] is not None and not any(heads[:-1])
    assert looked <= 6 * len(data)


# ---- chunks

def test_chunks_that_were_encoded_are_decoded() -> None:
    body = encode_chunk(b"hello") + encode_chunk(b"x" * 300) + encode_last_chunk(b"X-Sum: 1\r\n")
    assert body.startswith(b"5\r\nhello\r\n12c\r\n")
    decoder = RequestDecoder(65536, 100)
    decoder.head(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body + GET)
    assert (decoder.payload, decoder.trailers, decoder.rest) == (b"hello" + b"x" * 300, b"X-Sum: 1\r\n", GET)
    assert encode_last_chunk(b"") == b"0\r\n\r\n"
