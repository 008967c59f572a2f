"""The admin server: a running proxy is asked here how it is, and told to take an endpoint out.

    unix socket, mode 0600    everything: who may open it is the proxy's user, or root
    loopback TCP              GET only, and only for a Host that is this machine: a web page whose name was pointed at
                              127.0.0.1 reads nothing (DNS rebinding)

    GET   /livez  /readyz (503 while draining; ?verbose)
    GET   /api/v1/status (?service=)  /api/v1/dns  /api/v1/events  /api/v1/explain (?method= &url= &from= &header=)
    POST  /api/v1/endpoints  {"service": …, "address": …, "action": "drain" | "disable" | "enable"}

Errors are RFC 9457. Rules: a cold path by design, so h11 and plain coroutines; nothing is changed by GET; whoever is
slow or many is bounded and disturbs no traffic; a fault of one request is one line in the log.
"""
from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import h11

from edgeproxy.config import model
from edgeproxy.net.sockets import BindError, close_listening, listen
from edgeproxy.policy.endpoint import DISABLED, DRAINING
from edgeproxy.runtime import status
from edgeproxy.runtime.status import Json, Running, Unknown
from edgeproxy.session.acceptor import Acceptor, ConnectionLimit

_log = logging.getLogger("edgeproxy")

HEAD = 16 * 1024
BODY = 64 * 1024
PIECE = 4096
"""Read at once: h11 lets a head pass that is longer than it may be, but complete."""
CONNECTIONS = 32
PATIENCE = 10.0
"""Seconds for one request, from the end of the one before to the last byte of its answer."""
SOCKET_MODE = 0o600
FOLDER_MODE = 0o700
LONGEST_PATH = 107
"""Bytes in sockaddr_un, less the closing NUL."""
ACTIONS = {"drain": DRAINING, "disable": DISABLED, "enable": ""}
JSON = "application/json"
PROBLEM = "application/problem+json"
TEXT = "text/plain; charset=utf-8"

Query = Mapping[str, list[str]]
Explain = Callable[[Running, Query], Json]
"""Runs in a thread. Raises ValueError for a question that is none."""


class Place(NamedTuple):
    """What the command line knows of the admin server."""

    socket: str
    """Path of the unix socket without `admin:` in the file; empty: none."""
    explain: Explain


class Answer(NamedTuple):
    status: int
    body: bytes
    kind: str = JSON
    fields: tuple[tuple[str, str], ...] = ()


class Refused(Exception):
    """A request that gets no more than a problem."""

    def __init__(self, status: int, detail: str, *fields: tuple[str, str]) -> None:
        super().__init__(detail)
        self.status = status
        self.fields = fields

    def answer(self) -> Answer:
        body = {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status,
                "detail": str(self)}
        return Answer(self.status, json.dumps(body).encode() + b"\n", PROBLEM, self.fields)


class Request(NamedTuple):
    method: str
    path: str
    query: Query
    body: bytes


# ---- where it listens

class Door:
    """One listening socket."""

    __slots__ = ("bind", "local", "_sock", "_acceptor")

    def __init__(self, bind: model.Bind, backlog: int = CONNECTIONS) -> None:
        """Raises BindError."""
        if not bind.path and not _is_loopback(bind.host):
            raise BindError(f"{bind}: the admin server listens on this machine only; write 127.0.0.1:{bind.port} or "
                            "unix:/run/edgeproxy.sock")
        self.bind = bind
        self.local = bool(bind.path)
        """Whether only the proxy's user can come in."""
        [self._sock] = listen(bind, backlog, SOCKET_MODE)
        self._acceptor: Acceptor | None = None

    def open(self, loop: asyncio.AbstractEventLoop, limit: ConnectionLimit,
             connected: Callable[[Door, socket.socket], None]) -> None:
        def accepted(sock: socket.socket, _: str) -> None:
            connected(self, sock)

        self._acceptor = Acceptor(loop, self._sock, accepted, limit, partial(_log.warning, "admin: %s"))
        self._acceptor.start()

    @property
    def where(self) -> str:
        """With the port that the kernel has chosen."""
        return str(self.bind if self.local else self.bind.__class__(self.bind.host, self._sock.getsockname()[1]))

    def close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.stop()
        close_listening(self._sock)


def _is_loopback(host: str) -> bool:
    return bool(host) and ip_address(host).is_loopback


def default_door(path: str) -> Door:
    """Behind a folder that nobody else can write to, which is made if it is not there. Raises BindError."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise BindError(f"{path}: longer than the {LONGEST_PATH} bytes that a socket's path may have")
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, FOLDER_MODE, exist_ok=True)
        found = os.stat(folder, follow_symlinks=False)
    except OSError as error:
        raise BindError(f"{folder}: the folder cannot be made: {error.strerror}") from None
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        raise BindError(f"{folder}: others may write there")
    return Door(model.Bind(path=path))


class AdminServer:
    """`bind` before the proxy runs, `serve` when it does, `apply` after each reload, `close` at the end."""

    __slots__ = ("_loop", "_place", "_doors", "_limit", "_tasks", "_running", "_explaining", "_said")

    def __init__(self, loop: asyncio.AbstractEventLoop, place: Place | None) -> None:
        self._loop = loop
        self._place = place
        self._doors: dict[model.Bind, Door] = {}
        self._limit = ConnectionLimit(CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: Running
        self._explaining = asyncio.Lock()
        self._said = ""

    # ---- life

    def bind(self, config: model.Admin | None) -> None:
        """Take the places to listen on. Raises BindError for the one that the configuration names; without the other,
        the default, the proxy runs as well."""
        if config is not None:
            self._doors[config.bind] = Door(config.bind)
        self._bind_default(config)

    def _bind_default(self, config: model.Admin | None) -> None:
        path = self._default(config)
        if path is not None and path not in self._doors:
            try:
                self._doors[path] = default_door(path.path)
            except BindError as error:
                if str(error) != self._said:
                    self._said = str(error)
                    _log.warning("no admin socket, `edgeproxy status` cannot ask this proxy: %s", error)

    def _default(self, config: model.Admin | None) -> model.Bind | None:
        """The default place is used unless the configuration names another one where everything may be asked."""
        if self._place is None or not self._place.socket or config is not None and config.bind.path:
            return None
        return model.Bind(path=self._place.socket)

    def serve(self, running: Running) -> list[str]:
        """Begin to answer; a line for each place that the configuration names."""
        self._running = running
        named = [door for door in self._doors.values() if door.bind != self._default(None)]
        for door in self._doors.values():
            door.open(self._loop, self._limit, self._connected)
        return [f"listening on {door.where} (admin)" for door in named]

    def apply(self, config: model.Admin | None) -> None:
        """Follow a reload. What cannot be listened on is told in the log, and what was there stays."""
        if config is not None and config.bind not in self._doors:
            try:
                door = Door(config.bind)
            except BindError as error:
                _log.error("admin: %s; what was listened on before stays", error)
                return
            self._doors[config.bind] = door
            door.open(self._loop, self._limit, self._connected)
        before = set(self._doors)
        self._bind_default(config)
        for bind in self._doors.keys() - before:
            self._doors[bind].open(self._loop, self._limit, self._connected)
        wanted = {config.bind if config is not None else None, self._default(config)}
        for bind in self._doors.keys() - wanted:
            self._doors.pop(bind).close()

    def close(self) -> None:
        """Stop, and take the sockets' files away."""
        for door in self._doors.values():
            door.close()
        self._doors.clear()
        for task in self._tasks:
            task.cancel()

    # ---- one connection

    def _connected(self, door: Door, sock: socket.socket) -> None:
        task = self._loop.create_task(self._serve(door, sock))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, sock))

    def _ended(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        sock.close()
        self._limit.release()
        if not task.cancelled() and task.exception() is not None:
            _log.error("admin: a connection was ended by a fault of the proxy: %r; please report it", task.exception())

    async def _serve(self, door: Door, sock: socket.socket) -> None:
        wire = Wire(self._loop, sock)
        with suppress(OSError, TimeoutError):
            while True:
                async with asyncio.timeout(PATIENCE):
                    if not await self._exchange(door, wire):
                        return

    async def _exchange(self, door: Door, wire: Wire) -> bool:
        """One request and its answer. False: it was the last one."""
        try:
            request = await wire.receive()
            if request is None:
                return False
            if not door.local:
                _check_host(door, wire.hosts)
            answer = await self._answered(door, request)
        except Refused as refusal:
            answer = refusal.answer()
        return await wire.send(answer)

    async def _answered(self, door: Door, request: Request) -> Answer:
        try:
            return await self._answer(door, request)
        except Refused:
            raise
        except Exception as error:
            _log.error("admin: %s %s failed by a fault of the proxy: %s; please report it", request.method,
                       request.path, _told(error))
            return Refused(500, "a fault of the proxy; its log has more").answer()

    # ---- one request

    async def _answer(self, door: Door, request: Request) -> Answer:
        if request.path == "/api/v1/endpoints":
            if request.method != "POST":
                raise Refused(405, "only POST is understood here", ("Allow", "POST"))
            if not door.local:
                raise Refused(403, "this address can only be read; the unix socket takes orders")
            return self._administer(request.body)
        found = _PAGES.get(request.path)
        if found is None:
            there = ", ".join((*_PAGES, "/api/v1/endpoints"))
            raise Refused(404, f"there is no {request.path[:100]}; there is {there}")
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "this can only be read", ("Allow", "GET, HEAD"))
        try:
            return await found(self, request.query)
        except Unknown as unknown:
            raise Refused(404, str(unknown.args[0])) from None

    async def _livez(self, query: Query) -> Answer:
        return Answer(200, b"ok\n", TEXT)

    async def _readyz(self, query: Query) -> Answer:
        draining = self._running.live.draining
        code = 503 if draining else 200
        if "verbose" in query:
            return Answer(code, await status.rendered(status.readiness(self._running)) + b"\n")
        return Answer(code, b"draining\n" if draining else b"ready\n", TEXT)

    async def _status(self, query: Query) -> Answer:
        found = status.status(self._running, _one(query, "service", ""))
        return Answer(200, await status.rendered(found) + b"\n")

    async def _dns(self, query: Query) -> Answer:
        return Answer(200, await status.rendered(status.names(self._running)) + b"\n")

    async def _events(self, query: Query) -> Answer:
        return Answer(200, await status.rendered(status.events(self._running)) + b"\n")

    async def _explain(self, query: Query) -> Answer:
        if self._place is None:
            raise Refused(404, "this proxy cannot explain")
        async with self._explaining:  # one at a time: with ten thousand routes it is work
            try:
                found = await asyncio.to_thread(self._place.explain, self._running, query)
            except ValueError as error:
                raise Refused(400, str(error)) from None
        return Answer(200, await status.rendered(found) + b"\n")

    def _administer(self, body: bytes) -> Answer:
        name, address, action = _order(body)
        try:
            service = status.service_named(self._running, name)
        except Unknown as unknown:
            raise Refused(404, str(unknown.args[0])) from None
        if not service.administer(address, ACTIONS[action]):
            raise Refused(404, status.instead_of(address, service))
        member = service.member(address)
        assert member is not None, "it was there a moment ago"
        found = {"service": name, "address": address, "action": action, "state": member.state,
                 "reason": member.reason or None, "ready": member.ready, "active": member.active,
                 "others_ready": sum(m.ready and m.weight > 0 for m in service.view.members if m is not member)}
        return Answer(200, json.dumps(found).encode() + b"\n")


_PAGES: dict[str, Callable[[AdminServer, Query], Awaitable[Answer]]] = {
    "/livez": AdminServer._livez, "/readyz": AdminServer._readyz, "/api/v1/status": AdminServer._status,
    "/api/v1/dns": AdminServer._dns, "/api/v1/events": AdminServer._events, "/api/v1/explain": AdminServer._explain}


def _one(query: Query, name: str, default: str) -> str:
    return query.get(name, [default])[0]


def _order(body: bytes) -> tuple[str, str, str]:
    """(service, address, action)"""
    form = '{"service": "app", "address": "10.0.0.5:80", "action": "drain"}'
    try:
        order = json.loads(body)
    except ValueError:
        raise Refused(400, f"the body is no JSON; write {form}") from None
    if not isinstance(order, dict):
        raise Refused(400, f"the body is no JSON object; write {form}")
    found = [order.get(key) for key in ("service", "address", "action")]
    if order.keys() - {"service", "address", "action"} or not all(isinstance(value, str) for value in found):
        raise Refused(400, f"service, address and action are wanted, each a text, and nothing else; write {form}")
    name, address, action = map(str, found)
    if action not in ACTIONS:
        raise Refused(400, f"action is one of {', '.join(ACTIONS)}")
    return name, address, action


def _check_host(door: Door, hosts: list[str]) -> None:
    """Raises Refused unless the request is for this machine by a name that nobody else can point elsewhere."""
    if len(hosts) == 1:
        host = hosts[0].strip().lower()
        name, colon, port = host.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()):
            name = host
        if name in ("localhost", "127.0.0.1", "[::1]", door.bind.host, f"[{door.bind.host}]"):
            return
    raise Refused(421, "the Host is not this machine; write localhost, 127.0.0.1 or [::1]")


def _told(error: BaseException) -> str:
    """In one line: what, and where."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


# ---- the wire

class Wire:
    """HTTP/1.1 on one accepted socket, by h11."""

    __slots__ = ("hosts", "_loop", "_sock", "_h11", "_head")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self.hosts: list[str] = []
        """The Host fields of the request."""
        self._loop = loop
        self._sock = sock
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD)
        self._head = False

    async def receive(self) -> Request | None:
        """The next request; None: the client has left. Raises Refused."""
        self._head = False
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = await self._event()
            if isinstance(event, h11.Request):
                request = event
                self._head = event.method == b"HEAD"
                self.hosts = [value.decode("latin-1") for name, value in event.headers if name == b"host"]
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY:
                    raise Refused(413, f"a body has at most {BODY // 1024} KiB")
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                return _parsed(request, bytes(body))
            else:
                return None

    async def _event(self) -> Any:
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                if self._h11.they_are_waiting_for_100_continue:
                    await self._put(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))
                self._h11.receive_data(await self._loop.sock_recv(self._sock, PIECE))
        except h11.RemoteProtocolError as error:
            if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                return h11.ConnectionClosed()
            long = f"a head has at most {HEAD // 1024} KiB"
            raise Refused(error.error_status_hint, long if error.error_status_hint == 431 else str(error)) from None
        return event

    async def send(self, answer: Answer) -> bool:
        """Whether another request may follow."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        fields = [("Content-Type", answer.kind), ("Content-Length", str(len(answer.body))),
                  ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), *answer.fields]
        whole = self._h11.their_state is h11.DONE
        if not whole:
            fields.append(("Connection", "close"))
        head = self._h11.send(h11.Response(status_code=answer.status, headers=fields,
                                           reason=HTTPStatus(answer.status).phrase))
        body = b"" if self._head else self._h11.send(h11.Data(data=answer.body)) or b""
        await self._put((head or b"") + body + (self._h11.send(h11.EndOfMessage()) or b""))
        if not whole:
            await self._let_finish()
        if any(state is not h11.DONE for state in self._h11.states.values()):
            return False
        self._h11.start_next_cycle()
        return True

    async def _let_finish(self) -> None:
        """Closing with bytes unread would be a reset, and the answer lost on its way: what still comes is dropped."""
        self._sock.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while await self._loop.sock_recv(self._sock, 65536):
                    pass

    async def _put(self, data: bytes | None) -> None:
        await self._loop.sock_sendall(self._sock, data or b"")


def _parsed(request: h11.Request, body: bytes) -> Request:
    target = request.target.decode("latin-1")
    try:
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise Refused(400, "the target is no URL") from None
    return Request(request.method.decode("latin-1"), parts.path, query, body)
