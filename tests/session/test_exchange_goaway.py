"""An endpoint that ends its HTTP/2 connection politely, with many requests on it: a restart, or nginx's keepalive_requests."""
from __future__ import annotations

import asyncio

from fakes import Asker
from net.rig import Endpoint, Run, both_loops
from upstream.h2place import H2Talk, H2World, engine, goaway, h2_accepted

__all__ = ["engine"]
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def serve(talk: H2Talk) -> None:
    for answered in range(19):
        await talk.until(lambda so_far=answered: len(talk.asked) > so_far)  # type: ignore[misc]
        await talk.answer(talk.asked[answered].stream)


@both_loops
def test_what_it_did_not_take_goes_on_beside_the_retry_budget(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as world:
            askers = [Asker(world) for _ in range(20)]
            for asker in askers:
                asker.ask(GET)
            first = await h2_accepted(world.places[0])
            await first.until(lambda: len(first.asked) == 20)
            await first.answer(1)
            await first.raw(goaway(1))
            serving = asyncio.ensure_future(serve(await h2_accepted(world.places[0])))
            await world.ends(20)
            serving.cancel()
            assert [exchange.status for exchange in world.logged] == [200] * 20
            assert sum(bool(exchange.attempts) for exchange in world.logged) == 19

    run(main)
