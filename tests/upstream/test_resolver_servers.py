"""The resolver against nameservers as they are: knotd, an authority, and dnsmasq, which most networks have."""
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnspeers import Dnsmasq, Knot
from edgeproxy.config import model
from edgeproxy.upstream.resolver import Reply, Resolver, SrvRecord
from net.rig import soon

ZONE = ["web 5 A 10.0.0.1", "web 5 A 10.0.0.2", "web 7 AAAA 2001:db8::1", "six AAAA ::1", "alias 4 CNAME web",
        "chain 9 CNAME alias", "away CNAME www.other.example.", "dangling CNAME nothing", "loop CNAME pool",
        "pool CNAME loop", "_http._tcp 6 SRV 0 5 8080 web", "_http._tcp 6 SRV 1 0 8081 six", "half TXT hello",
        *(f"many 30 A 10.1.{n // 250}.{n % 250}" for n in range(200))]


@pytest.fixture
def knot(tmp_path: Path) -> Iterator[Knot]:
    server = Knot(tmp_path / "knot", "zone.example", ZONE, minimum=3)
    yield server
    server.stop()


@pytest.fixture
def dnsmasq(tmp_path: Path) -> Iterator[Dnsmasq]:
    server = Dnsmasq(tmp_path / "dnsmasq", "zone.example", ["10.0.0.1 web.zone.example", "10.0.0.2 web.zone.example",
                                                            "2001:db8::1 web.zone.example"],
                     ["cname=alias.zone.example,web.zone.example",
                      "srv-host=_http._tcp.zone.example,web.zone.example,8080,1,5"])
    yield server
    server.stop()


def resolver(server: Knot | Dnsmasq, folder: Path) -> Resolver:
    (folder / "resolv.conf").write_text("search zone.example\noptions attempts:1\n")
    return Resolver(asyncio.get_running_loop(), model.Resolver((server.nameserver,)), str(folder / "resolv.conf"))


def test_knot(knot: Knot, tmp_path: Path) -> None:
    async def main() -> None:
        ask = resolver(knot, tmp_path)
        where = str(knot)
        web = await ask.addresses("web", "A")
        assert (web.kind, set(web.records), web.ttl) == ("found", {"10.0.0.1", "10.0.0.2"}, 5)
        assert await ask.addresses("WEB.zone.example", "AAAA") == Reply("found", ("2001:db8::1",), 7, (), "", where)
        chain = await ask.addresses("chain.zone.example.", "A")
        assert (set(chain.records), chain.ttl) == ({"10.0.0.1", "10.0.0.2"}, 4)
        assert chain.chain == ("alias.zone.example", "web.zone.example")
        assert len((await ask.addresses("many.zone.example.", "A")).records) == 200  # over TCP
        services = await ask.services("_http._tcp.zone.example.")
        assert set(services.records) == {SrvRecord(0, 5, 8080, "web.zone.example"), SrvRecord(1, 0, 8081, "six.zone.example")}
        assert await ask.addresses("none.zone.example.", "A") == Reply("absent", (), 3, (), "no such name", where)
        assert await ask.addresses("half.zone.example.", "A") == Reply("absent", (), 3, (), "no address", where)
        assert await ask.addresses("six.zone.example.", "A") == Reply("absent", (), 3, (), "no address", where)
        dangling = await ask.addresses("dangling.zone.example.", "A")
        assert (dangling.kind, dangling.why, dangling.ttl) == ("absent", "no such name", 3)
        assert (await ask.addresses("loop.zone.example.", "A")).why == "CNAME loop"
        away = await ask.addresses("away.zone.example.", "A")  # an authority does not follow it, and refuses what is not its
        assert (away.kind, away.chain, away.why) == ("failed", ("www.other.example",), f"REFUSED from {where}")

    asyncio.run(soon(main()))


def test_knot_changes_its_zone(knot: Knot, tmp_path: Path) -> None:
    async def main() -> None:
        ask = resolver(knot, tmp_path)
        knot.change(["web 5 A 10.0.0.9"])
        assert (await ask.addresses("web", "A")).records == ("10.0.0.9",)
        knot.change([])
        assert (await ask.addresses("web.zone.example.", "A")).kind == "absent"
        knot.stop()
        assert (await ask.addresses("web", "A")).why == f"{knot}: connection refused"

    asyncio.run(soon(main()))


def test_dnsmasq(dnsmasq: Dnsmasq, tmp_path: Path) -> None:
    async def main() -> None:
        ask = resolver(dnsmasq, tmp_path)
        web = await ask.addresses("web", "A")
        assert (set(web.records), web.ttl) == ({"10.0.0.1", "10.0.0.2"}, 5)
        assert (await ask.addresses("web", "AAAA")).records == ("2001:db8::1",)
        alias = await ask.addresses("alias", "A")
        assert (set(alias.records), alias.chain) == ({"10.0.0.1", "10.0.0.2"}, ("web.zone.example",))
        assert (await ask.services("_http._tcp")).records == (SrvRecord(1, 5, 8080, "web.zone.example"),)
        assert (await ask.addresses("none.zone.example.", "A")).why == "no such name"
        assert (await ask.addresses("elsewhere.example.", "A")).why == f"REFUSED from {dnsmasq}"
        dnsmasq.change(["10.0.0.7 web.zone.example"])
        assert (await ask.addresses("web", "A")).records == ("10.0.0.7",)

    asyncio.run(soon(main()))
