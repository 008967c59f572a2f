"""What is kept of a body until the peer's windows, or the turns of other streams, let it go."""
from __future__ import annotations

from collections import deque

from edgeproxy.codec.h2_base import Fields


class Held:
    """What waits to be sent on a stream."""

    __slots__ = ("chunks", "size", "ended", "trailers")

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.size = 0
        self.ended = False
        """There is no more behind it, but for the trailers."""
        self.trailers: Fields = ()

    def put(self, payload: bytes) -> None:
        self.chunks.append(payload)
        self.size += len(payload)

    def take(self, most: int) -> bytes:
        """The next piece; b"" if there is none."""
        chunks = self.chunks
        if not chunks:
            return b""
        piece = chunks.popleft()
        if len(piece) > most:
            chunks.appendleft(piece[most:])
            piece = piece[:most]
        self.size -= len(piece)
        return piece
