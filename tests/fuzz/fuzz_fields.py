"""Fuzzes messages of HTTP/2: both engines agree on any fields, and what they send on is read again as what it was.

A message is lines of `name=value`, and its first byte says whether the stream ends with it.
`python tests/fuzz/fuzz_fields.py -max_total_time=60`, see `leaf_fuzz.py`.
"""
from __future__ import annotations

import sys

from leaf_fuzz import corpus, engines, run

ENGINES = engines()

from leaf_fields import agrees, answers_agree, read_answer, read_fields, read_trailers, request  # noqa: E402


def one_input(data: bytes) -> None:
    """Raises AssertionError for a finding."""
    ended = data[:1] == b"1"
    fields = [(name, value) for name, _, value in (line.partition(b"=") for line in data[1:].split(b"\x1e"))]
    requests = [read_fields(leaf, fields, ended) for leaf in ENGINES]
    assert requests[0] == requests[-1]
    assert read_fields(ENGINES[0], fields, ended, 200, 4) == read_fields(ENGINES[-1], fields, ended, 200, 4)
    trailers = [read_trailers(leaf, fields) for leaf in ENGINES]
    assert trailers[0] == trailers[-1]
    for head_request in (False, True):
        responses = [read_answer(leaf, fields, head_request, ended) for leaf in ENGINES]
        assert responses[0] == responses[-1]
        if isinstance(responses[0], dict):
            for leaf in ENGINES:
                answers_agree(leaf, leaf.response_from_fields(fields, head_request, ended, 65536, 100), head_request)
    if isinstance(requests[0], dict):
        for leaf in ENGINES:
            agrees(leaf, leaf.request_from_fields(fields, ended, 65536, 100))


def seeds() -> list[bytes]:
    """Good messages, and the lines of the corpus of HTTP/1 as if they were fields, with and without those of framing."""
    messages = [request(), request((b"cookie", b"a"), (b"cookie", b"b"), (b"te", b"trailers"), (b"content-length", b"5")),
                request((b"host", b"a.example"), authority=None), [(b":status", b"200"), (b"content-length", b"5")], [(b"grpc-status", b"0")]]
    for row in corpus():
        line, *lines = row.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
        method, _, target = line.partition(b" ")
        fields = [(name.lower(), value.strip(b" ")) for name, _, value in (text.partition(b":") for text in lines)]
        host = dict(fields).get(b"host")
        kept = [field for field in fields if field[0] not in (b"connection", b"transfer-encoding", b"host", b"te", b"upgrade")]
        for some in (fields, kept):
            messages.append(request(*some, method=method, path=target.removesuffix(b" HTTP/1.1"), authority=host))
    return [mark + b"\x1e".join(name + b"=" + value for name, value in message) for message in messages for mark in (b"0", b"1")]


if __name__ == "__main__":
    sys.exit(run(one_input, seeds()))
