"""The idle channels of one endpoint, and the endpoint as a member of a service.

A pool holds channels, never sockets, and only idle ones: a channel that receives a byte or EOF while idle takes itself
out at once. Newest first, because the newest is the least likely to be closed by the endpoint just now, and the rest
may age and go. `idle` is a plain list that `Http1Channel.release` appends to and `Exchange` pops from: no call for it
on the warm path.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from edgeproxy.policy.endpoint import Endpoint, EndpointState
from edgeproxy.upstream.access import PLAIN, Access

if TYPE_CHECKING:
    from edgeproxy.upstream.http1 import Http1Channel


class Pool:
    __slots__ = ("access", "idle", "limit", "idle_timeout")

    def __init__(self, limit: int, idle_timeout: float, access: Access = PLAIN) -> None:
        self.access = access
        """How its connections were opened."""
        self.idle: list[Http1Channel] = []
        self.limit = limit
        """Channels kept; 0: none (the endpoint was removed, or pooling is off)."""
        self.idle_timeout = idle_timeout
        """Seconds; `inf` is for ever."""

    def take_quiet(self) -> Http1Channel | None:
        """The newest channel on which nothing waits to be read, neither a byte nor FIN. One system call each."""
        while self.idle:
            channel = self.idle.pop()
            if channel.transport.peek_alive():
                return channel
            channel.close()
        return None

    def remove(self, channel: Http1Channel) -> None:
        if channel in self.idle:
            self.idle.remove(channel)

    def set(self, limit: int, idle_timeout: float) -> None:
        self.limit = limit
        self.idle_timeout = idle_timeout
        while len(self.idle) > limit:
            self.idle.pop(0).close()


class Member(EndpointState):
    """An endpoint of one service: its state and its pool, across reloads, and for a while after it has left."""

    __slots__ = ("pool",)

    def __init__(self, endpoint: Endpoint, weight: int, backup: bool, pool: Pool) -> None:
        super().__init__(endpoint, weight, backup)
        self.pool = pool
