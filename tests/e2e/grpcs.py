"""gRPC by grpcio: a service whose messages are bytes, without protobuf, and a client's channel to it.

The service is an endpoint behind the proxy, over h2c or TLS. What a test wants to know of the server's side (a deadline, a
cancellation) is in `Service.calls`.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc

from e2e.certs import Authority, Pair
from e2e.waiting import PATIENCE, eventually

NAME = "test.Bytes"
Metadata = Sequence[tuple[str, str | bytes]]
_SIZES = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
MEBIBYTE = 1 << 20


@dataclass
class Call:
    """One call as the server saw it."""

    method: str
    metadata: list[tuple[str, str | bytes]]
    remaining: float | None
    """Seconds to its deadline when it began."""
    over: threading.Event = field(default_factory=threading.Event)
    """It ended: cancelled, past its deadline, or done."""
    received: int = 0
    sent: int = 0
    """Messages so far."""


class Service:
    """The server. Methods: Unary, Sum (client streaming), Count (server streaming), Echo and Hold (both), and more."""

    def __init__(self, tls: Pair | None = None) -> None:
        self.calls: list[Call] = []
        self.go = threading.Event()
        """`Take` waits for it."""
        self._server = grpc.server(futures.ThreadPoolExecutor(64), options=[*_SIZES, ("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(NAME, self._methods())])
        if tls is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (tls.key.read_bytes(), tls.cert.read_bytes())
            self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self._server.start()

    def _methods(self) -> dict[str, Any]:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return {"Unary": unary(self._unary), "Wait": unary(self._wait), "Fail": unary(self._fail),
                "Sum": grpc.stream_unary_rpc_method_handler(self._sum), "Count": stream(self._count),
                "Big": stream(self._big), "Echo": grpc.stream_stream_rpc_method_handler(self._echo),
                "Hold": grpc.stream_stream_rpc_method_handler(self._hold),
                "Take": grpc.stream_unary_rpc_method_handler(self._take)}

    def call(self, method: str) -> Call:
        """The only call of that method, once it is there."""
        eventually(lambda: any(call.method == method for call in self.calls), f"a call of {method}")
        [found] = [call for call in self.calls if call.method == method]
        return found

    def stop(self) -> None:
        self._server.stop(0).wait(PATIENCE)

    # ---- methods

    def _begin(self, method: str, context: grpc.ServicerContext) -> Call:
        call = Call(method, [(name, value) for name, value in context.invocation_metadata()], context.time_remaining())
        context.add_callback(call.over.set)
        self.calls.append(call)
        return call

    def _unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        call = self._begin("Unary", context)
        told = [(name, value) for name, value in call.metadata if name.startswith("x-")]
        context.send_initial_metadata((("x-first", "head"), *told))
        context.set_trailing_metadata((("x-last", "tail"), ("x-raw-bin", b"\0\xff\x80")))
        return request

    def _wait(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._begin("Wait", context).over.wait(60)
        return b""

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._begin("Fail", context)
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no “such” thing: 100 %")
        raise AssertionError

    def _sum(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        call, total = self._begin("Sum", context), 0
        for request in requests:
            call.received += 1
            total += int(request)
        return b"%d" % total

    def _count(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._begin("Count", context)
        for number in range(int(request)):
            yield b"%d" % number

    def _big(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """As many messages of 4 MiB as asked for."""
        call = self._begin("Big", context)
        for number in range(int(request)):
            yield bytes([number]) * (4 * MEBIBYTE)
            call.sent += 1

    def _echo(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        call = self._begin("Echo", context)
        for request in requests:
            call.received += 1
            yield request

    def _hold(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Echoes one message, then waits for its end without looking at the client's: only a cancellation ends it."""
        call = self._begin("Hold", context)
        yield next(requests)
        call.over.wait(60)

    def _take(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Reads nothing until `go` is set, then all."""
        call = self._begin("Take", context)
        self.go.wait(60)
        size = 0
        for request in requests:
            call.received += 1
            size += len(request)
        return b"%d" % size


def open_channel(port: int, authority: Authority | None = None, name: str = "edge.test") -> grpc.Channel:
    """To the proxy; over TLS if there is an authority."""
    options = [*_SIZES, ("grpc.default_authority", name), ("grpc.enable_http_proxy", 0)]
    if authority is None:
        return grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
    trust = grpc.ssl_channel_credentials(authority.pem.read_bytes())
    return grpc.secure_channel(f"127.0.0.1:{port}", trust, options=[*options, ("grpc.ssl_target_name_override", name)])


class Stub:
    """The methods of the service as a client has them."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.unary = channel.unary_unary(f"/{NAME}/Unary")
        self.wait = channel.unary_unary(f"/{NAME}/Wait")
        self.fail = channel.unary_unary(f"/{NAME}/Fail")
        self.sum = channel.stream_unary(f"/{NAME}/Sum")
        self.take = channel.stream_unary(f"/{NAME}/Take")
        self.count = channel.unary_stream(f"/{NAME}/Count")
        self.big = channel.unary_stream(f"/{NAME}/Big")
        self.echo = channel.stream_stream(f"/{NAME}/Echo")
        self.hold = channel.stream_stream(f"/{NAME}/Hold")


class Feed:
    """An iterator that the test fills, one message at a time."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._messages: list[bytes] = []
        self._ended = False
        self.taken = 0

    def put(self, message: bytes) -> None:
        with self._ready:
            self._messages.append(message)
            self._ready.notify()

    def end(self) -> None:
        with self._ready:
            self._ended = True
            self._ready.notify()

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> bytes:
        with self._ready:
            self._ready.wait_for(lambda: bool(self._messages) or self._ended, 60)
            if not self._messages:
                raise StopIteration
            self.taken += 1
            return self._messages.pop(0)


def still(ask: Callable[[], int], what: str) -> int:
    """The value, once it has not changed for a quarter of a second."""
    last: list[tuple[int, float]] = [(ask(), time.monotonic())]

    def unchanged() -> bool:
        value = ask()
        if value != last[0][0]:
            last[0] = (value, time.monotonic())
        return time.monotonic() - last[0][1] > 0.25

    eventually(unchanged, f"{what} stands still", seconds=20)
    return last[0][0]
