"""One question to one nameserver: over UDP, and over TCP when the answer was cut (RFC 1035, 6891, 7766).

dnspython reads and writes names; records become plain texts and numbers here, so that nobody above knows it, and it is
imported (40 ms) only by who has a name to resolve. An answer of thousands of records is read in pieces, with the loop
in between: all at once it would hold the loop for 100 ms. Sockets are raw, non-blocking and new for each question, so
that the kernel chooses a random port (RFC 5452); ids are random too, and what does not fit the question is not read.
"""
from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from typing import Any, Final

import dns.exception
import dns.name
import dns.wire

from edgeproxy.config.model import Nameserver

A, CNAME, SOA, AAAA, SRV = 1, 5, 6, 28, 33
_OPT: Final = 41
_IN: Final = 1
NOERROR, NXDOMAIN = 0, 3
_RCODES: Final = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}
_WITHOUT_EDNS: Final = (1, 4, 16)  # what a server says that does not know EDNS (RFC 6891 section 7)
PAYLOAD: Final = 1232  # octets: what goes through every network in one piece (DNS flag day 2020)
_PIECE: Final = 64  # records, less than a millisecond
_FOREVER: Final = 0x7FFFFFFF

Data = str | tuple[int, int, int, str] | int
"""Of A and AAAA the address, of CNAME the target, of SRV (priority, weight, port, target), of SOA the minimum."""


class Unanswered(Exception):
    """The text says why. `silent`: nothing came at all, so another question would meet the same."""

    def __init__(self, why: str, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class _Foreign(Exception):
    """A datagram that is no answer to this question: an old one, or somebody's guess."""


class Answer:
    """What was answered. Names are in lower case, without the last dot; the root is `.`."""

    __slots__ = ("server", "rcode", "authoritative", "recursive", "truncated", "answers", "records", "denials")

    def __init__(self, server: str, flags: int) -> None:
        self.server = server
        self.rcode = flags & 0xF
        self.authoritative = bool(flags & 0x0400)
        self.truncated = bool(flags & 0x0200)
        self.recursive = bool(flags & 0x0080)
        self.answers = 0
        """Records in the answer section, of whatever type."""
        self.records: dict[tuple[str, int], tuple[int, list[Data]]] = {}
        """(owner, type) -> (least TTL in seconds, data without doubles) of the answer section; A, AAAA, CNAME, SRV."""
        self.denials: list[tuple[str, int]] = []
        """(zone, negative TTL): the SOA records of the authority section (RFC 2308 section 5)."""

    @property
    def said(self) -> str:
        """The name of its code."""
        return _RCODES.get(self.rcode, f"rcode {self.rcode}")

    def negative_ttl(self, name: str) -> int | None:
        """How long it stays so that `name` has none; None if no SOA says so."""
        ttls = [ttl for zone, ttl in self.denials if zone == "." or f".{name}".endswith(f".{zone}")]
        return min(ttls) if ttls else None


def label_of(server: Nameserver) -> str:
    return server.host if server.port == 53 else str(server)


def parsed(name: str) -> dns.name.Name | None:
    """An absolute name of text without the last dot. None: it cannot be one (an empty or too long label, too long)."""
    with suppress(dns.exception.DNSException, ValueError):
        return dns.name.from_text(f"{name}.")
    return None


def text_of(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


class Question:
    """To be asked once."""

    __slots__ = ("_loop", "_server", "_label", "_name", "_text", "_rdtype", "_fault")

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Nameserver, name: dns.name.Name, rdtype: int) -> None:
        self._loop = loop
        self._server = server
        self._label = label_of(server)
        self._name = name
        self._text = text_of(name)
        self._rdtype = rdtype
        self._fault = ""

    async def ask(self, seconds: float) -> Answer:
        """The answer, whatever its code, within that time for all of it. Raises Unanswered.

        A datagram with another id or question is not the end (it may be forged to be just that), but it is remembered
        as the reason when nothing better comes.
        """
        try:
            async with asyncio.timeout(seconds):
                answer = await self._exchange(edns=True)
                if answer.rcode in _WITHOUT_EDNS:
                    answer = await self._exchange(edns=False)
                return answer
        except TimeoutError:
            if self._fault:
                raise Unanswered(self._fault) from None
            raise Unanswered(f"timeout of {self._label}", silent=True) from None
        except OSError as error:
            raise Unanswered(f"{self._label}: {_reason(error)}", silent=True) from None

    async def _exchange(self, edns: bool) -> Answer:
        query = self._query(edns)
        answer = await self._over_udp(query)
        if answer.truncated:
            cut = f"truncated answer from {self._label}"
            self._fault = f"{cut}, and none over TCP in time"
            try:
                answer = await self._over_tcp(query)
            except OSError as error:
                raise Unanswered(f"{cut}, and none over TCP: {_reason(error)}") from None
        return answer

    def _query(self, edns: bool) -> bytes:
        wire = os.urandom(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, edns)  # recursion desired
        written = self._name.to_wire()
        assert written is not None
        wire += written + struct.pack("!HH", self._rdtype, _IN)
        return wire + struct.pack("!BHHIH", 0, _OPT, PAYLOAD, 0, 0) if edns else wire

    async def _over_udp(self, query: bytes) -> Answer:
        sock = await self._connected(socket.SOCK_DGRAM)
        try:
            sock.send(query)
            while True:
                with suppress(BlockingIOError, _Foreign):
                    return await self._read(sock.recv(0xFFFF), query)
                await _ready(self._loop, sock)
        finally:
            sock.close()

    async def _over_tcp(self, query: bytes) -> Answer:
        sock = await self._connected(socket.SOCK_STREAM)
        try:
            sock.send(struct.pack("!H", len(query)) + query)  # a new socket's buffer takes it whole
            wire = await self._receive(sock, int.from_bytes(await self._receive(sock, 2), "big"))
            try:
                answer = await self._read(wire, query)
            except _Foreign:
                raise self._broken() from None
            if answer.truncated:
                raise self._broken()
            return answer
        finally:
            sock.close()

    async def _receive(self, sock: socket.socket, count: int) -> bytes:
        pieces = b""
        while len(pieces) < count:
            with suppress(BlockingIOError):
                piece = sock.recv(count - len(pieces))
                if not piece:
                    raise ConnectionResetError("closed without an answer")
                pieces += piece
                continue
            await _ready(self._loop, sock)
        return pieces

    async def _connected(self, kind: int) -> socket.socket:
        host, _, scope = self._server.host.partition("%")
        address: tuple[Any, ...] = (host, self._server.port)
        if ":" in host:
            address += (0, _scope(scope))
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        try:
            with suppress(BlockingIOError):
                sock.connect(address)
            if kind == socket.SOCK_STREAM:
                await _ready(self._loop, sock, writing=True)
                if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(code, os.strerror(code))
        except BaseException:
            sock.close()
            raise
        return sock

    # ---- reading

    def _broken(self) -> Unanswered:
        return Unanswered(f"malformed answer from {self._label}")

    async def _read(self, wire: bytes, query: bytes) -> Answer:
        """Raises _Foreign if it is not the answer to this question, Unanswered if it is and cannot be read."""
        try:
            parser = dns.wire.Parser(wire)
            ident, flags, questions, *counts = parser.get_struct("!HHHHHH")
            if ident != int.from_bytes(query[:2], "big") or flags & 0xF800 != 0x8000:  # a response, opcode QUERY
                raise _Foreign
            answer = Answer(self._label, flags)
            # A server that did not understand, or does not want to, may leave the question out.
            if not (questions == 0 and answer.rcode not in (NOERROR, NXDOMAIN)):
                asked = (text_of(parser.get_name(decompress=True)), *parser.get_struct("!HH"))
                if questions != 1 or asked != (self._text, self._rdtype, _IN):
                    raise _Foreign
        except (_Foreign, dns.exception.DNSException, struct.error):
            self._fault = self._fault or str(self._broken())
            raise _Foreign from None
        if answer.truncated:
            return answer
        try:
            await _records(parser, answer, counts)
        except (dns.exception.DNSException, struct.error, OSError, ValueError):
            raise self._broken() from None
        return answer


async def _records(parser: dns.wire.Parser, answer: Answer, counts: list[int]) -> None:
    names: dict[bytes, str] = {}
    number = 0
    answer.answers = counts[0]
    for section, count in enumerate(counts):
        for _ in range(count):
            number += 1
            if number % _PIECE == 0:
                await asyncio.sleep(0)
            owner = _owner(parser, names)
            rdtype, rdclass, ttl, size = parser.get_struct("!HHIH")
            if rdtype == _OPT:
                answer.rcode |= ttl >> 24 << 4
            with parser.restrict_to(size):
                data = _data(parser, rdtype) if rdclass == _IN else None
                if data is None:
                    parser.get_remaining()
            if data is None:
                continue
            ttl = ttl if ttl <= _FOREVER else 0  # RFC 2181 section 8
            if isinstance(data, int):
                if section == 1:
                    answer.denials.append((owner, min(ttl, data)))
            elif section == 0:
                least, listed = answer.records.get((owner, rdtype), (ttl, []))
                listed.append(data)
                answer.records[owner, rdtype] = min(least, ttl), listed
    for key, (ttl, listed) in answer.records.items():
        answer.records[key] = ttl, list(dict.fromkeys(listed))


def _owner(parser: dns.wire.Parser, names: dict[bytes, str]) -> str:
    """Nearly all names of an answer are the same pointer: those are read once."""
    at = parser.current
    pointer = parser.wire[at:at + 2]
    if pointer and pointer[0] >= 0xC0 and pointer in names:
        parser.get_bytes(2)
        return names[pointer]
    name = names[pointer] = text_of(parser.get_name(decompress=True))
    return name


def _data(parser: dns.wire.Parser, rdtype: int) -> Data | None:
    """None: a type that nobody here asks for."""
    if rdtype == A:
        return socket.inet_ntop(socket.AF_INET, parser.get_bytes(4))
    if rdtype == AAAA:
        return socket.inet_ntop(socket.AF_INET6, parser.get_bytes(16))
    if rdtype == CNAME:
        return text_of(parser.get_name(decompress=True))
    if rdtype == SRV:
        priority, weight, port = parser.get_struct("!HHH")
        return priority, weight, port, text_of(parser.get_name(decompress=True))
    if rdtype == SOA:
        for _ in range(2):
            parser.get_name(decompress=True)
        return int(parser.get_struct("!IIIII")[4])
    return None


# ---- sockets

def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def _scope(name: str) -> int:
    """The number of an IPv6 scope, `eth0` or `2`. Raises OSError when there is no such interface."""
    if not name or name.isdigit():
        return int(name or 0)
    return socket.if_nametoindex(name)


async def _ready(loop: asyncio.AbstractEventLoop, sock: socket.socket, writing: bool = False) -> None:
    """Until it can be read, or written. The watcher is gone at once when this ends, however it ends: the loop's own
    sock_recv takes it away later, when the number may already be another socket's."""
    future: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    number = sock.fileno()
    add(number, _resolve, future)
    try:
        await future
    finally:
        remove(number)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
