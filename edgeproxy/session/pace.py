"""Whether a client makes progress: sending a request's body, or taking a response.

Two rules (security.md): no byte at all for the body timeout ends it; and after `GRACE` seconds so does an average of
less than `FLOOR` bytes a second, because one byte a minute holds a connection as well as none. Looked at once per
window, so that a chunk costs nothing.
"""
from __future__ import annotations

GRACE = 30.0
FLOOR = 500.0


class Pace:
    __slots__ = ("look_at", "_window", "_since", "_mark", "_start", "_silent")

    def __init__(self, timeout: float, now: float, progress: int) -> None:
        """`timeout` seconds without a byte (inf: no limit); `progress` is a count of bytes that only grows."""
        self._window = min(timeout / 2, GRACE)
        self._since = now
        self._mark = self._start = progress
        self._silent = 0
        self.look_at = now + self._window
        """When to ask again."""

    def too_slow(self, now: float, progress: int) -> bool:
        moved = progress - self._mark
        elapsed = now - self._since
        self._silent = self._silent + 1 if moved == 0 else 0
        self._mark = progress
        self.look_at = now + self._window
        if self._silent >= 2:
            return True
        return elapsed >= GRACE and (progress - self._start) < FLOOR * elapsed
