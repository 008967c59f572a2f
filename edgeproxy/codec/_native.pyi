"""The leaf functions of HTTP heads: the shapes of both engines (`_native` in Rust, `_pure` in Python).

All faults are `ValueError(status, message)`: `status` is what the client is to be answered (400, 405, 414, 417, 431,
501, 505), always 502 for a response, 500 for something the proxy itself gave wrongly, and 0 for a malformed message of
HTTP/2, whose stream is to be reset with PROTOCOL_ERROR (RFC 9113 §8.1.1). Values are immutable.
"""
from collections.abc import Sequence

def find_head_end(data: bytes | bytearray, start: int) -> int:
    """Where the head at the front of `data` ends (behind CRLFCRLF); -1 if not yet.

    `start` is how much of `data` an earlier call has seen: a head in many pieces costs no more than one in one piece.
    Raises for a bare CR, bare LF or NUL, and for a request line that can never become valid. The size is not judged.
    """

def parse_request(data: bytes, max_head: int, max_fields: int) -> RequestHead | None:
    """The request head at the front of `data` (a few empty lines before it are passed over); None: incomplete.

    `max_head` bytes from the request line to the empty line, and `max_fields` fields; more is 431, also while
    incomplete. Every complete line of an incomplete head is judged already.
    """

def parse_response(data: bytes, head_request: bool, max_head: int, max_fields: int) -> ResponseHead | None:
    """The response head at the front of `data`, the answer to a HEAD request or to another; None: incomplete."""

def request_from_fields(fields: Sequence[tuple[bytes, bytes]], ended: bool, max_head: int,
                        max_fields: int) -> RequestHead:
    """The request head that an HTTP/2 stream begins with (RFC 9113 §8.3.1); `ended`: the stream ends with it.

    `max_head` bytes (names, values and 32 for each field) and `max_fields` fields beside the pseudo-header fields,
    cookie crumbs counted; more is 431. As strict as `parse_request`: what it accepts, HTTP/1 can say in one way only.
    """

def response_from_fields(fields: Sequence[tuple[bytes, bytes]], head_request: bool, ended: bool, max_head: int,
                         max_fields: int) -> ResponseHead:
    """The response head of an HTTP/2 stream, an interim one too (but not 101); `ended`: the stream ends with it."""

def trailers_from_fields(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Trailers of an HTTP/2 stream as lines, each ended by CRLF; what may not be a trailer is left out. Raises 0."""

def trailer_fields(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Trailer lines (`ChunkDecoder.trailers`, `trailers_from_fields`) as fields. Raises 500 for anything else."""

class Forward:
    """What the proxy tells the endpoint about the client's connection: made once per connection.

    `peer` is the address without port; an empty `peer`, `proto` or `port` is not sent. `trusted`: whether the peer's
    own X-Forwarded-*, Forwarded and X-Real-Ip are kept and extended, or dropped. `client_cert`: what to say in
    X-Forwarded-Client-Cert, nothing if empty; the peer's own field of that name (also if it is spelled with `_`, which
    is the same to many an endpoint) is always dropped.
    """

    def __init__(self, peer: bytes, proto: bytes, port: bytes, trusted: bool, client_cert: bytes = b"") -> None: ...
    @property
    def trusted(self) -> bool: ...

class Edits:
    """A route's changes to fields, made once. Applied last, to the fields the proxy adds as well.

    Entries for framing fields, hop-by-hop fields, Expect, Trailer and Host have no effect: these are the proxy's own.
    Raises 500 for a name or value that could not be sent.
    """

    def __init__(self, set: Sequence[tuple[bytes, bytes]], add: Sequence[tuple[bytes, bytes]],
                 remove: Sequence[bytes]) -> None: ...

class RequestHead:
    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str:
        """As received, as latin-1; an absolute-form as its origin-form."""
    @property
    def path(self) -> str:
        """To match by, ASCII: dot segments removed, unreserved characters decoded once, other triplets in upper case,
        bytes above 0x7f as triplets; `*` for `OPTIONS *`."""
    @property
    def query(self) -> str:
        """Behind the first `?`, latin-1; empty if there is none."""
    @property
    def host(self) -> str:
        """In lower case, without port and one trailing dot; an IPv6 address in brackets; empty if none (1.0 only)."""
    @property
    def authority(self) -> str:
        """Host (or `:authority`) as received, or the authority of an absolute-form if there is no Host (1.0 only)."""
    @property
    def major(self) -> int:
        """1 or 2: what the client spoke."""
    @property
    def minor(self) -> int:
        """0: the client knows HTTP/1.0 only. 1 for HTTP/2, too, of which nothing is missing."""
    @property
    def length(self) -> int:
        """Of the body: -1 chunked (HTTP/2: of unknown length), 0 none, n bytes."""
    @property
    def keep_alive(self) -> bool: ...
    @property
    def expect(self) -> bool:
        """100-continue is expected: only in HTTP/1.1 and only if there is a body."""
    @property
    def upgrade(self) -> str | None:
        """The protocols asked for, if Connection names upgrade (1.1 only); h2c is never among them."""
    @property
    def size(self) -> int:
        """Bytes of `data` that the head took, empty lines before it included. HTTP/2: names, values, 32 for each."""
    def get(self, name: bytes) -> bytes | None:
        """The value of a field, `name` in lower case; several are joined with `, ` (Cookie with `; `)."""
    def fields(self) -> list[tuple[bytes, bytes]]:
        """(name as received, value without white space around it), in order. HTTP/2: `:authority` as host, the crumbs
        of the cookie as one, at the end."""
    def log_fields(self) -> str:
        """The inside of a JSON object: method, host, path (the target), protocol, user_agent, referer, if present."""
    def outbound(self, forward: Forward, request_id: bytes, target: bytes | None, host: bytes | None,
                 edits: Edits | None) -> bytes:
        """The whole head for an HTTP/1 endpoint; `target` and `host` replace those received."""
    def outbound_fields(self, forward: Forward, request_id: bytes, target: bytes | None, host: bytes | None,
                        edits: Edits | None, scheme: bytes) -> list[tuple[bytes, bytes]]:
        """The same head for an HTTP/2 endpoint: pseudo-header fields, then the fields of `outbound` save those that
        HTTP/2 has no use for. No `:authority` if there is neither a host nor `host` (from HTTP/1.0 only)."""

class ResponseHead:
    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def minor(self) -> int: ...
    @property
    def length(self) -> int:
        """Of the body: -2 until close, -1 chunked (HTTP/2: of unknown length), 0 none, n bytes."""
    @property
    def keep_alive(self) -> bool:
        """Whether the channel can be used again once the body has ended; always true of HTTP/2."""
    @property
    def upgrade(self) -> str | None: ...
    @property
    def size(self) -> int: ...
    def get(self, name: bytes) -> bytes | None: ...
    def fields(self) -> list[tuple[bytes, bytes]]: ...
    def inbound(self, client_minor: int, close: bool, edits: Edits | None) -> bytes:
        """The whole head for an HTTP/1 client. A body that ends at close is announced as chunked to a 1.1 client, and
        a chunked one as ending at close to a 1.0 client."""
    def inbound_fields(self, edits: Edits | None) -> list[tuple[bytes, bytes]]:
        """The same head for an HTTP/2 client: `:status`, then the fields of `inbound` save Connection, Upgrade and
        Transfer-Encoding; Content-Length only if the endpoint stated it."""

class ChunkDecoder:
    """One chunked body, strictly. Extensions and trailers that may not be trailers are dropped."""

    def __init__(self, max_trailer: int) -> None: ...
    def feed(self, data: bytes) -> bytes:
        """The payload in `data`; raises 400."""
    @property
    def done(self) -> bool: ...
    @property
    def consumed(self) -> int:
        """How much of the last `data` belonged to this body: all of it unless `done`."""
    @property
    def trailers(self) -> bytes:
        """Allowed trailer lines, each ended by CRLF."""
