"""The server's side of HTTP/2, both engines: requests in all splits, answers, windows, resets, goodbyes."""
from __future__ import annotations

from typing import Any

import h2_play as play
import pytest
from h2_play import END, END_HEADERS, GET, HEADERS, OK, POST, PREFACE, End, data, head, rst, settings, window

from edgeproxy.codec.h2_guard import H2Limits
from edgeproxy.errors import Kind


@pytest.fixture(params=play.ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    play.codec_class(request.param)
    return str(request.param)


TRAILERS = [(b"grpc-status", b"0")]
# (what comes, what is told of it)
MESSAGES: dict[str, tuple[bytes, list[tuple[Any, ...]]]] = {
    "get": (head(1, GET), [("opened", 1, GET, True)]),
    "post": (head(1, POST, False) + data(1, b"abc") + data(1, b"de", True),
             [("opened", 1, POST, False), ("data", 1, b"abc", False), ("data", 1, b"de", True)]),
    "empty end": (head(1, POST, False) + data(1, b"", True), [("opened", 1, POST, False), ("data", 1, b"", True)]),
    "empty data is nothing": (head(1, POST, False) + data(1, b"") + data(1, b"x", True),
                              [("opened", 1, POST, False), ("data", 1, b"x", True)]),
    "padding": (head(1, POST, False) + play.frame(play.DATA, play.PADDED | END, 1, b"\x02ab\0\0"),
                [("opened", 1, POST, False), ("data", 1, b"ab", True)]),
    "trailers": (head(1, POST, False) + data(1, b"x") + head(1, TRAILERS),
                 [("opened", 1, POST, False), ("data", 1, b"x", False), ("trailers", 1, TRAILERS)]),
    "continuation": (play.frame(HEADERS, END, 1, play.block(GET)[:7]) + play.frame(play.CONTINUATION, END_HEADERS, 1, play.block(GET)[7:]),
                     [("opened", 1, GET, True)]),
    "cookie crumbs": (head(1, [*GET, (b"cookie", b"a=1"), (b"cookie", b"b=2")]),
                      [("opened", 1, [*GET, (b"cookie", b"a=1"), (b"cookie", b"b=2")], True)]),
    "content-length that fits": (head(1, [*POST, (b"content-length", b"3")], False) + data(1, b"abc", True),
                                 [("opened", 1, [*POST, (b"content-length", b"3")], False), ("data", 1, b"abc", True)]),
    "host instead of authority": (head(1, [*GET[:2], GET[3], (b"host", b"a")]), [("opened", 1, [*GET[:2], GET[3], (b"host", b"a")], True)]),
    "reset by the client": (head(1, POST, False) + rst(1, 8), [("opened", 1, POST, False), ("cut", 1, 8, True)]),
    "priorities are nothing": (play.frame(play.PRIORITY, 0, 1, b"\0\0\0\x03\x10") + play.frame(16, 0, 0, b"\0\0\0\x01u=1") + head(1, GET),
                               [("opened", 1, GET, True)]),
    "two streams": (head(1, POST, False) + head(3, GET) + data(1, b"x", True),
                    [("opened", 1, POST, False), ("opened", 3, GET, True), ("data", 1, b"x", True)]),
}
# Requests that are malformed before anybody is told of them.
MALFORMED: dict[str, list[tuple[bytes, bytes]]] = {
    "upper case": [*GET, (b"Accept", b"x")], "no path": GET[:3], "path twice": [*GET, (b":path", b"/")],
    "late pseudo-header": [*GET[:3], (b"a", b"b"), GET[3]], "unknown pseudo-header": [*GET, (b":foo", b"x")],
    "status in a request": [*GET, (b":status", b"200")], "connection": [*GET, (b"connection", b"close")],
    "transfer-encoding": [*GET, (b"transfer-encoding", b"chunked")], "te": [*GET, (b"te", b"gzip")],
    "empty path": [*GET[:3], (b":path", b"")], "bare path": [*GET[:3], (b":path", b"x")], "empty name": [*GET, (b"", b"x")],
    "space in a name": [*GET, (b"a b", b"x")], "line feed in a value": [*GET, (b"a", b"x\ny")], "NUL in a value": [*GET, (b"a", b"\0")],
    "space behind a value": [*GET, (b"a", b"x ")], "two hosts": [*GET, (b"host", b"a"), (b"host", b"a")],
    "no authority": [*GET[:2], GET[3]], "connect with a path": [(b":method", b"CONNECT"), *GET[1:]],
    "content-length behind an end": [*GET, (b"content-length", b"1")], "signed content-length": [*GET, (b"content-length", b"+0")],
    "two content-lengths": [*GET, (b"content-length", b"0"), (b"content-length", b"0")],
}
# What follows an open POST that says "content-length: 3", and is malformed.
BAD_BODIES = {"too short": data(1, b"ab", True), "too long": data(1, b"abcd"), "none": data(1, b"", True),
              "trailers too early": head(1, TRAILERS), "trailers without an end": head(1, TRAILERS, False),
              "pseudo-header in trailers": head(1, [(b":path", b"/")])}


@pytest.mark.parametrize("name", MESSAGES)
def test_requests_in_all_splits(engine: str, name: str) -> None:
    raw, told = MESSAGES[name]
    for pieces in play.ways(raw):
        end = End(engine)
        for piece in pieces:
            end.take(piece)
        assert end.error is None
        assert end.calls == told


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_reset_and_told_nobody(engine: str, name: str) -> None:
    raw = head(1, MALFORMED[name]) + head(3, GET)
    for pieces in play.ways(raw, count=2):
        end = End(engine)
        for piece in pieces:
            end.take(piece)
        assert end.calls == [("opened", 3, GET, True)]
        assert play.resets(end.sent) == [(1, 1)]
        assert end.error is None


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_malformed_body_cuts_the_stream(engine: str, name: str) -> None:
    fields = [*POST, (b"content-length", b"3")]
    end = End(engine)
    end.take(head(1, fields, False) + BAD_BODIES[name])
    assert end.calls == [("opened", 1, fields, False), ("cut", 1, 1, False)]
    assert play.resets(end.sent) == [(1, 1)]
    assert end.codec.open == 0
    assert end.take(head(3, GET)) == b"" and end.calls[-1] == ("opened", 3, GET, True)


CONNECTION_ERRORS = {
    "preface": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1), "no SETTINGS": (PREFACE + head(1, GET), 1),
    "frame too long": (PREFACE + settings() + b"\0\x40\x01\0\0\0\0\0\1", 6), "odd ping": (PREFACE + settings() + play.frame(6, 0, 0, b"1"), 6),
    "data on no stream": (PREFACE + settings() + data(0, b"x"), 1), "data on an idle stream": (PREFACE + settings() + data(1, b"x"), 1),
    "even stream": (PREFACE + settings() + head(2, GET), 1), "older stream": (PREFACE + settings() + head(5, GET) + head(3, GET), 5),
    "data behind the end": (PREFACE + settings() + head(1, GET) + data(1, b"x"), 5), "push": (PREFACE + settings() + play.frame(5, 4, 1, b"\0\0\0\2"), 1),
    "compression": (PREFACE + settings() + play.frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), 9),
    "continuation elsewhere": (PREFACE + settings() + play.frame(HEADERS, 0, 1, b"") + play.frame(9, 4, 3, b""), 1),
    "window opened by nothing": (PREFACE + settings() + head(1, GET) + window(1, 0), 1),
    "window over the top": (PREFACE + settings() + window(0, 2**31 - 1), 3), "huge initial window": (PREFACE + settings((4, 2**31)), 3),
    "too much data on a stream": (PREFACE + settings() + play.ACK + head(1, POST, False) + data(1, bytes(16384)) * 4 + data(1, b"x"), 3),
    "too much data": (PREFACE + settings() + play.ACK + head(1, POST, False) + data(1, bytes(16384)) * 65, 3),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_connection_errors_end_with_a_goaway(engine: str, name: str) -> None:
    raw, code = CONNECTION_ERRORS[name]
    limits = H2Limits(window=2**30 if name == "too much data" else 65536)  # so that the connection's window is the one that is exceeded
    for pieces in [[raw], [raw[at:at + 7] for at in range(0, len(raw), 7)]]:
        end = End(engine, hello=False, limits=limits, consume=False)
        for piece in pieces:
            end.take(piece)
        assert end.error is not None and end.error.kind is Kind.H2_BROKEN and end.error.cause
        assert [said for _, said in play.goodbyes(end.sent)] == [code]
        assert play.frames(end.sent)[0][0] == play.SETTINGS
        assert end.codec.open == 0 and end.codec.exhausted
        end.codec.receive(head(9, GET), 1.0)  # nothing happens any more
        end.codec.respond(1, OK, True)
        end.codec.send(1, b"x", True)
        end.codec.reset(1, 8)
        end.codec.consumed(1, 5)
        end.codec.goaway()
        end.codec.ping()
        assert end.codec.queued(1) == 0 and end.codec.output() == b""


def test_what_came_before_an_error_is_told(engine: str) -> None:
    end = End(engine)
    end.take(head(1, GET) + head(3, POST, False) + data(3, b"x") + data(9, b"x"))
    assert end.calls == [("opened", 1, GET, True), ("opened", 3, POST, False), ("data", 3, b"x", False)]
    assert play.goodbyes(end.sent) == [(3, 1)]


def test_answers(engine: str) -> None:
    end = End(engine)
    end.take(head(1, GET) + head(3, POST, False) + head(5, GET) + head(7, GET))
    codec = end.codec
    assert codec.open == 4
    codec.respond_interim(1, [(b":status", b"103")])
    codec.respond(1, OK, False)
    codec.send(1, b"ab", False)
    codec.send(1, b"cd", True)
    codec.respond(5, [(b":status", b"204")], True)
    codec.respond(7, OK, False)
    codec.send(7, b"x", False)
    codec.send_trailers(7, TRAILERS)
    out = codec.output()
    assert play.bodies(out) == {1: b"abcd", 7: b"x"} and play.ended(out) == {1, 5, 7}
    assert [kind for kind, _, stream, _ in play.frames(out) if stream == 7] == [play.HEADERS, play.DATA, play.HEADERS]
    assert codec.open == 1
    for stream in (1, 5, 7, 99):  # over, or unknown: nothing happens
        codec.respond(stream, OK, False)
        codec.respond_interim(stream, OK)
        codec.send(stream, b"x", True)
        codec.send_trailers(stream, TRAILERS)
        codec.reset(stream, 8)
        codec.consumed(stream, 1)
    assert codec.output() == b""


def test_sending_twice_or_out_of_order_does_nothing(engine: str) -> None:
    end = End(engine)
    end.take(head(1, GET))
    codec = end.codec
    codec.send(1, b"too early", False)
    codec.respond(1, OK, False)
    codec.respond(1, [(b":status", b"500")], True)
    codec.respond_interim(1, [(b":status", b"103")])
    codec.send(1, b"x", True)
    codec.send(1, b"y", True)
    codec.send_trailers(1, TRAILERS)
    out = codec.output()
    assert play.bodies(out) == {1: b"x"} and len([frame for frame in play.frames(out) if frame[0] == HEADERS]) == 1


def test_bodies_wait_for_the_stream_window(engine: str) -> None:
    end = End(engine, hello=False)
    end.take(PREFACE + settings((4, 10)) + play.ACK + head(1, GET) + head(3, GET))
    codec = end.codec
    for stream in (1, 3):
        codec.respond(stream, OK, False)
    codec.send(1, bytes(25), True)
    codec.send(3, b"12345", True)
    assert codec.queued(1) >= 25
    out = codec.output()
    assert len(play.bodies(out)[1]) == 10 and play.ended(out) == {3}
    assert codec.queued(1) == 15 and codec.blocked() == [1] and codec.open == 1
    out = end.take(window(1, 10))
    assert len(play.bodies(out)[1]) == 10 and codec.queued(1) == 5
    out = end.take(settings((4, 15)))
    assert len(play.bodies(out)[1]) == 5 and play.ended(out) == {1}
    assert codec.queued(1) == 0 and codec.blocked() == [] and codec.open == 0


def test_bodies_wait_for_the_connection_window(engine: str) -> None:
    end = End(engine, hello=False)
    end.take(PREFACE + settings((4, 2**30)) + play.ACK + head(1, GET))
    end.codec.respond(1, OK, False)
    end.codec.send(1, bytes(100_000), False)
    end.codec.send_trailers(1, TRAILERS)
    assert len(play.bodies(end.codec.output())[1]) == 65535 and end.codec.queued(1) == 100_000 - 65535
    out = end.take(window(0, 100_000))
    assert len(play.bodies(out)[1]) == 100_000 - 65535 and play.ended(out) == {1}


def test_windows_open_as_bytes_are_consumed(engine: str) -> None:
    end = End(engine, consume=False)
    out = end.take(head(1, POST, False) + data(1, bytes(16384)) * 3)
    assert not play.opened_windows(out)
    end.codec.consumed(1, 40_000)
    assert play.opened_windows(end.codec.output())[1] == 40_000
    end.codec.consumed(1, 9152)
    end.codec.consumed(1, 9152)  # more than there is: nothing
    end.take(data(1, bytes(16384)) * 2)
    assert end.error is None


def test_the_connection_window_comes_back_for_streams_that_are_cut_or_reset(engine: str) -> None:
    end = End(engine, consume=False)
    given = 0
    for stream in range(1, 201, 2):  # each leaves 48 KiB behind: 4.7 MiB through a window of 1 MiB
        end.now += 10
        out = end.take(head(stream, POST, False) + data(stream, bytes(16384)) * 2)
        if stream % 4 == 1:
            end.codec.reset(stream, 8)
            out += end.codec.output() + end.take(data(stream, bytes(16384)))  # on its way when we did
        else:
            out += end.take(data(stream, bytes(16384)) + rst(stream))
        given += play.opened_windows(out).get(0, 0)
        assert end.error is None
    assert given > 3_500_000
    assert all(call[0] != "data" or len(call[2]) == 16384 for call in end.calls)


def test_data_for_a_reset_stream_is_not_told(engine: str) -> None:
    end = End(engine)
    end.take(head(1, POST, False) + data(1, b"a"))
    end.codec.reset(1, 8)
    assert play.resets(end.codec.output()) == [(1, 8)] and end.codec.open == 0
    assert end.take(data(1, b"b") + head(1, TRAILERS)) == b""
    assert end.calls == [("opened", 1, POST, False), ("data", 1, b"a", False)] and end.error is None


def test_a_reset_in_a_callback(engine: str) -> None:
    end = End(engine)
    end.user.opened = lambda stream, fields, ended: end.codec.reset(stream, 7)  # type: ignore[method-assign]
    out = end.take(head(1, POST, False) + data(1, b"a") + data(1, b"b", True) + head(3, GET))
    assert play.resets(out) == [(1, 7), (3, 7)] and end.calls == [] and end.codec.open == 0


def test_a_reset_without_error_loses_nothing_of_the_answer(engine: str) -> None:
    end = End(engine, hello=False)
    end.take(PREFACE + settings((4, 10)) + play.ACK + head(1, POST, False) + head(3, POST, False))
    codec = end.codec
    for stream, size in ((1, 5), (3, 25)):
        codec.respond(stream, OK, False)
        codec.send(stream, bytes(size), True)
        codec.reset(stream, 0)
    out = codec.output()
    assert play.bodies(out) == {1: bytes(5), 3: bytes(10)} and play.ended(out) == {1} and play.resets(out) == [(1, 0)]
    assert codec.open == 0
    out = end.take(window(3, 100))
    assert play.bodies(out) == {3: bytes(15)} and play.ended(out) == {3} and play.resets(out) == [(3, 0)]
    assert end.error is None


def test_a_reset_with_an_error_drops_what_waits(engine: str) -> None:
    end = End(engine, hello=False)
    end.take(PREFACE + settings((4, 10)) + play.ACK + head(1, GET))
    end.codec.respond(1, OK, False)
    end.codec.send(1, bytes(25), True)
    end.codec.output()
    end.codec.reset(1, 2)
    assert play.resets(end.codec.output()) == [(1, 2)] and end.codec.queued(1) == 0
    assert end.take(window(1, 100)) == b""


def test_the_peer_resets_while_the_answer_waits(engine: str) -> None:
    end = End(engine, hello=False)
    end.take(PREFACE + settings((4, 0)) + play.ACK + head(1, GET))
    end.codec.respond(1, OK, False)
    end.codec.send(1, b"x", True)
    end.codec.output()
    end.take(rst(1, 8))
    assert end.calls[-1] == ("cut", 1, 8, True) and end.codec.open == 0 and end.codec.queued(1) == 0


def test_a_window_over_the_top_cuts_the_stream_only(engine: str) -> None:
    for pieces in play.ways(window(1, 2**31 - 1), count=3):
        end = End(engine)
        end.take(head(1, GET))
        for piece in pieces:
            end.take(piece)
        assert play.resets(end.sent) == [(1, 3)] and end.calls[-1] == ("cut", 1, 3, False) and end.error is None
    end = End(engine)
    end.take(head(1, GET) + window(1, 2**31 - 1 - 65535))  # just not
    assert play.resets(end.sent) == [] and end.codec.open == 1


def test_goodbye_in_two_steps(engine: str) -> None:
    end = End(engine)
    end.take(head(1, GET))
    codec = end.codec
    codec.shutdown_notice()
    assert play.goodbyes(codec.output()) == [(2**31 - 1, 0)] and not codec.exhausted
    end.take(head(3, GET))
    codec.goaway()
    assert play.goodbyes(codec.output()) == [(3, 0)] and codec.exhausted
    codec.goaway(2)  # it is said
    assert codec.output() == b""
    end.take(head(5, POST, False) + data(5, b"x"))
    assert [call[1] for call in end.calls] == [1, 3]
    for stream in (1, 3):
        codec.respond(stream, OK, False)
        codec.send(stream, b"x", True)
    out = codec.output()
    assert play.bodies(out) == {1: b"x", 3: b"x"} and codec.open == 0
    assert end.take(play.ping() + head(7, GET)) == b"" and end.error is None


def test_a_goodbye_of_the_client(engine: str) -> None:
    end = End(engine)
    end.take(head(1, GET) + play.goaway(0) + head(3, GET))
    assert end.calls == [("opened", 1, GET, True), ("going_away", 0, 0, 0)] and end.codec.exhausted
    end.codec.respond(1, OK, True)
    assert play.ended(end.codec.output()) == {1} and end.codec.open == 0


def test_pings(engine: str) -> None:
    end = End(engine)
    assert play.frames(end.take(play.ping())) == [(play.PING, 1, 0, b"12345678")]
    end.codec.ping()
    (kind, flags, _, payload), = play.frames(end.codec.output())
    assert (kind, flags) == (play.PING, 0)
    end.take(play.frame(play.PING, 1, 0, payload))
    assert end.calls == [("ponged", 0)]


def test_settings_that_we_announce(engine: str) -> None:
    end = End(engine, hello=False, limits=H2Limits(streams=7, window=70_000, connection_window=200_000, head=9999))
    first = play.frames(end.sent)[0]
    pairs = {int.from_bytes(first[3][at:at + 2], "big"): int.from_bytes(first[3][at + 2:at + 6], "big") for at in range(0, len(first[3]), 6)}
    assert first[0] == play.SETTINGS and (pairs[3], pairs[4], pairs[6], pairs[9]) == (7, 70_000, 9999, 1)
    assert play.opened_windows(end.sent) == {0: 200_000 - 65535}


def test_a_head_that_is_not_whole(engine: str) -> None:
    end = End(engine)
    assert not end.codec.in_head
    end.take(play.frame(HEADERS, END, 1, b""))
    assert end.codec.in_head
    end.take(play.frame(play.CONTINUATION, END_HEADERS, 1, play.block(GET)))
    assert not end.codec.in_head and end.calls == [("opened", 1, GET, True)]


def test_large_answers_in_frames_of_the_size_the_client_takes(engine: str) -> None:
    end = End(engine, hello=False)
    end.take(PREFACE + settings((4, 2**30), (5, 20_000)) + play.ACK + window(0, 2**30) + head(1, GET))
    body = bytes(range(256)) * 1000
    end.codec.respond(1, [*OK, *[(b"x-%d" % count, b"y" * 1000) for count in range(40)]], False)
    end.codec.send(1, body, True)
    out = end.codec.output()
    assert play.bodies(out) == {1: body} and max(len(frame[3]) for frame in play.frames(out)) <= 20_000
    assert any(frame[0] == play.CONTINUATION for frame in play.frames(out))


def test_bodies_take_turns(engine: str) -> None:
    """A client that opens the connection's window a little at a time gets a little of each answer."""
    end = End(engine, hello=False)
    streams = range(1, 21, 2)
    end.take(PREFACE + settings((4, 2**30)) + play.ACK + b"".join(head(stream, GET) for stream in streams))
    for stream in streams:
        end.codec.respond(stream, OK, False)
        end.codec.send(stream, bytes(1 << 20), True)
    got = play.bodies(end.codec.output())
    for _ in range(40):
        for stream, body in play.bodies(end.take(window(0, 50_000))).items():
            got[stream] = got.get(stream, b"") + body
    sizes = [len(got[stream]) for stream in streams]
    assert sum(sizes) == 65535 + 40 * 50_000 and max(sizes) - min(sizes) <= 3 * 16384


def test_refilled_bodies_take_turns(engine: str) -> None:
    end = End(engine, hello=False)
    streams = range(1, 21, 2)
    end.take(PREFACE + settings((4, 2**30)) + play.ACK + b"".join(head(stream, GET) for stream in streams))
    for stream in streams:
        end.codec.respond(stream, OK, False)
    got: dict[int, int] = {}
    for _ in range(60):
        for stream in streams:
            if end.codec.queued(stream) < 65536:
                end.codec.send(stream, bytes(65536), False)
        for stream, body in play.bodies(end.codec.output()).items():
            got[stream] = got.get(stream, 0) + len(body)
        end.codec.receive(window(0, 100_000), 0.0)
    assert min(got.values()) > 0.7 * sum(got.values()) / len(streams)


def test_a_short_answer_is_not_held_up_by_a_long_one(engine: str) -> None:
    end = End(engine, hello=False)
    end.take(PREFACE + settings((4, 2**30)) + play.ACK + head(1, GET))
    end.codec.respond(1, OK, False)
    end.codec.send(1, bytes(1 << 20), False)
    end.codec.output()
    end.take(head(3, GET))
    end.codec.respond(3, OK, False)
    end.codec.send(3, b"short", True)
    assert play.bodies(end.take(window(0, 40_000)))[3] == b"short"
