"""Load that notices everything: clients that check each answer, in a thread with a loop of its own.

wrk is faster, but it only counts; these say what went wrong, and they know when a connection may be closed.
"""
from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
import threading
from dataclasses import dataclass, field

from e2e.waiting import PATIENCE


@dataclass
class Tally:
    """What became of the requests. `closed`: connections that were closed between requests, which is fair."""

    good: int = 0
    closed: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)


class Load:
    """`clients` connections ask one request after the other until `stop`; answers must be 200 and hold `expect`."""

    def __init__(self, port: int, clients: int = 8, target: str = "/", expect: bytes = b"",
                 new_connections: bool = False, tls: ssl.SSLContext | None = None, name: str = "load.invalid") -> None:
        """With `tls` over TLS to `name`; a handshake that fails is a request that failed."""
        self.tally = Tally()
        self._port = port
        self._clients = clients
        self._request = f"GET {target} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
        self._tls = tls
        self._name = name
        self._expect = expect
        self._once = new_connections
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Tally:
        """End after the requests under way; what became of all."""
        self._stopping.set()
        self._thread.join(PATIENCE * 2)
        assert not self._thread.is_alive(), "a request never ended"
        return self.tally

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        while not self._stopping.is_set():
            try:
                reader, writer = await self._open()
            except ssl.SSLError as fault:
                self.tally.failed.append(f"no handshake: {fault!r}")
                continue
            except OSError:
                self.tally.refused += 1
                await asyncio.sleep(0.01)
                continue
            try:
                await self._talk(reader, writer)
            finally:
                writer.transport.abort()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._tls is None:
            return await asyncio.open_connection("127.0.0.1", self._port)
        return await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls, server_hostname=self._name)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tally = self.tally
        served = False
        while not self._stopping.is_set():
            started = b""
            try:
                writer.write(self._request)
                started = await reader.read(1)
                if not started:
                    raise ConnectionResetError("closed without an answer")
                head = started + await reader.readuntil(b"\r\n\r\n")
                body = await self._body(reader, head)
            except (OSError, asyncio.IncompleteReadError) as fault:
                # A keep-alive connection may be closed while the next request is on its way: a client asks again.
                # A new one that was accepted and then closed without an answer is a request that was cut.
                if started or not served:
                    tally.failed.append(f"{fault!r} after {started!r}")
                else:
                    tally.closed += 1
                return
            if not head.startswith(b"HTTP/1.1 200 ") or self._expect not in body:
                tally.failed.append(f"{head[:120]!r} {body[:120]!r}")
            else:
                tally.good += 1
                served = True
            if self._once or b"\r\nConnection: close\r\n" in head:
                return

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        at = head.lower().find(b"\r\ncontent-length: ")
        assert at >= 0, head
        return await reader.readexactly(int(head[at + 18:head.find(b"\r\n", at + 2)]))


def wrk(port: int, seconds: float, connections: int = 16) -> dict[str, int]:
    """Run wrk; (requests, bad answers, socket errors) as it counts them."""
    program = shutil.which("wrk")
    assert program, "wrk is needed (Debian: apt-get install wrk)"
    done = subprocess.run([program, "-t1", f"-c{connections}", f"-d{seconds:g}s", f"http://127.0.0.1:{port}/"],
                          capture_output=True, text=True, timeout=seconds + 10, check=True)

    def number(pattern: str) -> int:
        found = re.search(pattern, done.stdout)
        return sum(int(group) for group in found.groups()) if found else 0

    return {"requests": number(r"(\d+) requests in"), "bad": number(r"Non-2xx or 3xx responses: (\d+)"),
            "errors": number(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")}
