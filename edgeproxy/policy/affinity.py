"""Which endpoint a client is bound to: a table of client addresses, or a signed cookie that the client carries.

Rules: nothing here knows whether an endpoint can be used; its user asks the picker where the bound one can't, and binds
the client anew. The table never grows beyond its limit. What a client sends is worth nothing until its signature fits;
a bad value is as none, never an exception. A cookie names an endpoint by a keyed hash, never by its address.
"""
from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections import OrderedDict
from hmac import compare_digest, digest
from math import ceil
from typing import Final

from edgeproxy.config import model

__all__ = ["MOST_CLIENTS", "SKEW", "ClientTable", "CookieSigner", "cookie_value", "default_secret"]

MOST_CLIENTS: Final = 100_000
SKEW: Final = 300.0
"""Seconds that a cookie may be from the future: proxies that share a secret need not agree on the time exactly."""

_TOKEN: Final = 12
_TIME: Final = 5
_SIGNED: Final = _TOKEN + _TIME
_SIGNATURE: Final = 16
_LENGTH: Final = (_SIGNED + _SIGNATURE) // 3 * 4  # 33 bytes are 44 characters, with neither padding nor spare bits
_LATEST: Final = 2 ** (8 * _TIME) - 1
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/   ")  # one spelling only: what is not of the URL alphabet is refused
_MISSES: Final = 64
"""Ends of other cookies' names, or parts of values, that are looked at before the cookie is taken for missing."""
_LABEL: Final = b"edgeproxy affinity "


# ---- by address

class ClientTable:
    """Client address to endpoint address, for as long as the client comes back within `timeout` (as sessionAffinity:
    ClientIP of Kubernetes, where each connection begins the time anew).

    Every operation is O(1). The order is that of the last use, so those out of time are in front, whatever `timeout`
    is at the moment; each call takes up to two of them away. About 300 bytes an entry.
    """

    __slots__ = ("timeout", "_limit", "_used")

    def __init__(self, timeout: float, limit: int = MOST_CLIENTS) -> None:
        self.timeout = timeout
        """Seconds; may be changed at any time, and then counts for what is in the table too."""
        self._limit = max(limit, 1)
        # OrderedDict, not dict: to find the first key of a dict takes passing over all that were deleted before it.
        self._used: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def find(self, client: str, now: float) -> str | None:
        """The endpoint's address, its time beginning anew; None: not bound, or not any more."""
        used = self._used
        entry = used.get(client)
        if entry is None:
            return None
        address, at = entry
        if now - at >= self.timeout:
            del used[client]
            self._shed(now)
            return None
        used[client] = (address, now)
        used.move_to_end(client)
        return address

    def look(self, client: str, now: float) -> str | None:
        """As `find`, but nothing changes."""
        address, at = self._used.get(client, ("", now))
        return address if address and now - at < self.timeout else None

    def pin(self, client: str, address: str, now: float) -> None:
        """Bind a client, or bind it anew. The one that was away the longest goes if there are too many."""
        used = self._used
        used[client] = (address, now)
        used.move_to_end(client)
        self._shed(now)
        if len(used) > self._limit:
            used.popitem(last=False)

    def forget(self, client: str) -> None:
        self._used.pop(client, None)

    def _shed(self, now: float) -> None:
        """Drop up to two that are out of time: more than one comes in by a call, so they can't pile up."""
        used = self._used
        for _ in range(2):
            if not used:
                return
            first = next(iter(used))
            if now - used[first][1] < self.timeout:
                return
            del used[first]


# ---- by cookie

class CookieSigner:
    """Makes and reads the values of one service's cookie.

    A value is base64url of: token (12 bytes, which endpoint), time of issue (5 bytes, seconds since 1970), signature
    (16 bytes of HMAC-SHA256 over both). The keys of token and signature are made of the secret and the service's name,
    so a value is good for one service only, and the same in every proxy that has the secret.
    """

    __slots__ = ("_name", "_ttl", "_token_key", "_signing_key")

    def __init__(self, secret: bytes, service: str, config: model.AffinityCookie) -> None:
        """`secret`: `config.secret`, or else `default_secret`."""
        self._name = config.name.encode()
        self._ttl = config.ttl
        self._token_key = digest(secret, _LABEL + b"token\0" + service.encode(), "sha256")
        self._signing_key = digest(secret, _LABEL + b"signature\0" + service.encode(), "sha256")

    def token(self, address: str) -> bytes:
        """What stands for an endpoint: always the same, and without the secret neither read nor guessed."""
        return digest(self._token_key, address.encode(), "sha256")[:_TOKEN]

    def issue(self, address: str, wall_now: float) -> str:
        """A value that binds to an endpoint from now on. `wall_now`: seconds since 1970."""
        at = min(max(int(wall_now), 0), _LATEST)
        signed = self.token(address) + at.to_bytes(_TIME, "big")
        value = b2a_base64(signed + self._sign(signed), newline=False)
        return value.translate(_TO_URL).decode("ascii")

    def read(self, value: bytes, wall_now: float) -> tuple[bytes, bool] | None:
        """The token of a value that was issued here and is in time, and whether half of its time has passed, so that
        a new one is due. None for anything else."""
        if len(value) != _LENGTH:
            return None
        try:
            raw = a2b_base64(value.translate(_FROM_URL), strict_mode=True)
        except ValueError:
            return None
        signed = raw[:_SIGNED]
        if not compare_digest(raw[_SIGNED:], self._sign(signed)):
            return None
        age = wall_now - int.from_bytes(signed[_TOKEN:], "big")
        if age < -SKEW or self._ttl and age >= self._ttl:
            return None
        return signed[:_TOKEN], bool(self._ttl) and 2 * age >= self._ttl

    def header(self, address: str, wall_now: float, secure: bool) -> bytes:
        """The value of a Set-Cookie field (RFC 6265 §4.1). `secure`: the client came by https."""
        parts = [self._name + b"=" + self.issue(address, wall_now).encode("ascii"), b"Path=/"]
        if self._ttl:
            parts.append(b"Max-Age=%d" % ceil(self._ttl))
        parts += [b"HttpOnly", b"SameSite=Lax"]
        if secure:
            parts.append(b"Secure")
        return b"; ".join(parts)

    def _sign(self, signed: bytes) -> bytes:
        return digest(self._signing_key, signed, "sha256")[:_SIGNATURE]


def cookie_value(header: bytes, name: bytes) -> bytes | None:
    """The value of the first cookie of that name in a Cookie field, without the quotes it may have (RFC 6265 §4.1.1);
    None: there is none. Names are told apart by case.

    It is searched for, not split: 64 KiB of semicolons cost a client of HTTP/2 next to nothing, and 7 ms here.
    """
    mark = name + b"="
    at = header.find(mark)
    for _ in range(_MISSES):
        if at < 0:
            return None
        before = header[max(0, at - 4):at].rstrip(b" \t")
        if before.endswith(b";") or at < 4 and not before:
            end = header.find(b";", at)
            value = header[at + len(mark):end if end >= 0 else len(header)].strip(b" \t")
            return value[1:-1] if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"') else value
        at = header.find(mark, at + 1)
    return None


def default_secret(machine_id: bytes | None, random: bytes) -> bytes:
    """A secret for who has configured none: made from the machine's id, so that cookies outlive a restart, in a way
    that does not disclose the id (as sd_id128_get_machine_app_specific). Every user of the machine can find it out;
    what it guards is only which endpoint a client gets.

    `machine_id`: what /etc/machine-id holds (machine-id(5): 32 hexadecimal digits), None if it could not be read. One
    that is none, "uninitialized" say, is as good as missing. `random`: at least 16 bytes, used then.
    """
    try:
        number = bytes.fromhex((machine_id or b"").strip().decode("ascii"))
    except ValueError:
        number = b""
    usable = len(number) == 16 and any(number)
    return digest(number if usable else random, _LABEL + b"secret", "sha256")
