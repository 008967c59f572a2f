"""The PROXY protocol, versions 1 and 2: whose connection this is, said by the proxy in front (HAProxy's
doc/proxy-protocol.txt of 2020 and later).

Rules of this file:
* Strict: the header decides whom the proxy takes a client for, so what is not exactly one is refused, at the first byte
  that cannot be right.
* Bounded: a header has at most MOST bytes. Version 1 sets its own limit.
* What a header does not say about the client (UNKNOWN, LOCAL, unspecified families) leaves `source` empty: then the
  connection's own addresses count, and the rest of the header means nothing (§2.1, §2.2).
"""
from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv6Address
from struct import Struct
from typing import Final

Address = tuple[str, int]
"""A numeric host and a port."""

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
MOST: Final = 4096 + 16
"""Bytes of a header of version 2. Client certificates in it are a few KiB at most."""
MOST_V1: Final = 107

LOCAL_V1: Final = b"PROXY UNKNOWN\r\n"
LOCAL_V2: Final = SIGNATURE + b"\x20\0\0\0"
"""For a connection of the proxy's own, such as a health check."""

_V1: Final = b"PROXY "
_ALPN: Final = 0x01
_AUTHORITY: Final = 0x02
_CRC32C: Final = 0x03
_SSL: Final = 0x20
_SSL_VERSION: Final = 0x21
_CLIENT_SSL: Final = 0x01
_NOT_VERIFIED: Final = b"\0\0\0\1"  # no client certificate was verified

_UNIX: Final = "unix:"
_ADDRESSES: Final = {0x11: 12, 0x21: 36, 0x31: 216}
"""Size of the addresses, by family and transport: TCP over IPv4, over IPv6, unix stream."""

_HEX: Final = b"0123456789abcdefABCDEF"
_PORTS = Struct(">HH").unpack_from
_TLV = Struct(">BH").unpack_from


class ProxyHeader:
    __slots__ = ("version", "source", "destination", "size")

    def __init__(self, version: int, size: int, source: Address = ("", 0), destination: Address = ("", 0)) -> None:
        self.version = version
        self.source = source
        """Of the client; the host is empty if the header does not say, and `unix:` for a unix socket. IPv4 addresses
        in the form of IPv6 are given as IPv4."""
        self.destination = destination
        """What the client connected to."""
        self.size = size
        """Bytes; what follows is the client's."""


def parse_proxy(data: bytes) -> ProxyHeader | None:
    """The header that `data` begins with; None: more is needed. Raises ValueError(message): it is none."""
    if not data:
        return None
    if data[0] == 13:
        return _parse_v2(data)
    if data[:6] != _V1[:len(data)]:
        raise ValueError("no PROXY header")
    return _parse_v1(data)


# ---- version 1

def _parse_v1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:MOST_V1].partition(b"\r\n")
    if not end:
        if len(line) == MOST_V1:
            raise ValueError("PROXY line too long")
        line = line[:-1] if line[-1] == 13 else line
    if not line.isascii() or not line.decode("ascii").isprintable():
        raise ValueError("control byte in the PROXY line")
    if not end:
        return None
    size = len(line) + 2
    words = line.decode("ascii").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader(1, size)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ValueError("malformed PROXY line")
    read = _ipv4 if words[1] == "TCP4" else _ipv6
    return ProxyHeader(1, size, (read(words[2]), _port(words[4])), (read(words[3]), _port(words[5])))


def _ipv4(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise ValueError("malformed IPv4 address in the PROXY line") from None


def _ipv6(text: str) -> str:
    # No zone, which is no part of an address on the wire. An IPv4 tail may be there: inet_ntop prints it so.
    if text.encode().translate(None, _HEX + b":."):
        raise ValueError("malformed IPv6 address in the PROXY line")
    try:
        return _plain(IPv6Address(text))
    except AddressValueError:
        raise ValueError("malformed IPv6 address in the PROXY line") from None


def _plain(address: IPv6Address) -> str:
    mapped = address.ipv4_mapped
    return str(address if mapped is None else mapped)


def _port(text: str) -> int:
    if not text.isdigit() or len(text) > 5 or text[0] == "0" and text != "0" or int(text) > 65535:
        raise ValueError("malformed port in the PROXY line")
    return int(text)


# ---- version 2

def _parse_v2(data: bytes) -> ProxyHeader | None:
    have = len(data)
    if data[:12] != SIGNATURE[:have]:
        raise ValueError("no PROXY header")
    if have < 13:
        return None
    if data[12] not in (0x20, 0x21):
        raise ValueError("unknown version or command in the PROXY header")
    if have < 14:
        return None
    kind = data[13]
    if kind >> 4 > 3 or kind & 15 > 2:
        raise ValueError("unknown family or transport in the PROXY header")
    if have > 14 and data[14] > (MOST - 16) >> 8:
        raise ValueError("PROXY header too large")
    if have < 16:
        return None
    size = 16 + (data[14] << 8 | data[15])
    if size > MOST:
        raise ValueError("PROXY header too large")
    if data[12] == 0x20 or not kind >> 4 or not kind & 15:
        return None if have < size else ProxyHeader(2, size)
    if kind & 15 == 2:
        raise ValueError("datagrams in the PROXY header of a connection")
    rest = 16 + _ADDRESSES[kind]
    if rest > size:
        raise ValueError("PROXY header too small for its addresses")
    if have < size:
        return None
    _check_tlvs(data[:size], rest)
    if kind == 0x31:
        return ProxyHeader(2, size, (_UNIX, 0), (_UNIX, 0))
    ports: tuple[int, int] = _PORTS(data, rest - 4)
    if kind == 0x11:
        return ProxyHeader(2, size, (str(IPv4Address(data[16:20])), ports[0]),
                           (str(IPv4Address(data[20:24])), ports[1]))
    return ProxyHeader(2, size, (_plain(IPv6Address(data[16:32])), ports[0]),
                       (_plain(IPv6Address(data[32:48])), ports[1]))


def _check_tlvs(header: bytes, at: int) -> None:
    summed = False
    while at < len(header):
        if at + 3 > len(header):
            raise ValueError("cut extension in the PROXY header")
        kind, size = _TLV(header, at)
        at += 3 + size
        if at > len(header):
            raise ValueError("cut extension in the PROXY header")
        if kind == _CRC32C:
            if size != 4 or summed:
                raise ValueError("malformed checksum in the PROXY header")
            summed = True
            # §2.2.3: computed with zeros in its own place.
            if crc32c(header[:at - 4] + bytes(4) + header[at:]) != int.from_bytes(header[at - 4:at], "big"):
                raise ValueError("wrong checksum of the PROXY header")


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = tuple(_crc_of(byte) for byte in range(256))


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# ---- what is sent

def encode_v1(source: Address, destination: Address) -> bytes:
    """The line of version 1. An address that is none (a unix socket's) makes it UNKNOWN."""
    try:
        families = _families(source[0], destination[0])
    except AddressValueError:
        return LOCAL_V1
    client, server = families
    protocol = "TCP4" if isinstance(client, IPv4Address) else "TCP6"
    return f"PROXY {protocol} {client} {server} {source[1]} {destination[1]}\r\n".encode()


def encode_v2(source: Address, destination: Address, alpn: bytes = b"", authority: str = "", tls: str = "") -> bytes:
    """The header of version 2 with what is known of the client: the protocol agreed on, the name it asked for, the
    version of its TLS (`TLSv1.3`) if that ended here. An address that is none makes the family unspecified."""
    tlvs = b""
    if alpn:
        tlvs += _encode_tlv(_ALPN, alpn)
    if authority:
        tlvs += _encode_tlv(_AUTHORITY, authority.encode())
    if tls:
        tlvs += _encode_tlv(_SSL, bytes((_CLIENT_SSL,)) + _NOT_VERIFIED + _encode_tlv(_SSL_VERSION, tls.encode()))
    try:
        client, server = _families(source[0], destination[0])
    except AddressValueError:
        return SIGNATURE + b"\x21\0" + len(tlvs).to_bytes(2, "big") + tlvs
    kind = b"\x11" if isinstance(client, IPv4Address) else b"\x21"
    addresses = (client.packed + server.packed + source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big"))
    return SIGNATURE + b"\x21" + kind + (len(addresses) + len(tlvs)).to_bytes(2, "big") + addresses + tlvs


def _encode_tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def _families(source: str, destination: str) -> tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]:
    """Both of one family, IPv6 if one of them is. Raises AddressValueError."""
    source, destination = source.partition("%")[0], destination.partition("%")[0]
    if ":" not in source and ":" not in destination:
        return IPv4Address(source), IPv4Address(destination)
    return _as_ipv6(source), _as_ipv6(destination)


def _as_ipv6(text: str) -> IPv6Address:
    return IPv6Address(text if ":" in text else f"::ffff:{IPv4Address(text)}")
