"""The admin server: a running proxy is asked here how it is, and told to take an endpoint out.

    unix socket, mode 0600    everything: who may open it is the proxy's user, or root
    loopback TCP              GET only, and only for a Host that is this machine: a web page whose name was pointed at
                              127.0.0.1 reads nothing (DNS rebinding); and nothing for pages of other sites

Anybody on this machine can ask by TCP, so that is paced: about a tenth of the loop's time for what is much to tell, and
another for the rest. The unix socket waits for none of that.

    GET   /livez  /readyz (503 while draining; ?verbose)
    GET   /api/v1/status (?service=)  /api/v1/dns  /api/v1/events  /api/v1/explain (?method= &url= &from= &header=)
    POST  /api/v1/endpoints  {"service": …, "address": …, "action": "drain" | "disable" | "enable"}

Errors are RFC 9457. Rules: a cold path by design, so plain coroutines, and h11 (`adminwire`); GET changes nothing;
whoever is slow or many is bounded and disturbs no traffic; a fault of one request is one line in the log.
"""
from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any, NamedTuple

from edgeproxy.config import model
from edgeproxy.net.sockets import BindError, close_listening, listen
from edgeproxy.policy.endpoint import DISABLED, DRAINING
from edgeproxy.runtime import status
from edgeproxy.runtime.adminwire import TEXT, Answer, Query, Refused, Request, Wire
from edgeproxy.runtime.status import Json, Running, Unknown
from edgeproxy.session.acceptor import Acceptor, ConnectionLimit

_log = logging.getLogger("edgeproxy")

CONNECTIONS = 32
"""Of each place that is listened on: who takes all those of TCP keeps nobody from the unix socket."""
PATIENCE = 10.0
"""Seconds for one request, from the end of the one before to the last byte of its answer."""
LIFETIME = 60.0
"""Seconds of a TCP connection, whatever it does."""
REQUESTS = 100
"""Of a TCP connection."""
SPACING = 0.005
"""Seconds between two requests that are read by TCP, of all connections together: one costs 0.3 to 0.5 ms."""
REST = 9.0
"""After an answer by TCP that is much work comes the next one after so many times the time that it took."""
READ_AND_SENT = 0.001
"""Seconds that such an answer takes besides."""
WAITING = 5.0
"""Seconds that such a request waits for its turn."""
LIGHT = ("/livez", "/readyz")
"""All others, and these with `verbose`, are more work the larger the configuration is."""
SOCKET_MODE = 0o600
FOLDER_MODE = 0o700
LONGEST_PATH = 107
"""Bytes in sockaddr_un, less the closing NUL."""
ACTIONS = {"drain": DRAINING, "disable": DISABLED, "enable": ""}

Explain = Callable[[Running, Query], Awaitable[Json]]
"""Raises ValueError for a question that is none."""


class Place(NamedTuple):
    """What the command line knows of the admin server."""

    socket: str
    """Path of the unix socket without `admin:` in the file; empty: none."""
    explain: Explain


# ---- where it listens

class Door:
    """One listening socket."""

    __slots__ = ("bind", "local", "limit", "_sock", "_acceptor")

    def __init__(self, bind: model.Bind, backlog: int = CONNECTIONS) -> None:
        """Raises BindError."""
        if not bind.path and not _is_loopback(bind.host):
            raise BindError(f"{bind}: the admin server listens on this machine only; write 127.0.0.1:{bind.port} or "
                            "unix:/run/edgeproxy.sock")
        self.bind = bind
        self.local = bool(bind.path)
        """Whether only the proxy's user can come in."""
        self.limit = ConnectionLimit(CONNECTIONS)
        [self._sock] = listen(bind, backlog, SOCKET_MODE)
        self._acceptor: Acceptor | None = None

    def open(self, loop: asyncio.AbstractEventLoop, connected: Callable[[Door, socket.socket], None]) -> None:
        def accepted(sock: socket.socket, _: str) -> None:
            connected(self, sock)

        self._acceptor = Acceptor(loop, self._sock, accepted, self.limit, partial(_log.warning, "admin: %s"))
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


# ---- turns

class Turn:
    """Answers that are much work: one at a time, and after each a rest, `rest` times as long as it took."""

    __slots__ = ("_loop", "_rest", "_lock", "_work", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, rest: float) -> None:
        self._loop = loop
        self._rest = rest
        self._lock = asyncio.Lock()
        self._work: asyncio.Task[Answer] | None = None
        self._until = 0.0
        """When the rest is over."""

    async def run(self, work: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Raises Refused if its turn does not come soon, and what `work` raises."""
        try:
            async with asyncio.timeout(WAITING if self._until - self._loop.time() < WAITING else 0.0):
                await self._lock.acquire()
        except TimeoutError:
            seconds = max(1, math.ceil(self._until - self._loop.time()))
            raise Refused(429, "other questions come first; ask again later, or by the unix socket",
                          ("Retry-After", str(seconds))) from None
        self._work = self._loop.create_task(work())
        self._work.add_done_callback(partial(self._done, self._loop.time()))
        # Who has left stops no thread: the turn lasts until the work is done.
        return await asyncio.shield(self._work)

    def _done(self, began: float, work: asyncio.Task[Answer]) -> None:
        now = self._loop.time()
        self._until = now + self._rest * (now - began + READ_AND_SENT)
        if self._rest:
            self._loop.call_at(self._until, self._lock.release)
        else:
            self._lock.release()

    def close(self) -> None:
        if self._work is not None:
            self._work.cancel()


# ---- the server

class AdminServer:
    """`bind` before the proxy runs, `serve` when it does, `apply` after each reload, `close` at the end."""

    __slots__ = ("_loop", "_place", "_doors", "_tasks", "_running", "_turns", "_next", "_said")

    def __init__(self, loop: asyncio.AbstractEventLoop, place: Place | None) -> None:
        self._loop = loop
        self._place = place
        self._doors: dict[model.Bind, Door] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: Running
        self._turns = {True: Turn(loop, 0.0), False: Turn(loop, REST)}
        """Of the local doors, and of the others."""
        self._next = 0.0
        """When the next request may be read by TCP."""
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
            door.open(self._loop, self._connected)
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
            door.open(self._loop, self._connected)
        before = set(self._doors)
        self._bind_default(config)
        for bind in self._doors.keys() - before:
            self._doors[bind].open(self._loop, self._connected)
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
        for turn in self._turns.values():
            turn.close()

    # ---- one connection

    def _connected(self, door: Door, sock: socket.socket) -> None:
        task = self._loop.create_task(self._serve(door, sock))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, door, sock))

    def _ended(self, door: Door, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        sock.close()
        door.limit.release()
        if not task.cancelled() and task.exception() is not None:
            _log.error("admin: a connection was ended by a fault of the proxy: %r; please report it", task.exception())

    async def _serve(self, door: Door, sock: socket.socket) -> None:
        wire = Wire(self._loop, sock)
        end = math.inf if door.local else self._loop.time() + LIFETIME
        most = math.inf if door.local else REQUESTS
        count = 0
        with suppress(OSError, TimeoutError):
            while True:
                count += 1
                patient = self._loop.time() + PATIENCE
                async with asyncio.timeout_at(min(patient, end)):
                    if not await self._exchange(door, wire, count >= most or patient >= end):
                        return

    async def _exchange(self, door: Door, wire: Wire, last: bool) -> bool:
        """One request and its answer. False: no other follows."""
        try:
            if not door.local:
                await self._paced()
            request = await wire.receive()
            if request is None:
                return False
            if not door.local:
                _check_host(door, request.values(b"host"))
                _check_site(request)
            answer = await self._answered(door, request)
        except Refused as refusal:
            answer = refusal.answer()
        return await wire.send(answer, last)

    async def _paced(self) -> None:
        now = self._loop.time()
        mine = max(now, self._next)
        self._next = mine + SPACING
        if mine > now:
            await asyncio.sleep(mine - now)

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
        page = partial(found, self, request.query)
        try:
            if request.path in LIGHT and "verbose" not in request.query:
                return await page()
            return await self._turns[door.local].run(page)
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
        try:
            found = await self._place.explain(self._running, query)
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


_PAGES: dict[str, Callable[[AdminServer, Query], Coroutine[Any, Any, Answer]]] = {
    "/livez": AdminServer._livez, "/readyz": AdminServer._readyz, "/api/v1/status": AdminServer._status,
    "/api/v1/dns": AdminServer._dns, "/api/v1/events": AdminServer._events, "/api/v1/explain": AdminServer._explain}


def _one(query: Query, name: str, default: str) -> str:
    return query.get(name, [default])[0]


def _order(body: bytes) -> tuple[str, str, str]:
    """(service, address, action)"""
    form = '{"service": "app", "address": "10.0.0.5:80", "action": "drain"}'
    try:
        order = json.loads(body)
    except (ValueError, RecursionError):
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


def _check_site(request: Request) -> None:
    """Raises Refused for what a browser says another site asked for. `_check_host` comes first."""
    [host] = request.values(b"host")
    for site in request.values(b"sec-fetch-site"):
        if site.lower() not in ("none", "same-origin"):
            raise Refused(403, "pages of other sites may not ask here (Sec-Fetch-Site)")
    for origin in request.values(b"origin"):
        if origin.lower() != f"http://{host.lower()}":
            raise Refused(403, "pages of other sites may not ask here (Origin)")


def _told(error: BaseException) -> str:
    """In one line: what, and where."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
