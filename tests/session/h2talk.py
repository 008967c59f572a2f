"""A scripted HTTP/2 client on a real connection, and an http listener's HTTP/2 sessions.

Frames are built and read by hand, only HPACK is a library's: hyper-h2 would refuse to send what a test must send. What
comes is read only while something is waited for, and windows open only as a test says.
"""
from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import hpack
import pytest

from edgeproxy.codec import h2 as codec
from edgeproxy.net.transport import NOBODY, SocketTransport
from edgeproxy.session.http2 import Http2Session
from edgeproxy.session.peer import Gate, Peer
from fakes import Talk, Web, socket_pair
from net.rig import until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 2, 7, 8, 11
INITIAL_WINDOW_SIZE = 4
WIDE = 1 << 24

Fields = Sequence[tuple[str, str]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def number(value: int) -> bytes:
    return struct.pack("!I", value)


def head(path: str = "/", method: str = "GET", fields: Fields = ()) -> list[tuple[str, str]]:
    return [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path), *fields]


@dataclass
class Answer:
    """What has become of one stream so far."""

    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    interim: list[int] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    frames: list[int] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.fields.get(":status", 0))


class H2Talk(Talk):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.next = 1
        self.streams: dict[int, Answer] = {}
        self.goaways: list[tuple[int, int]] = []
        """(last stream, error code)."""
        self.pongs = 0
        self.window = 0
        """What WINDOW_UPDATEs of the connection gave."""
        self.windows: dict[int, int] = {}

    # ---- sending

    async def open(self, window: int = WIDE) -> None:
        """Preface; `window`: of each stream and of the connection."""
        settings = struct.pack("!HI", INITIAL_WINDOW_SIZE, window)
        await self.send(PREFACE + frame(SETTINGS, 0, 0, settings)
                        + (frame(WINDOW_UPDATE, 0, 0, number(window - 65535)) if window > 65535 else b""))

    def headers(self, fields: Fields, ended: bool = True, stream: int = 0) -> bytes:
        if not stream:
            stream, self.next = self.next, self.next + 2
            self.streams[stream] = Answer()
        return frame(HEADERS, END_HEADERS | (END_STREAM if ended else 0), stream,
                     self.encoder.encode(fields, huffman=False))

    async def ask(self, path: str = "/", method: str = "GET", fields: Fields = (), ended: bool = True) -> int:
        """Send a request's head; its stream."""
        stream = self.next
        await self.send(self.headers(head(path, method, fields), ended))
        return stream

    async def data(self, stream: int, payload: bytes, ended: bool = False) -> None:
        """One frame."""
        await self.send(frame(DATA, END_STREAM if ended else 0, stream, payload))

    async def reset_stream(self, stream: int, code: int = CANCEL) -> None:
        await self.send(frame(RST_STREAM, 0, stream, number(code)))

    async def grant(self, stream: int, amount: int) -> None:
        await self.send(frame(WINDOW_UPDATE, 0, stream, number(amount)))

    # ---- receiving

    async def frame(self) -> int:
        """Read one frame; its type."""
        start = await self.receive(9)
        size, kind, flags = int.from_bytes(start[:3], "big"), start[3], start[4]
        stream = int.from_bytes(start[5:], "big")
        payload = await self.receive(size)
        answer = self.streams.get(stream, Answer())
        answer.frames.append(kind)
        if kind == HEADERS:
            assert flags & END_HEADERS
            self._head(answer, dict(self.decoder.decode(payload)))
        elif kind == DATA:
            assert not answer.ended, "DATA behind the end"
            answer.body += payload
        elif kind == RST_STREAM:
            answer.reset = int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self.goaways.append(struct.unpack("!II", payload[:8]))
        elif kind == PING:
            self.pongs += flags & ACK
        elif kind == WINDOW_UPDATE:
            self.windows[stream] = self.windows.get(stream, 0) + int.from_bytes(payload, "big")
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            answer.ended = True
        return kind

    def _head(self, answer: Answer, fields: dict[str, str]) -> None:
        status = fields.get(":status", "")
        if status[:1] == "1":
            answer.interim.append(int(status))
        elif answer.fields:
            answer.trailers = fields
        else:
            answer.fields = fields

    async def answer(self, stream: int) -> Answer:
        """The whole answer of `stream`, or what there is of it until a reset."""
        found = self.streams[stream]
        while not found.ended and found.reset is None:
            await self.frame()
        return found

    async def begun(self, stream: int) -> Answer:
        """The answer of `stream`, once it has a head."""
        found = self.streams[stream]
        while not found.fields:
            await self.frame()
        return found

    async def was_reset_stream(self, stream: int) -> int:
        found = self.streams[stream]
        while found.reset is None:
            await self.frame()
        return found.reset

    async def goaway(self, count: int = 1) -> tuple[int, int]:
        """(last stream, error code) of the `count`th GOAWAY."""
        while len(self.goaways) < count:
            await self.frame()
        return self.goaways[count - 1]

    async def pong(self) -> None:
        """All that was sent so far has been read by the session."""
        before = self.pongs
        await self.send(frame(PING, 0, 0, b"abcdefgh"))
        while self.pongs == before:
            await self.frame()

    async def over(self) -> None:
        """The connection has ended; frames until then are read."""
        try:
            while self.buffer or await self.more():
                await self.frame()
        except ConnectionResetError:
            pass


class H2Web(Web):
    """An http listener whose connections speak HTTP/2 from the first byte on."""

    gate: Gate | None = None

    def talk(self, peer: str = "192.0.2.7", first: bytes = b"", kind: type[socket.socket] = socket.socket) -> H2Talk:
        near, far = socket_pair()
        near = kind(fileno=near.detach())
        transport = SocketTransport(self.loop, self.poller, near, NOBODY)
        self.opened += 1
        self.session = Http2Session(self.http, Peer(peer, 8080, "http", self.http.trusts(peer), self.gate), transport,
                                    self._ended, first)
        talk = H2Talk(far)
        self.clients.append(talk)
        return talk

    async def opened_talk(self, window: int = WIDE) -> H2Talk:
        talk = self.talk()
        await talk.open(window)
        return talk

    async def __aenter__(self) -> H2Web:
        return self


async def quiet(web: Web) -> None:
    """Every connection has ended."""
    await until(lambda: web.closed == web.opened)


@pytest.fixture(params=["ngh2", "h2"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both engines of the codec."""
    name, kind = codec._choose(request.param)
    monkeypatch.setattr(codec, "_engine", kind)
    return name
