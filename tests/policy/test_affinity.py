"""Affinity: the table of clients, and the cookie: what it holds, how long, and what is refused."""
from __future__ import annotations

import tracemalloc
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.config import model
from edgeproxy.policy.affinity import SKEW, ClientTable, CookieSigner, cookie_value, default_secret

A, B = "10.0.0.1:80", "10.0.0.2:80"
NOW = 1_790_000_000.0


# ---- the table

def test_a_client_keeps_its_endpoint_while_it_comes_back() -> None:
    table = ClientTable(10.0)
    table.pin("c", A, 0.0)
    for now in (9.0, 18.0, 27.9):
        assert table.find("c", now) == A
    assert table.find("c", 37.9) is None and len(table) == 0


def test_who_is_not_bound() -> None:
    table = ClientTable(10.0)
    table.pin("c", A, 0.0)
    assert table.find("d", 0.0) is None
    table.forget("c")
    table.forget("c")
    assert table.find("c", 0.0) is None


def test_bound_anew() -> None:
    table = ClientTable(10.0)
    table.pin("c", A, 0.0)
    table.pin("c", B, 1.0)
    assert table.find("c", 10.5) == B and len(table) == 1


def test_the_one_away_the_longest_goes_first() -> None:
    table = ClientTable(1000.0, limit=3)
    for at, client in enumerate("abc"):
        table.pin(client, A, at)
    table.find("a", 5.0)
    table.pin("d", A, 6.0)
    assert [table.find(c, 7.0) for c in "abcd"] == [A, None, A, A]


def test_those_out_of_time_go_by_themselves() -> None:
    table = ClientTable(10.0)
    for i in range(100):
        table.pin(f"old {i}", A, 0.0)
    for i in range(50):
        table.pin(f"new {i}", A, 11.0)
    assert len(table) == 50


def test_another_timeout_counts_for_those_in_the_table() -> None:
    table = ClientTable(10.0)
    table.pin("c", A, 0.0)
    table.pin("d", A, 0.0)
    table.timeout = 100.0
    assert table.find("c", 50.0) == A
    table.timeout = 5.0
    assert table.find("d", 50.0) is None and table.find("c", 54.0) == A


@given(st.lists(st.tuples(st.sampled_from(["find", "pin", "forget"]), st.integers(0, 9), st.floats(0, 4)),
                max_size=80))
def test_as_a_plain_model(steps: list[tuple[str, int, float]]) -> None:
    table, limit, timeout, now = ClientTable(6.0, 5), 5, 6.0, 0.0
    plain: OrderedDict[str, float] = OrderedDict()
    for what, who, passed in steps:
        now += passed
        client = f"192.0.2.{who}"
        for old in [c for c, at in plain.items() if now - at >= timeout]:
            del plain[old]
        if what == "forget":
            table.forget(client)
            plain.pop(client, None)
        elif what == "find":
            assert (table.find(client, now) is not None) == (client in plain)
            if client in plain:
                plain[client] = now
                plain.move_to_end(client)
        else:
            table.pin(client, A, now)
            plain[client] = now
            plain.move_to_end(client)
            while len(plain) > limit:
                plain.popitem(last=False)
        assert len(plain) <= len(table) <= limit


def test_it_stays_small_however_many_come() -> None:
    tracemalloc.start()
    try:
        table = ClientTable(1000.0, limit=5000)
        before = tracemalloc.get_traced_memory()[0]
        for i in range(40_000):
            table.pin(f"198.{i // 65536}.{i // 256 % 256}.{i % 256}", A, i / 1000)
        size = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(table) == 5000
    assert size / 5000 < 450


# ---- the cookie

def signer(secret: bytes = b"secret", service: str = "api", ttl: float = 3600.0) -> CookieSigner:
    return CookieSigner(secret, service, model.AffinityCookie("edge", ttl))


def value(address: str = A, now: float = NOW) -> bytes:
    return signer().issue(address, now).encode()


def test_read_gives_the_endpoints_token() -> None:
    one = signer()
    assert one.read(value(), NOW) == (one.token(A), False)
    assert one.token(A) != one.token(B)


def test_another_process_with_the_secret_reads_it_too() -> None:
    assert signer().read(signer().issue(A, NOW).encode(), NOW) == (signer().token(A), False)


@pytest.mark.parametrize("other", [signer(secret=b"Secret"), signer(service="web")])
def test_good_for_one_secret_and_service_only(other: CookieSigner) -> None:
    assert other.read(value(), NOW) is None
    assert other.token(A) != signer().token(A)


def test_the_time_is_enforced_and_a_new_one_due_after_half_of_it() -> None:
    one = signer()
    token = one.token(A)
    found = [one.read(value(), NOW + age) for age in (0, 1799, 1800, 3599, 3600, 1e9)]
    assert found == [(token, False), (token, False), (token, True), (token, True), None, None]


def test_without_a_time_it_holds_and_is_never_due() -> None:
    one = signer(ttl=0.0)
    assert one.read(value(), NOW + 1e8) == (one.token(A), False)


def test_a_clock_that_is_a_little_behind() -> None:
    assert signer().read(value(), NOW - SKEW) == (signer().token(A), False)
    assert signer().read(value(), NOW - SKEW - 1) is None
    assert signer(ttl=0.0).read(value(), NOW - SKEW - 1) is None


def test_the_value_is_of_cookie_characters_and_tells_nothing_of_the_address() -> None:
    for i in range(200):
        address = f"10.1.2.{i}:8080"
        text = signer().issue(address, NOW + i)
        assert len(text) == 44 and text.replace("-", "a").replace("_", "a").isalnum()
        raw = urlsafe_b64decode(text)
        assert not any(part in raw for part in (address.encode(), b"10.1", bytes([10, 1, 2, i])))


def test_every_bit_is_signed() -> None:
    raw = urlsafe_b64decode(value())
    for bit in range(8 * len(raw)):
        forged = bytearray(raw)
        forged[bit // 8] ^= 1 << bit % 8
        assert signer().read(urlsafe_b64encode(bytes(forged)), NOW) is None


def test_the_token_of_one_under_the_signature_of_another() -> None:
    a, b = urlsafe_b64decode(value(A)), urlsafe_b64decode(value(B))
    assert signer().read(urlsafe_b64encode(a[:12] + b[12:]), NOW) is None


@pytest.mark.parametrize("bad", [b"", b"=", b"edge", b"A" * 44, b"A" * 43, b"=" * 44, b"\xff" * 44, b"\0" * 44,
                                 b" " * 44, b"A" * 100_000])
def test_malformed(bad: bytes) -> None:
    assert signer().read(bad, NOW) is None


def test_one_spelling_only() -> None:
    for i in range(100):
        good = signer().issue(A, NOW + i).encode()
        for bad in (good.replace(b"-", b"+").replace(b"_", b"/"), good + b"=", good + b"A", b" " + good[1:],
                    good[:-1], good[:22] + b"\n" + good[22:], good[:-1] + b"=", good[:-2] + b"=="):
            if bad != good:
                assert signer().read(bad, NOW) is None


@given(st.one_of(st.binary(max_size=80), st.binary(min_size=44, max_size=44), st.text(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/= ", min_size=44, max_size=44).map(str.encode)))
def test_whatever_comes_is_no_exception(raw: bytes) -> None:
    assert signer().read(raw, NOW) is None


@given(st.integers(0, 43), st.integers(0, 255))
def test_one_byte_changed(at: int, byte: int) -> None:
    good = value()
    bad = good[:at] + bytes([byte]) + good[at + 1:]
    assert (signer().read(bad, NOW) is not None) == (bad == good)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15))
def test_any_time_can_be_issued(now: float) -> None:
    assert len(signer(ttl=0.0).issue(A, now)) == 44


def test_the_field() -> None:
    text = signer().issue(A, NOW).encode()
    assert signer().header(A, NOW, True) == (
        b"edge=" + text + b"; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure")
    assert signer(ttl=0.0).header(A, NOW, False) == b"edge=" + text + b"; Path=/; HttpOnly; SameSite=Lax"
    assert b"; Max-Age=1;" in signer(ttl=0.5).header(A, NOW, False)


@pytest.mark.parametrize(("header", "found"), [
    (b"edge=1", b"1"), (b"a=b; edge=1; c=d", b"1"), (b"a=b;edge=1", b"1"), (b"edge=1; edge=2", b"1"),
    (b"edge=", b""), (b'edge="1"', b"1"), (b'edge=""', b""), (b'edge="', b'"'), (b"edge=a=b", b"a=b"),
    (b"", None), (b"edge", None), (b"edges=1; ledge=2", None), (b"Edge=1", None), (b"a=edge", None),
    (b"edge; edge=3", b"3"), (b";;; edge=1 ;", b"1"), (b"=edge", None),
])
def test_the_first_cookie_of_the_name(header: bytes, found: bytes | None) -> None:
    assert cookie_value(header, b"edge") == found


# ---- the default secret

MACHINE = b"0123456789abcdef0123456789abcdef\n"


def test_the_same_on_the_same_machine_and_not_its_id() -> None:
    one = default_secret(MACHINE, b"x" * 32)
    assert one == default_secret(MACHINE.strip(), b"y" * 32) and len(one) == 32
    assert one != default_secret(b"1" * 32, b"x" * 32)
    assert bytes.fromhex(MACHINE.decode()) not in one


@pytest.mark.parametrize("missing", [None, b"", b"\n", b"uninitialized\n", b"0" * 32, b"abc", b"\xff" * 32, b"g" * 32])
def test_without_an_id_it_is_random(missing: bytes | None) -> None:
    one = default_secret(missing, b"x" * 32)
    assert one == default_secret(None, b"x" * 32) != default_secret(missing, b"y" * 32)
