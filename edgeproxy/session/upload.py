"""The body of a request on its way: what of it is kept for another try, and what is still to come."""
from __future__ import annotations

HELD_LIMIT = 64 * 1024


class Upload:
    """`data` is all that came so far, until it was sent and is over the limit: then it is dropped, and with it the
    possibility of another try."""

    __slots__ = ("data", "done", "trailers", "replayable")

    def __init__(self, payload: bytes) -> None:
        """`payload`: what came with the head."""
        self.data = bytearray(payload)
        self.done = False
        self.trailers = b""
        self.replayable = True

    def end(self, trailers: bytes) -> None:
        self.done = True
        self.trailers = trailers

    def hold(self, payload: bytes, sent: bool) -> None:
        """Keep `payload`; all of it while nothing was `sent` yet."""
        if self.replayable:
            self.data += payload
            if sent:
                self.trim()

    def trim(self) -> None:
        """What was kept has been sent: keep it only within the limit."""
        if len(self.data) > HELD_LIMIT:
            self.replayable = False
            self.data = bytearray()

    @property
    def full(self) -> bool:
        """Nothing was sent yet, and what is kept is as much as may be."""
        return len(self.data) >= HELD_LIMIT
