"""Fuzzes heads: both engines agree on any bytes, and what they send on is read again as what it was.

`python tests/fuzz/fuzz_heads.py -max_total_time=60`, see `leaf_fuzz.py`.
"""
from __future__ import annotations

import sys

from leaf_fuzz import corpus, engines, run

ENGINES = engines()

from leaf_messages import by_byte, collect, outbound, read_request, read_response  # noqa: E402


def one_input(data: bytes) -> None:
    """Raises AssertionError for a finding."""
    requests = [read_request(leaf, data) for leaf in ENGINES]
    assert requests[0] == requests[-1]
    assert read_request(ENGINES[0], data, 100, 4) == read_request(ENGINES[-1], data, 100, 4)
    for head_request in (False, True):
        responses = [read_response(leaf, data, head_request) for leaf in ENGINES]
        assert responses[0] == responses[-1]
    for leaf in ENGINES:
        if isinstance(requests[0], dict):
            request = leaf.parse_request(data, 65536, 100)
            again = leaf.parse_request(outbound(leaf, request, host=b"a"), 1 << 20, 1000)
            assert (again.length, again.method, again.upgrade) == (request.length, request.method, request.upgrade)
            got = collect(leaf, by_byte(data[:2000]))
            assert got is None and len(data) > 2000 or got.log_fields() == request.log_fields()
        if isinstance(responses[0], dict):
            response = leaf.parse_response(data, True, 65536, 100)
            again = leaf.parse_response(response.inbound(1, False, None), True, 1 << 20, 1000)
            assert again.status == response.status


if __name__ == "__main__":
    sys.exit(run(one_input, corpus()))
