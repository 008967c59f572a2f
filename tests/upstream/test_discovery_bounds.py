"""What a name may do to the proxy: bounded, whoever answers for it."""
from __future__ import annotations

import random

import pytest

from edgeproxy.upstream import discovery as discovery_module
from edgeproxy.upstream.discovery import Discovery
from upstream.test_discovery import V4, World, dns, found, service, services, world

__all__ = ["world"]  # the fixture


def test_the_proxy_is_no_endpoint_of_itself(world: World) -> None:
    """One connection would go in circles until no descriptor is left."""
    world.say("web.dev", found("10.0.0.1", "10.0.0.2"))
    world.discovery = Discovery(world.loop, world.resolver, V4, world.supply, world.events, random.Random(1),
                                lambda host, port: (host, port) == ("10.0.0.2", 80))
    world.wait(30)
    assert world.now == ["10.0.0.1:80"]
    assert "web.dev stands for addresses that are left out: 1 that is where this proxy listens" in world.lines()


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1"])
def test_where_nobody_can_be(world: World, address: str) -> None:
    v6 = ":" in address
    world.say("web.dev", found("10.0.0.1", *() if v6 else (address,)), found(address) if v6 else None)
    world.begin(service(dns()))
    world.wait(30)
    assert world.now == ["10.0.0.1:80"]
    assert sum("left out: 1 that cannot be an endpoint" in line for line in world.lines()) == 1, "told once"


def test_too_many_addresses(world: World) -> None:
    world.say("web.dev", found(*(f"10.0.{n // 250}.{n % 250}" for n in range(3000))))
    world.begin(V4)
    world.wait(30)
    assert len(world.now) == 1000 and world.now[0] == "10.0.0.0:80", "always the same ones"
    assert sum("has 3000 records; 1000 are used" in line for line in world.lines()) == 1


def test_too_many_targets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_module, "MOST_ENDPOINTS", 50)
    world.say("_s._tcp.dev", srv=services(*((1, 1, 80, f"t{n:03}.dev") for n in range(300))))
    for n in range(300):
        world.say(f"t{n:03}.dev.", found(*(f"10.{n // 250}.{n % 250}.{k}" for k in range(1, 4))))
    world.begin(service(dns("_s._tcp.dev", None, type="SRV")))
    world.wait(5)
    assert len(world.now) == 50
    assert len({name for _, name, rdtype, _ in world.resolver.asked if rdtype == "A"}) == 200, "of 300 records"


def test_dead_names_take_no_more_than_their_places(world: World) -> None:
    names = [f"n{n}.dev" for n in range(40)]
    for name in names:
        world.resolver.late[name, "A"] = 5.0
    world.begin(service(*(dns(name) for name in names), family="v4"))
    world.wait(1)
    assert len(world.asked("A")) == discovery_module.AT_ONCE
    world.wait(30)
    assert {name for _, name, _, _ in world.resolver.asked} == set(names), "all have their turn"
