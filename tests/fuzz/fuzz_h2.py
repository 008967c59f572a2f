"""Fuzzes HTTP/2 connections: both engines tell the same of any bytes, however they are cut, and nothing else is raised.

`python tests/fuzz/fuzz_h2.py -max_total_time=60`, see `leaf_fuzz.py`. The first byte says which end is under test and
how the rest is cut.
"""
from __future__ import annotations

import sys
from typing import Any

from leaf_fuzz import instrumented, run

instrumented("edgeproxy.codec.h2_hyper")

from h2_play import (  # noqa: E402
    ACK,
    CONTINUATION,
    DATA,
    END,
    END_HEADERS,
    ENGINES,
    GET,
    HEADERS,
    OK,
    PADDED,
    POST,
    PRIORITY,
    PUSH_PROMISE,
    End,
    block,
    by_stream,
    data,
    frame,
    goaway,
    head,
    ping,
    resets,
    rst,
    settings,
    window,
)

from edgeproxy.errors import Kind  # noqa: E402


def outcome(engine: str, client: bool, pieces: list[bytes]) -> tuple[Any, ...]:
    """What was told of each stream, how many are open, and what was reset; or only that it was a flood."""
    end = End(engine, client, hold=not client)
    if client:
        for method in (b"GET", b"HEAD", b"POST"):
            end.codec.request([(b":method", method), *GET[1:]], method != b"POST")
        end.codec.output()
    for piece in pieces:
        end.take(piece)
        if end.error is not None:
            break
    kind = end.error.kind if end.error else None
    if kind is Kind.H2_FLOOD:  # what else came in the same read may have been told or not
        return (kind,)
    told = by_stream([call for call in end.calls if call[0] != "cut"])
    if kind or (end.codec.exhausted and not end.codec.open):
        # In the end of it all, an engine may have seen what came behind in the same read, or not.
        told.pop(0, None)
        return (told,)
    # A reset of ours that one of the peer overtook may be dropped; behind a GOAWAY, what nobody was told of may have one.
    raw, left = b"".join(pieces), any(call[0] == "going_away" for call in end.calls)
    ours = [] if left else [one for one in sorted(resets(end.sent)) if rst(one[0])[:9] not in raw]
    return told, by_stream(end.calls), ours, end.codec.open


def whole(raw: bytes) -> bytes:
    """The whole frames of it, and a PING: one engine may judge half a frame or half a head, the other not."""
    at = 0
    while len(raw) - at >= 9 + int.from_bytes(raw[at:at + 3].ljust(3, b"\xff"), "big"):
        at += 9 + int.from_bytes(raw[at:at + 3], "big")
    return raw[:at] + ping()


def one_input(raw: bytes) -> None:
    """Raises AssertionError for a finding."""
    step, raw = raw[0] if raw else 0, whole(raw[1:])
    client, size = bool(step & 1), step >> 1
    cut = [raw[at:at + size] for at in range(0, len(raw), size)] if size else [raw[at:at + 1] for at in range(len(raw))]
    got = [(engine, len(pieces), outcome(engine, client, pieces)) for engine in ENGINES for pieces in ([raw], cut)]
    for one in got:
        assert one[2] == got[0][2], f"\n{one}\n{got[0]}"


def seeds() -> list[bytes]:
    long = block([(b"x-%d" % count, b"y" * 40) for count in range(60)])
    parts = [
        head(1, GET), head(3, POST, False) + data(3, b"abc") + data(3, b"", True), head(5, POST, False) + rst(5),
        head(7, POST, False) + data(7, b"x", True), head(9, [*POST, (b"content-length", b"3")], False) + data(9, b"abc", True),
        head(9, [*POST, (b"content-length", b"3")], False) + data(9, b"ab", True), head(11, [*GET, (b"Upper", b"x")]),
        head(3, POST, False) + head(3, [(b"trailer", b"x")]), head(3, POST, False) + head(3, [(b":path", b"/")]),
        frame(HEADERS, END, 1, block(GET)[:9]) + frame(CONTINUATION, END_HEADERS, 1, block(GET)[9:]),
        frame(HEADERS, END | END_HEADERS | PADDED, 1, b"\x03" + block(GET) + b"\0\0\0"),
        frame(HEADERS, END | END_HEADERS | 32, 1, b"\0\0\0\0\x0f" + block(GET)),
        frame(DATA, PADDED, 3, b"\x02abc\0\0"), frame(DATA, PADDED, 3, b"\x09abc\0\0"),
        frame(PRIORITY, 0, 1, b"\0\0\0\x03\x05"), frame(PRIORITY, 0, 3, b"\0\0\0\x03\x05"),
        ping(), ping(True), settings((3, 5), (4, 100)), settings((4, 1 << 31)), ACK, window(0, 100), window(1, 0),
        window(1, 2**31 - 1), window(3, 1 << 25), goaway(0), goaway(1, 2), rst(1), rst(99),
        frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + block(GET)), frame(77, 1, 5, b"hello"), frame(16, 0, 0, b"\0\0\0\x01u=1"),
        frame(HEADERS, END | END_HEADERS, 1, b"\x82\x86\x84\x41\x01a"), frame(HEADERS, END_HEADERS, 1, b"\xbe\xff"),
        frame(HEADERS, END | END_HEADERS, 1, b"\x3f\xe1\x1f\x82\x86\x84\x41\x01a"), frame(HEADERS, END, 1, long),
        head(1, OK), head(1, OK, False) + data(1, b"body", True), head(1, [(b":status", b"100")], False), head(3, OK, True),
        head(5, [(b":status", b"204"), (b"content-length", b"0")]), head(5, [(b":status", b"304"), (b"content-length", b"9")]),
        head(1, [*OK, (b"content-length", b"3")], False) + data(1, b"ab") + data(1, b"cd"), head(1, [(b":status", b"101")]),
        head(1, OK, False) + head(1, [(b"grpc-status", b"0")]), head(1, [*OK, (b"connection", b"close")]),
    ]
    both = [bytes((step,)) + first + second for step in (0, 1, 7, 8) for first in parts for second in (b"", parts[1], parts[0])]
    return both + [bytes((step,)) + b"".join(parts) for step in (0, 1)]


if __name__ == "__main__":
    sys.exit(run(one_input, seeds()))
