"""What the connections of one http listener share, of whatever HTTP version."""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from itertools import count
from math import inf
from secrets import token_hex

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.compiler import mypyc_attr
from edgeproxy.config import model
from edgeproxy.net.deadline import Nursery
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import Receiver
from edgeproxy.session.exchange import Exchange
from edgeproxy.session.peer import Peer
from edgeproxy.session.record import ConnectionRecord
from edgeproxy.snapshot import Live

_process = token_hex(6)
_connections = count(1)


def connection_id() -> str:
    """What the ids of this connection's requests begin with; no other connection of any process has it."""
    return f"{_process}{hex(next(_connections))[2:]}-"  # compiled, a format was 1 % of a TLS connection


MAX_REQUEST_ID = 128
MAX_HOPS = 32


@mypyc_attr(allow_interpreted_subclasses=True)
class HttpSession(Receiver):
    """A connection of an http or https listener, whatever version is spoken on it."""

    __slots__ = ("peer",)

    peer: Peer

    def drain(self) -> None:
        """End as soon as it can be done without cutting anything."""

    def cut(self) -> None:
        """End now."""


class HttpListener:
    """What the connections of one http listener share. A reload changes `config` in place."""

    __slots__ = ("name", "config", "live", "log", "unserved", "loop", "poller", "nursery", "sessions", "draining",
                 "idle", "header_time", "body_time", "body_limit")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, config: model.Listener, live: Live,
                 log: Callable[[Exchange], None], unserved: Callable[[ConnectionRecord], None]) -> None:
        """`log` is told of exchanges, `unserved` of connections that end for a fault of their own."""
        self.name = config.name
        self.apply(config)
        self.live = live
        self.log = log
        self.unserved = unserved
        self.loop = loop
        self.poller = poller
        self.sessions: set[HttpSession] = set()
        self.nursery = Nursery()
        self.draining = False

    def apply(self, config: model.Listener) -> None:
        """Follow `config`, for open connections too. No limit is `inf` from here on."""
        self.config = config
        self.idle = config.idle_or_default or inf
        self.header_time = config.timeouts.header or inf
        self.body_time = config.timeouts.body or inf
        self.body_limit = config.limits.body or inf

    def trusts(self, peer: str) -> bool:
        networks = self.config.trusted_proxies
        if not networks:
            return False
        try:
            address = ip_address(peer)
        except ValueError:  # a unix socket's peer has no address
            return False
        return any(address in network for network in networks)

    def told(self, head: RequestHead, peer: str, request_id: str) -> tuple[str, str]:
        """(client address, request id) as a trusted peer says; what it does not say stays as given.

        The client is the rightmost address of X-Forwarded-For that is not a trusted proxy's: everything left of it may
        have been made up by that client.
        """
        told = head.get(b"x-request-id")
        if told and len(told) <= MAX_REQUEST_ID and told.isascii():
            request_id = told.decode()
        client = peer
        for part in reversed((head.get(b"x-forwarded-for") or b"").decode("latin-1").rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            hop = part.strip()
            try:
                address = ip_address(hop)
            except ValueError:
                break
            if "%" in hop:  # a zone may be any text, and means nothing here
                break
            client = str(address)
            if not self.trusts(client):
                break
        return client, request_id
