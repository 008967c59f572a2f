"""An HTTP/2 session knows of each answer that its client has not taken yet, whatever else happens in the same turn."""
from __future__ import annotations

import asyncio

import pytest

from fakes import accepted, ok
from net.rig import Endpoint, Run, both_loops
from session.h2talk import NO_ERROR, WINDOW_UPDATE, H2Web, engine, frame, number

__all__ = ["engine"]
pytestmark = pytest.mark.usefixtures("engine")


@both_loops
def test_an_answer_begins_to_wait_as_another_one_has_gone(run: Run) -> None:
    """Both in one turn: the number of answers that wait is the same before and after."""
    async def main() -> None:
        endpoint = Endpoint()
        async with H2Web(endpoint) as web:
            client = await web.opened_talk(window=10_000)
            await client.grant(0, 1 << 20)
            first = await client.ask("/1")
            back = await accepted(endpoint)
            await back.serve(ok(b"1" * 12_000))
            await client.begun(first)
            await client.pong()
            second = await client.ask("/2")
            await back.request()
            client.sock.send(frame(WINDOW_UPDATE, 0, first, number(10_000)))
            back.sock.send(ok(b"2" * 12_000))
            assert len((await client.answer(first)).body) == 12_000
            await web.ends(2)
            await client.pong()
            web.session.leave()
            assert await client.goaway() == (second, NO_ERROR)
            for _ in range(3):
                await asyncio.sleep(0)
            await client.grant(second, 10_000)
            assert len((await client.answer(second)).body) == 12_000
            await client.over()

    run(main)
