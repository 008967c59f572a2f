"""Scripted peers and small worlds for tests of the HTTP/1 data path: real sockets, real services, no program around.

`Talk` speaks HTTP/1 by hand, as client or endpoint, strictly and with a limit on every wait. `World` holds what a
configuration compiles to; `Web` adds an http listener's sessions, `Asker` is a client of an exchange that writes down
what it is told. A world checks at its end what must hold after every story: each exchange was logged once, no endpoint
has anything in flight, no connection is left, and nothing called itself a fault of the proxy.
"""
from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_network

from edgeproxy.codec._leaf import Edits, ResponseHead
from edgeproxy.codec.h1 import RequestDecoder
from edgeproxy.config import model
from edgeproxy.errors import Outcome
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import SocketTransport
from edgeproxy.runtime.fronts import HttpFront
from edgeproxy.session.exchange import Exchange
from edgeproxy.session.http import HttpListener
from edgeproxy.session.peer import Peer as KnownPeer
from edgeproxy.session.record import ConnectionRecord
from edgeproxy.session.reply import Reply
from edgeproxy.snapshot import Live, Snapshot, compile_rules
from edgeproxy.upstream.pool import Member
from edgeproxy.upstream.service import Service
from net.rig import Endpoint, Peer, Refusing, Silent, soon, until

Place = Endpoint | Refusing | Silent
OK_EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


# ---- messages by hand

@dataclass(frozen=True)
class Message:
    start: str
    fields: dict[str, str]
    """Names in lower case; several of a name are joined."""
    body: bytes = b""

    @property
    def status(self) -> int:
        return int(self.start.split()[1])

    def __getitem__(self, name: str) -> str:
        """A field's value; empty if there is none."""
        return self.fields.get(name, "")


class Talk(Peer):
    """A peer that keeps what it has read too much."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.buffer = bytearray()

    async def more(self) -> bool:
        """Read on; False at EOF."""
        piece = await soon(self.loop.sock_recv(self.sock, 1 << 18))
        self.buffer += piece
        return bool(piece)

    async def through(self, mark: bytes) -> bytes:
        """What comes until `mark`, with it."""
        start = 0
        while (at := self.buffer.find(mark, start)) < 0:
            start = max(0, len(self.buffer) - len(mark))
            assert await self.more(), f"EOF after {bytes(self.buffer[:300])!r}"
        return self.take(at + len(mark))

    def take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def receive(self, size: int) -> bytes:
        while len(self.buffer) < size:
            assert await self.more(), f"EOF after {len(self.buffer)} of {size} bytes"
        return self.take(size)

    async def rest(self) -> bytes:
        """What comes until EOF."""
        while await self.more():
            pass
        return self.take(len(self.buffer))

    async def reset_after(self) -> bytes:
        """What comes until RST; EOF is not one."""
        try:
            while await self.more():
                pass
        except ConnectionResetError:
            return self.take(len(self.buffer))
        raise AssertionError("EOF where a RST was due")

    async def ended(self) -> bytes:
        """EOF or RST, and what came before."""
        try:
            return await self.rest()
        except ConnectionResetError:
            return self.take(len(self.buffer))

    async def head(self) -> Message:
        lines = (await self.through(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        fields: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            fields[name.lower()] = f"{fields[name.lower()]}, {value}" if name.lower() in fields else value
        return Message(lines[0], fields)

    async def chunk(self) -> bytes:
        """One chunk's payload; empty for the last one, whose trailers are read as well."""
        size = int((await self.through(b"\r\n"))[:-2], 16)
        if not size:
            while await self.through(b"\r\n") != b"\r\n":
                pass
            return b""
        data = await self.receive(size)
        assert await self.receive(2) == b"\r\n"
        return data

    async def _body(self, message: Message, until_close: bool) -> Message:
        body = b""
        if message.fields.get("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                body += piece
        elif "content-length" in message.fields:
            body = await self.receive(int(message.fields["content-length"]))
        elif until_close:
            body = await self.rest()
        return replace(message, body=body)

    async def request(self) -> Message:
        return await self._body(await self.head(), False)

    async def answer(self, bodiless: bool = False) -> Message:
        """The next response; `bodiless`: to a HEAD request."""
        message = await self.head()
        if bodiless or message.status < 200 or message.status in (204, 304):
            return message
        return await self._body(message, True)

    async def serve(self, response: bytes = OK_EMPTY) -> Message:
        """Take one request, answer it."""
        request = await self.request()
        await self.send(response)
        return request


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair over TCP; `socket.socketpair` has no RST."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


async def accepted(endpoint: Endpoint) -> Talk:
    """The next connection to `endpoint`."""
    peer = await endpoint.accept()
    talk = Talk(peer.sock)
    endpoint.accepted[-1] = talk
    return talk


# ---- configurations in one line

def to_back(**parts: object) -> model.Route:
    return model.Route("r", service=(model.WeightedService("back"),), **parts)  # type: ignore[arg-type]


def respond(body: str = "", status: int = 200, **parts: object) -> model.Route:
    return model.Route("r", respond=model.Respond(status, body), **parts)  # type: ignore[arg-type]


def back(*places: Place, **parts: object) -> model.Service:
    return model.Service("back", tuple(p.address for p in places), **parts)  # type: ignore[arg-type]


class Alarm(logging.Handler):
    """Keeps what the program calls an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}")


class World:
    """What a configuration compiles to, with its services, and the places that they name."""

    def __init__(self, places: Iterable[Place] = (), routes: tuple[model.Route, ...] | None = None,
                 service: model.Service | None = None, listener: model.Listener | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.poller = Poller(self.loop)
        self.places = tuple(places)
        self.listener_config = listener or model.Listener("web", (model.Bind("127.0.0.1", 80),), "http")
        config = service or back(*self.places)
        self.config = model.Config({"web": self.listener_config}, (to_back(),) if routes is None else routes,
                                   {"back": config})
        rules = compile_rules(self.config)
        self.service = Service(self.loop, config, random.Random(1), rules.endpoints_tls.get("back"))
        self.live = Live(Snapshot(self.config, {"back": self.service}, rules))
        self.logged: list[Exchange] = []
        self.alarm = Alarm()
        logging.getLogger("edgeproxy").addHandler(self.alarm)

    @property
    def members(self) -> tuple[Member, ...]:
        return self.service.view.members

    async def ends(self, number: int = 1) -> Exchange:
        """The exchange that was logged as the `number`th."""
        await until(lambda: len(self.logged) >= number)
        return self.logged[number - 1]

    async def _settled(self) -> None:
        """To be added to: what must hold before the checks."""

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            await self._settled()
            if kind is None:
                await until(lambda: all(m.active == 0 for m in self.members))
                assert len({id(x) for x in self.logged}) == len(self.logged), "an exchange was logged twice"
                assert self.alarm.lines == []
        finally:
            logging.getLogger("edgeproxy").removeHandler(self.alarm)
            self.service.retire()
            for place in self.places:
                place.close()
            self.poller.close()


class Web(World):
    """An http listener's sessions over real connections, without the accepting."""

    def __init__(self, *places: Place, routes: tuple[model.Route, ...] | None = None,
                 service: model.Service | None = None, limits: model.ListenerLimits | None = None,
                 timeouts: model.ListenerTimeouts | None = None, trusted: tuple[str, ...] = ()) -> None:
        listener = model.Listener("web", (model.Bind("127.0.0.1", 8080),), "http",
                                  trusted_proxies=tuple(ip_network(n) for n in trusted),
                                  limits=limits or model.ListenerLimits(),
                                  timeouts=timeouts or model.ListenerTimeouts())
        super().__init__(places, routes, service, listener)
        self.faults: list[ConnectionRecord] = []
        self.http = HttpListener(self.loop, self.poller, listener, self.live, self.logged.append, self.faults.append)
        self.front = HttpFront(self.http, self._ended)
        self.opened = self.closed = 0
        self.clients: list[Talk] = []

    def _ended(self) -> None:
        self.closed += 1

    def client(self, near: socket.socket | None = None, far: socket.socket | None = None, peer: str = "192.0.2.7"
               ) -> Talk:
        if near is None or far is None:
            near, far = socket_pair()
        self.opened += 1
        self.front.connected(8080, near, peer)
        self.clients.append(Talk(far))
        return self.clients[-1]

    async def _settled(self) -> None:
        self.front.cut()
        for client in self.clients:
            client.close()
        await until(lambda: self.closed >= self.opened)
        assert (self.closed, self.front.count()) == (self.opened, 0), "a connection told its end twice, or not at all"

    async def __aenter__(self) -> Web:
        return self


# ---- the asking side of an exchange

class Asker:
    """A small `session.client.Client`: it plays one request and writes down what it is told."""

    def __init__(self, world: World) -> None:
        self.loop = world.loop
        self.poller = world.poller
        self.peer = KnownPeer("192.0.2.7", 80, "http", False)
        self.log: Callable[[Exchange], None] = world.logged.append
        self.world = world
        self.told: list[str] = []
        """In order: interim 100, head 200, end, reply 502, cut, pause, resume, upgrade, finished."""
        self.body = b""
        self.trailers = b""
        self.reply: Reply | None = None
        self.head: ResponseHead | None = None
        self.upstream: SocketTransport | None = None
        self.surplus = b""
        self.tunnel_over: Callable[[Outcome, int, int], None] | None = None
        self.exchange: Exchange

    def ask(self, request: bytes, client: str = "192.0.2.7") -> Exchange:
        """Start the exchange of `request`: a head and what is to be there of its body."""
        decoder = self.decoder = RequestDecoder(65536, 100)
        head = decoder.head(request)
        assert head is not None
        exchange = self.exchange = Exchange(self, "web", head, self.loop.time(), client, "id-1")
        if head.length:
            exchange.take_body(decoder.payload, decoder.done, decoder.trailers)
        exchange.start(self.world.live.snapshot)
        return exchange

    def more(self, data: bytes) -> None:
        """More of the request's body."""
        payload = self.decoder.body(data)
        self.exchange.request_data(payload, self.decoder.done, self.decoder.trailers)

    async def hears(self, word: str) -> None:
        await until(lambda: word in self.told)

    # ---- what an exchange calls

    def respond(self, head: ResponseHead, payload: bytes, done: bool, edits: Edits | None, trailers: bytes) -> None:
        self.told.append(f"head {head.status}")
        self.head = head
        self.respond_data(payload, done, trailers)

    def respond_data(self, payload: bytes, done: bool, trailers: bytes) -> None:
        self.body += payload
        if done:
            self.trailers = trailers
            self.told.append("end")

    def respond_interim(self, head: ResponseHead) -> None:
        self.told.append(f"interim {head.status}")

    def respond_local(self, reply: Reply) -> int:
        self.told.append(f"reply {reply.status}")
        self.reply = reply
        return len(reply.body)

    def respond_cut(self) -> None:
        self.told.append("cut")

    def pause_request(self) -> None:
        self.told.append("pause")

    def resume_request(self) -> None:
        self.told.append("resume")

    def upgrade(self, head: ResponseHead, edits: Edits | None, upstream: SocketTransport, rest: bytes,
                ended: Callable[[Outcome, int, int], None]) -> None:
        self.told.append("upgrade")
        self.upstream, self.surplus, self.tunnel_over = upstream, rest, ended

    def finished(self) -> None:
        self.told.append("finished")
