"""HTTP/2 in a test's hand: frames as bytes, and a client that is one connection.

Frames are built and read here by hand and only HPACK is a library's: hyper-h2 would refuse to send what a test must send,
and it gives a connection up at the first GOAWAY, behind which streams go on (RFC 9113 §6.8).
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import hpack

from e2e.wire import Wire

Fields = Sequence[tuple[str, str]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 7, 8, 11
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4
_FRAME = 16384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame, whether it makes sense or not."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def number(value: int) -> bytes:
    """Four bytes: an error code, a window's increment."""
    return struct.pack("!I", value)


def setting(code: int, value: int) -> bytes:
    return struct.pack("!HI", code, value)


def head(path: str = "/", method: str = "GET", authority: str = "edge.test", scheme: str = "https",
         fields: Fields = ()) -> list[tuple[str, str]]:
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path), *fields]


@dataclass
class Answer:
    """What became of one stream so far."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    interim: list[list[tuple[str, str]]] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    """The error code of a reset."""
    bodiless: bool = False
    """It ended with its head: no DATA, no trailers."""
    window: int = 65535
    """How much may be sent on it."""

    @property
    def status(self) -> int:
        return int(dict(self.fields)[":status"])

    def get(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class H2Client:
    """A client's connection. What comes is read only while something is waited for."""

    def __init__(self, wire: Wire, authority: str = "edge.test", scheme: str = "https", window: int = 65535,
                 reading: bool = True) -> None:
        """`window` of each stream; `reading` False: windows never open again, as with a client that does not read."""
        self.wire = wire
        self.authority = authority
        self.scheme = scheme
        self.answers: dict[int, Answer] = {}
        self.goaways: list[tuple[int, int]] = []
        """(last stream, error code) of each GOAWAY."""
        self.settings: dict[int, int] = {}
        """The proxy's."""
        self.gone = False
        """The proxy has closed."""
        self.window = 65535
        """How much may be sent on all streams together."""
        self._reading = reading
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._next = 1
        self._pongs = 0
        self._head = (0, 0, b"")  # stream, flags and fragments of the header block that is coming
        self.wire.send(PREFACE + frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, window)))

    # ---- sending

    def request(self, path: str = "/", method: str = "GET", fields: Fields = (), body: bytes = b"",
                ended: bool = True, authority: str = "") -> int:
        """The number of the new stream; with `ended` False more may be sent on it."""
        stream, self._next = self._next, self._next + 2
        self.answers[stream] = Answer(window=self.settings.get(INITIAL_WINDOW_SIZE, 65535))
        self._fields(stream, head(path, method, authority or self.authority, self.scheme, fields), ended and not body)
        if body:
            self.send(stream, body, ended)
        return stream

    def send(self, stream: int, data: bytes, ended: bool = False) -> None:
        """All of it, as the windows open; or until the answer is whole, for then nobody wants the rest."""
        answer, at = self.answers[stream], 0
        while not answer.over:
            size = min(len(data) - at, self.window, answer.window, _FRAME)
            if size <= 0 < len(data):
                self.read()
                continue
            last = at + size == len(data)
            self.wire.send(frame(DATA, END_STREAM if ended and last else 0, stream, data[at:at + size]))
            at += size
            self.window -= size
            answer.window -= size
            if last:
                return

    def send_trailers(self, stream: int, fields: Fields) -> None:
        self._fields(stream, fields, True)

    def _fields(self, stream: int, fields: Fields, ended: bool) -> None:
        block, kind, flags = self._encoder.encode(list(fields)), HEADERS, END_STREAM if ended else 0
        while len(block) > _FRAME:
            self.wire.send(frame(kind, flags, stream, block[:_FRAME]))
            block, kind, flags = block[_FRAME:], CONTINUATION, 0
        self.wire.send(frame(kind, flags | END_HEADERS, stream, block))

    def reset(self, stream: int, code: int = CANCEL) -> None:
        self.wire.send(frame(RST_STREAM, 0, stream, number(code)))

    def ping(self) -> None:
        """Ask and wait for the answer: whatever was sent before has been read by the proxy then."""
        expected = self._pongs + 1
        self.wire.send(frame(PING, 0, 0, b"are here"))
        self.until(lambda: self._pongs >= expected)

    def open_windows(self, size: int) -> None:
        """Let so much more come, in all and on each stream."""
        self._reading = True
        for stream in (0, *(stream for stream, answer in self.answers.items() if not answer.over)):
            self.wire.send(frame(WINDOW_UPDATE, 0, stream, number(size)))

    # ---- receiving

    def read(self) -> None:
        """The next frame; raises ConnectionError if none will come."""
        try:
            start = self._exactly(9)
            payload = self._exactly(int.from_bytes(start[:3], "big"))
        except (ConnectionError, EOFError):
            self.gone = True
            raise ConnectionError(f"the proxy closed; GOAWAY {self.goaways}, {self.answers}") from None
        self._take(start[3], start[4], int.from_bytes(start[5:], "big") & 0x7FFFFFFF, payload)

    def _exactly(self, size: int) -> bytes:
        wire = self.wire
        while len(wire.buffer) < size:
            if not wire.more():
                raise EOFError
        data, wire.buffer = wire.buffer[:size], wire.buffer[size:]
        return data

    def until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self.read()

    def started(self) -> None:
        """The proxy's SETTINGS are there."""
        self.until(lambda: bool(self.settings))

    def head(self, stream: int) -> Answer:
        """As soon as its head is there."""
        self.until(lambda: bool(self.answers[stream].fields) or self.answers[stream].over)
        return self.answers[stream]

    def answer(self, stream: int) -> Answer:
        """When it is over."""
        self.until(lambda: self.answers[stream].over)
        return self.answers[stream]

    def ask(self, path: str = "/", method: str = "GET", fields: Fields = (), body: bytes = b"",
            authority: str = "") -> Answer:
        """One request, and its answer when it is over."""
        return self.answer(self.request(path, method, fields, body, authority=authority))

    def ending(self) -> None:
        """Read until the proxy has closed; what came is in `answers` and `goaways`."""
        try:
            while True:
                self.read()
        except ConnectionError:
            self.gone = True

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert not self._head[0] or (kind == CONTINUATION and stream == self._head[0]), "a header block is one piece"
        answer = self.answers.get(stream)
        if kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING:
            self._pongs += flags & ACK
            if not flags & ACK:
                self.wire.send(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            last, code = struct.unpack("!II", payload[:8])
            self.goaways.append((last & 0x7FFFFFFF, code))
        elif kind == WINDOW_UPDATE:
            size = int.from_bytes(payload, "big")
            if not stream:
                self.window += size
            elif answer is not None:
                answer.window += size
        elif kind in (HEADERS, CONTINUATION):
            assert answer is not None, f"a head on stream {stream}, which was not opened"
            self._block(answer, stream, flags, payload)
        elif kind == DATA:
            assert answer is not None and answer.fields and not answer.ended, f"DATA on stream {stream}: {answer}"
            self._data(answer, stream, flags, payload)
        elif kind == RST_STREAM:
            assert answer is not None, f"reset of stream {stream}, which was not opened"
            answer.reset = int.from_bytes(payload, "big")

    def _settings(self, payload: bytes) -> None:
        before = self.settings.get(INITIAL_WINDOW_SIZE, 65535)
        self.settings |= {struct.unpack("!H", payload[at:at + 2])[0]: struct.unpack("!I", payload[at + 2:at + 6])[0]
                          for at in range(0, len(payload), 6)}
        for answer in self.answers.values():
            answer.window += self.settings.get(INITIAL_WINDOW_SIZE, 65535) - before
        self.wire.send(frame(SETTINGS, ACK, 0))

    def _block(self, answer: Answer, stream: int, flags: int, payload: bytes) -> None:
        first = flags if not self._head[0] else self._head[1]
        block = self._head[2] + payload
        if not flags & END_HEADERS:
            self._head = (stream, first, block)
            return
        self._head = (0, 0, b"")
        fields = _text(self._decoder.decode(block))
        ended = bool(first & END_STREAM)
        if answer.fields:
            assert ended, "trailers end a stream"
            answer.trailers = fields
        elif fields[0][1].startswith("1"):
            answer.interim.append(fields)
        else:
            answer.fields, answer.bodiless = fields, ended
        answer.ended = ended

    def _data(self, answer: Answer, stream: int, flags: int, payload: bytes) -> None:
        answer.body += payload
        answer.ended = bool(flags & END_STREAM)
        if payload and self._reading:
            self.wire.send(frame(WINDOW_UPDATE, 0, 0, number(len(payload)))
                           + (b"" if answer.ended else frame(WINDOW_UPDATE, 0, stream, number(len(payload)))))


def _text(fields: Iterable[tuple[bytes | str, bytes | str]]) -> list[tuple[str, str]]:
    return [(_str(name), _str(value)) for name, value in fields]


def _str(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
