"""ClientHellos: real ones and built ones, cut everywhere; and every way to be none."""
from __future__ import annotations

import socket
import ssl
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec import hellos
from codec.hellos import alpn, extension, hello, message, prefixes, real, records, server_name, vector, versions
from edgeproxy.codec.clienthello import LIMIT, ClientHello, HelloReader, alert, parse_client_hello


def read(data: bytes) -> ClientHello:
    found = parse_client_hello(data)
    assert found is not None
    return found


def grown(data: bytes) -> ClientHello | None:
    """What a reader says that sees every byte come."""
    reader = HelloReader()
    for seen in prefixes(data):
        assert reader.read(seen) is None
    return reader.read(data)


def refused(data: bytes) -> str:
    """Why it is none; whole and byte by byte the same, and the first byte that cannot be right is the last one read."""
    with pytest.raises(ValueError) as whole:
        parse_client_hello(data)
    reader = HelloReader()
    for end in range(1, len(data) + 1):
        try:
            assert reader.read(data[:end]) is None
        except ValueError:
            return str(whole.value)
    raise AssertionError("refused as a whole, but not as it came")


# ---- good ones

@pytest.mark.parametrize(("version", "highest"), [(ssl.TLSVersion.TLSv1_2, 0x0303), (ssl.TLSVersion.TLSv1_3, 0x0304),
                                                  (None, 0x0304)])
def test_a_real_hello_in_every_growth(version: ssl.TLSVersion | None, highest: int) -> None:
    data = real("www.Example.org", ["h2", "http/1.1"], version)
    for found in (read(data), grown(data)):
        assert found is not None
        assert (found.sni, found.alpn, found.versions, found.size) == \
            ("www.example.org", ("h2", "http/1.1"), highest, len(data))


def test_a_client_without_name_and_protocols() -> None:
    found = read(real(None))
    assert (found.sni, found.alpn) == ("", ())


def test_what_follows_the_hello_is_not_looked_at() -> None:
    data = real()
    assert read(data + b"\x14\x03\x03\0\1\1" + b"early data").size == len(data)


def test_a_ticket_comes_last() -> None:
    ticket = extension(hellos.PRE_SHARED_KEY, b"p" * 1800)
    data = hello(server_name(b"a.example"), versions(0x0304), ticket)
    assert read(data).sni == "a.example"
    assert refused(hello(ticket, server_name(b"a.example"))) == "pre_shared_key is not the last extension"


def test_a_hello_in_two_records_cut_anywhere() -> None:
    whole = message(server_name(b"hidden.example"), alpn(b"h2"), versions(0x0304, 0x0303))
    for cut in range(1, len(whole)):
        data = records(whole, cut)
        found = read(data)
        assert (found.sni, found.alpn, found.versions, found.size) == ("hidden.example", ("h2",), 0x0304, len(data))
        assert parse_client_hello(data[:-1]) is None


def test_a_hello_in_records_of_one_byte_each() -> None:
    whole = message(server_name(b"hidden.example"))
    data = records(whole, *range(1, len(whole)))
    found = grown(data)
    assert found is not None and (found.sni, found.size) == ("hidden.example", len(data))


@given(st.lists(st.integers(1, 1700), max_size=6, unique=True))
def test_any_fragments(cuts: list[int]) -> None:
    key = extension(hellos.KEY_SHARE, vector(2, b"k" * 1600))  # as large as a post-quantum one
    data = records(message(key, server_name(b"a.example")), *sorted(cuts))
    assert read(data).sni == "a.example"


def test_grease_is_no_protocol_version_and_no_fault() -> None:
    found = read(hello(extension(hellos.GREASE, b""), server_name(b"a.example"), alpn(b"\x3a\x3a", b"h2"),
                       versions(0x3A3A, 0x0304, 0x0303), extension(hellos.GREASE + 0x1010, b"\0")))
    assert (found.sni, found.alpn, found.versions) == ("a.example", ("::", "h2"), 0x0304)


def test_of_an_encrypted_hello_the_outer_name_counts() -> None:
    inner = extension(hellos.ECH, b"\0" + b"\0\1\0\1" + b"\7" + vector(2, b"e" * 32) + vector(2, b"x" * 200))
    assert read(hello(inner, server_name(b"public.example"))).sni == "public.example"


@pytest.mark.parametrize(("offered", "highest"), [((), 0x0303), ((0x0303,), 0x0303), ((0x0302, 0x0304), 0x0304),
                                                  ((0x7F1C, 0xFEFD, 0x0303), 0x0303), ((0x0A0A,), 0)])
def test_versions(offered: tuple[int, ...], highest: int) -> None:
    assert read(hello(*([versions(*offered)] if offered else []))).versions == highest
    assert read(records(message(*([versions(*offered)] if offered else []), legacy=0x0301))).versions == \
        (highest if offered else 0x0301)


def test_a_hello_of_old_without_extensions() -> None:
    found = read(records(message(tail=b"", legacy=0x0302)))
    assert (found.sni, found.versions) == ("", 0x0302)


@pytest.mark.parametrize(("sent", "read_as"), [
    (b"a.example", "a.example"), (b"A.ExAmPlE.", "a.example"), (b"x", "x"), (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
    (b"_sip.a-b.example", "_sip.a-b.example"), (b"10.0.0.1", "10.0.0.1"), (b"a" * 255, "a" * 255)])
def test_names(sent: bytes, read_as: str) -> None:
    assert read(hello(server_name(sent))).sni == read_as


# ---- bounds

def test_as_large_as_allowed_and_a_byte_more() -> None:
    room = LIMIT - len(hello(server_name(b"a.example"), extension(hellos.PADDING, b"")))
    assert read(hello(server_name(b"a.example"), extension(hellos.PADDING, bytes(room)))).size == LIMIT
    assert refused(hello(extension(hellos.PADDING, bytes(room + 19)))) == "ClientHello too large"


def test_too_large_is_known_from_the_first_record() -> None:
    for said in (LIMIT, 0xFFFFFF):
        with pytest.raises(ValueError, match="too large"):
            parse_client_hello(b"\x16\x03\x01\0\x04\x01" + said.to_bytes(3, "big"))


def test_headers_of_records_count() -> None:
    whole = message(extension(hellos.PADDING, bytes(LIMIT // 2)))
    with pytest.raises(ValueError, match="too large"):
        parse_client_hello(records(whole, *range(1, len(whole))))


# ---- none

@pytest.mark.parametrize(("data", "why"), [
    (b"GET / HTTP/1.1\r\n", "not TLS but text, such as HTTP"),
    (b"PRI * HTTP/2.0\r\n", "not TLS but text, such as HTTP"),
    (b"SSH-2.0-x\r\n", "not TLS but text, such as HTTP"),
    (b"\x80\x2e\x01\x03\x01", "not a TLS handshake"),  # SSLv2
    (b"\0", "not a TLS handshake"), (b"\xff", "not a TLS handshake"), (b"\r\n", "not a TLS handshake"),
    (b"\x15\x03\x01\0\x02\x02\x28", "not a TLS handshake"), (b"\x17\x03\x03", "not a TLS handshake"),
    (b"\x16\x02", "unknown TLS version of a record"), (b"\x16\xfe\xfd", "unknown TLS version of a record"),
    (b"\x16\x03\x01\x40\x01", "TLS record too large"), (b"\x16\x03\x01\x41", "TLS record too large"),
    (b"\x16\x03\x01\0\0", "empty TLS record"),
    (b"\x16\x03\x01\0\x04\x02", "not a ClientHello"),
    (b"\x16\x03\x01\0\x10\x01\0\0\x02", "ClientHello too small"),
    (b"\x16\x03\x01\x10\0\x01\0\0\x40", "bytes behind the ClientHello in its record"),
])
def test_refused_at_that_byte(data: bytes, why: str) -> None:
    assert refused(data) == why


def test_another_record_in_between() -> None:
    whole = message(server_name(b"a.example"))
    first = records(whole[:20])
    assert refused(first + b"\x15\x03\x01\0\x02\x01\0") == "another record inside the ClientHello"
    assert refused(first + b"\x16\x03\x01\0\0") == "empty TLS record"
    assert refused(first + records(whole[20:] + b"x")) == "bytes behind the ClientHello in its record"


@pytest.mark.parametrize(("parts", "why"), [
    ({"legacy": 0x0203}, "unknown TLS version in the ClientHello"),
    ({"session": b"s" * 33}, "session id too long in the ClientHello"),
    ({"suites": b""}, "wrong length of the cipher suites"),
    ({"suites": b"\x13\x01\x13"}, "wrong length of the cipher suites"),
    ({"compression": b""}, "wrong length of the compression methods"),
    ({"compression": b"\1"}, "no usable compression method in the ClientHello"),
    ({"tail": b"\0"}, "wrong length of the extensions"),
    ({"tail": b"\0\1"}, "wrong length of the extensions"),
    ({"tail": b"\0\3\0\0\0\0"}, "wrong length of the extensions"),
    ({"tail": vector(2, b"\0\x17\0")}, "wrong length of an extension"),
    ({"tail": vector(2, b"\0\x17\0\1")}, "wrong length of an extension"),
    ({"tail": vector(2, b"\0\x17\xff\xff" + bytes(100))}, "wrong length of an extension"),
])
def test_every_length_is_checked(parts: dict[str, object], why: str) -> None:
    assert refused(records(message(**parts))) == why  # type: ignore[arg-type]


def test_lengths_that_leave_no_room() -> None:
    body = b"\x03\x03" + b"r" * 32
    for rest in (b"\x20" + b"s" * 7, b"\0" + b"\0\x06" + b"\x13\x01\x13\x02" + b"x", b"\0\0\x02\x13\x01\x09\0"):
        data = records(b"\x01" + vector(3, body + rest + bytes(max(0, 7 - len(rest)))))
        assert refused(data).startswith("wrong length of the")


@pytest.mark.parametrize("body", [
    b"", b"\0", b"\0\0", vector(2, b"\0\0\0"), vector(2, b"\0" + vector(2, b"")), vector(2, b"\0\0\2a"),
    b"\0\5\0\0\1ab", vector(2, b"\0" + vector(2, b"a") + b"\0" + vector(2, b"b")), vector(2, b"\1" + vector(2, b"a")),
])
def test_malformed_server_names(body: bytes) -> None:
    assert refused(hello(extension(hellos.SERVER_NAME, body))) in ("malformed server_name",)


@pytest.mark.parametrize("name", [b"a b", b"a\0b", b"a/b", b"*.example", b"a:1", b"::1", b"\xc3\xa4.example", b".a", b"a..b",
                                  b"a..", b"-\n"])
def test_what_is_no_host_name(name: bytes) -> None:
    assert refused(hello(server_name(name))) == "server_name is not a host name"


def test_a_name_too_long_and_a_dot_alone() -> None:
    assert refused(hello(server_name(b"a" * 256))) == "server_name too long"
    assert refused(hello(server_name(b"."))) == "malformed server_name"


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\0", b"\0\1\0", vector(2, b"\2h"), vector(2, b"\2h2\0"), b"\0\4\2h2",
                                  vector(2, b"\2h2\5h2")])
def test_malformed_protocols(body: bytes) -> None:
    assert refused(hello(extension(hellos.ALPN, body))) == "malformed ALPN"


@pytest.mark.parametrize("body", [b"", b"\0", b"\1\3", b"\2\3", b"\2\3\4\3", b"\3\3\4\3", b"\4\3\4"])
def test_malformed_versions(body: bytes) -> None:
    assert refused(hello(extension(hellos.VERSIONS, body))) == "malformed supported_versions"


def test_an_extension_comes_once() -> None:
    for twice in (server_name(b"a.example"), extension(0x1234, b"")):
        assert refused(hello(twice, extension(23, b""), twice)) == "an extension comes twice"


def test_a_refusal_does_not_wait_for_the_rest() -> None:
    """The second name stands at the beginning of an extension that never ends."""
    whole = hello(server_name(b"a.example"), server_name(b"b.example"), extension(hellos.PADDING, bytes(5000)))
    wrong = whole.index(server_name(b"b.example")) + 4
    assert parse_client_hello(whole[:wrong - 1]) is None
    with pytest.raises(ValueError, match="twice"):
        parse_client_hello(whole[:wrong])


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes(data: bytes, begun: bool) -> None:
    """Answers, asks or refuses, nothing else; and as it grows, the same."""
    data = real()[:60] + data if begun else data
    try:
        whole = parse_client_hello(data)
    except ValueError:
        refused(data)
    else:
        reader, last = HelloReader(), None
        for end in range(1, len(data) + 1):
            last = reader.read(data[:end])
            if last is not None:
                assert whole is not None and (last.sni, last.size) == (whole.sni, whole.size)
                break
        assert (last is None) == (whole is None)


# ---- alerts

def test_an_alert_is_understood_by_openssl() -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="a.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(alert(112))
    with pytest.raises(ssl.SSLError, match="(?i)unrecognized.name"):
        client.do_handshake()


def test_the_hello_of_openssl_s_command_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "Cli.Example",
                               "-alpn", "h2,x"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as client:
            sock, _ = server.accept()
            with sock:
                sock.settimeout(10)
                data = b""
                while (found := parse_client_hello(data)) is None:
                    data += sock.recv(65536)
            client.wait(10)
    assert (found.sni, found.alpn, found.versions) == ("cli.example", ("h2", "x"), 0x0304)
