"""Answers as bytes: whatever a server or a forger sends is an answer, not for us, or malformed; never anything else."""
from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.config.model import Nameserver
from edgeproxy.upstream.question import Answer, Question, Unanswered, _Foreign, parsed

NAME = "web.example"
HEAD = b"\x12\x34\x81\x80\0\1"  # id, a response, one question; then the counts of the three sections
ASKED = b"\3web\7example\0\0\1\0\1"
POINTER = b"\xc0\x0c"


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def read(loop: asyncio.AbstractEventLoop, wire: bytes) -> tuple[Answer, int]:
    """The answer to the question for web.example, and in how many pieces it was read."""
    name = parsed(NAME)
    assert name is not None
    reading = Question(loop, Nameserver("10.0.0.1"), name, 1)._read(wire, b"\x12\x34")
    pieces = 1
    while True:
        try:
            reading.send(None)
        except StopIteration as end:
            assert isinstance(end.value, Answer)
            return end.value, pieces
        pieces += 1


def counts(answer: int, authority: int = 0, additional: int = 0) -> bytes:
    return struct.pack("!HHH", answer, authority, additional)


def record(data: bytes, rdtype: int = 1, owner: bytes = POINTER, ttl: int = 60, rdclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rdtype, rdclass, ttl, len(data)) + data


def whole() -> bytes:
    message = dns.message.make_response(dns.message.make_query(f"{NAME}.", "A", use_edns=0, id=0x1234))
    for text in ("web.example. 60 IN CNAME a.example.", "a.example. 60 IN A 10.0.0.1", "a.example. 60 IN AAAA ::1",
                 "a.example. 60 IN SRV 0 0 80 b.example."):
        owner, ttl, _, rdtype, data = text.split(maxsplit=4)
        message.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, data))
    message.authority.append(dns.rrset.from_text("example.", 9, "IN", "SOA", "ns.example. root.example. 1 2 3 4 5"))
    return message.to_wire()


def test_a_whole_answer(loop: asyncio.AbstractEventLoop) -> None:
    answer, _ = read(loop, whole())
    assert answer.records == {(NAME, 5): (60, ["a.example"]), ("a.example", 1): (60, ["10.0.0.1"]),
                              ("a.example", 28): (60, ["::1"]), ("a.example", 33): (60, [(0, 0, 80, "b.example")])}
    assert answer.negative_ttl(NAME) == 5
    assert answer.negative_ttl("notexample") is None


def test_many_records_are_read_in_pieces(loop: asyncio.AbstractEventLoop) -> None:
    """All at once 4 000 would hold the loop for 50 ms."""
    wire = HEAD + counts(4000) + ASKED + b"".join(record(struct.pack("!I", n)) for n in range(4000))
    answer, pieces = read(loop, wire)
    assert len(answer.records[NAME, 1][1]) == 4000
    assert pieces == 63


def test_every_cut_is_malformed(loop: asyncio.AbstractEventLoop) -> None:
    wire = whole()
    for size in range(len(wire)):
        with pytest.raises((Unanswered, _Foreign)):
            read(loop, wire[:size])


@given(st.data())
def test_changed_bytes(data: st.DataObject) -> None:
    wire = bytearray(whole())
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    loop = asyncio.new_event_loop()
    try:
        read(loop, bytes(wire))
    except (Unanswered, _Foreign):
        pass
    finally:
        loop.close()


def test_noise_behind_the_right_question(loop: asyncio.AbstractEventLoop) -> None:
    dice = random.Random(5)
    for _ in range(2000):
        noise = dice.randbytes(dice.randrange(60))
        try:
            read(loop, HEAD + counts(dice.randrange(4), dice.randrange(3), dice.randrange(3)) + ASKED + noise)
        except Unanswered as fault:
            assert str(fault) == "malformed answer from 10.0.0.1"


@pytest.mark.parametrize("rest", [
    counts(1) + ASKED,
    counts(65535) + ASKED + record(b"\1\2\3\4"),
    counts(1) + ASKED + record(b"\1\2\3"),
    counts(1) + ASKED + record(b"\1\2\3\4\5"),
    counts(1) + ASKED + record(b"", 28),
    counts(1) + ASKED + record(b"\0\0\0\0\0", 33),
    counts(1) + ASKED + record(b"\3abc", 5),
    counts(1) + ASKED + record(b"\1\2\3\4", owner=b"\xc0\xff"),
    counts(1) + ASKED + record(b"\1\2\3\4", owner=b"\x80a"),
    counts(1) + ASKED + record(b"\1\2\3\4", owner=b"\xc0" + bytes([12 + len(ASKED)])),
    counts(0, 1) + ASKED + record(b"\0\0\0\0", 6),
])
def test_malformed(loop: asyncio.AbstractEventLoop, rest: bytes) -> None:
    with pytest.raises(Unanswered, match=r"malformed answer from 10\.0\.0\.1"):
        read(loop, HEAD + rest)


@pytest.mark.parametrize("wire", [
    b"", HEAD, b"\x12\x35" + HEAD[2:] + counts(0) + ASKED, HEAD[:2] + b"\x01\x80\0\1" + counts(0) + ASKED,
    HEAD[:2] + b"\x91\x80\0\1" + counts(0) + ASKED, HEAD[:4] + b"\0\0" + counts(0), HEAD[:4] + b"\0\2" + counts(0) + ASKED * 2,
    HEAD + counts(0) + b"\3abc\7example\0\0\1\0\1", HEAD + counts(0) + ASKED[:-1] + b"\3",
    HEAD + counts(0) + ASKED[:-3] + b"\x1c\0\1",
])
def test_not_for_us(loop: asyncio.AbstractEventLoop, wire: bytes) -> None:
    with pytest.raises(_Foreign):
        read(loop, wire)


def test_pointers_to_pointers_end_soon(loop: asyncio.AbstractEventLoop) -> None:
    """Thousands of names, each through thousands of pointers, would hold the loop for seconds."""
    start = 12 + len(ASKED) + 12
    chain = POINTER + b"".join(struct.pack("!H", 0xC000 | (start + 2 * n)) for n in range(8000 - start))
    end = struct.pack("!H", 0xC000 | (start + len(chain) - 2))
    with pytest.raises(Unanswered):
        read(loop, HEAD + counts(3000) + ASKED + record(chain, 65280) + record(b"\1\2\3\4", owner=end) * 2999)


def test_other_classes_and_sections_do_not_count(loop: asyncio.AbstractEventLoop) -> None:
    wire = HEAD + counts(1, 1, 1) + ASKED + record(b"\1\2\3\4", rdclass=3) + record(b"\1\2\3\4") + record(b"\1\2\3\4")
    assert read(loop, wire)[0].records == {}


def test_the_upper_bits_of_the_code(loop: asyncio.AbstractEventLoop) -> None:
    """BADVERS (16) without its OPT record would be no error at all (RFC 6891 section 6.1.3)."""
    answer, _ = read(loop, HEAD + counts(0, 0, 1) + ASKED + record(b"", 41, b"\0", 0x01000000, 1232))
    assert (answer.rcode, answer.said) == (16, "BADVERS")
