"""A request that waits for 100 (Continue) waits for the endpoint: it has the time that any answer has, whatever its
client does, and no client can make an endpoint look broken with it."""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from edgeproxy.config import model
from edgeproxy.errors import OK, Phase
from fakes import Asker, World, accepted, back, to_back
from net.rig import Endpoint, Run, both_loops
from session.h2talk import H2Web, engine
from upstream.h2place import H2World, h2_accepted

__all__ = ["engine"]
ASKS = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
EJECT = model.Eject(1)
TIMES = model.RouteTimeouts(response=0.1)


def http1() -> World:
    places = Endpoint(), Endpoint()
    return World(places, (to_back(timeouts=TIMES),), back(*places, eject=EJECT))


def http2() -> World:
    return H2World(Endpoint(), Endpoint(), service={"eject": EJECT}, timeouts=TIMES)


both_versions = pytest.mark.parametrize("world", [http1, http2])


async def later() -> None:
    """Three times what the endpoint has for its answer."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.3)


async def _asked(w: World) -> Any:
    """The endpoint's side, once the head of the only request is there."""
    place = next(place for place, member in zip(w.places, w.members, strict=True) if member.active)
    assert isinstance(place, Endpoint)
    if isinstance(w, H2World):
        talk = await h2_accepted(place)
        await talk.request(whole=False)
        return talk
    back = await accepted(place)
    await back.head()
    return back


@both_loops
@both_versions
def test_an_endpoint_that_neither_continues_nor_answers(run: Run, world: Callable[[], World]) -> None:
    async def main() -> None:
        async with world() as w:
            asker = Asker(w)
            exchange = asker.ask(ASKS)
            await _asked(w)
            await w.ends()
            assert exchange.outcome == ("response_timeout", Phase.SEND)
            assert asker.told[-2:] == ["reply 504", "finished"]
            assert all(member.ready for member in w.members), "any client could eject any endpoint so"

    run(main)


@both_loops
@both_versions
def test_after_100_it_is_the_clients_turn(run: Run, world: Callable[[], World]) -> None:
    async def main() -> None:
        async with world() as w:
            asker = Asker(w)
            exchange = asker.ask(ASKS)
            talk = await _asked(w)
            if isinstance(w, H2World):
                await talk.interim(1, 100)
            else:
                await talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await asker.hears("interim 100")
            await later()
            assert not w.logged
            asker.more(b"abc")
            if isinstance(w, H2World):
                await talk.serve(0, b"ok")
            else:
                await talk.receive(3)
                await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await w.ends()
            assert exchange.outcome == OK and asker.body == b"ok"

    run(main)


@both_loops
@both_versions
@pytest.mark.parametrize("end", [True, False])
def test_a_client_that_does_not_wait(run: Run, world: Callable[[], World], end: bool) -> None:
    """Once it has begun with its body, all is as if it had not asked."""
    async def main() -> None:
        async with world() as w:
            asker = Asker(w)
            exchange = asker.ask(ASKS)
            await _asked(w)
            asker.more(b"ab")
            await later()
            assert not w.logged
            if end:
                asker.more(b"c")
            else:
                exchange.client_gone()
            await w.ends()
            assert exchange.outcome == (("response_timeout", Phase.WAIT) if end else ("client_gone", Phase.SEND))
            assert all(member.ready for member in w.members) is not end, "this time the endpoint had it all"

    run(main)


@both_loops
def test_an_answer_instead_of_100_may_take_its_time(run: Run) -> None:
    async def main() -> None:
        async with http1() as w:
            asker = Asker(w)
            exchange = asker.ask(ASKS)
            talk = await _asked(w)
            await talk.send(b"HTTP/1.1 417 No\r\nContent-Length: 6\r\n\r\n")
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.05)
                await talk.send(b"x")
            await talk.send(b"x")
            await w.ends()
            assert exchange.outcome == OK and asker.body == b"x" * 6

    run(main)


@pytest.mark.usefixtures("engine")
@both_loops
def test_the_wait_for_100_does_not_excuse_a_body_that_has_begun(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            stream = await client.ask("/", "POST", [("expect", "100-continue"), ("content-length", "3")], ended=False)
            place = web.places[0]
            assert isinstance(place, Endpoint)
            await (await accepted(place)).head()
            await client.data(stream, b"a")
            await client.pong()
            start = web.loop.time()
            for after in (5, 36, 67):
                web.session.look(start + after)
            assert (await client.answer(stream)).status == 408

    run(main)
