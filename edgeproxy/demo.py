"""`edgeproxy demo`: three tiny backends in this process, http, https and tcp listeners in front, and what to try.

Rules of this file: the backends are for looking at, not for load; they run in a thread of their own, so that the
proxy's loop is as in production. What is printed as a curl line is tested as it is printed.
"""
from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from hashlib import sha1
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from tempfile import TemporaryDirectory
from typing import Any

from edgeproxy import selfsigned
from edgeproxy.codec._leaf import ChunkDecoder, RequestHead, parse_request
from edgeproxy.config.load import load_text
from edgeproxy.config.model import Config

NAMES = ("amber", "blue", "coral")
LOOPBACK = "127.0.0.1"
MAX_HEAD, MAX_FIELDS, PIECE = 64 * 1024, 100, 64 * 1024
MAX_FRAME = 1 << 20
CHUNKED = -1
DAYS = 30
"""Of the certificate: one that ends soon would be warned of."""

CONFIG = """\
listeners:
  web:
    bind: "127.0.0.1:{http}"
    protocol: http
  secure:
    bind: "127.0.0.1:{https}"
    protocol: https
    tls: {{certificates: [{{cert: "{cert}", key: "{key}"}}], default: "{cert}"}}
  relay:
    bind: "127.0.0.1:{tcp}"
    protocol: tcp
    service: all
routes:
  - service: all
  - path: /amber
    service: amber
    rewrite: {{prefix: /}}
  - host: blue.example
    service: blue
  - path: /old
    redirect: {{prefix: /new}}
  - path: {{exact: /ping}}
    respond: {{status: 200, body: "pong\\n"}}
services:
  all: {{endpoints: ["{amber}", "{blue}", "{coral}"]}}
  amber: {{endpoints: ["{amber}"]}}
  blue: {{endpoints: ["{blue}"]}}
access_log: {{format: combined}}
"""

TRY = """
try in another terminal:
  curl http://127.0.0.1:{http}/                          three backends in turn: ask again
  curl http://127.0.0.1:{http}/amber/hello               a route by path; it arrives as /hello
  curl -H 'Host: blue.example' http://127.0.0.1:{http}/  a route by host
  curl -d hello http://127.0.0.1:{http}/echo             the body comes back
  curl -i http://127.0.0.1:{http}/old/page               a redirect
  curl http://127.0.0.1:{http}/ping                      answered by the proxy itself
  curl -k https://localhost:{https}/                    https; nobody knows its certificate (-k: never mind)
  curl -k --http2 -d hello https://localhost:{https}/echo   the same by HTTP/2, if this curl has it
  curl --cacert {cert} https://localhost:{https}/ping  the certificate checked
  curl http://127.0.0.1:{tcp}/                          the tcp listener: each connection to the next backend
  WebSocket echo: ws://127.0.0.1:{http}/ws (websocat, or `new WebSocket(...)` in a browser's console)

ctrl-C ends it; until then each request's line in the access log follows:
"""


def run_demo(wanted: Mapping[str, int], serve: Callable[[Callable[[], Config], Callable[[str], None]], int],
             say: Callable[[str], None]) -> int:
    """Run until interrupted; the proxy's exit status. `wanted`: the ports for http, https and tcp, if they are free."""
    ports = {}
    for name, number in wanted.items():
        ports[name] = free_port(number)
        if ports[name] != number != 0:
            say(f"port {number} cannot be had, taking {ports[name]}")
    with Backends(NAMES) as backends, TemporaryDirectory(prefix="edgeproxy-demo-") as folder:
        files = selfsigned.write(folder, ["localhost", LOOPBACK], DAYS, time.time())
        facts = {**ports, "cert": str(files.cert), "key": str(files.key)}
        config = load_text(CONFIG.format(**facts, **backends.addresses), "<demo>", now=time.time())
        first = threading.Thread(target=_first_requests, args=(facts, say), daemon=True)

        def announce(line: str) -> None:
            say(line)
            if not line.startswith("listening") and not first.ident:  # the last line: what is in use
                first.start()

        say("edgeproxy demo: the backends " +
            ", ".join(f"{name} {address}" for name, address in backends.addresses.items()))
        return serve(lambda: config, announce)


def free_port(wanted: int) -> int:
    """`wanted` if it can be listened on, else one that the kernel gives."""
    for port in (wanted, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((LOOPBACK, port))
                sock.listen()
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise OSError("no port of the loopback address is free")


def _first_requests(facts: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """A few requests through the proxy, told, so that what follows is known to work."""
    say("")
    for name, path in (("http", "/"), ("http", "/amber/hello"), ("https", "/"), ("tcp", "/")):
        url = f"{'https' if name == 'https' else 'http'}://{LOOPBACK}:{facts[name]}{path}"
        try:
            if name == "https":
                trust = ssl.create_default_context(cafile=facts["cert"])
                connection: HTTPConnection = HTTPSConnection(LOOPBACK, facts[name], timeout=5, context=trust)
            else:
                connection = HTTPConnection(LOOPBACK, facts[name], timeout=5)
            connection.request("GET", path)
            answer = connection.getresponse()
            line = answer.read().decode("latin-1").partition("\n")[0]
            connection.close()
        except (OSError, HTTPException) as error:
            say(f"GET {url} failed: {error}")
            return
        say(f"GET {url} -> {answer.status} {line}")
    say(TRY.format(**facts).rstrip("\n"))


# ---- the backends

class Backends:
    """A server for each name on a loopback port, in one thread, from entering to leaving the `with` block."""

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses: dict[str, str] = {}
        self._names = names
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-backends", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event

    def __enter__(self) -> Backends:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(2)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        servers = []
        for name in self._names:
            backend = Backend(name)
            server = await asyncio.start_server(backend.connected, LOOPBACK, 0)
            servers.append(server)
            self.addresses[name] = f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._end.wait()
        for server in servers:
            server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


class Backend:
    """Tells its name and what it got, sends bodies back, and echoes WebSocket frames."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = _Stream(reader, writer)
        try:
            while (head := await stream.head()) is not None:
                if (head.upgrade or "").lower() == "websocket":
                    await self._websocket(head, stream)
                    return
                await self._answer(head, stream)
                if not head.keep_alive:
                    return
        except ValueError:  # not HTTP, or a WebSocket client that breaks the rules
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: RequestHead, stream: _Stream) -> None:
        kind = (head.get(b"content-type") or b"text/plain") if self._echoes(head) else b"text/plain; charset=latin-1"
        if head.expect:
            await stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await stream.send(b"HTTP/1.1 200 OK\r\nServer: %b\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
                          % (self.name.encode(), kind))
        silent = head.method == "HEAD"
        if not self._echoes(head) and not silent:
            await stream.send_chunk(self._seen(head))
        async for piece in stream.body(head):
            if not silent:
                await stream.send_chunk(piece)
        if not silent:
            await stream.send(b"0\r\n\r\n")

    @staticmethod
    def _echoes(head: RequestHead) -> bool:
        return head.path.endswith("/echo")

    def _seen(self, head: RequestHead) -> bytes:
        lines = [f"{self.name} got {head.method} {head.target}".encode("latin-1")]
        lines += [b"  %b: %b" % field for field in head.fields()]
        return b"\n".join(lines) + b"\n"

    async def _websocket(self, head: RequestHead, stream: _Stream) -> None:
        """RFC 6455: a greeting, then every frame back as it came; close and ping as the RFC says."""
        key = head.get(b"sec-websocket-key") or b""
        accept = b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())
        await stream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                          b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept)
        await stream.send(frame(0x81, b"hello from " + self.name.encode()))
        while True:
            first, second = await stream.exactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(await stream.exactly(2 if length == 126 else 8), "big")
            if not second & 0x80 or length > MAX_FRAME:
                await stream.send(frame(0x88, (1009 if second & 0x80 else 1002).to_bytes(2, "big")))
                return
            mask = await stream.exactly(4)
            payload = unmasked(await stream.exactly(length), mask)
            opcode = first & 0x0F
            await stream.send(frame(0x8A if opcode == 9 else first, payload))
            if opcode == 8:
                return


def frame(first: int, payload: bytes) -> bytes:
    """A WebSocket frame of a server: its first byte, the length, the payload unmasked."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def unmasked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


class _Stream:
    """One connection of a backend."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._data = b""

    async def head(self) -> RequestHead | None:
        """The next request's head; None at the end. Raises ValueError."""
        while (head := parse_request(self._data, MAX_HEAD, MAX_FIELDS)) is None:
            if not await self._more():
                return None
        self._data = self._data[head.size:]
        return head

    async def body(self, head: RequestHead) -> AsyncIterator[bytes]:
        decoder = ChunkDecoder(MAX_HEAD) if head.length == CHUNKED else None
        left = head.length
        while left > 0 if decoder is None else not decoder.done:
            if not self._data and not await self._more():
                raise asyncio.IncompleteReadError(b"", None)
            if decoder is None:
                piece, self._data = self._data[:left], self._data[left:]
                left -= len(piece)
            else:
                piece = decoder.feed(self._data)
                self._data = self._data[decoder.consumed:]
            if piece:
                yield piece

    async def exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            if not await self._more():
                raise asyncio.IncompleteReadError(b"", size)
        found, self._data = self._data[:size], self._data[size:]
        return found

    async def _more(self) -> bool:
        data = await self._reader.read(PIECE)
        self._data += data
        return bool(data)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def send_chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))
