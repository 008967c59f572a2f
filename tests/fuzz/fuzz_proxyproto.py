"""Fuzzes PROXY headers: a verdict on a beginning holds for the whole, and what is read can be written and read again.

`python tests/fuzz/fuzz_proxyproto.py -max_total_time=60`, see `leaf_fuzz.py`.
"""
from __future__ import annotations

import sys

from leaf_fuzz import instrumented, run

proxyproto = instrumented("edgeproxy.codec.proxyproto")


def one_input(data: bytes) -> None:
    """Raises AssertionError for a finding."""
    refused = False
    for end in range(min(len(data), 300) + 1):
        try:
            found = proxyproto.parse_proxy(data[:end])
        except ValueError:
            refused = True
            continue
        assert not refused, "a refused beginning was taken later"
        if found is not None:
            break
    try:
        header = proxyproto.parse_proxy(data)
    except ValueError:
        return
    if header is None or not header.source[0]:
        return
    assert header.size <= min(len(data), proxyproto.MOST)
    if header.source[0] != "unix:":
        for encode in (proxyproto.encode_v1, proxyproto.encode_v2):
            again = proxyproto.parse_proxy(encode(header.source, header.destination))
            assert (again.source, again.destination) == (header.source, header.destination)


def headers() -> list[bytes]:
    pair, pair6 = (("192.0.2.7", 51000), ("198.51.100.1", 443)), (("2001:db8::7", 1), ("2001:db8::1", 65535))
    summed = proxyproto.encode_v2(*pair)[:15] + b"\x13" + proxyproto.encode_v2(*pair)[16:] + b"\3\0\4\0\0\0\0"
    return [proxyproto.encode_v1(*pair), proxyproto.encode_v1(*pair6), proxyproto.LOCAL_V1, proxyproto.LOCAL_V2,
            proxyproto.encode_v2(*pair, b"h2", "a.example", "TLSv1.3"), proxyproto.encode_v2(*pair6),
            summed[:-4] + proxyproto.crc32c(summed).to_bytes(4, "big"), b"GET / HTTP/1.1\r\n\r\n"]


if __name__ == "__main__":
    sys.exit(run(one_input, headers()))
