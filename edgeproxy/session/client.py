"""The side that asked, as an exchange sees it: a session, or a stream of one, of any HTTP version."""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgeproxy.codec._leaf import Edits, ResponseHead
from edgeproxy.errors import Outcome
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import SocketTransport
from edgeproxy.session.peer import Peer
from edgeproxy.session.reply import Reply

if TYPE_CHECKING:
    from edgeproxy.session.exchange import Exchange


class Client(Protocol):
    """The side that asked: a session of any HTTP version."""

    loop: asyncio.AbstractEventLoop
    poller: Poller
    peer: Peer
    log: Callable[[Exchange], None]

    def respond(self, head: ResponseHead, payload: bytes, done: bool, edits: Edits | None, trailers: bytes) -> None: ...
    def respond_data(self, payload: bytes, done: bool, trailers: bytes) -> None: ...
    def respond_interim(self, head: ResponseHead) -> None: ...
    def respond_local(self, reply: Reply) -> int: ...
    def respond_cut(self) -> None: ...
    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
    def upgrade(self, head: ResponseHead, edits: Edits | None, upstream: SocketTransport, rest: bytes,
                ended: Callable[[Outcome, int, int], None]) -> None: ...
    def finished(self) -> None: ...
