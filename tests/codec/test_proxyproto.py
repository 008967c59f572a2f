"""PROXY headers of both versions: read, written, cut everywhere, and every way to be none."""
from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.codec.proxyproto import (
    LOCAL_V1,
    LOCAL_V2,
    MOST,
    SIGNATURE,
    ProxyHeader,
    crc32c,
    encode_v1,
    encode_v2,
    parse_proxy,
)

CLIENT, SERVER = ("192.0.2.7", 51000), ("198.51.100.1", 443)
CLIENT6, SERVER6 = ("2001:db8::7", 51000), ("2001:db8::1", 443)
NOBODY = ("", 0)
IPV4 = socket.inet_aton(CLIENT[0]) + socket.inet_aton(SERVER[0]) + b"\xc7\x38\x01\xbb"


def v2(rest: bytes = IPV4, kind: int = 0x11, command: int = 0x21, size: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, kind)) + (len(rest) if size is None else size).to_bytes(2, "big") + rest


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def read(data: bytes) -> ProxyHeader:
    """The header; the same with bytes behind it, and not before its last byte is there."""
    found = parse_proxy(data)
    assert found is not None and found.size == len(data)
    for end in range(len(data)):
        assert parse_proxy(data[:end]) is None
    more = parse_proxy(data + b"GET / HTTP/1.1\r\n\r\n")
    assert more is not None
    assert (more.source, more.destination, more.size) == (found.source, found.destination, found.size)
    return found


def refused(data: bytes) -> str:
    with pytest.raises(ValueError) as why:
        parse_proxy(data)
    return str(why.value)


# ---- version 1

@pytest.mark.parametrize(("line", "source", "destination"), [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n", CLIENT, SERVER),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535), ("255.255.255.255", 65535)),
    (b"PROXY TCP6 2001:DB8::7 2001:0db8:0:0::1 51000 443\r\n", CLIENT6, SERVER6),
    (b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n", (":".join(["ffff"] * 8), 65535),
     (":".join(["ffff"] * 8), 65535)),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 0 1\r\n", ("192.0.2.7", 0), ("::1", 1)),
    (b"PROXY UNKNOWN\r\n", NOBODY, NOBODY),
    (b"PROXY UNKNOWN anything at all\r\n", NOBODY, NOBODY),
    (b"PROXY UNKNOWN " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n", NOBODY, NOBODY)])
def test_lines(line: bytes, source: tuple[str, int], destination: tuple[str, int]) -> None:
    found = read(line)
    assert (found.version, found.source, found.destination) == (1, source, destination)


@pytest.mark.parametrize("line", [
    b"PROXY \r\n", b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", b"PROXY TCP4\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", b"PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", b"PROXY UNKNOWNX\r\n", b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n"])
def test_malformed_lines(line: bytes) -> None:
    assert refused(line) == "malformed PROXY line"


@pytest.mark.parametrize("address", ["1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.04", "0x1.2.3.4", "1", "::1", "",
                                     "1.2.3.4/8", "+1.2.3.4", "a.b.c.d"])
def test_malformed_ipv4_addresses(address: str) -> None:
    assert "malformed" in refused(f"PROXY TCP4 {address} 1.2.3.4 1 2\r\n".encode())
    assert "malformed" in refused(f"PROXY TCP4 1.2.3.4 {address} 1 2\r\n".encode())


@pytest.mark.parametrize("address", ["1.2.3.4", "::1%eth0", ":::1", "1::2::3", "12345::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9",
                                     "[::1]", "::g", "::1/64", "", "::1.2.3"])
def test_malformed_ipv6_addresses(address: str) -> None:
    assert "malformed" in refused(f"PROXY TCP6 {address} ::1 1 2\r\n".encode())
    assert "malformed" in refused(f"PROXY TCP6 ::1 {address} 1 2\r\n".encode())


@pytest.mark.parametrize("port", ["", "00", "01", "65536", "99999", "100000", "-1", "+1", "1.0", "0x1", "1_0"])
def test_malformed_ports(port: str) -> None:
    assert "malformed" in refused(f"PROXY TCP4 1.2.3.4 1.2.3.4 {port} 2\r\n".encode())
    assert "malformed" in refused(f"PROXY TCP4 1.2.3.4 1.2.3.4 1 {port}\r\n".encode())


@pytest.mark.parametrize("data", [b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", b"PROXY TCP4\r1.2.3.4", b"PROXY TCP4\t1", b"PROXY \0",
                                  b"PROXY UNKNOWN\n", b"PROXY \xc2\xa0", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n"])
def test_control_bytes_are_refused_as_they_come(data: bytes) -> None:
    assert refused(data) == "control byte in the PROXY line"


def test_a_line_has_107_bytes_at_most() -> None:
    assert read(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n").size == 107
    assert parse_proxy(b"PROXY UNKNOWN " + b"x" * 92) is None
    for data in (b"PROXY UNKNOWN " + b"x" * 93, b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n"):
        assert refused(data) in ("PROXY line too long",)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"PROXX", b"proxy", b"\x16\x03\x01", b" PROXY", b"PROXY\r\n", b"\n", b"P\0",
                                  b"\r\n\r\n\0\r\nQUIT\r", b"\r\r"])
def test_something_else_is_refused_at_its_first_wrong_byte(data: bytes) -> None:
    assert refused(data) == "no PROXY header"


# ---- version 2

def test_ipv4_and_ipv6() -> None:
    found = read(v2())
    assert (found.version, found.source, found.destination) == (2, CLIENT, SERVER)
    pair = socket.inet_pton(socket.AF_INET6, CLIENT6[0]) + socket.inet_pton(socket.AF_INET6, SERVER6[0])
    found = read(v2(pair + b"\xc7\x38\x01\xbb", 0x21))
    assert (found.source, found.destination) == (CLIENT6, SERVER6)
    mapped = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.7") * 2
    assert read(v2(mapped + b"\xc7\x38\x01\xbb", 0x21)).source == CLIENT


def test_a_unix_socket() -> None:
    assert read(v2(b"/run/a.sock".ljust(108, b"\0") * 2, 0x31)).source == ("unix:", 0)


@pytest.mark.parametrize("data", [LOCAL_V2, v2(b"", 0x00, 0x20), v2(IPV4, 0x11, 0x20), v2(b"\x03\0\x04junk!", 0x00, 0x20),
                                  v2(b"x", 0x11, 0x20), v2(b"", 0x00), v2(b"junk", 0x00), v2(IPV4, 0x10), v2(b"", 0x01)])
def test_who_does_not_say_where_from(data: bytes) -> None:
    found = read(data)
    assert (found.source, found.destination) == (NOBODY, NOBODY)


@pytest.mark.parametrize(("data", "why"), [
    (SIGNATURE + b"\x11", "unknown version or command in the PROXY header"),
    (SIGNATURE + b"\x22", "unknown version or command in the PROXY header"),
    (SIGNATURE + b"\x31", "unknown version or command in the PROXY header"),
    (SIGNATURE + b"\x21\x41", "unknown family or transport in the PROXY header"),
    (SIGNATURE + b"\x21\x13", "unknown family or transport in the PROXY header"),
    (SIGNATURE + b"\x21\x11\x11", "PROXY header too large"),
    (SIGNATURE + b"\x21\x11\x10\x01", "PROXY header too large"),
    (SIGNATURE + b"\x21\x11\xff\xff", "PROXY header too large"),
    (SIGNATURE + b"\x21\x11\0\x0b", "PROXY header too small for its addresses"),
    (SIGNATURE + b"\x21\x21\0\x23", "PROXY header too small for its addresses"),
    (SIGNATURE + b"\x21\x31\0\xd7", "PROXY header too small for its addresses"),
    (v2(IPV4, 0x12), "datagrams in the PROXY header of a connection"),
    (v2(IPV4 + b"\4"), "cut extension in the PROXY header"),
    (v2(IPV4 + b"\4\0"), "cut extension in the PROXY header"),
    (v2(IPV4 + b"\4\0\1"), "cut extension in the PROXY header"),
    (v2(IPV4 + tlv(4, b"xx") + b"\4\0\2x"), "cut extension in the PROXY header"),
    (v2(IPV4 + tlv(3, b"123")), "malformed checksum in the PROXY header"),
    (v2(IPV4 + tlv(3, b"1234")), "wrong checksum of the PROXY header")])
def test_refused_headers(data: bytes, why: str) -> None:
    assert refused(data) == why
    assert all(parse_proxy(data[:end]) is None for end in range(min(13, len(data))))


def test_extensions_are_skipped_up_to_the_bound() -> None:
    full = tlv(0xE0, b"x" * (MOST - len(v2()) - 3))
    assert read(v2(IPV4 + full)).size == MOST
    assert read(v2(IPV4 + tlv(4, b"") + tlv(1, b"h2") + tlv(0xE0, b"x"))).source == CLIENT


def test_the_checksum_is_castagnoli_s() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 B.4


@pytest.mark.parametrize("before", [b"", tlv(1, b"h2")])
@pytest.mark.parametrize("behind", [b"", tlv(2, b"a.example")])
def test_a_checksum_anywhere_among_the_extensions(before: bytes, behind: bytes) -> None:
    zero = v2(IPV4 + before + tlv(3, bytes(4)) + behind)
    at = len(v2(IPV4 + before)) + 3
    good = zero[:at] + crc32c(zero).to_bytes(4, "big") + zero[at + 4:]
    assert read(good).source == CLIENT
    for place in (16, 27, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 1
        with pytest.raises(ValueError):
            parse_proxy(bytes(bad))
    assert refused(v2(IPV4 + tlv(3, good[at:at + 4]) * 2)) in (
        "malformed checksum in the PROXY header", "wrong checksum of the PROXY header")


# ---- what is written

@pytest.mark.parametrize(("source", "destination", "line"), [
    (CLIENT, SERVER, b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n"),
    (CLIENT6, SERVER6, b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 443\r\n"),
    (CLIENT, SERVER6, b"PROXY TCP6 ::ffff:c000:207 2001:db8::1 51000 443\r\n"),
    (("fe80::1%eth0", 1), ("fe80::2%eth0", 2), b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n"),
    (("unix:", 0), ("unix:", 0), LOCAL_V1), (NOBODY, NOBODY, LOCAL_V1), (CLIENT, ("unix:", 0), LOCAL_V1)])
def test_written_lines(source: tuple[str, int], destination: tuple[str, int], line: bytes) -> None:
    assert encode_v1(source, destination) == line


def test_a_written_header() -> None:
    assert encode_v2(CLIENT, SERVER) == v2()
    found = read(encode_v2(CLIENT6, SERVER))
    assert (found.source, found.destination) == (CLIENT6, SERVER)
    assert encode_v2(("unix:", 0), ("unix:", 0), authority="a.example") == v2(tlv(2, b"a.example"), 0x00)


def test_what_is_known_of_tls_is_told() -> None:
    assert encode_v2(CLIENT, SERVER, b"h2", "a.example", "TLSv1.3") == v2(
        IPV4 + tlv(1, b"h2") + tlv(2, b"a.example") + tlv(0x20, b"\1\0\0\0\1" + tlv(0x21, b"TLSv1.3")))


ADDRESSES = st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65535))
ADDRESSES6 = st.tuples(st.ip_addresses(v=6).filter(lambda a: not a.ipv4_mapped).map(str), st.integers(0, 65535))


@given(st.one_of(st.tuples(ADDRESSES, ADDRESSES), st.tuples(ADDRESSES6, ADDRESSES6)), st.text(max_size=80))
def test_what_is_written_is_read(pair: tuple[tuple[str, int], tuple[str, int]], name: str) -> None:
    for data in (encode_v1(*pair), encode_v2(*pair, b"http/1.1", name, "TLSv1.2")):
        found = read(data)
        assert (found.source, found.destination) == pair


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11", v2()[:15]]), st.binary(max_size=150))
def test_any_bytes(begin: bytes, data: bytes) -> None:
    """Answers, asks or refuses, nothing else; a refusal of a beginning is one of the whole."""
    data = begin + data
    early = False
    for end in range(len(data) + 1):
        try:
            found = parse_proxy(data[:end])
        except ValueError:
            early = True
        else:
            assert not early
            if found is not None:
                assert found.size <= end
                break
