"""HTTP/2 connections for tests: frames by hand, a user that writes down what it is told, and ways to cut bytes.

No encoder is used: heads are literals without an index (RFC 7541 §6.2.2), so that any name and value can be sent.
"""
from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from edgeproxy.codec.h2_base import H2Codec, Streams
from edgeproxy.codec.h2_guard import H2Limits
from edgeproxy.errors import ProxyError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END, END_HEADERS, PADDED, WITH_PRIORITY = 1, 4, 8, 32
ENGINES = ("ngh2", "h2")
Fields = list[tuple[bytes, bytes]]

GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
POST: Fields = [(b":method", b"POST"), *GET[1:]]
OK: Fields = [(b":status", b"200")]


def codec_class(engine: str) -> type[H2Codec]:
    if engine == "ngh2":
        pytest.importorskip("ngh2")
        from edgeproxy.codec.h2_ngh2 import Ngh2Codec

        return Ngh2Codec
    pytest.importorskip("h2")
    from edgeproxy.codec.h2_hyper import HyperCodec

    return HyperCodec


# ---- frames


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def integer(value: int, prefix: int = 0x7F, first: int = 0) -> bytes:
    if value < prefix:
        return bytes((first | value,))
    out = bytearray((first | prefix,))
    value -= prefix
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def block(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"\0" + integer(len(name)) + name + integer(len(value)) + value for name, value in fields)


def head(stream: int, fields: Sequence[tuple[bytes, bytes]], ended: bool = True) -> bytes:
    return frame(HEADERS, END_HEADERS | (END if ended else 0), stream, block(fields))


def data(stream: int, payload: bytes, ended: bool = False) -> bytes:
    return frame(DATA, END if ended else 0, stream, payload)


def rst(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs))


def ping(ack: bool = False) -> bytes:
    return frame(PING, 1 if ack else 0, 0, b"12345678")


def goaway(last: int, code: int = 0) -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))


ACK = frame(SETTINGS, 1, 0)
HELLO = PREFACE + settings() + ACK


def frames(raw: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of whole frames, a preface skipped."""
    found, at = [], 24 if raw.startswith(PREFACE) else 0
    while at < len(raw):
        length = int.from_bytes(raw[at:at + 3], "big")
        payload = raw[at + 9:at + 9 + length]
        assert len(payload) == length, "a frame is cut"
        found.append((raw[at + 3], raw[at + 4], int.from_bytes(raw[at + 5:at + 9], "big"), payload))
        at += 9 + length
    return found


def resets(raw: bytes) -> list[tuple[int, int]]:
    return [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in frames(raw) if kind == RST_STREAM]


def goodbyes(raw: bytes) -> list[tuple[int, int]]:
    """(last stream, code)."""
    return [(int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big"))
            for kind, _, _, payload in frames(raw) if kind == GOAWAY]


def bodies(raw: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for kind, _, stream, payload in frames(raw):
        if kind == DATA:
            found[stream] = found.get(stream, b"") + payload
    return found


def opened_windows(raw: bytes) -> dict[int, int]:
    found: dict[int, int] = {}
    for kind, _, stream, payload in frames(raw):
        if kind == WINDOW_UPDATE:
            found[stream] = found.get(stream, 0) + int.from_bytes(payload, "big")
    return found


def ended(raw: bytes) -> set[int]:
    return {stream for kind, flags, stream, _ in frames(raw) if kind in (DATA, HEADERS) and flags & END}


# ---- ends


class Notes(Streams):
    """Writes down what it is told. `consume`: gives windows back at once. `reply`: answers whole requests; `hold`: but
    never ends the answers."""

    def __init__(self, consume: bool = True, reply: bool = False, hold: bool = False) -> None:
        self.codec: Any = None
        self.calls: list[tuple[Any, ...]] = []
        self.consume = consume
        self.reply = reply
        self.hold = hold

    def opened(self, stream: int, fields: Sequence[tuple[bytes, bytes]], ended: bool) -> None:
        self._note("opened", stream, _plain(fields), ended)
        if ended:
            self._answer(stream)

    def answered(self, stream: int, fields: Sequence[tuple[bytes, bytes]], ended: bool) -> None:
        self._note("answered", stream, _plain(fields), ended)

    def interim(self, stream: int, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self._note("interim", stream, _plain(fields))

    def data(self, stream: int, payload: bytes, ended: bool) -> None:
        assert type(payload) is bytes
        self._note("data", stream, payload, ended)
        if self.consume:
            self.codec.consumed(stream, len(payload))
        if ended:
            self._answer(stream)

    def trailers(self, stream: int, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self._note("trailers", stream, _plain(fields))
        self._answer(stream)

    def cut(self, stream: int, code: int, by_peer: bool) -> None:
        self._note("cut", stream, code, by_peer)

    def settled(self) -> None:
        self._note("settled", 0)

    def going_away(self, last: int, code: int) -> None:
        self._note("going_away", 0, last, code)

    def ponged(self) -> None:
        self._note("ponged", 0)

    def _note(self, *call: Any) -> None:
        self.calls.append(call)

    def _answer(self, stream: int) -> None:
        if self.reply or self.hold:
            self.codec.respond(stream, OK, False)
            self.codec.send(stream, b"fine", not self.hold)

    def of(self, stream: int) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[1] == stream]


def _plain(fields: Sequence[tuple[bytes, bytes]]) -> Fields:
    return [(bytes(name), bytes(value)) for name, value in fields]


class End:
    """One end of a connection: a codec, its notes, and what it has sent."""

    def __init__(self, engine: str, client: bool = False, limits: H2Limits | None = None, hello: bool = True,
                 **user: bool) -> None:
        self.user = Notes(**user)
        self.codec: H2Codec = codec_class(engine)(self.user, client, limits or H2Limits(), 0.0)
        self.user.codec = self.codec
        self.now = 0.0
        self.sent = self.codec.output()
        self.error: ProxyError | None = None
        if hello:
            self.take(settings() + ACK if client else HELLO)
            self.user.calls.clear()
            self.sent = b""

    def take(self, raw: bytes, read: bool = True) -> bytes:
        """Receive, and what is sent then."""
        if self.error is None:
            try:
                self.codec.receive(raw, self.now)
            except ProxyError as error:
                self.error = error
        out = self.codec.output() if read or self.error else b""
        self.sent += out
        return out

    @property
    def calls(self) -> list[tuple[Any, ...]]:
        return self.user.calls


def ways(raw: bytes, seed: int = 1, count: int = 5) -> Iterator[list[bytes]]:
    """The same bytes whole, byte by byte, and cut at random."""
    yield [raw]
    yield [raw[at:at + 1] for at in range(len(raw))]
    rng = random.Random(seed)
    for _ in range(count):
        cuts = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.randint(1, 12)))
        yield [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]


def by_stream(calls: list[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    """What was told of each stream, in order; between streams an engine is free."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for call in calls:
        found.setdefault(call[1], []).append(call)
    return found
