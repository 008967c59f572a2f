"""What one HTTP/2 client may cost: floods end at the same frame on both engines, and honest clients do not notice."""
from __future__ import annotations

import tracemalloc

import h2_play as play
import pytest
from h2_play import CONTINUATION, END, END_HEADERS, GET, HEADERS, OK, POST, End, data, frame, head, rst, window

from edgeproxy.codec.h2_guard import BROKEN, FINE, Guard, H2Limits
from edgeproxy.errors import Kind


@pytest.fixture(params=play.ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    play.codec_class(request.param)
    return str(request.param)


def flooded(end: End) -> bool:
    if end.error is None:
        return False
    assert end.error.kind is Kind.H2_FLOOD and end.error.cause
    assert [code for _, code in play.goodbyes(end.sent)] == [11]
    return True


def until_flooded(end: End, raw: bytes, most: int, step: float = 0.0, read: bool = True) -> int:
    """How many times `raw` was taken."""
    for count in range(most):
        end.now += step
        end.take(raw, read)
        if flooded(end):
            return count
    return most


# ---- resets


def test_rapid_reset(engine: str) -> None:
    end = End(engine)
    for stream in range(1, 201, 2):
        end.take(head(stream, GET) + rst(stream))
    assert end.error is None
    end.take(head(201, GET) + rst(201))
    assert flooded(end)


def test_rapid_reset_in_one_read(engine: str) -> None:
    end = End(engine)
    end.take(b"".join(head(stream, GET) + rst(stream) for stream in range(1, 2001, 2)))
    assert flooded(end) and sum(call[0] == "opened" for call in end.calls) <= 101


def test_resets_are_counted_over_a_sliding_time(engine: str) -> None:
    end = End(engine)
    stream = 1
    for _ in range(1000):  # 3.3 a second, for ever
        end.now += 0.31
        end.take(head(stream, GET) + rst(stream))
        stream += 2
    assert end.error is None
    for _ in range(110):  # nearly a hundred lie behind: a few more at once are too many
        end.take(head(stream, GET) + rst(stream))
        stream += 2
    assert flooded(end) and sum(call[0] == "cut" for call in end.calls) < 1010


# CVE-2025-8671: a client can make a server reset streams. Each of these does, where RFC 9113 asks for a stream error.
MADE = {
    "malformed request": lambda n: head(n, [*GET, (b"connection", b"x")]),
    "malformed trailers": lambda n: head(n, POST, False) + head(n, [(b":path", b"/")]),
    "too short a body": lambda n: head(n, [*POST, (b"content-length", b"9")], False) + data(n, b"x", True),
    "too long a body": lambda n: head(n, [*POST, (b"content-length", b"1")], False) + data(n, b"xx"),
    "a window over the top": lambda n: head(n, GET) + window(n, 2**31 - 1),
}


@pytest.mark.parametrize("name", MADE)
def test_made_you_reset(engine: str, name: str) -> None:
    end = End(engine)
    for stream in range(1, 201, 2):
        end.take(MADE[name](stream))
    assert end.error is None and len(play.resets(end.sent)) == 100 and end.codec.open == 0
    end.take(MADE[name](201))
    assert flooded(end)


def test_our_own_resets_for_a_fault_count_and_others_do_not(engine: str) -> None:
    end = End(engine)
    stream = 1
    for code in (0, 2, 7, 8, 13):
        for _ in range(50):
            end.take(head(stream, POST, False))
            end.codec.reset(stream, code)
            end.codec.output()
            stream += 2
    assert end.error is None
    end.user.opened = lambda stream, fields, ended: end.codec.reset(stream, 1)  # type: ignore[method-assign]
    for _ in range(100):
        end.take(head(stream, GET))
        stream += 2
    assert end.error is None
    end.take(head(stream, GET))
    assert flooded(end)


# ---- heads


def crumbs(count: int) -> list[tuple[bytes, bytes]]:
    return [*GET, *[(b"cookie", b"a")] * (count - len(GET))]


def test_a_head_over_the_soft_limits_is_told(engine: str) -> None:
    """So that it can be answered with 431."""
    for fields in (crumbs(400), [*GET, (b"a", b"x" * 65000), (b"b", b"x" * 65000)]):
        end = End(engine)
        block = play.block(fields)
        raw = frame(HEADERS, END, 1, block[:16384])
        rest = [block[at:at + 16384] for at in range(16384, len(block), 16384)]
        raw += b"".join(frame(CONTINUATION, 0 if more else END_HEADERS, 1, part) for part, more in
                        zip(rest, [True] * (len(rest) - 1) + [False], strict=True)) if rest else b""
        end.take(raw if rest else head(1, fields))
        assert end.calls == [("opened", 1, fields, True)]


@pytest.mark.parametrize("indexed", [False, True])
def test_a_head_with_too_many_fields(engine: str, indexed: bool) -> None:
    """One byte a field (CVE-2016-6581 and its heirs): 16 000 of them in one frame make no objects."""
    end = End(engine)
    block = b"\x82\x86\x84\x41\x01a" + b"\x90" * 16000 if indexed else play.block(crumbs(401))
    end.take(frame(HEADERS, END | END_HEADERS, 1, block))
    assert flooded(end) and not end.calls


def test_a_head_that_grows_in_decoding(engine: str) -> None:
    """A field of 4 000 bytes in the compression table, named by one byte 40 times: 160 KB."""
    end = End(engine)
    end.take(frame(HEADERS, END | END_HEADERS, 1, b"\x82\x86\x84\x41\x01a" + b"\x40\x01x" + play.integer(4000) + b"y" * 4000))
    assert len(end.calls) == 1
    end.take(frame(HEADERS, END | END_HEADERS, 3, b"\x82\x86\x84\xbf" + b"\xbe" * 40))
    assert flooded(end) and len(end.calls) == 1


def test_memory_of_a_bomb(engine: str) -> None:
    block = b"\x82\x86\x84\x41\x01a" + b"\x90" * 16000
    tracemalloc.start()
    try:
        end = End(engine)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        end.take(frame(HEADERS, END | END_HEADERS, 1, block))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 250_000


def test_continuations(engine: str) -> None:
    for count, fine in ((8, True), (9, False)):
        for pieces in play.ways(frame(HEADERS, END, 1, play.block(GET)) + frame(CONTINUATION, 0, 1) * (count - 1)
                                + frame(CONTINUATION, END_HEADERS, 1), count=2):
            end = End(engine)
            for piece in pieces:
                end.take(piece)
            assert flooded(end) is not fine and bool(end.calls) is fine


def test_continuations_without_an_end(engine: str) -> None:
    end = End(engine)
    end.take(frame(HEADERS, END, 1, b""))
    assert until_flooded(end, frame(CONTINUATION, 0, 1, b""), 1000) == 8


# ---- frames that move nothing

FLOODS = {  # frames that are borne, of each kind
    "PING": (play.ping(), 1000), "SETTINGS": (play.settings(), 99), "PING ACK": (play.ping(True), 999), "PRIORITY": (frame(play.PRIORITY, 0, 7, b"\0\0\0\0\1"), 999),
    "unknown": (frame(99, 0, 0, b"x"), 999), "WINDOW_UPDATE": (window(0, 1), 999), "PRIORITY_UPDATE": (frame(16, 0, 0, b"\0\0\0\1u=1"), 999),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods(engine: str, name: str) -> None:
    raw, most = FLOODS[name]
    assert abs(until_flooded(End(engine), raw, 5000) - most) <= 1
    assert until_flooded(End(engine), raw, 3000, step=0.11) == 3000  # nine a second are fine
    end = End(engine)
    end.take(raw * 5000)
    assert flooded(end)


def test_empty_data(engine: str) -> None:
    for empty in (data(1, b""), frame(play.DATA, play.PADDED, 1, b"\0"), frame(play.DATA, play.PADDED, 1, b"\x05" + bytes(5))):
        end = End(engine)
        end.take(head(1, POST, False))
        assert until_flooded(end, empty, 1000) == 100 and len(end.calls) == 1


def test_one_ping_for_each_data_frame_is_fine(engine: str) -> None:
    end = End(engine)
    end.take(head(1, POST, False))
    assert until_flooded(end, data(1, b"x") + play.ping(), 5000) == 5000


def test_windows_may_be_opened_in_small_steps_while_we_send(engine: str) -> None:
    end = End(engine)
    end.take(head(1, GET))
    end.codec.respond(1, OK, False)
    for _ in range(4000):
        end.codec.send(1, bytes(1024), False)
        end.take(window(0, 1024) + window(1, 1024))
    assert end.error is None


def test_answers_that_are_not_read(engine: str) -> None:
    end = End(engine)
    end.take(head(1, POST, False))
    count = until_flooded(end, data(1, b"x") + play.ping(), 5000, read=False)
    assert count == 1000
    end = End(engine, limits=H2Limits(queued=10))
    assert until_flooded(end, play.ping(), 100, read=False) == 10


def test_large_settings(engine: str) -> None:
    end = End(engine)
    end.take(play.settings(*[(4, 65535)] * 33))
    assert flooded(end)


def test_too_many_streams(engine: str) -> None:
    end = End(engine, limits=H2Limits(streams=3))
    end.take(b"".join(head(stream, GET) for stream in (1, 3, 5, 7)))
    assert end.error is not None and end.error.kind is Kind.H2_BROKEN and len(end.calls) == 3


def test_streams_before_the_client_knows_the_limit_are_refused(engine: str) -> None:
    end = End(engine, hello=False, limits=H2Limits(streams=3))
    end.take(play.PREFACE + play.settings() + b"".join(head(stream, POST, False) for stream in (1, 3, 5, 7, 9)) + data(9, b"x"))
    assert end.error is None and play.resets(end.sent) == [(7, 7), (9, 7)]
    assert [call[1] for call in end.calls if call[0] == "opened"] == [1, 3, 5] and end.codec.open == 3


def test_a_limit_is_the_same_in_all_splits(engine: str) -> None:
    raw = b"".join(head(stream, GET) + rst(stream) for stream in range(1, 401, 2))
    told = []
    for pieces in play.ways(raw, count=3):
        end = End(engine)
        for piece in pieces:
            end.take(piece)
        assert flooded(end)
        told.append([call for call in end.calls if call[0] == "opened"])
    assert all(calls == told[0] for calls in told)


# ---- the guard alone


def walked(guard: Guard, pieces: list[bytes]) -> list[bytes]:
    """What the guard lets through."""
    out = []
    for piece in pieces:
        piece, guard.partial = guard.partial + piece, b""
        within = guard.walk(piece, 0.0)
        if within:
            out.append(piece[:within])
        if guard.found != FINE:
            break
    return out


def test_the_guard_lets_through_whole_frame_headers() -> None:
    raw = play.HELLO + head(1, POST, False) + data(1, bytes(300)) + window(1, 5) + play.ping() + data(1, b"", True)
    for pieces in play.ways(raw):
        guard = Guard(True, H2Limits(), 0.0)
        out = walked(guard, pieces)
        assert b"".join(out) == raw and guard.partial == b"" and guard.found == FINE
        left = 24  # until the next header
        for piece in out:
            at = left
            while at < len(piece):
                assert len(piece) - at >= 9
                at += 9 + int.from_bytes(piece[at:at + 3], "big")
            left = at - len(piece)


def test_the_guard_stops_before_the_frame_that_breaks_a_bound() -> None:
    fine = play.HELLO + head(1, GET)
    for pieces in play.ways(fine + data(1, b"x")):
        guard = Guard(True, H2Limits(), 0.0)
        assert b"".join(walked(guard, pieces)) == fine
        assert guard.found == BROKEN and guard.code == 5
