"""Every row of tests/corpus at the parser: what has to be forwarded parses, what has to be refused does not.

Rows are judged as far as a parser can: `forward` alone means that all its messages are read; a row that names no way
to forward is refused or left waiting, whichever it allows; everything read is sent on in a form that h11 reads alike.
"""
from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from leaf_messages import MAX_FIELDS, MAX_HEAD, by_byte, collect, outbound, request_values
from test_leaf_oracle import body_length, client_reads, server_reads

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
FORWARDING = {"forward", "forward+close", "same-count", "accept"}


def rows(name: str) -> list[dict[str, Any]]:
    text = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) | {"raw": b64decode(json.loads(line)["raw"])} for line in text.splitlines()]


def read_all(leaf: Any, raw: bytes) -> tuple[list[Any], str]:
    """The complete requests in `raw`, and how it ended: waits, closes or refused."""
    heads: list[Any] = []
    try:
        while (head := leaf.parse_request(raw, MAX_HEAD, MAX_FIELDS)) is not None:
            raw = raw[head.size:]
            if head.length >= 0:
                if len(raw) < head.length:
                    return heads, "waits"
                raw = raw[head.length:]
            else:
                decoder = leaf.ChunkDecoder(16384)
                decoder.feed(raw)
                if not decoder.done:
                    return heads, "waits"
                raw = raw[decoder.consumed:]
            heads.append(head)
            if not head.keep_alive:
                return heads, "closes"
    except ValueError as why:
        assert why.args[0] in (400, 405, 414, 417, 431, 501, 505)
        return heads, "refused"
    return heads, "waits"


def verdict(row: dict[str, Any], heads: list[Any], end: str) -> str:
    """Empty if the row is satisfied."""
    allowed = set(row["expect"])
    if allowed == {"forward"}:
        return "" if len(heads) == row["messages"] and end != "refused" else "not forwarded"
    if allowed == {"forward+close"}:
        return "" if len(heads) == 1 and end == "closes" else "not forwarded once and closed"
    if not allowed & FORWARDING:
        return "" if end == "refused" and not heads or end == "waits" and not heads and "wait" in allowed else "not refused"
    return ""


@pytest.mark.parametrize("name", ["http11probe", "desync-guardian", "llhttp-requests", "te-mutations"])
def test_requests(leaf: Any, name: str) -> None:
    failed = []
    for row in rows(name):
        heads, end = read_all(leaf, row["raw"])
        if why := verdict(row, heads, end):
            failed.append((row["id"], row["expect"], end, why))
        for head in heads:
            seen = server_reads(outbound(leaf, head, target=b"/"))
            assert body_length(seen.headers) == head.length, row["id"]
    assert failed == []


@pytest.mark.parametrize("name", ["http11probe", "desync-guardian", "llhttp-requests", "te-mutations"])
def test_requests_byte_by_byte(leaf: Any, name: str) -> None:
    for row in rows(name):
        raw = row["raw"]
        if len(raw) > 600:
            continue
        whole, _ = read_all(leaf, raw)
        got = collect(leaf, by_byte(raw))
        if whole:
            assert request_values(leaf, got) == request_values(leaf, whole[0]), row["id"]
        elif not isinstance(got, tuple) and got is not None:
            assert got.length != 0, row["id"]  # the head is good, the body is not


def test_responses(leaf: Any) -> None:
    taken = 0
    for row in rows("llhttp-responses"):
        raw = row["raw"]
        try:
            response = leaf.parse_response(raw, False, MAX_HEAD, MAX_FIELDS)
        except ValueError as why:
            assert why.args[0] == 502
            continue
        if response is None or response.status == 101:
            continue
        taken += 1
        assert set(row["expect"]) & {"accept", "forward"} or response.length == -1, row["id"]
        _, seen = client_reads(response.inbound(1, False, None))
        assert seen.status_code == response.status, row["id"]
    assert taken > 40
