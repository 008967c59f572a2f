"""Fuzzes ClientHellos: whole and byte by byte the same verdict, a name that is one, and no other error than a refusal.

`python tests/fuzz/fuzz_hello.py -max_total_time=60`, see `leaf_fuzz.py`.
"""
from __future__ import annotations

import sys

from leaf_fuzz import instrumented, run

clienthello = instrumented("edgeproxy.codec.clienthello")

from hellos import alpn, extension, hello, message, real, records, server_name, versions  # noqa: E402

_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._")


def one_input(data: bytes) -> None:
    """Raises AssertionError for a finding."""
    try:
        whole = clienthello.parse_client_hello(data)
    except ValueError:
        whole = "refused"
    grown = None
    reader = clienthello.HelloReader()
    for end in range(1, len(data) + 1):
        try:
            grown = reader.read(data[:end])
        except ValueError:
            grown = "refused"
        if grown is not None:
            break
    if whole is None or whole == "refused" or grown is None or grown == "refused":
        assert whole == grown, (whole, grown)
        return
    assert (whole.sni, whole.alpn, whole.versions, whole.size) == (grown.sni, grown.alpn, grown.versions, grown.size)
    assert whole.size <= min(len(data), clienthello.LIMIT)
    assert _NAME.issuperset(whole.sni) and len(whole.sni) <= 255 and not whole.sni.endswith(".")


def hellos() -> list[bytes]:
    built = message(server_name(b"a.example"), alpn(b"h2", b"http/1.1"), versions(0x0A0A, 0x0304), extension(0x2A2A, b""))
    return [real(), real(None, ["h2"]), records(built), records(built, 1, 3, 50), hello(server_name(b"A.b."), versions(0x0303)),
            b"\x80\x2e\x01\x03\x01", b"GET / HTTP/1.1\r\n\r\n"]


if __name__ == "__main__":
    sys.exit(run(one_input, hellos()))
