"""Who reads late still gets everything, and its end: nothing is stuck when a paused direction goes on.

What one watches with edge-triggered events is lost for ever if it is overlooked once; these are the places for it.
"""
from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import pytest

from e2e.backends import StartActor, StartStage
from e2e.program import StartEdge, free_port, tcp, web
from e2e.streams import pieces, read_stream, send_stream
from e2e.waiting import PATIENCE
from e2e.wire import Dial, End, Wire, connect

pytestmark = pytest.mark.alone

SIZE = 6 * 1024 * 1024
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


def _checksum(size: int) -> int:
    checksum = 0
    for piece in pieces(size):
        checksum = zlib.crc32(piece, checksum)
    return checksum


def _answer(framing: str, finished: threading.Event) -> Callable[[Wire], None]:
    """A script: a large answer, and FIN right behind it."""
    def script(wire: Wire) -> None:
        wire.request()
        if framing == "length":
            wire.send(f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")
        elif framing == "chunked":
            wire.send(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{SIZE:x}\r\n")
        else:
            wire.send("HTTP/1.1 200 OK\r\n\r\n")
        send_stream(wire, SIZE)
        if framing == "chunked":
            wire.send("\r\n0\r\n\r\n")
        wire.close()
        finished.set()
    return script


@LOOPS
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_response(edge: StartEdge, actor: StartActor, dial: Dial, framing: str, loop: str) -> None:
    finished = threading.Event()
    port = free_port()
    proxy = edge(web(port, actor(_answer(framing, finished)).port), {"EDGEPROXY_LOOP": loop})
    client = dial(port, small=True)
    client.send("GET / HTTP/1.0\r\nHost: x.invalid\r\n\r\n")  # the end of each is FIN: no framing to be read here
    client.until(b"\r\n\r\n")
    finished.wait(0.3)  # as far as it comes while nobody reads
    assert read_stream(client, SIZE) == _checksum(SIZE)
    assert client.ending() == (b"", End.FIN)
    assert proxy.entry()["outcome"] == "ok"


@LOOPS
@pytest.mark.parametrize("who", ["client", "endpoint"])
def test_tcp(edge: StartEdge, actor: StartActor, dial: Dial, who: str, loop: str) -> None:
    """One side sends everything and closes at once; the other begins to read only then."""
    sent = threading.Event()
    result: dict[str, object] = {}
    done = threading.Event()

    def script(wire: Wire) -> None:
        if who == "endpoint":
            send_stream(wire, SIZE)
            wire.half_close()
            sent.set()
            result["rest"] = wire.ending()
        else:
            sent.wait(0.3)
            result["checksum"] = read_stream(wire, SIZE)
            result["rest"] = wire.ending()
            wire.send(b"thanks")
            wire.half_close()
        done.set()

    port = free_port()
    edge(tcp(port, actor(script).port), {"EDGEPROXY_LOOP": loop})
    client = dial(port, small=True)
    if who == "endpoint":
        sent.wait(0.3)
        assert read_stream(client, SIZE) == _checksum(SIZE)
        assert client.ending() == (b"", End.FIN)
        client.half_close()
    else:
        assert send_stream(client, SIZE) == _checksum(SIZE)
        client.half_close()
        sent.set()
        assert client.ending() == (b"thanks", End.FIN)
        assert result["checksum"] == _checksum(SIZE)
    assert done.wait(PATIENCE)
    assert result["rest"] == (b"", End.FIN)


@LOOPS
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kind", ["tcp", "tunnel"])
def test_small_pieces_to_who_does_not_read(
        edge: StartEdge, stage: StartStage, dial: Dial, direction: str, kind: str, loop: str) -> None:
    """Until nothing more is taken: the last piece is taken in part, and its rest comes later."""
    endpoint, port = stage(small=True), free_port()
    edge((web if kind == "tunnel" else tcp)(port, endpoint.port), {"EDGEPROXY_LOOP": loop})
    client = dial(port, small=True)
    if kind == "tunnel":
        client.get("/", "x.invalid", "Connection: Upgrade", "Upgrade: custom")
        server = endpoint.accept()
        server.request()
        server.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n")
        assert client.response().status == 101
    else:
        server = endpoint.accept()
    sender, reader = (client, server) if direction == "up" else (server, client)
    sent = bytearray()
    sender.sock.settimeout(0.2)
    with suppress(TimeoutError):
        for number in count():
            piece = b"%07d" % number * 701
            sent += piece[:sender.sock.send(piece)]
    assert reader.exactly(len(sent)) == sent


@LOOPS
def test_more_large_transfers_than_the_proxy_has_pipes(
        edge: StartEdge, actor: StartActor, dial: Dial, loop: str) -> None:
    def script(wire: Wire) -> None:
        wire.exactly(1)
        send_stream(wire, SIZE)
        wire.half_close()
        wire.ending()

    port = free_port()
    edge(tcp(port, actor(script).port), {"EDGEPROXY_LOOP": loop})
    clients = [dial(port, small=True) for _ in range(40)]
    for client in clients:
        client.send(b"x")
    wanted = _checksum(SIZE)
    for client in clients:  # the others wait meanwhile, each in the middle of its transfer
        assert read_stream(client, SIZE) == wanted
        assert client.ending() == (b"", End.FIN)


class Moody:
    """Moves a stream in pieces of any size, with pauses now and then."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def send(self, wire: Wire, data: memoryview) -> None:
        at = 0
        while at < len(data):
            size = self._rng.choice([1, 100, 1460, 4096, 70_000, 300_000])
            wire.sock.sendall(data[at:at + size])
            at += size
            self._pause()

    def read(self, wire: Wire, size: int) -> bytes:
        out, wire.buffer = bytearray(wire.buffer[:size]), wire.buffer[size:]
        while len(out) < size:
            data = wire.sock.recv(min(size - len(out), self._rng.choice([1, 1000, 16_384, 262_144])))
            assert data, f"FIN after {len(out)} of {size} bytes"
            out += data
            self._pause()
        return bytes(out)

    def _pause(self) -> None:
        if self._rng.random() < 0.02:
            threading.Event().wait(self._rng.random() * 0.02)


@LOOPS
@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_moody_peers(edge: StartEdge, actor: StartActor, loop: str, kind: str) -> None:
    """Two dozen transfers at once, both directions at the same time, every reader and writer in its own time."""
    def size_of(seed: int) -> int:
        return random.Random(seed).choice([0, 1, 5_000, 65_536, 300_000, 1_500_000])

    block = random.Random(1).randbytes(1_500_000)

    def script(wire: Wire) -> None:
        if kind == "http":
            head = wire.request(body=False)
            seed = int(head.target[1:])
        else:
            seed = int(wire.until(b"\n"))
        mood, size = Moody(seed + 1000), size_of(seed)
        echo = threading.Thread(target=lambda: mood.send(wire, memoryview(block)[:size]))
        if kind == "http":  # one byte more, that waits for the whole request: else it would be an early answer
            wire.send(f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {size + 1}\r\n\r\n")
        echo.start()
        assert Moody(seed + 2000).read(wire, size) == block[:size]
        echo.join(30)
        if kind == "http":
            wire.send(b".")

    port = free_port()
    text = web if kind == "http" else tcp
    edge(text(port, actor(script).port, service="eject: {failures: 0}"), {"EDGEPROXY_LOOP": loop})
    wrong: list[object] = []

    def client(seed: int) -> None:
        try:
            with connect(port, seconds=20) as wire:
                size = size_of(seed)
                wire.send(f"POST /{seed} HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: {size}\r\n\r\n"
                          if kind == "http" else f"{seed}\n")
                sender = threading.Thread(target=lambda: Moody(seed + 3000).send(wire, memoryview(block)[:size]))
                sender.start()
                if kind == "http":
                    head = wire.until(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200 "), head
                assert Moody(seed + 4000).read(wire, size) == block[:size]
                sender.join(20)
                if kind == "http":
                    assert wire.exactly(1) == b"."
        except BaseException as fault:
            wrong.append((seed, fault))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert wrong == []
