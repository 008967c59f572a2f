"""Names to addresses: which absolute names a name may stand for, which nameserver is asked for them, what the answers
come to. One question to one server is question.py's; when to ask again is who asks's.

Absence (NXDOMAIN, no record of the type) and failure (nobody could say) are never taken for one another. No threads,
and the C library's resolver is not used. dnspython is imported by the first question, not before.
"""
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from edgeproxy.config import model
from edgeproxy.upstream.hosts import HostsFile, ResolvConf, ResolvConfFile

if TYPE_CHECKING:
    from edgeproxy.upstream.question import Answer

LINKS: Final = 16
"""Of a CNAME chain, at most."""
NEGATIVE_TTL: Final = 5.0
"""Seconds an absence holds when no SOA says how long."""
AT_ONCE: Final = 64
"""Questions under way: a thousand names at the start must not flood a nameserver, nor take all descriptors."""
PATIENCE: Final = 2.0
"""Seconds for one question where nobody says how long."""
_TYPES: Final = {"A": 1, "AAAA": 28, "SRV": 33}
_NO_NAME, _NO_ADDRESS, _NO_SERVICE = "no such name", "no address", "no SRV record"
_NOT_A_NAME: Final = "not a DNS name"


class SrvRecord(NamedTuple):
    priority: int
    weight: int
    port: int
    target: str
    """In lower case, without the last dot."""


@dataclass(frozen=True, slots=True)
class Reply:
    kind: Literal["found", "absent", "failed"]
    records: tuple[str, ...] | tuple[SrvRecord, ...] = ()
    """Addresses, or services; in the order of the answer, none twice."""
    ttl: float = 0.0
    """Seconds: the least of the chain; of an absence its negative TTL (RFC 2308)."""
    chain: tuple[str, ...] = ()
    """What the name is an alias of: the targets of its CNAMEs one after the other."""
    why: str = ""
    """Why nothing was found: `no such name`, `timeout of 10.0.0.1, SERVFAIL from 10.0.0.2` …"""
    server: str = ""
    """Who answered last; "" if nobody did."""
    silent: bool = False
    """It failed because nobody answered anything."""


class Resolver:
    """What the system's files and the configuration say about resolving, now; every call looks anew."""

    __slots__ = ("_loop", "_config", "_conf", "_hosts", "_places")

    def __init__(self, loop: asyncio.AbstractEventLoop, config: model.Resolver,
                 resolv_conf: str = "/etc/resolv.conf", hosts: str = "/etc/hosts") -> None:
        self._loop = loop
        self._config = config
        self._conf = ResolvConfFile(resolv_conf)
        self._hosts = HostsFile(hosts)
        self._places = asyncio.Semaphore(AT_ONCE)

    def apply(self, config: model.Resolver) -> None:
        """Questions under way end as they began."""
        self._config = config

    @property
    def config(self) -> model.Resolver:
        """What holds now; the bounds of the TTL in it are kept by who asks."""
        return self._config

    def hosts(self, name: str) -> tuple[str, ...]:
        """The addresses of `name` in /etc/hosts, v4 and v6, or the loopback for `localhost`; () if it is not there."""
        return self._hosts.addresses(name)

    async def addresses(self, name: str, rdtype: Literal["A", "AAAA"],
                        nameservers: tuple[model.Nameserver, ...] = ()) -> Reply:
        """The addresses of one family. `nameservers`, if any, are asked in place of those of the configuration, and
        these in place of resolv.conf's. Raises nothing but CancelledError."""
        return await _Lookup(self, rdtype, nameservers).run(name)

    async def services(self, name: str, nameservers: tuple[model.Nameserver, ...] = ()) -> Reply:
        """The SRV records (RFC 2782) but for those that say that there is no service. Raises as `addresses` does."""
        return await _Lookup(self, "SRV", nameservers).run(name)


class _Lookup:
    """One name and type, with what files and configuration said when it began."""

    __slots__ = ("_loop", "_places", "_conf", "_servers", "_timeout", "_type")

    def __init__(self, resolver: Resolver, rdtype: str, nameservers: tuple[model.Nameserver, ...]) -> None:
        conf, config = resolver._conf.now(), resolver._config
        self._loop = resolver._loop
        self._places = resolver._places
        self._conf: ResolvConf = conf
        self._servers = nameservers or config.nameservers or conf.nameservers
        self._timeout = time_for_one(config, conf)
        self._type = rdtype

    async def run(self, name: str) -> Reply:
        try:
            return await self._search(self._conf.candidates(name))
        except Exception as error:  # a fault of ours must not end what resolves the name again and again
            return Reply("failed", why=f"internal error: {error!r}")

    async def _search(self, candidates: Sequence[str]) -> Reply:
        """The first candidate that is there. If none was found but one could not be asked, nobody knows: failed.

        As in the C library a candidate that has the name but not this type does not end the search, unless it has
        addresses of the other family: else the families of a name could come from two hosts. When nobody answers at
        all, the others are not asked.
        """
        failed: Reply | None = None
        absent: Reply | None = None
        for number, candidate in enumerate(candidates, 1):
            reply = await self._resolve(candidate, self._type)
            if reply.why == _NOT_A_NAME:  # too long with this domain
                continue
            if reply.kind == "absent" and reply.why == _NO_ADDRESS and number < len(candidates):
                other = await self._resolve(candidate, "AAAA" if self._type == "A" else "A")
                if other.kind == "found":
                    return reply
                reply = other if other.kind == "failed" else reply
            if reply.kind == "found":
                return reply
            if reply.kind == "failed":
                failed = failed or reply
                if reply.silent:
                    break
            else:
                absent = _weaker(absent, reply)
        return failed or absent or Reply("failed", why=_NOT_A_NAME)

    async def _resolve(self, name: str, rdtype: str) -> Reply:
        """One absolute name, along its aliases, over as many answers as they need."""
        chain: list[str] = []
        ttl = inf
        asked = name.lower()
        while True:
            answered = await self._ask(asked, _TYPES[rdtype])
            if isinstance(answered, Reply):
                return replace(answered, chain=tuple(chain))
            at, ttl, looped = _follow(answered, asked, _TYPES[rdtype], chain, ttl, name.lower())
            server, aliases = answered.server, tuple(chain)
            if looped:
                return Reply("failed", chain=aliases, why=looped, server=server)
            own, records = answered.records.get((at, _TYPES[rdtype]), (0, []))
            denied = answered.rcode == 3
            if records and denied:
                return Reply("failed", chain=aliases, why=f"contradictory answer from {server}", server=server)
            if records and (usable := _usable(records)):
                return Reply("found", usable, min(ttl, own), aliases, "", server)
            negative = own if records else answered.negative_ttl(at)
            if at != asked and not denied and negative is None:
                asked = at  # the server knows the alias, or holds it only; not what it stands for
                continue
            why = _NO_NAME if denied else _NO_SERVICE if rdtype == "SRV" else _NO_ADDRESS
            return Reply("absent", (), min(ttl, NEGATIVE_TTL if negative is None else negative), aliases, why, server)

    async def _ask(self, name: str, rdtype: int) -> Answer | Reply:
        """The first answer that says something, of the servers in turn; or why there is none."""
        from edgeproxy.upstream.question import Question, Unanswered, parsed

        absolute = parsed(name)
        if absolute is None:
            return Reply("failed", why=_NOT_A_NAME)
        faults: dict[model.Nameserver, str] = {}
        silent = True
        for _ in range(self._conf.attempts):
            for server in self._servers:
                try:
                    async with self._places:
                        answer = await Question(self._loop, server, absolute, rdtype).ask(self._timeout)
                    if not (fault := _fault(answer)):
                        return answer
                except Unanswered as unanswered:
                    fault = str(unanswered)
                    silent = silent and unanswered.silent
                else:
                    silent = False
                faults[server] = fault
        return Reply("failed", why=", ".join(faults.values()), silent=silent)


def time_for_one(config: model.Resolver, conf: ResolvConf) -> float:
    """Seconds for one question: the configuration's; resolv.conf's where that says nothing."""
    for seconds in (config.timeout, conf.timeout):
        if seconds is not None:
            return seconds
    return PATIENCE


def _fault(answer: Answer) -> str:
    """Why an answer says nothing about the name; "" if it does."""
    if answer.rcode not in (0, 3):
        return f"{answer.said} from {answer.server}"
    if answer.rcode == 0 and not answer.answers and not (answer.authoritative or answer.recursive):
        return f"{answer.server} does not resolve names for others"  # a referral is not an absence
    return ""


def _follow(answer: Answer, asked: str, rdtype: int, chain: list[str], ttl: float, first: str
            ) -> tuple[str, float, str]:
    """Along the aliases that the answer has: (where they end, the least TTL so far, what is wrong with them or "")."""
    at = asked
    while (at, rdtype) not in answer.records and (at, 5) in answer.records:
        own, targets = answer.records[at, 5]
        ttl = min(ttl, own)
        target = targets[0]
        assert isinstance(target, str)
        if target == first or target in chain:
            return at, ttl, "CNAME loop"
        if len(chain) == LINKS:
            return at, ttl, f"CNAME chain of more than {LINKS} links"
        chain.append(target)
        at = target
    return at, ttl, ""


def _usable(records: Sequence[object]) -> tuple[str, ...] | tuple[SrvRecord, ...]:
    if isinstance(records[0], str):
        return tuple(record for record in records if isinstance(record, str))
    services = (SrvRecord(*record) for record in records if isinstance(record, tuple))
    return tuple(service for service in services if service.port and service.target != ".")


def _weaker(before: Reply | None, reply: Reply) -> Reply:
    """Of several absences: a name that is there without addresses says more than none; the least TTL holds for all."""
    if before is None:
        return reply
    told = before if before.why != _NO_NAME or reply.why == _NO_NAME else reply
    return replace(told, ttl=min(before.ttl, reply.ttl))
