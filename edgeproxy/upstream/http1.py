"""One connection to an endpoint, HTTP/1: a channel that carries one request at a time, and waits in a pool between.

    stage   stimulus              then
    IDLE    any byte, EOF, time   closed, out of the pool: a byte nobody asked for must never answer the next request
    IDLE    send                  WAIT
    WAIT    bytes                 HEAD
    HEAD    head is whole         interim: WAIT again · 101: given away · final: BODY, or DONE
    WAIT    EOF, reset            failed: stale if the channel was reused, else reset
    HEAD, BODY  EOF, reset        DONE if the body runs until close, else failed: cut
    DONE    release               IDLE in the pool if it can carry another request, else closed
"""
from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import Final

from edgeproxy.codec._leaf import RequestHead, ResponseHead
from edgeproxy.codec.h1 import CHUNKED, ResponseDecoder, encode_chunk, encode_last_chunk
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.net.deadline import Deadline
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import SocketTransport
from edgeproxy.upstream.channel import MAX_INTERIM, MAX_RESPONSE_FIELDS, MAX_RESPONSE_HEAD, Channel, ChannelUser
from edgeproxy.upstream.pool import Pool
from edgeproxy.upstream.tls import late_refusal

# Plain numbers, not an enum: the compiled code compares them in an instruction.
_IDLE: Final = 0
_WAIT: Final = 1
_HEAD: Final = 2
_BODY: Final = 3
_DONE: Final = 4
_CLOSED: Final = 5


class Http1Channel(Channel):
    __slots__ = ("transport", "deadline", "stage", "reused", "decoder", "_pool", "_request", "_chunked", "_keep_alive",
                 "_interims", "_timeout", "_sending", "_asking", "_held", "_batch", "_poller")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, transport: SocketTransport, pool: Pool) -> None:
        """A fresh connection; `transport` tells this channel from now on."""
        self.user: ChannelUser | None = None
        self.stage = _IDLE
        self.full = False
        self.trailers = b""
        self.reused = False
        """An earlier request went over this connection."""
        self.decoder = ResponseDecoder(MAX_RESPONSE_HEAD, MAX_RESPONSE_FIELDS)
        self.deadline = Deadline(loop, self._expired)
        self._pool = pool      # not the endpoint's: that may have another by the time this channel is idle
        self._chunked = False  # the request's body goes out in chunks
        self._keep_alive = False
        self._interims = 0
        self._timeout = inf
        self._held = False     # reading is paused, because the client is slow
        self._batch = 0        # in which the request was sent
        self._poller = poller
        self._sending = False  # the request is not complete yet, and it is the client's turn
        self._asking = False   # the request waits for 100: it is not
        self._request: RequestHead
        self.transport = transport
        transport.last_words = True
        transport.hand_over(self)

    # ---- sending

    def send(self, user: ChannelUser, request: RequestHead, payload: bytes, done: bool, trailers: bytes,
             timeout: float, now: float) -> None:
        self.user = user
        self.stage = _WAIT
        self.trailers = b""
        self._request = request
        self._timeout = timeout
        self._asking = request.expect and not (done or payload)
        self._sending = not (done or self._asking)
        self._batch = self._poller.batch
        self.decoder.head_request = request.method == "HEAD"
        deadline = self.deadline
        deadline.at = at = inf if self._sending else now + timeout
        if at < deadline.fires:
            deadline.arm(at)
        data = user.outbound()
        length = request.length
        if length:
            self._chunked = length == CHUNKED
            data += self._encoded(payload)
            if done and self._chunked:
                data += encode_last_chunk(trailers)
        self.transport.write(data)

    def _encoded(self, payload: bytes) -> bytes:
        return encode_chunk(payload) if self._chunked and payload else payload

    def send_body(self, payload: bytes) -> None:
        if self._asking:
            self._go_on()
        self.transport.write(self._encoded(payload))

    def send_end(self, trailers: bytes) -> None:
        self._sending = self._asking = False
        self._wait()
        if self._chunked:
            self.transport.write(encode_last_chunk(trailers))

    def _wait(self) -> None:
        """It is the endpoint's turn from now on; not while it is us who do not read."""
        if not self._held:
            self.deadline.set(monotonic() + self._timeout)

    def _go_on(self) -> None:
        """100 has come, or the client does not wait for it."""
        self._asking = False
        self._sending = True
        if not self.full:
            self.deadline.at = inf

    # ---- receiving

    def data_received(self, data: bytes) -> None:
        user = self.user
        if user is None:
            self.close()
            return
        decoder = self.decoder
        try:
            if self.stage == _BODY:
                payload = decoder.body(data)
                if decoder.done:
                    self.stage = _DONE
                    self.trailers = decoder.trailers
                elif not self._sending:
                    self._wait()
                user.response_data(payload, decoder.done)
            elif self.stage == _WAIT and self.reused and self._batch == self._poller.batch and self._poller.turning:
                # The kernel told of these bytes together with what made us send: they are no answer to it. An endpoint
                # that closes an idle connection may say so first (408). What was sent since cannot be told apart.
                self._fail(ProxyError(Kind.STALE, "the endpoint spoke before it was asked"))
            elif self.stage == _DONE:
                self._keep_alive = False  # bytes behind the response: the endpoint is out of step
            else:
                self.stage = _HEAD
                head = decoder.head(data)
                if head is None:
                    return
                if head.status < 200:
                    head = self._before_final(user, head)
                    if head is None:
                        return
                self._keep_alive = head.keep_alive
                if decoder.done:
                    self.stage = _DONE
                    self.trailers = decoder.trailers
                else:
                    self.stage = _BODY
                    if not self._sending:
                        self._wait()
                user.response(head, decoder.payload, decoder.done)
        except ProxyError as error:
            told = self._pool.access.mistaken(decoder.head_so_far(data)) if self.stage == _HEAD else ""
            self._fail(ProxyError(error.kind, told) if told else error)

    def _before_final(self, user: ChannelUser, head: ResponseHead) -> ResponseHead | None:
        """Interim responses and upgrades; the final head if it is here already. Raises ProxyError."""
        while head.status != 101:
            self._interims += 1
            if self._interims > MAX_INTERIM:
                raise ProxyError(Kind.RESPONSE_BROKEN, "too many interim responses")
            self.stage = _WAIT
            if self._asking and head.status == 100:
                self._go_on()
            user.interim(head)
            rest = self.decoder.rest
            if self.user is not user or not rest:
                return None
            self.stage = _HEAD
            final = self.decoder.head(rest)
            if final is None or final.status >= 200:
                return final
            head = final
        if self._request.upgrade is None or head.upgrade is None:
            raise ProxyError(Kind.RESPONSE_BROKEN, "101 without an upgrade that was asked for")
        self.user = None
        self.deadline.close()
        user.upgraded(head, self.transport, self.decoder.rest)
        return None

    # ---- flow

    def pause(self) -> None:
        if self.stage == _BODY:
            self._held = True
            self.transport.pause_reading()
            self.deadline.at = inf

    def resume(self) -> None:
        self._held = False
        if self.stage == _BODY:
            if not self._sending or self.full:
                self._wait()
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.full = True
        if self.user is not None:
            self._wait()  # to take more of the request
            self.user.channel_full()

    def resume_writing(self) -> None:
        self.full = False
        if self.user is not None:
            if self._sending:
                self.deadline.at = inf
            self.user.channel_ready()

    # ---- the end

    def release(self, now: float, reusable: bool) -> None:
        self.user = None
        pool = self._pool
        idle = pool.idle
        transport = self.transport
        if (reusable and self.stage == _DONE and self._keep_alive and not self.decoder.rest
                and len(idle) < pool.limit and not transport.get_write_buffer_size()
                and (transport.drained or transport.peek_alive())):  # nothing behind the response, in the kernel either
            self.stage = _IDLE
            self.reused = True
            self._interims = 0
            deadline = self.deadline
            deadline.at = at = now + pool.idle_timeout
            if at < deadline.fires:
                deadline.arm(at)
            idle.append(self)
        else:
            self.close()

    def close(self) -> None:
        """What is queued is dropped: nobody waits for an answer, and it must not wait for a dead endpoint."""
        self.user = None
        self._leave_pool()
        self.deadline.end()
        self.transport.abort()

    def reset(self) -> None:
        self.user = None
        self.stage = _CLOSED
        self.deadline.end()
        self.transport.reset()

    def _leave_pool(self) -> None:
        if self.stage == _IDLE:
            self._pool.remove(self)
        self.stage = _CLOSED

    def _fail(self, error: ProxyError) -> None:
        user = self.user
        self.close()
        if user is not None:
            user.channel_failed(error)

    def eof_received(self) -> bool:
        if self.stage == _BODY and self.user is not None and self.decoder.eof():
            self.stage = _DONE
            self._keep_alive = False
            self.user.response_data(b"", True)
        else:
            self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        refusal = late_refusal(exc) if self.stage == _WAIT and exc is not None else None
        if refusal is not None:
            self._fail(refusal)
        else:
            self._gone()

    def _gone(self) -> None:
        if self.user is None:
            self.close()
        elif self.stage == _WAIT:
            self._fail(ProxyError(Kind.STALE if self.reused else Kind.RESET, "closed before the response"))
        elif self.stage == _HEAD:
            self._fail(ProxyError(Kind.RESPONSE_CUT, "closed within the response's head"))
        elif self.stage == _BODY:
            self._fail(ProxyError(Kind.RESPONSE_CUT, "closed within the response's body"))

    def _expired(self) -> None:
        if self.user is None:
            self.close()
        else:
            self._fail(ProxyError(Kind.RESPONSE_TIMEOUT, f"no byte of the response for {self._timeout:g} s"))
