"""The chunked decoder of the Python twin (`_pure.py`): one state, fed with whatever a read returned.

Rule of this file: an extension, a size or a trailer is judged when its line is whole, so that the verdict does not
depend on how the bytes came; until then only its length is.
"""
from __future__ import annotations

import re

from edgeproxy.codec import headers as h

MAX_CHUNK_LINE = 1024

_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_CHUNK_EXTENSIONS = re.compile(
    rb"(?:;[%b]+(?:=(?:[%b]+|%b))?)*" % (re.escape(h.TOKEN), re.escape(h.TOKEN), _QUOTED))


class ChunkDecoder:
    """One chunked body (RFC 9112 §7.1), strictly: CRLF only, no white space, extensions checked and dropped."""

    __slots__ = ("_left", "_line", "_max_trailer", "_size", "consumed", "done", "trailers")

    def __init__(self, max_trailer: int) -> None:
        self.done = False
        self.consumed = 0
        self.trailers = b""
        self._left = 0      # of the chunk's data; -1, -2: LF, CRLF is due; 0: in a line
        self._line = b""    # the beginning of that line
        self._size = -1     # of the trailer section so far; -1: not in it
        self._max_trailer = max_trailer

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`."""
        out: list[bytes] = []
        at, total = 0, len(data)
        while at < total and not self.done:
            if self._left > 0:
                part = data[at:at + self._left] if at or self._left < total else data
                at += len(part)
                self._left = self._left - len(part) or -2
                out.append(part)
            elif self._left < 0:
                if data[at] != (13 if self._left == -2 else 10):
                    raise ValueError(400, "missing CRLF after chunk data")
                at += 1
                self._left += 1
            else:
                at = self._take_line(data, at)
        self.consumed = at
        return out[0] if len(out) == 1 else b"".join(out)

    def _take_line(self, data: bytes, at: int) -> int:
        stop = data.find(b"\n", at) + 1
        line = self._line + (data[at:stop] if stop else data[at:])
        limit = MAX_CHUNK_LINE if self._size < 0 else self._max_trailer - self._size
        if len(line) > limit:
            raise ValueError(400, "chunk line too long" if self._size < 0 else "trailers too large")
        if not stop:
            self._line = line
            return len(data)
        self._line = b""
        if line[-2:-1] != b"\r":
            raise ValueError(400, "bare LF in chunked framing")
        line = line[:-2]
        if b"\r" in line:
            raise ValueError(400, "bare CR in chunked framing")
        if self._size < 0:
            self._left = self._chunk_size(line)
            if self._left == 0:
                self._size = 0
        elif line:
            self._trailer(line)
        else:
            self.done = True
        return stop

    def _chunk_size(self, line: bytes) -> int:
        found = _CHUNK_SIZE.match(line)
        if found is None or line[found.end():found.end() + 1] not in (b"", b";"):
            raise ValueError(400, "malformed chunk size")
        size = int(found[0], 16)
        if size > h.MAX_LENGTH:
            raise ValueError(400, "chunk size out of range")
        if not _CHUNK_EXTENSIONS.fullmatch(line, found.end()):
            raise ValueError(400, "malformed chunk extension")
        return size

    def _trailer(self, line: bytes) -> None:
        name, value = h.check_field(line, 400)
        self._size += len(line) + 2
        if h.may_be_trailer(name):
            self.trailers += b"%b: %b\r\n" % (name, value)
