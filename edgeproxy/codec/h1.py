"""HTTP/1 messages as a connection sees them: heads, then bodies, one after the other (RFC 9112).

Sans-I/O. A decoder is fed whatever a read returned and says what it means; it is told when the next message may begin.
Faults are `ProxyError`s: of kind BAD_REQUEST and its kin for requests, RESPONSE_BROKEN for responses.

    state   stimulus             then
    HEAD    bytes, head whole    BODY, or DONE if the framing says that there is none
    HEAD    bytes, not whole     HEAD: kept, and looked at from where the last look ended, so that the whole costs O(n)
    BODY    bytes                payload out; DONE at the framing's end, what lies behind it stays in `rest`
    BODY    EOF                  DONE if the body runs until close, else a cut body
    DONE    next()               HEAD
"""
from __future__ import annotations

from typing import Final

from edgeproxy.codec._leaf import ChunkDecoder, RequestHead, ResponseHead, find_head_end, parse_request, parse_response
from edgeproxy.errors import CLIENT_FAULTS, Kind, ProxyError

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
MAX_TRAILER: Final = 16 * 1024
LAST_CHUNK: Final = b"0\r\n\r\n"


def encode_chunk(payload: bytes) -> bytes:
    """One chunk; `payload` is not empty (an empty chunk would end the body)."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def encode_last_chunk(trailers: bytes) -> bytes:
    """The end of a chunked body; `trailers` are whole lines."""
    return b"0\r\n%b\r\n" % trailers if trailers else LAST_CHUNK


class _Decoder:
    """What both directions share: collecting a head that comes in pieces, and reading bodies."""

    __slots__ = ("max_head", "max_fields", "done", "payload", "rest", "trailers", "_partial", "_seen", "_left",
                 "_chunks")

    def __init__(self, max_head: int, max_fields: int) -> None:
        self.max_head = max_head
        self.max_fields = max_fields
        self.done = False
        """The message is complete."""
        self.payload = b""
        """What came of the body in the same read as the head's end."""
        self.rest = b""
        """Bytes behind the complete message; of the next one, if there is to be one."""
        self.trailers = b""
        self._partial: bytearray | None = None
        self._seen = 0
        self._left = 0
        self._chunks: ChunkDecoder | None = None

    @property
    def in_head(self) -> bool:
        """Part of a head has come."""
        return self._partial is not None

    def head_so_far(self, data: bytes) -> bytes:
        """Everything of a head that was refused; `data` came last."""
        return bytes(self._partial) if self._partial is not None else data

    def _collect(self, data: bytes) -> bytes | None:
        """Keep a piece of a head; the whole head (and what follows) once its end is there."""
        partial = self._partial
        if partial is None:
            partial = self._partial = bytearray(data)
        else:
            partial += data
        end = find_head_end(partial, self._seen)
        if end < 0:
            if len(partial) > self.max_head:
                raise ValueError(431, f"the head is longer than {self.max_head} bytes")
            self._seen = max(0, len(partial) - 3)
            return None
        self._partial = None
        self._seen = 0
        return bytes(partial)

    def _start_body(self, length: int, data: bytes, size: int) -> None:
        """Enter BODY, or DONE, with what came behind the head."""
        self.trailers = b""
        if length == 0:
            self.done = True
            self.payload = b""
            self.rest = data[size:]
            return
        self.done = False
        self.rest = b""
        self._left = length
        self._chunks = ChunkDecoder(MAX_TRAILER) if length == CHUNKED else None
        self.payload = self.body(data[size:]) if len(data) > size else b""

    def body(self, data: bytes) -> bytes:
        """Payload among `data`. Raises ProxyError."""
        left = self._left
        if left > 0:
            left -= len(data)
            if left > 0:
                self._left = left
                return data
            self._left = 0
            self.done = True
            if left == 0:
                self.rest = b""
                return data
            self.rest = data[left:]
            return data[:left]
        if left == CHUNKED:
            return self._chunked(data)
        return data

    def _chunked(self, data: bytes) -> bytes:
        chunks = self._chunks
        assert chunks is not None
        try:
            payload = chunks.feed(data)
        except ValueError as fault:
            raise self._fault(fault) from None
        if chunks.done:
            self.done = True
            self.trailers = chunks.trailers
            self.rest = data[chunks.consumed:]
        return payload

    def _fault(self, fault: ValueError) -> ProxyError:
        raise NotImplementedError


class RequestDecoder(_Decoder):
    """The requests of one client connection."""

    __slots__ = ()

    def head(self, data: bytes) -> RequestHead | None:
        """The head, once it is whole; `payload`, `done` and `rest` say what followed. Raises ProxyError."""
        try:
            if self._partial is not None:
                whole = self._collect(data)
                if whole is None:
                    return None
                data = whole
            head = parse_request(data, self.max_head, self.max_fields)
            if head is None:
                self._collect(data)
                return None
        except ValueError as fault:
            raise self._fault(fault) from None
        if head.length == 0 and head.size == len(data):  # most requests: no body, nothing behind it
            self.done = True
            self.payload = self.rest = b""
            return head
        self._start_body(head.length, data, head.size)
        return head

    def next(self) -> bytes:
        """Ready for the next request; what of it is here already."""
        rest = self.rest
        self.rest = b""
        self.done = False
        return rest

    def _fault(self, fault: ValueError) -> ProxyError:
        status, message = fault.args if len(fault.args) == 2 else (400, str(fault))
        return ProxyError(CLIENT_FAULTS.get(status, Kind.BAD_REQUEST), message)


class ResponseDecoder(_Decoder):
    """The responses on one channel."""

    __slots__ = ("head_request",)

    def __init__(self, max_head: int, max_fields: int) -> None:
        super().__init__(max_head, max_fields)
        self.head_request = False
        """The request was HEAD: its answer has no body whatever its fields say (RFC 9112 §6.3)."""

    def head(self, data: bytes) -> ResponseHead | None:
        """The head, once it is whole; `payload`, `done` and `rest` say what followed. Raises ProxyError.

        Behind an interim head `rest` is what followed; feed it again.
        """
        try:
            if self._partial is not None:
                whole = self._collect(data)
                if whole is None:
                    return None
                data = whole
            head = parse_response(data, self.head_request, self.max_head, self.max_fields)
            if head is None:
                self._collect(data)
                return None
        except ValueError as fault:
            raise self._fault(fault) from None
        size = head.size
        if head.length > 0 and head.length == len(data) - size:  # most responses: all of it in one read
            self.done = True
            self.payload = data[size:]
            self.rest = self.trailers = b""
            return head
        self._start_body(head.length, data, size)
        return head

    def eof(self) -> bool:
        """The endpoint closed: True if that is how this body ends."""
        if self._left == UNTIL_CLOSE and not self.done:
            self.done = True
            return True
        return False

    def _fault(self, fault: ValueError) -> ProxyError:
        return ProxyError(Kind.RESPONSE_BROKEN, str(fault.args[-1]))
