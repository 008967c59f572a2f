"""Which endpoint a client is bound to (balancing.md, affinity): by its address, or by a cookie that it brings.

A binding is above any picker: it is asked first, and told what was picked when it knew nothing, or nothing usable.
"""
from __future__ import annotations

import os
from collections.abc import Iterable
from time import monotonic, time

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.config import model
from edgeproxy.policy.affinity import ClientTable, CookieSigner, cookie_value, default_secret

MACHINE_ID = "/etc/machine-id"


class Binding:
    """Of one service. Endpoints are addresses here; whether one is still there, and usable, is asked elsewhere."""

    __slots__ = ()

    def find(self, client: str, head: RequestHead | None) -> str | None:
        """The endpoint that the client was bound to."""
        raise NotImplementedError

    def look(self, client: str, head: RequestHead | None) -> str | None:
        """As `find`, for who only wants to know: nothing changes."""
        return self.find(client, head)

    def bind(self, client: str, address: str) -> None:
        """It is bound to `address` from now on."""

    def follow(self, addresses: Iterable[str]) -> None:
        """These are the endpoints now."""

    def __len__(self) -> int:
        """Clients that are remembered here."""
        return 0


class ClientBinding(Binding):
    __slots__ = ("table",)

    def __init__(self, config: model.ClientIp) -> None:
        self.table = ClientTable(config.timeout)

    def find(self, client: str, head: RequestHead | None) -> str | None:
        return self.table.find(client, monotonic())

    def look(self, client: str, head: RequestHead | None) -> str | None:
        return self.table.look(client, monotonic())

    def bind(self, client: str, address: str) -> None:
        self.table.pin(client, address, monotonic())

    def __len__(self) -> int:
        return len(self.table)


class CookieBinding(Binding):
    __slots__ = ("_name", "_signer", "_addresses")

    def __init__(self, service: str, config: model.AffinityCookie) -> None:
        self._name = config.name.encode()
        secret = config.secret.encode() if config.secret is not None else _secret()
        self._signer = CookieSigner(secret, service, config)
        self._addresses: dict[bytes, str] = {}

    def follow(self, addresses: Iterable[str]) -> None:
        self._addresses = {self._signer.token(address): address for address in addresses}

    def read(self, head: RequestHead) -> tuple[str, bool] | None:
        """The endpoint of the request's cookie, and whether the cookie is due for a new one."""
        field = head.get(b"cookie")
        value = cookie_value(field, self._name) if field else None
        known = self._signer.read(value, time()) if value else None
        if known is None:
            return None
        address = self._addresses.get(known[0])
        return None if address is None else (address, known[1])

    def find(self, client: str, head: RequestHead | None) -> str | None:
        known = self.read(head) if head is not None else None
        return None if known is None else known[0]

    def cookie(self, address: str, secure: bool) -> bytes:
        """Set-Cookie that binds to `address`."""
        return self._signer.header(address, time(), secure)


def _secret() -> bytes:
    """The same after a restart, so that no client loses its endpoint by one; another on each machine."""
    try:
        with open(MACHINE_ID, "rb") as file:
            machine = file.read(1024).strip()
    except OSError:
        machine = b""
    return default_secret(machine or None, os.urandom(32))


def build_binding(service: str, config: model.Affinity | None) -> Binding | None:
    if config is None:
        return None
    if config.cookie is not None:
        return CookieBinding(service, config.cookie)
    return ClientBinding(config.client_ip or model.ClientIp())
