"""The client's side of HTTP/2, both engines: answers, limits of the server, goodbyes; and both sides together."""
from __future__ import annotations

from typing import Any

import h2_play as play
import pytest
from h2_play import END, GET, OK, POST, End, data, goaway, head, rst, settings

from edgeproxy.errors import Kind

HEAD = [(b":method", b"HEAD"), *GET[1:]]
TRAILERS = [(b"grpc-status", b"0")]


@pytest.fixture(params=play.ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    play.codec_class(request.param)
    return str(request.param)


def asked(engine: str, *requests: tuple[play.Fields, bool]) -> End:
    end = End(engine, client=True)
    for fields, ended in requests or ((GET, True),):
        end.codec.request(fields, ended)
    end.codec.output()
    return end


ANSWERS: dict[str, tuple[play.Fields, bytes, list[tuple[Any, ...]]]] = {
    "whole": (GET, head(1, OK, False) + data(1, b"ab", True), [("answered", 1, OK, False), ("data", 1, b"ab", True)]),
    "no body": (GET, head(1, [(b":status", b"204")]), [("answered", 1, [(b":status", b"204")], True)]),
    "interim": (GET, head(1, [(b":status", b"103"), (b"link", b"x")], False) + head(1, OK),
                [("interim", 1, [(b":status", b"103"), (b"link", b"x")]), ("answered", 1, OK, True)]),
    "trailers": (GET, head(1, OK, False) + data(1, b"x") + head(1, TRAILERS),
                 [("answered", 1, OK, False), ("data", 1, b"x", False), ("trailers", 1, TRAILERS)]),
    "trailers only": (GET, head(1, [*OK, *TRAILERS]), [("answered", 1, [*OK, *TRAILERS], True)]),
    "to HEAD": (HEAD, head(1, [*OK, (b"content-length", b"99")]), [("answered", 1, [*OK, (b"content-length", b"99")], True)]),
    "304 with a length": (GET, head(1, [(b":status", b"304"), (b"content-length", b"9")]),
                          [("answered", 1, [(b":status", b"304"), (b"content-length", b"9")], True)]),
    "204 with a length of 0": (GET, head(1, [(b":status", b"204"), (b"content-length", b"0")]), [("answered", 1, [(b":status", b"204")], True)]),
    "reset": (GET, rst(1, 7), [("cut", 1, 7, True)]),
    "cut body": (GET, head(1, OK, False) + data(1, b"x") + rst(1, 2),
                 [("answered", 1, OK, False), ("data", 1, b"x", False), ("cut", 1, 2, True)]),
}
MALFORMED = {"no status": [(b"a", b"b")], "101": [(b":status", b"101")], "upper case": [*OK, (b"A", b"b")], "path": [*OK, (b":path", b"/")],
             "connection": [*OK, (b"connection", b"close")], "status of four digits": [(b":status", b"2000")],
             "two content-lengths": [*OK, (b"content-length", b"0"), (b"content-length", b"0")]}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_in_all_splits(engine: str, name: str) -> None:
    request, raw, told = ANSWERS[name]
    for pieces in play.ways(raw):
        end = asked(engine, (request, True))
        for piece in pieces:
            end.take(piece)
        assert end.calls == told and end.error is None
        assert end.codec.open == 0


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_cuts_the_stream(engine: str, name: str) -> None:
    end = asked(engine, (GET, True), (GET, True))
    end.take(head(1, MALFORMED[name]) + head(3, OK))
    assert end.calls[0][0] in ("cut", "answered") and ("cut", 1, 1, False) in end.calls and ("answered", 3, OK, True) in end.calls
    assert play.resets(end.sent) == [(1, 1)] and end.error is None
    assert end.codec.exhausted  # a server that does this is not asked again on this connection
    assert end.codec.request(GET, True) == 0


@pytest.mark.parametrize("body", [data(1, b"ab", True), data(1, b"abcd"), head(1, TRAILERS)])
def test_an_answer_of_another_length_than_it_says(engine: str, body: bytes) -> None:
    end = asked(engine)
    fields = [*OK, (b"content-length", b"3")]
    end.take(head(1, fields, False) + body)
    assert end.calls == [("answered", 1, fields, False), ("cut", 1, 1, False)]


@pytest.mark.parametrize("raw", [head(1, [(b":status", b"103")]), head(1, [(b":status", b"103")], False) + data(1, b"x"),
                                 head(1, [(b":status", b"103"), (b"content-length", b"0")], False)])
def test_interim_answers_end_nothing(engine: str, raw: bytes) -> None:
    end = asked(engine)
    end.take(raw)
    assert end.calls[-1] == ("cut", 1, 1, False) and not any(call[0] in ("data", "answered") for call in end.calls)


def test_a_body_behind_head_is_malformed(engine: str) -> None:
    end = asked(engine, (HEAD, True))
    end.take(head(1, OK, False) + data(1, b"x"))
    assert end.calls == [("answered", 1, OK, False), ("cut", 1, 1, False)]


@pytest.mark.parametrize("raw", [play.frame(5, 4, 1, b"\0\0\0\2" + play.block(GET)), head(2, OK), head(3, OK), data(1, b"x"),
                                 head(1, OK) + data(1, b"x"), settings((2, 1)), play.frame(16, 0, 0, b"\0\0\0\1u=1")])
def test_connection_errors(engine: str, raw: bytes) -> None:
    end = asked(engine)
    end.take(raw)
    assert end.error is not None and end.error.kind is Kind.H2_BROKEN and len(play.goodbyes(end.sent)) == 1
    assert end.codec.exhausted and end.codec.request(GET, True) == 0


def test_an_early_answer(engine: str) -> None:
    end = asked(engine, (POST, False))
    end.take(head(1, OK, False) + data(1, b"no", True) + rst(1, 0))
    assert end.calls == [("answered", 1, OK, False), ("data", 1, b"no", True), ("cut", 1, 0, True)]
    end.codec.send(1, b"more", True)
    assert end.codec.output() == b"" and end.codec.open == 0 and not end.codec.exhausted


def test_request_bodies_and_trailers(engine: str) -> None:
    end = End(engine, client=True)
    assert end.codec.request(POST, False) == 1
    end.codec.send(1, b"ab", False)
    end.codec.send_trailers(1, TRAILERS)
    end.codec.respond(1, OK, True)  # not ours to do
    out = end.codec.output()
    assert play.bodies(out) == {1: b"ab"} and [frame[0] for frame in play.frames(out)] == [1, 0, 1] and play.ended(out) == {1}
    end.take(head(1, OK))
    assert end.codec.open == 0


def test_the_server_limits_streams(engine: str) -> None:
    end = End(engine, client=True, hello=False)
    assert end.codec.max_streams == 100
    end.take(settings((3, 2)) + play.ACK)
    assert end.codec.max_streams == 2 and end.calls == [("settled", 0)]
    assert [end.codec.request(GET, True) for _ in range(3)] == [1, 3, 0] and end.codec.open == 2
    end.codec.output()
    assert not end.codec.exhausted
    end.take(head(1, OK))
    assert [end.codec.request(GET, True) for _ in range(2)] == [5, 0]
    end.codec.output()
    end.take(settings((3, 0)))
    end.take(head(3, OK) + head(5, OK))
    assert end.codec.request(GET, True) == 0 and end.codec.max_streams == 0
    end.take(settings((3, 1)) + settings((4, 70_000)))
    assert end.codec.max_streams == 1 and end.codec.request(GET, True) == 7


def test_a_server_without_a_limit(engine: str) -> None:
    end = End(engine, client=True)
    assert end.codec.max_streams == 2**31 - 1
    assert [end.codec.request(GET, True) for _ in range(150)][-1] == 299
    assert len([frame for frame in play.frames(end.codec.output()) if frame[0] == play.HEADERS]) == 150


def test_a_goodbye_leaves_streams_out(engine: str) -> None:
    end = asked(engine, *[(GET, True)] * 3)
    end.take(goaway(2**31 - 1))
    assert end.calls == [("going_away", 0, 2**31 - 1, 0)] and end.codec.exhausted and end.codec.open == 3
    end.calls.clear()
    end.take(goaway(1))
    assert end.calls == [("going_away", 0, 1, 0), ("cut", 3, 7, True), ("cut", 5, 7, True)] and end.codec.open == 1
    assert end.codec.request(GET, True) == 0
    end.take(head(1, OK, False) + data(1, b"x", True))
    assert end.calls[-1] == ("data", 1, b"x", True) and end.codec.open == 0


def test_a_cancelled_request(engine: str) -> None:
    end = asked(engine, (POST, False), (GET, True))
    end.codec.send(1, b"x" * 1000, False)
    end.codec.reset(1, 8)
    out = end.codec.output()
    assert play.resets(out) == [(1, 8)] and end.codec.open == 1
    end.take(head(1, OK, False) + data(1, b"late", True) + head(3, OK))
    assert end.calls == [("answered", 3, OK, True)] and end.error is None and not end.codec.exhausted


def test_a_request_that_is_cancelled_before_it_is_sent(engine: str) -> None:
    end = End(engine, client=True)
    end.codec.request(GET, True)
    end.codec.reset(1, 8)
    assert end.codec.request(GET, True) == 3
    end.codec.output()
    end.take(head(3, OK))
    assert end.calls == [("answered", 3, OK, True)] and end.error is None


def test_many_cancelled_requests_do_no_harm(engine: str) -> None:
    """The server need not say anything of them; what is late is forgiven."""
    end = End(engine, client=True)
    for _ in range(3000):
        stream = end.codec.request(GET, True)
        end.codec.reset(stream, 8)
        end.codec.output()
    stream = end.codec.request(GET, True)
    end.codec.output()
    end.take(head(1, OK, False) + head(stream, OK))
    assert end.calls == [("answered", stream, OK, True)] and end.error is None


def test_resets_by_a_server_are_not_counted(engine: str) -> None:
    end = End(engine, client=True)
    for _ in range(300):
        stream = end.codec.request(GET, True)
        end.codec.output()
        end.take(rst(stream, 7))
    assert end.error is None and len(end.calls) == 300


def test_server_push_is_refused_beforehand(engine: str) -> None:
    end = End(engine, client=True, hello=False)
    assert end.sent.startswith(play.PREFACE)
    assert b"\0\x02\0\0\0\0" in play.frames(end.sent)[0][3]


def test_uploads_take_turns(engine: str) -> None:
    """A server that opens its connection's window slowly gets a little of each upload, the newest as well."""
    end = End(engine, client=True, hello=False)
    end.take(settings((4, 2**30)) + play.ACK)
    streams = [end.codec.request(POST, False) for _ in range(10)]
    got: dict[int, int] = {}
    for _ in range(60):
        for stream in streams:
            if end.codec.queued(stream) < 65536:
                end.codec.send(stream, bytes(65536), False)
        for stream, body in play.bodies(end.codec.output()).items():
            got[stream] = got.get(stream, 0) + len(body)
        end.codec.receive(play.window(0, 100_000), 0.0)
    assert min(got.values()) > 0.7 * sum(got.values()) / len(streams)


def test_uploads_that_are_held_end_as_they_should(engine: str) -> None:
    end = End(engine, client=True, hello=False)
    end.take(settings((4, 50_000)) + play.ACK)
    one, two, three, four = (end.codec.request(POST, False) for _ in range(4))
    body = bytes(range(256)) * 400
    end.codec.send(one, body, True)
    end.codec.send(two, body, False)
    end.codec.send_trailers(two, TRAILERS)
    end.codec.send(three, body, False)
    end.codec.send(three, b"", True)
    end.codec.send(four, body, False)
    assert end.codec.queued(two) >= len(body)
    out = end.codec.output()
    assert end.codec.blocked() == [one, two, three, four] and sum(map(len, play.bodies(out).values())) == 65535
    end.codec.reset(four, 8)
    out += end.codec.output() + end.take(play.window(0, 10**6)) + end.take(b"".join(play.window(stream, 10**6) for stream in (one, two, three)))
    assert [play.bodies(out)[stream] == body for stream in (one, two, three)] == [True] * 3
    assert play.ended(out) == {one, two, three} and play.resets(out) == [(four, 8)]
    assert [frame[0] for frame in play.frames(out) if frame[2] == two][-1] == play.HEADERS
    assert end.codec.blocked() == []


@pytest.mark.parametrize("other", play.ENGINES)
def test_both_sides_together(engine: str, other: str) -> None:
    """A body of 3 MiB each way through windows of 64 KiB, echoed as it comes, with trailers."""
    server, client = End(engine, hello=False), End(other, client=True, hello=False)

    def echo(stream: int, payload: bytes, ended: bool) -> None:
        server.codec.send(stream, payload, False)
        server.codec.consumed(stream, len(payload))
        if ended:
            server.codec.send_trailers(stream, TRAILERS)

    server.user.opened = lambda stream, fields, ended: server.codec.respond(stream, OK, False)  # type: ignore[method-assign]
    server.user.data = echo  # type: ignore[method-assign]
    to_server, to_client = client.sent, server.sent
    body = bytes(range(256)) * 12288
    stream = client.codec.request(POST, False)
    client.codec.send(stream, body, True)
    for _ in range(1000):
        to_client += server.take(to_server)
        to_server = client.take(to_client) + client.codec.output()
        to_client = server.codec.output()
        if client.calls and client.calls[-1][0] == "trailers":
            break
    assert server.error is None and client.error is None
    assert b"".join(call[2] for call in client.calls if call[0] == "data") == body
    assert client.calls[-1] == ("trailers", stream, TRAILERS)
    assert client.codec.open == 0 and END
