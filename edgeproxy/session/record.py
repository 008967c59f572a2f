"""What is told of a connection or an exchange when it has ended; the access log and the tests read it.

Concrete classes, not protocols: the compiled code reads an attribute of a class it knows in a nanosecond, and one of a
protocol in forty; a line of the log reads twenty.

Times are `time.monotonic()` (the loop's clock); phases are seconds, or -1.0 if never reached.
"""
from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.errors import Kind, Outcome, Phase


class ConnectionRecord:
    """One connection of a tcp listener. An exchange has all of it too."""

    __slots__ = ("client", "listener", "service", "endpoint", "attempts", "bytes_in", "bytes_out", "started", "ended",
                 "queue_s", "connect_s", "outcome", "sni", "cause")

    client: str
    """The address as the proxy prints it, so it is written as it is."""
    listener: str
    service: str
    endpoint: str
    """The address that was reached; empty if none was."""
    attempts: Sequence[tuple[str, str]]
    """(endpoint, reason) of the tries that failed."""
    bytes_in: int
    """From the client."""
    bytes_out: int
    started: float
    ended: float
    queue_s: float
    connect_s: float
    outcome: Outcome
    sni: str
    """The name that the client's TLS asked for; empty without."""
    cause: str
    """Why it failed, in words; empty if it did not."""


def unserved(client: str, listener: str, began: float, kind: Kind, phase: Phase, cause: str, sni: str
             ) -> ConnectionRecord:
    """Of a connection that ends now, before any service was chosen for it."""
    record = ConnectionRecord()
    record.client = client
    record.listener = listener
    record.service = record.endpoint = ""
    record.attempts = ()
    record.bytes_in = record.bytes_out = 0
    record.started = began
    record.ended = monotonic()
    record.queue_s = record.connect_s = -1.0
    record.outcome = Outcome(kind.word, phase)
    record.sni = sni
    record.cause = cause
    return record


class ExchangeRecord(ConnectionRecord):
    """One request and its response."""

    __slots__ = ("head", "status", "first_byte_s", "route", "reused", "request_id", "traceparent", "tls",
                 "grpc_status")

    head: RequestHead | None
    """None if no valid head was ever seen."""
    status: int
    first_byte_s: float
    route: str
    reused: bool
    request_id: str
    traceparent: str
    """As the client sent it; empty if it did not. Set at the end."""
    tls: str
    """`TLSv1.3`; empty without."""
    grpc_status: int
    """Of a gRPC answer; -1 without."""


def grpc_status(lines: bytes) -> int:
    """The one that trailers from HTTP/2 tell; -1: none."""
    _, _, rest = (b"\r\n" + lines).partition(b"\r\ngrpc-status: ")
    return grpc_number(rest.partition(b"\r\n")[0])


def grpc_number(value: bytes | None) -> int:
    return int(value) if value and len(value) < 4 and value.isdigit() else -1
