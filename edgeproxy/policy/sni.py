"""Which entry is for the server name that a client asks for: exact, then `*.parent` (one label), then the default.

Rules: pure; built once, two dictionary look-ups for each question, so ten thousand names are as fast as one. The one
look-up of certificates (`https`), of services (`tls`) and of `edgeproxy explain`. A wildcard stands for exactly one
label (RFC 6125 §6.4.3); wildcards within a label match nothing. Clients' names are folded, patterns are
in lower case already.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

EVERY = "*"
"""The pattern of what is taken when no other fits, and for clients that send no name."""


class NameTable(Generic[T]):
    """Patterns such as `a.example`, `*.example` and `*`, each with a value. Of those given twice the first counts."""

    __slots__ = ("_exact", "_wild", "_rest")

    def __init__(self, entries: Iterable[tuple[str, T]], default: T | None = None) -> None:
        """`default` is the value of `*`, unless an entry gives one."""
        self._exact: dict[str, tuple[str, T]] = {}
        self._wild: dict[str, tuple[str, T]] = {}
        self._rest: tuple[str, T] | None = None
        for pattern, value in entries:
            entry = (pattern, value)
            if pattern == EVERY:
                self._rest = self._rest or entry
            elif pattern.startswith("*."):
                self._wild.setdefault(pattern[2:], entry)
            else:
                self._exact.setdefault(pattern, entry)
        if self._rest is None and default is not None:
            self._rest = (EVERY, default)

    def match(self, name: str | None) -> tuple[str, T] | None:
        """The pattern that fits best, and its value. No name or an empty one: only `*` fits."""
        if name:
            folded = name.lower().removesuffix(".")
            found = self._exact.get(folded)
            if found is not None:
                return found
            label, _, parent = folded.partition(".")
            if label and parent:
                found = self._wild.get(parent)
                if found is not None:
                    return found
        return self._rest

    def values(self) -> Iterator[T]:
        """Every value there is; one that several patterns have, several times."""
        for table in (self._exact, self._wild):
            for _, value in table.values():
                yield value
        if self._rest is not None:
            yield self._rest[1]

    def find(self, name: str | None) -> T | None:
        """The value alone."""
        found = self.match(name)
        return found[1] if found is not None else None


def covers(names: Collection[str], host: str) -> bool:
    """Whether a certificate with these names (lower case) is one for this host; addresses stand as they are.

    A set or frozenset makes it two look-ups. `host` is without port and, if it is an IPv6 address, without brackets.
    """
    folded = host.lower().removesuffix(".")
    if folded in names:
        return bool(folded)
    label, _, parent = folded.partition(".")
    return bool(label and parent) and f"*.{parent}" in names
