"""What a hashing picker is keyed by: the client's address, or a part of the request."""
from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from edgeproxy.policy.picker import hash_key
from edgeproxy.upstream.service import Service

if TYPE_CHECKING:
    from edgeproxy.session.record import ExchangeRecord


def client_key(client: str) -> int:
    """Key of a client address as printed; the same in every process."""
    return hash_key(client.encode())


def exchange_key(exchange: ExchangeRecord, service: Service) -> int:
    """Key of a request. One that lacks the header, cookie or parameter is keyed by the client's address."""
    balance = service.config.balance
    head = exchange.head
    value: bytes | None = None
    if balance.kind == "hash" and head is not None:
        if balance.source == "path":
            value = head.path.encode("latin-1", "replace")
        elif balance.source == "header":
            value = head.get(balance.name.lower().encode())
        elif balance.source == "cookie":
            value = _cookie(head.get(b"cookie") or b"", balance.name.encode())
        elif balance.source == "query":
            value = next((v.encode() for k, v in parse_qsl(head.query, keep_blank_values=True) if k == balance.name),
                         None)
    return client_key(exchange.client) if value is None else hash_key(value)


def _cookie(header: bytes, name: bytes) -> bytes | None:
    for pair in header.split(b";"):
        key, equals, value = pair.strip().partition(b"=")
        if equals and key == name:
            return value
    return None
