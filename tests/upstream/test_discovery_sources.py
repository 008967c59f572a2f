"""Sources that share a name, targets that come and go, and the pace of what is absent. Invented time, as in
test_discovery.py."""
from __future__ import annotations

from itertools import pairwise

from edgeproxy.config import model
from upstream.test_discovery import World, absent, dns, failed, found, service, services, srv, world

__all__ = ["world"]  # the fixture


def test_a_target_that_is_named_no_more_hides_no_fault_of_others(world: World) -> None:
    """Of targets that fail one is told: that one must not have gone."""
    world.say("_http._tcp.dev", srv=services((0, 1, 80, "a.dev"), (0, 1, 80, "b.dev")))
    world.say("a.dev.", failed())
    world.say("b.dev.", found("10.0.0.2"))
    world.begin(srv(family="v4"))
    world.wait(5)
    assert "a.dev. cannot be resolved: timeout of 10.0.0.53; it is tried again" in world.lines()
    world.say("_http._tcp.dev", srv=services((0, 1, 80, "b.dev")))
    world.wait(11)
    world.lines()
    world.say("b.dev.", failed("SERVFAIL from 10.0.0.53"))
    world.wait(11)
    [line] = world.lines()
    assert line.startswith("b.dev. is stale: SERVFAIL from 10.0.0.53; kept, ")


def test_two_sources_that_share_name_and_port_but_not_the_weight_are_told_once(world: World) -> None:
    world.say("web.dev", found("10.0.0.1", ttl=1.0))
    world.begin(service(external_name=model.ExternalName("web.dev", 80), family="v4",
                        endpoints=(model.EndpointAddress("web.dev", 80, weight=3),)))
    world.wait(1)
    assert world.lines() == ["web.dev is 10.0.0.1:80 (weight 3)", "web.dev is 10.0.0.1:80"]
    world.wait(30)
    assert len(world.asked("A")) > 30 and world.lines() == [] and len(world.sets) == 1
    assert [each.weight for each in world.targets] == [3], "the first one's"
    world.say("web.dev", found("10.0.0.2", ttl=1.0))
    world.wait(5)
    assert world.lines() == [f"web.dev is 10.0.0.2:80{weight}, was 10.0.0.1:80{weight} (1 new, 1 gone)"
                             for weight in (" (weight 3)", "")]


def test_keep_of_one_source_holds_for_the_name_that_another_shares(world: World) -> None:
    for sources in ((dns(on_empty="keep"), dns(port=81)), (dns(), dns(port=81, on_empty="keep"))):
        world.say("web.dev", found("10.0.0.1"))
        discovery = world.begin(service(*sources, family="v4"))
        world.wait(1)
        world.say("web.dev", absent())
        world.wait(30)
        assert world.now == ["10.0.0.1:80", "10.0.0.1:81"] and world.view("web.dev", "A").stale
        discovery.close()


def test_a_family_that_the_name_does_not_have_is_asked_for_after_its_negative_ttl(world: World) -> None:
    world.say("web.dev", found("10.0.0.1", ttl=2.0), absent("no address", ttl=30.0))
    world.begin(service(dns()))
    world.wait(100)
    assert world.asked("AAAA") == [0.0, 1.0, 31.0, 61.0, 91.0] and len(world.asked("A")) > 45


def test_a_negative_ttl_is_bounded_as_any_other(world: World) -> None:
    world.say("web.dev", found("10.0.0.1"), absent("no address", ttl=86400.0))
    world.begin(service(dns()))
    world.wait(130)
    assert world.asked("AAAA") == [0.0, 1.0, 61.0, 121.0]


def test_a_name_that_has_nothing_at_all_is_asked_for_soon_again(world: World) -> None:
    world.say("web.dev", absent(ttl=3600.0), absent(ttl=3600.0))
    world.begin(service(dns()))
    world.wait(60)
    for rdtype in ("A", "AAAA"):
        asked = world.asked(rdtype)
        assert len(asked) >= 12 and max(after - before for before, after in pairwise(asked)) <= 5.0
    world.say("web.dev", found("10.0.0.1"))
    world.wait(5.1)
    assert world.now == ["10.0.0.1:80"]
