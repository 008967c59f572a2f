"""A GOAWAY holds from the moment it is said, not from when it is sent: its last stream is the last that is told."""
from __future__ import annotations

import pytest

from codec.h2_play import codec_class
from edgeproxy.codec.h2_base import Fields, H2Codec, Streams
from edgeproxy.codec.h2_guard import H2Limits

HEAD = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]


class Leaver(Streams):
    """Says GOAWAY as it is told of the first stream."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.codec: H2Codec

    def opened(self, stream: int, fields: Fields, ended: bool) -> None:
        self.told.append(stream)
        self.codec.goaway()


@pytest.mark.parametrize("name", ["ngh2", "h2"])
@pytest.mark.parametrize("at_once", [True, False], ids=["same-read", "next-read"])
def test_no_stream_is_told_behind_a_goaway_that_waits(name: str, at_once: bool) -> None:
    user = Leaver()
    server = user.codec = codec_class(name)(user, False, H2Limits(), 0.0)
    client = codec_class(name)(Streams(), True, H2Limits(), 0.0)
    server.receive(client.output(), 0.0)
    client.receive(server.output(), 0.0)
    server.receive(client.output(), 0.0)
    client.request(HEAD, True)
    first = client.output()
    client.request(HEAD, True)
    second = client.output()
    for read in [first + second] if at_once else [first, second]:
        server.receive(read, 0.0)
    assert user.told == [1] and server.open == 1
    server.respond(1, [(b":status", b"204")], True)
    client.receive(server.output(), 0.0)
    assert client.open == 0, "the second one was left out, and may be sent again elsewhere"
