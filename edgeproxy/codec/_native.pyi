"""The leaf functions of HTTP/1: the shapes of both engines (`_native` in Rust, `_pure` in Python).

All faults are `ValueError(status, message)`: `status` is what the client is to be answered (400, 405, 414, 417, 431,
501, 505), always 502 for a response, and 500 for something the proxy itself gave wrongly. Values are immutable.
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

class Forward:
    """What the proxy tells the endpoint about the client's connection: made once per connection.

    `peer` is the address without port; an empty `peer`, `proto` or `port` is not sent. `trusted`: whether the peer's
    own X-Forwarded-*, Forwarded and X-Real-Ip are kept and extended, or dropped.
    """

    def __init__(self, peer: bytes, proto: bytes, port: bytes, trusted: bool) -> None: ...
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
        """Host as received, or the authority of an absolute-form if there is no Host (1.0 only)."""
    @property
    def minor(self) -> int: ...
    @property
    def length(self) -> int:
        """Of the body: -1 chunked, 0 none, n bytes."""
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
        """Bytes of `data` that the head took, empty lines before it included."""
    def get(self, name: bytes) -> bytes | None:
        """The value of a field, `name` in lower case; several are joined with `, ` (Cookie with `; `)."""
    def fields(self) -> list[tuple[bytes, bytes]]:
        """(name as received, value without white space around it), in order."""
    def log_fields(self) -> str:
        """The inside of a JSON object: method, host, path (the target), protocol, user_agent, referer, if present."""
    def outbound(self, forward: Forward, request_id: bytes, target: bytes | None, host: bytes | None,
                 edits: Edits | None) -> bytes:
        """The whole head for the endpoint; `target` and `host` replace those received."""

class ResponseHead:
    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def minor(self) -> int: ...
    @property
    def length(self) -> int:
        """Of the body: -2 until close, -1 chunked, 0 none, n bytes."""
    @property
    def keep_alive(self) -> bool:
        """Whether the channel can be used again once the body has ended."""
    @property
    def upgrade(self) -> str | None: ...
    @property
    def size(self) -> int: ...
    def get(self, name: bytes) -> bytes | None: ...
    def fields(self) -> list[tuple[bytes, bytes]]: ...
    def inbound(self, client_minor: int, close: bool, edits: Edits | None) -> bytes:
        """The whole head for an HTTP/1 client. A body that ends at close is announced as chunked to a 1.1 client, and
        a chunked one as ending at close to a 1.0 client."""

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
