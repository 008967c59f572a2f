"""The resolver against a nameserver that does what a script says: each fault, what it comes to and why."""
from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

import dnspeers as peer
from dnspeers import ScriptedDns
from edgeproxy.config import model
from edgeproxy.upstream.hosts import ResolvConf
from edgeproxy.upstream.resolver import Reply, Resolver, SrvRecord, time_for_one
from net.rig import Run, both_loops, soon

SHORT = 0.15
"""Seconds for a question that will not be answered."""
WEB = peer.addresses("10.0.0.1")


class Place:
    """A resolver with files of its own; scripted servers a and b, asked in this order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.a, self.b = ScriptedDns(), ScriptedDns()
        self.servers: tuple[model.Nameserver, ...] = (self.a.nameserver,)
        self.conf("options attempts:1\n")
        self.timeout = 5.0

    def conf(self, text: str) -> None:
        (self.folder / "resolv.conf").write_text(text)

    def resolver(self) -> Resolver:
        return Resolver(asyncio.get_running_loop(), model.Resolver(self.servers, self.timeout),
                        str(self.folder / "resolv.conf"), str(self.folder / "hosts"))

    async def ask(self, name: str, rdtype: Literal["A", "AAAA"] = "A") -> Reply:
        return await soon(self.resolver().addresses(name, rdtype))

    def both(self) -> None:
        self.servers = (self.a.nameserver, self.b.nameserver)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.a.stop()
    place.b.stop()


# ---- answers

@both_loops
def test_addresses(run: Run, place: Place) -> None:
    place.a.says("web.example", "A", peer.addresses("10.0.0.2", "10.0.0.1", ttl=7))
    place.a.says("web.example", "AAAA", peer.addresses("2001:db8::1", ttl=9))

    async def main() -> None:
        where = str(place.a)
        assert await place.ask("Web.Example.") == Reply("found", ("10.0.0.2", "10.0.0.1"), 7, (), "", where)
        assert await place.ask("web.example", "AAAA") == Reply("found", ("2001:db8::1",), 9, (), "", where)

    run(main)
    assert [asked.payload for asked in place.a.asked] == [1232, 1232]
    assert place.a.count(transport="tcp") == 0


@both_loops
def test_a_nameserver_over_ipv6(run: Run, place: Place) -> None:
    with ScriptedDns("::1") as six:
        six.says("web.example", "A", peer.truncated(WEB))
        place.servers = (six.nameserver,)

        async def main() -> None:
            assert (await place.ask("web.example.")).records == ("10.0.0.1",)
            place.servers = (model.Nameserver("::1%lo", six.port),)
            assert (await place.ask("web.example.")).records == ("10.0.0.1",)
            place.servers = (model.Nameserver("fe80::1%nowhere", six.port),)
            assert "nowhere" in (await place.ask("web.example.")).why

        run(main)
    assert place.a.asked == []


def test_ids_and_ports_are_random(place: Place) -> None:
    place.a.says("web.example", "A", WEB)

    async def main() -> None:
        resolver = place.resolver()
        for _ in range(20):
            assert (await resolver.addresses("web.example.", "A")).kind == "found"

    asyncio.run(main())
    assert len({asked.id for asked in place.a.asked}) >= 18
    assert len({asked.port for asked in place.a.asked}) >= 15
    steps = {later.port - before.port for before, later in zip(place.a.asked, place.a.asked[1:], strict=False)}
    assert len(steps) > 5


def run_one(place: Place, name: str = "web.example.") -> Reply:
    return asyncio.run(place.ask(name))


def test_ttls(place: Place) -> None:
    for ttl, said in ((0, 0), (1, 1), (2**31 - 1, 2**31 - 1), (2**31, 0), (2**32 - 1, 0)):  # RFC 2181 section 8
        place.a.says("web.example", "A", peer.altered(
            peer.addresses("10.0.0.1", ttl=0x01020304),
            lambda wire, ttl=ttl: wire.replace(b"\1\2\3\4", ttl.to_bytes(4, "big"))))  # type: ignore[misc]
        assert run_one(place).ttl == said


def test_the_case_of_names_means_nothing(place: Place) -> None:
    place.a.says("web.example", "A", peer.upper_case(
        peer.records("web.example. 60 CNAME Other.Example.", "other.example. 60 A 10.0.0.1")))
    assert run_one(place) == Reply("found", ("10.0.0.1",), 60, ("other.example",), "", str(place.a))


def test_only_what_was_asked_for_is_taken(place: Place) -> None:
    place.a.says("web.example", "A", peer.records(
        "web.example. 60 A 10.0.0.1", "evil.example. 1 A 6.6.6.6", "web.example. 2 AAAA ::6", "web.example. 3 TXT hello",
        "web.example. 60 A 10.0.0.1"))
    assert run_one(place) == Reply("found", ("10.0.0.1",), 60, (), "", str(place.a))


# ---- absence

@pytest.mark.parametrize(("act", "why", "ttl"), [
    (peer.nxdomain("example", 30, 7), "no such name", 7),
    (peer.nxdomain("example", 4, 7), "no such name", 4),
    (peer.nxdomain(".".join(["web", "example"]), 9, 9), "no such name", 9),
    (peer.nxdomain("other", 1, 1), "no such name", 5),  # that SOA is not of this name
    (peer.nxdomain(), "no such name", 5),
    (peer.nodata("example", 30, 7), "no address", 7),
    (peer.nodata("example", 30, 0), "no address", 0),
    (peer.nodata(), "no address", 5),
    (peer.records("web.example. 60 AAAA ::1"), "no address", 5),
])
def test_absence(place: Place, act: peer.Act, why: str, ttl: float) -> None:
    place.a.says("web.example", "A", act)
    assert run_one(place) == Reply("absent", (), ttl, (), why, str(place.a))


def test_an_absence_is_an_answer_of_any_server(place: Place) -> None:
    place.both()
    place.a.says("web.example", "A", peer.nxdomain())
    place.b.says("web.example", "A", WEB)
    assert run_one(place).kind == "absent"
    assert place.b.asked == []


def test_absence_at_the_end_of_a_chain(place: Place) -> None:
    link = peer.records("web.example. 20 CNAME gone.example.")
    place.a.says("web.example", "A", peer.nxdomain("example", 30, 30, link), peer.nodata("example", 30, 9, link))
    gone = run_one(place)
    assert gone == Reply("absent", (), 20, ("gone.example",), "no such name", str(place.a))
    assert run_one(place) == Reply("absent", (), 9, ("gone.example",), "no address", str(place.a))
    assert place.a.count("gone.example") == 0


# ---- failure

def mangled(act: peer.Act, at: int, byte: int) -> peer.Act:
    return peer.altered(act, lambda wire: wire[:at] + bytes([byte]) + wire[at + 1:])


FAULTS = {
    "SERVFAIL": (peer.servfail(), "SERVFAIL from {}"),
    "REFUSED": (peer.refused(), "REFUSED from {}"),
    "another code": (peer.refuses(9), "rcode 9 from {}"),
    "timeout": (peer.silence(), "timeout of {}"),
    "wrong id": (peer.wrong_id(WEB), "malformed answer from {}"),
    "wrong question": (peer.wrong_question(WEB), "malformed answer from {}"),
    "garbage": (peer.garbage(), "malformed answer from {}"),
    "one byte": (peer.garbage(1), "malformed answer from {}"),
    "a question": (mangled(WEB, 2, 0x01), "malformed answer from {}"),
    "compression loop": (peer.compression_loop(), "malformed answer from {}"),
    "cut short": (peer.cut_short(WEB), "malformed answer from {}"),
    "referral": (peer.referral(), "{} does not resolve names for others"),
    "NXDOMAIN with addresses": (mangled(WEB, 3, 0x83), "contradictory answer from {}"),
    "no TCP": (peer.truncated(peer.silence()), "truncated answer from {}, and none over TCP in time"),
    "TCP hangs up": (peer.truncated(peer.hangs_up()), "truncated answer from {}, and none over TCP: closed without an answer"),
    "truncated over TCP": (peer.truncated(mangled(WEB, 2, 0x83)), "malformed answer from {}"),
    "wrong id over TCP": (peer.truncated(peer.wrong_id(WEB)), "malformed answer from {}"),
    "garbage over TCP": (peer.truncated(peer.garbage()), "malformed answer from {}"),
    "SERVFAIL over TCP": (peer.truncated(peer.servfail()), "SERVFAIL from {}"),
}
FAIL_OVER = [fault for fault in FAULTS if fault != "NXDOMAIN with addresses"]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(place: Place, fault: str) -> None:
    act, why = FAULTS[fault]
    place.timeout = SHORT
    place.a.says("web.example", "A", act)
    reply = run_one(place)
    assert (reply.kind, reply.why) == ("failed", why.format(place.a))


@both_loops
@pytest.mark.parametrize("fault", FAIL_OVER)
def test_the_next_server_is_asked(run: Run, place: Place, fault: str) -> None:
    place.both()
    place.timeout = SHORT
    place.conf("options attempts:5\n")  # the second one may be slow, too, on a busy machine
    place.a.says("web.example", "A", FAULTS[fault][0])
    place.b.says("web.example", "A", WEB)

    async def main() -> None:
        assert await place.ask("web.example.") == Reply("found", ("10.0.0.1",), 60, (), "", str(place.b))

    run(main)


def test_why_tells_of_all_servers(place: Place) -> None:
    place.both()
    place.timeout = SHORT
    place.a.always = peer.silence()
    place.b.always = peer.refused()
    assert run_one(place).why == f"timeout of {place.a}, REFUSED from {place.b}"


def test_rounds(place: Place) -> None:
    place.both()
    place.conf("options attempts:3\n")
    place.a.says("web.example", "A", peer.servfail())
    place.b.says("web.example", "A", peer.servfail(), peer.servfail(), WEB)
    assert run_one(place).records == ("10.0.0.1",)
    assert (place.a.count(), place.b.count()) == (3, 3)


def test_a_dead_server_is_known_at_once_and_back_when_it_is(place: Place) -> None:
    place.a.says("web.example", "A", WEB)
    place.a.stop()
    place.timeout = 60.0
    assert run_one(place).why == f"{place.a}: connection refused"
    place.a.start()
    assert run_one(place).kind == "found"


def test_a_forged_answer_does_not_hide_the_real_one(place: Place) -> None:
    forged = peer.addresses("6.6.6.6")
    place.a.says("web.example", "A", peer.both(peer.garbage(), peer.wrong_id(forged), peer.wrong_question(forged), WEB))
    assert run_one(place).records == ("10.0.0.1",)


def test_a_server_without_edns(place: Place) -> None:
    place.a.says("web.example", "A", peer.without_edns(WEB), peer.without_edns(WEB))
    assert run_one(place).records == ("10.0.0.1",)
    assert [asked.payload for asked in place.a.asked] == [1232, 0]


def test_what_is_no_name(place: Place) -> None:
    for name in ("a" * 64 + ".example.", "a..example.", ".".join(["a" * 60] * 5) + "."):
        assert run_one(place, name) == Reply("failed", why="not a DNS name")
    assert place.a.asked == []


def test_a_lookup_that_is_cancelled_leaves_nothing_open(place: Place) -> None:
    place.a.always = peer.truncated(peer.silence())

    async def main() -> None:
        task = asyncio.ensure_future(place.ask("web.example."))
        while not place.a.count(transport="tcp"):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())  # a socket left open would be a ResourceWarning, and that an error


# ---- truncation and size

@both_loops
def test_truncated_goes_on_over_tcp(run: Run, place: Place) -> None:
    many = [f"10.0.{n // 250}.{n % 250}" for n in range(200)]
    place.a.says("web.example", "A", peer.truncated(peer.addresses(*many)))

    async def main() -> None:
        assert (await place.ask("web.example.")).records == tuple(many)

    run(main)
    assert [asked.transport for asked in place.a.asked] == ["udp", "tcp"]


# ---- CNAME

def test_a_chain_in_one_answer(place: Place) -> None:
    place.a.says("web.example", "A", peer.records(
        "c.example. 40 A 10.0.0.1", "web.example. 60 CNAME b.example.", "b.example. 3 CNAME c.example."))
    assert run_one(place) == Reply("found", ("10.0.0.1",), 3, ("b.example", "c.example"), "", str(place.a))


def test_a_chain_over_several_answers(place: Place) -> None:
    place.a.says("web.example", "A", peer.alias("b.example", 9))
    place.a.says("b.example", "A", peer.alias("c.example", 8))
    place.a.says("c.example", "A", peer.addresses("10.0.0.1", ttl=20))
    assert run_one(place) == Reply("found", ("10.0.0.1",), 8, ("b.example", "c.example"), "", str(place.a))


def test_a_chain_whose_end_is_not_known(place: Place) -> None:
    place.a.says("web.example", "A", peer.alias("b.example", 9))
    place.a.says("b.example", "A", peer.servfail(), peer.nxdomain())
    assert run_one(place) == Reply("failed", (), 0, ("b.example",), f"SERVFAIL from {place.a}")
    assert run_one(place) == Reply("absent", (), 5, ("b.example",), "no such name", str(place.a))


@pytest.mark.parametrize("links", [
    ["web", "web"], ["web", "b", "web"], ["web", "b", "c", "b"],
])
def test_a_loop(place: Place, links: list[str]) -> None:
    pairs = list(zip(links, links[1:], strict=False))
    place.a.says("web.example", "A", peer.records(*(f"{a}.example. 60 CNAME {b}.example." for a, b in pairs)))
    assert (run_one(place).kind, run_one(place).why) == ("failed", "CNAME loop")
    for one, other in pairs:
        place.a.says(f"{one}.example", "A", peer.alias(f"{other}.example"))
    assert (run_one(place).kind, run_one(place).why) == ("failed", "CNAME loop")


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("links", "kind"), [(16, "found"), (17, "failed")])
def test_the_length_of_a_chain(place: Place, links: int, kind: str, apart: bool) -> None:
    names = ["web.example", *(f"n{n}.example" for n in range(links))]
    pairs = list(zip(names, names[1:], strict=False))
    if apart:
        for one, other in pairs:
            place.a.says(one, "A", peer.alias(other))
        place.a.says(names[-1], "A", WEB)
    else:
        place.a.says("web.example", "A", peer.records(*(f"{a}. 60 CNAME {b}." for a, b in pairs),
                                                      f"{names[-1]}. 60 A 10.0.0.1"))
    reply = run_one(place)
    assert reply.kind == kind
    assert reply.why == ("" if kind == "found" else "CNAME chain of more than 16 links")


# ---- the search list

POD = "search dev.svc.cluster.local svc.cluster.local\noptions ndots:5 attempts:1\n"


def test_the_search_list(place: Place) -> None:
    place.conf(POD)
    place.a.says("web.dev.svc.cluster.local", "A", WEB)
    assert run_one(place, "web.dev").records == ("10.0.0.1",)
    assert run_one(place, "web").records == ("10.0.0.1",)
    assert [asked.name for asked in place.a.asked] == [
        "web.dev.dev.svc.cluster.local", "web.dev.svc.cluster.local", "web.dev.svc.cluster.local"]


def test_a_name_with_enough_dots_is_asked_as_it_is_first(place: Place) -> None:
    place.conf("search corp.example\noptions attempts:1\n")
    assert run_one(place, "web.dev").kind == "absent"
    assert [asked.name for asked in place.a.asked] == ["web.dev", "web.dev.corp.example"]


def test_an_absolute_name_is_not_searched(place: Place) -> None:
    place.conf(POD)
    assert run_one(place, "web.").kind == "absent"
    assert [asked.name for asked in place.a.asked] == ["web"]


@pytest.mark.parametrize("fault", ["SERVFAIL", "REFUSED", "cut short"])
def test_a_failed_candidate_is_not_an_absent_one(place: Place, fault: str) -> None:
    place.conf(POD)
    place.a.says("web.dev.svc.cluster.local", "A", FAULTS[fault][0])
    reply = run_one(place, "web")
    assert (reply.kind, reply.why) == ("failed", FAULTS[fault][1].format(place.a))
    assert place.a.count() == 3
    place.a.says("web.svc.cluster.local", "A", WEB)
    assert run_one(place, "web").records == ("10.0.0.1",)


def test_when_nobody_answers_the_rest_of_the_list_is_not_asked(place: Place) -> None:
    place.conf(POD)
    place.timeout = SHORT
    place.a.always = peer.silence()
    assert run_one(place, "web").kind == "failed"
    assert place.a.count() == 1


def test_the_least_negative_ttl_of_the_list_holds(place: Place) -> None:
    place.conf(POD)
    place.a.says("web.dev.svc.cluster.local", "A", peer.nxdomain("cluster.local", 30, 30))
    place.a.says("web.svc.cluster.local", "A", peer.nodata("cluster.local", 30, 2))
    place.a.says("web", "A", peer.nxdomain("web", 9, 9))
    assert run_one(place, "web") == Reply("absent", (), 2, (), "no address", str(place.a))


def test_the_families_of_a_name_come_from_one_candidate(place: Place) -> None:
    """`web` is there with A only: an AAAA of another `web` further down the list is another host's."""
    place.conf(POD)
    place.a.says("web.dev.svc.cluster.local", "A", WEB)
    place.a.says("web.dev.svc.cluster.local", "AAAA", peer.nodata("cluster.local"))
    place.a.says("web", "AAAA", peer.addresses("::1"))

    async def main() -> None:
        assert (await place.ask("web", "AAAA")).why == "no address"
        place.a.says("web.dev.svc.cluster.local", "A", peer.nodata("cluster.local"))  # only a folder of names
        assert (await place.ask("web", "AAAA")).records == ("::1",)
        place.a.says("web.dev.svc.cluster.local", "A", peer.servfail())
        place.a.says("web", "AAAA")
        assert (await place.ask("web", "AAAA")).kind == "failed"

    asyncio.run(main())


def test_a_candidate_that_is_too_long_is_passed_over(place: Place) -> None:
    long = ".".join(["a" * 60] * 4)
    place.conf("search " + "b" * 60 + "\noptions ndots:9 attempts:1\n")
    place.a.says(long, "A", WEB)
    assert run_one(place, long).kind == "found"


# ---- SRV

def test_services(place: Place) -> None:
    place.a.says("_http._tcp.example", "SRV", peer.records(
        "_http._tcp.example. 30 SRV 10 5 8080 A.example.", "_http._tcp.example. 30 SRV 20 0 8081 b.example.",
        "a.example. 1 A 10.0.0.1"))

    async def main() -> None:
        reply = await place.resolver().services("_http._tcp.example.")
        assert reply == Reply("found", (SrvRecord(10, 5, 8080, "a.example"), SrvRecord(20, 0, 8081, "b.example")), 30,
                              (), "", str(place.a))

    asyncio.run(main())


def test_services_through_an_alias_and_none(place: Place) -> None:
    place.a.says("_http._tcp.example", "SRV", peer.alias("_http._tcp.other", 9))
    place.a.says("_http._tcp.other", "SRV", peer.records("_http._tcp.other. 30 SRV 0 0 80 c.example."),
                 peer.records("_http._tcp.other. 30 SRV 0 0 0 ."))

    async def main() -> None:
        reply = await place.resolver().services("_http._tcp.example.")
        assert (reply.records, reply.ttl, reply.chain) == ((SrvRecord(0, 0, 80, "c.example"),), 9, ("_http._tcp.other",))
        reply = await place.resolver().services("_http._tcp.example.")
        assert (reply.kind, reply.why, reply.ttl) == ("absent", "no SRV record", 9)

    asyncio.run(main())


# ---- who is asked, and how

def test_whose_nameservers_count(place: Place) -> None:
    """A service's before the configuration's before the file's; the file's search list in any case."""
    place.conf("nameserver 127.0.0.9\nsearch corp.example\noptions attempts:1\n")
    for server in (place.a, place.b):
        server.says("web.corp.example", "A", WEB)

    async def main() -> None:
        resolver = place.resolver()
        assert (await resolver.addresses("web", "A", (place.b.nameserver,))).server == str(place.b)
        assert (await resolver.addresses("web", "A")).server == str(place.a)
        resolver.apply(model.Resolver((place.b.nameserver,), 5.0))
        assert (await resolver.addresses("web", "A")).server == str(place.b)
        resolver.apply(model.Resolver((), 5.0))
        assert "127.0.0.9" in (await resolver.addresses("web", "A")).why  # nobody listens there, at port 53
        (place.folder / "resolv.conf").write_text("nameserver 127.0.0.8\noptions attempts:1\n")
        assert "127.0.0.8" in (await resolver.addresses("web", "A")).why
        assert resolver.hosts("localhost") == ("127.0.0.1", "::1")

    asyncio.run(main())


@pytest.mark.parametrize(("configured", "said", "counts"), [
    (None, None, 2.0), (None, 7.0, 7.0), (2.0, 7.0, 2.0), (0.5, 7.0, 0.5), (0.5, None, 0.5)])
def test_whose_timeout_counts(configured: float | None, said: float | None, counts: float) -> None:
    """The configuration's, be it what it would be without; the file's where that says nothing."""
    assert time_for_one(model.Resolver(timeout=configured), ResolvConf(timeout=said)) == counts


def test_no_more_than_some_questions_at_once(place: Place) -> None:
    place.a.always = WEB

    async def main() -> None:
        resolver = place.resolver()
        replies = await asyncio.gather(*(resolver.addresses(f"web{n}.example.", "A") for n in range(300)))
        assert {reply.kind for reply in replies} == {"found"}

    asyncio.run(main())


def test_dnspython_is_imported_by_the_first_question_only() -> None:
    code = ("import sys, asyncio\nfrom edgeproxy.config import model\nfrom edgeproxy.upstream.resolver import Resolver\n"
            "loop = asyncio.new_event_loop()\nResolver(loop, model.Resolver()).hosts('localhost')\nloop.close()\n"
            "sys.exit('dns' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
