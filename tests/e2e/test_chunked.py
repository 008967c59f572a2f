"""Chunked bodies both ways: streamed as they come, re-framed, with the trailers that may be trailers."""
from __future__ import annotations

import random

import pytest

from e2e.backends import StartStage
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial, End

POST = "POST /up HTTP/1.1\r\nHost: x.invalid\r\nTransfer-Encoding: chunked\r\n%s\r\n"


def test_a_request_is_streamed_chunk_by_chunk(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(POST % "" + "5\r\nfirst\r\n")
    channel = endpoint.accept()
    head = channel.request(body=False)
    assert (head.get("transfer-encoding"), head.get("content-length")) == ("chunked", None)
    assert channel.until(b"first\r\n").endswith(b"first\r\n"), "it does not wait for the rest"
    client.send("6\r\nsecond\r\n")
    assert channel.until(b"second\r\n") == b"6\r\nsecond\r\n"
    client.send("0\r\n\r\n")
    assert channel.until(b"\r\n\r\n") == b"0\r\n\r\n"
    channel.answer(b"thanks")
    assert client.response().text == "thanks"


def test_a_response_is_streamed_chunk_by_chunk(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    assert b"transfer-encoding: chunked" in client.until(b"\r\n\r\n").lower()
    assert client.until(b"first\r\n") == b"5\r\nfirst\r\n"
    channel.send("6\r\nsecond\r\n0\r\n\r\n")
    assert client.until(b"0\r\n\r\n") == b"6\r\nsecond\r\n0\r\n\r\n"
    client.get("/next")
    assert channel.request().target == "/next"


def test_extensions_are_dropped_both_ways(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(POST % "" + "4;name=value\r\ndata\r\n0;last\r\n\r\n")
    channel = endpoint.accept()
    request = channel.request()
    assert request.body == b"data"
    channel.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=\"b\"\r\ndata\r\n0\r\n\r\n")
    assert client.response().body == b"data"


def test_trailers_both_ways(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(POST % "Trailer: X-Checksum\r\n" + "3\r\nabc\r\n0\r\nX-Checksum: 900150983\r\nContent-Length: 99\r\n"
                "Transfer-Encoding: gzip\r\nHost: evil.invalid\r\nAuthorization: Basic eA==\r\nContent-Type: a/b\r\n\r\n")
    channel = endpoint.accept()
    request = channel.request()
    assert request.body == b"abc"
    assert request.trailers == [("X-Checksum", "900150983")], "never framing, routing, authentication or content"
    channel.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Server-Timing\r\n\r\n"
                 "3\r\nxyz\r\n0\r\nServer-Timing: db;dur=53\r\nContent-Length: 0\r\nSet-Cookie: a=b\r\n\r\n")
    answer = client.response()
    assert answer.body == b"xyz"
    assert ("Server-Timing", "db;dur=53") in answer.trailers
    assert "content-length" not in {name.lower() for name, _ in answer.trailers}


@pytest.mark.parametrize("seed", range(4))
def test_any_cut_into_chunks_and_segments_gives_the_same_body(
        edge: StartEdge, stage: StartStage, dial: Dial, seed: int) -> None:
    rng = random.Random(seed)
    body = rng.randbytes(150_000)
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))

    def chunks() -> bytes:
        out, at = b"", 0
        while at < len(body):
            size = rng.choice([1, 2, 15, 16, 17, 255, 4096, 40_000])
            piece = body[at:at + size]
            out += b"%x\r\n%b\r\n" % (len(piece), piece)
            at += size
        return out + b"0\r\n\r\n"

    def pieces(data: bytes) -> list[bytes]:
        at, out = 0, []
        while at < len(data):
            size = rng.choice([1, 2, 3, 1460, 16384, 65536])
            out.append(data[at:at + size])
            at += size
        return out

    client = dial(port)
    for piece in pieces((POST % "").encode() + chunks()):
        client.send(piece)
    channel = endpoint.accept()
    assert channel.request().body == body
    for piece in pieces(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks()):
        channel.send(piece)
    assert client.response().body == body


@pytest.mark.parametrize("bad", ["5\nfirst\r\n0\r\n\r\n", "5 \r\nfirst\r\n0\r\n\r\n", "0x5\r\nfirst\r\n0\r\n\r\n",
                                 "-5\r\nfirst\r\n", "5\r\nfirstX\r\n0\r\n\r\n", "00000000000000005\r\nfirst\r\n",
                                 "5\r\nfirst\r\n0\r\n\n", "5;\nfirst\r\n"])
def test_a_broken_chunk_never_ends_the_request_cleanly(
        edge: StartEdge, stage: StartStage, dial: Dial, bad: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port))
    client = dial(port)
    client.send(POST % "")
    channel = endpoint.accept()
    channel.request(body=False)
    client.send(bad)
    answer = client.response()
    assert (answer.status, answer.get("connection")) == (400, "close")
    assert client.ending() == (b"", End.FIN)
    rest, _ = channel.ending()
    assert not rest.endswith(b"0\r\n\r\n"), "the endpoint must not take it for complete"
    assert proxy.entry()["outcome"] == "bad_request"
