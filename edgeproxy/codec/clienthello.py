"""What a TLS client says first (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2), read without consuming it: SNI, ALPN, version.

Rules of this file:
* Strict: every length must agree with the one around it, and what OpenSSL refuses is refused. Two readers of one hello
  that disagree about its name are how a client gets to a service that was not meant for it.
* Refused at the first byte that cannot be right, whatever comes after it.
* A hello may lie in several records and come byte by byte. `HelloReader` goes on where it stopped, so that a client
  pays for each byte it sends, not the proxy.
"""
from __future__ import annotations

from typing import Final

LIMIT: Final = 16 * 1024
"""Bytes of a hello with the headers of its records. Those with post-quantum keys and a ticket have 2 KiB."""

UNRECOGNIZED_NAME: Final = 112
NO_APPLICATION_PROTOCOL: Final = 120
PROTOCOL_VERSION: Final = 70
DECODE_ERROR: Final = 50
INTERNAL_ERROR: Final = 80

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_RECORD: Final = 5       # type, version, length
_LARGEST: Final = 16384  # bytes of one record
_FIXED: Final = 39       # type, length, version, random, length of the session id
_SMALLEST: Final = 45    # with one cipher suite and one compression method

_SERVER_NAME: Final = 0
_ALPN: Final = 16
_PRE_SHARED_KEY: Final = 41
_SUPPORTED_VERSIONS: Final = 43
_LONGEST_NAME: Final = 255

_NAME_BYTES: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"

# Plain numbers, not an enum: this may be compiled.
_HEAD: Final = 0
_EXTENSIONS: Final = 1


class ClientHello:
    __slots__ = ("sni", "alpn", "versions", "size")

    def __init__(self, versions: int) -> None:
        self.sni = ""
        """Lower case, without a trailing dot; empty if the client names nobody."""
        self.alpn: tuple[str, ...] = ()
        """In the client's order; each byte a character (GREASE values are no text)."""
        self.versions = versions
        """The highest that is offered: 0x0303 is TLS 1.2, 0x0304 TLS 1.3; 0 if there is none that is known."""
        self.size = 0
        """Bytes, with the headers of the records."""


def parse_client_hello(data: bytes) -> ClientHello | None:
    """The hello that `data` begins with; None: more is needed. Raises ValueError(message): it is none."""
    return HelloReader().read(data)


def alert(description: int) -> bytes:
    """A fatal alert for a client whose handshake will not begin (RFC 8446 §6.2), in plain text as its hello was."""
    return bytes((21, 3, 3, 0, 2, 2, description))


class HelloReader:
    """Reads one hello that is seen growing."""

    __slots__ = ("_taken", "_left", "_message", "_need", "_stage", "_at", "_seen", "_hello")

    def __init__(self) -> None:
        self._taken = 0               # bytes of the stream that are in `_message`, or were headers of records
        self._left = 0                # of the present record
        self._message = b""           # the handshake message without the records around it
        self._need = 0                # its size; 0: not known yet
        self._stage = _HEAD
        self._at = 0                  # in the message: where the next extension begins
        self._seen: set[int] = set()
        self._hello = ClientHello(0)

    def read(self, data: bytes) -> ClientHello | None:
        """`data` is everything since the first byte, each time. After an answer or an error the reader is done."""
        self._gather(data)
        if self._stage == _HEAD and len(self._message) > 4:
            self._head()
        if self._stage == _EXTENSIONS:
            self._extensions()
            if self._at == self._need:
                self._hello.size = self._taken
                return self._hello
        return None

    # ---- records

    def _gather(self, data: bytes) -> None:
        at, total = self._taken, len(data)
        while True:
            if self._left == 0:
                if self._need and len(self._message) == self._need:
                    break
                if total - at < _RECORD:
                    _check_header(data[at:], at)
                    break
                self._left = _check_header(data[at:at + _RECORD], at)
                at += _RECORD
            part = data[at:at + self._left]
            self._message = message = self._message + part if self._message else part
            at += len(part)
            self._left -= len(part)
            if self._need == 0:
                self._begin()
            if self._need:
                if len(message) + self._left > self._need:
                    raise ValueError("bytes behind the ClientHello in its record")
                if at + self._need - len(message) > LIMIT:
                    raise ValueError("ClientHello too large")
            if self._left:
                break
        self._taken = at

    def _begin(self) -> None:
        message = self._message
        have = len(message)
        if have and message[0] != _CLIENT_HELLO:
            raise ValueError("not a ClientHello")
        if have > 1 and message[1] or have > 2 and message[2] >= LIMIT >> 8:
            raise ValueError("ClientHello too large")
        if have > 3:
            self._need = 4 + (message[2] << 8 | message[3])
            if self._need < _SMALLEST:
                raise ValueError("ClientHello too small")

    # ---- the message

    def _head(self) -> None:
        """Everything before the extensions. Short, so it is read anew until it is whole."""
        message, need = self._message, self._need
        have = len(message)
        if message[4] != 3:
            raise ValueError("unknown TLS version in the ClientHello")
        if have < _FIXED:
            return
        if message[_FIXED - 1] > 32:
            raise ValueError("session id too long in the ClientHello")
        at = _FIXED + message[_FIXED - 1]
        if at + 2 > need:
            raise ValueError("wrong length of the session id")
        if have < at + 2:
            return
        size = message[at] << 8 | message[at + 1]
        at += 2 + size
        if size < 2 or size & 1 or at + 2 > need:
            raise ValueError("wrong length of the cipher suites")
        if have <= at:
            return
        size = message[at]
        at += 1 + size
        if size == 0 or at > need:
            raise ValueError("wrong length of the compression methods")
        if have < at:
            return
        if 0 not in message[at - size:at]:
            raise ValueError("no usable compression method in the ClientHello")
        if at < need:
            if at + 2 > need:
                raise ValueError("wrong length of the extensions")
            if have < at + 2:
                return
            if at + 2 + (message[at] << 8 | message[at + 1]) != need:
                raise ValueError("wrong length of the extensions")
            at += 2
        self._hello.versions = min(0x0300 | message[5], 0x0303)  # RFC 8446 §4.2.1: 1.3 is offered by its extension
        self._at = at
        self._stage = _EXTENSIONS

    def _extensions(self) -> None:
        message, need, seen, at = self._message, self._need, self._seen, self._at
        have = len(message)
        while at < need:
            if need - at < 4:
                raise ValueError("wrong length of an extension")
            if have - at < 4:
                break
            kind = message[at] << 8 | message[at + 1]
            end = at + 4 + (message[at + 2] << 8 | message[at + 3])
            if end > need:
                raise ValueError("wrong length of an extension")
            if kind in seen:
                raise ValueError("an extension comes twice")
            if kind == _PRE_SHARED_KEY and end != need:
                raise ValueError("pre_shared_key is not the last extension")
            if have < end:
                break
            seen.add(kind)
            if kind == _SERVER_NAME:
                self._hello.sni = _server_name(message[at + 4:end])
            elif kind == _ALPN:
                self._hello.alpn = _protocols(message[at + 4:end])
            elif kind == _SUPPORTED_VERSIONS:
                self._hello.versions = _highest(message[at + 4:end])
            at = end
        self._at = at


def _check_header(header: bytes, at: int) -> int:
    """The length a record's header tells; of a part of one as much is checked as is there. `at`: where it lies."""
    have = len(header)
    if have and header[0] != _HANDSHAKE:
        if at:
            raise ValueError("another record inside the ClientHello")
        raise ValueError("not TLS but text, such as HTTP" if 32 <= header[0] < 127 else "not a TLS handshake")
    if have > 1 and header[1] != 3:
        raise ValueError("unknown TLS version of a record")
    if have > 3 and header[3] > _LARGEST >> 8:
        raise ValueError("TLS record too large")
    if have < _RECORD:
        return 0
    size = header[3] << 8 | header[4]
    if size > _LARGEST:
        raise ValueError("TLS record too large")
    if size == 0:
        raise ValueError("empty TLS record")  # RFC 8446 §5.1
    return size


def _server_name(body: bytes) -> str:
    """RFC 6066 §3. Exactly one host_name, as OpenSSL and others read it: other types of names were never defined."""
    size = len(body)
    if size < 6 or body[0] << 8 | body[1] != size - 2 or body[2] or body[3] << 8 | body[4] != size - 5:
        raise ValueError("malformed server_name")
    name = body[5:-1] if body[-1] == 46 else body[5:]
    if not name or len(name) > _LONGEST_NAME:
        raise ValueError("server_name too long" if name else "malformed server_name")
    if name.translate(None, _NAME_BYTES) or name[0] == 46 or name[-1] == 46 or name.find(b"..") >= 0:
        raise ValueError("server_name is not a host name")
    return name.decode("ascii").lower()


def _protocols(body: bytes) -> tuple[str, ...]:
    """RFC 7301 §3.1."""
    size = len(body)
    if size < 4 or body[0] << 8 | body[1] != size - 2:
        raise ValueError("malformed ALPN")
    protocols: list[str] = []
    at = 2
    while at < size:
        end = at + 1 + body[at]
        if end > size or end == at + 1:
            raise ValueError("malformed ALPN")
        protocols.append(body[at + 1:end].decode("latin-1"))
        at = end
    return tuple(protocols)


def _highest(body: bytes) -> int:
    """RFC 8446 §4.2.1. GREASE values, drafts and DTLS are none that count."""
    size = len(body)
    if size < 3 or body[0] != size - 1 or not size & 1:
        raise ValueError("malformed supported_versions")
    highest = 0
    for at in range(1, size, 2):
        if body[at] == 3 and highest & 0xff <= body[at + 1] <= 4:
            highest = 0x0300 | body[at + 1]
    return highest
