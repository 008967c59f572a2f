"""What a hashing picker is keyed by."""
from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from edgeproxy.config import model
from edgeproxy.policy.picker import hash_key
from edgeproxy.session.hashing import client_key, exchange_key
from fakes import Asker, World, back
from net.rig import Refusing


@pytest.fixture
def key() -> Iterator[object]:
    """The key of a request's head for a balance."""
    def keyed(balance: model.Balance, target: str = "/", fields: str = "", client: str = "192.0.2.7") -> int:
        async def main() -> int:
            place = Refusing()
            async with World((place,), service=back(place, balance=balance)) as world:
                asker = Asker(world)
                exchange = asker.ask(f"GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode("latin-1"), client)
                key = exchange_key(exchange, world.service)
                exchange.client_gone()
                return key

        return asyncio.run(main())

    yield keyed


CLIENT = hash_key(b"192.0.2.7")


@pytest.mark.parametrize(("source", "name", "target", "fields", "value"), [
    ("header", "X-User", "/", "x-user: ann\r\n", b"ann"),
    ("header", "X-User", "/", "X-Users: ann\r\n", None),
    ("header", "X-User", "/", "X-User:\r\n", b""),
    ("cookie", "id", "/", "Cookie: a=b; id=7; c=d\r\n", b"7"),
    ("cookie", "id", "/", "Cookie: a=b\r\nCookie: id=8\r\n", b"8"),
    ("cookie", "id", "/", "Cookie: id=1; id=2\r\n", b"1"),
    ("cookie", "id", "/", "Cookie: id=\r\n", b""),
    ("cookie", "id", "/", "Cookie: idx=9; xid=9; id\r\n", None),
    ("cookie", "id", "/", "Cookie: id=a=b\r\n", b"a=b"),
    ("query", "q", "/?a=1&q=2", "", b"2"),
    ("query", "q", "/?q=%61+b", "", b"a b"),
    ("query", "q", "/?q=", "", b""),
    ("query", "q", "/?qq=1", "", None),
    ("query", "q", "/?q=1&q=2", "", b"1"),
    ("query", "q", "/?q=%ff", "", "�".encode()),
    ("path", "", "/a/../b?x=1", "", b"/b"),
])
def test_the_key_is_what_was_asked_for_or_the_client(key: object, source: str, name: str, target: str, fields: str,
                                                    value: bytes | None) -> None:
    balance = model.Balance("hash", source, name)  # type: ignore[arg-type]
    assert key(balance, target, fields) == (CLIENT if value is None else hash_key(value))  # type: ignore[operator]


def test_source_hash_is_the_clients_address(key: object) -> None:
    balance = model.Balance("source-hash")
    assert key(balance, "/x", "X-User: ann\r\n") == CLIENT == client_key("192.0.2.7")  # type: ignore[operator]
    assert key(balance, client="2001:db8::1") == client_key("2001:db8::1") != CLIENT  # type: ignore[operator]
