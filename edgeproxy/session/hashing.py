"""What a hashing picker is keyed by: the client's address, or a part of the request."""
from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from edgeproxy.policy.affinity import cookie_value
from edgeproxy.policy.picker import hash_key
from edgeproxy.upstream.service import Service

if TYPE_CHECKING:
    from edgeproxy.session.record import ExchangeRecord


def client_key(client: str, ipv6_prefix: int = 128) -> int:
    """Key of a client address as printed; the same in every process. Of an IPv6 address only the first `ipv6_prefix`
    bits count: a client has a whole /64 to choose from, and changes its address within it (RFC 8981)."""
    if ipv6_prefix < 128 and ":" in client:
        try:
            packed = socket.inet_pton(socket.AF_INET6, client.partition("%")[0])
        except OSError:
            return hash_key(client.encode())
        return hash_key((int.from_bytes(packed, "big") >> 128 - ipv6_prefix).to_bytes(16, "big"))
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
            value = cookie_value(head.get(b"cookie") or b"", balance.name.encode())
        elif balance.source == "query":
            value = next((v.encode() for k, v in parse_qsl(head.query, keep_blank_values=True) if k == balance.name),
                         None)
    return client_key(exchange.client, balance.ipv6_prefix) if value is None else hash_key(value)
