"""What is known of the names of one service: of each name and record type the state, when it is asked next, and how
that is shown to people.
"""
from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from edgeproxy.policy.endpoint import Target
from edgeproxy.policy.naming import ABSENT, NO_NEWS, SRV, Key, Manner, NameState, Pace
from edgeproxy.upstream.resolver import SrvRecord

LISTED = 5
"""Addresses in a line."""


def unusable(address: str) -> bool:
    """Whether nobody can be there: no address at all, many hosts, or an IPv6 address that needs a zone."""
    parsed = ip_address(address)
    return (parsed.is_unspecified or parsed.is_multicast or address == "255.255.255.255"
            or parsed.version == 6 and parsed.is_link_local)


def address_order(address: str) -> tuple[int, int]:
    parsed = ip_address(address)
    return parsed.version, int(parsed)


class Inquiry:
    """One name and record type."""

    __slots__ = ("state", "task", "queries", "server", "news", "faulty", "cut")

    def __init__(self, pace: Pace, now: float) -> None:
        self.state: NameState[Any] = NameState(pace, now)
        """Of addresses, or of SRV records."""
        self.task: asyncio.Task[None] | None = None
        self.queries: dict[str, int] = {}
        """By result."""
        self.server = ""
        """Who answered last."""
        self.news = NO_NEWS
        """What was not told yet."""
        self.faulty = False
        """A fault of ours was told, and it has not worked since."""
        self.cut = 0
        """Records of the last answer that were too many."""

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            self.task = None


class Name:
    __slots__ = ("key", "manner", "inquiries", "served", "gone_told")

    def __init__(self, key: Key, manner: Manner) -> None:
        self.key = key
        self.manner = manner
        self.inquiries: dict[str, Inquiry] = {}
        self.served: frozenset[SrvRecord] = frozenset()
        """The records in use: those known, or those before until the targets of the new ones were asked for."""
        self.gone_told = False

    @property
    def records(self) -> frozenset[SrvRecord]:
        return self.inquiries[SRV].state.known

    @property
    def heard(self) -> bool:
        return all(inquiry.state.heard for inquiry in self.inquiries.values())

    @property
    def gone(self) -> bool:
        """Whether it certainly has nothing of any type."""
        return all(inquiry.state.said == ABSENT for inquiry in self.inquiries.values())

    @property
    def error(self) -> str:
        """Why there is nothing; a failure says more than an absence."""
        states = sorted((q.state for q in self.inquiries.values()), key=lambda state: not state.failures)
        return next((state.error for state in states if state.error), "")

    def addresses(self, types: Iterable[str]) -> list[str]:
        found = {a for rdtype in types if rdtype in self.inquiries for a in self.inquiries[rdtype].state.known}
        return sorted(found, key=address_order)

    def close(self) -> None:
        for inquiry in self.inquiries.values():
            inquiry.close()


class NameView(NamedTuple):
    """One name and record type, for people."""

    name: str
    type: str
    """`A`, `AAAA` or `SRV`."""
    addresses: tuple[str, ...]
    """Of SRV: target and port."""
    ttl_left: float
    """Seconds, as the answer said; 0: it is over."""
    next_in: float
    """Seconds to the next question; 0: it is being asked."""
    failures: int
    """In a row."""
    chain: tuple[str, ...]
    stale: bool
    """What is shown is kept without DNS vouching for it."""
    stale_for: float
    """Seconds since DNS has; 0: it is not stale."""
    error: str
    """Why the last answer was no set; empty if it was one."""
    server: str
    queries: dict[str, int]
    """By result."""


# ---- words

def listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return " ".join(words[:LISTED]) + more


def written(targets: Sequence[Target]) -> str:
    words = []
    for each in targets:
        marks = [f"weight {each.weight}"] * (each.weight != 1) + ["backup"] * each.backup
        words.append(each.endpoint.address + (f" ({', '.join(marks)})" if marks else ""))
    return listed(words)


def _words(name: Name, types: Iterable[str]) -> list[str]:
    if name.key.srv:
        return sorted(f"{record.target.rstrip('.')}:{record.port}" for record in name.records)
    return name.addresses(types)


def shown(name: Name, types: Iterable[str]) -> str:
    return listed(_words(name, types))


def view(name: Name, rdtype: str, inquiry: Inquiry, now: float) -> NameView:
    state = inquiry.state
    return NameView(name.key.name, rdtype, tuple(_words(name, (rdtype,))), max(0.0, state.ttl_until - now),
                    max(0.0, state.next_at - now), state.failures, state.chain, state.stale,
                    now - state.found_at if state.stale else 0.0, state.error, inquiry.server, dict(inquiry.queries))
