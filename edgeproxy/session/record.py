"""What is told of a connection or an exchange when it has ended; the access log and the tests read it.

Concrete classes, not protocols: the compiled code reads an attribute of a class it knows in a nanosecond, and one of a
protocol in forty; a line of the log reads twenty.

Times are `time.monotonic()` (the loop's clock); phases are seconds, or -1.0 if never reached.
"""
from __future__ import annotations

from collections.abc import Sequence

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.errors import Outcome


class ConnectionRecord:
    """One connection of a tcp listener. An exchange has all of it too."""

    __slots__ = ("client", "listener", "service", "endpoint", "attempts", "bytes_in", "bytes_out", "started", "ended",
                 "queue_s", "connect_s", "outcome")

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


class ExchangeRecord(ConnectionRecord):
    """One request and its response."""

    __slots__ = ("head", "status", "first_byte_s", "route", "reused", "request_id", "traceparent", "cause")

    head: RequestHead | None
    """None if no valid head was ever seen."""
    status: int
    first_byte_s: float
    route: str
    reused: bool
    request_id: str
    traceparent: str
    """As the client sent it; empty if it did not. Set at the end."""
    cause: str
    """Why it failed, in words; empty if it did not."""
