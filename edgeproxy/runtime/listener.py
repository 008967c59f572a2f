"""One listener of the running program: the acceptors on its sockets, and what its connections share.

A reload changes it in place. One that is retired stops accepting and drains. The sockets belong to the registry, so
that an address can go from one listener to another without a moment of refusal.
"""
from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from functools import partial

from edgeproxy.config import model
from edgeproxy.net.poller import Poller
from edgeproxy.runtime.accesslog import AccessLog
from edgeproxy.runtime.fronts import build_front
from edgeproxy.session.acceptor import MOST_CONNECTIONS, Acceptor, ConnectionLimit
from edgeproxy.snapshot import Live

_log = logging.getLogger("edgeproxy")


class Listener:
    __slots__ = ("config", "_loop", "_front", "_limit", "_acceptors", "_gone")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, config: model.Listener, live: Live,
                 log: AccessLog, budget: ConnectionLimit) -> None:
        """`budget`: the places of the whole process."""
        self.config = config
        self._loop = loop
        self._limit = ConnectionLimit(1, budget)
        self._acceptors: dict[socket.socket, Acceptor] = {}
        self._gone: Callable[[], None] | None = None
        self._front = build_front(loop, poller, config, live, log, self._ended)

    def let_go(self, sockets: list[socket.socket]) -> None:
        """Accept no more from any but `sockets`. Before any listener follows: an address may go from one to another,
        and two watchers of one socket would be in each other's way."""
        for sock in self._acceptors.keys() - set(sockets):
            self._acceptors.pop(sock).stop()

    def follow(self, config: model.Listener, sockets: list[socket.socket]) -> None:
        """Bring the listener to `config`; `sockets` are the ones to accept from."""
        self.config = config
        self._front.apply(config)
        self._limit.set(config.limits.connections or MOST_CONNECTIONS)
        for sock in sockets:
            if sock not in self._acceptors:
                name = sock.getsockname()
                port = 80 if isinstance(name, str) else name[1]  # what is said of a connection over a unix socket
                connected = partial(self._front.connected, port)
                acceptor = Acceptor(self._loop, sock, connected, self._limit, self._say)
                self._acceptors[sock] = acceptor
                acceptor.start()

    def _say(self, line: str) -> None:
        _log.warning("listener %s: %s", self.config.name, line)

    def describe(self) -> Iterator[str]:
        """A line for each address: what is served there."""
        protocol = self.config.protocol
        serves = f"tcp to {self.config.service}" if protocol == "tcp" else protocol
        for sock in self._acceptors:
            name = sock.getsockname()
            where = f"unix:{name}" if isinstance(name, str) else \
                f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
            yield f"listening on {where} ({self.config.name}: {serves})"

    # ---- the end

    def stop(self) -> None:
        """Accept no more; the sockets stay as they are."""
        for acceptor in self._acceptors.values():
            acceptor.stop()
        self._acceptors.clear()

    def last_call(self) -> None:
        """Accept who waits in the queues of the sockets, before these are closed."""
        for acceptor in self._acceptors.values():
            acceptor.last_call()

    def retire(self, gone: Callable[[], None]) -> None:
        """Accept no more and let what is open finish; `gone` is called when nothing is left, from the loop."""
        self.stop()
        self._gone = gone
        self._front.drain()
        if not self._front.count():
            self._loop.call_soon(self._told)

    def _ended(self) -> None:
        self._limit.release()
        if self._gone is not None and not self._front.count():
            self._told()

    def _told(self) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def cut(self) -> None:
        self._front.cut()

    @property
    def count(self) -> int:
        """Open connections."""
        return self._front.count()
