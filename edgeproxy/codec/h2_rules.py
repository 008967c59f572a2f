"""Which HTTP/2 messages (RFC 9113 §8.1.1 to 8.3) and settings are malformed, for engines that know it otherwise.

nghttp2 knows by itself; this is the same judgement, message by message. It is about framing and syntax only: what a
proxy refuses beyond that (and answers with a status) is judged by the leaf functions that make heads from fields.
"""
from __future__ import annotations

import re
from typing import Final

from edgeproxy.codec.h2_base import Fields
from edgeproxy.codec.h2_guard import number

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?|")
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
_AUTHORITY: Final = re.compile(rb"[!$%&'()*+,\-.0-9:;=A-Z\[\]_a-z~]+")
_LENGTH: Final = re.compile(rb"[0-9]+")
_STATUS: Final = re.compile(rb"[0-9]{3}")

_FORBIDDEN: Final = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_PSEUDO: Final = {b":authority": _AUTHORITY, b":method": _METHOD, b":path": _PATH, b":scheme": _SCHEME}
_MAX_LENGTH: Final = 2**63 - 1

UNKNOWN: Final = -1

ENABLE_PUSH: Final = 2
ENABLE_CONNECT: Final = 8
NO_PRIORITIES: Final = 9


class Malformed(Exception):
    """An error of type PROTOCOL_ERROR; of the stream, unless it is about SETTINGS."""


class Switches:
    """SETTINGS that are 0 or 1, and may not be changed as one likes."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[int, int] = {}

    def judge(self, payload: bytes, by_server: bool) -> None:
        """Take a SETTINGS frame of the peer. Raises Malformed."""
        values = self._values
        for at in range(0, len(payload), 6):
            key, value = payload[at] << 8 | payload[at + 1], number(payload, at + 2)
            if key not in (ENABLE_PUSH, ENABLE_CONNECT, NO_PRIORITIES):
                continue
            before = values.get(key)
            if value > 1 or (key == ENABLE_PUSH and value and by_server):  # RFC 9113 §6.5.2
                raise Malformed("SETTINGS: invalid value")
            if (key == NO_PRIORITIES and before not in (None, value)) or (  # RFC 9218 §2.1
                    key == ENABLE_CONNECT and by_server and before and not value):  # RFC 8441 §3
                raise Malformed("SETTINGS: invalid change")
            values[key] = value
        values.setdefault(NO_PRIORITIES, 0)


class Message:
    """What is remembered of the message that the peer sends on a stream."""

    __slots__ = ("length", "received", "has_host", "to_head", "begun", "final")

    def __init__(self, to_head: bool = False) -> None:
        self.length = UNKNOWN
        self.received = 0
        self.has_host = False
        self.to_head = to_head
        """The answer to a HEAD request."""
        self.begun = False
        """A head has come."""
        self.final = False
        """The head has come; of a response, the final one."""

    # Each raises Malformed.

    def request(self, fields: Fields, ended: bool) -> None:
        pseudo: dict[bytes, bytes] = {}
        regular = False
        for name, value in fields:
            if name[:1] == b":":
                form = _PSEUDO.get(name)
                if regular or form is None or name in pseudo or not form.fullmatch(value):
                    raise Malformed(name)
                pseudo[name] = value
            else:
                regular = True
                self._regular(name, value, True)
        if pseudo.get(b":method") == b"CONNECT":
            if b":scheme" in pseudo or b":path" in pseudo or b":authority" not in pseudo:
                raise Malformed(b":method")
            self.length = UNKNOWN
        else:
            self._target(pseudo)
        self.final = True
        if ended:
            self.end()

    def _target(self, pseudo: dict[bytes, bytes]) -> None:
        if len(pseudo) < 3 + (b":authority" in pseudo) or not (self.has_host or b":authority" in pseudo):
            raise Malformed(b":path")
        path = pseudo[b":path"]
        if pseudo[b":scheme"].lower() in (b"http", b"https") and path[:1] != b"/" and not (
                path == b"*" and pseudo[b":method"] == b"OPTIONS"):
            raise Malformed(b":path")

    def response(self, fields: Fields, ended: bool) -> tuple[bool, Fields]:
        """(it is the final one, its fields)."""
        status = 0
        regular = False
        kept: list[tuple[bytes, bytes]] = []
        for pair in fields:
            name, value = pair
            if name[:1] == b":":
                if regular or status or name != b":status" or not _STATUS.fullmatch(value) or value == b"101":
                    raise Malformed(name)
                status = int(value) or 1
            else:
                regular = True
                if name == b"content-length" and (status == 204 or status // 100 == 1):
                    if status != 204 or value != b"0" or self.length != UNKNOWN:
                        raise Malformed(name)
                    self.length = 0
                    continue
                self._regular(name, value, False)
            kept.append(pair)
        if not status:
            raise Malformed(b":status")
        self.begun = True
        if status // 100 == 1:
            self.length = UNKNOWN
            if ended:
                raise Malformed(b":status")
            return False, kept
        self.final = True
        if self.to_head or status in (204, 304):
            self.length = 0
        if ended:
            self.end()
        return True, kept

    def trailers(self, fields: Fields, ended: bool, request: bool) -> None:
        for name, value in fields:
            if name[:1] == b":":
                raise Malformed(name)
            self._regular(name, value, request)
        if not ended:
            raise Malformed(b"")
        self.end()

    def _regular(self, name: bytes, value: bytes, request: bool) -> None:
        if not _NAME.fullmatch(name) or name in _FORBIDDEN:
            raise Malformed(name)
        if name == b"content-length":
            if self.length != UNKNOWN or not _LENGTH.fullmatch(value) or len(value) > 40 or int(value) > _MAX_LENGTH:
                raise Malformed(name)
            self.length = int(value)
        elif name == b"te":
            if value.lower() != b"trailers":
                raise Malformed(name)
        elif name == b"host" and request:
            if self.has_host or not _AUTHORITY.fullmatch(value):
                raise Malformed(name)
            self.has_host = True
        elif not _VALUE.fullmatch(value):
            raise Malformed(name)

    def body(self, size: int) -> None:
        self.received += size
        if size and (not self.final or (self.length != UNKNOWN and self.received > self.length)):
            raise Malformed(b"content-length")

    def end(self) -> None:
        if not self.final or (self.length != UNKNOWN and self.received != self.length):
            raise Malformed(b"content-length")


def representations(block: bytes) -> int:
    """How many fields an encoded head has, without making any (RFC 7541 §6); too few only if it is broken."""
    count = at = 0
    size = len(block)
    while at < size:
        first = block[at]
        if first & 0x80:
            count += 1
            at = _behind_integer(block, at, 0x7F)[1]
        elif first & 0xE0 == 0x20:
            at = _behind_integer(block, at, 0x1F)[1]
        else:
            count += 1
            prefix = 0x3F if first & 0x40 else 0x0F
            at = _behind_integer(block, at, prefix)[1]
            for _ in range(1 if first & prefix else 2):
                if at >= size:
                    return count
                length, at = _behind_integer(block, at, 0x7F)
                at += length
    return count


def _behind_integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """(the integer, where it ends), RFC 7541 §5.1; cut off at five bytes."""
    value = block[at] & prefix
    at += 1
    if value == prefix:
        shift = 0
        while at < len(block) and shift < 35:
            value += (block[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not block[at - 1] & 0x80:
                break
    return value, at
