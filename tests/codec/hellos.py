"""ClientHellos for tests: real ones, made by OpenSSL in memory, and ones built byte by byte."""
from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence

GREASE = 0x3A3A
SERVER_NAME, GROUPS, ALPN, PADDING, PRE_SHARED_KEY, VERSIONS, KEY_SHARE, ECH = 0, 10, 16, 21, 41, 43, 51, 0xFE0D


def real(name: str | None = "www.example.org", alpn: Sequence[str] = (), version: ssl.TLSVersion | None = None) -> bytes:
    """What OpenSSL says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def vector(width: int, body: bytes) -> bytes:
    """`body` behind its length."""
    return len(body).to_bytes(width, "big") + body


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, body)


def server_name(name: bytes, kind: int = 0) -> bytes:
    return extension(SERVER_NAME, vector(2, bytes([kind]) + vector(2, name)))


def alpn(*protocols: bytes) -> bytes:
    return extension(ALPN, vector(2, b"".join(vector(1, p) for p in protocols)))


def versions(*numbers: int) -> bytes:
    return extension(VERSIONS, vector(1, b"".join(n.to_bytes(2, "big") for n in numbers)))


def message(*extensions: bytes, legacy: int = 0x0303, session: bytes = b"s" * 32, suites: bytes = b"\x13\x01\x13\x02",
            compression: bytes = b"\0", tail: bytes | None = None) -> bytes:
    """The handshake message; `tail` replaces the whole field of the extensions."""
    body = legacy.to_bytes(2, "big") + b"r" * 32 + vector(1, session) + vector(2, suites) + vector(1, compression)
    body += vector(2, b"".join(extensions)) if tail is None else tail
    return b"\x01" + vector(3, body)


def records(handshake: bytes, *cuts: int) -> bytes:
    """The message in records, cut at these places."""
    ends = [*cuts, len(handshake)]
    return b"".join(b"\x16\x03\x01" + vector(2, handshake[start:end]) for start, end in zip([0, *cuts], ends, strict=True))


def hello(*extensions: bytes) -> bytes:
    """In one record."""
    return records(message(*extensions))


def prefixes(data: bytes) -> Iterator[bytes]:
    """Everything that may be there before it is whole."""
    return (data[:end] for end in range(len(data)))
