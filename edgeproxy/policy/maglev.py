"""Consistent hashing by Maglev (Eisenbud et al., NSDI 2016, §3.4): a table from which every edgeproxy with the same
endpoints reads the same endpoint for the same key, and which changes little when an endpoint comes or goes.

Rules: every value depends on the addresses and weights alone, never on the process (`hash()`), the order in the
configuration or the machine's byte order.
"""
from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import cycle

SIZE = 65537
"""Places in a table: a prime, so that every step visits every place; ≥ 100 × endpoints keeps shares even to 1 %."""
_EMPTY = 0xFFFF
_MASK = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15

Table = Sequence[int]


def hash_key(data: bytes) -> int:
    """64 bits, the same in every process and on every machine.

    blake2b takes 0.35 µs. crc32 with a finaliser takes 0.3, and only 32 bits of it would be hash.
    """
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def rehash(key: int, attempt: int) -> int:
    """Another hash of the same key for each attempt (splitmix64)."""
    x = (key + attempt * _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@lru_cache(maxsize=32)
def table_for(addresses: tuple[str, ...], turns: tuple[int, ...]) -> Table:
    """`SIZE` indexes of `addresses`, which come sorted. `turns` is one round of turns among them, by weight: in each
    turn an endpoint takes the first free place in its own permutation, so its places are as many as its turns.

    About 50 ms; a reload that leaves the endpoints as they were finds the table remembered.
    """
    if len(addresses) >= _EMPTY:
        raise ValueError(f"{len(addresses)} endpoints are too many to hash over")
    places = []
    steps = []
    for address in addresses:
        digest = blake2b(address.encode(), digest_size=16).digest()
        places.append(int.from_bytes(digest[:8], "little") % SIZE)
        steps.append(int.from_bytes(digest[8:], "little") % (SIZE - 1) + 1)
    table = array("H", [_EMPTY]) * SIZE
    free = SIZE
    for i in cycle(turns):
        place, step = places[i], steps[i]
        while table[place] != _EMPTY:
            place += step
            if place >= SIZE:
                place -= SIZE
        table[place] = i
        places[i] = place
        free -= 1
        if not free:
            return table
    raise AssertionError("there are no turns")
