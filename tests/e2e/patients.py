"""Endpoints that are probed: what they say of their health is the test's to change, and they tell probes from requests.

And what the proxy has said of an endpoint: its transitions, one log line each.
"""
from __future__ import annotations

import re
import threading
import time
from concurrent import futures

import grpc

from e2e.certs import Pair
from e2e.program import Edge
from e2e.waiting import PATIENCE, eventually
from e2e.wire import Request, Wire

AGENT = "(health probe)"


class Patient:
    """A script for an actor: answers requests with its name, and probes as it feels."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = "200 OK"
        self.body = b"fine"
        self.awake = threading.Event()
        """Probes are answered; while it is not set they wait."""
        self.awake.set()
        self.probes: list[tuple[float, Request]] = []
        """When each began, and what it asked."""
        self.requests: list[Request] = []

    def __call__(self, wire: Wire) -> None:
        while True:
            request = wire.request()
            if AGENT in (request.get("user-agent") or ""):
                self.probes.append((time.monotonic(), request))
                self.awake.wait(60)
                wire.answer(b"" if request.method == "HEAD" else self.body, self.status)
            else:
                self.requests.append(request)
                wire.answer(self.name.encode())

    def probed(self, times: int, seconds: float = PATIENCE) -> None:
        """So many more probes have come than there are now."""
        wanted = len(self.probes) + times
        eventually(lambda: len(self.probes) >= wanted, f"{times} more probes of {self.name}", seconds)


class GrpcPatient:
    """A real grpcio server with grpc.health.v1; the states are SERVING (1) and NOT_SERVING (2)."""

    def __init__(self, tls: Pair | None = None) -> None:
        self.state = 1
        self.asked: list[bytes] = []
        """The HealthCheckRequests, as bytes."""
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        check = grpc.unary_unary_rpc_method_handler(self._check)
        unary = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
        self._server.add_generic_rpc_handlers([
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),
            grpc.method_handlers_generic_handler("test.Bytes", {"Unary": unary})])
        if tls is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (tls.key.read_bytes(), tls.cert.read_bytes())
            self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self._server.start()

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(request)
        return b"\x08" + bytes([self.state])

    def stop(self) -> None:
        self._server.stop(0).wait(PATIENCE)


def transitions(proxy: Edge, port: int) -> list[str]:
    """What was said of the endpoint with that port so far, in order: `up: its first probe passed`."""
    return re.findall(rf"endpoint 127\.0\.0\.1:{port} (.*)", proxy.errors)


def becomes(proxy: Edge, port: int, start: str) -> str:
    """The last transition of the endpoint, once it begins with `start`."""
    def last() -> str:
        said = transitions(proxy, port)
        return said[-1] if said and said[-1].startswith(start) else ""
    try:
        return eventually(last, f"the endpoint is {start}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it said {transitions(proxy, port)}") from None
