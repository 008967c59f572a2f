"""WebSocket (RFC 6455) as far as the tests need it: the handshake, masked and unmasked frames, an echo endpoint."""
from __future__ import annotations

import base64
import hashlib
import os
import struct

from e2e.wire import Response, Wire

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def open_websocket(wire: Wire, target: str = "/websocket", host: str = "ws.invalid", *fields: str) -> Response:
    """Ask for the upgrade as a client and check the answer."""
    key = base64.b64encode(os.urandom(16)).decode()
    wire.get(target, host, "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
             f"Sec-WebSocket-Key: {key}", *fields)
    answer = wire.response()
    assert answer.status == 101, answer.raw
    assert (answer.get("upgrade") or "").lower() == "websocket"
    assert (answer.get("connection") or "").lower() == "upgrade"
    assert answer.get("sec-websocket-accept") == accept_key(key)
    return answer


def accept_websocket(wire: Wire) -> None:
    """Answer the upgrade as a server."""
    request = wire.request()
    assert (request.get("upgrade") or "").lower() == "websocket"
    assert "upgrade" in (request.get("connection") or "").lower()
    key = request.get("sec-websocket-key") or ""
    wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
              f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n")


def frame(kind: int, payload: bytes, masked: bool) -> bytes:
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", 0x80 | kind, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | kind, bit | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | kind, bit | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + _mask(payload, mask)


def _mask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    stream = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def read_frame(wire: Wire) -> tuple[int, bytes]:
    """(kind, payload) of the next frame."""
    first, second = wire.exactly(2)
    size = second & 0x7F
    if size == 126:
        size = struct.unpack("!H", wire.exactly(2))[0]
    elif size == 127:
        size = struct.unpack("!Q", wire.exactly(8))[0]
    mask = wire.exactly(4) if second & 0x80 else b""
    payload = wire.exactly(size)
    return first & 0x0F, _mask(payload, mask) if mask else payload


def echo(wire: Wire, payload: bytes, kind: int = TEXT) -> None:
    """One round as a client."""
    wire.send(frame(kind, payload, masked=True))
    assert read_frame(wire) == (kind, payload)


def websocket_echo(wire: Wire) -> None:
    """A script: an endpoint that echoes frames, answers pings and closes when it is asked to."""
    accept_websocket(wire)
    while True:
        kind, payload = read_frame(wire)
        if kind == PING:
            wire.send(frame(PONG, payload, masked=False))
            continue
        wire.send(frame(kind, payload, masked=False))
        if kind == CLOSE:
            return
