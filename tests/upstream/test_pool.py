"""The idle channels of an endpoint: newest first, bounded, emptied when the endpoint goes."""
from __future__ import annotations

import asyncio
import random

from edgeproxy.config import model
from edgeproxy.upstream.service import Service
from fakes import OK_EMPTY, Asker, World, accepted, back
from net.rig import Endpoint, Run, both_loops, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def fill(world: World, count: int) -> list[int]:
    """`count` exchanges at once, ended in order; the numbers of the connections that are idle then, oldest first."""
    endpoint = world.places[0]
    assert isinstance(endpoint, Endpoint)
    askers = [Asker(world) for _ in range(count)]
    for asker in askers:
        asker.ask(GET)
    talks = [await accepted(endpoint) for _ in range(count)]
    for talk in talks:
        await talk.request()
        ended = len(world.logged)
        await talk.send(OK_EMPTY)
        await world.ends(ended + 1)
    return list(range(count))


@both_loops
def test_the_newest_idle_channel_is_used_first(run: Run) -> None:
    async def main() -> None:
        async with World((Endpoint(),)) as world:
            await fill(world, 3)
            endpoint = world.places[0]
            assert isinstance(endpoint, Endpoint)
            Asker(world).ask(GET)
            await endpoint.accepted[2].serve()  # type: ignore[attr-defined]
            assert (await world.ends(4)).reused

    run(main)


@both_loops
def test_no_more_than_the_limit_are_kept(run: Run) -> None:
    async def main() -> None:
        place = Endpoint()
        async with World((place,), service=back(place, pool=model.PoolLimits(2))) as world:
            await fill(world, 4)
            assert len(world.members[0].pool.idle) == 2
            for talk in place.accepted[2:]:
                assert await talk.ended() == b""

    run(main)


@both_loops
def test_a_lower_limit_closes_the_oldest(run: Run) -> None:
    async def main() -> None:
        place = Endpoint()
        async with World((place,)) as world:
            await fill(world, 4)
            world.service.apply(back(place, pool=model.PoolLimits(1)))
            for talk in place.accepted[:3]:
                assert await talk.ended() == b""
            Asker(world).ask(GET)
            await place.accepted[3].serve()  # type: ignore[attr-defined]
            await world.ends(5)

    run(main)


@both_loops
def test_the_pool_of_an_endpoint_that_leaves_is_emptied_and_stays_empty(run: Run) -> None:
    async def main() -> None:
        place, other = Endpoint(), Endpoint()
        async with World((place, other), service=back(place)) as world:
            await fill(world, 2)
            Asker(world).ask(GET)
            await place.accepted[1].request()  # type: ignore[attr-defined]
            member = world.members[0]
            world.service.apply(back(other))
            assert await place.accepted[0].ended() == b""
            await place.accepted[1].send(OK_EMPTY)
            await world.ends(3)
            assert await place.accepted[1].ended() == b"", "what was under way finished, and is not kept"
            await until(lambda: member.active == 0)

    run(main)


@both_loops
def test_every_idle_channel_closes_with_the_service(run: Run) -> None:
    async def main() -> None:
        place = Endpoint()
        async with World((place,)) as world:
            await fill(world, 2)
            world.service.retire()
            for talk in place.accepted:
                assert await talk.ended() == b""

    run(main)


def test_a_new_service_dials_nothing() -> None:
    async def main() -> None:
        place = Endpoint()
        service = Service(asyncio.get_running_loop(), back(place), random.Random(1))
        assert service.view.members[0].pool.idle == []
        place.close()

    asyncio.run(main())
