"""An endpoint that may be killed at any moment and started again: a process of its own, on a port that stays.

Every request is written down before it is answered, by one `write` to a file that outlives the process, so that no death
makes it uncounted. As a program (`python mortal.py KIND PORT LIST`) this is the endpoint; it needs nothing of the tests.
An answer is one `write` too: it is there or it is not.
"""
from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path


class Mortal:
    """One endpoint and its lives."""

    def __init__(self, folder: Path, kind: str, port: int) -> None:
        self.port = port
        self._kind = kind
        self._list = folder / f"{port}.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It listens a moment later."""
        self._process = subprocess.Popen([sys.executable, __file__, self._kind, str(self.port), str(self._list)])

    def kill(self) -> None:
        """With SIGKILL: nothing is finished, nothing is said."""
        assert self._process is not None and self._process.poll() is None, "it has died by itself"
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def seen(self) -> Counter[str]:
        """How often each request was begun, in all lives."""
        return Counter(self._list.read_text().split()) if self._list.exists() else Counter()


# --- the program ----------------------------------------------------------------------------------------------------

Note = Callable[[str], None]


class Http(asyncio.Protocol):
    """Requests without bodies, one after the other."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._buffer += data
        while (at := self._buffer.find(b"\r\n\r\n")) >= 0:
            target = self._buffer.split(b" ", 2)[1]
            self._buffer = self._buffer[at + 4:]
            self._note(target.decode())
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))


class Http2(asyncio.Protocol):
    """The same by HTTP/2, with prior knowledge."""

    def __init__(self, note: Note) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection
        self._note = note
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        from h2.events import RequestReceived
        assert self._transport is not None
        for event in self._h2.receive_data(data):
            if isinstance(event, RequestReceived):
                target = next(str(value) for name, value in event.headers or () if str(name) == ":path")
                self._note(target)
                self._h2.send_headers(event.stream_id, [(":status", "200"), ("content-length", str(len(target)))])
                self._h2.send_data(event.stream_id, target.encode(), end_stream=True)
        self._transport.write(self._h2.data_to_send())


class Line(asyncio.Protocol):
    """One line is sent back, then it closes."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._buffer += data
        if self._buffer.endswith(b"\n"):
            self._note(self._buffer.decode().strip())
            self._transport.write(self._buffer)
            self._transport.close()


async def _serve(kind: str, port: int, file: int) -> None:
    made: dict[str, Callable[[Note], asyncio.Protocol]] = {"http": Http, "h2c": Http2, "tcp": Line}
    if kind == "h2c":
        import h2.connection  # noqa: F401  # the slow import comes before it listens

    def note(what: str) -> None:
        os.write(file, f"{what}\n".encode())

    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    server = await asyncio.get_running_loop().create_server(lambda: made[kind](note), sock=sock, backlog=1024)
    await server.serve_forever()


def _main() -> None:
    kind, port, name = sys.argv[1:]
    asyncio.run(_serve(kind, int(port), os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)))


if __name__ == "__main__":
    _main()
