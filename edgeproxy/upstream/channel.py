"""What carries one request to an endpoint and tells its user what comes back; `http1.py` and `http2.py` say how.

A channel knows bytes and framing; it never decides whether to try again or what to tell the client. It calls its user
only between `send` and the end of that exchange, whatever the endpoint does before or after. Bodies are plain on this
side of it: it encodes what it is given and decodes what it gives.
"""
from __future__ import annotations

from typing import Final, Protocol

from edgeproxy.codec._leaf import RequestHead, ResponseHead
from edgeproxy.errors import ProxyError
from edgeproxy.net.transport import Receiver, SocketTransport

MAX_RESPONSE_HEAD: Final = 64 * 1024
MAX_RESPONSE_FIELDS: Final = 256
MAX_INTERIM: Final = 32  # interim responses before the final one; more is an endpoint gone wrong


class ChannelUser(Protocol):
    """Whose request the channel carries."""

    def outbound(self) -> bytes:
        """The request's head as it goes to an HTTP/1 endpoint."""

    def outbound_fields(self, scheme: bytes) -> list[tuple[bytes, bytes]]:
        """The same for an HTTP/2 endpoint."""

    def interim(self, head: ResponseHead) -> None: ...
    def response(self, head: ResponseHead, payload: bytes, done: bool) -> None: ...
    def response_data(self, payload: bytes, done: bool) -> None: ...
    def upgraded(self, head: ResponseHead, transport: SocketTransport, rest: bytes) -> None: ...
    def channel_failed(self, error: ProxyError) -> None: ...
    def channel_full(self) -> None: ...
    def channel_ready(self) -> None: ...


class Channel(Receiver):
    """A receiver because an HTTP/1 channel hears its transport itself, without an object between."""

    __slots__ = ("user", "full", "trailers")

    user: ChannelUser | None
    full: bool
    """The endpoint takes no more of the request for now."""
    trailers: bytes
    """Whole lines, once the response is done."""

    def send(self, user: ChannelUser, request: RequestHead, payload: bytes, done: bool, trailers: bytes,
             timeout: float, now: float) -> None:
        """Begin a request: its head, asked of `user`, and what there is of its body; `done`: that is all of it.

        The endpoint has `timeout` seconds (or inf) for its answer from the request's end on: while the client is still
        sending, silence is not the endpoint's fault, unless it takes no more of the request.
        """
        raise NotImplementedError

    def send_body(self, payload: bytes) -> None:
        """More of it; never none."""
        raise NotImplementedError

    def send_end(self, trailers: bytes) -> None:
        raise NotImplementedError

    def pause(self) -> None:
        """The client is slow: stop reading, and do not blame the endpoint for the silence."""
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    def release(self, now: float, reusable: bool) -> None:
        """The exchange is over. `reusable`: the whole request was sent."""
        raise NotImplementedError

    def reset(self) -> None:
        """Leave in the middle of an exchange: the endpoint must not take what it got for complete."""
        raise NotImplementedError
