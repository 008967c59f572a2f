"""Endpoints found by name, against a scripted resolver and by an invented clock: no test here waits."""
from __future__ import annotations

import asyncio
import logging
import random
import selectors
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest

from edgeproxy.config import model
from edgeproxy.policy.endpoint import Target
from edgeproxy.upstream.discovery import Discovery
from edgeproxy.upstream.events import Events
from edgeproxy.upstream.names import NameView
from edgeproxy.upstream.resolver import Reply, Resolver, SrvRecord
from edgeproxy.upstream.roster import UNASKED

Said = Reply | Exception


class InventedTime(asyncio.SelectorEventLoop):
    """A loop that does not wait: the time jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now


class _Jump(selectors.DefaultSelector):
    def __init__(self, loop: InventedTime) -> None:
        super().__init__()
        self._clock = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing will ever happen any more"
        self._clock.now += max(0.0, timeout)
        return super().select(0)


class ScriptedResolver(Resolver):
    """Says what it was told to say, at once or after a while; what was not scripted does not exist."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: model.Resolver) -> None:
        super().__init__(loop, config)
        self.loop = loop
        self.says: dict[tuple[str, str], Said] = {}
        self.late: dict[tuple[str, str], float] = {}
        self.file: dict[str, tuple[str, ...]] = {}
        self.asked: list[tuple[float, str, str, tuple[model.Nameserver, ...]]] = []

    def hosts(self, name: str) -> tuple[str, ...]:
        return self.file.get(name, ())

    async def addresses(self, name: str, rdtype: Literal["A", "AAAA"],
                        nameservers: tuple[model.Nameserver, ...] = ()) -> Reply:
        return await self._say(name, rdtype, nameservers)

    async def services(self, name: str, nameservers: tuple[model.Nameserver, ...] = ()) -> Reply:
        return await self._say(name, "SRV", nameservers)

    async def _say(self, name: str, rdtype: str, nameservers: tuple[model.Nameserver, ...]) -> Reply:
        self.asked.append((self.loop.time(), name, rdtype, nameservers))
        if (name, rdtype) in self.late:
            await asyncio.sleep(self.late[name, rdtype])
        said = self.says.get((name, rdtype), absent())
        if isinstance(said, Exception):
            raise said
        return said


def found(*addresses: str, ttl: float = 10.0, chain: tuple[str, ...] = ()) -> Reply:
    return Reply("found", addresses, ttl, chain, "", "10.0.0.53")


def services(*records: tuple[int, int, int, str], ttl: float = 10.0) -> Reply:
    return Reply("found", tuple(SrvRecord(*record) for record in records), ttl, (), "", "10.0.0.53")


def absent(why: str = "no such name", ttl: float = 5.0) -> Reply:
    return Reply("absent", (), ttl, (), why, "10.0.0.53")


def failed(why: str = "timeout of 10.0.0.53") -> Reply:
    return Reply("failed", (), 0.0, (), why, "")


class World:
    def __init__(self) -> None:
        self.loop = InventedTime()
        self.resolver = ScriptedResolver(self.loop, model.Resolver())
        self.events = Events()
        self.sets: list[tuple[list[str], str]] = []
        self.targets: Sequence[Target] = ()
        self.discovery: Discovery | None = None

    def supply(self, targets: Sequence[Target], unresolved: str) -> None:
        self.targets = targets
        self.sets.append(([t.endpoint.address for t in targets], unresolved))

    def begin(self, config: model.Service) -> Discovery:
        self.discovery = Discovery(self.loop, self.resolver, config, self.supply, self.events, random.Random(1))
        return self.discovery

    def say(self, name: str, a: Said | None = None, aaaa: Said | None = None, srv: Said | None = None) -> None:
        for rdtype, said in (("A", a), ("AAAA", aaaa), ("SRV", srv)):
            if said is not None:
                self.resolver.says[name, rdtype] = said

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def asked(self, rdtype: str) -> list[float]:
        """When, from the beginning."""
        return [round(at - 1000.0, 3) for at, _, of, _ in self.resolver.asked if of == rdtype]

    @property
    def now(self) -> list[str]:
        """The addresses given out last."""
        return self.sets[-1][0] if self.sets else []

    def lines(self) -> list[str]:
        """What was told since the last time."""
        told = [f"{event.subject} {event.text}" for event in self.events.ring]
        assert all(event.kind == "dns" and event.service == "web" for event in self.events.ring)
        self.events.ring.clear()
        return told

    def view(self, name: str, rdtype: str) -> NameView:
        assert self.discovery is not None
        return next(view for view in self.discovery.names if (view.name, view.type) == (name, rdtype))

    def close(self) -> None:
        if self.discovery is not None:
            self.discovery.close()
        self.wait(0)
        left = asyncio.all_tasks(self.loop)
        self.loop.close()
        assert left == set(), "a task outlived the discovery"


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def dns(name: str = "web.dev", port: int | None = 80, **more: Any) -> model.DnsSource:
    return model.DnsSource(name, port, **more)


def service(*sources: model.DnsSource, **more: Any) -> model.Service:
    return model.Service("web", dns=sources, **more)


V4 = model.Service("web", dns=(dns(),), family="v4")


# ---- what names stand for

def test_both_families_in_one_set(world: World) -> None:
    world.say("web.dev", found("10.0.0.2", "10.0.0.1"), found("fd00::1"))
    world.begin(service(dns()))
    assert world.sets == [], "nothing is known yet, and nothing was said"
    world.wait(0.1)
    assert world.sets == [(["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"], "")]
    assert [(t.weight, t.backup, t.endpoint.name) for t in world.targets] == [(1, False, "web.dev")] * 3
    assert world.lines() == ["web.dev is 10.0.0.1:80 10.0.0.2:80 [fd00::1]:80"]
    assert world.asked("A") == world.asked("AAAA") == [0.0]


def test_the_order_of_answers_means_nothing(world: World) -> None:
    world.begin(V4)
    for addresses in (("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1"), ("10.0.0.2", "10.0.0.1", "10.0.0.2")):
        world.say("web.dev", found(*addresses))
        world.wait(10.1)
    assert len(world.asked("A")) >= 3 and len(world.sets) == 1


def test_a_change_is_given_out_and_told_once(world: World) -> None:
    world.say("web.dev", found("10.0.0.1", "10.0.0.2"))
    world.begin(V4)
    world.wait(5)
    world.say("web.dev", found("10.0.0.2", "10.0.0.3"))
    world.wait(30)
    assert [addresses for addresses, _ in world.sets] == [["10.0.0.1:80", "10.0.0.2:80"], ["10.0.0.2:80", "10.0.0.3:80"]]
    assert world.lines()[1:] == ["web.dev is 10.0.0.2:80 10.0.0.3:80, was 10.0.0.1:80 10.0.0.2:80 (1 new, 1 gone)"]


def test_two_hundred_addresses_make_a_short_line(world: World) -> None:
    many = [f"10.0.{i // 100}.{i % 100 + 1}" for i in range(200)]
    world.say("web.dev", found(*many))
    world.begin(V4)
    world.wait(1)
    assert len(world.now) == 200
    assert world.lines() == ["web.dev is 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80 10.0.0.4:80 10.0.0.5:80 and 195 more"]


def test_only_the_wanted_family_is_asked_for(world: World) -> None:
    world.say("web.dev", found("10.0.0.1"), found("fd00::1"))
    world.begin(service(dns(family="v6")))
    world.wait(1)
    assert world.now == ["[fd00::1]:80"] and world.asked("A") == []


def test_a_final_dot_is_no_part_of_the_name_for_tls(world: World) -> None:
    world.say("web.dev.", found("10.0.0.1"))
    world.begin(service(dns("web.dev.")))
    world.wait(1)
    assert world.targets[0].endpoint.name == "web.dev"


def test_external_name_has_the_port_of_the_protocol(world: World) -> None:
    world.say("www.example.com", found("10.0.0.1", chain=("edge.example.net",)))
    world.begin(service(external_name=model.ExternalName("www.example.com"), protocol="https"))
    world.wait(1)
    assert world.now == ["10.0.0.1:443"]
    assert world.view("www.example.com", "A").chain == ("edge.example.net",)


def test_an_address_as_external_name_is_there_from_the_beginning(world: World) -> None:
    world.begin(service(external_name=model.ExternalName("10.0.0.9", 8080)))
    assert world.sets == [(["10.0.0.9:8080"], "")]
    assert world.targets[0].endpoint.name == ""
    world.wait(0)
    assert world.resolver.asked == []


def test_named_endpoints_keep_their_weight(world: World) -> None:
    world.say("db.internal", found("10.0.0.1", "10.0.0.2"))
    world.begin(service(endpoints=(model.EndpointAddress("db.internal", 5432, weight=3, backup=True),
                                   model.EndpointAddress("10.0.0.7", 5432))))
    world.wait(1)
    assert [(t.endpoint.address, t.weight, t.backup) for t in world.targets] == [
        ("10.0.0.1:5432", 3, True), ("10.0.0.2:5432", 3, True)], "the address is not ours to give out"


def test_sources_come_in_order_and_each_address_once(world: World) -> None:
    world.say("b.dev", found("10.0.0.2", "10.0.0.1"))
    world.say("a.dev", found("10.0.0.1", "10.0.0.9"))
    world.begin(service(dns("b.dev"), dns("a.dev")))
    world.wait(1)
    assert world.now == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80"]


def test_two_sources_may_share_a_name(world: World) -> None:
    world.say("web.dev", found("10.0.0.1"), found("fd00::1"))
    world.begin(service(dns(port=80, family="v4"), dns(port=81)))
    world.wait(1)
    assert world.now == ["10.0.0.1:80", "10.0.0.1:81", "[fd00::1]:81"]
    assert world.asked("A") == [0.0]


# ---- the hosts file

def test_the_hosts_file_goes_first_for_external_and_static_names(world: World) -> None:
    world.resolver.file = {"db.internal": ("10.0.0.5", "fd00::5"), "web.dev": ("10.9.9.9",)}
    world.say("web.dev", found("10.0.0.1"))
    world.begin(service(dns(), endpoints=(model.EndpointAddress("db.internal", 5432),)))
    assert world.sets == [(["10.0.0.5:5432", "[fd00::5]:5432"], "")], "known from the beginning"
    world.wait(1)
    assert world.now == ["10.0.0.5:5432", "[fd00::5]:5432", "10.0.0.1:80"], "and not for dns"
    assert "db.internal" not in {name for _, name, _, _ in world.resolver.asked}
    assert world.view("db.internal", "A").server == "hosts file"


def test_a_changed_hosts_file_is_seen_and_dns_goes_on_where_it_ends(world: World) -> None:
    world.resolver.file = {"db.internal": ("10.0.0.5",)}
    world.begin(service(endpoints=(model.EndpointAddress("db.internal", 1),)))
    world.resolver.file = {"db.internal": ("10.0.0.6",)}
    world.wait(6)
    assert world.now == ["10.0.0.6:1"]
    world.resolver.file = {}
    world.say("db.internal", failed(), failed())
    world.wait(30)
    assert world.now == ["10.0.0.6:1"], "a failure is no absence"
    world.say("db.internal", found("10.0.0.7"), absent("no address"))
    world.wait(60)
    assert world.now == ["10.0.0.7:1"]


def test_a_hosts_file_without_the_wanted_family_says_nothing(world: World) -> None:
    world.resolver.file = {"db.internal": ("10.0.0.5",)}
    world.say("db.internal", aaaa=found("fd00::1"))
    world.begin(service(endpoints=(model.EndpointAddress("db.internal", 1),), family="v6"))
    world.wait(1)
    assert world.now == ["[fd00::1]:1"]


# ---- SRV

def srv(**more: Any) -> model.Service:
    return service(model.DnsSource("_http._tcp.dev", type="SRV"), **more)


def test_srv_brings_ports_weights_and_backups(world: World) -> None:
    world.say("_http._tcp.dev", srv=services((10, 5, 8080, "a.dev"), (10, 0, 8081, "b.dev"), (20, 1, 8080, "c.dev")))
    for number, name in enumerate(("a.dev.", "b.dev.", "c.dev."), 1):
        world.say(name, found(f"10.0.0.{number}"))
    world.begin(srv())
    world.wait(1)
    assert [(t.endpoint.address, t.endpoint.name, t.weight, t.backup) for t in world.targets] == [
        ("10.0.0.1:8080", "a.dev", 5, False), ("10.0.0.2:8081", "b.dev", 1, False), ("10.0.0.3:8080", "c.dev", 1, True)]
    assert len(world.sets) == 1, "what comes at once is one set"
    assert world.lines() == ["_http._tcp.dev is 10.0.0.1:8080 (weight 5) 10.0.0.2:8081 10.0.0.3:8080 (backup)"]
    assert world.view("_http._tcp.dev", "SRV").addresses == ("a.dev:8080", "b.dev:8081", "c.dev:8080")


def test_another_weight_is_another_set(world: World) -> None:
    world.say("_http._tcp.dev", srv=services((0, 1, 80, "a.dev")))
    world.say("a.dev.", found("10.0.0.1"))
    world.begin(srv())
    world.wait(1)
    world.say("_http._tcp.dev", srv=services((0, 9, 80, "a.dev")))
    world.wait(10)
    assert len(world.sets) == 2 and world.targets[0].weight == 9


def test_targets_are_asked_for_while_they_are_named(world: World) -> None:
    world.say("_http._tcp.dev", srv=services((0, 1, 80, "a.dev"), (0, 1, 80, "b.dev")))
    world.say("a.dev.", found("10.0.0.1"))
    world.say("b.dev.", found("10.0.0.2"))
    discovery = world.begin(srv(family="v4"))
    world.wait(1)
    world.say("_http._tcp.dev", srv=services((0, 1, 80, "b.dev")))
    world.wait(10)
    assert world.now == ["10.0.0.2:80"]
    assert {view.name for view in discovery.names} == {"_http._tcp.dev", "b.dev."}


def test_new_targets_are_resolved_before_the_old_ones_go(world: World) -> None:
    world.say("_http._tcp.dev", srv=services((0, 1, 80, "blue.dev")))
    world.say("blue.dev.", found("10.0.0.1"))
    world.say("green.dev.", found("10.0.0.2"))
    world.resolver.late["green.dev.", "A"] = 3.0
    world.begin(srv(family="v4"))
    world.wait(1)
    world.say("_http._tcp.dev", srv=services((0, 1, 80, "green.dev")))
    world.wait(30)
    assert [addresses for addresses, _ in world.sets] == [["10.0.0.1:80"], ["10.0.0.2:80"]], "never without"


def test_a_target_that_cannot_be_resolved_does_not_hold_the_others_up(world: World) -> None:
    world.say("_http._tcp.dev", srv=services((0, 1, 80, "a.dev"), (0, 1, 80, "b.dev")))
    world.say("a.dev.", found("10.0.0.1"))
    world.say("b.dev.", failed())
    world.resolver.late["b.dev.", "A"] = 8.0
    world.begin(srv(family="v4"))
    world.wait(1)
    assert world.now == ["10.0.0.1:80"]


def test_no_such_service(world: World) -> None:
    world.say("_http._tcp.dev", srv=services((0, 0, 0, ".")))
    world.begin(srv())
    world.wait(2)
    assert world.sets == [([], "no such service")]


def test_srv_whose_targets_fail_says_which(world: World) -> None:
    world.say("_http._tcp.dev", srv=services((0, 1, 80, "a.dev")))
    world.say("a.dev.", failed("SERVFAIL from 10.0.0.53"))
    world.begin(srv(family="v4"))
    world.wait(1)
    assert world.sets == [([], "a.dev.: SERVFAIL from 10.0.0.53")]


def test_of_many_targets_that_fail_one_is_told(world: World) -> None:
    """Their tasks are apart in time, so that no line could join them."""
    names = [f"t{number}.dev" for number in range(50)]
    world.say("_http._tcp.dev", srv=services(*((0, 1, 80, name) for name in names)))
    for number, name in enumerate(names):
        world.say(f"{name}.", found(f"10.0.0.{number}"), absent("no address"))
    world.begin(srv())
    world.wait(15)
    world.lines()
    for name in names:
        world.say(f"{name}.", failed(), failed())
    world.wait(40)
    [line] = world.lines()
    assert "is stale: timeout of 10.0.0.53 (A); kept, " in line
    assert len(world.sets) == 1 and len(world.now) == 50
    for number, name in enumerate(names[:-1]):
        world.say(f"{name}.", found(f"10.0.0.{number}"), absent("no address"))
    world.wait(40)
    assert world.lines() == []
    world.say("t49.dev.", absent(), absent())
    world.wait(40)
    assert len(world.now) == 49
    world.lines()
    world.say("t7.dev.", failed(), failed())
    world.wait(40)
    assert ["t7.dev. is stale" in line for line in world.lines()] == [True], "none is left over from before"


# ---- failure and absence

def test_a_name_that_fails_at_the_start_is_tried_again(world: World) -> None:
    world.say("web.dev", failed())
    world.begin(V4)
    world.wait(100)
    assert world.asked("A") == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0]
    assert world.sets == [([], "timeout of 10.0.0.53")]
    assert world.lines() == ["web.dev cannot be resolved: timeout of 10.0.0.53; it is tried again"]
    world.say("web.dev", found("10.0.0.1"))
    world.wait(30)
    assert world.sets[1:] == [(["10.0.0.1:80"], "")]
    assert world.lines() == ["web.dev answers again after 2 min", "web.dev is 10.0.0.1:80"]


def test_a_failure_keeps_the_set_and_is_told_twice(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgeproxy")
    world.say("web.dev", found("10.0.0.1", "10.0.0.2"))
    world.begin(service(dns(refresh=10.0), family="v4"))
    world.wait(5)
    world.say("web.dev", failed("SERVFAIL from 10.0.0.53"))
    world.lines()
    world.wait(60)
    view = world.view("web.dev", "A")
    assert len(world.sets) == 1
    assert world.lines() == ["web.dev is stale: SERVFAIL from 10.0.0.53; kept, 10 s old: 10.0.0.1 10.0.0.2"]
    assert view.stale and 60 < view.stale_for <= 65 and view.error == "SERVFAIL from 10.0.0.53" and view.failures > 3
    assert view.queries == {"found": 1, "servfail": view.failures} and view.ttl_left == 0.0 and 0 < view.next_in <= 30
    assert caplog.records[-1].levelno == logging.WARNING
    world.say("web.dev", found("10.0.0.2", "10.0.0.1"))
    world.wait(30)
    [line] = world.lines()
    assert line.startswith("web.dev answers again after ")
    assert len(world.sets) == 1 and not world.view("web.dev", "A").stale


def test_both_families_that_fail_share_a_line(world: World) -> None:
    world.say("web.dev", failed(), failed())
    world.begin(service(dns()))
    world.wait(20)
    assert world.lines() == ["web.dev cannot be resolved: timeout of 10.0.0.53; it is tried again"]


def test_a_failing_family_neither_removes_nor_delays_the_other(world: World) -> None:
    world.say("web.dev", found("10.0.0.1", ttl=1.0), failed())
    world.resolver.late["web.dev", "AAAA"] = 8.0
    world.begin(service(dns()))
    world.wait(2)
    assert world.now == ["10.0.0.1:80"] and len(world.asked("A")) >= 2
    world.say("web.dev", found("10.0.0.2", ttl=1.0))
    world.wait(30)
    assert world.now == ["10.0.0.2:80"]
    assert "web.dev cannot be resolved: timeout of 10.0.0.53 (AAAA); it is tried again" in world.lines()


def test_no_ipv6_is_nothing_to_tell(world: World) -> None:
    world.say("web.dev", found("10.0.0.1"), absent("no address"))
    world.begin(service(dns()))
    world.wait(60)
    assert world.lines() == ["web.dev is 10.0.0.1:80"]


def test_a_family_that_was_not_there_and_fails_is_nothing_to_tell(world: World) -> None:
    world.say("web.dev", found("10.0.0.1"), absent("no address"))
    world.begin(service(dns()))
    world.wait(20)
    world.lines()
    world.say("web.dev", aaaa=failed())
    world.wait(60)
    assert world.lines() == [] and world.view("web.dev", "AAAA").failures > 3


def test_an_absence_empties_the_set_when_it_is_confirmed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgeproxy")
    world.say("web.dev", found("10.0.0.1"))
    world.begin(V4)
    world.wait(1)
    world.say("web.dev", absent())
    world.wait(20)
    first, second = world.asked("A")[1:3]
    assert second - first >= 1.0
    assert world.sets == [(["10.0.0.1:80"], ""), ([], "")], "it was resolved once"
    assert world.lines()[1:] == ["web.dev has no endpoints any more: no such name, answered twice, was 10.0.0.1:80"]
    assert caplog.records[-1].levelno == logging.WARNING
    assert world.view("web.dev", "A").queries["absent"] >= 3
    world.say("web.dev", found("10.0.0.1"))
    world.wait(6)
    assert world.now == ["10.0.0.1:80"] and world.lines() == ["web.dev is 10.0.0.1:80"]


def test_a_name_that_never_was_is_told_once(world: World) -> None:
    world.begin(service(dns()))
    world.wait(60)
    assert world.sets == [([], "no such name")]
    assert world.lines() == ["web.dev stands for nothing: no such name, answered twice"]


def test_keep_holds_what_is_gone(world: World) -> None:
    world.say("web.dev", found("10.0.0.1"))
    world.begin(service(dns(on_empty="keep"), family="v4"))
    world.wait(1)
    world.say("web.dev", absent("no address"))
    world.wait(60)
    assert len(world.sets) == 1 and world.view("web.dev", "A").stale
    assert world.lines()[1:] == ["web.dev is gone: no address, answered twice; kept (on_empty): 10.0.0.1"]


def test_a_name_that_flaps_each_second_keeps_its_endpoints(world: World) -> None:
    world.say("web.dev", found("10.0.0.1", "10.0.0.2", ttl=1.0))
    world.begin(V4)
    for second in range(60):
        world.say("web.dev", absent(ttl=0.0) if second % 2 else found("10.0.0.1", "10.0.0.2", ttl=1.0))
        world.wait(1.0)
    queries = world.view("web.dev", "A").queries
    assert queries["absent"] > 20 and queries["found"] > 20
    assert len(world.sets) == 1, "no second absence came without a set in between"
    assert world.lines() == ["web.dev is 10.0.0.1:80 10.0.0.2:80"]


# ---- time

def test_the_ttl_says_when_and_chance_a_little_earlier(world: World) -> None:
    world.say("web.dev", found("10.0.0.1", ttl=10.0))
    world.begin(V4)
    world.wait(200)
    pauses = [after - before for before, after in zip(world.asked("A"), world.asked("A")[1:], strict=False)]
    assert len(pauses) >= 20 and all(9.0 <= pause <= 10.01 for pause in pauses) and len(set(pauses)) > 10


def test_the_bounds_of_the_ttl_are_the_resolvers(world: World) -> None:
    world.resolver.apply(model.Resolver(min_ttl=4.0, max_ttl=8.0))
    world.say("short.dev", found("10.0.0.1", ttl=0.0))
    world.say("long.dev", found("10.0.0.1", ttl=2.0 ** 31))
    discovery = world.begin(service(dns("short.dev"), dns("long.dev"), family="v4"))
    world.wait(0.1)
    assert 3.5 <= world.view("short.dev", "A").next_in <= 4.0 and 7.1 <= world.view("long.dev", "A").next_in <= 8.0
    world.resolver.apply(model.Resolver(min_ttl=20.0))
    discovery.apply(service(dns("short.dev"), dns("long.dev"), family="v4"), True)
    world.wait(0.1)
    assert 17.9 <= world.view("short.dev", "A").next_in <= 20.0


def test_refresh_of_a_source_goes_before_that_of_the_service(world: World) -> None:
    world.say("a.dev", found("10.0.0.1"))
    world.say("b.dev", found("10.0.0.2"))
    world.begin(service(dns("a.dev"), dns("b.dev", refresh=300.0), refresh=100.0, family="v4"))
    world.wait(0.1)
    assert 89 <= world.view("a.dev", "A").next_in <= 100 and 269 <= world.view("b.dev", "A").next_in <= 300


# ---- faults

def test_a_fault_of_one_name_ends_no_other(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.say("a.dev", ZeroDivisionError("oh"))
    world.say("b.dev", found("10.0.0.2", ttl=1.0))
    world.begin(service(dns("a.dev"), dns("b.dev"), family="v4"))
    world.wait(40)
    told = [record for record in caplog.records if "please report it" in record.getMessage()]
    assert len(told) == 1 and told[0].exc_info is not None
    assert world.now == ["10.0.0.2:80"] and world.view("b.dev", "A").queries["found"] > 30
    assert world.view("a.dev", "A").queries == {"failed": 6}, "after 0, 1, 3, 7, 15 and 31 s"
    world.say("a.dev", found("10.0.0.1"))
    world.wait(31)
    assert world.now == ["10.0.0.1:80", "10.0.0.2:80"]


def test_a_fault_of_who_is_supplied_ends_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    given: list[int] = []

    def supply(targets: Sequence[Target], unresolved: str) -> None:
        given.append(len(targets))
        if len(given) == 1:
            raise ZeroDivisionError("oh")

    world.say("web.dev", found("10.0.0.1"))
    world.discovery = Discovery(world.loop, world.resolver, V4, supply, world.events, random.Random(1))
    world.wait(11)
    assert given == [1, 1], "what was not taken is offered again"
    assert [record.exc_info is not None for record in caplog.records if "report" in record.getMessage()] == [True]


# ---- unresolved

def test_unresolved_is_told_when_all_names_were_asked(world: World) -> None:
    world.say("a.dev", failed("REFUSED by 10.0.0.53"))
    world.resolver.late["b.dev", "A"] = 5.0
    world.begin(service(dns("a.dev"), dns("b.dev"), family="v4"))
    world.wait(4)
    assert world.sets == [], "who waits for the first answer still may"
    world.wait(4)
    assert world.sets == [([], "a.dev: REFUSED by 10.0.0.53")]
    world.say("b.dev", found("10.0.0.2"))
    world.wait(30)
    assert world.sets[-1] == (["10.0.0.2:80"], "")


def test_a_service_with_an_address_is_never_unresolved(world: World) -> None:
    world.begin(service(dns(), endpoints=(model.EndpointAddress("10.0.0.7", 80),)))
    world.wait(20)
    assert world.sets == [([], "")]


def test_a_name_that_is_gone_is_told_with_what_dns_said(world: World) -> None:
    world.say("a.dev", found("10.0.0.1"))
    world.say("b.dev", absent("no such name"))
    discovery = world.begin(service(dns("a.dev"), dns("b.dev"), family="v4"))
    world.wait(5)
    assert discovery.trouble == "b.dev: no such name"
    world.say("b.dev", found("10.0.0.2"))
    world.wait(30)
    assert discovery.trouble == ""


def test_names_are_in_the_order_of_the_configuration(world: World) -> None:
    world.say("_web.dev", srv=services(*((0, 1, 80, f"{letter}.test") for letter in "cabd")))
    discovery = world.begin(service(model.DnsSource("_web.dev", type="SRV"), dns("z.dev"), dns("y.dev")))
    world.wait(1)
    assert [f"{view.name} {view.type}" for view in discovery.names] == ["_web.dev SRV"] + [
        f"{name} {rdtype}" for name in ("a.test.", "b.test.", "c.test.", "d.test.", "z.dev", "y.dev")
        for rdtype in ("A", "AAAA")]


# ---- reload

def test_what_stays_keeps_its_state(world: World) -> None:
    world.say("a.dev", found("10.0.0.1"))
    world.say("b.dev", found("10.0.0.2"))
    config = service(dns("a.dev"), family="v4")
    discovery = world.begin(config)
    world.wait(1)
    discovery.apply(replace(config, dns=(dns("b.dev"), dns("a.dev"))))
    assert world.now == ["10.0.0.1:80"]
    world.wait(1)
    assert world.now == ["10.0.0.2:80", "10.0.0.1:80"]
    assert [name for _, name, _, _ in world.resolver.asked] == ["a.dev", "b.dev"], "nothing was asked again"
    discovery.apply(replace(config, dns=(dns("b.dev"),)))
    assert world.now == ["10.0.0.2:80"], "what is removed goes at once"
    assert [view.name for view in discovery.names] == ["b.dev"]
    world.wait(0)


def test_another_port_holds_at_once(world: World) -> None:
    world.say("web.dev", found("10.0.0.1"))
    discovery = world.begin(V4)
    world.wait(1)
    discovery.apply(replace(V4, dns=(dns(port=81),)))
    assert world.now == ["10.0.0.1:81"]
    world.wait(0.1)
    assert world.asked("A") == [0.0]


@pytest.mark.parametrize("changed", ["resolver", "nameservers", "refresh"])
def test_what_is_asked_otherwise_is_asked_at_once_and_kept_until_then(world: World, changed: str) -> None:
    world.say("web.dev", found("10.0.0.1", ttl=60.0))
    discovery = world.begin(V4)
    world.wait(1)
    world.say("web.dev", failed())
    server = model.Nameserver("10.0.0.54")
    config = {"resolver": V4, "nameservers": replace(V4, nameservers=(server,)), "refresh": replace(V4, refresh=30.0)}
    discovery.apply(config[changed], changed == "resolver")
    world.wait(20)
    assert world.asked("A")[:2] == [0.0, 1.0] and len(world.sets) == 1 and world.view("web.dev", "A").stale
    if changed == "nameservers":
        assert world.resolver.asked[-1][3] == (server,)
    world.say("web.dev", found("10.0.0.2"))
    world.wait(30)
    assert world.now == ["10.0.0.2:80"]


def test_other_families_by_a_reload(world: World) -> None:
    world.say("web.dev", found("10.0.0.1"), found("fd00::1"))
    discovery = world.begin(V4)
    world.wait(1)
    discovery.apply(replace(V4, family="both"))
    world.wait(1)
    assert world.now == ["10.0.0.1:80", "[fd00::1]:80"]
    discovery.apply(replace(V4, family="v6"))
    assert world.now == ["[fd00::1]:80"]
    world.wait(0)


def test_when_every_name_is_another_the_first_answer_is_waited_for(world: World) -> None:
    world.say("a.dev", found("10.0.0.1"))
    world.say("b.dev", found("10.0.0.2"))
    config = service(dns("a.dev"), family="v4")
    discovery = world.begin(config)
    world.wait(1)
    discovery.apply(replace(config, dns=(dns("b.dev"),)))
    world.wait(1)
    assert world.sets[1:] == [([], UNASKED), (["10.0.0.2:80"], "")]


def test_nothing_happens_after_close(world: World) -> None:
    world.say("web.dev", found("10.0.0.1"), failed())
    world.resolver.late["web.dev", "A"] = world.resolver.late["web.dev", "AAAA"] = 1.0
    discovery = world.begin(service(dns()))
    world.wait(1.005)  # an answer is in, the set is not out
    discovery.close()
    world.wait(100)
    assert world.sets == [] and len(world.resolver.asked) == 2
