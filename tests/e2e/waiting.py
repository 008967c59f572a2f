"""Waiting for something that another process does: asked again and again until a deadline, never a fixed sleep."""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds in which anything on one machine has happened, however busy it is."""
_STEP = 0.005


def eventually(ask: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true value of `ask`; fails the test with `what` when the time is over."""
    limit = time.monotonic() + seconds
    while True:
        value = ask()
        if value:
            return value
        if time.monotonic() > limit:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(_STEP)
