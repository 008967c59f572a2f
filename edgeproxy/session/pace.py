"""Whether a client makes progress: sending a request's body, or taking a response.

Two rules (security.md): no byte at all for the body timeout ends it; and after `GRACE` seconds so does an average of
less than `FLOOR` bytes a second, because one byte a minute holds a connection as well as none. Looked at once per
window, so that a chunk costs nothing.
"""
from __future__ import annotations

GRACE = 30.0
FLOOR = 500.0


class Pace:
    __slots__ = ("look_at", "_timeout", "_window", "_since", "_start", "_moved_at", "_mark")

    def __init__(self, timeout: float, now: float, progress: int) -> None:
        """`timeout` seconds without a byte (inf: no limit); `progress` is a count of bytes that only grows."""
        self._timeout = timeout
        self._window = min(timeout / 2, GRACE)
        self._since = self._moved_at = now
        self._start = self._mark = progress
        self.look_at = now + self._window
        """When to ask again."""

    def too_slow(self, now: float, progress: int) -> bool:
        if progress != self._mark:
            self._mark = progress
            self._moved_at = now
        self.look_at = now + self._window
        if now - self._moved_at >= self._timeout:
            return True
        elapsed = now - self._since
        return elapsed >= GRACE and progress - self._start < FLOOR * elapsed
