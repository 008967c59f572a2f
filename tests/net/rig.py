"""Real sockets on loopback, on both loops: what the tests of raw-socket code share.

Nothing sleeps: a step waits for its event with a limit, or lets the loop turn until a condition holds.
"""
from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import uvloop

from edgeproxy.config import model
from edgeproxy.net.poller import Poller
from edgeproxy.session import splice
from edgeproxy.session.acceptor import Acceptor, ConnectionLimit
from edgeproxy.session.tcp import TcpListener, TcpRecord, TcpSession
from edgeproxy.upstream.service import Service

T = TypeVar("T")
LIMIT = 10.0

both_loops = pytest.mark.parametrize("run", [
    pytest.param(lambda main: _run(asyncio.new_event_loop, main), id="asyncio"),
    pytest.param(lambda main: _run(uvloop.new_event_loop, main), id="uvloop"),
])
Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


def _run(factory: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    problems: list[dict[str, Any]] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
        await soon(main(), 60.0)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(guarded())
    assert problems == [], "an exception escaped a callback"


async def soon(step: Awaitable[T], limit: float = LIMIT) -> T:
    return await asyncio.wait_for(step, limit)


async def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Let the loop turn until `condition` holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while not condition():
        assert loop.time() < end, "the condition did not come true in time"
        await asyncio.sleep(0)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def leaves_nothing_open(run: Run, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main`; every descriptor it opened must be closed again."""
    async def nothing() -> None:
        async with Relay(Endpoint()) as relay:
            await relay.pair()

    run(nothing)  # a loop's first use opens what the process keeps
    splice.PIPES.close()
    before = open_descriptors()
    run(main)
    splice.PIPES.close()
    assert open_descriptors() == before


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Peer:
    """One end of a connection, as a client or an endpoint has it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await soon(self.loop.sock_sendall(self.sock, data))

    async def receive(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        data = bytearray()
        while len(data) < size:
            piece = await soon(self.loop.sock_recv(self.sock, min(size - len(data), 1 << 20)))
            assert piece, f"EOF after {len(data)} bytes"
            data += piece
        return bytes(data)

    async def ended(self) -> bytes:
        """What comes until EOF."""
        data = bytearray()
        while piece := await soon(self.loop.sock_recv(self.sock, 1 << 20)):
            data += piece
        return bytes(data)

    async def was_reset(self) -> bytes:
        """What comes until RST; EOF instead is a failure."""
        data = bytearray()
        while True:
            try:
                piece = await soon(self.loop.sock_recv(self.sock, 1 << 20))
            except ConnectionResetError:
                return bytes(data)
            assert piece, "EOF where a RST was due"
            data += piece

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        reset(self.sock)

    def close(self) -> None:
        self.sock.close()


class Endpoint:
    """A listening socket that a service can name."""

    def __init__(self, path: str = "", host: str = "127.0.0.1") -> None:
        family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.bind(path or (host, 0))
        self.sock.listen(512)
        self.sock.setblocking(False)
        self.address = model.EndpointAddress(path=path) if path else \
            model.EndpointAddress(host, self.sock.getsockname()[1])
        self.accepted: list[Peer] = []

    async def accept(self) -> Peer:
        sock, _ = await soon(asyncio.get_running_loop().sock_accept(self.sock))
        self.accepted.append(Peer(sock))
        return self.accepted[-1]

    def close(self) -> None:
        self.sock.close()
        for peer in self.accepted:
            peer.close()


class Refusing:
    """An address where nobody listens: bound, so that nobody else gets it."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.address = model.EndpointAddress("127.0.0.1", self.sock.getsockname()[1])

    def close(self) -> None:
        self.sock.close()


class Silent:
    """An address that never answers a SYN: its queue is full and nobody accepts."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(0)
        self.address = model.EndpointAddress("127.0.0.1", self.sock.getsockname()[1])
        self.fillers: list[socket.socket] = []
        while not self.fillers or select.select([], [self.fillers[-1]], [], 0)[1]:
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self.sock.getsockname())
            self.fillers.append(filler)

    def close(self) -> None:
        for sock in (*self.fillers, self.sock):
            sock.close()


class Relay:
    """A tcp listener on loopback with one service, as the program puts them together."""

    def __init__(self, *endpoints: Endpoint | Refusing | Silent, timeouts: model.ListenerTimeouts | None = None,
                 service: model.Service | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.endpoints = endpoints
        self.poller = Poller(self.loop)
        front = model.Listener("front", (), "tcp", service="back", timeouts=timeouts or model.ListenerTimeouts())
        self.listener = TcpListener(front, self.poller)
        base = service or model.Service("back")
        config = replace(base, name="back", endpoints=tuple(e.address for e in endpoints))
        self.service = Service(self.loop, config, random.Random(1))
        self.limit = ConnectionLimit(10_000)
        self.sessions: list[TcpSession] = []
        self.records: list[TcpRecord] = []
        self.clients: list[Peer] = []
        self.lines: list[str] = []
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(1024)
        self.sock.setblocking(False)
        self.acceptor = Acceptor(self.loop, self.sock, self._connected, self.limit, self.lines.append)
        self.acceptor.start()

    def _connected(self, sock: socket.socket, peer: str) -> None:
        self.sessions.append(
            TcpSession(self.loop, sock, peer, self.listener, self.service, self._ended))

    def _ended(self, record: TcpRecord) -> None:
        self.limit.release()
        self.records.append(record)

    async def client(self, first: bytes = b"", finish: bool = False) -> Peer:
        sock = socket.socket()
        sock.connect(self.sock.getsockname())  # at once: the kernel's queue takes it, the relay has not run yet
        peer = Peer(sock)
        self.clients.append(peer)
        if first:
            await peer.send(first)
        if finish:
            peer.finish()
        return peer

    async def pair(self) -> tuple[Peer, Peer]:
        """A client and its endpoint's side, relayed."""
        client = await self.client()
        endpoint = self.endpoints[0]
        assert isinstance(endpoint, Endpoint)
        return client, await endpoint.accept()

    async def record(self, number: int = 1) -> TcpRecord:
        """The record of the connection that ended as the `number`th."""
        await until(lambda: len(self.records) >= number)
        return self.records[number - 1]

    def close(self) -> None:
        self.acceptor.close()
        for session in self.sessions:
            session.abort()
        for thing in (*self.clients, *self.endpoints):
            thing.close()
        self.poller.close()

    async def __aenter__(self) -> Relay:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await until(lambda: len(self.records) == len(self.sessions))
        assert len(self.records) == len(self.sessions), "a session told its end twice"
        assert self.limit.taken == 0
        assert [m.active for m in self.service.view.members] == [0] * len(self.service.view.members)
