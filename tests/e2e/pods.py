"""Endpoints as a headless name has them: the same port at many addresses of loopback, that come and go; and visitors,
clients that remember for every request when it began, how long it took and who answered.

    pods = Pods()                      # on 127.x.y.0/24, which no other test has
    pods.start(1, 2)                   # pods.at(1) and pods.at(2) answer now, with their address as the body
    pods.stop(2)                       # as a good server ends: listens no more, idle connections are closed at once,
                                       # what is being answered is answered

`/slow` is answered in two halves, the second one when `release` is called. A relay's connection (`greeting=True`) gets
a line with the address, then its own bytes back.
"""
from __future__ import annotations

import asyncio
import random
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pytest

from e2e.program import free_port
from e2e.waiting import PATIENCE, eventually

_taken: set[str] = set()


def _network() -> str:
    """Three numbers of 127/8 for one test alone, also beside another run of the tests."""
    while True:
        network = f"127.{random.randrange(10, 250)}.{random.randrange(256)}"
        if network not in _taken:
            _taken.add(network)
            return network


class Pods:
    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None, greeting: bool = False) -> None:
        """`port` 0: a free one. The fields X-Host and X-Sni of an answer tell what was asked for."""
        self.network = _network()
        self.port = port or free_port()
        self.served: Counter[str] = Counter()
        """Requests by address; connections, of a relay."""
        self.sockets: Counter[str] = Counter()
        """Connections by address, over all the time."""
        self._tls = tls
        self._greeting = greeting
        self._names: dict[ssl.SSLObject, str] = {}
        if tls is not None:
            tls.sni_callback = lambda tls_object, name, _: self._named(tls_object, name)
        self._servers: dict[str, asyncio.Server] = {}
        self._idle: dict[str, set[asyncio.StreamWriter]] = {}
        self._busy: dict[str, set[asyncio.StreamWriter]] = {}
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pods", daemon=True)
        self._thread.start()

    def _named(self, tls_object: ssl.SSLObject, name: str | None) -> None:
        self._names[tls_object] = name or ""

    def at(self, number: int | str) -> str:
        """The address of that number; an address is itself."""
        return number if isinstance(number, str) else f"{self.network}.{number}"

    def start(self, *numbers: int | str) -> None:
        """Those that run already go on."""
        for number in numbers:
            self._do(partial(self._open, self.at(number)))

    def stop(self, *numbers: int | str) -> None:
        for number in numbers:
            self._do(partial(self._shut, self.at(number), False))

    def kill(self, *numbers: int | str) -> None:
        """At once, in the middle of whatever it does."""
        for number in numbers:
            self._do(partial(self._shut, self.at(number), True))

    def release(self) -> None:
        """The slow answers are finished."""
        self._loop.call_soon_threadsafe(self._released.set)

    def close(self) -> None:
        self.kill(*list(self._servers))
        self._do(self._finish)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._loop.close()

    def _do(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            result = work()
            if asyncio.iscoroutine(result):
                await result

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    async def _open(self, address: str) -> None:
        if address in self._servers:
            return
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones have it then, which asyncio forgets
        try:
            sock.bind((address, self.port))
        except OSError as fault:
            sock.close()
            if isinstance(fault, PermissionError):
                pytest.skip(f"port {self.port} needs more rights")
            raise
        self._idle.setdefault(address, set())
        self._busy.setdefault(address, set())

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(address, reader, writer)

        self._servers[address] = await asyncio.start_server(serve, sock=sock, ssl=self._tls, backlog=512)

    def _shut(self, address: str, now: bool) -> None:
        server = self._servers.pop(address, None)
        if server is not None:
            server.close()
        for writer in list(self._idle[address]):
            if now:
                writer.transport.abort()
            else:
                writer.close()
        for writer in list(self._busy[address]) if now else ():
            writer.transport.abort()

    async def _finish(self) -> None:
        tasks = [task for task in asyncio.all_tasks(self._loop) if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _serve(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sockets[address] += 1
        self._idle[address].add(writer)
        try:
            if self._greeting:
                await self._echo(address, reader, writer)
            else:
                await self._answer_all(address, reader, writer)
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self._idle[address].discard(writer)
            self._busy[address].discard(writer)
            writer.close()

    async def _echo(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._idle[address].discard(writer)  # a relay is never idle: it ends when its peers say so
        self._busy[address].add(writer)
        self.served[address] += 1
        writer.write(f"{address}\n".encode())
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _answer_all(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while address in self._servers:
            head = await reader.readuntil(b"\r\n\r\n")
            self._idle[address].discard(writer)
            self._busy[address].add(writer)
            await self._answer(address, head, writer)
            self._busy[address].discard(writer)
            self._idle[address].add(writer)

    async def _answer(self, address: str, head: bytes, writer: asyncio.StreamWriter) -> None:
        self.served[address] += 1
        hosts = re.findall(rb"\r\nHost: ([^\r]*)\r\n", head, re.IGNORECASE)
        assert len(hosts) == 1, head
        tls_object = writer.get_extra_info("ssl_object")
        sni = self._names.get(tls_object, "") if tls_object is not None else ""
        slow = head.startswith(b"GET /slow ")
        body = address.encode() + (b"+" + address.encode() if slow else b"")
        fields = f"X-Pod: {address}\r\nX-Host: {hosts[0].decode()}\r\nX-Sni: {sni}\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode())
        if slow:
            half = len(address)
            writer.write(body[:half])
            await self._released.wait()
            body = body[half:]
        writer.write(body)
        await writer.drain()


# ---- clients

@dataclass(frozen=True)
class Visit:
    """One request."""

    began: float
    """time.monotonic()"""
    took: float
    """Seconds."""
    status: int
    """0: there was no answer."""
    who: str
    """The endpoint's address; of another status the first line, without an answer the fault."""
    why: str
    """Proxy-Status."""

    @property
    def ended(self) -> float:
        return self.began + self.took


class Visitors:
    """`clients` connections that ask one request after the other, with a short pause, until `stop`."""

    def __init__(self, port: int, clients: int = 3, new_connections: bool = False, pause: float = 0.01) -> None:
        """`new_connections`: each request on one of its own, as it must be for a tcp listener."""
        self.visits: list[Visit] = []
        self._port = port
        self._clients = clients
        self._once = new_connections
        self._pause = pause
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="visitors", daemon=True)

    def __enter__(self) -> Visitors:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Visit]:
        self._stopping.set()
        self._thread.join(PATIENCE * 2)
        assert not self._thread.is_alive(), "a request never ended"
        return self.visits

    # ---- what they saw

    @property
    def failed(self) -> list[Visit]:
        return [visit for visit in tuple(self.visits) if visit.status != 200]

    @property
    def longest(self) -> float:
        """Seconds."""
        return max(visit.took for visit in tuple(self.visits))

    def seen(self, since: float = 0.0, until: float = float("inf")) -> set[str]:
        """Who answered the requests that began in that time."""
        return {visit.who for visit in tuple(self.visits) if since <= visit.began < until}

    def first_of(self, who: str, since: float = 0.0) -> float:
        """When the first request of those that `who` answered had ended."""
        return min(visit.ended for visit in tuple(self.visits) if visit.who == who and visit.began >= since)

    def last_of(self, who: str) -> float:
        """When the last request of those that `who` answered began; 0: never."""
        return max((visit.began for visit in tuple(self.visits) if visit.who == who), default=0.0)

    def until_more(self, count: int = 20) -> float:
        """Wait until so many requests that began after now were answered; when that was."""
        began = time.monotonic()
        eventually(lambda: sum(visit.began > began for visit in tuple(self.visits)) >= count, f"{count} requests")
        return began

    def until_seen(self, *who: str, seconds: float = PATIENCE) -> None:
        """Wait until requests that began after now were answered by each of these, whoever else did."""
        began = time.monotonic()
        eventually(lambda: self.seen(began) >= set(who), f"requests are answered by {who}", seconds)

    def until_only(self, *who: str, seconds: float = PATIENCE) -> None:
        """Wait until the last twenty requests were answered by all of these and by nobody else."""
        began = time.monotonic()

        def settled() -> bool:
            last = [visit.who for visit in tuple(self.visits)[-20:] if visit.began > began]
            return len(last) >= 20 and set(last) == set(who)

        try:
            eventually(settled, f"requests are answered by {who} only", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {Counter(visit.who for visit in self.visits[-20:])}") from None

    # ---- asking

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError as fault:
                self.visits.append(Visit(began, time.monotonic() - began, 0, repr(fault), ""))
                await asyncio.sleep(0.05)
                continue
            try:
                await self._talk(reader, writer)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                writer.write(b"GET / HTTP/1.1\r\nHost: visitor.invalid\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
            except (OSError, asyncio.IncompleteReadError) as fault:
                self.visits.append(Visit(began, time.monotonic() - began, 0, repr(fault), ""))
                await asyncio.sleep(0.05)
                return
            status = int(head.split(b" ", 2)[1])
            why = re.search(rb"\r\nproxy-status: ([^\r]*)\r\n", head, re.IGNORECASE)
            who = body.decode() if status == 200 else head.decode().partition("\r\n")[0]
            self.visits.append(Visit(began, time.monotonic() - began, status, who, why[1].decode() if why else ""))
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.5))  # in step they would meet the same endpoints
            if self._once or re.search(rb"\r\nconnection: close\r\n", head, re.IGNORECASE):
                return


# ---- the configuration

QUICK = "timeout: 300ms, min_ttl: 1s, max_ttl: 2s"


def named(port: int, relay: int, service: str, nameservers: object, resolver: str = QUICK, more: str = "",
          routes: str = "{service: app}") -> str:
    """An http and a tcp listener to the service `app`, and a resolver that asks `nameservers`, one or a list.

    `relay` 0: no tcp listener. `more` are further services, as lines of the map.
    """
    listed = ", ".join(f"'{server}'" for server in (nameservers if isinstance(nameservers, list) else [nameservers]))
    relayed = f"  relay: {{bind: '127.0.0.1:{relay}', protocol: tcp, service: app}}\n" if relay else ""
    return (f"listeners:\n  web: {{bind: '127.0.0.1:{port}', protocol: http}}\n{relayed}"
            f"routes: [{routes}]\n"
            f"services:\n  app: {{{service}}}\n{more}"
            f"resolver: {{nameservers: [{listed}], {resolver}}}\n")
