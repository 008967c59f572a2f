"""One endpoint: who it is (frozen) and how it is doing (mutable, one object for as long as the endpoint is known).

`active` is written by whoever uses the endpoint, the health fields by `policy/health.py` only, `handicap` by
`policy/slowstart.py`; pickers read.

    state       means                                                              new work   bound sessions
    checking    probed, but not proven yet                                         by `health.initial`
    up          nothing speaks against it                                          yes        yes
    down        its probes fail                                                    no         no
    ejected     real requests failed: out for a while                              no         no
    draining    it has left the configuration or DNS, or an admin said so          no         yes
    disabled    an admin said so                                                   no         no

What an admin says goes before what probes find, and that before what requests find.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

CHECKING: Final = "checking"
UP: Final = "up"
DOWN: Final = "down"
EJECTED: Final = "ejected"
DRAINING: Final = "draining"
DISABLED: Final = "disabled"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The identity of an endpoint within a service: `10.0.0.5:80`, `[::1]:80` or `unix:/run/app.sock`."""

    address: str
    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""
    """The name that the address was found by; empty if it was written down as an address."""


class Target(NamedTuple):
    """An endpoint as its source gives it: the configuration, or DNS."""

    endpoint: Endpoint
    weight: int = 1
    backup: bool = False


def target(host: str, port: int, weight: int = 1, backup: bool = False, name: str = "") -> Target:
    """Of an IP address."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Target(Endpoint(address, host, port, "", name), weight, backup)


class EndpointState:
    """What is known of an endpoint. It outlives configurations: weight and backup are set anew by each."""

    __slots__ = ("endpoint", "address", "weight", "backup", "active", "total", "failed", "ready", "handicap", "latency",
                 "latency_at", "failures", "ejections", "ejected_until", "probed", "trusted", "proven", "streak",
                 "admin", "left_at", "state", "reason", "since")

    def __init__(self, endpoint: Endpoint, weight: int = 1, backup: bool = False) -> None:
        self.endpoint = endpoint
        self.address = endpoint.address
        self.weight = weight
        self.backup = backup
        self.active = 0
        """In flight: connections at L4, exchanges at L7."""
        self.total = 0
        self.failed = 0
        """How much of `total` is evidence against it."""
        self.ready = True
        """The one bit that pickers' users read; derived by health."""
        self.handicap = 0.0
        """(1 - share) / share while it starts slowly; 0: its full share."""
        self.latency = 0.0
        """Peak-sensitive moving average of the response time, seconds (least-latency)."""
        self.latency_at = 0.0
        self.failures: list[float] = []
        """Times of recent failures, oldest first (passive health)."""
        self.ejections = 0
        """Ejections in a row."""
        self.ejected_until = 0.0
        self.probed = False
        """Whether there are probes for it."""
        self.trusted = True
        """Whether it takes traffic before they have found anything."""
        self.proven: bool | None = None
        """What they found; None: nothing yet."""
        self.streak = 0
        """Probes in a row that say otherwise than `proven`; counted from 1 for the first."""
        self.admin = ""
        """DRAINING or DISABLED, as an admin wants it; empty: neither."""
        self.left_at = 0.0
        """Since when it is named by no source any more, `time.monotonic()`; 0: it is named."""
        self.state = UP
        self.reason = ""
        """Why it is in this state; empty for the ordinary."""
        self.since = 0.0
        """Since when, `time.monotonic()`; 0: from the beginning."""
