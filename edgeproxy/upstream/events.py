"""What has happened to endpoints and names: each told once in the log, and the last thousand kept for who asks."""
from __future__ import annotations

import logging
from collections import deque
from time import time
from typing import NamedTuple

_log = logging.getLogger("edgeproxy")

KEPT = 1000


class Event(NamedTuple):
    at: float
    """Unix seconds."""
    kind: str
    """`endpoint` or `dns`."""
    service: str
    subject: str
    """The endpoint's address, or the name."""
    text: str


class Events:
    __slots__ = ("ring",)

    def __init__(self) -> None:
        self.ring: deque[Event] = deque(maxlen=KEPT)
        """The oldest first."""

    def add(self, kind: str, service: str, subject: str, text: str, level: int = logging.INFO) -> None:
        self.ring.append(Event(time(), kind, service, subject, text))
        _log.log(level, "service %s: %s %s %s", service, "endpoint" if kind == "endpoint" else "name", subject, text)


def age(seconds: float) -> str:
    """For people."""
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.0f} h"
