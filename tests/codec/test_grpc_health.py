"""The question and the answer of grpc.health.v1, byte by byte; expected bytes are protobuf's own."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.codec.grpc import code_word, encode_check, read_check, state_word


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize(("service", "message"), [
    ("", b""), ("a.B", b"\x0a\x03a.B"), ("é", b"\x0a\x02\xc3\xa9"), ("x" * 300, b"\x0a\xac\x02" + b"x" * 300)])
def test_the_question(service: str, message: bytes) -> None:
    assert encode_check(service) == framed(message)


@pytest.mark.parametrize(("message", "status"), [
    (b"", 0), (b"\x08\x01", 1), (b"\x08\x02", 2), (b"\x08\x01\x08\x02", 2), (b"\x08\x81\x80\x00", 1),
    (b"\x12\x02hi\x08\x01", 1), (b"\x19" + bytes(8) + b"\x08\x01\x25" + bytes(4), 1), (b"\x10\x05\x08\x03", 3)])
def test_answers(message: bytes, status: int) -> None:
    assert read_check(framed(message)) == status


@pytest.mark.parametrize("body", [
    b"", b"\0\0\0\0", b"\0\0\0\0\2\x08", framed(b"\x08\x01") + b"x", b"\1\0\0\0\2\x08\x01", framed(b"\x08"), framed(b"\x08\x81"),
    framed(b"\x12\x09x"), framed(b"\x19\0"), framed(b"\x0b"), framed(b"\x08" + b"\xff" * 11), framed(b"\x25\0")])
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError, match="^the answer "):
        read_check(body)


@given(st.binary(max_size=60))
def test_any_bytes_end_in_a_number_or_a_refusal(message: bytes) -> None:
    for body in (message, framed(message)):
        try:
            assert state_word(read_check(body))
        except ValueError:
            pass


def test_words() -> None:
    assert [state_word(n) for n in (0, 1, 2, 3, 9)] == ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN", "status 9"]
    assert [code_word(v) for v in (b"0", b"5", b"12", b"16", b"17", b"x", b"")] == [
        "OK", "NOT_FOUND", "UNIMPLEMENTED", "UNAUTHENTICATED", "status 17", "status x", "status "]
