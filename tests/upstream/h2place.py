"""A scripted HTTP/2 endpoint: the server's role of the codec on a real connection, and `H2World` with a service of such.

It reads only while something is waited for, so that a test can leave the proxy unread; `raw` says what no codec would.
"""
from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgeproxy.codec import h2
from edgeproxy.codec.h2 import H2Limits, Streams
from edgeproxy.codec.h2_base import H2Codec
from edgeproxy.config import model
from edgeproxy.upstream.http2 import Http2Connection
from edgeproxy.upstream.shared import Shared
from fakes import Place, Talk, World, back, to_back
from net.rig import Endpoint, soon

Pairs = list[tuple[bytes, bytes]]
CANCEL, REFUSED_STREAM = 8, 7


def _engines() -> list[Any]:
    found = []
    for name, module, kind in (("ngh2", "h2_ngh2", "Ngh2Codec"), ("h2", "h2_hyper", "HyperCodec")):
        try:
            loaded = __import__(f"edgeproxy.codec.{module}", fromlist=[kind])
        except ImportError:
            continue
        found.append(pytest.param(getattr(loaded, kind), id=name))
    return found


@pytest.fixture(params=_engines(), autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every test runs with each engine on both sides."""
    monkeypatch.setattr(h2, "_engine", request.param)
    return request.param


@dataclass
class Asked:
    """One request as the endpoint sees it."""

    stream: int
    pairs: Pairs
    ended: bool
    body: bytes = b""
    trailers: Pairs = field(default_factory=list)
    reset: int | None = None

    def __getitem__(self, name: str) -> str:
        return ", ".join(v.decode() for n, v in self.pairs if n == name.encode())


class H2Talk(Talk, Streams):
    """The endpoint's side of one connection."""

    def __init__(self, sock: socket.socket, limits: H2Limits | None = None) -> None:
        super().__init__(sock)
        self.codec: H2Codec = h2.build_codec(self, False, limits or H2Limits(), self.loop.time())
        self.asked: list[Asked] = []
        self.gone = False
        """The proxy has said GOAWAY."""
        self.piece = 1 << 30
        self.greedy = True
        """Windows are opened as bytes come."""

    # ---- what came

    def opened(self, stream: int, fields: Any, ended: bool) -> None:
        self.asked.append(Asked(stream, [(bytes(n), bytes(v)) for n, v in fields], ended))

    def data(self, stream: int, payload: bytes, ended: bool) -> None:
        asked = self.of(stream)
        asked.body += payload
        asked.ended = ended
        if self.greedy:
            self.codec.consumed(stream, len(payload))

    def trailers(self, stream: int, fields: Any) -> None:
        asked = self.of(stream)
        asked.trailers = [(bytes(n), bytes(v)) for n, v in fields]
        asked.ended = True

    def cut(self, stream: int, code: int, by_peer: bool) -> None:
        self.of(stream).reset = code

    def going_away(self, last: int, code: int) -> None:
        self.gone = True

    def of(self, stream: int) -> Asked:
        return next(a for a in self.asked if a.stream == stream)

    # ---- reading and writing

    async def say(self) -> None:
        data = self.codec.output()
        if data:
            await self.send(data)

    async def raw(self, data: bytes) -> None:
        await self.say()
        await self.send(data)

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), self.piece):
            await super().send(data[at:at + self.piece])
            if len(data) > self.piece:
                await asyncio.sleep(0)

    async def hear(self) -> bool:
        """Read once; False at EOF."""
        await self.say()
        data = await self.pull()
        if data:
            self.codec.receive(data, self.loop.time())
            await self.say()
        return bool(data)

    async def pull(self) -> bytes:
        return await soon(self.loop.sock_recv(self.sock, 1 << 18))

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            assert await self.hear(), "EOF"

    async def request(self, number: int = 0, whole: bool = True) -> Asked:
        """The request that came as the `number`th."""
        await self.until(lambda: len(self.asked) > number and (self.asked[number].ended or not whole))
        return self.asked[number]

    async def during(self, story: Awaitable[Any]) -> None:
        """Read on until `story` is over."""
        waiting = asyncio.ensure_future(story)
        while not waiting.done():
            await self.say()
            try:
                data = self.sock.recv(1 << 18)
            except BlockingIOError:
                await asyncio.sleep(0)
            else:
                assert data, "EOF"
                self.codec.receive(data, self.loop.time())
        await waiting

    async def ended(self) -> bytes:
        try:
            while await self.hear():
                pass
        except OSError:
            pass
        return b""

    # ---- answers

    async def head(self, stream: int, status: int = 200, ended: bool = False, **fields: str) -> None:
        self.codec.respond(stream, [(b":status", b"%d" % status), *named(fields)], ended)
        await self.say()

    async def interim(self, stream: int, status: int) -> None:
        self.codec.respond_interim(stream, [(b":status", b"%d" % status)])
        await self.say()

    async def body(self, stream: int, payload: bytes, ended: bool = False) -> None:
        self.codec.send(stream, payload, ended)
        await self.say()

    async def tail(self, stream: int, **fields: str) -> None:
        self.codec.send_trailers(stream, named(fields))
        await self.say()

    async def reset_stream(self, stream: int, code: int) -> None:
        self.codec.reset(stream, code)
        await self.say()

    async def answer(self, stream: int, payload: bytes = b"", status: int = 200, **fields: str) -> None:
        self.codec.respond(stream, [(b":status", b"%d" % status), *named(fields)], not payload)
        if payload:
            self.codec.send(stream, payload, True)
        await self.say()

    async def serve(self, number: int = 0, payload: bytes = b"", status: int = 200, **fields: str  # type: ignore[override]
                    ) -> Asked:
        asked = await self.request(number)
        await self.answer(asked.stream, payload, status, **fields)
        return asked


def named(fields: dict[str, str]) -> Pairs:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def goaway(last: int, code: int = 0) -> bytes:
    return frame(7, 0, 0, struct.pack("!II", last, code))


async def h2_accepted(place: Place, limits: H2Limits | None = None, piece: int = 1 << 30) -> H2Talk:
    """The next connection to `place`, what it sends in pieces; the proxy waits for its SETTINGS: it gets them at once."""
    assert isinstance(place, Endpoint)
    sock, _ = await soon(asyncio.get_running_loop().sock_accept(place.sock))
    talk = H2Talk(sock, limits)
    talk.piece = piece
    place.accepted.append(talk)
    await talk.say()
    return talk


class H2World(World):
    """A route to one service of HTTP/2 endpoints."""

    def __init__(self, *places: Place, service: dict[str, Any] | None = None, **route: Any) -> None:
        parts: dict[str, Any] = {"protocol": "h2c", "eject": model.Eject(0)} | (service or {})
        super().__init__(places, (to_back(**route),), back(*places, **parts))

    def shared(self, number: int = 0) -> Shared:
        pool = self.members[number].pool
        assert isinstance(pool, Shared)
        return pool

    def connections(self, number: int = 0) -> list[Http2Connection]:
        return self.shared(number).connections

    async def __aenter__(self) -> H2World:
        return self
