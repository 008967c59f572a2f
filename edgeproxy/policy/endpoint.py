"""One endpoint: who it is (frozen) and how it is doing (mutable, one object for as long as the endpoint is known).

`active` is written by whoever uses the endpoint, the health fields by `policy/health.py` only; pickers read.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The identity of an endpoint within a service: `10.0.0.5:80`, `[::1]:80` or `unix:/run/app.sock`."""

    address: str
    host: str = ""
    port: int = 0
    path: str = ""


class EndpointState:
    """What is known of an endpoint. It outlives configurations: weight and backup are set anew by each."""

    __slots__ = ("endpoint", "address", "weight", "backup", "active", "total", "ready", "latency", "latency_at",
                 "failures", "ejections", "ejected_until", "reason", "since")

    def __init__(self, endpoint: Endpoint, weight: int = 1, backup: bool = False) -> None:
        self.endpoint = endpoint
        self.address = endpoint.address
        self.weight = weight
        self.backup = backup
        self.active = 0
        """In flight: connections at L4, exchanges at L7."""
        self.total = 0
        self.ready = True
        """The one bit that pickers' users read; derived by health."""
        self.latency = 0.0
        """Peak-sensitive moving average of the response time, seconds (least-latency)."""
        self.latency_at = 0.0
        self.failures: list[float] = []
        """Times of recent failures, oldest first (passive health)."""
        self.ejections = 0
        """Ejections in a row."""
        self.ejected_until = 0.0
        self.reason = ""
        self.since = 0.0
