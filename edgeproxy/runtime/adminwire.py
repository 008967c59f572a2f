"""HTTP/1.1 of the admin server on one accepted socket: a request is received whole, an answer is sent whole.

Rules: h11 reads and writes; what is too long, or is no HTTP, is `Refused`, which is a problem of RFC 9457.
"""
from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import h11

HEAD = 16 * 1024
BODY = 64 * 1024
PIECE = 4096
"""Read at once: h11 lets a head pass that is longer than it may be, but complete."""
JSON = "application/json"
PROBLEM = "application/problem+json"
TEXT = "text/plain; charset=utf-8"

Query = Mapping[str, list[str]]


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
    fields: Sequence[tuple[bytes, bytes]]
    """Their names in lower case."""

    def values(self, name: bytes) -> list[str]:
        return [value.decode("latin-1").strip() for known, value in self.fields if known == name]


class Wire:
    """HTTP/1.1 on one accepted socket, by h11."""

    __slots__ = ("_loop", "_sock", "_h11", "_head")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
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

    async def send(self, answer: Answer, last: bool = False) -> bool:
        """Whether another request may follow; after the `last` one none."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        fields = [("Content-Type", answer.kind), ("Content-Length", str(len(answer.body))),
                  ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), *answer.fields]
        whole = self._h11.their_state is h11.DONE
        if last or not whole:
            fields.append(("Connection", "close"))
        head = self._h11.send(h11.Response(status_code=answer.status, headers=fields,
                                           reason=HTTPStatus(answer.status).phrase))
        body = b"" if self._head else self._h11.send(h11.Data(data=answer.body)) or b""
        await self._put((head or b"") + body + (self._h11.send(h11.EndOfMessage()) or b""))
        if last or not whole:
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
    return Request(request.method.decode("latin-1"), parts.path, query, body, list(request.headers))
